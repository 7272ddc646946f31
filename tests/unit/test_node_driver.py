# SPDX-License-Identifier: Apache-2.0
"""The Node kernel driver, spoken to over its protocol (src/base/kernel_proto.h) without an agent.

    /usr/bin/python3 -m pytest tests/unit/test_node_*.py
    BIVOUAC_TEST_ROOTFS_NODE=/path/to/image/rootfs /usr/bin/python3 -m pytest ...     # root

Here: lives, state, output, interrupts and modules; test_node_results.py has what cells come to.
"""

import json
import os
import random
import select
import socket
import sys
import time

import pytest

from kernel_peer import (
    ARGV,
    BOOL,
    ERROR,
    INT,
    INTERRUPTED,
    NONE,
    OK,
    STR,
    STREAM,
    TEXT,
    check_pieces_and_bulk,
    check_streams_after,
    garbage,
    run_frame,
)
from node_kernel import NODE, ROOTFS, Kernel, kernel, launcher, needs_node  # noqa: F401

pytestmark = needs_node

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


def test_much_output_takes_no_memory(kernel):
    got = kernel.run("for (let i = 0; i < 400000; i++) console.log('x'); process.memoryUsage().heapUsed", timeout=60)
    assert len(got.out) == 800000 and int(got.value) < 60 << 20
    calls = "await new Promise((r) => { let n = 0; const f = () => { if (++n === 5) r(n) }; for (let i = 0; i < 5; i++) process.stdout.write('', f) })"
    assert kernel.value(calls) == (INT, "5")


def test_broken_streams_are_restored(kernel):
    breakages = (
        "process.stdout.end(); process.stderr.destroy()",
        "process.stdout.write = () => true; console.log('lost')",
        "Object.defineProperty(process, 'stdout', {value: 5, configurable: true})",
        "fs.closeSync(1); fs.closeSync(2)",
        "fs.closeSync(1); fs.openSync('/dev/null', 'w'); 0",
        "process.stdout._write = process.stdout.destroy",
    )
    check_streams_after(kernel, breakages, "console.log('alive'); console.error('err')")


def test_output_between_cells_does_not_end_the_kernel(kernel):
    kernel.run("let n = 0; const t = setInterval(() => { console.log('tick', n++); if (n === 3) clearInterval(t) }, 5); 0")
    got = kernel.run("await new Promise((r) => { const w = setInterval(() => n >= 3 && r(clearInterval(w)), 1) }); n")
    assert (got.status, got.value) == (OK, "3")
    kernel.run("setTimeout(() => { throw new Error('late failure') }, 100); Promise.reject(new Error('x')).catch(() => {}); 0")
    kernel.wait_for("late failure", kernel.err)
    got = kernel.run("1")
    assert got.status == OK and got.err.startswith("Uncaught Error: late failure\n    at Timeout._onTimeout (cell 3:1:")
    kernel.run("const rejects = new Promise((_, reject) => setTimeout(reject, 100, 'why')); 0")
    kernel.wait_for("why", kernel.err)
    assert kernel.run("1").err.startswith("Uncaught ")
    assert kernel.run("await rejects").text == "'why'"


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
    outcomes = [(INTERRUPTED, "Interrupted")]
    if "execSync" in code:
        # The child is interrupted too, and its end may be told first; whose doing it was the agent knows.
        outcomes.append((ERROR, "Error"))
    assert (got.status, got.name) in outcomes, got.traceback
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


def test_import_of_names(kernel):
    kernel.run("fs.writeFileSync('names.cjs', 'const all = {a: 1, get b() { return 2 }, none: undefined}; module.exports = all');"
               "fs.writeFileSync('instance.cjs', 'class C { m() { return 3 } }; module.exports = new C()');"
               "fs.writeFileSync('five.cjs', 'module.exports = 5');"
               "fs.writeFileSync('then.mjs', 'export const x = 6; export default {x: 7, y: 8}');"
               "fs.writeFileSync('bare.mjs', 'export const x = 9')")  # fmt: skip
    assert kernel.value("import { a, b as c, none } from './names.cjs'; [a, c, none]") == (TEXT, "[ 1, 2, undefined ]")
    assert kernel.value("import all, { default as same } from './names.cjs'; all === same && all.b === 2") == (BOOL, "1")
    assert kernel.value("import { m } from './instance.cjs'; m()") == (INT, "3")
    assert kernel.value("import five from './five.cjs'; import {} from './five.cjs'; five") == (INT, "5")
    assert kernel.value("import { x, y } from './then.mjs'; x + y") == (INT, "14")
    assert kernel.value("import * as bare from './bare.mjs'; bare.nope ?? bare.x") == (INT, "9")
    assert kernel.value("(await import('./bare.mjs')).nope") == (NONE, "")
    kernel.run("let kept = 1")
    for declaration, module, name in (
        ("import { nope } from 'fs'", "fs", "nope"),
        ("import { sep, join as j,\n nope as other } from 'path'", "path", "nope"),
        ("import { toString } from 'node:os'", "node:os", "toString"),
        ("import { toString } from './names.cjs'", "./names.cjs", "toString"),
        ("import { a } from './five.cjs'", "./five.cjs", "a"),
        ("import d from './bare.mjs'", "./bare.mjs", "default"),
    ):
        got = kernel.run(f"{declaration}; kept = 2")
        text = f"The requested module '{module}' does not provide an export named '{name}'"
        assert (got.status, got.name, got.text) == (ERROR, "SyntaxError", text)
        assert got.traceback.startswith(f"SyntaxError: {text}\n    at cell ") and len(got.traceback.splitlines()) == 2
    assert kernel.value("kept") == (INT, "1")
    assert kernel.value("import { readFileSync as nope } from 'fs'; typeof nope") == (STR, "function")


def test_traceback_of_a_module_that_is_not_there(kernel):
    got = kernel.run("import x from 'no-such-module'")
    lines = got.traceback.splitlines()
    assert lines[0].startswith("Error [ERR_MODULE_NOT_FOUND]: Cannot find package 'no-such-module'")
    assert "    {" not in lines and lines[-1] == "}"
    assert sum(line.endswith(" {") for line in lines) == 1


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
    for data in [*garbage(6), b"\1\0"]:
        one = Kernel(launcher, warm=False)
        one.sock.sendall(data)
        one.sock.shutdown(socket.SHUT_WR)
        assert one.read(10) is None
        assert one.wait() == 76, data
        one.close()


def test_frames_in_pieces_and_in_bulk(kernel):
    check_pieces_and_bulk(kernel, b"'" + b"z" * 300000 + b"'.length")
    big = run_frame(3, b"//" + b"x" * ((16 << 20) - 11 - 8) + b"\n'big'")
    kernel.sock.sendall(big)
    assert kernel.finish().value == "big"


def test_results_are_not_kept(kernel):
    used = "gc = v8.setFlagsFromString('--expose-gc') ?? vm.runInNewContext('gc'); gc(); process.memoryUsage().arrayBuffers"
    before = int(kernel.run(used).value)
    for _ in range(20):
        kernel.run("({x: Buffer.alloc(8 << 20)})")
    assert int(kernel.run(used).value) - before < 80 << 20  # of 160; what was freed last may not be swept yet


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
