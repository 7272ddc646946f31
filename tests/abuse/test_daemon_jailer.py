# SPDX-License-Identifier: Apache-2.0
"""A taken-over bivouacd speaks to the jailer: nonsense is refused, the jailer stays up and makes nothing."""

import array
import fcntl
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from daemon_target import MIB, e2e  # noqa: E402

# src/base/jailer_proto.h
VERSION = 3
CREATE, START_KERNEL, DESTROY, LIST, STATS, IMAGE, PING, MEMORY, NETWORK, REFUSED = range(1, 11)
RESTARTED = 32
REQUEST = struct.Struct("@HHI33s65s16sB5x3Q4IQ")
HEAD = struct.Struct("@HHIii400s")
SID = b"0123456789abcdef" * 2
NO_IMAGE = b"0" * 64
LIMITS = {
    "memory_bytes": 256 * MIB,
    "data_bytes": 64 * MIB,
    "tmp_bytes": 64 * MIB,
    "inodes": 1000,
    "pids": 64,
    "cpu_millis": 0,
    "open_files": 1024,
}


def request(op, sid=SID, image=NO_IMAGE, version=VERSION, tag=1, language=b"", network=0, **limits):
    values = {**LIMITS, **limits}.values()
    return REQUEST.pack(version, op, tag, sid, image, language, network, *values, 0)


class Jailer:
    """bivouac-jailer without a daemon: we hold the daemon's end of its socket."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="bivouac-jailer-"))
        self.dir.chmod(0o755)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket = ours
        lock = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)

        def descriptors():
            high = [os.dup(theirs.fileno()), os.dup(lock)]
            moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in high]
            os.dup2(moved[0], 3)
            os.dup2(moved[1], 4)
            os.closerange(5, 1000)

        self.stderr_path = self.dir / "stderr"
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen(
                [
                    str(e2e.BIN_DIR / "bivouac-jailer"),
                    *("--run-dir", str(self.dir)),
                    *("--images", os.environ.get("BIVOUAC_IMAGES", "/var/cache/bivouac/images")),
                    *("--owner", str(pwd.getpwnam("bivouac").pw_uid)),
                ],
                stderr=stderr,
                preexec_fn=descriptors,
                close_fds=False,
            )
        theirs.close()
        os.close(lock)
        self.socket.settimeout(20)
        assert self.reply()[:2] == (RESTARTED, 0), "no RESTARTED"
        self.worker = e2e.descendants(self.process.pid)[0]

    def reply(self):
        """(op, error code, text, tag) of the next reply."""
        packet = self.socket.recv(65536)
        assert packet, self.stderr()
        version, op, tag, code, _, text = HEAD.unpack_from(packet)
        assert version == VERSION
        return op, code, text.split(b"\0")[0].decode(), tag

    def ask(self, packet):
        self.socket.send(packet)
        return self.reply()

    def stderr(self):
        return self.stderr_path.read_text(errors="replace")

    def rss(self):
        status = pathlib.Path(f"/proc/{self.worker}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.worker}/fd"))

    def close(self):
        self.socket.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            raise
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)


@pytest.fixture(scope="module")
def jailer():
    if os.geteuid() != 0:
        pytest.skip("the jailer needs root")
    j = Jailer()
    yield j
    j.close()


@pytest.fixture(autouse=True)
def still_up(jailer):
    """After every attack: the same worker answers, holds nothing more, and made no sandbox."""
    before = jailer.descriptors()
    yield
    assert jailer.ask(request(PING, tag=77))[:2] == (PING, 0)
    assert jailer.process.poll() is None
    assert e2e.descendants(jailer.process.pid) == [jailer.worker], jailer.stderr()
    assert jailer.descriptors() == before
    assert os.listdir(jailer.dir / "j") == [] and os.listdir(jailer.dir / "s") == []


def refused(jailer, packet):
    op, code, text, tag = jailer.ask(packet)
    assert code != 0 and text, (op, packet[:16])
    return text


def test_wrong_sizes(jailer):
    """Packets are shorter or longer than a request."""
    good = request(PING)
    for size in (1, 2, 7, 8, 9, 40, len(good) - 1, len(good) + 1, 4096, 65536, 150_000):
        refused(jailer, (good * (size // len(good) + 1))[:size])


def test_wrong_versions(jailer):
    """Packets are of another version of the protocol."""
    for version in (0, 1, VERSION + 1, 255, 65535):
        refused(jailer, request(PING, version=version))


def test_wrong_opcodes(jailer):
    """Opcodes that do not exist, and those that only the jailer sends."""
    for op in (0, *range(11, 40), 255, 256, 32768, 65535):
        assert "opcode" in refused(jailer, request(op))


BAD_IDS = [
    b"",
    b"../../../../etc/passwd",
    b"/" * 32,
    SID[:31],
    SID[:31] + b"/",
    SID[:31] + b"G",
    SID.upper(),
    SID[:16] + b"\0" + SID[17:],
    SID + b"0",  # not terminated
    b"\xff" * 33,
    b"%s%n%p%s%n%p%s%n%p%s%n%p%s%n%p%s",
    b"-" + SID[:31],
    b" " * 32,
]


@pytest.mark.parametrize("op", [CREATE, START_KERNEL, DESTROY, STATS, MEMORY, NETWORK, REFUSED])
def test_bad_sandbox_ids(jailer, op):
    """Ids of sandboxes are paths, too short, too long, not terminated, or format strings."""
    for sid in BAD_IDS:
        assert "sandbox id" in refused(jailer, request(op, sid=sid))


@pytest.mark.parametrize("op", [CREATE, IMAGE])
def test_bad_image_ids(jailer, op):
    """Ids of images are paths, too short, too long, or not terminated."""
    bad = [b"", b"../" * 20, b"/var/cache/bivouac/images/x", NO_IMAGE[:63], NO_IMAGE + b"0"]
    for image in [*bad, b"A" * 64, b"base-" + NO_IMAGE[5:], NO_IMAGE[:60] + b"/../"]:
        assert "image id" in refused(jailer, request(op, image=image))


@pytest.mark.parametrize("op", [CREATE, IMAGE])
def test_images_that_are_not_there(jailer, op):
    """An image is named that root has not installed."""
    refused(jailer, request(op))


@pytest.mark.parametrize(
    "field, values",
    [
        ("memory_bytes", [0, 16 * MIB - 1, (1 << 40) + 1, (1 << 64) - 1]),
        ("data_bytes", [0, MIB - 1, (1 << 40) + 1, (1 << 64) - 1]),
        ("tmp_bytes", [0, MIB - 1, (1 << 40) + 1, (1 << 64) - 1]),
        ("inodes", [0, 63, (1 << 28) + 1, (1 << 32) - 1]),
        ("pids", [0, 7, 1_000_001, (1 << 32) - 1]),
        ("cpu_millis", [1_000_001, (1 << 32) - 1]),
        ("open_files", [0, 63, 1_048_577, (1 << 32) - 1]),
    ],
)
def test_limits_out_of_range(jailer, field, values):
    """A sandbox is asked for with limits outside the hard bounds."""
    for value in values:
        assert "limits" in refused(jailer, request(CREATE, **{field: value}))


@pytest.mark.parametrize("op", [START_KERNEL, STATS, MEMORY, NETWORK, REFUSED])
def test_sandboxes_that_are_not_there(jailer, op):
    """Operations on sandboxes the jailer never made."""
    for sid in (SID, b"0" * 32, b"f" * 32):
        refused(jailer, request(op, sid=sid))


def test_destroying_and_listing_nothing(jailer):
    """Sandboxes are destroyed and listed that never were: that succeeds, and does nothing."""
    for sid in (SID, b"0" * 32, b"f" * 32):
        assert jailer.ask(request(DESTROY, sid=sid))[1] == 0
        assert jailer.ask(request(LIST, sid=sid))[1] == 0


def test_descriptors_that_come_along(jailer):
    """Packets bring descriptors: a directory of the host, sockets, the jailer's own socket."""
    root = os.open("/", os.O_RDONLY)
    fds = array.array("i", [root, jailer.socket.fileno()] * 20)
    for _ in range(50):
        jailer.socket.sendmsg(
            [request(PING)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds.tobytes())]
        )
        assert jailer.reply()[1] == 0
    os.close(root)


def nonsense(count):
    """Requests of the right size: random bytes, and good ones with some bytes changed."""
    chance = random.Random(52)
    for i in range(count):
        if i % 2:
            yield struct.pack("@HH", VERSION, chance.randrange(40)) + chance.randbytes(
                REQUEST.size - 4
            )
        else:
            packet = bytearray(request(chance.randrange(1, 11), image=b"/" * 64))
            # Behind version and opcode, so that most of them are looked at closely.
            packet[chance.randrange(8, 41)] = chance.randrange(256)
            yield bytes(packet)


def test_a_hundred_thousand_packets(jailer):
    """A flood of a hundred thousand requests that mean nothing."""
    count = 100_000
    answered = []
    before = jailer.rss()

    def read():
        while len(answered) < count:
            answered.append(jailer.reply()[1])

    reader = threading.Thread(target=read)
    reader.start()
    for packet in nonsense(count):
        jailer.socket.send(packet)
    reader.join(60)
    assert len(answered) == count
    assert jailer.rss() - before < 4 * MIB


def test_a_flood_without_reading_replies(jailer):
    """Requests are sent and no reply is read: the jailer waits for us, and grows by nothing."""
    jailer.socket.setblocking(False)
    before = jailer.rss()
    sent = stalled = 0
    packets = nonsense(100_000)
    packet = next(packets)
    while stalled < 40 and sent < 100_000:
        try:
            jailer.socket.send(packet)
            packet = next(packets)
            sent += 1
            stalled = 0
        except BlockingIOError:
            stalled += 1
            time.sleep(0.02)
    jailer.socket.settimeout(20)
    assert sent < 100_000
    assert jailer.rss() - before < 4 * MIB
    for _ in range(sent):
        jailer.reply()
