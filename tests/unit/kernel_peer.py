# SPDX-License-Identifier: Apache-2.0
"""The agent's end of a kernel (src/base/kernel_proto.h), and what a kernel is started in, for driver tests."""

import os
import random
import select
import signal
import socket
import struct
import subprocess
import time
import types

INIT, RUN, READY, DISPLAY, DONE = 1, 2, 16, 17, 18
STREAM, ARGV = 1, 2
OK, ERROR, INTERRUPTED = 0, 1, 2
NONE, NULL, BOOL, INT, FLOAT, STR, TEXT, IMAGE = range(8)
PNG = b"\x89PNG\r\n\x1a\n"

_LAY_OUT = r"""
set -e
root=$1 driver=$2 base=$3
mount -t tmpfs tmpfs "$base"
mkdir "$base/up" "$base/work" "$base/root"
mount -t overlay overlay -o lowerdir="$root",upperdir="$base/up",workdir="$base/work" "$base/root"
cd "$base/root"
mkdir -p "$4" mnt/data home/session
mount --bind "$driver" "$4"
{fill}
mount -o remount,ro overlay "$base/root"
for dir in mnt/data home/session tmp; do
    mount -t tmpfs -o mode=1777 tmpfs "$dir"
done
mount -t proc proc proc
mount --rbind /dev dev
{then}
"""

_TAKE_SOCKET = 'fd=$0; exec 3<&"$fd" {fd}<&-; exec "$@"'


def lay_out(then, fill=":"):
    """A script: lays the image $1 below $3, read-only, with the driver $2 at $4 and the mounts a session has.

    What it is given runs in the new root: `fill` while that takes writes, `then` at the end.
    """
    return _LAY_OUT.format(fill=fill, then=then)


def blob(data):
    return struct.pack("<I", len(data)) + data


def frame(kind, payload):
    return struct.pack("<IB", len(payload), kind) + payload


def run_frame(number, code, flags=0):
    data = code if isinstance(code, bytes) else code.encode("utf-8", "surrogatepass")
    return frame(RUN, struct.pack("<IB", number, flags) + blob(data))


def garbage(count):
    """Bytes that no agent sends: of known kinds, then as many that are random."""
    rng = random.Random(7)
    return [
        frame(RUN, b""),
        frame(RUN, b"\0" * 8),
        frame(RUN, struct.pack("<IBI", 1, 0, 5) + b"abc"),
        frame(RUN, struct.pack("<IBI", 1, 0, 2) + b"abc"),
        frame(INIT, blob(b"x")),
        frame(99, b"hello"),
        struct.pack("<IB", 0xFFFFFFFF, RUN),
        struct.pack("<IB", 17 << 20, RUN),
    ] + [bytes(rng.randrange(256) for _ in range(rng.randrange(5, 200))) for _ in range(count)]


def check_pieces_and_bulk(kernel, code):
    """Frames arrive whole, however they are cut; the value of the code, a long one, is 300000."""
    data = run_frame(1, code)
    for i in range(0, len(data), 50000):
        kernel.sock.sendall(data[i : i + 50000])
        time.sleep(0.005)
    assert kernel.finish().value == "300000"
    small = run_frame(2, b"1+1")
    for byte in small:
        kernel.sock.sendall(bytes([byte]))
    assert kernel.finish().value == "2"
    kernel.sock.sendall(small * 1000)
    for _ in range(1000):
        assert kernel.finish().value == "2"


def check_streams_after(kernel, breakages, write):
    """Whatever a cell did to its streams, the next writes `alive` and `err` to whole ones."""
    for code in breakages:
        got = kernel.run(code)
        assert got.status == OK, (code, got.traceback)
        got = kernel.run(write)
        assert (got.status, got.out, got.err) == (OK, "alive\n", "err\n"), (code, got)


class Peer:
    """The class for a language starts its kernel: with launch(), or by other means and then expect_ready()."""

    def __init__(self):
        self.sock, self.theirs = socket.socketpair()
        self.buffer = b""
        self.number = 0
        self.streams = {}
        self.open = set()

    def make_pipes(self):
        """The kernel's ends of its output."""
        (self.out, out), (self.err, err) = os.pipe(), os.pipe()
        for fd in (self.out, self.err):
            os.set_blocking(fd, False)
        self.streams = {self.out: b"", self.err: b""}
        self.open = {self.out, self.err}
        return out, err

    def launch(self, argv, **where):
        """A program as runtimes/launch.c starts it: the socket at 3, /dev/null and pipes below."""
        out, err = self.make_pipes()
        self.process = subprocess.Popen(
            ["bash", "-c", _TAKE_SOCKET, str(self.theirs.fileno()), *argv],
            pass_fds=[self.theirs.fileno()], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True, **where,
        )  # fmt: skip
        self.theirs.close()
        os.close(out)
        os.close(err)
        self.expect_ready(self.process.pid)

    def expect_ready(self, pid, timeout=30.0):
        self.pid = pid
        got = self.read(timeout)
        assert got == (READY, struct.pack("<I", pid)), got

    def drain(self):
        for fd in list(self.open):
            try:
                while chunk := os.read(fd, 65536):
                    self.streams[fd] += chunk
                self.open.discard(fd)
            except BlockingIOError:
                pass

    def take_output(self):
        self.drain()
        out, err = self.streams[self.out], self.streams[self.err]
        self.streams = {self.out: b"", self.err: b""}
        return out, err

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
            ready = select.select([self.sock, *self.open], [], [], left)[0]
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
        self.sock.sendall(run_frame(self.number, code, flags))

    def wait_for(self, text, fd=None, timeout=30.0):
        """Until the kernel has written a text, in a cell or between cells."""
        fd = self.out if fd is None else fd
        deadline = time.monotonic() + timeout
        while text.encode() not in self.streams[fd]:
            assert time.monotonic() < deadline, f"the kernel did not write {text!r}"
            select.select([fd], [], [], 1)
            self.drain()

    def read_done(self, timeout=30.0):
        """(status, kind of the value, [value, error name, error text, traceback], displays)."""
        displays = []
        while True:
            got = self.read(timeout)
            assert got is not None, f"the kernel died: {self.streams}"
            kind, payload = got
            if kind == DONE:
                break
            assert kind == DISPLAY, got
            size = struct.unpack_from("<I", payload, 1)[0]
            assert size == len(payload) - 5
            self.drain()
            displays.append((payload[0], payload[5:], self.streams[self.out]))
        blobs, at = [], 2
        for _ in range(4):
            size = struct.unpack_from("<I", payload, at)[0]
            blobs.append(payload[at + 4 : at + 4 + size])
            at += 4 + size
        assert at == len(payload)
        return payload[0], payload[1], blobs, displays

    def finish(self, timeout=30.0):
        """The outcome of a cell."""
        status, kind, blobs, displays = self.read_done(timeout)
        out, err = self.take_output()
        value = blobs[0] if kind == IMAGE else blobs[0].decode()
        name, text, traceback = (part.decode() for part in blobs[1:])
        assert status == OK or kind == NONE
        assert status != OK or (name, text, traceback) == ("", "", "")
        return types.SimpleNamespace(
            status=status, kind=kind, value=value, name=name, text=text, traceback=traceback,
            out=out.decode("utf-8", "replace"), err=err.decode("utf-8", "replace"), displays=displays,
        )  # fmt: skip

    def run(self, code, timeout=30.0, flags=0):
        self.start(code, flags)
        return self.finish(timeout)

    def value(self, code):
        got = self.run(code)
        assert got.status == OK, got.traceback
        return got.kind, got.value

    def interrupt(self):
        """As the agent does: the whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self):
        return self.process.wait(20)

    def close(self):
        self.sock.close()
        status = self.wait()
        for fd in self.streams:
            os.close(fd)
        return status
