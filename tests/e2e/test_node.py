# SPDX-License-Identifier: Apache-2.0
"""Sessions of Node in a real sandbox; tests/unit/test_node_driver.py has the driver's own behaviour."""

import pytest

PNG = "Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex')"


@pytest.fixture(scope="module")
def pool(daemon):
    p = daemon.make_pool(type="NodeLTS")
    yield p
    p.delete()


def run(session, code, **how):
    return session.post(code, **how).ok().json


def value(session, code):
    document = run(session, code)
    assert document["status"] == "Succeeded", document
    return document["result"]["executionResult"]


@pytest.mark.parametrize(
    "code, expected",
    [
        ("1 + 1", 2),
        ("0.5", 0.5),
        ("1 > 2", False),
        ("'text'", "text"),
        ("null", None),
        ("const a = 1", ""),
        ("({a: [1, 'x']})", "{ a: [ 1, 'x' ] }"),
        ("await Promise.resolve([1])", "[ 1 ]"),
        ("NaN", "NaN"),
    ],
)
def test_values(session, code, expected):
    got = value(session, code)
    assert got == expected and type(got) is type(expected)


def test_output_and_errors(session):
    document = run(session, "console.log('out'); console.error('err'); null.x")
    assert document["status"] == "Failed"
    assert document["result"]["stdout"] == "out\n"
    assert document["result"]["stderr"].startswith("err\n") and "at cell 1:1:" in document["result"]["stderr"]
    assert document["error"]["message"].startswith("TypeError: Cannot read")


def test_an_image(session):
    assert value(session, PNG)["format"] == "png"


@pytest.mark.parametrize(
    "code",
    [
        "while (true) {}",
        "await new Promise(() => {})",
        "await new Promise((r) => setTimeout(r, 5)); while (true) {}",
        "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
        "/^(a+)+$/.test('a'.repeat(40) + 'b')",
        "require('child_process').execSync('sleep 60')",
        "for (;;) console.log('x'.repeat(1000))",
    ],
)
def test_a_timeout_leaves_the_session_as_it_was(session, code):
    value(session, "var kept = 41")
    document = run(session, code, timeoutInSeconds=1)
    assert document["status"] == "Failed"
    assert value(session, "kept + 1") == 42


def test_what_node_asks_of_the_sandbox(session):
    """Threads, processes, sockets, files and entropy, below the system call filter."""
    assert value(session, "require('child_process').execSync('echo child').toString()") == "child\n"
    assert value(session, "require('zlib').gunzipSync(require('zlib').gzipSync('packed')).toString()") == "packed"
    assert value(session, "require('crypto').scryptSync('a', 'b', 16).length") == 16
    assert value(session, "(await require('fs/promises').readdir('/mnt/data')).length") == 0
    code = (
        "const { Worker } = require('worker_threads');"
        "await new Promise((r) => new Worker('require(`worker_threads`).parentPort.postMessage(7)', {eval: true}).on('message', r))"
    )
    assert value(session, code) == 7
    code = (
        "const server = require('http').createServer((_, reply) => reply.end('served')).listen(0, '127.0.0.1');"
        "await new Promise((r) => server.on('listening', r));"
        "const text = await (await fetch(`http://127.0.0.1:${server.address().port}`)).text(); server.close(); text"
    )
    assert value(session, code) == "served"


def test_modules_of_the_image(session):
    assert value(session, "require('lodash').chunk([1, 2, 3], 2).length") == 2
    assert value(session, "import _ from 'lodash'; _.sum([1, 2])") == 3
    assert value(session, "import { chunk, sum as total } from 'lodash'; total(chunk([1, 2, 3], 2)[0])") == 3
    document = run(session, "import { nope } from 'lodash'")
    assert document["error"]["message"].startswith(
        "SyntaxError: The requested module 'lodash' does not provide an export named 'nope'"
    )
    assert value(session, "import { load } from 'cheerio'; load('<b>x</b>')('b').text()") == "x"
    assert value(session, "require('js-yaml').load('a: 1').a") == 1


def test_npm_without_egress_says_so(session):
    """By npm's own defaults it would still be trying when the time of the execution is over."""
    document = run(session, "npm install left-pad; echo $?", language="shell", timeoutInSeconds=60)
    assert document["result"]["stdout"] == "1\n"
    assert "npm ERR! code EAI_AGAIN" in document["result"]["stderr"]
    assert "registry.npmjs.org" in document["result"]["stderr"]


def test_the_end_of_the_process_is_an_error_and_a_new_start(session):
    value(session, "var kept = 1")
    assert run(session, "process.abort()")["status"] == "Failed"
    assert value(session, "typeof kept") == "undefined"
    assert value(session, "process.exit(0); 5") == ""


# Memory: V8's own heap, and what is outside of it


@pytest.fixture(scope="module")
def small_pool(daemon):
    p = daemon.make_pool(type="NodeLTS", limits={"memory": "256Mi"})
    yield p
    p.delete()


@pytest.fixture
def small(small_pool):
    s = small_pool.session()
    yield s
    s.delete()


HEAP_LIMIT = "Math.floor(require('v8').getHeapStatistics().heap_size_limit / 2 ** 20)"


@pytest.mark.parametrize("memory, mib", [("128Mi", 128), ("256Mi", 256), ("2Gi", 2048)])
@pytest.mark.parametrize("type", ["NodeLTS", "Shell"])
def test_v8_knows_the_memory_of_the_session(make_pool, type, memory, mib):
    session = make_pool(maximum=2, ready=0, type=type, limits={"memory": memory}).session()
    share = mib * 60 // 100
    # With V8's young generation, at most 48 MiB.
    assert share <= session.value(HEAP_LIMIT, language="node") <= share + 48
    assert session.stdout("ulimit -m; ulimit -Hm", language="shell") == f"{mib << 10}\n" * 2
    session.delete()


def test_garbage_without_end(small):
    """Far more than the session has, but never at once."""
    code = "for (let n = 0; n < 150; n++) { globalThis.made = []; for (let i = 0; i < 3e5; i++) made.push({i}) } 'done'"
    assert value(small, code) == "done"


@pytest.mark.parametrize(
    "hoard",
    [
        "for (let i = 0; ; i++) heap.push({i, text: 'x' + i})",
        "(() => { const mine = []; for (let i = 0; ; i++) mine.push([i]) })()",
        "for (let i = 0; ; i++) { heap.push({i}); if (i % 1000 === 0) await null }",
    ],
)
def test_a_full_heap_fails_the_cell_and_keeps_the_state(small, hoard):
    value(small, "const kept = 41; let heap = []; 0")
    for _ in range(2):
        document = run(small, f"console.log('begun'); {hoard}")
        assert document["status"] == "Failed"
        assert document["error"]["code"] == "CodeExecutionFailed"
        assert document["error"]["message"] == (
            "RangeError: JavaScript heap out of memory: the session has 256 MiB, of which 153 MiB are for JavaScript"
            " objects; the cell was ended, variables are kept"
        )
        assert document["result"]["stdout"] == "begun\n"
        assert value(small, "heap = []; kept + 1") == 42


def test_what_no_interrupt_reaches_is_out_of_memory(small):
    """One call that makes more than V8 may have: the kernel ends, and says of what."""
    value(small, "const kept = 41")
    document = run(small, "JSON.parse('[' + '[],'.repeat(1e7) + '[]]')")
    assert document["error"]["code"] == "ExecutionOutOfMemory"
    assert "the session reached its memory limit of 256 MiB (sessionLimits.memory)" in document["result"]["stderr"]
    assert value(small, "typeof kept") == "undefined"


def test_memory_outside_of_the_heap_is_the_cgroups(small):
    value(small, "const kept = 41")
    document = run(small, "const parts = []; for (;;) parts.push(Buffer.alloc(1 << 20, 1))")
    assert document["error"]["code"] == "ExecutionOutOfMemory"
    assert "256 MiB" in document["result"]["stderr"]
    assert value(small, "typeof kept") == "undefined"
