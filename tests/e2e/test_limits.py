# SPDX-License-Identifier: Apache-2.0
"""Limits that have no better place: at the limit it works, one past it gives the documented message.

docs/limits.md has the table of all limits and of the tests elsewhere.
"""

import http.client
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
from textwrap import dedent

import pytest

from conftest import BIN_DIR, Daemon, form, wait_for, without_cgroups

MIB = 1 << 20
LIMITS = ["memory", "pids", "cpu", "swap"]
HOLD = "held = bytearray({0} << 20); len(held) >> 20"


def v1_controllers():
    """The v1 controllers of this machine that have a mount point named after them."""
    mounts = pathlib.Path("/proc/mounts").read_text()
    return {
        word
        for word in ("memory", "pids", "cpu")
        if re.search(rf"^\S+ /sys/fs/cgroup/{word} cgroup ", mounts, re.M)
    }


def unenforced(pool):
    return pool.arm("GET").ok().json["properties"].get("unenforced")


# --- open files ---


def test_open_files(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"openFiles": 64}).session()
    code = dedent(
        """
        import os
        files = []
        try:
            while True: files.append(os.open('/dev/null', os.O_RDONLY))
        except OSError as e:
            text = e.strerror
        highest = max(files)
        for f in files: os.close(f)
        (highest, text)
        """
    )
    # Descriptor 63 is the 64th; one more is refused.
    assert session.value(code) == "(63, 'Too many open files')"
    # Every process has the limit, none can raise it, and the session works on, also with many files at once.
    assert session.stdout("!ulimit -n; ulimit -Hn") == "64\n64\n"
    raised = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (65, 65))"
    error, _ = session.fails(raised)
    assert re.match("(ValueError|PermissionError)", error["message"])
    files = [(f"f{i}", b"x") for i in range(60)]
    session.upload(*files).ok()
    assert len(session.names()) == 60


def test_open_files_stay_after_a_restart_of_the_kernel(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"openFiles": 100, "pids": 30}).session()
    session.fails("import os; os._exit(1)")
    limits = "import resource as r; (r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_NPROC))"
    assert session.value(limits) == "((100, 100), (30, 30))"


def test_locked_memory(session):
    code = dedent(
        """
        import ctypes, mmap
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        area = mmap.mmap(-1, 9 << 20)
        at = ctypes.addressof(ctypes.c_char.from_buffer(area))
        exact = libc.mlock(at, 8 << 20)
        libc.munlock(at, 8 << 20)
        over = libc.mlock(at, (8 << 20) + 1)
        (exact, over, ctypes.get_errno())
        """
    )
    assert session.value(code) == "(0, -1, 12)"  # ENOMEM


# --- processes ---

FORKS = dedent(
    """
    import os, signal
    children, text = [], ''
    try:
        while len(children) < 100:
            pid = os.fork()
            if pid == 0: signal.pause()
            children.append(pid)
    except BlockingIOError as e:
        text = str(e)
    for pid in children:
        os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    (len(children), text)
    """
)
# The agent, the kernel, and these.
FORKS_OF_24 = "(22, '[Errno 11] Resource temporarily unavailable')"


def test_processes(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"pids": 24}).session()
    assert session.value(FORKS) == FORKS_OF_24
    threads = dedent(
        """
        import threading
        stop, threads, text = threading.Event(), [], ''
        try:
            while len(threads) < 100:
                threads.append(threading.Thread(target=stop.wait)); threads[-1].start()
        except RuntimeError as e:
            text = str(e)
        stop.set()
        for t in threads[:-1]: t.join()
        (len(threads) - 1, text)
        """
    )
    assert session.value(threads) == '(22, "can\'t start new thread")'


def test_processes_of_one_session_are_not_anothers(make_pool):
    pool = make_pool(maximum=3, ready=1, limits={"pids": 24})
    full, other = pool.session(), pool.session()
    job = full.background(
        FORKS.replace("for pid in children:", "import time; time.sleep(2)\nfor pid in children:")
    )
    assert other.value(FORKS) == FORKS_OF_24
    assert job.result().ok().json["result"]["executionResult"] == FORKS_OF_24


# --- storage ---


@pytest.mark.parametrize("where", ["/tmp", "/home/session", "/mnt/data", "/dev/shm"])
def test_inodes(make_pool, where):
    session = make_pool(maximum=2, ready=1, limits={"inodes": 64}).session()
    code = dedent(
        f"""
        import os
        free, n, text = os.statvfs({where!r}).f_ffree, 0, ''
        try:
            while n < 100:
                open(f'{where}/{{n}}', 'w').close(); n += 1
        except OSError as e:
            text = e.strerror
        (free <= 64, n == free, text)
        """
    )
    assert session.value(code) == "(True, True, 'No space left on device')"


@pytest.mark.parametrize(
    "where, name", [("/tmp", "tmpSize"), ("/dev/shm", "tmpSize"), ("/mnt/data", "dataSize")]
)
def test_storage_to_the_byte(make_pool, where, name):
    session = make_pool(maximum=2, ready=1, limits={name: "2Mi"}).session()
    code = f"f = open('{where}/f', 'wb', buffering=0); (f.write(bytes(2 << 20)) >> 20, f.close())"
    assert session.value(code) == "(2, None)"
    error, _ = session.fails(f"open('{where}/f', 'ab', buffering=0).write(b'x')")
    assert "No space left on device" in error["message"]


# --- memory ---

COUNTS = "Files in /mnt/data, /tmp, /dev/shm and the home directory count as memory."
FILL = {
    "variables": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "files": "f = open('/mnt/data/fill', 'wb')\nfor _ in range(400): f.write(bytes(1 << 20))",
    "shm": "f = open('/dev/shm/fill', 'wb')\nfor _ in range(400): f.write(bytes(1 << 20))",
    "memfd": "import os\nf = os.memfd_create('x')\nfor _ in range(400): os.write(f, bytes(1 << 20))",
}


@pytest.mark.parametrize("what", FILL)
def test_memory_message_names_the_limit(make_pool, what):
    session = make_pool(maximum=2, ready=1, limits={"memory": "160Mi", "tmpSize": "500Mi"}).session()
    error, stderr = session.fails(FILL[what])
    assert error["code"] == "ExecutionOutOfMemory"
    assert "the session reached its memory limit of 160 MiB (sessionLimits.memory)" in stderr
    assert stderr.endswith(COUNTS)


def test_memory_at_the_limit(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"memory": "200Mi"}).session()
    assert session.value(HOLD.format(120)) == 120
    assert session.fails(HOLD.format(220))[0]["code"] == "ExecutionOutOfMemory"


# --- maxMemory of a call ---


def test_max_memory(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"memory": "400Mi"}).session()
    session.run("open('kept', 'w').write('file')")
    assert session.value(HOLD.format(60), maxMemory="200Mi") == 60
    error, stderr = session.fails(HOLD.format(250), maxMemory="200Mi")
    assert error["code"] == "ExecutionOutOfMemory"
    assert "it reached its memory limit of 200 MiB (maxMemory)" in stderr
    # The pool's limit is back, for the kernel that came instead too, and files are kept.
    assert session.value(HOLD.format(250)) == 250
    assert session.value("open('kept').read()") == "file"


@pytest.mark.parametrize("name", ["maxMemory", "max_memory", "MAXMEMORY"])
@pytest.mark.parametrize("value", ["64Mi", 64 * MIB, "400Mi", 400 * MIB, "67108864", None])
def test_max_memory_in_range(make_pool, name, value):
    session = make_pool(maximum=2, ready=1, limits={"memory": "400Mi"}).session()
    assert session.value("1 + 1", **{name: value}) == 2


def test_max_memory_out_of_range(make_pool):
    pool = make_pool(maximum=2, ready=1, limits={"memory": "400Mi"})
    session = pool.session()
    for value in ("401Mi", 400 * MIB + 1, "1Ti"):
        message = session.post("1", maxMemory=value).error(400)["message"]
        assert "maxMemory" in message and "sessionLimits.memory" in message
        assert str(400 * MIB) in message
    for value in (64 * MIB - 1, "63Mi", 0, -1, "", "much", "64 Mi", True, 1.5, [], {}):
        message = session.post("1", maxMemory=value).error(400)["message"]
        assert "maxMemory must be" in message and "64Mi" in message
    # A request that is wrong costs no session.
    assert pool.identifiers() == []


def test_max_memory_below_what_is_held(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"memory": "400Mi"}).session()
    session.run(HOLD.format(150))
    message = session.post("held = None", maxMemory="100Mi").error(409, "Conflict")["message"]
    held = int(re.search(r"the session holds (\d+) MiB", message).group(1))
    assert 150 <= held < 220 and "would be 100 MiB" in message and "Nothing was run" in message
    document = session.finished(session.start("held = None", maxMemory="100Mi"))
    assert document["status"] == "Failed"
    assert document["error"]["code"] == "ExecutionOutOfMemory"
    assert "Nothing was run" in document["error"]["message"]
    # Nothing was run, nothing was killed, and the pool's limit holds.
    assert session.value("len(held) >> 20") == 150
    assert session.value("more = bytearray(150 << 20); len(more) >> 20") == 150
    session.run("del held, more")
    assert session.value("1", maxMemory="100Mi") == 1


def test_max_memory_in_the_queue(make_pool):
    """Each execution of a queue has its own limit, in whatever order they come."""
    session = make_pool(maximum=2, ready=1, limits={"memory": "400Mi"}).session()
    gate = session.start("import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)")
    limits = ["100Mi", None, "100Mi", "300Mi", None]
    codes = [HOLD.format(150) + "\nheld = None"] * len(limits)
    ids = [session.start(code, maxMemory=limit) for code, limit in zip(codes, limits)]
    session.upload(("go", b"")).ok()
    states = [session.finished(i)["status"] for i in ids]
    assert states == ["Failed", "Succeeded", "Failed", "Succeeded", "Succeeded"]
    assert session.finished(gate)["status"] == "Succeeded"


def test_max_memory_is_gone_when_the_execution_is(make_pool):
    """What goes on after the execution, and after its timeout, is under the pool's limit."""
    session = make_pool(maximum=2, ready=1, limits={"memory": "400Mi"}).session()
    error, _ = session.fails("while True: pass", maxMemory="100Mi", timeoutInSeconds=0.5)
    assert error["code"] == "ExecutionTimeout"
    for name in ("big", "big2"):
        session.upload((name, bytes(75 * MIB))).ok()
    assert session.value(HOLD.format(150)) == 150


def test_max_memory_over_a_restart_of_the_daemon():
    d = Daemon()
    try:
        session = d.make_pool(maximum=2, ready=1, limits={"memory": "400Mi"}).session()
        wait = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
        limited = session.start(wait + HOLD.format(150), maxMemory="100Mi")
        queued = session.start("1", maxMemory="64Mi")
        wait_for(lambda: session.execution(limited)["status"] == "Running")
        d.process.send_signal(signal.SIGKILL)
        d.process.wait()
        d.process.stdout.close()
        d.start()
        session.pool.client.address = d.address
        session.pool.client.token = d.token
        assert session.execution(limited)["status"] == "Running"
        session.upload(("go", b"")).ok()
        document = session.finished(limited)
        assert document["error"]["code"] == "ExecutionOutOfMemory"
        assert "100 MiB (maxMemory)" in document["error"]["message"]
        assert session.finished(queued)["status"] == "Succeeded"
        assert session.value(HOLD.format(250)) == 250
    finally:
        d.stop()
        d.remove()


# --- results and requests ---


def test_displays(session):
    code = dedent(
        """
        import base64
        from IPython.display import Image, display
        png = base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')
        for _ in range({0}): display(Image(png))
        """
    )
    assert len(session.result(code.format(32))["displayData"]) == 32
    # The limit is on what is sent back; the code runs on, and the last image is the result.
    over = session.result(code.format(33))
    assert len(over["displayData"]) == 32 and over["executionResult"]["type"] == "image"


def test_result_limit():
    d = Daemon("--result-max", "4096")
    try:
        session = d.make_pool(maximum=2, ready=1).session()
        assert session.value("'x' * 4096") == "x" * 4096
        assert session.value("'x' * 4097") == "<value too large to return>"
    finally:
        d.stop()
        d.remove()


PICTURES = dedent(
    """
    from IPython.display import Image, display
    png = bytes.fromhex('89504e470d0a1a0a') + bytes(8000)
    for _ in range(3): display(Image(png, format='png'))
    """
)


def kept(session, ids):
    return [session.call("GET", f"executions/{execution}").status == 200 for execution in ids]


def test_queued_code():
    d = Daemon("--queued-code-max", "2048", "--ready", "1")
    try:
        session = d.make_pool(maximum=2, ready=1).session()
        session.run("1")
        session.start("import time; time.sleep(60)")
        session.start("1" + "#" * 1022)
        session.start("2" + "#" * 1024)
        message = session.post("3", executionType="Asynchronous").error(429, "SessionQueueFull")["message"]
        assert "2049 bytes of code" in message and "the limit is 2048 (--queued-code-max)" in message
    finally:
        d.stop()
        d.remove()


def test_results_kept():
    d = Daemon("--results-kept-max", "100000")
    try:
        session = d.make_pool(maximum=2, ready=1).session()
        ids = [session.run("'x' * 45000")["id"] for _ in range(2)]
        assert kept(session, ids) == [True, True]
        ids.append(session.start("'x' * 45000"))
        session.finished(ids[2])
        assert kept(session, ids) == [False, True, True]
        message = session.call("GET", f"executions/{ids[0]}").error(404, "SessionExecutionNotFound")["message"]
        assert "100000 bytes of results together (--results-kept-max)" in message
        # One that is too large by itself stays until the next one.
        ids.append(session.start("'x' * 1000000"))
        session.finished(ids[3])
        assert kept(session, ids) == [False, False, False, True]
        ids.append(session.run("1")["id"])
        assert kept(session, ids) == [False, False, False, False, True]
        # Pictures count as well.
        ids = [session.run(PICTURES)["id"] for _ in range(3)]
        assert kept(session, ids) == [False, True, True]
    finally:
        d.stop()
        d.remove()


def test_buffers():
    """Replies that nobody reads take what the option gives them, and no more."""
    d = Daemon("--buffers-max", str(24 * MIB), "--ready", "1")
    try:
        session = d.make_pool(maximum=2, ready=1).session()
        execution = session.run("'x' * (7 << 20)")["id"]
        path = session.path(f"executions/{execution}")
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {d.token}\r\n\r\n"
        silent = [socket.socket() for _ in range(3)]
        for s in silent:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.settimeout(30)
            s.connect(d.address)
            s.sendall(head.encode())
            assert s.recv(12) == b"HTTP/1.1 200"
        reply = session.call("GET", f"executions/{execution}")
        error = reply.error(503, "ServiceUnavailable")
        assert "--buffers-max" in error["message"] and reply.headers["Retry-After"] == "1"
        # A body is refused before its code runs.
        reply = session.post("seen = True #" + "x" * (4 * MIB - 100))
        assert "--buffers-max" in reply.error(503, "ServiceUnavailable")["message"]
        assert reply.headers["Retry-After"] == "1"
        assert session.value("'seen' in globals()") is False
        # What has run must not be run again: no Retry-After.
        reply = session.post("ran = 'x' * (4 << 20); ran")
        assert "has been carried out" in reply.error(503, "ServiceUnavailable")["message"]
        assert "Retry-After" not in reply.headers
        assert session.value("len(ran)") == 4 << 20
        silent.pop().close()
        wait_for(lambda: session.call("GET", f"executions/{execution}").status == 200, 10, "room again")
        for s in silent:
            s.close()
    finally:
        d.stop()
        d.remove()


def test_upload_parts(session):
    session.upload(*[(f"f{i:02}", b"") for i in range(64)]).ok()
    assert len(session.names()) == 64
    message = session.upload(*[(f"g{i:02}", b"") for i in range(65)]).error(400)["message"]
    assert "more than 64 parts" in message
    # Those before it may be there, whole; the one too many is not.
    assert "g64" not in session.names()


def test_path_length_and_depth(session):
    deep = "/".join(["d"] * 63) + "/f"
    session.upload((deep, b"64 names")).ok()
    assert "deeper than 64" in session.upload(("d/" + deep, b"65")).error(400)["message"]
    session.upload(("n" * 255, b"")).ok()
    session.upload(("n" * 256, b"")).error(400)
    assert session.download("n" * 255).ok()


def test_async_timeout_at_the_maximum(session):
    session.finished(session.start("1", timeoutInSeconds=604800))
    reply = session.post("1", executionType="Asynchronous", timeoutInSeconds=604801)
    assert "at most 604800" in reply.error(400)["message"]


# --- what the machine does not enforce ---


def test_everything_is_enforced_here(pool, daemon):
    if v1_controllers() != {"memory", "pids", "cpu"}:
        pytest.skip("this machine does not have all cgroup v1 controllers")
    assert unenforced(pool) is None
    assert "does not enforce" not in daemon.stderr()


@pytest.fixture(scope="module")
def bare():
    """A daemon on a machine without cgroups."""
    d = Daemon(wrapper=without_cgroups("all"))
    yield d
    d.stop()
    d.remove()


def test_missing_controllers_are_named(bare):
    assert unenforced(bare.default_pool())[:3] == ["memory", "pids", "cpu"]
    assert "this machine does not enforce: memory pids cpu" in bare.stderr()
    assert bare.default_pool().session().value("1 + 1") == 2


def crippled(*words):
    return [sys.executable, pathlib.Path(__file__).with_name("crippled.py"), *words, "--"]


@pytest.mark.parametrize(
    "words, named",
    [
        (["landlock"], "landlock"),
        (["listener"], "refused-call-names"),
        (["landlock", "listener"], "landlock refused-call-names"),
    ],
)
def test_missing_defences_are_named(words, named):
    d = Daemon(wrapper=crippled(*words))
    try:
        pool = d.default_pool()
        assert [word for word in unenforced(pool) if word not in LIMITS] == named.split()
        line = next(line for line in d.stderr().splitlines() if "does not enforce" in line)
        assert f"{named};" in line
        assert pool.session().value("6 * 7") == 42
    finally:
        d.stop()
        d.remove()


def test_strict_names_missing_defences(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("bivouacd must be started as root")
    done = start_strict(crippled("landlock", "listener"), tmp_path)
    assert (done.returncode, done.stdout) == (69, ""), done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("bivouacd:"))
    assert "landlock refused-call-names." in line
    for hint in ("for landlock: ", "for refused-call-names: ", "for swap: "):
        assert hint in line


def test_processes_are_bounded_without_a_controller(bare):
    session = bare.make_pool(maximum=2, ready=1, limits={"pids": 24}).session()
    assert session.value(FORKS) == FORKS_OF_24


def test_max_memory_without_a_controller(bare):
    session = bare.default_pool().session()
    message = session.post("1", maxMemory="100Mi").error(400, "SessionRequestNotSupported")["message"]
    assert "no memory controller" in message
    assert session.value("2") == 2


@pytest.mark.parametrize("word", ["memory", "pids", "cpu"])
def test_one_missing_controller(word):
    if word not in v1_controllers():
        pytest.skip(f"no v1 {word} controller here to take away")
    d = Daemon(wrapper=without_cgroups(word))
    try:
        pool = d.make_pool(maximum=2, ready=1, limits={"memory": "200Mi"})
        assert unenforced(pool) == [word]
        assert f"this machine does not enforce: {word};" in d.stderr()
        session = pool.session()
        assert session.value("1 + 1") == 2
        if word != "memory":
            assert session.fails(HOLD.format(250))[0]["code"] == "ExecutionOutOfMemory"
    finally:
        d.stop()
        d.remove()


def test_read_only_cgroups():
    if "memory" not in v1_controllers():
        pytest.skip("no v1 memory controller here to make read-only")
    hide = 'mount -o remount,bind,ro /sys/fs/cgroup/memory && exec "$@"'
    d = Daemon(wrapper=["unshare", "--mount", "sh", "-c", hide, "sh"])
    try:
        assert unenforced(d.default_pool()) == ["memory"]
        assert d.default_pool().session().value("1 + 1") == 2
    finally:
        d.stop()
        d.remove()


def start_strict(wrapper, tmp_path):
    command = [*wrapper, BIN_DIR / "bivouacd", "--dev", "--listen", "127.0.0.1:0", "--strict"]
    command += ["--state", tmp_path / "state", "--run-dir", tmp_path / "run"]
    tmp_path.chmod(0o755)
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


def test_strict_refuses_to_start(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("bivouacd must be started as root")
    done = start_strict(without_cgroups("all"), tmp_path)
    assert done.returncode == 69, done.stderr
    assert done.stdout == ""
    line = next(line for line in done.stderr.splitlines() if line.startswith("bivouacd:"))
    assert "--strict" in line and "memory pids cpu" in line and "bivouac doctor" in line


def test_strict_starts_where_all_is_enforced():
    if v1_controllers() != {"memory", "pids", "cpu"}:
        pytest.skip("this machine does not have all cgroup v1 controllers")
    d = Daemon("--strict")
    d.stop()
    d.remove()


# --- connections ---


def healthy(raw):
    raw.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    return raw.reply("GET").status


def test_connections():
    d = Daemon("--connections-max", "8")
    try:
        held = [d.raw() for _ in range(8)]
        assert [healthy(raw) for raw in held] == [200] * 8
        # One more is served; one of those that are silent makes room.
        with d.raw() as over:
            assert healthy(over) == 200
            still = 0
            for raw in held:
                try:
                    still += healthy(raw) == 200
                except (OSError, http.client.HTTPException):
                    pass
            assert still == 7
    finally:
        d.stop()
        d.remove()


def test_idle_timeout():
    d = Daemon("--idle-timeout", "1")
    try:
        with d.raw() as silent, d.raw() as half:
            half.send("GET /health HTT")
            assert silent.read_all() == b""
            half.read_all()  # closed, with or without a word
        session = d.default_pool().session()
        # A request that is being answered is not idle.
        assert session.value("import time; time.sleep(2.5); 'late'") == "late"
    finally:
        d.stop()
        d.remove()


# --- bodies and transfers ---


def test_depth_of_json(session):
    for depth, status in ((63, 200), (64, 400)):
        # One level is the body itself.
        body = '{"code": "1", "extra": ' + "[" * depth + "]" * depth + "}"
        reply = session.call("POST", "executions", body, headers={"Content-Type": "application/json"})
        assert reply.status == status, (depth, reply)
    assert "deeper than 64 levels" in reply.error(400, "InvalidRequestContent")["message"]


def test_transfers_at_once(session, daemon):
    """64 uploads that stand still; one more is refused, and there is room when they are gone."""
    session.run("1")
    body, content_type = form(("f", b"x" * 100))
    head = (
        f"POST {session.path('files')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {session.pool.client.token}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    standing = [daemon.raw() for _ in range(64)]
    for raw in standing:
        raw.send(head + body[:-60])  # in the middle of the file

    def refused():
        reply = session.upload(("more", b"x"))
        return reply if reply.status == 503 else None

    reply = wait_for(refused, 10, "all 64 have begun")
    assert "64 file operations at once" in reply.error(503, "ServiceUnavailable")["message"]
    for raw in standing:
        raw.send(body[-60:])
        assert raw.reply().status == 200
        raw.socket.close()
    session.upload(("more", b"x")).ok()
