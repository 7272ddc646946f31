# SPDX-License-Identifier: Apache-2.0
"""The Node kernel driver: values, errors and images that cells end with."""

import signal
import sys

import pytest

from kernel_peer import BOOL, ERROR, FLOAT, IMAGE, INT, NONE, NULL, OK, PNG, STR, TEXT
from node_kernel import Kernel, kernel, launcher, needs_node  # noqa: F401

pytestmark = needs_node

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
    kernel.run("setTimeout(() => { throw new Error('after') }, 100); 0")
    kernel.wait_for("after", kernel.err)
    assert kernel.run("1").status == OK


@pytest.mark.parametrize(
    "code",
    [
        "queueMicrotask(() => { throw new Error('lost') }); 2",
        "queueMicrotask(() => { throw new Error('lost') }); await 0; 2",
        "process.nextTick(() => { throw new Error('lost') }); 2",
        "process.nextTick(() => { throw new Error('lost') }); await 0; 2",
        "setImmediate(() => { throw new Error('lost') }); 2",
        "setTimeout(() => { throw new Error('lost') }, 2); await new Promise((r) => setTimeout(r, 50)); 2",
        "setTimeout(() => { throw new Error('lost') }, 0); for (const end = Date.now() + 20; Date.now() < end;); await new Promise(setImmediate); 2",
        "Promise.reject(new Error('lost')); 2",
        "Promise.reject(new Error('lost')); await 0; 2",
        "(async () => { await null; throw new Error('lost') })(); await 0; 2",
        "new Promise(() => { throw new Error('lost') }); await new Promise((r) => setTimeout(r, 5)); 2",
    ],
)
def test_no_value_comes_in_place_of_an_error(kernel, code):
    got = kernel.run(code)
    assert (got.status, got.name, got.text, got.err) == (ERROR, "Error", "lost", "")
    assert "cell 1:1:" in got.traceback
    assert kernel.run("1").value == "1"


def test_the_first_error_is_the_cells(kernel):
    throws = "queueMicrotask(() => { throw new Error('first') }); queueMicrotask(() => { throw new RangeError('second') });"
    for code in (throws + "2", throws + "await 0; await 0; throw new Error('third')"):
        got = kernel.run(code)
        assert (got.status, got.text) == (ERROR, "first")
        assert "Uncaught RangeError: second\n    at cell " in got.err and "first" not in got.err
        assert ("third" in got.err) == ("third" in code)
    got = kernel.run("Promise.reject(new Error('left alone')); throw new Error('thrown')")
    assert (got.status, got.text) == (ERROR, "thrown") and "Uncaught Error: left alone" in got.err
    got = kernel.run("const p = Promise.reject(new Error('handled')); await 0; p.catch(() => {}); 2")
    assert (got.status, got.value, got.err) == (OK, "2", "")
    got = kernel.run("queueMicrotask(() => { throw new Error('after') }); process.exit(0)")
    assert (got.status, got.kind) == (OK, NONE)


@pytest.mark.parametrize(
    "code",
    [
        "process.removeAllListeners('uncaughtException')",
        "process.removeAllListeners(); process.listeners = process.on = null",
        "process.on('uncaughtException', () => { throw new RangeError('of the listener') })",
        "process.on('uncaughtExceptionMonitor', () => { throw new RangeError('of the listener') })",
        "process.setUncaughtExceptionCaptureCallback(() => { throw new RangeError('of the callback') })",
        "process.emit = null",
        "process.emit = () => false",
        "process._events = {}",
        "process._fatalException = () => false",
        "require('domain'); process.removeAllListeners('uncaughtException')",
    ],
)
def test_no_error_ends_the_kernel_whatever_the_listeners_are(kernel, code):
    kernel.run("const kept = 41; const log = (text) => process.stdout.write(text)")
    got = kernel.run(f"{code}; setTimeout(() => {{ throw new Error('of the timer') }}, 2); await new Promise(() => {{}})")
    assert (got.status, got.name, got.text) == (ERROR, "Error", "of the timer")
    assert ("Uncaught RangeError: of the listener" in got.err) == ("listener'" in code)
    got = kernel.run("queueMicrotask(() => { throw new Error('of a microtask') }); 1")
    assert (got.status, got.text) == (ERROR, "of a microtask")
    got = kernel.run("Promise.reject(new Error('left alone')); 1")
    # Node asks process.emit before it takes one for an error.
    assert got.status == ERROR and got.text in ("left alone", "process.emit is not a function")
    kernel.run("setTimeout(() => { throw new Error('between') }, 100); 0")
    kernel.wait_for("between", kernel.err)
    assert kernel.value("await new Promise((r) => setTimeout(r, 2, kept))") == (INT, "41")
    storage = "const s = new async_hooks.AsyncLocalStorage(); await s.run(7, async () => { await null; return s.getStore() })"
    assert kernel.value(storage) == (INT, "7")


def test_a_capture_callback_of_the_users_own(kernel):
    kernel.run("let seen; process.setUncaughtExceptionCaptureCallback((e) => { seen = e.message })")
    late = "setTimeout(() => { throw new Error('own') }, 2); await new Promise((r) => setTimeout(r, 50)); seen"
    assert kernel.value(late) == (STR, "own")
    kernel.run("process.setUncaughtExceptionCaptureCallback(null)")
    assert kernel.run(late).text == "own"
    kernel.run("process.removeAllListeners(); seen = null; process.once('uncaughtException', (e) => { seen = e.message })")
    assert kernel.value(late) == (STR, "own")
    assert kernel.run(late).text == "own"


def test_domains(kernel):
    code = "const d = require('domain').create(); const error = await new Promise((r) => { d.on('error', r); d.run(() => setTimeout(() => { throw new Error('in it') }, 2)) }); error.message"
    assert kernel.value(code) == (STR, "in it")
    assert kernel.run("setTimeout(() => { throw new Error('outside') }, 2); await new Promise(() => {})").text == "outside"


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


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, *sys.argv[1:]]))
