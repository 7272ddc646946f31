# SPDX-License-Identifier: Apache-2.0
"""A bivouacd in directories of its own, that a test may kill in every way, and what it leaves on the machine."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse

BIN_DIR = os.path.abspath(
    os.environ.get("BIVOUAC_BIN_DIR", os.path.join(os.path.dirname(__file__), "..", "..", "build"))
)
BIVOUACD = os.path.join(BIN_DIR, "bivouacd")
BIVOUAC = os.path.join(BIN_DIR, "bivouac")
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/default"
DEFAULT_POOL = f"{GROUP}/providers/Microsoft.App/sessionPools/default"
VERSION = "2025-10-02-preview"
ARM_VERSION = "2025-07-01"
UID_DIR = "/run/bivouac-uids"
UID_BLOCK_FIRST, UID_BLOCK_SIZE = 0x40000000, 16384 * 16
READY_S = 60  # a start on a busy machine
LONG_S = 60


class Gone(Exception):
    """The daemon closed the connection, or is not there."""


def wait_for(check, what, timeout_s=LONG_S, pause_s=0.02):
    """Polls until check() is true and returns it."""
    deadline = time.monotonic() + timeout_s
    while True:
        got = check()
        if got:
            return got
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        time.sleep(pause_s)


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read().decode(errors="replace")
    except OSError:  # a process that has just gone
        return ""


def link(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""


class Process:
    def __init__(self, pid):
        self.pid = pid
        status = dict(
            line.split(":\t", 1) for line in read(f"/proc/{pid}/status").splitlines() if ":\t" in line
        )
        self.name = status.get("Name", "")
        self.parent = int(status.get("PPid", 0))
        self.uid = int(status.get("Uid", "-1").split()[0])
        self.state = status.get("State", "?")[0]
        self.rss_kib = int(status.get("VmRSS", "0").split()[0])

    def __repr__(self):
        return f"{self.name}[{self.pid}] state {self.state} uid {self.uid} parent {self.parent}"

    @property
    def started(self):
        return read(f"/proc/{self.pid}/stat").rpartition(")")[2].split()[19:20]

    def fds(self):
        try:
            return {n: link(f"/proc/{self.pid}/fd/{n}") for n in os.listdir(f"/proc/{self.pid}/fd")}
        except OSError:
            return {}


def all_processes():
    return [p for p in (Process(int(n)) for n in os.listdir("/proc") if n.isdigit()) if p.name]


def children(pid):
    return [p for p in all_processes() if p.parent == pid]


def host_mounts():
    """Without the ids and counters that change by themselves."""
    return sorted(" ".join(line.split()[3:]) for line in read("/proc/self/mountinfo").splitlines())


def cgroup_roots():
    found = []
    for line in read("/proc/self/mounts").splitlines():
        _, where, kind = line.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            found.append(where)
    return found


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body[:600]!r}"


class Daemon:
    """One bivouacd on one pair of directories, through any number of starts."""

    def __init__(self, *args, base=None):
        self.base = base or tempfile.mkdtemp(prefix="bivouac-test-")
        os.chmod(self.base, 0o755)
        self.state, self.run, self.log = (os.path.join(self.base, n) for n in ("state", "run", "log"))
        self.args = list(args)
        self.proc = None
        self.mounts_before = host_mounts()
        # A block of user ids may have belonged to a daemon whose sandboxes a killed test left behind.
        self.foreign = {(p.pid, tuple(p.started)) for p in all_processes()}
        self.starts = 0
        self.started_pids = {}  # pid -> start time of everything root ever seen below a daemon
        self.pool_path = DEFAULT_POOL.replace("/providers/Microsoft.App", "")
        self.ready = {}
        self.dev = True  # --dev would make a deleted default pool again

    # Life.

    def start(self, *more):
        assert self.proc is None or self.proc.poll() is not None
        self.starts += 1
        ready = os.path.join(self.base, f"ready.{self.starts}")
        with open(ready, "wb") as out, open(self.log, "ab") as log:
            self.proc = subprocess.Popen(
                [BIVOUACD, "--listen", "127.0.0.1:0", "--state", self.state, "--run-dir", self.run]
                + ["--uid-dir", UID_DIR]
                + (["--dev"] if self.dev else [])
                + self.args
                + list(more),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )

        def line():
            if self.proc.poll() is not None:
                raise AssertionError(f"bivouacd ended with {self.proc.returncode}:\n{self.log_tail()}")
            text = read(ready)
            return text if text.endswith("\n") else None

        # Tokens of an earlier start on the same state directory stay good.
        try:
            self.ready.update(json.loads(wait_for(line, "the line that says ready", READY_S)))
        except BaseException:
            if self.starts == 1:
                self.close()
            raise
        at = urllib.parse.urlsplit(self.ready["armEndpoint"])
        self.address = (at.hostname, at.port)
        self.remember()
        return self

    def log_tail(self, lines=40):
        return "\n".join(read(self.log).splitlines()[-lines:])

    @property
    def pid(self):
        return self.proc.pid

    @property
    def alive(self):
        return self.proc is not None and self.proc.poll() is None

    def keeper(self):
        return next((p.pid for p in children(self.pid) if p.name == "bivouac-jailer"), None)

    def worker(self):
        keeper = self.keeper()
        if keeper is None:
            return None
        return next((p.pid for p in children(keeper) if p.name == "bivouac-jailer"), None)

    def zygotes(self):
        worker = self.worker()
        return [p for p in children(worker) if p.name.startswith("bivouac-zygote")] if worker else []

    def remember(self):
        """So that a process that loses its parent and its descriptors is still known as ours."""
        for p in [Process(self.pid)] + [Process(x) for x in (self.keeper(), self.worker()) if x] + self.zygotes():
            if p.started:
                self.started_pids[p.pid] = p.started

    def kill(self, *which):
        """SIGKILL to any of bivouacd, worker, keeper; pids are looked up before the first dies."""
        self.remember()
        pids = [{"bivouacd": lambda: self.pid, "worker": self.worker, "keeper": self.keeper}[w]() for w in which]
        assert all(pids), f"{which}: {pids}"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        if "bivouacd" in which:
            self.proc.wait(LONG_S)
        return pids

    def terminate(self, timeout_s=LONG_S):
        self.remember()
        self.proc.send_signal(signal.SIGTERM)
        self.proc.wait(timeout_s)
        return self.proc.returncode

    def close(self):
        """Ends whatever is left, by its pid, and removes the directories."""
        try:
            if self.alive:
                try:
                    self.terminate()
                except subprocess.TimeoutExpired:
                    self.proc.kill()
                    self.proc.wait()
            # SIGKILL of the init of a PID namespace ends its children; the jailer ends with the daemon.
            deadline = time.monotonic() + 10
            while (left := self.processes()) and time.monotonic() < deadline:
                for p in left:
                    if p.state != "Z":
                        try:
                            os.kill(p.pid, signal.SIGKILL)
                        except ProcessLookupError:
                            pass
                time.sleep(0.05)
            for path in sorted(self.cgroups(), key=len, reverse=True):
                try:
                    os.rmdir(path)
                except OSError:
                    pass
            for block in self.uid_blocks():
                os.unlink(os.path.join(UID_DIR, block))
        finally:
            shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *rest):
        if kind is not None:
            print(f"--- end of bivouacd's log ---\n{self.log_tail(60)}")
        self.close()

    # What it has on the machine.

    @property
    def instance(self):
        st = os.stat(self.run)
        return f"{((st.st_dev * 2654435761) ^ st.st_ino) & 0xffffffff:08x}"

    def cgroups(self):
        """All directories of ours in all hierarchies, the instance's own with them."""
        if not os.path.isdir(self.run):
            return []
        found = []
        for root in cgroup_roots():
            for where, _, _ in os.walk(os.path.join(root, "bivouac", self.instance)):
                found.append(where)
        return found

    def cgroup_sids(self):
        """hierarchy -> names of the sandboxes in it."""
        found = {}
        for root in cgroup_roots():
            where = os.path.join(root, "bivouac", self.instance)
            try:
                found[where] = {n for n in os.listdir(where) if re.fullmatch("[0-9a-f]{32}", n)}
            except FileNotFoundError:
                pass
        return found

    def uid_blocks(self):
        return [n for n in os.listdir(UID_DIR) if link(os.path.join(UID_DIR, n)) == self.run]

    def processes(self):
        """Every process that is ours, by its uid, cgroup, arguments, log or pid, whoever its parent is."""
        blocks = [UID_BLOCK_FIRST + int(n) * UID_BLOCK_SIZE for n in self.uid_blocks()]
        mark = f"/bivouac/{self.instance}/" if os.path.isdir(self.run) else None
        found = []
        for p in all_processes():
            if (p.pid, tuple(p.started)) in self.foreign:
                continue
            if (
                any(b <= p.uid < b + UID_BLOCK_SIZE for b in blocks)
                or (mark and mark in read(f"/proc/{p.pid}/cgroup"))
                or self.run in read(f"/proc/{p.pid}/cmdline").split("\0")
                or link(f"/proc/{p.pid}/fd/2") == self.log
                or (p.pid in self.started_pids and self.started_pids[p.pid] == p.started)
            ):
                found.append(p)
        return found

    def agents(self):
        """PID 1 of each sandbox."""
        return [p for p in self.processes() if p.name.startswith("memfd:bivouac-a") and p.state != "Z"]

    def files(self):
        return sorted(
            os.path.relpath(os.path.join(where, n), self.run)
            for where, dirs, files in os.walk(self.run)
            for n in dirs + files
        )

    def records(self):
        where = os.path.join(self.run, "j")
        return set(os.listdir(where)) if os.path.isdir(where) else set()

    def sockets(self):
        where = os.path.join(self.run, "s")
        return set(os.listdir(where)) if os.path.isdir(where) else set()

    def new_mounts(self):
        left = list(self.mounts_before)
        new = []
        for m in host_mounts():
            if m in left:
                left.remove(m)
            else:
                new.append(m)
        return new

    def namespaces(self):
        """kind -> distinct namespaces that our processes are in or hold open."""
        found = {}
        for p in self.processes():
            for kind in ("net", "mnt", "pid", "user", "ipc", "uts", "cgroup"):
                found.setdefault(kind, set()).add(link(f"/proc/{p.pid}/ns/{kind}"))
            for text in p.fds().values():
                if m := re.fullmatch(r"(net|mnt|pid|user|ipc|uts|cgroup):\[\d+\]", text):
                    found.setdefault(m[1], set()).add(text)
        return {kind: len(names - {""}) for kind, names in found.items()}

    def leftovers(self):
        """What may not be there when a daemon has ended; empty values are left out."""
        found = {
            "processes": self.processes(),
            "cgroups": self.cgroups(),
            "mounts of the host": self.new_mounts(),
            "files": self.files(),
            "uid blocks": self.uid_blocks(),
        }
        return {k: v for k, v in found.items() if v}

    def ownership(self, ready_min, ready_max, shells):
        """
        '' if everything of this daemon belongs to a session or to the stock of ready sandboxes and shells, else what
        does not.
        """
        owned = len(self.sessions())
        agents = self.agents()
        records = self.records()
        by_cgroup = self.cgroup_sids()
        extra = len(records) - owned
        if not by_cgroup:
            return "no cgroup at all"
        for where, sids in by_cgroup.items():
            if sids != records:
                return f"{where} differs from the records: {sids ^ records}"
        if self.sockets() != {f"{sid}.sock" for sid in records}:
            return f"sockets {self.sockets()} differ from records {records}"
        if len(agents) != len(records):
            return f"{len(agents)} agents for {len(records)} records: {agents}"
        if not ready_min + shells <= extra <= ready_max + shells:
            return f"{extra} sandboxes without session; stock is {ready_min}..{ready_max} and {shells} shells"
        inits = {p.pid for p in agents}
        strays = [
            p
            for p in self.processes()
            # A witness goes with the last sandbox of its zygote, not with the jailer that started it.
            if p.uid >= UID_BLOCK_FIRST and p.pid not in inits and p.parent <= 1
            and not (agents and p.name.startswith("bivouac-witnes"))
        ]
        if strays:
            return f"processes without sandbox: {strays}"
        if self.new_mounts():
            return f"mounts of the host: {self.new_mounts()}"
        return ""

    def wait_owned(self, ready, shells=4):
        """
        Until everything belongs to a session or to the stock. `ready`: what the pool keeps ready when it has rested,
        fewer where fewer sessions are left to give; a little more may stand.
        """
        why = [""]

        def check():
            why[0] = self.ownership(*ready, shells)
            return not why[0]

        try:
            wait_for(check, "only owned sandboxes", LONG_S, 0.1)
        except AssertionError as e:
            raise AssertionError(f"{e}: {why[0]}\n{self.log_tail()}") from None

    # Requests.

    def request(self, method, path, body=None, headers=None, token="token", timeout_s=120):
        head = {"Authorization": "Bearer " + self.ready[token]}
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
            head["Content-Type"] = "application/json"
        head.update(headers or {})
        conn = http.client.HTTPConnection(*self.address, timeout=timeout_s)
        try:
            conn.request(method, path, body, head)
            r = conn.getresponse()
            return Reply(r.status, {k.lower(): v for k, v in r.getheaders()}, r.read())
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as e:
            raise Gone(str(e)) from e
        finally:
            conn.close()

    def arm(self, method, path, body=None):
        return self.request(method, f"{path}?api-version={ARM_VERSION}", body, token="armToken")

    def make_pool(self, name, sessions_max, ready, limits=None, cooldown_s=300):
        """Makes a pool in the group 'default' and sends later calls there."""
        properties = {
            "containerType": "PythonLTS",
            "poolManagementType": "Dynamic",
            "scaleConfiguration": {"maxConcurrentSessions": sessions_max, "readySessionInstances": ready},
            "dynamicPoolConfiguration": {
                "lifecycleConfiguration": {"lifecycleType": "Timed", "cooldownPeriodInSeconds": cooldown_s}
            },
        }
        if limits:
            properties["sessionLimits"] = limits
        r = self.arm(
            "PUT",
            f"{GROUP}/providers/Microsoft.App/sessionPools/{name}",
            {"location": "local", "properties": properties},
        )
        assert r.status in (200, 201), r
        self.pool_path = f"{GROUP}/sessionPools/{name}"
        return self

    def only_pool(self, name, sessions_max, ready, **more):
        """make_pool, without the default pool beside it, so that everything on the machine is this pool's."""
        self.make_pool(name, sessions_max, ready, **more)
        r = self.arm("DELETE", DEFAULT_POOL)
        assert r.status in (200, 202, 204), r
        self.dev = False
        return self

    def url(self, path, identifier=None, **query):
        q = {"api-version": VERSION, **query}
        if identifier is not None:
            q["identifier"] = identifier
        return f"{self.pool_path}{path}?{urllib.parse.urlencode(q)}"

    def execute(self, identifier, code, asynchronous=False, timeout=None, headers=None):
        body = {
            "codeInputType": "Inline",
            "executionType": "Asynchronous" if asynchronous else "Synchronous",
            "code": code,
        }
        if timeout:
            body["timeoutInSeconds"] = timeout
        return self.request("POST", self.url("/executions", identifier), body, headers)

    def value(self, identifier, code):
        """Runs code that must succeed; its last expression."""
        r = self.execute(identifier, code)
        assert r.status == 200, r
        assert r.json["status"] == "Succeeded", r
        return r.json["result"]["executionResult"]

    def submit(self, identifier, code):
        """Starts an asynchronous execution; its id once it is acknowledged."""
        r = self.execute(identifier, code, asynchronous=True)
        assert r.status == 202, r
        return r.json["id"]

    def execution(self, identifier, id):
        return self.request("GET", self.url(f"/executions/{id}", identifier))

    def result(self, identifier, id, timeout_s=LONG_S):
        """Polls an asynchronous execution until it has finished."""

        def done():
            r = self.execution(identifier, id)
            assert r.status == 200, f"{identifier} {id}: {r}"
            return r.json if r.json["status"] not in ("Running", "NotStarted") else None

        return wait_for(done, f"execution {id} of {identifier}", timeout_s, 0.05)

    def delete(self, identifier):
        return self.request("DELETE", self.url("/session", identifier))

    def upload(self, identifier, name, data):
        mark = "8f14e45fceea167a5a36dedd4bea2543"
        body = (
            f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode() + data + f"\r\n--{mark}--\r\n".encode()
        return self.request(
            "POST", self.url("/files", identifier), body, {"Content-Type": f"multipart/form-data; boundary={mark}"}
        )

    def download(self, identifier, name):
        return self.request("GET", self.url(f"/files/{name}/content", identifier))

    def sessions(self):
        """identifier -> etag of all sessions, over all pages."""
        found, skip = {}, 0
        while True:
            r = self.request("GET", self.url("/listSessions", skip=skip))
            assert r.status == 200, r
            page = r.json["sessions"]
            for s in page:
                assert s["identifier"] not in found, f"listed twice: {s}"
                found[s["identifier"]] = s["etag"]
            if not r.json["nextLink"]:
                return found
            skip += len(page)
