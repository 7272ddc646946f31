# SPDX-License-Identifier: Apache-2.0
"""What holds for every language of every runtime: one table of programs, one set of tests."""

import json
import os
import pathlib
import signal

import pytest

from conftest import BIN_DIR, Daemon, Pool, wait_for

IMAGES = pathlib.Path("/var/cache/bivouac/images")
RUNTIME = {"PythonLTS": "python", "NodeLTS": "node", "Shell": "shell"}
CELLS = [
    ("PythonLTS", "python"),
    ("PythonLTS", "shell"),
    ("NodeLTS", "node"),
    ("NodeLTS", "shell"),
    ("Shell", "shell"),
    ("Shell", "python"),
    ("Shell", "node"),
]
TIMEOUT_TEXT = "Request timed out waiting for code execution to complete"
TIMED_OUT, DIED, NO_MEMORY = "ExecutionTimeout", "KernelDied", "ExecutionOutOfMemory"


class Python:
    language = "python"
    keep, kept = "kept = 41", "print(kept)"
    lost = "NameError"
    fails = "print('before')\nraise ValueError('no such luck')"
    message, trace = "ValueError: no such luck", "Traceback"
    no_syntax, syntax_error = "a = = b", "SyntaxError"
    loop = "print('begun', flush=True)\nwhile True: pass"
    deaf = (
        "import signal\nprint('begun', flush=True)\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nwhile True: pass"
    )
    write = "import sys\nsys.{stream}.write('x' * {size});"
    value = "'x' * {size}"
    hoard = "parts = []\nwhile True: parts.append(bytearray(b'x') * (1 << 20))"
    child = "import subprocess\nsubprocess.run({0!r}, shell=True);"
    die = "import os\nos.kill(os.getpid(), 9)"
    leave = "import os\nos._exit(3)"
    await_go = "import os, time\nwhile not os.path.exists('/mnt/data/go'): time.sleep(0.02)\nprint('gone on')"
    copy = "open('/mnt/data/out', 'w').write(open('/mnt/data/in').read().upper());"
    environment = "import json, os\nprint(json.dumps(dict(os.environ)))"
    work = "import os\nprint(os.getcwd())"
    # What its driver sets for itself.
    own_environment = {"MPLBACKEND", "MPLCONFIGDIR", "IPYTHONDIR", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}


class Node:
    language = "node"
    keep, kept = "const kept = 41", "console.log(kept)"
    lost = "ReferenceError"
    fails = "console.log('before'); throw new TypeError('no such luck')"
    message, trace = "TypeError: no such luck", "    at "
    no_syntax, syntax_error = "const = 1", "SyntaxError"
    loop = "console.log('begun'); while (true);"
    deaf = "console.log('begun'); require('crypto').pbkdf2Sync('a', 'b', 2 ** 30, 64, 'sha512')"
    write = "process.{stream}.write('x'.repeat({size})); undefined"
    value = "'x'.repeat({size})"
    hoard = "const parts = []; while (true) parts.push(Buffer.alloc(1 << 20, 'x'))"
    child = "require('child_process').spawnSync({0!r}, {{ shell: true, stdio: 'inherit' }}); undefined"
    die = "process.kill(process.pid, 'SIGKILL'); while (true);"
    leave = "process.abort()"
    await_go = (
        "const seen = () => require('fs').existsSync('/mnt/data/go')\n"
        "while (!seen()) await new Promise(r => setTimeout(r, 20))\nconsole.log('gone on')"
    )
    copy = (
        "const fs = require('fs')\n"
        "fs.writeFileSync('/mnt/data/out', fs.readFileSync('/mnt/data/in', 'utf8').toUpperCase())"
    )
    environment = "console.log(JSON.stringify(process.env))"
    work = "console.log(process.cwd())"
    own_environment = set()


class Shell:
    language = "shell"
    keep, kept = "kept=41", "echo ${kept?not there}"
    lost = "not there"
    fails = "echo before; no-such-program"
    message, trace = None, "no-such-program: command not found"
    no_syntax, syntax_error = "if then", "syntax error"
    loop = "echo begun; while :; do :; done"
    deaf = "trap '' INT; echo begun; while :; do :; done"
    write = "head -c {size} /dev/zero | tr '\\0' x | if [ {stream} = stderr ]; then cat >&2; else cat; fi"
    value = None
    hoard = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); while :; do x=$x$x; done"
    child = "{0}"
    die = "kill -9 $PPID; sleep 10"
    leave = die
    await_go = "until [ -e /mnt/data/go ]; do sleep 0.02; done; echo gone on"
    copy = "tr a-z A-Z </mnt/data/in >/mnt/data/out"
    environment = "jq -n env 2>/dev/null || python3 -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    work = "pwd"
    own_environment = {"PWD", "OLDPWD", "SHLVL", "_"}


LANGUAGES = {kind.language: kind for kind in (Python, Node, Shell)}


class Cell:
    """A session of a type of pool, and one of its languages."""

    def __init__(self, session, type, language):
        self.session, self.type, self.language = session, type, language
        self.code = LANGUAGES[language]

    def post(self, code, **how):
        if self.language == "shell":
            return self.session.call("POST", "executions", {"shellCommand": code, **how})
        return self.session.post(code, language=self.language, **how)

    def succeeds(self, code, **how):
        document = self.post(code, **how).ok().json
        assert document["status"] == ("0" if self.language == "shell" else "Succeeded"), document
        return document["result"]

    def fails(self, code, status="1", **how):
        """The whole document of a failure; status is that of a command."""
        document = self.post(code, **how).ok().json
        assert document["status"] == (status if self.language == "shell" else "Failed"), document
        if self.language == "shell":
            assert document["result"]["exitCode"] == int(status)
        return document

    def has_lost(self):
        """Whether what keep set is gone."""
        document = self.post(self.code.kept).ok().json
        return self.code.lost in document["result"]["stderr"]


@pytest.fixture(scope="module")
def pools(daemon):
    made = {type: daemon.make_pool(type=type) for type in RUNTIME}
    yield made
    for p in made.values():
        p.delete()


@pytest.fixture(scope="module")
def small_pools(daemon):
    made = {type: daemon.make_pool(type=type, maximum=5, ready=1, limits={"memory": "256Mi"}) for type in RUNTIME}
    yield made
    for p in made.values():
        p.delete()


@pytest.fixture(params=CELLS, ids=[f"{type}-{language}" for type, language in CELLS])
def cell(request, pools):
    type, language = request.param
    session = pools[type].session()
    yield Cell(session, type, language)
    session.delete()


@pytest.fixture(params=CELLS, ids=[f"{type}-{language}" for type, language in CELLS])
def small(request, small_pools):
    type, language = request.param
    session = small_pools[type].session()
    yield Cell(session, type, language)
    session.delete()


def test_state_is_kept(cell):
    assert cell.has_lost()
    cell.succeeds(cell.code.keep)
    assert cell.succeeds(cell.code.kept)["stdout"] == "41\n"


def test_error(cell):
    document = cell.fails(cell.code.fails, status="127")
    assert document["result"]["stdout"] == "before\n"
    assert cell.code.trace in document["result"]["stderr"]
    if cell.code.message:
        assert document["error"]["code"] == "CodeExecutionFailed"
        assert document["error"]["message"] == cell.code.message
        assert cell.code.message in document["result"]["stderr"]
    # Nothing of the driver is in what the caller sees.
    assert "/opt/bivouac" not in document["result"]["stderr"]


def test_syntax_error(cell):
    cell.succeeds(cell.code.keep)
    document = cell.fails(cell.code.no_syntax, status="2")
    assert cell.code.syntax_error in document["result"]["stderr"]
    assert cell.succeeds(cell.code.kept)["stdout"] == "41\n"


def timed_out(cell, code):
    """Whether its kernel was restarted for it. Whatever else happens, the output so far is there."""
    cell.succeeds(cell.code.keep.replace("const ", "var "))
    document = cell.fails(code, status="124", timeoutInSeconds=2)
    assert document["error"]["code"] == TIMED_OUT, document
    assert TIMEOUT_TEXT in document["result"]["stderr"]
    assert document["result"]["stdout"] == "begun\n", document
    restarted = "restarted" in document["result"]["stderr"]
    assert cell.has_lost() == restarted, document
    return restarted


def test_timeout_interrupts(cell):
    # On a machine that is busy enough an interrupt is not heeded in time, and that is said.
    assert any(not timed_out(cell, cell.code.loop) for _ in range(3))
    assert cell.succeeds(cell.code.kept)["stdout"] == "41\n"


def test_timeout_of_what_ignores_the_interrupt(cell):
    cell.session.upload(("in", b"there")).ok()
    assert timed_out(cell, cell.code.deaf)
    cell.succeeds(cell.code.copy)
    assert cell.session.download("out").ok().body == b"THERE"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_cut(cell, stream):
    other = "stderr" if stream == "stdout" else "stdout"
    result = cell.succeeds(cell.code.write.format(stream=stream, size=4096))
    assert (result[stream], result[other]) == ("x" * 4096, "")
    result = cell.succeeds(cell.code.write.format(stream=stream, size=4097))
    assert result[other] == ""
    assert result[stream].startswith(f"{'x' * 4096}\n[{stream} truncated: 4096 of 4097 bytes shown")
    text = cell.succeeds(cell.code.write.format(stream=stream, size=1 << 20), outputStreamsMaxLength=1 << 20)
    assert text[stream] == "x" * (1 << 20)


def test_floods_are_cut(cell):
    """More than any buffer on the way holds."""
    result = cell.succeeds(cell.code.write.format(stream="stdout", size=32 << 20))
    assert f"4096 of {32 << 20} bytes shown" in result["stdout"] and len(result["stdout"]) < 4500


def test_large_value(cell):
    if not cell.code.value:
        assert set(cell.succeeds("true")) == {"stdout", "stderr", "exitCode", "executionTimeInMilliseconds"}
        return
    assert cell.succeeds(cell.code.value.format(size=4 << 20))["executionResult"] == "x" * (4 << 20)
    # Larger than results may be: it does not come, and the session goes on.
    document = cell.post(cell.code.value.format(size=9 << 20)).ok().json
    assert len(json.dumps(document)) < 9 << 20
    assert cell.session.post(cell.code.value.format(size=3), language=cell.language).ok().json["result"][
        "executionResult"
    ] == "xxx"


def test_out_of_memory(small):
    small.session.upload(("in", b"there")).ok()
    small.succeeds(small.code.keep)
    document = small.fails(small.code.hoard, status="137")
    assert document["error"]["code"] == NO_MEMORY, document
    assert "256 MiB" in document["result"]["stderr"]
    # Of a shell's command only what took the memory ends, at worst bash, whose state is kept.
    assert small.has_lost() == (small.language != "shell")
    small.succeeds(small.code.copy)
    assert small.session.download("out").ok().body == b"THERE"


def test_memory_that_a_child_ran_out_of(small):
    """The code itself goes on; its result says what happened all the same."""
    result = small.succeeds(small.code.child.format("head -c 2000000000 /dev/zero | sort | wc -c"))
    assert "[The session ran out of memory: 1 process was ended.]" in result["stderr"], result
    assert small.succeeds(small.code.child.format("true"))["stderr"] == ""


@pytest.mark.parametrize("way", ["die", "leave"])
def test_kernel_that_dies(cell, way):
    cell.session.upload(("in", b"there")).ok()
    cell.succeeds(cell.code.keep)
    document = cell.fails(getattr(cell.code, way), status="137")
    assert document["error"]["code"] == DIED, document
    assert cell.has_lost()
    cell.succeeds(cell.code.copy)
    assert cell.session.download("out").ok().body == b"THERE"


def test_kernel_that_dies_leaves_the_other_language(cell):
    """The other kernels of the session, with their state."""
    others = [Cell(cell.session, t, l) for t, l in CELLS if t == cell.type and l != cell.language]  # noqa: E741
    for other in others:
        other.succeeds(other.code.keep)
    assert cell.fails(cell.code.die, status="137")["error"]["code"] == DIED
    for other in others:
        assert other.succeeds(other.code.kept)["stdout"] == "41\n"


def test_asynchronous(cell):
    first = cell.post(cell.code.await_go, executionType="Asynchronous").ok(202).json["id"]
    behind = cell.post(cell.code.keep, executionType="Asynchronous").ok(202).json["id"]
    wait_for(lambda: cell.session.execution(first)["status"] == "Running", 20, "it runs")
    assert cell.session.execution(behind)["status"] == "NotStarted"
    cell.session.upload(("go", b"")).ok()
    document = cell.session.finished(first)
    assert document["result"]["stdout"] == "gone on\n" and "error" not in document
    assert document["executionType"] == "Asynchronous"
    assert "error" not in cell.session.finished(behind)


def test_files(cell):
    cell.session.upload(("in", "déjà vu".encode())).ok()
    assert cell.succeeds(cell.code.work)["stdout"] == "/mnt/data\n"
    cell.succeeds(cell.code.copy)
    assert cell.session.download("out").ok().text.startswith("D")
    assert sorted(cell.session.names()) == ["in", "out"]


def test_environment(cell):
    """What the recipe says, what every kernel has, and nothing of the daemon's."""
    found = json.loads(cell.succeeds(cell.code.environment, outputStreamsMaxLength=1 << 16)["stdout"])
    image = IMAGES / (BIN_DIR / f"{RUNTIME[cell.type]}.image-id").read_text().strip()
    recipe = (image / "recipe").read_text().splitlines()
    lines = [line.partition("=")[2].strip() for line in recipe if line.startswith("environment ")]
    named = dict(line.split("=", 1) for line in lines)
    assert named.items() <= found.items()
    usual = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "PAGER", "GIT_PAGER", "TERM", "SHELL"}
    assert found["HOME"] == "/home/session" and found["PATH"].startswith("/home/session/.local/bin:")
    assert set(found) - usual - set(named) - cell.code.own_environment == set()


def test_a_context_of_its_own(cell):
    how = {"context": "mine"}
    cell.session.call("PUT", "contexts/mine", {"language": cell.language}).ok(201)
    cell.succeeds(cell.code.keep, **how)
    assert cell.succeeds(cell.code.kept, **how)["stdout"] == "41\n"
    assert cell.has_lost()  # in the other one
    cell.session.call("POST", "contexts/mine/restart").ok()
    assert cell.code.lost in cell.post(cell.code.kept, **how).ok().json["result"]["stderr"]


def test_daemon_killed_in_mid_execution():
    """The next daemon takes over what runs, what waits and what is kept, in every language."""
    daemon = Daemon()
    try:
        pools = {type: daemon.make_pool(type=type, maximum=5, ready=1) for type in RUNTIME}
        sessions = {type: p.session() for type, p in pools.items()}
        cells = [Cell(sessions[type], type, language) for type, language in CELLS]
        for c in cells:
            c.succeeds(c.code.keep)
        ids = [c.post(c.code.await_go, executionType="Asynchronous").ok(202).json["id"] for c in cells]
        behind = [c.post(c.code.kept, executionType="Asynchronous").ok(202).json["id"] for c in cells]
        for c, execution in zip(cells, ids):
            wait_for(lambda: c.session.execution(execution)["status"] == "Running", 20, "it runs")
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.process.wait()
        daemon.start()
        for type, p in pools.items():
            sessions[type].pool = again = Pool(daemon, p.name)
            assert again.identifiers() == [sessions[type].identifier]
            sessions[type].upload(("go", b"")).ok()
        for c, execution, waiting in zip(cells, ids, behind):
            assert c.session.finished(execution)["result"]["stdout"] == "gone on\n"
            assert c.session.finished(waiting)["result"]["stdout"] == "41\n"
            assert c.succeeds(c.code.kept)["stdout"] == "41\n"
    finally:
        daemon.stop()
        daemon.remove()
