# SPDX-License-Identifier: Apache-2.0
"""The Node kernel driver, spoken to over its protocol (src/base/kernel_proto.h) without an agent.

    /usr/bin/python3 -m pytest tests/unit/test_node_driver.py
    BIVOUAC_TEST_ROOTFS_NODE=/path/to/image/rootfs /usr/bin/python3 -m pytest ...     # root

The kernel is started as its launcher does: socket at 3, pipes at 1 and 2. With the image's root it
runs chrooted into it, laid read-only below a tmpfs, and with this tree's driver; without, with the
Node of this machine.
"""

import json
import os
import pathlib
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import types

import pytest

RUNTIME = pathlib.Path(__file__).resolve().parents[2] / "runtimes/node"
ROOTFS = os.environ.get("BIVOUAC_TEST_ROOTFS_NODE")
NODE = "/usr/bin/node"

pytestmark = pytest.mark.skipif(
    not ROOTFS and not os.path.exists(NODE),
    reason="needs Node: set BIVOUAC_TEST_ROOTFS_NODE to the root of a node image",
)

RUN, READY, DISPLAY, DONE = 2, 16, 17, 18
STREAM, ARGV = 1, 2
OK, ERROR, INTERRUPTED = 0, 1, 2
NONE, NULL, BOOL, INT, FLOAT, STR, TEXT, IMAGE = range(8)
PNG = b"\x89PNG\r\n\x1a\n"
FRAME_MAX = 16 << 20

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/home/session",
    "LANG": "C.UTF-8",
    "NODE_PATH": "/mnt/data/node_modules:/home/session/.local/lib/node_modules:/usr/share/nodejs:/usr/lib/nodejs",
}

# Lays the image read-only, with the tmpfs mounts a session has, and holds the mount namespace.
MOUNTS = r"""
set -e
root=$1 driver=$2 base=$3
mount -t tmpfs tmpfs "$base"
mkdir "$base/up" "$base/work" "$base/root"
mount -t overlay overlay -o lowerdir="$root",upperdir="$base/up",workdir="$base/work" "$base/root"
cd "$base/root"
mkdir -p opt/bivouac/node mnt/data home/session
mount --bind "$driver" opt/bivouac/node
mount -o remount,ro overlay "$base/root"
for dir in mnt/data home/session tmp; do
    mount -t tmpfs -o mode=1777 tmpfs "$dir"
done
mount -t proc proc proc
mount --rbind /dev dev
echo ready
exec sleep infinity
"""

TAKE_SOCKET = 'fd=$1; shift; exec 3<&"$fd" {fd}<&-; exec "$@"'


def node_arguments():
    """What the recipe starts, without the driver's own path."""
    for line in (RUNTIME / "recipe").read_text().splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "kernel" and value.split()[0] == "node":
            return value.split()[1:]
    raise AssertionError("the recipe has no kernel = node")


class Launcher:
    def __init__(self, base):
        self.driver = base / "driver"
        shutil.copytree(RUNTIME / "kernel", self.driver)
        subprocess.run(
            ["cc", "-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden",
             "-o", self.driver / "native.node", RUNTIME / "native.c"],
            check=True,
        )  # fmt: skip
        self.holder = None
        self.work = base / "data"
        self.work.mkdir()
        self.argv = node_arguments()
        if ROOTFS:
            root = base / "root"
            root.mkdir()
            argv = ["unshare", "--mount", "sh", "-c", MOUNTS, "sh", ROOTFS, self.driver, root]
            self.holder = subprocess.Popen(argv, stdout=subprocess.PIPE)
            assert self.holder.stdout.readline() == b"ready\n"
            pairs = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
            into = ["nsenter", "-t", str(self.holder.pid), "--mount", "chroot", "--userspec=1000:1000", root / "root"]
            self.argv = [*into, "/usr/bin/env", "-i", "-C", "/mnt/data", *pairs, *self.argv]
        else:
            self.argv[-1] = self.driver / "kernel.js"

    def start(self, sock, out, err):
        argv = ["bash", "-c", TAKE_SOCKET, "bash", str(sock.fileno()), *self.argv]
        where = {} if ROOTFS else {"cwd": self.work, "env": {**ENVIRONMENT, "HOME": str(self.work)}}
        return subprocess.Popen(
            argv, pass_fds=[sock.fileno()], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True, **where,
        )  # fmt: skip

    def close(self):
        if self.holder:
            self.holder.kill()
            self.holder.wait()


def blob(data):
    return struct.pack("<I", len(data)) + data


def frame(kind, payload):
    return struct.pack("<IB", len(payload), kind) + payload


def run_frame(number, code, flags=0):
    data = code if isinstance(code, bytes) else code.encode("utf-8", "surrogatepass")
    return frame(RUN, struct.pack("<IB", number, flags) + blob(data))


class Kernel:
    def __init__(self, launcher, warm=True):
        self.sock, theirs = socket.socketpair()
        (self.out, out), (self.err, err) = os.pipe(), os.pipe()
        self.process = launcher.start(theirs, out, err)
        self.pid = self.process.pid
        theirs.close()
        os.close(out)
        os.close(err)
        os.set_blocking(self.out, False)
        os.set_blocking(self.err, False)
        self.streams = {self.out: b"", self.err: b""}
        self.open = {self.out, self.err}
        self.buffer = b""
        self.number = 0
        kind, payload = self.read()
        assert kind == READY and struct.unpack("<I", payload)[0] == self.pid
        if warm:
            self.sock.sendall(run_frame(0, b""))
            got = self.finish()
            assert (got.status, got.kind, got.out, got.err, got.displays) == (OK, NONE, "", "", [])

    def drain(self):
        for fd in list(self.open):
            try:
                while chunk := os.read(fd, 65536):
                    self.streams[fd] += chunk
                self.open.discard(fd)
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

    def finish(self, timeout=30.0):
        displays = []
        while True:
            got = self.read(timeout)
            assert got is not None, f"the kernel died: {self.streams}"
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
        assert at == len(payload) <= FRAME_MAX
        self.drain()
        out, err = self.streams[self.out], self.streams[self.err]
        self.streams = {self.out: b"", self.err: b""}
        value = blobs[0] if value_kind == IMAGE else blobs[0].decode()
        assert len(blobs[1]) <= 1024 and len(blobs[2]) <= 4096 and len(blobs[3]) <= 16384
        name, text, traceback = (part.decode() for part in blobs[1:])
        assert status == OK or value_kind == NONE
        assert status != OK or (name, text, traceback) == ("", "", "")
        assert "\x1b" not in traceback and "/opt/bivouac" not in traceback and "driver/" not in traceback
        return types.SimpleNamespace(
            status=status, kind=value_kind, value=value, name=name, text=text, traceback=traceback,
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

    def wait_for(self, text, fd=None, timeout=20):
        """Until the kernel has written a text, in a cell or between cells."""
        fd = self.out if fd is None else fd
        deadline = time.monotonic() + timeout
        while text not in self.streams[fd].decode("utf-8", "replace"):
            assert time.monotonic() < deadline, f"the kernel did not write {text!r}"
            select.select([fd], [], [], 1)
            self.drain()

    def interrupted(self, code, timeout=20):
        """The result of a cell that is interrupted once it has printed `go`."""
        self.start(code)
        self.wait_for("go\n")
        self.interrupt()
        return self.finish(timeout)

    def wait(self):
        return self.process.wait(20)

    def close(self):
        self.sock.close()
        status = self.wait()
        for fd in self.streams:
            os.close(fd)
        return status


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    base = tmp_path_factory.mktemp("node")
    for directory in (base, *base.parents):
        if directory.owner() == "root" and str(directory).startswith("/tmp/"):
            directory.chmod(0o755)
    made = Launcher(base)
    yield made
    made.close()


@pytest.fixture
def kernel(launcher):
    made = Kernel(launcher)
    yield made
    assert made.close() == 0


# The life of a kernel


def test_end_of_file_ends_the_kernel(launcher):
    assert Kernel(launcher).close() == 0
    assert Kernel(launcher, warm=False).close() == 0
    one = Kernel(launcher)
    one.run("setInterval(() => {}, 1); require('net').createServer().listen(0, '127.0.0.1'); 0")
    assert one.close() == 0
    one = Kernel(launcher)
    one.start("await new Promise(() => {})")
    assert one.close() == 0


def test_surroundings(kernel, launcher):
    got = kernel.value(
        "JSON.stringify([process.cwd(), process.argv, process.execArgv, __dirname, __filename, require.main === module,"
        " require('fs').readFileSync(0, 'utf8'), process.env.HOME, process.stdout.fd, process.stderr.fd])"
    )
    work = "/mnt/data" if ROOTFS else str(launcher.work)
    home = "/home/session" if ROOTFS else work
    assert json.loads(got[1]) == [work, [NODE], [], work, work + "/cell", True, "", home, 1, 2]
    if ROOTFS:
        assert kernel.value("process.getuid() + ':' + fs.readdirSync('/mnt/data')") == (STR, "1000:")


def test_the_socket_is_hidden(kernel):
    list_fds = "child_process.execFileSync('ls', ['/proc/self/fd']).toString()"
    assert kernel.value(list_fds) == (STR, "0\n1\n2\n3\n")
    assert kernel.value("child_process.execSync('exec ls /proc/self/fd').toString()") == (STR, "0\n1\n2\n3\n")
    fds = "fs.readdirSync('/proc/self/fd').filter((fd) => { try { return fs.readlinkSync('/proc/self/fd/' + fd).startsWith('socket') } catch { return false } })"
    assert int(json.loads(kernel.value(f"JSON.stringify({fds})")[1])[0]) >= 200


def test_warm_up_leaves_nothing(kernel):
    assert kernel.value("Object.keys(globalThis).includes('warm')") == (BOOL, "0")
    assert kernel.value("typeof warm + typeof error") == (STR, "undefinedundefined")
    assert kernel.value("1") == (INT, "1")


def test_warm_up_is_not_necessary(launcher):
    one = Kernel(launcher, warm=False)
    assert one.value("1+1") == (INT, "2")
    assert one.close() == 0


# State


def test_state_persists_between_cells(kernel):
    assert kernel.run("const a = 20; let b = 1; var c = 0; function f() { return a + b + c }\nclass P {}").kind == NONE
    assert kernel.value("f()") == (INT, "21")
    kernel.run("const a = 30; let b = 2; class P { x = 1 }; function g() { return f() }")
    assert kernel.value("g() + new P().x") == (INT, "33")
    assert kernel.run("a = 5").name == "TypeError"
    kernel.run("implicit = 7")
    assert kernel.value("implicit + globalThis.implicit") == (INT, "14")
    kernel.run("process.chdir('/')")
    assert kernel.value("process.cwd() + __dirname") == (STR, "//")
    assert kernel.run("const broken = (() => { throw new Error('x') })()").status == ERROR
    assert kernel.value("const broken = 4; broken") == (INT, "4")
    assert kernel.value("const {x, ...rest} = {x: 1, y: 2}; rest.y") == (INT, "2")


def test_top_level_await(kernel):
    kernel.run("const v = await new Promise((resolve) => setTimeout(resolve, 5, 'late'))")
    assert kernel.value("v") == (STR, "late")
    assert kernel.value("for await (const i of (async function* () { yield 4 })()) i") == (INT, "4")
    assert kernel.value("async function f() { await null; return 8 } f()") == (INT, "8")
    assert kernel.value("Promise.resolve(Promise.resolve([1]))") == (TEXT, "[ 1 ]")
    assert kernel.value("const p = f(); await p + 1") == (INT, "9")
    assert kernel.run("setTimeout(() => console.log('waited'), 10); await new Promise((r) => setTimeout(r, 40))").out == (
        "waited\n"
    )


# Typing of values


@pytest.mark.parametrize(
    "code, kind, value",
    [
        ("1+1", INT, "2"),
        ("-7", INT, "-7"),
        ("2**53", INT, "9007199254740992"),
        ("-(2**53)", INT, "-9007199254740992"),
        ("1e18", INT, "1000000000000000000"),
        ("-(2**63)", INT, "-9223372036854775808"),
        ("2**63", FLOAT, "9223372036854776000"),
        ("1e300", FLOAT, "1e+300"),
        ("0.1", FLOAT, "0.1"),
        ("0.1+0.2", FLOAT, "0.30000000000000004"),
        ("5e-324", FLOAT, "5e-324"),
        ("4.0", INT, "4"),
        ("-0", FLOAT, "-0.0"),
        ("NaN", TEXT, "NaN"),
        ("1/0", TEXT, "Infinity"),
        ("-1/0", TEXT, "-Infinity"),
        ("true", BOOL, "1"),
        ("1 > 2", BOOL, "0"),
        ("'a\\nb'", STR, "a\nb"),
        ("'äöü€😀'", STR, "äöü€😀"),
        ("'a\\0b'", STR, "a\0b"),
        ("'\\ud800'", STR, "\ufffd"),
        ("''", STR, ""),
        ("null", NULL, ""),
        ("undefined", NONE, ""),
        ("const x = 5", NONE, ""),
        ("console.log()", NONE, ""),
        ("", NONE, ""),
        ("// nothing", NONE, ""),
        ("#!/usr/bin/env node\n3", INT, "3"),
        ("let q = 5; await 1; let r = 5", INT, "1"),
        ("10n", TEXT, "10n"),
        ("[1, 2, 3]", TEXT, "[ 1, 2, 3 ]"),
        ("({a: 1, b: 'x'})", TEXT, "{ a: 1, b: 'x' }"),
        ("{a: 1, b: 'x'}", TEXT, "{ a: 1, b: 'x' }"),
        ("{ let a = 1; a }", INT, "1"),
        ("{}", TEXT, "{}"),
        ("new Map([[1, {a: 2}]])", TEXT, "Map(1) { 1 => { a: 2 } }"),
        ("(x) => x", TEXT, "[Function (anonymous)]"),
        ("Symbol('s')", TEXT, "Symbol(s)"),
        ("new Number(5)", TEXT, "[Number: 5]"),
        ("new Date(0)", TEXT, "1970-01-01T00:00:00.000Z"),
        ("Buffer.from('ab')", TEXT, "<Buffer 61 62>"),
        ("new Uint8Array(2)", TEXT, "Uint8Array(2) [ 0, 0 ]"),
        ("/x/g", TEXT, "/x/g"),
        ("new (class A { constructor() { this.v = 1 } })", TEXT, "A { v: 1 }"),
        ("({a: {b: {c: {d: {e: {}}}}}})", TEXT, "{\n  a: {\n    b: { c: { d: { e: {} } } }\n  }\n}"),
        ("({get a() { throw 1 }})", TEXT, "{ a: [Getter] }"),
        ("new Proxy({a: 1}, {get() { throw 1 }, ownKeys() { throw 1 }, getPrototypeOf() { throw 1 }})", TEXT, "{ a: 1 }"),
        ("Object.create(null)", TEXT, "[Object: null prototype] {}"),
        ("Promise.resolve()", NONE, ""),
        ("Promise.resolve(null)", NULL, ""),
    ],
)
def test_typing(kernel, code, kind, value):
    assert kernel.value(code) == (kind, value)


def test_an_error_as_a_value(kernel):
    kind, text = kernel.value("new Error('shown')")
    assert kind == TEXT and text.startswith("Error: shown\n    at cell-1:1:1")


def test_huge_values_are_bounded(kernel):
    kind, text = kernel.value("Array.from({length: 100}, () => 'x'.repeat(9999)).join().match(/x+/g).concat('ä'.repeat(1e6))")
    assert kind == TEXT and len(text.encode()) <= 1 << 20
    kind, text = kernel.value("({[Symbol.for('nodejs.util.inspect.custom')]() { return 'ä'.repeat(1e7) }})")
    assert kind == TEXT and len(text.encode()) <= 1 << 20 and text.endswith("[... cut at 1 MiB ...]")
    assert kernel.value("'y'.repeat(5_000_000)") == (STR, "y" * 5_000_000)
    kind, text = kernel.value("'y'.repeat(20_000_000)")
    assert kind == TEXT and len(text) <= 1 << 20
    assert "more items" in kernel.value("Array.from({length: 5000}, (_, i) => i)")[1]
    assert kernel.value("const deep = {}; let at = deep; for (let i = 0; i < 1e5; i++) at = at.x = {}; deep")[0] == TEXT


def test_failing_inspection_is_the_cells_error(kernel):
    got = kernel.run("({[util.inspect.custom]() { throw new RangeError('mine') }})")
    assert (got.status, got.name, got.text) == (ERROR, "RangeError", "mine")
    assert kernel.value("1") == (INT, "1")


# Output


def test_output_is_ordered_and_complete(kernel):
    got = kernel.run("process.stdout.write('a'); console.error('b'); process.stdout.write('c'); 7")
    assert (got.out, got.err, got.kind) == ("ac", "b\n", INT)
    got = kernel.run("for (let i = 0; i < 100000; i++) console.log(i)", timeout=60)
    assert got.out.splitlines() == [str(i) for i in range(100000)]
    assert kernel.run("console.log('%s-%d', 'x', 4, {a: 1}); console.table; null").out == "x-4 { a: 1 }\n"
    assert kernel.run("console.log('\\ud800ö')").out == "\ufffdö\n"
    got = kernel.run("await new Promise((r) => process.stdout.write('flushed', r)); 'then'")
    assert (got.out, got.value) == ("flushed", "then")
    got = kernel.run("child_process.execSync('echo child', {stdio: 'inherit'}); console.log('after')")
    assert got.out == "child\nafter\n"


def test_a_full_pipe_blocks(kernel):
    """64 MiB to a reader that does not read: the kernel waits, and does not queue in memory."""
    code = "for (let i = 0; i < 1024; i++) process.stdout.write('z'.repeat(65535) + '\\n'); process.memoryUsage().rss"
    kernel.start(code, STREAM)
    assert select.select([kernel.sock], [], [], 1)[0] == []
    total = 0
    while not select.select([kernel.sock], [], [], 0)[0]:
        select.select([kernel.out, kernel.sock], [], [])
        try:
            total += len(os.read(kernel.out, 65536))
        except BlockingIOError:
            pass
    got = kernel.finish()
    assert total + len(got.out) == 64 << 20
    assert int(got.value) < 300 << 20


def test_broken_streams_are_restored(kernel):
    for code in (
        "process.stdout.end(); process.stderr.destroy()",
        "process.stdout.write = () => true; console.log('lost')",
        "Object.defineProperty(process, 'stdout', {value: 5, configurable: true})",
        "fs.closeSync(1); fs.closeSync(2)",
        "fs.closeSync(1); fs.openSync('/dev/null', 'w'); 0",
        "process.stdout._write = process.stdout.destroy",
    ):
        got = kernel.run(code)
        assert got.status == OK, (code, got.traceback)
        got = kernel.run("console.log('alive'); console.error('err')")
        assert (got.status, got.out, got.err) == (OK, "alive\n", "err\n"), code


def test_output_between_cells_does_not_end_the_kernel(kernel):
    kernel.run("let n = 0; const t = setInterval(() => { console.log('tick', n++); if (n === 3) clearInterval(t) }, 5); 0")
    got = kernel.run("await new Promise((r) => { const w = setInterval(() => n >= 3 && r(clearInterval(w)), 1) }); n")
    assert (got.status, got.value) == (OK, "3")
    kernel.run("setTimeout(() => { throw new Error('late failure') }, 5); Promise.reject(new Error('x')).catch(() => {}); 0")
    kernel.wait_for("late failure", kernel.err)
    got = kernel.run("1")
    assert got.status == OK and got.err.startswith("Uncaught Error: late failure\n    at Timeout._onTimeout (cell 3:1:")
    kernel.run("const rejects = new Promise((_, reject) => setTimeout(reject, 5, 'why')); 0")
    kernel.wait_for("why", kernel.err)
    assert kernel.run("1").err.startswith("Uncaught ")
    assert kernel.run("await rejects").text == "'why'"


# Errors


def test_traceback(kernel):
    got = kernel.run("function f(x) {\n    return x.y.z\n}\n\nf({})")
    assert (got.status, got.name) == (ERROR, "TypeError")
    assert got.text == "Cannot read properties of undefined (reading 'z')"
    assert got.traceback == (
        "TypeError: Cannot read properties of undefined (reading 'z')\n"
        "    at f (cell 1:2:16)\n"
        "    at cell 1:5:1\n"
    )
    text = got.traceback
    got = kernel.run("async function g() { await 1; f({}) }\nawait g()")
    lines = got.traceback.splitlines()
    assert lines[1:3] == ["    at f (cell 1:2:16)", "    at g (cell 2:1:31)"] and lines[-1] == "    at async cell 2:2:1"
    got = kernel.run("[1].map(() => JSON.parse('{'))")
    assert got.name == "SyntaxError" and "JSON.parse" in got.traceback and "cell 3:1:20" in got.traceback
    got = kernel.run("fs.readFileSync('/none')")
    assert got.name == "Error" and got.text.startswith("ENOENT") and "code: 'ENOENT'" in got.traceback
    assert got.traceback.splitlines()[-1] == "}"
    got = kernel.run("try { f({}) } catch (error) { console.log(error.stack) }")
    assert got.out.splitlines()[:3] == [text.splitlines()[0], "    at f (cell-1:2:16)", "    at cell-5:1:7"]
    assert "driver/" not in got.out and "/opt/bivouac" not in got.out
    got = kernel.run("new Promise((_, reject) => setTimeout(() => reject(new RangeError('r')), 5))")
    assert (got.name, got.text) == ("RangeError", "r")


def test_syntax_errors(kernel):
    got = kernel.run("let fine = 1\nlet x = ;")
    assert (got.status, got.name, got.text) == (ERROR, "SyntaxError", "Unexpected token ';'")
    assert got.traceback == "cell 1:2\nlet x = ;\n        ^\n\nSyntaxError: Unexpected token ';'\n"
    assert kernel.run("(" * 5000).status == ERROR
    for code in ("`abc", "return 5", "x = 'a\nb'", "{", "/* open", "let a; let a", "({a:1}", "1 +", "import", "await"):
        got = kernel.run(code)
        assert (got.status, got.name) == (ERROR, "SyntaxError"), code
        assert "driver" not in got.traceback and got.traceback.endswith(f"SyntaxError: {got.text}\n"), code
    assert kernel.run("-" * 200000 + "1").status == ERROR
    assert kernel.run(b"x = '\xff\xfe'").kind == STR
    got = kernel.run("eval('let = =')")
    assert got.name == "SyntaxError"
    assert kernel.value("1") == (INT, "1")


def test_thrown_things(kernel):
    got = kernel.run("throw 5")
    assert (got.status, got.name, got.text, got.traceback) == (ERROR, "Uncaught", "5", "Uncaught 5\n")
    assert kernel.run("throw {code: 3}").text == "{ code: 3 }"
    assert kernel.run("throw null").text == "null"
    assert kernel.run("throw undefined").text == "undefined"
    assert kernel.run("await Promise.reject('no')").text == "'no'"
    got = kernel.run("throw new Error('outer', {cause: new TypeError('inner')})")
    assert "[cause]: TypeError: inner" in got.traceback
    got = kernel.run("throw new AggregateError([new Error('one'), new Error('two')], 'both')")
    assert got.name == "AggregateError" and "Error: two" in got.traceback
    got = kernel.run("class MyError extends Error { constructor(m) { super(m); this.name = 'MyError'; this.extra = 4 } }\nthrow new MyError('m')")
    assert (got.name, got.text) == ("MyError", "m") and "extra: 4" in got.traceback


def test_errors_are_bounded(kernel):
    got = kernel.run("throw new Error('m'.repeat(1e7))")
    assert len(got.text.encode()) <= 4096 and "left out" in got.text
    got = kernel.run("const e = new Error('ü'.repeat(1e6)); e.name = 'n'.repeat(1e6); throw e")
    assert len(got.name) <= 1024
    got = kernel.run("function r() { r() } r()")
    assert got.name == "RangeError" and "Maximum call stack" in got.text


def test_hostile_errors(kernel):
    for code in (
        "const e = new Error('x'); Object.defineProperty(e, 'message', {get() { throw 1 }}); throw e",
        "const e = new Error('x'); Object.defineProperty(e, 'name', {get() { throw 1 }}); throw e",
        "const e = new Error('x'); Object.defineProperty(e, 'stack', {get() { throw 1 }}); throw e",
        "const e = new Error('x'); e[util.inspect.custom] = () => { throw 1 }; throw e",
        "throw new Proxy(new Error('x'), {get() { throw 1 }, getPrototypeOf() { throw 1 }})",
        "throw {[util.inspect.custom]() { throw 1 }}",
        "Error.prepareStackTrace = () => { throw 1 }; null.x",
        "Error.stackTraceLimit = 0; null.x",
        "const e = new Error('x'); e.stack = 5; throw e",
        "const e = new Error('x'); e.name = {}; e.message = []; throw e",
    ):
        got = kernel.run(code)
        assert got.status == ERROR and got.name and got.traceback, code
        assert kernel.value("1") == (INT, "1")


def test_uncaught_in_callbacks_is_the_running_cells_error(kernel):
    wait = "await new Promise(() => {})"
    got = kernel.run(f"setTimeout(() => {{ throw new Error('timer') }}, 5); {wait}")
    assert (got.status, got.name, got.text) == (ERROR, "Error", "timer") and "cell 1:1:" in got.traceback
    got = kernel.run(f"Promise.reject(new RangeError('left alone')); {wait}")
    assert (got.status, got.name, got.text) == (ERROR, "RangeError", "left alone")
    got = kernel.run("Promise.reject(new RangeError('left alone')); 5")
    assert (got.status, got.name) == (ERROR, "RangeError")
    got = kernel.run(f"new events.EventEmitter().on('x', 1); {wait}")
    assert got.name == "TypeError"
    got = kernel.run(f"setImmediate(() => new events().emit('error', new Error('unheard'))); {wait}")
    assert got.text == "unheard"
    kernel.run("let seen; process.on('uncaughtException', (e) => { seen = e.message })")
    assert kernel.value("setTimeout(() => { throw new Error('own') }, 2); await new Promise((r) => setTimeout(r, 50)); seen") == (STR, "own")
    kernel.run("process.removeAllListeners()")
    kernel.run("setTimeout(() => { throw new Error('after') }, 2); 0")
    kernel.wait_for("after", kernel.err)
    assert kernel.run("1").status == OK


def test_process_exit_ends_the_cell_only(kernel):
    got = kernel.run("var x = 1\nprocess.exit(3)\nx = 2")
    assert (got.status, got.name, got.text) == (ERROR, "ProcessExit", "process.exit(3)")
    assert kernel.value("x") == (INT, "1")
    for code in ("process.exit()", "process.exit(0)", "try { process.exit() } finally { x = 3 }", "await 1; process.exit()",
                 "await new Promise((r) => setTimeout(r, 5)); process.exit(0)",
                 "setTimeout(() => process.exit(), 5); await new Promise(() => {})",
                 "(function main() { process.exit(0) })()"):  # fmt: skip
        got = kernel.run("console.log('out');" + code)
        assert (got.status, got.kind, got.out) == (OK, NONE, "out\n"), code
    assert kernel.value("x") == (INT, "1")
    got = kernel.run("process.exitCode = 4; process.exit()")
    assert (got.status, got.text) == (ERROR, "process.exit(4)")
    kernel.run("setTimeout(() => { console.log('exits'); process.exit(9) }, 2); 0")
    kernel.wait_for("exits")
    assert kernel.value("x") == (INT, "1")


@pytest.mark.parametrize("code, status", [("process.abort()", -signal.SIGABRT), ("process.kill(process.pid, 'SIGKILL')", -signal.SIGKILL)])
def test_death(launcher, code, status):
    one = Kernel(launcher)
    one.start(code)
    assert one.read() is None
    assert one.wait() == status
    one.close()


# Interrupts


BUSY = "while (true) {}"
BEGUN = "console.log('go');"
SPIN = BEGUN + BUSY


@pytest.mark.parametrize(
    "code",
    [
        BEGUN + BUSY,
        BEGUN + "try { while (true) {} } catch {} finally { console.log('finally') }",
        "await 1; " + SPIN,
        "await new Promise((r) => setTimeout(r, 5)); " + SPIN,
        BEGUN + "await new Promise(() => {})",
        BEGUN + "await new Promise((r) => setTimeout(r, 60000))",
        BEGUN + "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
        BEGUN + "/^(a+)+$/.test('a'.repeat(40) + 'b')",
        f"setTimeout(() => {{ {SPIN} }}, 5); await new Promise(() => {{}})",
        f"setImmediate(() => {{ {SPIN} }}); await new Promise(() => {{}})",
        f"process.nextTick(() => {{ {SPIN} }}); await new Promise(() => {{}})",
        f"fs.readFile('/etc/passwd', () => {{ {SPIN} }}); await new Promise(() => {{}})",
        f"new async_hooks.AsyncLocalStorage().run(1, () => {{ setTimeout(() => {{ {SPIN} }}, 2) }}); await new Promise(() => {{}})",
        f"new async_hooks.AsyncResource('x').runInAsyncScope(() => {{ {SPIN} }})",
        "child_process.execSync('echo go; exec sleep 60', {stdio: 'inherit'})",
        "await new Promise((r) => child_process.spawn('echo go; exec sleep 60', {shell: true, stdio: 'inherit'}).on('close', r)); await new Promise(() => {})",
        BEGUN + f"({{[util.inspect.custom]() {{ {BUSY} }}}})",
        BEGUN + f"throw {{[util.inspect.custom]() {{ {BUSY} }}}}",
        BEGUN + "(function again() { process.nextTick(again) })()",
        BEGUN + "(function again() { Promise.resolve().then(again) })()",
        BEGUN + "[1, 2].sort(() => { while (true) {} })",
        BEGUN + f"new Proxy({{}}, {{get() {{ {BUSY} }}}}).x",
        BEGUN + f"vm.runInNewContext('{BUSY}')",
        BEGUN + "while (true) process.stdout.write('')",
        BEGUN + "await (async function f() { while (true) await null })()",
    ],
)
def test_interrupt(kernel, code):
    got = kernel.interrupted(code)
    assert (got.status, got.name) == (INTERRUPTED, "Interrupted"), got.traceback
    assert "finally" not in got.out
    assert kernel.value("1+1") == (INT, "2")
    assert kernel.value("await new Promise((r) => setTimeout(r, 2, 'timers'))") == (STR, "timers")
    assert kernel.value("await new Promise((r) => setImmediate(r, 'immediates'))") == (STR, "immediates")
    assert kernel.value("(await require('fs/promises').readFile('/etc/passwd')).length > 0") == (BOOL, "1")


def test_interrupt_of_a_writer_that_waits(kernel):
    kernel.start("for (;;) process.stdout.write('x'.repeat(65536))")
    select.select([kernel.out], [], [])
    time.sleep(0.1)
    kernel.interrupt()
    assert kernel.finish(10).status == INTERRUPTED
    assert kernel.value("1") == (INT, "1")


def test_interrupt_between_cells_is_ignored(kernel):
    for _ in range(20):
        kernel.interrupt()
        assert kernel.value("1+1") == (INT, "2")


def test_interrupt_of_what_earlier_cells_left(kernel):
    kernel.run("let spin = false; setInterval(() => { if (spin) console.log('go'); while (spin); }, 1); 0")
    got = kernel.interrupted("spin = true; await new Promise((r) => setTimeout(r, 5)); 1")
    assert got.status == INTERRUPTED
    assert kernel.value("spin = false; 1") == (INT, "1")
    # While no cell runs: the next begins as soon as the agent has interrupted what is in its way.
    kernel.run("setTimeout(() => { console.log('go'); while (true); }, 200); 0")
    kernel.wait_for("go")
    kernel.start("'next'")
    with pytest.raises(TimeoutError):
        kernel.finish(0.5)
    kernel.interrupt()
    assert kernel.finish(10).value == "next"
    assert kernel.value("await new Promise((r) => setTimeout(r, 2, 'timers'))") == (STR, "timers")


def test_interrupt_handling_is_taken_back(kernel):
    for code in (
        "process.on('SIGINT', () => console.log('mine')); 0",
        "process.once('SIGINT', () => {}); process.removeAllListeners('SIGINT'); 0",
        "vm.runInThisContext('1', {breakOnSigint: true})",
        "require('vm').runInNewContext('1', {}, {breakOnSigint: true, timeout: 100})",
    ):
        assert kernel.run(code).status == OK
        kernel.interrupt()
        kernel.run("1")
        assert kernel.interrupted(BEGUN + BUSY).status == INTERRUPTED


def test_interrupt_storm_loses_no_answer(kernel):
    rng = random.Random(1)
    cells = ("var x = 1", "1+1", "console.log('a')", "throw new Error('x')", "for (let i = 0; i < 30000; i++);", "await 1; 's'",
             "await new Promise((r) => setTimeout(r, 1))", "({a: [1, 2]})", "process.exit()")  # fmt: skip
    for i in range(600):
        kernel.start(cells[i % len(cells)])
        for _ in range(rng.randrange(4)):
            kernel.interrupt()
            time.sleep(rng.random() * 0.0004)
        assert kernel.finish(10).status in (OK, ERROR, INTERRUPTED)
    kernel.run("1")
    assert kernel.value("1+1") == (INT, "2")
    assert kernel.value("await new Promise((r) => setTimeout(r, 1, 3))") == (INT, "3")


# Images


TINY = "Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex')"


@pytest.mark.parametrize(
    "code, name, begin",
    [
        (TINY, "png", PNG),
        (f"new Uint8Array({TINY})", "png", PNG),
        (f"({{'image/png': {TINY}.toString('base64')}})", "png", PNG),
        (f"({{'image/png': {TINY}, 'text/plain': 'x'}})", "png", PNG),
        ("Buffer.from([0xff, 0xd8, 0xff, 0xe0])", "jpeg", b"\xff\xd8\xff"),
        ("({'image/svg+xml': '<svg/>'})", "svg+xml", b"<svg/>"),
        (f"display({TINY})", "png", PNG),
        (f"display({TINY}); console.log('after'); 'text'", "png", PNG),
        (f"Promise.resolve({TINY})", "png", PNG),
        (f"await 1; setTimeout(display, 2, {TINY}); await new Promise((r) => setTimeout(r, 40))", "png", PNG),
    ],
)
def test_images(kernel, code, name, begin):
    got = kernel.run(code)
    assert got.status == OK, got.traceback
    assert got.kind == IMAGE and got.value.startswith(bytes([len(name)]) + name.encode() + begin)
    assert [one[:2] for one in got.displays] == [(IMAGE, got.value)]
    assert kernel.value("1") == (INT, "1")


def test_displays_are_in_order(kernel):
    got = kernel.run(f"console.log('a'); display({TINY}); console.log('b'); display({TINY}, 'text', {{a: 1}}); 4")
    assert got.displays[0][2].startswith(b"a\n") and len(got.displays) == 2
    assert got.out == "a\nb\ntext\n{ a: 1 }\n"
    got = kernel.run(f"display({TINY}); throw new Error('x')")
    assert got.status == ERROR and len(got.displays) == 1
    got = kernel.run(f"for (let i = 0; i < 100; i++) display(Buffer.concat([{TINY}, Buffer.alloc(1e6)])); null")
    assert len(got.displays) == 100 and all(len(one[1]) == 4 + 16 + 1000000 for one in got.displays)
    got = kernel.run(f"Buffer.concat([{TINY}, Buffer.alloc(17e6)])")
    assert got.kind == TEXT and "too large" in got.value and got.displays[0][0] == TEXT
    kernel.run(f"setTimeout(() => {{ display({TINY}); console.log('shown') }}, 2); 0")
    kernel.wait_for("shown")
    assert kernel.run("1").displays == []


# Modules


def test_require_and_import(kernel):
    assert kernel.value("const fs = require('fs'); typeof fs.readFileSync") == (STR, "function")
    assert kernel.value("path.join('a', 'b') + os.EOL") == (STR, "a/b\n")
    assert kernel.value("(await import('fs')).default === fs") == (BOOL, "1")
    kernel.run("import p, { join as j, sep } from 'path'\nimport * as url from \"node:url\";\nimport 'os'; const after = 1")
    assert kernel.value("[typeof p.join, j('x', 'y'), sep, typeof url.URL, after]") == (
        TEXT, "[ 'function', 'x/y', '/', 'function', 1 ]",
    )  # fmt: skip
    kernel.run("fs.writeFileSync('local.js', 'exports.v = 41; exports.f = () => __filename');"
               "fs.writeFileSync('local.mjs', 'export const v = 42; export default 43');"
               "fs.mkdirSync('node_modules/dep', {recursive: true});"
               "fs.writeFileSync('node_modules/dep/index.js', 'module.exports = 44');"
               "fs.writeFileSync('data.json', '[45]')")  # fmt: skip
    assert kernel.value("require('./local').v") == (INT, "41")
    assert kernel.value("require('dep')") == (INT, "44")
    assert kernel.value("require('./data.json')[0]") == (INT, "45")
    assert kernel.value("import d, {v} from './local.mjs'; [d, v]") == (TEXT, "[ 43, 42 ]")
    assert kernel.value("(await import('dep')).default") == (INT, "44")
    kernel.run("fs.mkdirSync('sub'); process.chdir('sub')")
    assert kernel.value("require('../local').v") == (INT, "41")
    kernel.run("process.chdir('..')")
    got = kernel.run("require('no-such-module')")
    assert (got.name, got.text.splitlines()[0]) == ("Error", "Cannot find module 'no-such-module'")
    got = kernel.run("await import('no-such-module')")
    assert got.status == ERROR and "no-such-module" in got.text
    got = kernel.run("await import('./none.mjs')")
    assert got.status == ERROR
    assert kernel.value("if (require.main === module) 'main'") == (STR, "main")


@pytest.mark.parametrize(
    "code, kind, value",
    [
        ("'import x from \"y\"'", STR, 'import x from "y"'),
        ("`import(${`a${'import(1)'}`})`", STR, "import(aimport(1))"),
        ("/import(x)/.test('importx')", BOOL, "1"),
        ("// import a from 'b'\n1", INT, "1"),
        ("/* import('x') */ 2", INT, "2"),
        ("({import: 5}).import", INT, "5"),
        ("const o = {f: {import: (x) => x}}; o.f.import(3)", INT, "3"),
        ("const a = 4, g = 2; a / 2 / g // import", INT, "1"),
        ("await import(\n'path'\n).then((m) => m.sep)", STR, "/"),
        ("import {\n  sep, // a comment\n  join\n} from 'path'\njoin('a', sep)", STR, "a/"),
        ("import path2 from 'path'; import {EOL} from 'os'; path2.sep + EOL", STR, "/\n"),
        ("import path3, * as all from 'path'; all.default === path3", BOOL, "1"),
        ("import$ = 3; import$", INT, "3"),
        ("const s = `${1}/import('x')/${2}`; s", STR, "1/import('x')/2"),
        ("if (true) {\n}\nimport os2 from 'os'\nos2.EOL", STR, "\n"),
    ],
)
def test_import_is_told_from_text(kernel, code, kind, value):
    assert kernel.value(code) == (kind, value)


def test_errors_after_imports_name_the_right_line(kernel):
    got = kernel.run("import fs from 'fs'\nimport {\n  join,\n  sep\n} from 'path'\nnull.x")
    assert "cell 1:6:6" in got.traceback


# What user code may do to its globals


@pytest.mark.parametrize(
    "code",
    [
        "console = null",
        "globalThis.Promise = null; globalThis.JSON = null; Object = null; Buffer = null; process = null",
        "Array.prototype.push = Array.prototype.map = Array.prototype.join = () => { throw 1 }",
        "Array.prototype[Symbol.iterator] = null",
        "Object.prototype.toString = null; Object.prototype.value = 5; Object.prototype.get = 3",
        "Promise.prototype.then = null; Promise.resolve = null",
        "String.prototype.split = String.prototype.slice = String.prototype.replace = () => { throw 1 }",
        "RegExp.prototype.exec = RegExp.prototype.test = () => { throw 1 }",
        "Function.prototype.call = Function.prototype.bind = null",
        "setTimeout = setImmediate = queueMicrotask = null; process.nextTick = null",
        "JSON.parse = JSON.stringify = null; BigInt = Number = String = Math = Symbol = null",
        "Buffer.from = Buffer.alloc = Buffer.concat = null",
        "fs.writeSync = fs.readSync = null; require = module = null",
        "Error = null; TypeError = null; Error.prototype = null",
        "process.stdout._write = null; process.exit = null; process.on = null; process.emit = null",
        "for (const key of Object.getOwnPropertyNames(globalThis)) { try { delete globalThis[key] } catch {} } 0",
        "Uint8Array.prototype.subarray = null; Map.prototype.get = null; Set.prototype.has = null",
        "inspector = require('inspector'); inspector.Session.prototype.post = null; util.inspect = null",
    ],
)
def test_broken_globals(kernel, code):
    kernel.run("const log = console.log.bind(console)")
    kernel.run(code)
    assert kernel.value("1 + 1") == (INT, "2")
    assert kernel.value("[1].length") == (INT, "1")
    assert kernel.value("'text'") == (STR, "text")
    got = kernel.run("null.x")
    assert (got.status, got.name) == (ERROR, "TypeError")
    assert kernel.run("let y = await 5; y").value == "5"


def test_frozen_and_shadowed_globals(kernel):
    kernel.run("Object.freeze(Object.prototype); Object.freeze(Array.prototype); Object.freeze(globalThis)")
    assert kernel.value("1 + 1") == (INT, "2")
    assert kernel.run("null.x").name == "TypeError"


# The protocol


def test_argv_is_not_supported(kernel):
    got = kernel.run(b"ls\0-l\0", flags=ARGV)
    assert (got.status, got.name) == (ERROR, "NotSupported")
    assert kernel.value("1") == (INT, "1")


def test_garbage_ends_the_kernel(launcher):
    rng = random.Random(7)
    frames = [
        frame(RUN, b""),
        frame(RUN, b"\0" * 8),
        frame(RUN, struct.pack("<IBI", 1, 0, 5) + b"abc"),
        frame(RUN, struct.pack("<IBI", 1, 0, 2) + b"abc"),
        frame(1, blob(b"x")),
        frame(99, b"hello"),
        struct.pack("<IB", 0xFFFFFFFF, RUN),
        struct.pack("<IB", 17 << 20, RUN),
        b"\1\0",
    ] + [bytes(rng.randrange(256) for _ in range(rng.randrange(5, 200))) for _ in range(6)]
    for data in frames:
        one = Kernel(launcher, warm=False)
        one.sock.sendall(data)
        one.sock.shutdown(socket.SHUT_WR)
        assert one.read(10) is None
        assert one.wait() == 76, data
        one.close()


def test_frames_in_pieces_and_in_bulk(kernel):
    data = run_frame(1, b"'" + b"z" * 300000 + b"'.length")
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
    big = run_frame(3, b"//" + b"x" * ((16 << 20) - 11 - 8) + b"\n'big'")
    kernel.sock.sendall(big)
    assert kernel.finish().value == "big"


def test_results_are_not_kept(kernel):
    used = "gc = v8.setFlagsFromString('--expose-gc') ?? vm.runInNewContext('gc'); gc(); process.memoryUsage().arrayBuffers"
    before = int(kernel.run(used).value)
    for _ in range(20):
        kernel.run("({x: Buffer.alloc(8 << 20)})")
    assert int(kernel.run(used).value) - before < 32 << 20


def test_child_processes_get_the_interrupt(kernel):
    got = kernel.interrupted(
        "const c = child_process.spawn('sleep', ['60']); console.log('go'); await new Promise(() => {})"
    )
    assert got.status == INTERRUPTED
    assert kernel.value("c.signalCode ?? await new Promise((r) => c.on('exit', (_, s) => r(s)))") == (STR, "SIGINT")


def test_worker_threads_and_forks(kernel):
    code = (
        "const w = new worker_threads.Worker(`require('worker_threads').parentPort.postMessage(6 * 7)`, {eval: true});"
        "await new Promise((r) => w.on('message', r))"
    )
    assert kernel.value(code) == (INT, "42")
    kernel.run("fs.writeFileSync('child.js', \"process.send(process.execArgv.length); process.exit(5)\")")
    code = "const f = child_process.fork('./child.js'); [await new Promise((r) => f.on('message', r)), await new Promise((r) => f.on('exit', r))]"
    assert kernel.value(code) == (TEXT, "[ 0, 5 ]")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, *sys.argv[1:]]))
