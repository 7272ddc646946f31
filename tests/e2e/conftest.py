# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests against a real bivouacd: helpers and fixtures. Standard library only.

The programs are taken from $BIVOUAC_BIN_DIR (default: build/ of the repository). The daemon needs
root. One daemon serves the whole run; every module gets a pool of its own, every test a session.
"""

import base64
import contextlib
import ctypes
import http.client
import itertools
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.parse
import uuid

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
BIN_DIR = pathlib.Path(os.environ.get("BIVOUAC_BIN_DIR") or REPO / "build")

ZERO = "00000000-0000-0000-0000-000000000000"
GROUP_ID = f"/subscriptions/{ZERO}/resourceGroups/default"
ARM_VERSION = "2025-07-01"
NEW = "2025-10-02-preview"
OLD = "2024-02-02-preview"
NEW_VERSIONS = ["2024-10-02-preview", "2025-02-02-preview", "2025-10-02-preview"]
OLD_VERSIONS = ["2023-08-01-preview", "2024-02-02-preview", "2024-08-02-preview"]
SANITIZER = re.compile(
    r"AddressSanitizer|LeakSanitizer|UndefinedBehaviorSanitizer|runtime error:"
    r"|ThreadSanitizer|MemorySanitizer"
)
_counter = itertools.count(1)


def unique(prefix="e2e"):
    return f"{prefix}-{next(_counter)}-{uuid.uuid4().hex[:8]}"


def wait_for(condition, timeout=10, what="condition", interval=0.02):
    """Polls until condition() is true and returns its value."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(interval)


@contextlib.contextmanager
def inside(netns):
    """What this thread opens meanwhile belongs to the named network namespace; None: stays here."""
    if netns is None:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(file):
        if libc.setns(file.fileno(), 0x40000000) != 0:  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "setns")

    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{netns}") as there:
        enter(there)
        try:
            yield
        finally:
            enter(home)


class Reply:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        assert self.headers["Content-Type"].startswith("application/json"), self
        return json.loads(self.body)

    @property
    def text(self):
        return self.body.decode()

    def ok(self, status=200):
        assert self.status == status, self
        return self

    def error(self, status, code=None):
        """Asserts the service's error envelope and returns it."""
        assert self.status == status, self
        error = self.json["error"]
        assert isinstance(error["code"], str) and error["code"]
        assert isinstance(error["message"], str) and error["message"]
        assert self.headers["x-ms-error-code"] == error["code"]
        if code:
            assert error["code"] == code, self
        return error

    def __repr__(self):
        return f"<{self.status} {dict(self.headers)} {self.body[:2000]!r}>"


def encode_query(query):
    return urllib.parse.urlencode(query, quote_via=urllib.parse.quote, safe="")


class Client:
    """Requests to one host:port, each on a connection of its own."""

    def __init__(self, address, token, netns=None):
        self.address = address
        self.token = token
        self.netns = netns

    def request(self, method, path, body=None, headers=None, token=True, timeout=90):
        sent = {}
        if token is True:
            token = self.token
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if (
            body is not None
            and not isinstance(body, (bytes, str))
            and not hasattr(body, "__next__")
        ):
            body = json.dumps(body)
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        if isinstance(body, str):
            body = body.encode()
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        try:
            with inside(self.netns):
                connection.connect()
            connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()


class RawConnection:
    """A socket for what no HTTP client would send."""

    def __init__(self, address, timeout=20):
        self.socket = socket.create_connection(address, timeout=timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode())

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self):
        """Closes so that the peer sees a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def reply(self, method="POST"):
        response = http.client.HTTPResponse(self.socket, method=method)
        response.begin()
        return Reply(response.status, response.headers, response.read())

    def read_all(self):
        """Everything up to the end of the connection, b"" also if it was reset."""
        data = b""
        try:
            while chunk := self.socket.recv(65536):
                data += chunk
        except ConnectionResetError:
            pass
        return data


def form(*parts, boundary="----e2e-boundary-7MA4YWxk"):
    """multipart/form-data of (filename, bytes) parts; returns (body, content type)."""
    out = b""
    for filename, data in parts:
        name = filename if isinstance(filename, bytes) else filename.encode()
        out += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="'.encode()
            + name
            + b'"\r\nContent-Type: application/octet-stream\r\n\r\n'
            + data
            + b"\r\n"
        )
    return out + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


class Session:
    """One identifier of a pool."""

    def __init__(self, pool, identifier=None):
        self.pool = pool
        self.identifier = identifier or unique()

    def path(self, where, version=NEW, /, **query):
        merged = {"identifier": self.identifier, **query}
        if version:
            merged["api-version"] = version
        return f"{self.pool.path}/{where}?{encode_query(merged)}"

    def call(self, method, where, body=None, version=NEW, headers=None, query=None, **kw):
        return self.pool.client.request(
            method, self.path(where, version, **(query or {})), body, headers, **kw
        )

    def post(self, code, version=NEW, headers=None, timeout=90, **properties):
        body = {"codeInputType": "Inline", "executionType": "Synchronous", "code": code}
        return self.call(
            "POST", "executions", {**body, **properties}, version, headers, timeout=timeout
        )

    def run(self, code, status="Succeeded", **kw):
        """Runs code; the whole document, whose status is asserted."""
        document = self.post(code, **kw).ok().json
        assert document["status"] == status, document
        return document

    def result(self, code, **kw):
        return self.run(code, **kw)["result"]

    def value(self, code, **kw):
        """The value of the last expression of code that writes nothing."""
        result = self.result(code, **kw)
        assert (result["stdout"], result["stderr"]) == ("", ""), result
        return result["executionResult"]

    def stdout(self, code, **kw):
        result = self.result(code, **kw)
        assert result["stderr"] == "", result
        return result["stdout"]

    def fails(self, code, **kw):
        """Runs code that fails; (error object, stderr)."""
        document = self.run(code, status="Failed", **kw)
        return document["error"], document["result"]["stderr"]

    def start(self, code, **kw):
        """Asynchronous execution; its id."""
        return self.post(code, executionType="Asynchronous", **kw).ok(202).json["id"]

    def background(self, code, **kw):
        """A synchronous execution in a thread, which runs when this returns."""
        execution_id = unique("background")
        job = Background(self.post, code, headers={"operation-id": execution_id}, **kw)

        def running():
            reply = self.call("GET", f"executions/{execution_id}")
            return reply.status == 200 and reply.json["status"] == "Running"

        wait_for(running, 10, f"execution {execution_id} runs")
        return job

    def execution(self, execution_id):
        return self.call("GET", f"executions/{execution_id}").ok().json

    def finished(self, execution_id, timeout=30):
        def look():
            document = self.execution(execution_id)
            return document if document["status"] not in ("NotStarted", "Running") else None

        return wait_for(look, timeout, f"execution {execution_id} finished")

    def upload(self, *parts, version=NEW, path=None, **kw):
        body, content_type = form(*parts)
        query = {} if path is None else {"path": path}
        where = "files" if version in NEW_VERSIONS else "files/upload"
        return self.call("POST", where, body, version, {"Content-Type": content_type}, query, **kw)

    def list(self, **query):
        return self.call("GET", "files", query=query).ok().json["value"]

    def names(self, **query):
        return [entry["name"] for entry in self.list(**query)]

    def download(self, name):
        return self.call("GET", f"files/{urllib.parse.quote(name, safe='')}/content")

    def delete(self):
        return self.call("DELETE", "session")


class Pool:
    def __init__(self, daemon, name):
        self.daemon = daemon
        self.name = name
        self.path = f"{GROUP_ID}/sessionPools/{name}"
        self.arm_path = f"{GROUP_ID}/providers/Microsoft.App/sessionPools/{name}"
        self.client = Client(daemon.address, daemon.token, daemon.netns)

    def session(self, identifier=None):
        return Session(self, identifier)

    def arm(self, method, body=None, version=ARM_VERSION, headers=None):
        return self.daemon.arm.request(
            method, f"{self.arm_path}?api-version={version}", body, headers
        )

    def list_sessions(self):
        reply = self.client.request("GET", f"{self.path}/listSessions?api-version={NEW}")
        return reply.ok().json["sessions"]

    def identifiers(self):
        return [session["identifier"] for session in self.list_sessions()]

    def delete(self):
        return self.arm("DELETE").ok()


def pool_body(maximum=50, ready=None, cooldown=300, limits=None, egress=False, type="PythonLTS"):
    scale = {"maxConcurrentSessions": maximum}
    if ready is not None:
        scale["readySessionInstances"] = ready
    properties = {
        "containerType": type,
        "poolManagementType": "Dynamic",
        "scaleConfiguration": scale,
        "dynamicPoolConfiguration": {
            "lifecycleConfiguration": {
                "lifecycleType": "Timed",
                "cooldownPeriodInSeconds": cooldown,
            }
        },
        "sessionNetworkConfiguration": {"status": "EgressEnabled" if egress else "EgressDisabled"},
    }
    if limits:
        properties["sessionLimits"] = limits
    return {"location": "local", "properties": properties}


def without_cgroups(*words):
    """A wrapper that runs a command where these v1 controllers, or "all" of cgroups, are not mounted."""
    if "all" in words:
        hide = "umount -R -l /sys/fs/cgroup"
    else:
        hide = " && ".join(f"umount -l /sys/fs/cgroup/{word}" for word in words)
    return ["unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "sh"]


def descendants(pid):
    """The pids below a process."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = pathlib.Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Daemon:
    """A bivouacd of its own, in directories of its own, maybe in a network namespace of its own."""

    def __init__(self, *options, wrapper=(), netns=None):
        """wrapper: words of a command that ends by executing its remaining arguments."""
        self.netns = netns
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="bivouac-e2e-"))
        self.dir.chmod(0o755)
        self.state_dir = self.dir / "state"
        self.run_dir = self.dir / "run"
        self.stderr_path = self.dir / "stderr"
        self.options = options
        self.wrapper = wrapper
        self.process = None
        try:
            self.start()
        except BaseException:
            self.remove()
            raise

    def start(self):
        try:
            self._start()
        except BaseException:
            self._end_at_once()
            raise

    def _end_at_once(self):
        """After a failure: the daemon, its jailer and their sandboxes, as far as they are there."""
        if self.process is None:
            return
        if self.process.poll() is None:
            below = descendants(self.process.pid)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self._kill(below)
        self.process.stdout.close()

    def _kill(self, below):
        self.process.kill()
        self.process.wait()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _start(self):
        # Not `ip netns exec`: that hides /sys/fs/cgroup.
        command = ["nsenter", f"--net=/run/netns/{self.netns}", "--"] if self.netns else []
        command += [*self.wrapper, BIN_DIR / "bivouacd", "--dev", "--listen", "127.0.0.1:0"]
        command += ["--state", self.state_dir, "--run-dir", self.run_dir, *self.options]
        # Under AddressSanitizer freed memory is kept for a while; little, so that bounds can be tested.
        asan = "quarantine_size_mb=1:thread_local_quarantine_size_kb=64"
        environment = {**os.environ, "ASAN_OPTIONS": f"{asan}:{os.environ.get('ASAN_OPTIONS', '')}"}
        with open(self.stderr_path, "ab") as stderr:
            self.process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
            )
        readable, _, _ = select.select([self.process.stdout], [], [], 60)
        line = self.process.stdout.readline() if readable else b""
        assert line, f"no ready line; stderr:\n{self.stderr()}"
        self.ready = json.loads(line)
        self.base = self.ready["armEndpoint"]
        url = urllib.parse.urlsplit(self.base)
        self.address = (url.hostname, url.port)
        self.pid = self.process.pid
        self.endpoint = self.ready.get("endpoint")
        self.token = self.ready.get("token")
        self.arm_token = self.ready.get("armToken")
        self.arm = Client(self.address, self.arm_token, self.netns)

    def stderr(self):
        return self.stderr_path.read_text(errors="replace")

    def memory(self, field):
        """A field of /proc/PID/status in bytes, as VmRSS or VmHWM."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.M).group(1)) * 1024

    def reset_peak(self):
        """Makes VmHWM start again from the present size."""
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def raw(self, **kw):
        return RawConnection(self.address, **kw)

    def default_pool(self):
        return Pool(self, "default")

    def make_pool(self, name=None, **kw):
        pool = Pool(self, name or unique("pool"))
        pool.arm("PUT", pool_body(**kw)).ok()
        # The pool is there at once; its first sandboxes need a moment, which requests wait for.
        return pool

    def stop(self, timeout=60):
        """SIGTERM, and what must be true after it. What fails that leaves no directories either."""
        try:
            self._stop(timeout)
        except BaseException:
            self.remove()
            raise

    def _stop(self, timeout):
        if self.process is None or self.process.poll() is not None:
            return
        below = descendants(self.pid)
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._kill(below)
            raise AssertionError(f"SIGTERM: no end within {timeout} s\n{self.stderr()}") from None
        finally:
            self.process.stdout.close()
        assert code == 0, self.stderr()
        assert not SANITIZER.search(self.stderr()), self.stderr()
        wait_for(lambda: not any(map(alive, below)), 20, "all processes of the daemon ended")
        mounts = pathlib.Path("/proc/self/mountinfo").read_text()
        assert str(self.dir) not in mounts, "mounts left behind"

    def remove(self):
        # Mounts that are left after a failure: images are below them, which belong to all.
        for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
            if line.split()[4].startswith(f"{self.dir}/"):
                subprocess.run(["umount", "-l", line.split()[4]], check=False)
        if str(self.dir) in pathlib.Path("/proc/self/mountinfo").read_text():
            return
        shutil.rmtree(self.dir, ignore_errors=True)


class Background:
    """Calls a function in a thread; result() has its value or raises its exception."""

    def __init__(self, function, *args, **kw):
        self._outcome = None
        self._thread = threading.Thread(target=self._run, args=(function, args, kw), daemon=True)
        self._thread.start()

    def _run(self, function, args, kw):
        try:
            self._outcome = (function(*args, **kw), None)
        except BaseException as error:  # handed over to the caller of result()
            self._outcome = (None, error)

    def done(self):
        return not self._thread.is_alive()

    def result(self, timeout=90):
        self._thread.join(timeout)
        assert self._outcome is not None, "no result in time"
        if self._outcome[1]:
            raise self._outcome[1]
        return self._outcome[0]


def sandbox_pids(uid):
    """Host pids of the processes whose real uid is `uid`."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                status = pathlib.Path(f"/proc/{entry}/status").read_text()
            except OSError:
                continue
            if re.search(rf"^Uid:\s+{uid}\s", status, re.M):
                found.append(int(entry))
    return found


def png_size(data):
    """(width, height) of a PNG given as base64 or bytes."""
    if isinstance(data, str):
        data = base64.b64decode(data, validate=True)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def pytest_configure(config):
    config.addinivalue_line("markers", "expiry: waits for a session to expire; runs last")


def pytest_make_parametrize_id(val):
    """Long values make unreadable names."""
    if isinstance(val, (str, bytes)) and len(val) > 60:
        return f"{ascii(val[:40])}+{len(val) - 40}"
    return None


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("expiry") is not None)


@pytest.fixture(scope="session")
def daemon():
    if os.geteuid() != 0:
        pytest.skip("bivouacd must be started as root")
    if not (BIN_DIR / "bivouacd").exists():
        pytest.skip(f"no bivouacd in {BIN_DIR}; build it or set BIVOUAC_BIN_DIR")
    d = Daemon()
    tokens = {"token", "armToken", "identityEndpoint", "identityHeader"}
    assert set(d.ready) == {"endpoint", "armEndpoint"} | tokens
    yield d
    d.stop()
    d.remove()


@pytest.fixture(scope="module")
def pool(daemon):
    p = daemon.make_pool(maximum=200)
    yield p
    p.delete()


@pytest.fixture(scope="module")
def shell_pool(daemon):
    p = daemon.make_pool(type="Shell", maximum=100)
    yield p
    p.delete()


@pytest.fixture
def session(pool):
    s = pool.session()
    yield s
    s.delete()


@pytest.fixture
def new_session(pool):
    """A function that makes sessions, which end with the test."""
    made = []

    def make(identifier=None):
        made.append(pool.session(identifier))
        return made[-1]

    yield make
    for s in made:
        s.delete()


@pytest.fixture
def make_pool(daemon):
    """A function that makes pools, which end with the test."""
    made = []

    def make(**kw):
        made.append(daemon.make_pool(**kw))
        return made[-1]

    yield make
    for p in made:
        p.delete()


def _expire(p):
    """Two sessions with the shortest cooldown; one is asked again. When each was last asked and last seen."""
    alone, again = p.session("expires-alone"), p.session("expires-later")
    asked, seen = {}, {}
    for s in (alone, again):
        s.run("x = 1")
        asked[s.identifier] = time.time()
    wait_for(lambda: time.time() > asked[again.identifier] + 5, interval=0.5)
    assert again.value("x") == 1
    asked[again.identifier] = time.time()

    def look():
        # listSessions is no request of a session: it keeps none alive.
        now = time.time()
        for identifier in p.identifiers():
            seen[identifier] = now
        return now > seen.get(again.identifier, now) + 1

    wait_for(look, 80, "both sessions expire", 0.25)
    return {identifier: seen[identifier] - asked[identifier] for identifier in asked}


@pytest.fixture(scope="session")
def expiring(daemon):
    """A pool, and a job that lets two of its sessions expire while other tests run."""
    p = daemon.make_pool(maximum=5, ready=1, cooldown=60)
    yield p, Background(_expire, p)
    p.delete()


@pytest.fixture(scope="session", autouse=True)
def _start_expiring(request):
    if any(item.get_closest_marker("expiry") for item in request.session.items):
        request.getfixturevalue("expiring")
