# SPDX-License-Identifier: Apache-2.0
"""The Python kernel as users see it, and the sandbox around it."""

import json
import re
import textwrap

import pytest

from conftest import png_size, sandbox_pids, wait_for

ABORTED = "Execution aborted"
RESTARTED = "the kernel was restarted: variables are lost, files are kept"


def dedent(code):
    return textwrap.dedent(code).strip()


# --- state ---


def test_variables_imports_and_functions_stay(session):
    session.run("import math\nx = 20\ndef f(y): return x + y")
    session.run("class C:\n    n = 1\nx = 21")
    assert session.value("f(21) + C.n + math.floor(0.5)") == 43


def test_starts_in_an_empty_data_directory(session):
    assert session.value("import os; [os.getcwd(), os.listdir('.')]") == "['/mnt/data', []]"


def test_working_directory_and_environment_stay(session):
    session.run("import os; os.makedirs('sub'); os.chdir('sub'); os.environ['MARK'] = 'set'")
    session.run("open('f.txt', 'w').write('x');")
    assert session.value("os.getcwd() + os.environ['MARK']") == "/mnt/data/subset"
    assert session.stdout("!pwd; echo $MARK") == "/mnt/data/sub\nset\n"


def test_data_is_mnt_data(session):
    session.upload(("ventas_2024.csv", b"a,b\n1,2\n")).ok()
    code = "import pandas as pd\ndf = pd.read_csv('/data/ventas_2024.csv')\nint(df['b'][0])"
    assert session.value(code) == 2
    session.run("open('/data/out.txt', 'w').write('x');")
    assert "out.txt" in session.names()
    assert session.value("import os; os.path.realpath('/data')") == "/mnt/data"


def test_sessions_do_not_share_state(new_session):
    one, other = new_session(), new_session()
    one.run("secret = 1")
    assert other.fails("secret")[0]["message"].startswith("NameError")


def test_underscore_and_history(session):
    assert session.value("40 + 2") == 42
    assert session.value("_ + 1") == 43


def test_recursion_and_deep_data_do_not_kill_the_kernel(session):
    session.run("kept = 1")
    error, _ = session.fails("def f(): return f()\nf()")
    assert error["message"].startswith("RecursionError")
    assert session.value("kept") == 1


# --- cells as in Jupyter ---


def test_last_expression_only(session):
    assert session.value("1\n2\n3") == 3
    assert session.value("if True:\n    5") == ""
    assert session.value("5;") == ""


def test_magics(session):
    assert session.stdout("%pwd\nprint(1)").endswith("1\n")
    session.run("x = 1; y = 'a'")
    assert {"x", "y"} <= set(session.stdout("%who").split())
    assert session.stdout("%%bash\nfor i in 1 2; do echo line $i; done") == "line 1\nline 2\n"
    assert "per loop" in session.stdout("%timeit -n1 -r1 1+1")
    session.run("%%capture grabbed\nprint('inside')")
    assert session.value("grabbed.stdout") == "inside\n"
    session.run("%%writefile w.txt\nhello")
    assert session.value("open('w.txt').read()") == "hello\n"
    error, _ = session.fails("%no_such_magic")
    assert "no_such_magic" in error["message"]


def test_shell_commands(session):
    assert session.stdout("!echo to out") == "to out\n"
    assert "to err" in json.dumps(session.result("!echo to err >&2"))
    session.run("lines = !printf 'a\\nb\\n'")
    assert session.value("list(lines)") == "['a', 'b']"
    assert session.stdout("name = 'world'\n!echo hello {name} $name") == "hello world world\n"


def test_top_level_await(session):
    assert session.value("import asyncio\nawait asyncio.sleep(0.01, 'slept')") == "slept"
    session.run("async def f(n):\n    await asyncio.sleep(0)\n    return n")
    assert session.value("sum(await asyncio.gather(*[f(i) for i in range(10)]))") == 45
    assert session.value("[await f(i) for i in range(2)]") == "[0, 1]"
    assert session.value("asyncio.run(f(5))") == 5


def test_help_and_question_mark(session):
    session.run('def documented():\n    """What it does."""')
    assert "What it does." in session.stdout("documented?")
    assert "What it does." in session.stdout("help(documented)")


def test_input_is_refused_with_a_clear_error(session):
    error, _ = session.fails("input('name? ')")
    assert "input" in error["message"]


@pytest.mark.parametrize(
    "code", ["exit()", "quit()", "import sys; sys.exit(3)", "raise SystemExit"]
)
def test_exit_does_not_end_the_kernel(session, code):
    session.run("kept = 1")
    session.post(code).ok()
    assert session.value("kept") == 1


def test_code_may_replace_or_close_its_streams(session):
    session.run("import sys, io\nsys.stdout = io.StringIO()\nprint('into the void')")
    assert session.stdout("print('back')") == "back\n"
    session.post("import os; os.close(1); os.close(2); os.close(0)").ok()
    assert session.stdout("print('again')") == "again\n"
    session.post("sys.stdout.close(); sys.stderr.close()").ok()
    assert session.stdout("print('and again')") == "and again\n"


def test_closing_every_descriptor_leaves_a_usable_session(session):
    session.post("import os; os.closerange(0, 1024)").ok()
    assert session.stdout("print('here')") == "here\n"


# --- figures and displays ---

PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\n"


@pytest.mark.parametrize(
    "code",
    [
        PLOT,
        PLOT + "plt.show()",
        PLOT + "print('last')",
        "fig, ax = __import__('matplotlib.pyplot').pyplot.subplots(); ax.plot([1]); fig",
    ],
)
def test_figure_without_ceremony(session, code):
    result = session.result(code)
    assert result["executionResult"]["type"] == "image", result
    png_size(result["executionResult"]["base64_data"])
    assert "displayData" not in result


def test_figure_is_shown_once(session):
    session.run(PLOT + "plt.show()")
    assert session.value("1") == 1


def test_several_figures(session):
    code = "import matplotlib.pyplot as plt\nfor n in (2, 3, 4):\n    plt.figure(figsize=(n, 1))\n    plt.plot([1])"
    result = session.result(code)
    displays = result["displayData"]
    widths = [png_size(d["base64_data"])[0] for d in displays]
    assert len(displays) == 3 and widths == sorted(widths) and len(set(widths)) == 3
    assert all((d["type"], d["format"]) == ("image", "png") for d in displays)
    assert result["executionResult"] == displays[-1]


def test_figure_saved_to_a_file(session):
    session.run(PLOT + "plt.savefig('plot.png')\nplt.close()")
    png_size(session.download("plot.png").ok().body)


def test_display(session):
    result = session.result("display({'a': 1}); display('text', 5)")
    assert result["stdout"] == "{'a': 1}\n'text'\n5\n"
    assert result["executionResult"] == ""
    code = "from PIL import Image\nfor n in (3, 5):\n    display(Image.new('RGB', (n, 7)))"
    displays = session.result(code)["displayData"]
    assert [png_size(d["base64_data"]) for d in displays] == [(3, 7), (5, 7)]


def test_output_and_displays_of_pandas_and_seaborn(session):
    code = dedent(
        """
        import pandas as pd, seaborn as sns
        sns.barplot(data=pd.DataFrame({'x': ['a', 'b'], 'y': [1, 2]}), x='x', y='y');
        """
    )
    png_size(session.result(code)["executionResult"]["base64_data"])


def test_svg_and_ipython_image(session):
    code = 'from IPython.display import SVG\nSVG(\'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>\')'
    assert session.result(code)["executionResult"]["format"] == "svg+xml"
    session.run("from PIL import Image as I\nI.new('RGB', (9, 9)).save('i.png')")
    code = "from IPython.display import Image\nImage('i.png')"
    assert png_size(session.result(code)["executionResult"]["base64_data"]) == (9, 9)


def test_huge_value_is_cut_with_a_mark(session):
    value = session.value("[['x' * 1000] * 900] * 900")
    assert 500_000 < len(value) <= 1 << 20 and "cut" in value[-60:]
    session.run("class Long:\n    def __repr__(self): return 'y' * (5 << 20)")
    value = session.value("Long()")
    assert 500_000 < len(value) <= 1 << 20 and "cut" in value[-60:]
    # Lists of more than a thousand entries end as in IPython.
    assert session.value("[1] * 2000").endswith(",\n ...]")


def test_long_strings_are_whole(session):
    assert session.value("'z' * 3_000_000") == "z" * 3_000_000


# --- errors ---


def test_traceback(session):
    code = "def inner():\n    return {}['missing']\n\ndef outer():\n    return inner()\n\nouter()"
    error, stderr = session.fails(code)
    assert "\x1b" not in stderr
    assert stderr.startswith("Traceback (most recent call last):\n")
    assert stderr.endswith("KeyError: 'missing'\n")
    for text in ("in outer", "in inner", "return {}['missing']", "line 2"):
        assert text in stderr
    assert "bivouac_kernel" not in stderr
    assert error["message"] == "KeyError: 'missing'"


@pytest.mark.parametrize(
    "code, name",
    [
        ("def f(:", "SyntaxError"),
        ("if True:\nx = 1", "IndentationError"),
        ("%timeit 1/0", "ZeroDivisionError"),
        ("await asyncio_is_not_imported()", "NameError"),
        ("raise Exception", "Exception"),
        ("raise ExceptionGroup('g', [ValueError(1), TypeError(2)])", "ExceptionGroup"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("x = 1\n\x00", None),
    ],
)
def test_errors_without_colour(session, code, name):
    if name is None:
        session.post(code).error(400)
        return
    error, stderr = session.fails(code)
    assert name in error["message"] and name in stderr
    assert "\x1b" not in stderr


def test_broken_exceptions(session):
    session.run("class Bad(Exception):\n    def __str__(self): raise RuntimeError('no text')")
    error, _ = session.fails("raise Bad()")
    assert "Bad" in error["message"]
    session.run("class Value:\n    def __repr__(self): raise RuntimeError('no repr')")
    session.post("Value()").ok()
    assert session.value("1") == 1


def test_chained_errors(session):
    _, stderr = session.fails(
        "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise ValueError('second') from e"
    )
    assert (
        "ZeroDivisionError" in stderr
        and "direct cause" in stderr
        and "ValueError: second" in stderr
    )


# --- death of the kernel ---

DEATHS = {
    "exit": ("import os; os._exit(7)", "exit status 7"),
    "exit-0": ("import os; os._exit(0)", "exit status 0"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "signal 11"),
    "abort": ("import os; os.abort()", "signal 6"),
    "kill": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
}


@pytest.mark.parametrize("code, how", DEATHS.values(), ids=DEATHS)
def test_death_of_the_kernel(session, code, how):
    session.run("open('kept.txt', 'w').write('file'); variable = 1")
    guid = session.call("GET", "session").ok().json["etag"]
    error, stderr = session.fails("print('before', flush=True)\n" + code)
    assert stderr.startswith(ABORTED) and how in stderr and RESTARTED in stderr
    assert error["code"] == "KernelDied"
    assert session.fails("variable")[0]["message"].startswith("NameError")
    assert session.value("open('/mnt/data/kept.txt').read()") == "file"
    assert session.call("GET", "session").ok().json["etag"] == guid


def test_death_keeps_the_output_so_far(session):
    document = session.run("print('before')\nimport os; os._exit(1)", status="Failed")
    assert document["result"]["stdout"] in ("before\n", "")
    document = session.run("print('flushed', flush=True)\nimport os; os._exit(1)", status="Failed")
    assert document["result"]["stdout"] == "flushed\n"


def test_death_does_not_touch_the_queue(session):
    session.run("import os, time")
    first = session.start("time.sleep(0.3); os._exit(1)")
    second = session.start("'after'")
    assert session.finished(first)["error"]["code"] == "KernelDied"
    document = session.finished(second)
    assert document["result"]["executionResult"] == "after"


def test_death_between_executions(session):
    session.run("import os, threading\nthreading.Timer(0.2, os._exit, [9]).start()")

    def replaced():
        document = session.post("'os' in globals()").ok().json
        # One may be running when it happens; that one is told.
        if document["status"] == "Failed":
            assert document["error"]["code"] == "KernelDied", document
            return False
        return document["result"]["executionResult"] is False

    wait_for(replaced, 10, "new kernel")
    assert session.value("1") == 1


def test_signals_to_the_agent_have_no_effect(session):
    session.run("import os, signal")
    assert session.post("os.kill(1, signal.SIGKILL); os.kill(1, signal.SIGTERM)").ok()
    assert session.value("1") == 1


def test_out_of_memory(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"memory": "160Mi"}).session()
    session.run("open('kept.txt', 'w').write('file'); variable = 1")
    error, stderr = session.fails("parts = []\nwhile True: parts.append(bytearray(1 << 20))")
    assert error["code"] == "ExecutionOutOfMemory"
    assert stderr.startswith(ABORTED) and "160 MiB" in stderr
    assert session.value("open('/mnt/data/kept.txt').read()") == "file"
    assert session.fails("variable")[0]["message"].startswith("NameError")


def test_a_kernel_that_ends_for_lack_of_memory_says_so(session):
    """By its exit status (KERNEL_EXIT_NO_MEMORY), as Node does; any other tells of no memory."""
    for status, code in ((71, "ExecutionOutOfMemory"), (70, "KernelDied"), (72, "KernelDied")):
        error, _ = session.fails(f"import os; os._exit({status})")
        assert error["code"] == code
        assert session.value("1 + 1") == 2


def test_out_of_memory_in_a_child_leaves_the_kernel(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"memory": "200Mi"}).session()
    session.run("import subprocess, sys; kept = 1")
    hog = "x = []\\nwhile True: x.append(bytearray(1 << 20))"
    code = f"subprocess.run([sys.executable, '-c', \"{hog}\"]).returncode"
    document = session.post(code).ok().json
    # Which process the system ends is its choice; either way the session answers.
    assert document["status"] == "Failed" or document["result"]["executionResult"] == -9
    assert session.result("1")["executionResult"] == 1


# --- differences between sessions ---


@pytest.mark.parametrize(
    "code",
    [
        "import random; random.random()",
        "import random; random.Random().random()",
        "import numpy; float(numpy.random.rand())",
        "import numpy; float(numpy.random.default_rng().random())",
        "hash('zq7-vexing')",
        "import uuid; str(uuid.uuid4())",
        "import tempfile; tempfile.mktemp()",
        "import os; os.urandom(8).hex()",
        "import secrets; secrets.token_hex()",
        "import os; os.getpid()",
    ],
)
def test_sessions_differ(new_session, code):
    values = {new_session().value(code) for _ in range(4)}
    assert len(values) == 4


def test_kernels_of_one_session_differ(session):
    code = "import random; (random.random(), hash('zq7-vexing'))"
    first = session.value(code)
    session.fails("import os; os._exit(0)")
    assert session.value(code) != first


def test_dictionaries_survive_the_hash_seed(session):
    # Everything that was hashed before the fork must still be found.
    code = dedent(
        """
        import sys, random
        modules = list(sys.modules)
        missing = [m for m in modules if m not in sys.modules]
        bad = [n for m in list(sys.modules.values()) for n in list(getattr(m, '__dict__', {})) if n not in m.__dict__]
        s = {f'zq7-{i}' for i in range(1000)}
        (missing, bad, all(f'zq7-{i}' in s for i in range(1000)), {'a': 1} == {'a': 1}, 'zq7' + '-x' in {'zq7-x'})
        """
    )
    assert session.value(code) == "([], [], True, True, True)"


# --- packages ---

PACKAGES = {
    "numpy": "import numpy as np; int(np.linalg.det(np.array([[1., 2.], [3., 4.]])).__round__())",
    "pandas": "import pandas as pd; pd.DataFrame({'a': [1, 1, 2], 'b': [1, 2, 3]}).groupby('a').b.sum().to_dict()",
    "scipy": "from scipy import optimize, integrate, stats; round(optimize.brentq(lambda x: x*x-2, 0, 2), 6)",
    "matplotlib": "import matplotlib; import matplotlib.pyplot as plt; f = plt.figure(); f.savefig('f.pdf'); plt.close(); open('f.pdf', 'rb').read(4)",
    "sklearn": "from sklearn.linear_model import LinearRegression; round(float(LinearRegression().fit([[0], [1], [2]], [1, 3, 5]).predict([[3]])[0]), 6)",
    "sklearn-tree": "from sklearn.ensemble import RandomForestClassifier; RandomForestClassifier(5, n_jobs=2, random_state=0).fit([[0], [1]] * 9, [0, 1] * 9).predict([[1]]).tolist()",
    "seaborn": "import seaborn as sns; len(sns.color_palette('deep'))",
    "statsmodels": "import statsmodels.api as sm; sm.OLS([1., 2., 3.], sm.add_constant([1., 2., 3.])).fit().params.round(6).tolist()[1]",
    "sympy": "import sympy; str(sympy.diff(sympy.sin(sympy.Symbol('x')) ** 2))",
    "networkx": "import networkx as nx; nx.shortest_path(nx.path_graph(4), 0, 3)",
    "openpyxl": "import openpyxl; w = openpyxl.Workbook(); w.active['A1'] = 5; w.save('o.xlsx'); openpyxl.load_workbook('o.xlsx').active['A1'].value",
    "python-docx": "import docx; d = docx.Document(); d.add_paragraph('hi'); d.save('d.docx'); docx.Document('d.docx').paragraphs[0].text",
    "xlsxwriter": "import xlsxwriter, pandas; w = xlsxwriter.Workbook('x.xlsx'); w.add_worksheet().write(0, 0, 7); w.close(); int(pandas.read_excel('x.xlsx', header=None)[0][0])",
    "reportlab": "from reportlab.pdfgen.canvas import Canvas; c = Canvas('r.pdf'); c.drawString(9, 9, 'x'); c.save(); open('r.pdf', 'rb').read(5)",
    "PIL": "from PIL import Image, ImageDraw; i = Image.new('RGB', (4, 4)); ImageDraw.Draw(i).point((1, 1), 'red'); i.save('p.jpg'); i.getpixel((1, 1))",
    "lxml": "import lxml.etree as e; e.fromstring('<a><b/></a>').xpath('count(//b)')",
    "bs4": "import bs4; bs4.BeautifulSoup('<p>x</p>', 'lxml').p.text",
    "tabulate": "import tabulate; tabulate.tabulate([[1]], tablefmt='plain')",
    "requests": "import requests; requests.Request('GET', 'http://x/', params={'a': 1}).prepare().url",
    "yaml": "import yaml; yaml.safe_load('a: [1, 2]')",
    "dateutil": "import dateutil.parser; dateutil.parser.parse('2024-05-02').day",
    "pkg_resources": "import pkg_resources; 'numpy' in [d.project_name for d in pkg_resources.working_set]",
    "setuptools": "import setuptools; setuptools.__name__",
    "pip": "import subprocess, sys; subprocess.run([sys.executable, '-m', 'pip', '--version'], capture_output=True).stdout[:3]",
    "IPython": "import IPython; IPython.get_ipython() is not None",
}
PACKAGE_VALUES = {
    "numpy": -2,
    "pandas": "{1: 3, 2: 3}",
    "scipy": 1.414214,
    "matplotlib": "b'%PDF'",
    "sklearn": 7.0,
    "sklearn-tree": "[1]",
    "seaborn": 10,
    "statsmodels": 1.0,
    "sympy": "2*sin(x)*cos(x)",
    "networkx": "[0, 1, 2, 3]",
    "openpyxl": 5,
    "python-docx": "hi",
    "xlsxwriter": 7,
    "reportlab": "b'%PDF-'",
    "PIL": "(255, 0, 0)",
    "lxml": 1.0,
    "bs4": "x",
    "tabulate": "1",
    "requests": "http://x/?a=1",
    "yaml": "{'a': [1, 2]}",
    "dateutil": 2,
    "pkg_resources": True,
    "setuptools": "setuptools",
    "pip": "b'pip'",
    "IPython": True,
}


@pytest.fixture(scope="module")
def packages(pool):
    s = pool.session()
    yield s
    s.delete()


@pytest.mark.parametrize("name", PACKAGES)
def test_package(packages, name):
    assert packages.result(PACKAGES[name])["executionResult"] == PACKAGE_VALUES[name]


def test_every_package_of_the_recipe_is_there(session):
    recipe = (__import__("conftest").REPO / "runtimes/python/recipe").read_text()
    wanted = {p for line in re.findall(r"^package = (.*)$", recipe, re.M) for p in line.split()}
    listed = session.stdout(
        "!dpkg-query -W -f '${Package}\\n' 2>/dev/null || cat /opt/bivouac/packages",
        outputStreamsMaxLength=1 << 20,
    )
    if listed.strip():
        assert wanted <= set(listed.split())


def test_shell_tools(session):
    code = "!for t in bash ls find grep sed awk diff tar gzip bzip2 xz unzip zip file less ps curl git python3; do command -v $t >/dev/null || echo missing $t; done"
    assert session.stdout(code) == ""


# --- the system underneath ---


def test_subprocess(session):
    session.run(
        "import subprocess\n"
        "r = subprocess.run(['sh', '-c', 'cat; exit 3'], input=b'in', capture_output=True)"
    )
    assert session.value("(r.stdout, r.returncode)") == "(b'in', 3)"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(session, method):
    # As usual, what spawned processes are to run must be importable.
    session.upload(("work.py", b"def square(x):\n    return x * x\n")).ok()
    code = dedent(
        f"""
        import multiprocessing, sys
        sys.path.insert(0, '/mnt/data')
        from work import square
        with multiprocessing.get_context('{method}').Pool(2) as pool:
            total = sum(pool.map(square, range(10)))
        total
        """
    )
    assert session.value(code) == 285


def test_forked_child_does_not_answer_for_the_kernel(session):
    code = "import os\npid = os.fork()\nif pid == 0:\n    print('child')\n    os._exit(0)\nos.waitpid(pid, 0)[1]"
    result = session.result(code)
    assert result["executionResult"] == 0 and "child" in result["stdout"]
    # A child that does not leave the cell must not take the kernel's place.
    session.post("import os\npid = os.fork()").ok()
    assert session.result("1 + 1")["executionResult"] == 2


def test_threads_and_executors(session):
    code = dedent(
        """
        import concurrent.futures, threading
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            squares = sum(threads.map(lambda x: x * x, range(100)))
        squares
        """
    )
    assert session.value(code) == 328350
    session.run(
        "stop = threading.Event(); ticks = []\ndef tick():\n    while not stop.wait(0.01): ticks.append(1)\nt = threading.Thread(target=tick); t.start()"
    )
    wait_for(lambda: session.value("len(ticks) > 3") is True, 10, "thread runs between executions")
    session.run("stop.set(); t.join()")


def test_sqlite_and_ssl(session):
    code = "import sqlite3; c = sqlite3.connect('d.db'); c.execute('create table t(x)'); c.execute('insert into t values (5)'); c.commit(); c.execute('select x from t').fetchone()"
    assert session.value(code) == "(5,)"
    assert (
        session.value("import ssl, hashlib; len(ssl.create_default_context().get_ca_certs()) > 10")
        is True
    )


def test_unix_and_loopback_sockets(session):
    code = dedent(
        """
        import socket, threading
        server = socket.create_server(('127.0.0.1', 0))
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        client.sendall(b'ping'); data = peer.recv(4)
        a, b = socket.socketpair(); a.send(b'x')
        (data, b.recv(1))
        """
    )
    assert session.value(code) == "(b'ping', b'x')"


def test_directories(session):
    code = dedent(
        """
        import os, tempfile, pathlib
        with tempfile.TemporaryFile() as f: f.write(b'x')
        (pathlib.Path.home() / 'note').write_text('x')
        (os.path.expanduser('~'), os.environ['HOME'], os.access('/tmp', os.W_OK), os.listdir('/mnt/data'))
        """
    )
    assert session.value(code) == "('/home/session', '/home/session', True, [])"


def test_temporary_directory_is_bounded(make_pool):
    session = make_pool(
        maximum=2, ready=1, limits={"tmpSize": "4Mi", "dataSize": "3Mi", "inodes": 64}
    ).session()
    for where, size in (("/tmp", 4), ("/mnt/data", 3), ("/home/session", 4)):
        session.run(
            f"f = open('{where}/fill', 'wb', buffering=0); f.write(bytes({size - 1} << 20)); f.close()"
        )
        error, _ = session.fails(
            f"f = open('{where}/more', 'wb', buffering=0)\nfor _ in range({size + 1}): f.write(bytes(1 << 20)) == 1 << 20 or f.write(b'x')"
        )
        assert "No space left" in error["message"]
        session.run(f"import os; os.remove('{where}/fill'); os.remove('{where}/more')")
    error, _ = session.fails("for i in range(200): open(f'/tmp/n{i}', 'w').close()")
    assert "No space left" in error["message"]


def test_number_of_processes_is_bounded(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"pids": 24}).session()
    code = dedent(
        """
        import os, signal
        children = []
        try:
            while len(children) < 100:
                pid = os.fork()
                if pid == 0:
                    signal.pause()
                children.append(pid)
        except BlockingIOError as e:
            limit = e.errno
        for pid in children:
            os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
        (0 < len(children) < 24, limit)
        """
    )
    assert session.value(code) == "(True, 11)"
    assert session.stdout("!echo works") == "works\n"


# --- isolation ---


@pytest.mark.parametrize(
    "address",
    ["('1.1.1.1', 53)", "('169.254.169.254', 80)", "('10.0.0.1', 80)", "('192.168.0.1', 22)"],
)
def test_no_network(session, address):
    error, _ = session.fails(f"import socket; socket.create_connection({address}, timeout=3)")
    assert "OSError" in error["message"] and "unreachable" in error["message"]


def test_no_network_of_the_daemon_or_by_name(session, daemon):
    error, _ = session.fails(
        f"import socket; socket.create_connection({daemon.address}, timeout=3)"
    )
    assert "ConnectionRefusedError" in error["message"]
    error, _ = session.fails(
        "import urllib.request; urllib.request.urlopen('http://example.com/', timeout=5)"
    )
    assert "URLError" in error["message"]
    devices = session.value("open('/proc/self/net/dev').read()")
    assert re.findall(r"^ *(\w+):", devices, re.M) == ["lo"]


def test_sees_its_own_processes_only(session):
    pids = json.loads(
        session.value("import os; sorted(int(p) for p in os.listdir('/proc') if p.isdigit())")
    )
    assert 1 not in pids and len(pids) <= 2, "the agent is invisible"
    names = session.value(
        "sorted(open(f'/proc/{p}/comm').read().strip() for p in os.listdir('/proc') if p.isdigit())"
    )
    assert "bivouacd" not in names and "jailer" not in names
    assert session.value("os.getppid() in (0, 1)") is True


@pytest.mark.parametrize(
    "path",
    [
        "/x",
        "/etc/passwd",
        "/usr/bin/x",
        "/opt/bivouac/x",
        "/mnt/x",
        "/proc/sys/kernel/hostname",
        "/dev/x",
        "/run/x",
    ],
)
def test_root_is_read_only(session, path):
    error, _ = session.fails(f"open({path!r}, 'a').write('x')")
    assert re.match(r"(OSError|PermissionError|FileNotFoundError)", error["message"])


def test_no_rights(session):
    status = session.value("open('/proc/self/status').read()")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[field], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1" and fields["Seccomp"].strip() == "2"
    assert session.value("import os; (os.getuid(), os.geteuid(), os.getgid(), os.getgroups())") in (
        "(1000, 1000, 1000, [])",
        "(1000, 1000, 1000, [1000])",
    )


@pytest.mark.parametrize(
    "code",
    [
        "os.mount",  # not in Python; by number below
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.unshare(0x10000000)",
        "libc.ptrace(0, 0, 0, 0)",
        "libc.setns(0, 0)",
        "libc.chroot(b'/tmp')",
        "libc.setuid(0)",
        "libc.keyctl(0, 0, 0) if hasattr(libc, 'keyctl') else libc.syscall(250, 0, 0)",
        "libc.syscall(321, 0, 0, 0)",  # bpf
        "libc.syscall(425, 1, 0)",  # io_uring_setup
        "libc.syscall(298, 0, 0, 0, 0, 0)",  # perf_event_open
        "libc.syscall(155, b'/', b'/')",  # pivot_root
    ],
)
def test_refused_calls(session, code):
    session.run("import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)")
    if code == "os.mount":
        session.fails(code)
        return
    assert session.value(f"{code}") == -1
    assert session.value("ctypes.get_errno() in (1, 13, 22, 38, 14)") is True


def test_host_is_invisible(session):
    assert (
        session.value(
            "import os; [p for p in ('/sys/class', '/var/lib/bivouac', '/root/.ssh', '/boot/vmlinuz', '/dev/sda', '/dev/kvm', '/dev/mem') if os.path.exists(p)]"
        )
        == "[]"
    )
    mounts = session.value("open('/proc/self/mounts').read()")
    assert "bivouac-e2e" not in mounts
    assert session.fails("os.listdir('/root')")[0]["message"].startswith("PermissionError")
    environment = session.value("dict(os.environ)")
    assert not any(word in environment.lower() for word in ("token", "secret", "bivouac_"))


def test_other_sessions_files_are_invisible(new_session):
    one, other = new_session(), new_session()
    one.run(
        "[open(d + '/secret-of-one', 'w').write('x') for d in ('/mnt/data', '/tmp', '/home/session', '/dev/shm')]"
    )
    found = other.stdout(
        "!find / -xdev -name 'secret-of-*' 2>/dev/null; find /mnt/data /tmp /home /dev /proc/1/root/mnt/data -name 'secret-of-*' 2>/dev/null"
    )
    assert found == ""
    assert other.names() == []
    other.call("GET", "files/secret-of-one/content").error(404)


def host_uid(session):
    lines = session.value("open('/proc/self/uid_map').read()").splitlines()
    return [int(line.split()[1]) for line in lines if line.split()[0] == "1000"][0]


def test_uids_differ_on_the_host(new_session):
    sessions = [new_session() for _ in range(4)]
    uids = [host_uid(s) for s in sessions]
    assert len(set(uids)) == 4 and min(uids) > 65536
    for uid in uids:
        assert sandbox_pids(uid)
    sessions[0].delete().ok(204)
    wait_for(lambda: not sandbox_pids(uids[0]), 10, "processes of a deleted session are gone")
    assert sandbox_pids(uids[1])


def test_processes_end_with_the_session(new_session):
    session = new_session()
    uid = host_uid(session)
    session.run(
        "import subprocess; [subprocess.Popen(['sleep', '1000'], start_new_session=True) for _ in range(5)];"
    )
    assert len(sandbox_pids(uid)) >= 6
    session.delete().ok(204)
    wait_for(lambda: not sandbox_pids(uid), 10, "background processes are gone")


def test_cpu_quota(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"cpu": 0.25}).session()
    code = dedent(
        """
        import time
        end = time.monotonic() + 1.5; used = time.process_time()
        while time.monotonic() < end: pass
        (time.process_time() - used) / 1.5
        """
    )
    assert 0.1 < session.value(code) < 0.45


def test_a_busy_session_does_not_stop_others(new_session):
    busy, other = new_session(), new_session()
    busy.run("1"), other.run("1")
    job = busy.background("while True: pass", timeoutInSeconds=2)
    for _ in range(5):
        assert other.value("2 + 2") == 4
    assert job.result().ok().json["status"] == "Failed"
