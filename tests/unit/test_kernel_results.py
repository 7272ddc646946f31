# SPDX-License-Identifier: Apache-2.0
"""The Python kernel driver: values and errors that cells end with."""

import os
import sys

import pytest

from kernel_peer import BOOL, ERROR, FLOAT, INT, NONE, NULL, OK, STR, TEXT
from python_kernel import HAS_IPYTHON, Kernel, kernel, needs_packages, zygote  # noqa: F401

# Typing of values


@pytest.mark.parametrize(
    "code, kind, value",
    [
        ("1+1", INT, "2"),
        ("-7", INT, "-7"),
        ("2**63-1", INT, "9223372036854775807"),
        ("-2**63", INT, "-9223372036854775808"),
        ("2**63", TEXT, "9223372036854775808"),
        ("-2**63-1", TEXT, "-9223372036854775809"),
        ("0.1", FLOAT, "0.1"),
        ("1e300*10", FLOAT, "1e+301"),
        ("-0.0", FLOAT, "-0.0"),
        ("float('nan')", STR, "nan"),
        ("float('inf')", STR, "inf"),
        ("-float('inf')", STR, "-inf"),
        ("True", BOOL, "1"),
        ("1 > 2", BOOL, "0"),
        ("'a\\nb'", STR, "a\nb"),
        ("'äöü€😀'", STR, "äöü€😀"),
        ("'\\ud800'", STR, "\\ud800"),
        ("''", STR, ""),
        ("a=None;a", NULL, ""),
        ("None", NULL, ""),
        ("import sys; sys.ps0 = None; sys.ps0", NULL, ""),
        ("print('x')", NONE, ""),
        ("x = 5", NONE, ""),
        ("", NONE, ""),
        ("# nothing", NONE, ""),
        ("5;", NONE, ""),
        ("5; # silent", NONE, ""),
        ("5 # not; silent", INT, "5"),
        ("'a;'", STR, "a;"),
        ("(1,\n 2);", NONE, ""),
        ("'ä;ö'; 'ü' ;", NONE, ""),
        ("[1, 2, 3]", TEXT, "[1, 2, 3]"),
        ("{'sin_pi': 1.2e-16, 'n': 9.6}", TEXT, "{'sin_pi': 1.2e-16, 'n': 9.6}"),
        ("(1,)", TEXT, "(1,)"),
        ("b'x'", TEXT, "b'x'"),
        ("1j", TEXT, "1j"),
        ("class A(int): pass\nA(3)", INT, "3"),
        ("class S(str): pass\nS('q')", STR, "q"),
        ("import enum\nclass E(enum.IntEnum):\n  X = 1\nE.X", TEXT, "<E.X: 1>"),
        ("from decimal import Decimal; Decimal('1.5')", TEXT, "Decimal('1.5')"),
        ("import asyncio; await asyncio.sleep(0)", NONE, ""),
        ("import asyncio; await asyncio.sleep(0, 7)", INT, "7"),
        ("if True:\n    5", NONE, ""),
    ],
)
def test_typing(kernel, code, kind, value):
    assert kernel.value(code) == (kind, value)


def test_long_lists_come_one_per_line(kernel):
    got = kernel.value("['package-number-%d' % i for i in range(20)]")[1]
    assert got.startswith("['package-number-0',\n 'package-number-1',\n ")


def test_underscore(kernel):
    kernel.run("40")
    kernel.run("_ + 2")
    assert kernel.value("_, __") == (TEXT, "(42, 40)")
    kernel.run("5;")
    kernel.run("_ = 'mine'")
    kernel.run("1")
    assert kernel.value("_") == (STR, "mine")


@needs_packages
@pytest.mark.parametrize(
    "code, kind, value",
    [
        ("np.int64(5)", INT, "5"),
        ("np.uint64(2**64-1)", TEXT, "18446744073709551615"),
        ("np.float64(1.5)", FLOAT, "1.5"),
        ("np.float32(0.5)", FLOAT, "0.5"),
        ("np.nan", STR, "nan"),
        ("np.float32('inf')", STR, "inf"),
        ("np.bool_(True)", BOOL, "1"),
        ("np.str_('s')", STR, "s"),
        ("np.arange(3)", TEXT, "array([0, 1, 2])"),
        ("np.timedelta64(5, 's')", TEXT, "numpy.timedelta64(5,'s')"),
        ("pd.DataFrame({'a': [1, 2]})", TEXT, "   a\n0  1\n1  2"),
        ("pd.DataFrame({'a': [1, 2]})['a'].sum()", INT, "3"),
        ("pd.NA", TEXT, "<NA>"),
    ],
)
def test_typing_of_packages(kernel, code, kind, value):
    assert kernel.value("import numpy as np, pandas as pd\n" + code) == (kind, value)


def test_huge_values_are_bounded(kernel):
    kind, text = kernel.value("{i: 'x' * 100000 for i in range(100)}")
    assert kind == TEXT and len(text) <= 1 << 20 and text.endswith("[... cut at 1 MiB ...]")
    assert kernel.value("class A:\n  def __repr__(self): return 'ä' * 10**7\nA()")[1].endswith("MiB ...]")
    assert kernel.value("'y' * 5_000_000") == (STR, "y" * 5_000_000)
    kind, text = kernel.value("'y' * 20_000_000")
    assert kind == TEXT and len(text) <= 1 << 20
    assert kernel.value("list(range(5000))")[1].endswith("...]" if HAS_IPYTHON else "4999]")


def test_failing_repr_is_the_cells_error(kernel):
    got = kernel.run("class A:\n  def __repr__(self): return 1/0\nA()")
    assert (got.status, got.name) == (ERROR, "ZeroDivisionError")
    assert kernel.run("10 ** 5000").name == "ValueError"
    assert kernel.value("1") == (INT, "1")


# Errors


def test_traceback(kernel):
    got = kernel.run("def f(x):\n    return 1 / x\n\nf(0)")
    assert (got.status, got.name, got.text) == (ERROR, "ZeroDivisionError", "division by zero")
    assert got.traceback == (
        "Traceback (most recent call last):\n"
        '  File "<cell 1>", line 4, in <module>\n    f(0)\n'
        '  File "<cell 1>", line 2, in f\n    return 1 / x\n           ~~^~~\n'
        "ZeroDivisionError: division by zero\n"
    )
    assert "\x1b" not in got.traceback


def test_functions_of_earlier_cells_show_their_source(kernel):
    kernel.run("def g():\n    raise KeyError('k')  # here")
    got = kernel.run("g()")
    assert "    raise KeyError('k')  # here\n" in got.traceback and '"<cell 1>", line 2' in got.traceback
    assert kernel.value("import inspect; inspect.getsource(g)")[1].endswith("# here")


def test_syntax_errors(kernel):
    got = kernel.run("x = 1\nif x\n    pass")
    assert (got.status, got.name) == (ERROR, "SyntaxError")
    assert '  File "<cell 1>", line 2\n    if x\n        ^\nSyntaxError: expected' in got.traceback
    assert "Traceback" not in got.traceback and "bivouac" not in got.traceback
    assert kernel.run("return 5").name == "SyntaxError"
    assert kernel.run("  x = 1\n y = 2").name == "IndentationError"
    assert kernel.run("x = 'a\0b'").status == ERROR
    assert kernel.run("(" * 5000).status == ERROR
    assert kernel.run(b"x = '\xff\xfe'").status in (OK, ERROR)
    assert kernel.run("x = '\ud800'").status in (OK, ERROR)
    assert kernel.run("-" * 200000 + "1").status == ERROR
    assert kernel.value("1") == (INT, "1")


def test_chained_exceptions(kernel):
    got = kernel.run("try:\n    1/0\nexcept Exception as e:\n    raise ValueError('v') from e")
    assert got.name == "ValueError" and "direct cause" in got.traceback and "ZeroDivisionError" in got.traceback
    got = kernel.run("try:\n    1/0\nexcept Exception as e:\n    {}['k']")
    assert "During handling" in got.traceback and "bivouac" not in got.traceback
    got = kernel.run("raise ExceptionGroup('g', [ValueError(1), KeyError(2)])")
    assert got.name == "ExceptionGroup" and "KeyError: 2" in got.traceback
    got = kernel.run("e = None\nfor i in range(5000):\n    n = ValueError(i); n.__context__ = e; e = n\nraise e")
    assert got.text == "4999" and "earlier exceptions" in got.traceback
    got = kernel.run("e = ValueError(1); f = ValueError(2); e.__context__ = f; f.__context__ = e\nraise e")
    assert got.name == "ValueError"


def test_errors_are_bounded(kernel):
    got = kernel.run("raise ValueError('m' * 10_000_000)")
    assert len(got.text) <= 4096 and "left out" in got.text and len(got.traceback) <= 16384
    got = kernel.run("def f(): f()\nf()")
    assert got.name == "RecursionError" and len(got.traceback) <= 16384
    assert "repeated" in got.traceback
    got = kernel.run("def a(n): b(n)\ndef b(n): a(n)\na(1)")
    assert got.name == "RecursionError" and len(got.traceback.encode()) <= 16384
    assert got.traceback.startswith(("Traceback", "[")) and got.traceback.endswith("exceeded\n")


def test_hostile_exceptions(kernel):
    got = kernel.run("class E(Exception):\n  def __str__(self): raise RuntimeError\nraise E")
    assert (got.name, got.text) == ("E", "<exception str() failed>")
    got = kernel.run("class E(Exception):\n  def __str__(self): return 5\nraise E")
    assert got.name == "E"
    got = kernel.run("class E(Exception):\n  def __str__(self): raise KeyboardInterrupt\nraise E")
    assert (got.status, got.name) == (ERROR, "E")
    got = kernel.run("class E(BaseException): pass\nraise E('x')")
    assert (got.status, got.name, got.text) == (ERROR, "E", "x")
    got = kernel.run("import sys; sys.setrecursionlimit(60); raise ValueError(1)")
    assert got.name == "ValueError"
    kernel.run("sys.setrecursionlimit(1000)")
    assert kernel.run("raise 5").name == "TypeError"
    assert kernel.run("raise GeneratorExit").name == "GeneratorExit"


def test_system_exit_ends_the_cell_only(kernel):
    for code, text in (("exit()", "None"), ("quit()", "None"), ("import sys; sys.exit(3)", "3")):
        got = kernel.run("x = 1\n" + code + "\nx = 2")
        assert (got.status, got.name) == (ERROR, "SystemExit")
        assert got.text in (text, "") and "SystemExit" in got.traceback
        assert kernel.value("x") == (INT, "1")


def test_os_exit_ends_the_process(zygote):
    one = Kernel(zygote)
    one.start("import os; os._exit(7)")
    assert one.read() is None
    assert os.waitstatus_to_exitcode(one.wait()) == 7
    one.close()


def test_memory_error(kernel):
    got = kernel.run("import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))")
    got = kernel.run("x = bytearray(1 << 34)")
    assert (got.status, got.name) == (ERROR, "MemoryError")
    got = kernel.run("x = []\nwhile True: x.append('y' * 1000000 + str(len(x)))")
    assert (got.status, got.name) == (ERROR, "MemoryError")
    kernel.run("del x")
    assert kernel.value("1+1") == (INT, "2")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, *sys.argv[1:]]))
