# SPDX-License-Identifier: Apache-2.0
"""Cases 36 and 37: what code leaves behind, and results that hurt whoever takes them."""

import json
import time

import pytest

from abuse.attack import agent_pid, attack, bring, e2e, hostile, host_uid, outcome, rounds

MIB = 1 << 20

# --- 36: persistence ---

PLANT = """
    home = '/home/session'
    site = home + '/.local/lib/python3.11/site-packages'
    os.makedirs(site, exist_ok=True)
    for d in ('.ipython/profile_default/startup', '.config/matplotlib', '.config/pip', '.jupyter', 'bin', '.local/bin'):
        os.makedirs(f'{home}/{d}', exist_ok=True)
    mark = "open('/tmp/hostile-was-here', 'a').write('x')\\n"
    for path in (site + '/sitecustomize.py', site + '/usercustomize.py', home + '/.pythonrc.py',
                 home + '/.ipython/profile_default/startup/00.py', '/mnt/data/json.py', '/mnt/data/random.py',
                 '/tmp/sitecustomize.py'):
        open(path, 'w').write(mark)
    open(site + '/hostile.pth', 'w').write('import os; ' + mark)
    for path in ('.bashrc', '.profile', '.bash_profile', '.bash_env', '.local/bin/python3', '.local/bin/ls'):
        open(f'{home}/{path}', 'w').write('#!/bin/sh\\ntouch /tmp/hostile-was-here\\n')
        os.chmod(f'{home}/{path}', 0o755)
    open(home + '/.local/hostile.so', 'w').write('not a library')
    os.environ.update(LD_PRELOAD=home + '/.local/hostile.so', PYTHONSTARTUP=home + '/.pythonrc.py',
                      BASH_ENV=home + '/.bash_env', ENV=home + '/.bash_env', PYTHONPATH='/mnt/data',
                      NODE_OPTIONS='--require /mnt/data/x.js', LD_LIBRARY_PATH='/mnt/data', PYTHONINSPECT='1')
    for path in ('/etc/ld.so.preload', '/etc/profile', '/usr/lib/python3.11/sitecustomize.py',
                 '/etc/python3.11/sitecustomize.py', '/usr/lib/python3/dist-packages/hostile.pth'):
        report[path] = write_to(path, b'x', os.O_WRONLY | os.O_CREAT)
    """


def test_36_nothing_persists_into_other_sessions(pool):
    """Plant start-up files, preloads and shadow modules; look for them from other sessions and the next owner."""
    first, other = pool.session(), pool.session()
    other.run("1")
    answers = attack(first, PLANT)
    assert "written" not in answers.values(), answers
    later = pool.session()
    look = (
        "import os, subprocess, sys\n"
        "subprocess.run(['bash', '-lc', 'ls; python3 -c 1'], capture_output=True)\n"
        "(os.path.exists('/tmp/hostile-was-here'), sorted(os.listdir('/home/session')),"
        " os.listdir('/mnt/data'), 'LD_PRELOAD' in os.environ, [p for p in sys.path if 'data' in p])"
    )
    clean = other.value(look)
    assert clean.startswith("(False, ") and "hostile" not in clean and "[], False, []" in clean
    assert later.value(look) == clean
    first.delete().ok(204)
    again = pool.session(first.identifier)
    assert again.value(look) == clean
    for s in (other, later, again):
        s.delete()


def test_36_planted_files_do_not_reach_the_agent_or_the_next_kernel(session):
    """Plant a preload, then kill the kernel: the next one and the agent are not started through it."""
    session.run("1")
    agent = agent_pid(session)
    attack(session, PLANT)
    session.post("import os; os._exit(1)").ok()
    assert session.value("import os; 'LD_PRELOAD' in os.environ, 'PYTHONPATH' in os.environ") == "(False, False)"
    assert session.value("os.path.exists('/tmp/hostile-was-here')") is False
    assert agent_pid(session) == agent


def test_36_modules_changed_in_one_kernel_are_not_changed_in_others(pool):
    """Patch a library in memory, in the copy that all kernels began from."""
    first = pool.session()
    first.run("import json, builtins; json.dumps = lambda *a, **k: 'hostile'; builtins.sorted = lambda x: 7")
    second = pool.session()
    assert second.value("import json; (json.dumps([1]), sorted('ba'))") == "('[1]', ['a', 'b'])"
    first.delete()
    second.delete()


# --- 37: bombs in results ---


@pytest.fixture
def flat(daemon):
    """The daemon's memory must stay where it was, within 96 MiB for a result on its way."""
    daemon.reset_peak()
    before = daemon.memory("VmRSS")
    yield
    grown = daemon.memory("VmHWM") - before
    assert grown < 96 * MIB, f"the daemon grew by {grown >> 20} MiB"


BOMBS = {
    "long string": "'x' * (300 << 20)",
    "long repr": "[0] * (20 << 20)",
    "bytes": "b'\\xff' * (50 << 20)",
    "deep list": "x = []\nfor _ in range(100000): x = [x]\nx",
    "deep dict": "x = {}\nfor _ in range(100000): x = {'a': x}\nx",
    "cycle": "x = []; x.append(x); x",
    "long int": "1 << (64 << 20)",
    "nan": "float('nan')",
    "infinity": "-float('inf')",
    "lone surrogate": "'\\ud800 \\udfff'",
    "nul": "'a\\0b\\x1b[2J'",
    "repr that is no text": "class R:\n    def __repr__(self): return 7\nR()",
    "repr of surrogates": "class R:\n    def __repr__(self): return '\\ud800' * 100000\nR()",
    "repr without end": "class R:\n    def __repr__(self):\n        while True: pass\nR()",
    "html with a script": "class H:\n    def _repr_html_(self): return '<script>alert(1)</script>' * 10**6\nH()",
    "lying int": "class I(int):\n    def __repr__(self): return '1,\"status\":\"Succeeded\"'\n    __str__ = __repr__\nI(5)",
    "lying float": "class F(float):\n    def __repr__(self): return 'NaN'\nF(5)",
    "lying str": "class S(str):\n    def encode(self, *a): return b'\"}, \"x\": {'\nS('a')",
    "pickle": "class P:\n    def __reduce__(self): import os; return (os.abort, ())\nP()",
    "exception of a gigabyte": "raise ValueError('x' * (40 << 20))",
    "exception with a hostile name": "raise type('E\"},{\"x\":\"' * 1000, (Exception,), {})('\\ud800')",
    "exceptions in a chain": "def f(n):\n    try: raise ValueError('x' * 1000)\n    except ValueError as e:\n        if n: f(n - 1)\n        raise KeyError(n)\nf(300)",
    "exception group": "raise ExceptionGroup('g' * 10**6, [ValueError('v' * 10**6)] * 50)",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_37_values(session, flat, bomb):
    """Return or raise a value that is too large, too deep, no text, or that lies about itself."""
    reply = session.post(BOMBS[bomb], timeoutInSeconds=1 if "without end" in bomb else 20)
    assert reply.status == 200, reply
    assert len(reply.body) < 20 * MIB
    # Strict JSON: no NaN, no raw control characters, valid UTF-8, and nothing beside what belongs there.
    document = json.loads(
        reply.body.decode("utf-8", "strict"), parse_constant=lambda c: pytest.fail(f"constant {c}")
    )
    assert set(document) <= {"id", "identifier", "executionType", "status", "error", "result"}
    assert set(document["result"]) <= {
        "stdout", "stderr", "executionResult", "executionTimeInMilliseconds", "displayData"}  # fmt: skip
    assert b"\x1b" not in reply.body and b"\x00" not in reply.body
    assert session.value("1 + 1") == 2


def test_37_displays_without_end(session, flat):
    """Display thousands (a million in the long run) of objects and images."""
    count = rounds(4000, 1_000_000)
    reply = session.post(
        "from IPython.display import display, Image\n"
        f"for i in range({count}): display(i)\n"
        "png = bytes.fromhex('89504e470d0a1a0a') + b'x' * 2000\n"
        "for i in range(2000): display(Image(data=png, format='png'))",
        timeoutInSeconds=60,
    ).ok()
    assert len(reply.body) < 20 * MIB
    assert session.value("1 + 1") == 2


def test_37_huge_image(session, flat):
    """Show an image of 64 million points, and one that only says so in its header."""
    reply = session.post(
        "from PIL import Image\nImage.new('L', (8000, 8000))", timeoutInSeconds=60
    ).ok()
    assert len(reply.body) < 20 * MIB
    reply = session.post(
        "from IPython.display import Image as I\nimport struct, zlib\n"
        "head = struct.pack('>IIBBBBB', 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)\n"
        "I(data=b'\\x89PNG\\r\\n\\x1a\\n' + struct.pack('>I', 13) + b'IHDR' + head + struct.pack('>I', zlib.crc32(b'IHDR' + head)), format='png')"
    ).ok()
    assert len(reply.body) < MIB


def test_37_script_in_images_stays_data(session):
    """Return SVG and HTML with scripts: they come as data inside JSON, never as a page."""
    reply = session.post(
        "from IPython.display import SVG\n"
        "SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>')"
    ).ok()
    assert reply.headers["Content-Type"].startswith("application/json")
    assert b"<script>" not in reply.body  # base64
    session.upload(("page.html", b"<script>alert(1)</script>"), ("x.svg", b"<svg onload='alert(1)'/>")).ok()
    for name in ("page.html", "x.svg"):
        reply = session.download(name).ok()
        assert reply.headers.get("X-Content-Type-Options") == "nosniff", dict(reply.headers)
        assert "Set-Cookie" not in reply.headers
        # A page cannot make a browser fetch it: the token goes in a header, never in a cookie.
        assert session.call("GET", f"files/{name}/content", token=False).status == 401


def test_37_result_of_many_parts_at_their_limits(session, flat):
    """Fill output, error output, value, images and error of one execution at once."""
    reply = session.post(
        "import sys\nfrom IPython.display import display, Image\n"
        "print('o' * (2 << 20)); print('e' * (2 << 20), file=sys.stderr)\n"
        "for i in range(20): display(Image(data=bytes.fromhex('89504e470d0a1a0a') + b'x' * (1 << 20), format='png'))\n"
        "'v' * (12 << 20)",
        outputStreamsMaxLength=1 << 20,
        timeoutInSeconds=60,
    )
    assert reply.status == 200, reply
    assert session.value("1 + 1") == 2


# --- own ---


def test_own_code_that_hurts_the_compiler(session):
    """Send source that makes the parser, the compiler or IPython's transformer blow up."""
    for source in (
        "(" * 100_000,
        "x = " + "-" * 200_000 + "1",
        "[" * 3000 + "]" * 3000,
        "lambda: " * 20_000 + "0",
        "if 1:\n" + "".join(" " * i + "if 1:\n" for i in range(1, 200)),
        "a" * (1 << 20),
        "f'" + "{" * 2000 + "'",
        "\\" * 100_000,
        "%" * 10_000,
        "!" + "x" * 500_000,
        "?" * 10_000,
        "x=" + "1+" * 200_000 + "1",
        "\ufeff\u202e# bidi \U000e0001",
        "\r\r\n\x0c\x0b" * 1000,
        "#" * (1 << 20) + "\n1",
        "await " * 5000 + "x",
        "'''" + "\n" * 100_000,
    ):
        reply = session.post(source, timeoutInSeconds=10)
        assert reply.status in (200, 400), (source[:40], reply)
    assert session.value("1 + 1") == 2


def test_own_variables_of_a_dead_identifier(pool):
    """Guess identifiers: a session is reached by its whole identifier only."""
    first = pool.session("abuse-identifier-" + e2e.unique())
    first.run("secret = 1")
    for guess in (
        first.identifier[:-1],
        first.identifier + "x",
        first.identifier.upper(),
        first.identifier.replace("-", "_"),
        first.identifier + "/",
        first.identifier + "%00",
        "*" * 8,
    ):
        other = pool.session(guess)
        reply = other.post("'secret' in globals()")
        assert reply.status == 400 or reply.json["result"]["executionResult"] is False, guess
        other.delete()
    assert first.value("secret") == 1
    first.delete()


def test_own_same_identifier_in_another_pool(make_pool, pool):
    """Use another pool's identifier in the own pool."""
    theirs = pool.session()
    theirs.run("secret = 1; open('f', 'w').close()")
    mine = make_pool(maximum=3, ready=1).session(theirs.identifier)
    assert mine.value("'secret' in globals()") is False and mine.names() == []
    mine.delete()
    assert theirs.value("secret") == 1
    theirs.delete()


def test_own_execution_of_another_session(session, neighbour):
    """Ask for another session's execution by its id."""
    neighbour.run("'sec' + 'ret-word'", headers={"operation-id": "of-the-neighbour"})
    assert neighbour.call("GET", "executions/of-the-neighbour").ok()
    reply = session.call("GET", "executions/of-the-neighbour")
    assert reply.status == 404 and b"secret-word" not in reply.body
    session.run("7", headers={"operation-id": "of-the-neighbour"})
    assert "secret-word" in neighbour.execution("of-the-neighbour")["result"]["executionResult"]


def test_own_output_between_executions_belongs_to_nobody(session):
    """Write from a thread between two executions, into the result of the next one."""
    session.run(
        hostile(
            """
            def late():
                time.sleep(0.2)
                for _ in range(50): os.write(1, b'LATE' * 100)
            threading.Thread(target=late).start()
            """
        )
    )
    time.sleep(0.6)
    result = session.result("print('mine')")
    assert result["stdout"] == "mine\n"


def test_own_uids_are_not_shared_while_anyone_lives(pool):
    """Make and delete sessions quickly: no uid may be given to a new one while an old process has it."""
    survivor = pool.session()
    uid = host_uid(survivor)
    for _ in range(rounds(15, 5000)):
        other = pool.session()
        assert host_uid(other) != uid
        other.delete()
    assert survivor.value("1") == 1
    survivor.delete()


def test_own_timeout_holds_against_everything(session):
    """Ignore the interrupt in every way Python knows: the execution ends at its time."""
    for code in (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import re; re.match('(a*)*b', 'a' * 100)",
        "10 ** 10 ** 9",
        "import os\nwhile True: os.fork()",
        "import time\nclass S:\n    def __del__(self):\n        while True: time.sleep(1)\nx = S(); del x",
        "import ctypes; ctypes.CDLL(None).pause()",
        "import os; os.setpgid(0, 0) if os.getsid(0) != os.getpid() else os.setpgrp()\nwhile True: pass",
        "import sys\nclass O:\n    def write(self, s):\n        while True: pass\n    flush = write\nsys.stdout = O()\nprint(1)",
    ):
        _, error, _, _ = outcome(session, code, timeoutInSeconds=0.3, timeout=20)
        assert error in ("ExecutionTimeout", "ExecutionOutOfMemory", "CodeExecutionFailed", "KernelDied"), code
    assert session.value("1 + 1") == 2


def test_own_program_brought_along(session):
    """Bring programs that are not of the image: they run with the session's rights only."""
    path = bring(session, "ids")
    assert session.value(
        f"import subprocess; subprocess.run([{path!r}], capture_output=True, text=True).stdout"
    ).startswith("uid 1000 1000 1000 gid 1000 1000 1000 caps 0 0 0")
