# SPDX-License-Identifier: Apache-2.0
"""The Python kernel driver: images, displays and magics, with the packages of the image."""

import sys

import pytest

from kernel_peer import BOOL, ERROR, IMAGE, INT, INTERRUPTED, NONE, OK, PNG, STR, TEXT
from python_kernel import interrupt_soon, kernel, needs_packages, zygote  # noqa: F401

FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\n"


def is_png(value):
    return value[: 4 + len(PNG)] == b"\x03png" + PNG


@needs_packages
@pytest.mark.parametrize(
    "code",
    [
        FIGURE,
        FIGURE + "plt.show()",
        FIGURE + "plt.show()\nprint('after')",
        FIGURE + "5",
        FIGURE + "plt.gcf()",
        FIGURE + "plt.gcf();",
        FIGURE + "display(plt.gcf())",
        FIGURE + "plt.gcf().show()",
        "import matplotlib\nmatplotlib.use('Agg')\n" + FIGURE + "plt.show()",
        "%matplotlib inline\n" + FIGURE,
        "from PIL import Image\nImage.new('RGB', (4, 4))",
        "from PIL import Image\ndisplay(Image.new('RGB', (4, 4)))\n'text'",
        "import io\nfrom PIL import Image as I\nb = io.BytesIO(); I.new('RGB', (4, 4)).save(b, 'PNG')\n"
        "from IPython.display import Image\nImage(b.getvalue())",
        "import pandas as pd\npd.Series([1, 2]).plot()",
        "from matplotlib.figure import Figure\nf = Figure(); f.subplots(); f",
    ],
)
def test_images(kernel, code):
    got = kernel.run(code)
    assert got.status == OK, got.traceback
    assert got.kind == IMAGE and is_png(got.value)
    assert len(got.displays) == 1 and got.displays[0][:2] == (IMAGE, got.value)
    if "after" in code:
        assert got.out == "after\n"
    assert kernel.value("1") == (INT, "1")


@needs_packages
def test_several_figures_in_order(kernel):
    got = kernel.run("print('a')\n" + FIGURE + "plt.show()\nprint('b')\nplt.figure(figsize=(2, 2)); plt.plot([1])\nplt.figure(figsize=(3, 3)); plt.plot([1])\nNone")
    # Output written before a display is there when the display is.
    assert [out.startswith(b"a\n") for _, _, out in got.displays] == [True] * 3
    assert [out.endswith(b"b\n") for _, _, out in got.displays][1:] == [True] * 2
    assert got.value == got.displays[-1][1] and got.kind == IMAGE
    assert kernel.value("plt.get_fignums()") == (TEXT, "[]")


@needs_packages
def test_figures_of_a_failed_cell_are_shown_and_closed(kernel):
    got = kernel.run(FIGURE + "1/0")
    assert got.status == ERROR and len(got.displays) == 1
    assert kernel.value("1") == (INT, "1")
    got = kernel.run(FIGURE + "plt.title('$\\\\frac{$')")
    assert got.status == ERROR and got.name == "ValueError"
    assert kernel.value("1") == (INT, "1")
    assert kernel.run(FIGURE + "plt.savefig('/tmp/x.png'); plt.close('all')").kind == NONE


@needs_packages
def test_other_images(kernel):
    got = kernel.run("from IPython.display import SVG\nSVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')")
    assert got.kind == IMAGE and got.value.startswith(b"\x07svg+xml<svg")
    got = kernel.run("from PIL import Image\nImage.new('F', (2, 2))")
    assert got.kind == TEXT and "PIL.Image" in got.value
    got = kernel.run("from PIL import Image\nimport os\nImage.frombytes('RGB', (3000, 2500), os.urandom(22500000))")
    assert got.kind == TEXT and "too large" in got.value
    assert got.displays[0][0] == TEXT


@needs_packages
def test_display_of_text_goes_to_stdout(kernel):
    got = kernel.run("print(1)\ndisplay({'a': 1})\nimport pandas as pd\ndisplay(pd.DataFrame({'a': [1]}))\nprint(2)")
    assert got.out == "1\n{'a': 1}\n   a\n0  1\n2\n" and got.kind == NONE
    got = kernel.run("from IPython.display import HTML\ndisplay(HTML('<b>'))")
    assert got.out == "<IPython.core.display.HTML object>\n"


@needs_packages
def test_magics(kernel):
    assert kernel.run("!echo hello").out == "hello\n"
    assert kernel.run("print('first', end=' ')\n!echo second").out == "first second\n"
    assert kernel.run("!echo oops >&2").err == "oops\n"
    kernel.run("x = !echo a; echo b")
    assert kernel.value("list(x)") == (TEXT, "['a', 'b']")
    assert kernel.value("n = 5\n%time n + 1")[1] == "6"
    assert "per loop" in kernel.run("%timeit -n 1 -r 1 pass").out
    assert kernel.run("%%bash\necho in bash").out == "in bash\n"
    assert kernel.run("%%time\nfor i in range(3): pass\nprint(i)").out.startswith("2\n")
    kernel.run("%cd /tmp")
    assert kernel.value("import os; os.getcwd()") == (STR, "/tmp")
    kernel.run("cd /")
    assert kernel.value("os.getcwd()") == (STR, "/")
    assert kernel.value("pwd") == (STR, "/")
    assert kernel.value("d = %pwd\nd") == (STR, "/")
    got = kernel.run("%%writefile /tmp/m.py\nprint('module', 1 +\n 1)")
    assert got.out == "Writing /tmp/m.py\n"
    assert kernel.run("%run /tmp/m.py").out == "module 2\n"
    kernel.run("%%capture c\nprint('kept')\n!echo too")
    assert kernel.value("c.stdout") == (STR, "kept\ntoo\n")
    got = kernel.run("def f(a):\n    'Doc of f.'\nf?")
    assert "Doc of f." in got.out and "\x1b" not in got.out
    assert kernel.value(">>> 1 + 1") == (INT, "2")
    assert kernel.value("    y = 3\n    y") == (INT, "3")
    assert kernel.value("get_ipython().user_ns is globals()") == (BOOL, "1")
    assert kernel.run("%who").status == OK


@needs_packages
def test_errors_of_magics(kernel):
    got = kernel.run("%nosuchmagic")
    assert (got.status, got.name) == (ERROR, "UsageError")
    got = kernel.run("%%writefile /tmp/bad.py\n1/0")
    got = kernel.run("%run /tmp/bad.py")
    assert (got.status, got.name) == (ERROR, "ZeroDivisionError") and "\x1b" not in got.traceback
    got = kernel.run("%%time\n1/0")
    assert (got.status, got.name) == (ERROR, "ZeroDivisionError")
    got = kernel.run("%%bash\nexit 3")
    assert (got.status, got.name) == (ERROR, "CalledProcessError")
    got = kernel.run("x = 1\n!true\nif x\n  y")
    assert (got.status, got.name) == (ERROR, "SyntaxError") and "if x" in got.traceback
    kernel.start("!sleep 60")
    interrupt_soon(kernel, 0.4)
    assert kernel.finish(10).status == INTERRUPTED
    assert kernel.value("1") == (INT, "1")


@needs_packages
def test_the_image_has_what_clients_need(kernel):
    got = kernel.value("\nimport pkg_resources\n[d.project_name for d in pkg_resources.working_set]\n")
    assert got[0] == TEXT and "',\n '" in got[1]
    assert kernel.run("import threading; threading.active_count()").value == "1"
    for name in "scipy.stats sklearn seaborn statsmodels.api sympy networkx openpyxl docx xlsxwriter reportlab PIL lxml bs4 tabulate requests setuptools pip".split():
        assert kernel.run("import " + name, 60).status == OK, name


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, *sys.argv[1:]]))
