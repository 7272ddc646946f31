# SPDX-License-Identifier: Apache-2.0
"""The Python kernel driver, spoken to over its protocol (src/base/kernel_proto.h) without any C.

    /usr/bin/python3 -m pytest tests/unit/test_kernel_driver.py
    BIVOUAC_TEST_ROOTFS=/path/to/image/rootfs /usr/bin/python3 -m pytest ...   # root; with packages

A launcher stands for zygote.c: it calls prepare() once, then forks a kernel for every socket it is sent.
With BIVOUAC_TEST_ROOTFS it runs chrooted into that image, laid read-only below a tmpfs.
"""

import array
import os
import pathlib
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import types

import pytest

DRIVER = pathlib.Path(__file__).resolve().parents[2] / "runtimes/python"
ROOTFS = os.environ.get("BIVOUAC_TEST_ROOTFS")
needs_packages = pytest.mark.skipif(
    not ROOTFS, reason="needs numpy, IPython, matplotlib: set BIVOUAC_TEST_ROOTFS to an image's root"
)

INIT, RUN, READY, DISPLAY, DONE = 1, 2, 16, 17, 18
OK, ERROR, INTERRUPTED = 0, 1, 2
NONE, NULL, BOOL, INT, FLOAT, STR, TEXT, IMAGE = range(8)
PNG = b"\x89PNG\r\n\x1a\n"

LAUNCHER = r"""
import array, os, socket, sys
sys.path.insert(0, sys.argv[1])
control_fd = int(sys.argv[2])
import bivouac_kernel
problems = bivouac_kernel.prepare()
control = socket.socket(fileno=control_fd)
assert len(os.listdir('/proc/self/task')) == 1
control.send(('ready ' + '; '.join(problems)).encode())
while True:
    data, anc, _, _ = control.recvmsg(16, 64)
    if not data:
        os._exit(0)
    if not anc:
        status = os.waitpid(int(data), 0)[1]
        control.send(str(status).encode())
        continue
    fds = array.array('i'); fds.frombytes(anc[0][2])
    pid = os.fork()
    if pid == 0:
        control.close()
        if os.getuid() == 0 and os.path.isdir('/opt/bivouac'):
            os.setgroups([]); os.setgid(1000); os.setuid(1000)
        bivouac_kernel.serve(fds[0])
    os.close(fds[0])
    control.send(str(pid).encode())
"""

# Lays the image read-only, with the tmpfs mounts a session has.
CHROOT = r"""
set -e
root=$1 driver=$2 base=$3 fd=$4
mount -t tmpfs tmpfs "$base"
mkdir "$base/up" "$base/work" "$base/root"
mount -t overlay overlay -o lowerdir="$root",upperdir="$base/up",workdir="$base/work" "$base/root"
cd "$base/root"
mkdir -p opt/bivouac/bivouac_kernel mnt/data home/session
mount --bind "$driver/kernel/bivouac_kernel" opt/bivouac/bivouac_kernel
[ -e opt/bivouac/recipe ] || cp "$driver/recipe" opt/bivouac/recipe
mount -o remount,ro overlay "$base/root"
for dir in mnt/data home/session tmp; do
    mount -t tmpfs -o mode=1777 tmpfs "$dir"
done
mount -t proc proc proc
mount --rbind /dev dev
exec chroot . /usr/bin/python3 -c "$5" /opt/bivouac "$fd"
"""


class Zygote:
    def __init__(self, base):
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fd = str(theirs.fileno())
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
        if ROOTFS:
            argv = ["unshare", "--mount", "sh", "-c", CHROOT, "sh", ROOTFS, str(DRIVER), base, fd, LAUNCHER]
        else:
            argv = ["/usr/bin/python3", "-c", LAUNCHER, str(DRIVER / "kernel"), fd]
        self.process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], env=env)
        theirs.close()
        self.banner = self.control.recv(65536).decode()
        assert self.banner.startswith("ready"), "the zygote did not start"

    def fork(self, sock):
        fds = array.array("i", [sock.fileno()])
        self.control.sendmsg([b"fork"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        return int(self.control.recv(64))

    def wait(self, pid):
        """The wait status of a kernel."""
        self.control.send(str(pid).encode())
        return int(self.control.recv(64))

    def close(self):
        self.control.close()
        self.process.wait(20)


def blob(data):
    return struct.pack("<I", len(data)) + data


def frame(kind, payload):
    return struct.pack("<IB", len(payload), kind) + payload


class Kernel:
    def __init__(self, zygote, entropy=None, init=True):
        self.zygote = zygote
        self.sock, theirs = socket.socketpair()
        self.pid = zygote.fork(theirs)
        theirs.close()
        self.buffer = b""
        self.number = 0
        self.waited = False
        if init:
            self.initialise(os.urandom(32) if entropy is None else entropy)

    def initialise(self, entropy):
        (self.out, out), (self.err, err) = os.pipe(), os.pipe()
        fds = array.array("i", [out, err])
        data = frame(INIT, blob(entropy))
        self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        os.close(out)
        os.close(err)
        os.set_blocking(self.out, False)
        os.set_blocking(self.err, False)
        self.streams = {self.out: b"", self.err: b""}
        kind, payload = self.read(20)
        assert kind == READY
        assert struct.unpack("<I", payload)[0] == self.pid

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
        data = code if isinstance(code, bytes) else code.encode("utf-8", "surrogatepass")
        self.sock.sendall(frame(RUN, struct.pack("<IB", self.number, flags) + blob(data)))

    def finish(self, timeout=30.0):
        displays = []
        while True:
            got = self.read(timeout)
            assert got is not None, "the kernel died"
            kind, payload = got
            if kind == DONE:
                break
            assert kind == DISPLAY
            size = struct.unpack_from("<I", payload, 1)[0]
            assert size == len(payload) - 5
            self.drain()
            displays.append((payload[0], payload[5:], self.streams[self.out]))
        status, value_kind = payload[0], payload[1]
        blobs, at = [], 2
        for _ in range(4):
            size = struct.unpack_from("<I", payload, at)[0]
            blobs.append(payload[at + 4 : at + 4 + size])
            at += 4 + size
        assert at == len(payload)
        self.drain()
        out, err = self.streams[self.out], self.streams[self.err]
        self.streams = {self.out: b"", self.err: b""}
        value = blobs[0] if value_kind == IMAGE else blobs[0].decode()
        name, text, traceback = (part.decode() for part in blobs[1:])
        assert status == OK or value_kind == NONE
        assert status != OK or (name, text, traceback) == ("", "", "")
        return types.SimpleNamespace(
            status=status, kind=value_kind, value=value, name=name, text=text, traceback=traceback,
            out=out.decode("utf-8", "replace"), err=err.decode("utf-8", "replace"), displays=displays,
        )  # fmt: skip

    def run(self, code, timeout=30.0):
        self.start(code)
        return self.finish(timeout)

    def value(self, code):
        got = self.run(code)
        assert got.status == OK, got.traceback
        return got.kind, got.value

    def wait(self):
        self.waited = True
        return self.zygote.wait(self.pid)

    def close(self):
        self.sock.close()
        for fd in getattr(self, "streams", ()):
            os.close(fd)
        if not self.waited:
            return self.wait()
        return None


class LaunchedKernel(Kernel):
    """The driver as a program of its own, as runtimes/launch.c starts it, with this machine's Python."""

    def __init__(self, directory, environment):
        self.sock, theirs = socket.socketpair()
        (self.out, out), (self.err, err) = os.pipe(), os.pipe()
        argv = ["/usr/bin/python3", "-B", "-s", str(DRIVER / "kernel/bivouac_kernel")]
        self.process = subprocess.Popen(
            ["bash", "-c", 'fd=$0; exec 3<&"$fd" {fd}<&-; exec "$@"', str(theirs.fileno()), *argv],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            cwd=directory, env=environment, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.pid, self.buffer, self.number, self.waited = self.process.pid, b"", 0, True
        for fd in (out, err):
            os.close(fd)
        os.set_blocking(self.out, False)
        os.set_blocking(self.err, False)
        self.streams = {self.out: b"", self.err: b""}
        assert self.read(20) == (READY, struct.pack("<I", self.pid))


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    made = Zygote(str(tmp_path_factory.mktemp("root")))
    yield made
    made.close()


@pytest.fixture
def kernel(zygote):
    made = Kernel(zygote)
    yield made
    status = made.close()
    assert status in (None, 0), status


# The life of a kernel


def test_prepare_reports_only_missing_packages(zygote):
    if ROOTFS:
        assert zygote.banner == "ready "
    else:
        assert all("ModuleNotFoundError" in part for part in zygote.banner[6:].split("; "))


def test_end_of_file_ends_the_kernel(zygote):
    assert Kernel(zygote).close() == 0
    assert Kernel(zygote, init=False).close() == 0


def test_surroundings(kernel):
    got = kernel.run(
        "import os, sys\n"
        "print(os.environ['HOME'], os.environ['USER'], os.environ['LANG'])\n"
        "print(repr(sys.path[0]), sys.argv, __name__, sys.stdin.read() == '')\n"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd') if int(fd) < 200))\n"
        "print('PYTHONHASHSEED' in os.environ, os.getsid(0) == os.getpid())\n"
        "print(sys.executable)"
    )
    lines = got.out.splitlines()
    assert lines[0] == "/home/session session C.UTF-8"
    assert lines[1] == "'' [''] __main__ True"
    assert lines[2] in ("[0, 1, 2]", "[0, 1, 2, 3]")  # 3: the listing itself
    assert lines[3] == "False True"
    assert lines[4] == "/usr/bin/python3"
    if ROOTFS:
        assert kernel.value("import os; os.getcwd(), os.getuid()") == (TEXT, "('/mnt/data', 1000)")
        assert kernel.value("os.listdir('/mnt/data') + os.listdir('/tmp') + os.listdir('/home/session')") == (
            TEXT,
            "[]",
        )


def test_descriptors_are_not_inherited_by_programs(kernel):
    got = kernel.run("import subprocess; print(subprocess.run(['ls', '/proc/self/fd'], capture_output=True).stdout)")
    assert got.out == "b'0\\n1\\n2\\n3\\n'\n"
    got = kernel.run("import os; os.system('ls /proc/self/fd | tail -n 1'); None")
    assert int(got.out) < 100


def test_warm_up_leaves_nothing(kernel):
    got = kernel.run("sorted(name for name in globals() if not name.startswith('_'))")
    expected = "['In', 'Out', 'get_ipython']" if ROOTFS else "[]"
    assert (got.kind, got.value, got.out, got.err) == (TEXT, expected, "", "")
    assert kernel.value("2") == (INT, "2")
    assert kernel.value("_") == (INT, "2")


def test_cell_zero_is_the_drivers_own(kernel):
    kernel.sock.sendall(frame(RUN, struct.pack("<IB", 0, 0) + blob(b"")))
    got = kernel.finish()
    assert (got.status, got.kind, got.value, got.out, got.err) == (OK, NULL, "", "", "")
    assert kernel.run("").kind == NONE


@pytest.fixture
def launched(tmp_path):
    one = LaunchedKernel(tmp_path, {"PATH": "/usr/bin:/bin", "MINE": "yes", "HOME": str(tmp_path)})
    yield one
    one.sock.close()
    assert one.process.wait(20) == 0  # the end of the socket is the kernel's
    for fd in (one.out, one.err):
        os.close(fd)


def test_launched(launched):
    assert launched.run("x = 20").kind == NONE
    assert launched.value("x + 1") == (INT, "21")
    got = launched.run("import sys; print('out'); print('err', file=sys.stderr)")
    assert (got.out, got.err) == ("out\n", "err\n")
    got = launched.run("1/0")
    assert got.status == ERROR
    # The launcher's environment, its directory unless there is a session's, no descriptor but three.
    assert launched.value("import os; os.environ['MINE']") == (STR, "yes")
    assert launched.value("'PIP_BREAK_SYSTEM_PACKAGES' in os.environ") == (BOOL, "0")
    got = launched.run("os.system('ls /proc/self/fd'); None")
    assert got.out.split() == ["0", "1", "2", "3"]
    assert launched.value("__name__, sys.argv") == (TEXT, "('__main__', [''])")
    assert launched.run("import recipe").status == ERROR
    got = launched.run("from multiprocessing import Pool\nwith Pool(2) as p: print(p.map(abs, [-1, -2]))")
    assert got.out == "[1, 2]\n"
    assert launched.run("import threading, gc; gc.collect(); threading.active_count()").value == "1"


def test_launched_is_interrupted(launched):
    launched.start("import time\nprint('in', flush=True)\nwhile True: time.sleep(0.01)")
    while b"in" not in launched.streams[launched.out]:
        select.select([launched.out], [], [], 20)
        launched.drain()
    os.kill(launched.pid, signal.SIGINT)
    assert launched.finish().status == INTERRUPTED
    os.kill(launched.pid, signal.SIGINT)  # between cells: nothing
    assert launched.value("6 * 7") == (INT, "42")


def test_watched_output_leaves_as_it_is_written(kernel):
    write = (
        "import sys, time\nprint('no line', end='')\nsys.stderr.write('nor here')\n"
        "sys.stdout.buffer.write(b' raw')\n"
    )
    for _ in range(2):
        kernel.streams = dict.fromkeys(kernel.streams, b"")
        kernel.start(write + "time.sleep(60)", flags=1)
        while (kernel.streams[kernel.out], kernel.streams[kernel.err]) != (b"no line raw", b"nor here"):
            assert select.select(list(kernel.streams), [], [], 20)[0], kernel.streams
            kernel.drain()
        os.kill(kernel.pid, signal.SIGINT)
        assert kernel.finish().status == INTERRUPTED
        # Unwatched: one write a line, and what is left at the end.
        got = kernel.run("import os; sys.stdout.write('a'); os.write(1, b'b'); None")
        assert got.out == "ba"
    # A stream that the cell replaced or closed.
    kernel.start("sys.stdout.close()", flags=1)
    kernel.finish()
    assert kernel.run("print('again')").out == "again\n"
    kernel.start("sys.stdout = __import__('io').StringIO(); print('lost')", flags=1)
    assert kernel.finish().out == ""
    assert kernel.run("print('here')").out == "here\n"


def test_state_persists_between_cells(kernel):
    assert kernel.run("x = 20\ndef f(): return x + 1").kind == NONE
    assert kernel.value("f()") == (INT, "21")
    kernel.run("import os; os.chdir('/')")
    assert kernel.value("os.getcwd()") == (STR, "/")


# SECURITY: two kernels of one zygote must not share random numbers.
RANDOM_STATE = """
import random, uuid, tempfile, secrets, multiprocessing
s = [random.random(), uuid.uuid4().hex, uuid.uuid1().hex, next(tempfile._get_candidate_names())]
s += [secrets.token_hex(), multiprocessing.current_process().authkey.hex()]
try:
    import numpy
    s += [numpy.random.random(), numpy.random.default_rng().random()]
except ImportError:
    pass
repr(s)
"""


def test_random_states_differ(zygote):
    seen = []
    for _ in range(3):
        one = Kernel(zygote)
        seen.append(eval(one.value(RANDOM_STATE)[1]))
        one.close()
    for column in zip(*seen):
        assert len(set(column)) == 3, column


def test_entropy_decides_seeded_generators(zygote):
    values = []
    for entropy in (b"a" * 32, b"a" * 32, b"b" * 32):
        one = Kernel(zygote, entropy)
        values.append(one.value("import random; random.random()"))
        one.close()
    assert values[0] == values[1] != values[2]


# Typing of values


@pytest.mark.parametrize(
    "code, kind, value",
    [
        ("1+1", INT, "2"),
        ("-7", INT, "-7"),
        ("2**63-1", INT, "9223372036854775807"),
        ("-2**63", INT, "-9223372036854775808"),
        ("2**63", TEXT, "9223372036854775808"),
        ("-2**63-1", TEXT, "-9223372036854775809"),
        ("0.1", FLOAT, "0.1"),
        ("1e300*10", FLOAT, "1e+301"),
        ("-0.0", FLOAT, "-0.0"),
        ("float('nan')", STR, "nan"),
        ("float('inf')", STR, "inf"),
        ("-float('inf')", STR, "-inf"),
        ("True", BOOL, "1"),
        ("1 > 2", BOOL, "0"),
        ("'a\\nb'", STR, "a\nb"),
        ("'äöü€😀'", STR, "äöü€😀"),
        ("'\\ud800'", STR, "\\ud800"),
        ("''", STR, ""),
        ("a=None;a", NULL, ""),
        ("None", NULL, ""),
        ("import sys; sys.ps0 = None; sys.ps0", NULL, ""),
        ("print('x')", NONE, ""),
        ("x = 5", NONE, ""),
        ("", NONE, ""),
        ("# nothing", NONE, ""),
        ("5;", NONE, ""),
        ("5; # silent", NONE, ""),
        ("5 # not; silent", INT, "5"),
        ("'a;'", STR, "a;"),
        ("(1,\n 2);", NONE, ""),
        ("'ä;ö'; 'ü' ;", NONE, ""),
        ("[1, 2, 3]", TEXT, "[1, 2, 3]"),
        ("{'sin_pi': 1.2e-16, 'n': 9.6}", TEXT, "{'sin_pi': 1.2e-16, 'n': 9.6}"),
        ("(1,)", TEXT, "(1,)"),
        ("b'x'", TEXT, "b'x'"),
        ("1j", TEXT, "1j"),
        ("class A(int): pass\nA(3)", INT, "3"),
        ("class S(str): pass\nS('q')", STR, "q"),
        ("import enum\nclass E(enum.IntEnum):\n  X = 1\nE.X", TEXT, "<E.X: 1>"),
        ("from decimal import Decimal; Decimal('1.5')", TEXT, "Decimal('1.5')"),
        ("import asyncio; await asyncio.sleep(0)", NONE, ""),
        ("import asyncio; await asyncio.sleep(0, 7)", INT, "7"),
        ("if True:\n    5", NONE, ""),
    ],
)
def test_typing(kernel, code, kind, value):
    assert kernel.value(code) == (kind, value)


def test_long_lists_come_one_per_line(kernel):
    got = kernel.value("['package-number-%d' % i for i in range(20)]")[1]
    assert got.startswith("['package-number-0',\n 'package-number-1',\n ")


def test_underscore(kernel):
    kernel.run("40")
    kernel.run("_ + 2")
    assert kernel.value("_, __") == (TEXT, "(42, 40)")
    kernel.run("5;")
    kernel.run("_ = 'mine'")
    kernel.run("1")
    assert kernel.value("_") == (STR, "mine")


@needs_packages
@pytest.mark.parametrize(
    "code, kind, value",
    [
        ("np.int64(5)", INT, "5"),
        ("np.uint64(2**64-1)", TEXT, "18446744073709551615"),
        ("np.float64(1.5)", FLOAT, "1.5"),
        ("np.float32(0.5)", FLOAT, "0.5"),
        ("np.nan", STR, "nan"),
        ("np.float32('inf')", STR, "inf"),
        ("np.bool_(True)", BOOL, "1"),
        ("np.str_('s')", STR, "s"),
        ("np.arange(3)", TEXT, "array([0, 1, 2])"),
        ("np.timedelta64(5, 's')", TEXT, "numpy.timedelta64(5,'s')"),
        ("pd.DataFrame({'a': [1, 2]})", TEXT, "   a\n0  1\n1  2"),
        ("pd.DataFrame({'a': [1, 2]})['a'].sum()", INT, "3"),
        ("pd.NA", TEXT, "<NA>"),
    ],
)
def test_typing_of_packages(kernel, code, kind, value):
    assert kernel.value("import numpy as np, pandas as pd\n" + code) == (kind, value)


def test_huge_values_are_bounded(kernel):
    kind, text = kernel.value("{i: 'x' * 100000 for i in range(100)}")
    assert kind == TEXT and len(text) <= 1 << 20 and text.endswith("[... cut at 1 MiB ...]")
    assert kernel.value("class A:\n  def __repr__(self): return 'ä' * 10**7\nA()")[1].endswith("MiB ...]")
    assert kernel.value("'y' * 5_000_000") == (STR, "y" * 5_000_000)
    kind, text = kernel.value("'y' * 20_000_000")
    assert kind == TEXT and len(text) <= 1 << 20
    assert kernel.value("list(range(5000))")[1].endswith("...]" if ROOTFS else "4999]")


def test_failing_repr_is_the_cells_error(kernel):
    got = kernel.run("class A:\n  def __repr__(self): return 1/0\nA()")
    assert (got.status, got.name) == (ERROR, "ZeroDivisionError")
    assert kernel.run("10 ** 5000").name == "ValueError"
    assert kernel.value("1") == (INT, "1")


# Output


def test_output_is_ordered_and_complete(kernel):
    got = kernel.run("import sys\nprint('a', end='')\nprint('b', file=sys.stderr)\nsys.stdout.write('c')\n7")
    assert (got.out, got.err, got.kind) == ("ac", "b\n", INT)
    got = kernel.run("for i in range(100000): print(i)", timeout=60)
    assert got.out.count("\n") == 100000
    assert kernel.run("print('\\ud800ö')").out == "\\ud800ö\n"


def test_broken_streams_are_restored(kernel):
    for code in (
        "import sys; sys.stdout.close()",
        "import sys; sys.stdout = None; sys.stderr = 5",
        "import io, sys; sys.stdout = io.StringIO(); print('lost')",
        "import sys; sys.stdout.detach()",
        "import os; os.close(1); os.close(2)",
        "import os; os.dup2(os.open('/dev/null', 2), 1)",
        "import os; os.closerange(0, 100)",
        "class W:\n  def write(self, s): raise ValueError\n  def flush(self): 1/0\nsys.stdout = W()",
    ):
        got = kernel.run(code)
        assert got.status == OK, (code, got.traceback)
        got = kernel.run("import sys; print('alive'); print('err', file=sys.stderr)")
        assert (got.status, got.out, got.err) == (OK, "alive\n", "err\n"), code


def test_no_standard_input(kernel):
    got = kernel.run("input('name? ')")
    assert (got.status, got.name) == (ERROR, "StdinNotImplementedError")
    assert "not available" in got.text
    assert kernel.run("import getpass; getpass.getpass()").status == ERROR


# Errors


def test_traceback(kernel):
    got = kernel.run("def f(x):\n    return 1 / x\n\nf(0)")
    assert (got.status, got.name, got.text) == (ERROR, "ZeroDivisionError", "division by zero")
    assert got.traceback == (
        "Traceback (most recent call last):\n"
        '  File "<cell 1>", line 4, in <module>\n    f(0)\n'
        '  File "<cell 1>", line 2, in f\n    return 1 / x\n           ~~^~~\n'
        "ZeroDivisionError: division by zero\n"
    )
    assert "\x1b" not in got.traceback


def test_functions_of_earlier_cells_show_their_source(kernel):
    kernel.run("def g():\n    raise KeyError('k')  # here")
    got = kernel.run("g()")
    assert "    raise KeyError('k')  # here\n" in got.traceback and '"<cell 1>", line 2' in got.traceback
    assert kernel.value("import inspect; inspect.getsource(g)")[1].endswith("# here")


def test_syntax_errors(kernel):
    got = kernel.run("x = 1\nif x\n    pass")
    assert (got.status, got.name) == (ERROR, "SyntaxError")
    assert '  File "<cell 1>", line 2\n    if x\n        ^\nSyntaxError: expected' in got.traceback
    assert "Traceback" not in got.traceback and "bivouac" not in got.traceback
    assert kernel.run("return 5").name == "SyntaxError"
    assert kernel.run("  x = 1\n y = 2").name == "IndentationError"
    assert kernel.run("x = 'a\0b'").status == ERROR
    assert kernel.run("(" * 5000).status == ERROR
    assert kernel.run(b"x = '\xff\xfe'").status in (OK, ERROR)
    assert kernel.run("x = '\ud800'").status in (OK, ERROR)
    assert kernel.run("-" * 200000 + "1").status == ERROR
    assert kernel.value("1") == (INT, "1")


def test_chained_exceptions(kernel):
    got = kernel.run("try:\n    1/0\nexcept Exception as e:\n    raise ValueError('v') from e")
    assert got.name == "ValueError" and "direct cause" in got.traceback and "ZeroDivisionError" in got.traceback
    got = kernel.run("try:\n    1/0\nexcept Exception as e:\n    {}['k']")
    assert "During handling" in got.traceback and "bivouac" not in got.traceback
    got = kernel.run("raise ExceptionGroup('g', [ValueError(1), KeyError(2)])")
    assert got.name == "ExceptionGroup" and "KeyError: 2" in got.traceback
    got = kernel.run("e = None\nfor i in range(5000):\n    n = ValueError(i); n.__context__ = e; e = n\nraise e")
    assert got.text == "4999" and "earlier exceptions" in got.traceback
    got = kernel.run("e = ValueError(1); f = ValueError(2); e.__context__ = f; f.__context__ = e\nraise e")
    assert got.name == "ValueError"


def test_errors_are_bounded(kernel):
    got = kernel.run("raise ValueError('m' * 10_000_000)")
    assert len(got.text) <= 4096 and "left out" in got.text and len(got.traceback) <= 16384
    got = kernel.run("def f(): f()\nf()")
    assert got.name == "RecursionError" and len(got.traceback) <= 16384
    assert "repeated" in got.traceback
    got = kernel.run("def a(n): b(n)\ndef b(n): a(n)\na(1)")
    assert got.name == "RecursionError" and len(got.traceback.encode()) <= 16384
    assert got.traceback.startswith(("Traceback", "[")) and got.traceback.endswith("exceeded\n")


def test_hostile_exceptions(kernel):
    got = kernel.run("class E(Exception):\n  def __str__(self): raise RuntimeError\nraise E")
    assert (got.name, got.text) == ("E", "<exception str() failed>")
    got = kernel.run("class E(Exception):\n  def __str__(self): return 5\nraise E")
    assert got.name == "E"
    got = kernel.run("class E(Exception):\n  def __str__(self): raise KeyboardInterrupt\nraise E")
    assert (got.status, got.name) == (ERROR, "E")
    got = kernel.run("class E(BaseException): pass\nraise E('x')")
    assert (got.status, got.name, got.text) == (ERROR, "E", "x")
    got = kernel.run("import sys; sys.setrecursionlimit(60); raise ValueError(1)")
    assert got.name == "ValueError"
    kernel.run("sys.setrecursionlimit(1000)")
    assert kernel.run("raise 5").name == "TypeError"
    assert kernel.run("raise GeneratorExit").name == "GeneratorExit"


def test_system_exit_ends_the_cell_only(kernel):
    for code, text in (("exit()", "None"), ("quit()", "None"), ("import sys; sys.exit(3)", "3")):
        got = kernel.run("x = 1\n" + code + "\nx = 2")
        assert (got.status, got.name) == (ERROR, "SystemExit")
        assert got.text in (text, "") and "SystemExit" in got.traceback
        assert kernel.value("x") == (INT, "1")


def test_os_exit_ends_the_process(zygote):
    one = Kernel(zygote)
    one.start("import os; os._exit(7)")
    assert one.read() is None
    assert os.waitstatus_to_exitcode(one.wait()) == 7
    one.close()


def test_memory_error(kernel):
    got = kernel.run("import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))")
    got = kernel.run("x = bytearray(1 << 34)")
    assert (got.status, got.name) == (ERROR, "MemoryError")
    got = kernel.run("x = []\nwhile True: x.append('y' * 1000000 + str(len(x)))")
    assert (got.status, got.name) == (ERROR, "MemoryError")
    kernel.run("del x")
    assert kernel.value("1+1") == (INT, "2")


# Interrupts


def interrupt_soon(kernel, delay=0.15):
    time.sleep(delay)
    os.kill(kernel.pid, signal.SIGINT)


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import asyncio; await asyncio.sleep(60)",
        "import asyncio\ntry:\n    await asyncio.sleep(60)\nfinally:\n    print('clean')",
        "import threading; threading.Lock().acquire() and threading.Event().wait()",
        "import subprocess; subprocess.run(['sleep', '60'])",
        "class A:\n  def __repr__(self):\n    while True: pass\nA()",
    ],
)
def test_interrupt(kernel, code):
    kernel.run("import time, asyncio, threading, subprocess")
    kernel.start(code)
    interrupt_soon(kernel)
    got = kernel.finish(10)
    assert (got.status, got.name) == (INTERRUPTED, "KeyboardInterrupt")
    assert "KeyboardInterrupt" in got.traceback
    assert ("clean" in code) == (got.out == "clean\n")
    assert kernel.value("1+1") == (INT, "2")


def test_interrupt_while_describing(kernel):
    kernel.start("class E(Exception):\n  def __str__(self):\n    while True: pass\nraise E")
    interrupt_soon(kernel, 0.3)
    got = None
    for _ in range(5):
        try:
            got = kernel.finish(1)
            break
        except TimeoutError:
            os.kill(kernel.pid, signal.SIGINT)
    assert got.status == ERROR and got.name == "E"
    assert kernel.value("1") == (INT, "1")


def test_interrupt_can_be_caught(kernel):
    kernel.start("import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('caught')\n5")
    interrupt_soon(kernel)
    got = kernel.finish(10)
    assert (got.status, got.value, got.out) == (OK, "5", "caught\n")


def test_interrupt_between_cells_is_ignored(kernel):
    for _ in range(20):
        os.kill(kernel.pid, signal.SIGINT)
        assert kernel.value("1+1") == (INT, "2")


def test_interrupt_handling_is_taken_back(kernel):
    for code in (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)",
        "import signal; signal.signal(signal.SIGINT, lambda *a: print('mine'))",
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])",
    ):
        assert kernel.run(code).status == OK
        os.kill(kernel.pid, signal.SIGINT)
        kernel.run("pass")
        kernel.start("while True: pass")
        interrupt_soon(kernel)
        assert kernel.finish(10).status == INTERRUPTED


def test_interrupt_storm_loses_no_answer(kernel):
    rng = random.Random(1)
    cells = ("x = 1", "1+1", "print('a')", "raise ValueError('x')", "for i in range(3000): pass", "'s' * 9")
    for i in range(400):
        kernel.start(cells[i % len(cells)])
        for _ in range(rng.randrange(4)):
            os.kill(kernel.pid, signal.SIGINT)
            time.sleep(rng.random() * 0.0002)
        assert kernel.finish(10).status in (OK, ERROR, INTERRUPTED)
    kernel.run("pass")
    assert kernel.value("1+1") == (INT, "2")


# asyncio, processes, pickling


def test_top_level_await_uses_one_loop(kernel):
    kernel.run("import asyncio\nloops = []\nasync def f():\n    loops.append(asyncio.get_running_loop())\nawait f()")
    kernel.run("t = None\nasync def g():\n    global t\n    t = asyncio.create_task(asyncio.sleep(0.01, 'late'))\nawait g()")
    assert kernel.value("await t") == (STR, "late")
    kernel.run("await f()")
    assert kernel.value("loops[0] is loops[1]") == (BOOL, "1")
    assert kernel.value("asyncio.run(asyncio.sleep(0, 3))") == (INT, "3")
    assert kernel.value("await asyncio.sleep(0, 4)") == (INT, "4")
    assert kernel.value("[x async for x in (lambda: (i for i in []))() ] if False else 9") == (INT, "9")


def test_future_imports_last(kernel):
    kernel.run("from __future__ import annotations")
    assert kernel.value("def f(x: undefined): pass\nf.__annotations__['x']") == (STR, "undefined")


def test_main_classes_pickle(kernel):
    kernel.run("import pickle\nclass P:\n    v = 4\np = P()")
    assert kernel.value("pickle.loads(pickle.dumps(p)).v") == (INT, "4")
    assert kernel.value("__main__ if False else __spec__ is None and '__file__' not in globals()") == (BOOL, "1")


def test_multiprocessing(kernel):
    kernel.run("import multiprocessing as mp, math\ndef sq(x): return x * x")
    assert kernel.value("with mp.get_context('fork').Pool(2) as p: r = p.map(sq, range(4))\nr") == (TEXT, "[0, 1, 4, 9]")
    assert kernel.value("with mp.get_context('spawn').Pool(2) as p: r = p.map(math.sqrt, [4, 9])\nr") == (TEXT, "[2.0, 3.0]")
    got = kernel.run("p = mp.get_context('fork').Process(target=print, args=('child',)); print('once', end=' ', flush=False); p.start(); p.join()")
    assert got.out == "once child\n"


def test_forked_copy_of_the_kernel_does_not_answer(kernel):
    got = kernel.run("import os, time\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('here')\npid > 0")
    assert (got.kind, got.value, got.out) == (BOOL, "1", "here\nhere\n")
    assert kernel.value("1+1") == (INT, "2")


def test_threads_may_outlive_a_cell(kernel):
    kernel.run("import threading, time\nt = threading.Thread(target=lambda: (time.sleep(0.1), print('late')))\nt.start()")
    assert kernel.run("t.join()").out == "late\n"


# Images and magics


FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\n"


def is_png(value):
    return value[: 4 + len(PNG)] == b"\x03png" + PNG


@needs_packages
@pytest.mark.parametrize(
    "code",
    [
        FIGURE,
        FIGURE + "plt.show()",
        FIGURE + "plt.show()\nprint('after')",
        FIGURE + "5",
        FIGURE + "plt.gcf()",
        FIGURE + "plt.gcf();",
        FIGURE + "display(plt.gcf())",
        FIGURE + "plt.gcf().show()",
        "import matplotlib\nmatplotlib.use('Agg')\n" + FIGURE + "plt.show()",
        "%matplotlib inline\n" + FIGURE,
        "from PIL import Image\nImage.new('RGB', (4, 4))",
        "from PIL import Image\ndisplay(Image.new('RGB', (4, 4)))\n'text'",
        "import io\nfrom PIL import Image as I\nb = io.BytesIO(); I.new('RGB', (4, 4)).save(b, 'PNG')\n"
        "from IPython.display import Image\nImage(b.getvalue())",
        "import pandas as pd\npd.Series([1, 2]).plot()",
        "from matplotlib.figure import Figure\nf = Figure(); f.subplots(); f",
    ],
)
def test_images(kernel, code):
    got = kernel.run(code)
    assert got.status == OK, got.traceback
    assert got.kind == IMAGE and is_png(got.value)
    assert len(got.displays) == 1 and got.displays[0][:2] == (IMAGE, got.value)
    if "after" in code:
        assert got.out == "after\n"
    assert kernel.value("1") == (INT, "1")


@needs_packages
def test_several_figures_in_order(kernel):
    got = kernel.run("print('a')\n" + FIGURE + "plt.show()\nprint('b')\nplt.figure(figsize=(2, 2)); plt.plot([1])\nplt.figure(figsize=(3, 3)); plt.plot([1])\nNone")
    # Output written before a display is there when the display is.
    assert [out.startswith(b"a\n") for _, _, out in got.displays] == [True] * 3
    assert [out.endswith(b"b\n") for _, _, out in got.displays][1:] == [True] * 2
    assert got.value == got.displays[-1][1] and got.kind == IMAGE
    assert kernel.value("plt.get_fignums()") == (TEXT, "[]")


@needs_packages
def test_figures_of_a_failed_cell_are_shown_and_closed(kernel):
    got = kernel.run(FIGURE + "1/0")
    assert got.status == ERROR and len(got.displays) == 1
    assert kernel.value("1") == (INT, "1")
    got = kernel.run(FIGURE + "plt.title('$\\\\frac{$')")
    assert got.status == ERROR and got.name == "ValueError"
    assert kernel.value("1") == (INT, "1")
    assert kernel.run(FIGURE + "plt.savefig('/tmp/x.png'); plt.close('all')").kind == NONE


@needs_packages
def test_other_images(kernel):
    got = kernel.run("from IPython.display import SVG\nSVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')")
    assert got.kind == IMAGE and got.value.startswith(b"\x07svg+xml<svg")
    got = kernel.run("from PIL import Image\nImage.new('F', (2, 2))")
    assert got.kind == TEXT and "PIL.Image" in got.value
    got = kernel.run("from PIL import Image\nimport os\nImage.frombytes('RGB', (3000, 2500), os.urandom(22500000))")
    assert got.kind == TEXT and "too large" in got.value
    assert got.displays[0][0] == TEXT


@needs_packages
def test_display_of_text_goes_to_stdout(kernel):
    got = kernel.run("print(1)\ndisplay({'a': 1})\nimport pandas as pd\ndisplay(pd.DataFrame({'a': [1]}))\nprint(2)")
    assert got.out == "1\n{'a': 1}\n   a\n0  1\n2\n" and got.kind == NONE
    got = kernel.run("from IPython.display import HTML\ndisplay(HTML('<b>'))")
    assert got.out == "<IPython.core.display.HTML object>\n"


@needs_packages
def test_magics(kernel):
    assert kernel.run("!echo hello").out == "hello\n"
    assert kernel.run("print('first', end=' ')\n!echo second").out == "first second\n"
    assert kernel.run("!echo oops >&2").err == "oops\n"
    kernel.run("x = !echo a; echo b")
    assert kernel.value("list(x)") == (TEXT, "['a', 'b']")
    assert kernel.value("n = 5\n%time n + 1")[1] == "6"
    assert "per loop" in kernel.run("%timeit -n 1 -r 1 pass").out
    assert kernel.run("%%bash\necho in bash").out == "in bash\n"
    assert kernel.run("%%time\nfor i in range(3): pass\nprint(i)").out.startswith("2\n")
    kernel.run("%cd /tmp")
    assert kernel.value("import os; os.getcwd()") == (STR, "/tmp")
    kernel.run("cd /")
    assert kernel.value("os.getcwd()") == (STR, "/")
    assert kernel.value("pwd") == (STR, "/")
    assert kernel.value("d = %pwd\nd") == (STR, "/")
    got = kernel.run("%%writefile /tmp/m.py\nprint('module', 1 +\n 1)")
    assert got.out == "Writing /tmp/m.py\n"
    assert kernel.run("%run /tmp/m.py").out == "module 2\n"
    kernel.run("%%capture c\nprint('kept')\n!echo too")
    assert kernel.value("c.stdout") == (STR, "kept\ntoo\n")
    got = kernel.run("def f(a):\n    'Doc of f.'\nf?")
    assert "Doc of f." in got.out and "\x1b" not in got.out
    assert kernel.value(">>> 1 + 1") == (INT, "2")
    assert kernel.value("    y = 3\n    y") == (INT, "3")
    assert kernel.value("get_ipython().user_ns is globals()") == (BOOL, "1")
    assert kernel.run("%who").status == OK


@needs_packages
def test_errors_of_magics(kernel):
    got = kernel.run("%nosuchmagic")
    assert (got.status, got.name) == (ERROR, "UsageError")
    got = kernel.run("%%writefile /tmp/bad.py\n1/0")
    got = kernel.run("%run /tmp/bad.py")
    assert (got.status, got.name) == (ERROR, "ZeroDivisionError") and "\x1b" not in got.traceback
    got = kernel.run("%%time\n1/0")
    assert (got.status, got.name) == (ERROR, "ZeroDivisionError")
    got = kernel.run("%%bash\nexit 3")
    assert (got.status, got.name) == (ERROR, "CalledProcessError")
    got = kernel.run("x = 1\n!true\nif x\n  y")
    assert (got.status, got.name) == (ERROR, "SyntaxError") and "if x" in got.traceback
    kernel.start("!sleep 60")
    interrupt_soon(kernel, 0.4)
    assert kernel.finish(10).status == INTERRUPTED
    assert kernel.value("1") == (INT, "1")


@needs_packages
def test_the_image_has_what_clients_need(kernel):
    got = kernel.value("\nimport pkg_resources\n[d.project_name for d in pkg_resources.working_set]\n")
    assert got[0] == TEXT and "',\n '" in got[1]
    assert kernel.run("import threading; threading.active_count()").value == "1"
    for name in "scipy.stats sklearn seaborn statsmodels.api sympy networkx openpyxl docx xlsxwriter reportlab PIL lxml bs4 tabulate requests setuptools pip".split():
        assert kernel.run("import " + name, 60).status == OK, name


# What the agent must never see, and garbage


def test_garbage_ends_the_kernel(zygote):
    rng = random.Random(7)
    frames = [
        frame(RUN, b""),
        frame(RUN, b"\0" * 8),
        frame(RUN, struct.pack("<IBI", 1, 0, 5) + b"abc"),
        frame(RUN, struct.pack("<IBI", 1, 0, 2) + b"abc"),
        frame(INIT, blob(b"x")),
        frame(99, b"hello"),
        struct.pack("<IB", 0xFFFFFFFF, RUN),
        struct.pack("<IB", 17 << 20, RUN),
    ] + [bytes(rng.randrange(256) for _ in range(rng.randrange(5, 200))) for _ in range(30)]
    for data in frames:
        for initialised in (True, False):
            one = Kernel(zygote, init=initialised)
            if not initialised:
                one.streams = {}
            one.sock.sendall(data)
            one.sock.shutdown(socket.SHUT_WR)
            assert one.read(10) is None
            assert os.waitstatus_to_exitcode(one.wait()) == 76, data
            one.close()


def test_frames_in_pieces_and_in_bulk(kernel):
    code = b"len('" + b"z" * 300000 + b"')"
    data = frame(RUN, struct.pack("<IB", 1, 0) + blob(code))
    for i in range(0, len(data), 50000):
        kernel.sock.sendall(data[i : i + 50000])
        time.sleep(0.005)
    assert kernel.finish().value == "300000"
    small = frame(RUN, struct.pack("<IB", 2, 0) + blob(b"1+1"))
    for byte in small:
        kernel.sock.sendall(bytes([byte]))
    assert kernel.finish().value == "2"
    kernel.sock.sendall(small * 1000)
    for _ in range(1000):
        assert kernel.finish().value == "2"


def test_the_driver_costs_little(kernel):
    """A generous bound for slow machines; bench/ has the real numbers."""
    for code in ("1+1", "x=1"):
        times = []
        for _ in range(500):
            begin = time.perf_counter()
            kernel.run(code)
            times.append(time.perf_counter() - begin)
        assert sorted(times)[250] < 0.002


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, *sys.argv[1:]]))
