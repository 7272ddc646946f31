# SPDX-License-Identifier: Apache-2.0
"""The Python kernel driver, spoken to over its protocol (src/base/kernel_proto.h) without any C.

    /usr/bin/python3 -m pytest tests/unit/test_kernel_*.py
    BIVOUAC_TEST_ROOTFS=/path/to/image/rootfs /usr/bin/python3 -m pytest ...   # root; with packages

Here: lives, output, interrupts and processes of kernels; test_kernel_results.py and
test_kernel_images.py have what cells come to.
"""

import os
import random
import select
import signal
import socket
import sys
import time

import pytest

from kernel_peer import (
    BOOL,
    ERROR,
    INT,
    INTERRUPTED,
    NONE,
    NULL,
    OK,
    STR,
    TEXT,
    check_pieces_and_bulk,
    check_streams_after,
    garbage,
    run_frame,
)
from python_kernel import HAS_IPYTHON, ROOTFS, Kernel, LaunchedKernel, interrupt_soon, kernel, zygote  # noqa: F401

# The life of a kernel


def test_prepare_reports_only_missing_packages(zygote):
    if ROOTFS:
        assert zygote.banner == "ready "
    else:
        assert all("ModuleNotFoundError" in part for part in zygote.banner[6:].split("; "))


def test_end_of_file_ends_the_kernel(zygote):
    assert Kernel(zygote).close() == 0
    assert Kernel(zygote, init=False).close() == 0


def test_surroundings(kernel):
    got = kernel.run(
        "import os, sys\n"
        "print(os.environ['HOME'], os.environ['USER'], os.environ['LANG'])\n"
        "print(repr(sys.path[0]), sys.argv, __name__, sys.stdin.read() == '')\n"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd') if int(fd) < 200))\n"
        "print('PYTHONHASHSEED' in os.environ, os.getsid(0) == os.getpid())\n"
        "print(sys.executable)"
    )
    lines = got.out.splitlines()
    assert lines[0] == "/home/session session C.UTF-8"
    assert lines[1] == "'' [''] __main__ True"
    assert lines[2] in ("[0, 1, 2]", "[0, 1, 2, 3]")  # 3: the listing itself
    assert lines[3] == "False True"
    assert lines[4] == "/usr/bin/python3"
    if ROOTFS:
        assert kernel.value("import os; os.getcwd(), os.getuid()") == (TEXT, "('/mnt/data', 1000)")
        assert kernel.value("os.listdir('/mnt/data') + os.listdir('/tmp') + os.listdir('/home/session')") == (
            TEXT,
            "[]",
        )


def test_descriptors_are_not_inherited_by_programs(kernel):
    got = kernel.run("import subprocess; print(subprocess.run(['ls', '/proc/self/fd'], capture_output=True).stdout)")
    assert got.out == "b'0\\n1\\n2\\n3\\n'\n"
    got = kernel.run("import os; os.system('ls /proc/self/fd | tail -n 1'); None")
    assert int(got.out) < 100


def test_warm_up_leaves_nothing(kernel):
    got = kernel.run("sorted(name for name in globals() if not name.startswith('_'))")
    expected = "['In', 'Out', 'get_ipython']" if HAS_IPYTHON else "[]"
    assert (got.kind, got.value, got.out, got.err) == (TEXT, expected, "", "")
    assert kernel.value("2") == (INT, "2")
    assert kernel.value("_") == (INT, "2")


def test_cell_zero_is_the_drivers_own(kernel):
    kernel.sock.sendall(run_frame(0, b""))
    got = kernel.finish()
    assert (got.status, got.kind, got.value, got.out, got.err) == (OK, NULL, "", "", "")
    assert kernel.run("").kind == NONE


@pytest.fixture
def launched(tmp_path):
    one = LaunchedKernel(tmp_path, {"PATH": "/usr/bin:/bin", "MINE": "yes", "HOME": str(tmp_path)})
    yield one
    assert one.close() == 0  # the end of the socket is the kernel's


def test_launched(launched):
    assert launched.run("x = 20").kind == NONE
    assert launched.value("x + 1") == (INT, "21")
    got = launched.run("import sys; print('out'); print('err', file=sys.stderr)")
    assert (got.out, got.err) == ("out\n", "err\n")
    got = launched.run("1/0")
    assert got.status == ERROR
    # The launcher's environment, its directory unless there is a session's, no descriptor but three.
    assert launched.value("import os; os.environ['MINE']") == (STR, "yes")
    assert launched.value("'PIP_BREAK_SYSTEM_PACKAGES' in os.environ") == (BOOL, "0")
    got = launched.run("os.system('ls /proc/self/fd'); None")
    assert got.out.split() == ["0", "1", "2", "3"]
    assert launched.value("__name__, sys.argv") == (TEXT, "('__main__', [''])")
    assert launched.run("import recipe").status == ERROR
    got = launched.run("from multiprocessing import Pool\nwith Pool(2) as p: print(p.map(abs, [-1, -2]))")
    assert got.out == "[1, 2]\n"
    assert launched.run("import threading, gc; gc.collect(); threading.active_count()").value == "1"


def test_launched_is_interrupted(launched):
    launched.start("import time\nprint('in', flush=True)\nwhile True: time.sleep(0.01)")
    launched.wait_for("in")
    os.kill(launched.pid, signal.SIGINT)
    assert launched.finish().status == INTERRUPTED
    os.kill(launched.pid, signal.SIGINT)  # between cells: nothing
    assert launched.value("6 * 7") == (INT, "42")


def test_watched_output_leaves_as_it_is_written(kernel):
    write = (
        "import sys, time\nprint('no line', end='')\nsys.stderr.write('nor here')\n"
        "sys.stdout.buffer.write(b' raw')\n"
    )
    for _ in range(2):
        kernel.streams = dict.fromkeys(kernel.streams, b"")
        kernel.start(write + "time.sleep(60)", flags=1)
        while (kernel.streams[kernel.out], kernel.streams[kernel.err]) != (b"no line raw", b"nor here"):
            assert select.select(list(kernel.streams), [], [], 20)[0], kernel.streams
            kernel.drain()
        os.kill(kernel.pid, signal.SIGINT)
        assert kernel.finish().status == INTERRUPTED
        # Unwatched: one write a line, and what is left at the end.
        got = kernel.run("import os; sys.stdout.write('a'); os.write(1, b'b'); None")
        assert got.out == "ba"
    # A stream that the cell replaced or closed.
    kernel.start("sys.stdout.close()", flags=1)
    kernel.finish()
    assert kernel.run("print('again')").out == "again\n"
    kernel.start("sys.stdout = __import__('io').StringIO(); print('lost')", flags=1)
    assert kernel.finish().out == ""
    assert kernel.run("print('here')").out == "here\n"


def test_state_persists_between_cells(kernel):
    assert kernel.run("x = 20\ndef f(): return x + 1").kind == NONE
    assert kernel.value("f()") == (INT, "21")
    kernel.run("import os; os.chdir('/')")
    assert kernel.value("os.getcwd()") == (STR, "/")


# SECURITY: two kernels of one zygote must not share random numbers.
RANDOM_STATE = """
import random, uuid, tempfile, secrets, multiprocessing
s = [random.random(), uuid.uuid4().hex, uuid.uuid1().hex, next(tempfile._get_candidate_names())]
s += [secrets.token_hex(), multiprocessing.current_process().authkey.hex()]
try:
    import numpy
    s += [numpy.random.random(), numpy.random.default_rng().random()]
except ImportError:
    pass
repr(s)
"""


def test_random_states_differ(zygote):
    seen = []
    for _ in range(3):
        one = Kernel(zygote)
        seen.append(eval(one.value(RANDOM_STATE)[1]))
        one.close()
    for column in zip(*seen):
        assert len(set(column)) == 3, column


def test_entropy_decides_seeded_generators(zygote):
    values = []
    for entropy in (b"a" * 32, b"a" * 32, b"b" * 32):
        one = Kernel(zygote, entropy)
        values.append(one.value("import random; random.random()"))
        one.close()
    assert values[0] == values[1] != values[2]


# Output


def test_output_is_ordered_and_complete(kernel):
    got = kernel.run("import sys\nprint('a', end='')\nprint('b', file=sys.stderr)\nsys.stdout.write('c')\n7")
    assert (got.out, got.err, got.kind) == ("ac", "b\n", INT)
    got = kernel.run("for i in range(100000): print(i)", timeout=60)
    assert got.out.count("\n") == 100000
    assert kernel.run("print('\\ud800ö')").out == "\\ud800ö\n"


def test_broken_streams_are_restored(kernel):
    breakages = (
        "import sys; sys.stdout.close()",
        "import sys; sys.stdout = None; sys.stderr = 5",
        "import io, sys; sys.stdout = io.StringIO(); print('lost')",
        "import sys; sys.stdout.detach()",
        "import os; os.close(1); os.close(2)",
        "import os; os.dup2(os.open('/dev/null', 2), 1)",
        "import os; os.closerange(0, 100)",
        "class W:\n  def write(self, s): raise ValueError\n  def flush(self): 1/0\nsys.stdout = W()",
    )
    check_streams_after(kernel, breakages, "import sys; print('alive'); print('err', file=sys.stderr)")


def test_no_standard_input(kernel):
    got = kernel.run("input('name? ')")
    assert (got.status, got.name) == (ERROR, "StdinNotImplementedError")
    assert "not available" in got.text
    assert kernel.run("import getpass; getpass.getpass()").status == ERROR


# Interrupts


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import asyncio; await asyncio.sleep(60)",
        "import asyncio\ntry:\n    await asyncio.sleep(60)\nfinally:\n    print('clean')",
        "import threading; threading.Lock().acquire() and threading.Event().wait()",
        "import subprocess; subprocess.run(['sleep', '60'])",
        "class A:\n  def __repr__(self):\n    while True: pass\nA()",
    ],
)
def test_interrupt(kernel, code):
    kernel.run("import time, asyncio, threading, subprocess")
    kernel.start(code)
    interrupt_soon(kernel)
    got = kernel.finish(10)
    assert (got.status, got.name) == (INTERRUPTED, "KeyboardInterrupt")
    assert "KeyboardInterrupt" in got.traceback
    assert ("clean" in code) == (got.out == "clean\n")
    assert kernel.value("1+1") == (INT, "2")


def test_interrupt_while_describing(kernel):
    kernel.start("class E(Exception):\n  def __str__(self):\n    while True: pass\nraise E")
    interrupt_soon(kernel, 0.3)
    got = None
    for _ in range(5):
        try:
            got = kernel.finish(1)
            break
        except TimeoutError:
            os.kill(kernel.pid, signal.SIGINT)
    assert got.status == ERROR and got.name == "E"
    assert kernel.value("1") == (INT, "1")


def test_interrupt_can_be_caught(kernel):
    kernel.start("import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('caught')\n5")
    interrupt_soon(kernel)
    got = kernel.finish(10)
    assert (got.status, got.value, got.out) == (OK, "5", "caught\n")


def test_interrupt_between_cells_is_ignored(kernel):
    for _ in range(20):
        os.kill(kernel.pid, signal.SIGINT)
        assert kernel.value("1+1") == (INT, "2")


def test_interrupt_handling_is_taken_back(kernel):
    for code in (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)",
        "import signal; signal.signal(signal.SIGINT, lambda *a: print('mine'))",
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])",
    ):
        assert kernel.run(code).status == OK
        os.kill(kernel.pid, signal.SIGINT)
        kernel.run("pass")
        kernel.start("while True: pass")
        interrupt_soon(kernel)
        assert kernel.finish(10).status == INTERRUPTED


def test_interrupt_storm_loses_no_answer(kernel):
    rng = random.Random(1)
    cells = ("x = 1", "1+1", "print('a')", "raise ValueError('x')", "for i in range(3000): pass", "'s' * 9")
    for i in range(400):
        kernel.start(cells[i % len(cells)])
        for _ in range(rng.randrange(4)):
            os.kill(kernel.pid, signal.SIGINT)
            time.sleep(rng.random() * 0.0002)
        assert kernel.finish(10).status in (OK, ERROR, INTERRUPTED)
    kernel.run("pass")
    assert kernel.value("1+1") == (INT, "2")


# asyncio, processes, pickling


def test_top_level_await_uses_one_loop(kernel):
    kernel.run("import asyncio\nloops = []\nasync def f():\n    loops.append(asyncio.get_running_loop())\nawait f()")
    kernel.run("t = None\nasync def g():\n    global t\n    t = asyncio.create_task(asyncio.sleep(0.01, 'late'))\nawait g()")
    assert kernel.value("await t") == (STR, "late")
    kernel.run("await f()")
    assert kernel.value("loops[0] is loops[1]") == (BOOL, "1")
    assert kernel.value("asyncio.run(asyncio.sleep(0, 3))") == (INT, "3")
    assert kernel.value("await asyncio.sleep(0, 4)") == (INT, "4")
    assert kernel.value("[x async for x in (lambda: (i for i in []))() ] if False else 9") == (INT, "9")


def test_future_imports_last(kernel):
    kernel.run("from __future__ import annotations")
    assert kernel.value("def f(x: undefined): pass\nf.__annotations__['x']") == (STR, "undefined")


def test_main_classes_pickle(kernel):
    kernel.run("import pickle\nclass P:\n    v = 4\np = P()")
    assert kernel.value("pickle.loads(pickle.dumps(p)).v") == (INT, "4")
    assert kernel.value("__main__ if False else __spec__ is None and '__file__' not in globals()") == (BOOL, "1")


def test_multiprocessing(kernel):
    kernel.run("import multiprocessing as mp, math\ndef sq(x): return x * x")
    assert kernel.value("with mp.get_context('fork').Pool(2) as p: r = p.map(sq, range(4))\nr") == (TEXT, "[0, 1, 4, 9]")
    assert kernel.value("with mp.get_context('spawn').Pool(2) as p: r = p.map(math.sqrt, [4, 9])\nr") == (TEXT, "[2.0, 3.0]")
    got = kernel.run("p = mp.get_context('fork').Process(target=print, args=('child',)); print('once', end=' ', flush=False); p.start(); p.join()")
    assert got.out == "once child\n"


def test_forked_copy_of_the_kernel_does_not_answer(kernel):
    got = kernel.run("import os, time\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('here')\npid > 0")
    assert (got.kind, got.value, got.out) == (BOOL, "1", "here\nhere\n")
    assert kernel.value("1+1") == (INT, "2")


def test_threads_may_outlive_a_cell(kernel):
    kernel.run("import threading, time\nt = threading.Thread(target=lambda: (time.sleep(0.1), print('late')))\nt.start()")
    assert kernel.run("t.join()").out == "late\n"


# What the agent must never see, and garbage


def test_garbage_ends_the_kernel(zygote):
    for data in garbage(30):
        for initialised in (True, False):
            one = Kernel(zygote, init=initialised)
            one.sock.sendall(data)
            one.sock.shutdown(socket.SHUT_WR)
            assert one.read(10) is None
            assert os.waitstatus_to_exitcode(one.wait()) == 76, data
            one.close()


def test_frames_in_pieces_and_in_bulk(kernel):
    check_pieces_and_bulk(kernel, b"len('" + b"z" * 300000 + b"')")


def test_the_driver_costs_little(kernel):
    """A generous bound for slow machines; bench/ has the real numbers."""
    for code in ("1+1", "x=1"):
        times = []
        for _ in range(500):
            begin = time.perf_counter()
            kernel.run(code)
            times.append(time.perf_counter() - begin)
        assert sorted(times)[250] < 0.002


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, *sys.argv[1:]]))
