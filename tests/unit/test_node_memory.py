# SPDX-License-Identifier: Apache-2.0
"""The Node kernel driver when V8's heap is full; test_node_driver.py says how to run this.

No memory cgroup is around these kernels: what ends a cell or a kernel here is V8's limit.
"""

import pytest

from kernel_peer import BOOL, ERROR, INT, INTERRUPTED, OK, STR
from node_kernel import Kernel, launcher, needs_node  # noqa: F401

pytestmark = needs_node

SESSION_MIB = 256
HEAP_MIB = SESSION_MIB * 60 // 100  # as the recipe says
NO_MEMORY = 71

# `heap` is a variable of an earlier cell.
HOARDS = {
    "objects": "for (let i = 0; ; i++) heap.push({i, text: 'x' + i})",
    "local": "const mine = []; for (let i = 0; ; i++) mine.push([i])",
    "function": "(() => { const mine = []; for (let i = 0; ; i++) mine.push({i}) })()",
    "strings": "for (let i = 0; ; i++) heap.push(('abc' + i).repeat(1000))",
    "map": "heap = new Map(); for (let i = 0; ; i++) heap.set('k' + i, {i})",
    "arrays": "for (let i = 0; ; i++) heap.push(new Array(1e5).fill(i))",
    "caught": "for (;;) try { for (let i = 0; ; i++) heap.push({i}) } catch {} finally { console.log('finally') }",
    "awaits": "for (let i = 0; ; i++) { heap.push([i]); if (i % 1000 === 0) await null }",
    "parser": "const text = JSON.stringify(Array.from({length: 1e5}, (_, i) => ({i}))); for (;;) heap.push(JSON.parse(text))",
}


OUT_OF_MEMORY = (
    f"JavaScript heap out of memory: the session has {SESSION_MIB} MiB, of which {HEAP_MIB} MiB are for JavaScript objects;"
    " the cell was ended, variables are kept"
)


@pytest.fixture
def small(launcher):
    made = Kernel(launcher, memory_mib=SESSION_MIB)
    yield made
    assert made.close() == 0


def heap_limit_mib(kernel):
    return float(kernel.value("require('v8').getHeapStatistics().heap_size_limit / 1048576")[1])


def hoards(kernel, code):
    got = kernel.run(code, 60)
    assert (got.status, got.name, got.text) == (ERROR, "RangeError", OUT_OF_MEMORY), got.traceback
    assert got.traceback == f"RangeError: {OUT_OF_MEMORY}\n"
    assert got.out == got.err == ""
    assert kernel.value("kept + 1") == (INT, "42")


def test_the_limit_follows_the_session(launcher):
    for memory_mib in (64, 256, 4096):
        kernel = Kernel(launcher, memory_mib=memory_mib)
        # What V8 says has its young generation as well, at most 48 MiB.
        assert memory_mib * 60 // 100 <= heap_limit_mib(kernel) <= memory_mib * 60 // 100 + 48
        assert kernel.close() == 0


@pytest.mark.parametrize("what", HOARDS)
def test_a_full_heap_fails_the_cell_alone(small, what):
    small.run("const kept = 41; let heap = []; 0")
    before = heap_limit_mib(small)
    hoards(small, HOARDS[what])
    assert small.run("heap = []; typeof mine === 'object' && mine.splice(0); 0").status == OK
    # With the room back the limit is what it was, and the same happens again.
    hoards(small, HOARDS[what])
    assert small.run("heap = []; typeof mine === 'object' && mine.splice(0); 0").status == OK
    assert small.value("await new Promise((r) => setTimeout(r, 2, 'timers'))") == (STR, "timers")
    assert small.value("(await require('fs/promises').readFile('/etc/passwd')).length > 0") == (BOOL, "1")
    small.run("require('v8').setFlagsFromString('--expose-gc'); require('vm').runInNewContext('gc')(); 0")
    assert heap_limit_mib(small) == before


def test_a_heap_that_stays_full(small):
    """What the cell has made is there for the next, which can give it up."""
    small.run("const kept = 41; let heap = []; 0")
    hoards(small, HOARDS["objects"])
    assert small.value("heap.length > 100000") == (BOOL, "1")
    for i in range(50):
        assert small.value(f"`${{heap.length > 0}} ${{JSON.stringify([...Array({i}).keys()]).length > 0}}`") == (STR, "true true")
    assert small.run("heap = null; 0").status == OK
    assert small.run("heap = Array.from({length: 1e6}, (_, i) => ({i})); 0", 60).status == OK


def test_garbage_is_not_a_full_heap(small):
    code = "for (let n = 0; n < 40; n++) { const mine = []; for (let i = 0; i < 3e5; i++) mine.push({i}) } 'done'"
    assert small.run(code, 60).value == "done"


def test_what_earlier_cells_left_fills_the_heap(small):
    """A timer that hoards is ended when it does; the cell that waits meanwhile fails."""
    code = "const kept = 41; let heap = []; const timer = setInterval(() => { for (let i = 0; i < 1e5; i++) heap.push({i}) }, 1)"
    small.run(code)
    hoards(small, "await new Promise(() => {})")
    assert small.run("clearInterval(timer); heap = null; 0").status == OK
    assert small.value("kept") == (INT, "41")


def test_an_interrupt_is_told_from_a_full_heap(small):
    small.run("const kept = 41; let heap = []; 0")
    hoards(small, HOARDS["objects"])
    got = small.interrupted("heap = null; console.log('go'); while (true);")
    assert (got.status, got.name) == (INTERRUPTED, "Interrupted")


def test_what_nothing_can_stop_ends_the_kernel(launcher):
    """One call that makes more than fits: V8 asks for room until there is none to give."""
    kernel = Kernel(launcher, memory_mib=SESSION_MIB)
    kernel.start("JSON.parse('[' + '[],'.repeat(2e7) + '[]]')")
    assert kernel.read(60) is None
    assert kernel.process.wait(20) == NO_MEMORY
    assert "JavaScript heap out of memory\n" in kernel.take_output()[1].decode()
    kernel.sock.close()


def test_nobody_says_what_the_session_has(launcher):
    """Then Node decides."""
    kernel = Kernel(launcher)
    assert heap_limit_mib(kernel) > 512
    assert kernel.close() == 0
