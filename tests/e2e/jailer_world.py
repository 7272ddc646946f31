# SPDX-License-Identifier: Apache-2.0
"""A jailer spoken to in its own protocol, by a test that is both its daemon and its agents.

What START_KERNEL answers is the agent's end of a kernel's socket: the test says INIT and what
follows, and sees each answer before any agent could have turned it into something else.
"""

import array
import os
import pathlib
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import uuid

from conftest import BIN_DIR, descendants, wait_for

CREATE, START_KERNEL, DESTROY, IMAGE, PING, RESTARTED = 1, 2, 3, 6, 7, 32
REQUEST = struct.Struct("=HHI33s65s16sB5sQQQIIIIQ")
REPLY = struct.Struct("=HHIii400s")
REPLY_SIZE = 2960

INIT, RUN, TERMINAL, READY, DISPLAY, DONE = 1, 2, 3, 16, 17, 18


def blob(data):
    return struct.pack("<I", len(data)) + data


def frame(kind, payload):
    return struct.pack("<IB", len(payload), kind) + payload


class JailerError(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Kernel:
    """The agent's end of one kernel's socket."""

    def __init__(self, fd):
        self.sock = socket.socket(fileno=fd)
        self.sock.settimeout(30)

    def send(self, kind, payload, fds=()):
        data = frame(kind, payload)
        self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])

    def initialise(self):
        """INIT and READY; the pid inside the sandbox."""
        (self.out, out), (self.err, err) = os.pipe(), os.pipe()
        self.send(INIT, blob(os.urandom(32)), [out, err])
        os.close(out)
        os.close(err)
        return self.ready()

    def ready(self):
        kind, payload = self.read()
        assert kind == READY and len(payload) == 4, (kind, payload)
        return struct.unpack("<I", payload)[0]

    def read_exactly(self, size):
        data = b""
        while len(data) < size:
            chunk = self.sock.recv(size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def read(self):
        size, kind = struct.unpack("<IB", self.read_exactly(5))
        return kind, self.read_exactly(size)

    def run(self, number, code, flags=0):
        self.send(RUN, struct.pack("<IB", number, flags) + blob(code))
        while (got := self.read())[0] == DISPLAY:
            pass
        assert got[0] == DONE
        return got[1]

    def ended(self):
        """Whether the other side has closed, and said nothing before."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:  # with something of ours unread
            return True

    def output(self, fd=None, timeout=30):
        """What was written until the end of file."""
        data, fd = b"", self.out if fd is None else fd
        while select.select([fd], [], [], timeout)[0]:
            try:
                chunk = os.read(fd, 65536)
            except OSError:  # a terminal without a process
                return data
            if not chunk:
                return data
            data += chunk
        raise AssertionError(f"no end of output; so far {data!r}")

    def close(self):
        self.sock.close()


class Jailer:
    """A bivouac-jailer of its own, with directories of its own."""

    def __init__(self, image_dir):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="bivouac-launch-"))
        self.dir.chmod(0o755)
        (self.dir / "run").mkdir()
        self.tag = 0
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(60)
        lock = os.open(self.dir / "run", os.O_RDONLY)
        command = [BIN_DIR / "bivouac-jailer", "--run-dir", self.dir / "run"]
        command += ["--images", image_dir, "--owner", 0, "--egress", "off"]
        command += ["--uid-dir", self.dir / "uids"]
        with open(self.dir / "stderr", "ab") as stderr:
            self.process = subprocess.Popen(
                ["/bin/bash", "-c", f'exec "$0" "$@" 3<&{theirs.fileno()} 4<&{lock}']
                + list(map(str, command)),
                stderr=stderr,
                pass_fds=(theirs.fileno(), lock),
            )
        theirs.close()
        os.close(lock)
        op, _, code, text, _ = self.receive()
        assert op == RESTARTED and code == 0, (text, self.stderr())

    def stderr(self):
        return (self.dir / "stderr").read_text(errors="replace")

    def receive(self):
        data, fds, _, _ = socket.recv_fds(self.socket, 65536, 1)
        assert len(data) == REPLY_SIZE, (len(data), self.stderr())
        _, op, tag, code, _, text = REPLY.unpack_from(data)
        return op, tag, code, text.split(b"\0")[0].decode(), fds

    def post(self, op, sid="", image="", language=b""):
        """A request whose reply is left for later; its tag."""
        self.tag += 1
        limits = (1 << 28, 1 << 26, 1 << 26, 10000, 64, 0, 1024)
        self.socket.send(
            REQUEST.pack(3, op, self.tag, sid.encode(), image.encode(), language, 0, b"", *limits, 0)
        )
        return self.tag

    def ask(self, op, sid="", image="", language=b""):
        tag = self.post(op, sid, image, language)
        while (reply := self.receive())[1] != tag:
            pass
        if reply[2]:
            raise JailerError(reply[2], reply[3])
        return reply[4]

    def sandbox(self, image):
        sid = uuid.uuid4().hex
        self.ask(CREATE, sid, image)
        return sid

    def start(self, sid, language=""):
        (fd,) = self.ask(START_KERNEL, sid, language=language.encode())
        return Kernel(fd)

    def processes(self, sid_pid):
        """Host pids of processes that call themselves sid_pid in a sandbox of this jailer."""
        found = []
        for pid in descendants(self.process.pid):
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            names = next(line for line in status.splitlines() if line.startswith("NSpid:"))
            numbers = names.split()[1:]
            if len(numbers) > 1 and numbers[-1] == str(sid_pid):
                found.append(pid)
        return found

    def close(self):
        self.socket.close()
        self.process.wait(30)
        wait_for(lambda: not os.path.exists(self.dir / "run" / "t"), 10, "the jailer's end")
        self.log = self.stderr()
        shutil.rmtree(self.dir)


def measure(jailer, image, language, rounds=50):
    """Milliseconds from START_KERNEL to its reply, and to READY; sorted."""
    sid = jailer.sandbox(image)
    jailer.start(sid, language).close()
    times = []
    for _ in range(rounds):
        started = time.monotonic()
        kernel = jailer.start(sid, language)
        forked = time.monotonic()
        kernel.initialise()
        times.append((1000 * (forked - started), 1000 * (time.monotonic() - started)))
        kernel.close()
    jailer.ask(DESTROY, sid)
    return [sorted(column) for column in zip(*times)]
