# SPDX-License-Identifier: Apache-2.0
"""The shell kernel driver, spoken to over its protocol (src/base/kernel_proto.h).

    BIVOUAC_BIN_DIR=build /usr/bin/python3 -m pytest tests/unit/test_shell_driver.py

The test stands for launcher and agent: a socket as descriptor 3, pipes as 1 and 2, a directory.
"""

import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
import time
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DRIVER = pathlib.Path(os.environ.get("BIVOUAC_BIN_DIR", ROOT / "build")).resolve() / "bivouac-kernel-shell"

RUN, READY, DONE = 2, 16, 18
OK, INTERRUPTED = 0, 2
NONE, INT = 0, 3
STREAM, ARGV = 1, 2
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "SHELL": "/bin/bash",
}


def blob(data):
    return struct.pack("<I", len(data)) + data


def frame(kind, payload):
    return struct.pack("<IB", len(payload), kind) + payload


def run_frame(number, code, flags=0):
    return frame(RUN, struct.pack("<IB", number, flags) + blob(code))


class Kernel:
    def __init__(self, directory, environment=ENVIRONMENT, warm=True):
        self.sock, theirs = socket.socketpair()
        (self.out, out), (self.err, err) = os.pipe(), os.pipe()

        def in_child():
            os.dup2(theirs.fileno(), 203)
            os.dup2(203, 3)
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.closerange(4, 1024)

        self.process = subprocess.Popen(
            [DRIVER], stdin=subprocess.DEVNULL, preexec_fn=in_child, close_fds=False, cwd=directory,
            env=environment, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        os.close(out)
        os.close(err)
        os.set_blocking(self.out, False)
        os.set_blocking(self.err, False)
        self.streams = {self.out: b"", self.err: b""}
        self.buffer = b""
        self.number = 0
        kind, payload = self.read()
        assert kind == READY
        assert struct.unpack("<I", payload)[0] == self.process.pid
        if warm:
            self.sock.sendall(run_frame(0, b"None"))
            got = self.finish()
            assert (got.code, got.out, got.err) == (0, "", "")

    def drain(self):
        for fd in self.streams:
            try:
                while chunk := os.read(fd, 65536):
                    self.streams[fd] += chunk
            except BlockingIOError:
                pass

    def read(self, timeout=30.0):
        """One frame; output is collected meanwhile. None at end of file."""
        deadline = time.monotonic() + timeout
        while True:
            if len(self.buffer) >= 5:
                size, kind = struct.unpack_from("<IB", self.buffer)
                if len(self.buffer) >= 5 + size:
                    payload = self.buffer[5 : 5 + size]
                    self.buffer = self.buffer[5 + size :]
                    return kind, payload
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no frame from the kernel")
            ready = select.select([self.sock, *self.streams], [], [], left)[0]
            self.drain()
            if self.sock in ready:
                try:
                    chunk = self.sock.recv(1 << 20)
                except ConnectionResetError:  # it closed with something of ours unread
                    chunk = b""
                if not chunk:
                    return None
                self.buffer += chunk

    def start(self, code, flags=0):
        self.number += 1
        data = code if isinstance(code, bytes) else code.encode()
        self.sock.sendall(run_frame(self.number, data, flags))

    def finish(self, timeout=30.0):
        got = self.read(timeout)
        assert got is not None, "the kernel died"
        kind, payload = got
        assert kind == DONE
        status, value_kind = payload[0], payload[1]
        blobs, at = [], 2
        for _ in range(4):
            size = struct.unpack_from("<I", payload, at)[0]
            blobs.append(payload[at + 4 : at + 4 + size].decode())
            at += 4 + size
        assert at == len(payload)
        self.drain()
        out, err = self.streams[self.out], self.streams[self.err]
        self.streams = {self.out: b"", self.err: b""}
        if status == OK:
            assert value_kind == INT and blobs[1:] == ["", "", ""]
        else:
            assert (status, value_kind, blobs[0]) == (INTERRUPTED, NONE, "")
            assert blobs[1] == "Interrupted" and blobs[2]
        return types.SimpleNamespace(
            status=status, code=int(blobs[0]) if status == OK else None, raw=out,
            out=out.decode("utf-8", "replace"), err=err.decode("utf-8", "replace"),
        )  # fmt: skip

    def run(self, code, timeout=30.0):
        self.start(code)
        return self.finish(timeout)

    def argv(self, *words):
        self.start(b"".join(os.fsencode(word) + b"\0" for word in words), ARGV)
        return self.finish()

    def good(self, code):
        """Output of a command that must succeed in silence."""
        got = self.run(code)
        assert (got.status, got.code, got.err) == (OK, 0, ""), got
        return got.out

    def interrupt(self):
        os.killpg(self.process.pid, signal.SIGINT)

    def wait_output(self, text):
        deadline = time.monotonic() + 30
        while text not in self.streams[self.out]:
            assert time.monotonic() < deadline, "output did not come"
            select.select([self.out], [], [], 1)
            self.drain()

    def close(self):
        self.sock.close()
        status = self.process.wait(20)
        for fd in (self.out, self.err):
            os.close(fd)
        return status


@pytest.fixture
def kernel(tmp_path):
    made = Kernel(tmp_path)
    yield made
    assert made.close() == 0


def test_simple(kernel, tmp_path):
    got = kernel.run("echo hello; echo error >&2; exit 3")
    assert (got.status, got.code, got.out, got.err) == (OK, 3, "hello\n", "error\n")
    assert kernel.good("pwd") == f"{tmp_path}\n"


def test_state_is_kept_between_commands(kernel):
    kernel.good("mkdir -p a/b; cd a/b; export E=exported; v='plain  text'; f() { echo \"f: $1\"; }; arr=(1 2 3)")
    assert kernel.good('echo "$E $v ${arr[1]}"; f x; basename "$PWD"').splitlines() == [
        "exported plain  text 2", "f: x", "b",
    ]  # fmt: skip
