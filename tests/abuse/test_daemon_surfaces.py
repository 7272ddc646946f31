# SPDX-License-Identifier: Apache-2.0
"""Floods of contexts, terminals, streams and WebSockets: bounded, others are served, nothing is left."""

import importlib.util
import json
import os
import pathlib
import select
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from daemon_target import HEAD_TIMEOUT, MIB, e2e, growth, receive, status_of, target, unharmed  # noqa: E402, F401

_path = pathlib.Path(__file__).resolve().parents[1] / "e2e" / "websocket_client.py"
_spec = importlib.util.spec_from_file_location("surfaces_websocket_client", _path)
websocket_client = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(websocket_client)
Refused, Terminal = websocket_client.Refused, websocket_client.Terminal

TERMINALS = 4  # --terminals-max
CONTEXTS = 8  # --contexts-max


def descriptors(target):
    return len(os.listdir(f"/proc/{target.daemon.pid}/fd"))


def processes(session):
    """Host pids of the session's processes; it must have been asked something already."""
    lines = session.result("print(open('/proc/self/uid_map').read())")["stdout"].splitlines()
    uid = next(int(words[1]) for words in map(str.split, lines) if words[0] == "1000")
    return e2e.sandbox_pids(uid)


@pytest.fixture
def session(target):
    """A session; afterwards the daemon has the descriptors that it had before it."""
    before = descriptors(target) + 20
    s = target.pool.session()
    s.run("1")
    yield s
    target.hang_up()
    s.delete()
    e2e.wait_for(lambda: descriptors(target) <= before, 20, f"{before} descriptors or fewer")


def put(session, name, language="python"):
    return session.call("PUT", f"contexts/{name}", {"language": language})


def contexts(session):
    return [c["name"] for c in session.call("GET", "contexts").ok().json["value"]]


def terminals(session):
    return session.call("GET", "terminals").ok().json["value"]


# --- contexts ---


def test_flood_of_contexts(target, session):
    """Make and delete contexts as fast as possible from several clients, whatever there is meanwhile."""
    least = len(processes(session))
    statuses = set()

    def flood(seed):
        for i in range(20):
            name = f"c{(seed + i) % 6}"
            statuses.add(put(session, name, "shell" if i % 2 else "python").status)
            statuses.add(session.post("1", context=name, timeoutInSeconds=5).status)
            statuses.add(session.call("POST", f"contexts/{name}/restart").status)
            statuses.add(session.call("DELETE", f"contexts/{name}").status)

    jobs = [e2e.Background(flood, seed) for seed in range(6)]
    while not all(job.done() for job in jobs):
        target.serves()
        assert len(contexts(session)) <= CONTEXTS
    for job in jobs:
        job.result(120)
    # Made, deleted under others' feet, of another language, too many: nothing but that.
    assert {200, 201, 204} <= statuses <= {200, 201, 204, 400, 404, 409, 503}, statuses
    for name in contexts(session)[1:]:
        session.call("DELETE", f"contexts/{name}").ok(204)
    assert session.value("6 * 7") == 42
    e2e.wait_for(lambda: len(processes(session)) <= least, 20, "no kernel is left behind")


def test_more_contexts_than_a_session_has(target, session):
    """Ask for a thousand names at once."""
    statuses = [put(session, f"n{i}", "shell").status for i in range(200)]
    assert statuses.count(201) == CONTEXTS - 1 and set(statuses) == {201, 400}
    assert len(contexts(session)) == CONTEXTS
    target.serves()


def test_every_context_a_fork_bomb(target):
    """Fork without end in every context a session may have, all at once: one session's limit holds for all."""
    narrow = target.daemon.make_pool(maximum=2, ready=1, limits={"pids": 96})
    session = narrow.session()
    session.run("1")
    lines = session.result("print(open('/proc/self/uid_map').read())")["stdout"].splitlines()
    uid = next(int(words[1]) for words in map(str.split, lines) if words[0] == "1000")
    bomb = (
        "import os, signal, time\nwhile True:\n    try:\n        if os.fork() == 0:\n"
        "            signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600); os._exit(0)\n"
        "    except OSError: time.sleep(0.01)"
    )
    names = ["default", *(f"b{i}" for i in range(CONTEXTS - 1))]
    for name in names[1:]:
        put(session, name).ok(201)
    jobs = [e2e.Background(session.post, bomb, context=name, timeoutInSeconds=2) for name in names]
    most = 0
    while not all(job.done() for job in jobs):
        most = max(most, len(e2e.sandbox_pids(uid)))
        target.serves()
    # Kernels are attached from outside, where a fork is not refused.
    assert 32 < most <= 96 + 2 * CONTEXTS, most
    for job in jobs:
        assert job.result().ok().json["status"] == "Failed"
    narrow.delete()
    e2e.wait_for(lambda: not e2e.sandbox_pids(uid), 20, "all processes end")


# --- terminals ---


def test_flood_of_terminals(target, session):
    """Open more terminals than a session has from many clients, and leave without a word."""
    outcomes = []

    def flood():
        for _ in range(8):
            try:
                terminal = Terminal(session, command="exec sleep 600")
                outcomes.append("open")
                terminal.socket.drop()
            except Refused as refused:
                outcomes.append(refused.code)

    jobs = [e2e.Background(flood) for _ in range(8)]
    while not all(job.done() for job in jobs):
        target.serves()
    for job in jobs:
        job.result()
    assert outcomes.count("open") == TERMINALS, outcomes
    assert outcomes.count("QuotaExceeded") == 64 - TERMINALS
    assert len(terminals(session)) == TERMINALS
    # Those that nobody looks at any more can be found and ended.
    for found in terminals(session):
        with Terminal(session, terminal=found["id"]) as terminal:
            terminal.say(type="close")
            terminal.wait_control("exit")
    assert terminals(session) == []
    session.value("1")


def test_terminals_opened_and_closed(target, session):
    """Open and end terminals one after the other: nothing of them stays."""
    least = len(processes(session))
    with Terminal(session, command="read x") as terminal:
        terminal.type("\n")
        terminal.exit()
    before = descriptors(target)
    for _ in range(40):
        with Terminal(session, command="read x") as terminal:
            terminal.type("\n")
            terminal.exit()
    e2e.wait_for(lambda: descriptors(target) <= before + 2, 10, "no descriptor stays")
    e2e.wait_for(lambda: len(processes(session)) <= least, 10, "no process stays")


def test_terminals_whose_output_nobody_reads(target, session):
    """Flood every terminal of a session; one half of the clients is there and does not read, the other is gone."""
    held = [Terminal(session, command="yes 0123456789abcdef") for _ in range(TERMINALS)]
    for terminal in held[::2]:
        terminal.socket.drop()
    for _ in range(10):
        target.serves()
        assert session.value("6 * 7") == 42
    for terminal in held:
        terminal.socket.drop()
    # Nobody is served worse by what they still write.
    target.serves()


def test_flood_of_resizes(target, session):
    """Resize a terminal ten thousand times, and send ten thousand pieces of nonsense, without reading."""
    with Terminal(session, command="exec bash --norc --noprofile -i") as terminal:
        for i in range(10_000):
            terminal.say(type="resize", cols=1 + i % 1000, rows=1 + i % 999)
        target.serves()
        nonsense = json.dumps({"type": "no such thing", "x": "y" * 100}).encode()
        terminal.socket.socket.settimeout(5)
        try:
            for _ in range(10_000):
                terminal.socket.frame(websocket_client.TEXT, nonsense)
        except (TimeoutError, ConnectionError):
            pass  # back-pressure, or it was thrown out
        target.serves()
    with Terminal(session, command="stty size; exec cat") as again:
        again.until("24 80")
        again.say(type="resize", cols=33, rows=11)
        again.type("there\n")
        again.until("there")


def test_terminals_where_no_pty_is_left(target, session):
    """Take every pseudo-terminal from inside first: the caller hears of it, and gets one when there is one."""
    session.run(
        "import os\nheld = []\ntry:\n    while True: held.append(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))\n"
        "except OSError: pass"
    )
    with pytest.raises(Refused) as refused:
        Terminal(session, command="true")
    assert refused.value.status in (400, 409, 503) and json.loads(refused.value.body)["error"]["message"]
    assert terminals(session) == []
    session.run("[os.close(fd) for fd in held];")
    with Terminal(session, command="echo there-$((1+0)); exec cat") as terminal:
        terminal.until("there-1")


def test_clients_that_take_a_terminal_from_each_other(target, session):
    """Attach to one terminal again and again from many clients."""
    with Terminal(session, command="while :; do echo x; done") as first:
        pass
    outcomes = []

    def fight():
        for _ in range(10):
            try:
                with Terminal(session, terminal=first.id) as terminal:
                    outcomes.append("new" if terminal.new else "taken")
            except Refused as refused:  # somebody else is just taking it
                outcomes.append(refused.code)

    jobs = [e2e.Background(fight) for _ in range(4)]
    for job in jobs:
        job.result()
    assert set(outcomes) <= {"taken", "Conflict"} and "taken" in outcomes, outcomes
    assert [t["id"] for t in terminals(session)] == [first.id]
    with Terminal(session, terminal=first.id) as last:
        last.until("x\r\n")
    target.serves()


# --- streams ---


def stream(target, session, code, receive_buffer=4096, **more):
    body = json.dumps({"code": code, **more}).encode()
    head = target.head(
        "POST",
        session.path("executions"),
        Accept="text/event-stream",
        Content_Type="application/json",
        Content_Length=str(len(body)),
    )
    return target.connect(head + body, receive_buffer=receive_buffer)


@growth(96 * MIB)
def test_a_hundred_streams_that_nobody_reads(target):
    """A hundred streams of floods in ten sessions, whose clients never read: the programs wait, the daemon does not grow."""
    sessions = [target.pool.session() for _ in range(10)]
    for s in sessions:
        s.run("1")
    flood = "while True: print('x' * 1000)"
    sockets = [stream(target, s, flood, timeoutInSeconds=30) for s in sessions for _ in range(10)]
    for s in sockets[::10]:
        assert s.recv(12) == b"HTTP/1.1 200"
    for _ in range(10):
        target.serves()
    target.hang_up()
    # Who leaves a stream ends what it streams: the sessions are free again.
    for s in sessions:
        assert s.value("6 * 7", timeout=60) == 42
        s.delete().ok(204)


def test_streams_left_and_begun_again(target, session):
    """Begin streams and leave them at once, hundreds of times."""
    for i in range(100):
        s = stream(target, session, "print('x' * 100000)\nimport time; time.sleep(600)")
        if i % 3:
            assert s.recv(12) == b"HTTP/1.1 200"
        s.close()
    target.serves()
    assert session.value("6 * 7", timeout=60) == 42


# --- WebSockets ---


def upgrade(target, session, token=True):
    return target.head(
        "GET",
        session.path("terminal"),
        token=token,
        Upgrade="websocket",
        Connection="Upgrade",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        Sec_WebSocket_Protocol="bivouac.terminal.v1",
    )


def test_handshakes_that_stall(target, session):
    """Hundreds of clients begin a handshake and never finish it."""
    head = upgrade(target, session)
    sockets = [target.connect(head[: len(head) * (i % 7 + 1) // 8]) for i in range(300)]
    target.serves()
    deadline = time.monotonic() + 20 * HEAD_TIMEOUT
    answers = []
    for s in sockets:
        assert select.select([s], [], [], max(0, deadline - time.monotonic()))[0], "it is still held"
        answers.append(status_of(receive(s)))
    assert set(answers) <= {408, None} and answers.count(408) > 100
    assert terminals(session) == []


def test_handshakes_without_a_token(target, session):
    """Ask for terminals with no token and with another plane's: refused before anything is made."""
    for token in (False, "garbage", target.daemon.arm_token):
        for _ in range(10):
            assert status_of(target.talk(upgrade(target, session, token=token))) in (401, 403)
    assert terminals(session) == []


@pytest.mark.parametrize(
    "bytes_after",
    [
        b"\x82",
        b"\x82\xfe\xff",
        b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
        b"\x82\x85\0\0\0\0ab",
        b"\x82\x05abcde",
        b"\xf2\x80\0\0\0\0",
        b"\x09\x80\0\0\0\0",
        b"\x89\xfe\x01\x00\0\0\0\0",
        b"\x88\x81\0\0\0\0x",
        b"\x80\x80\0\0\0\0",
        b"\x81\x82\0\0\0\0\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_frames_after_the_handshake(target, session, bytes_after):
    """Send half a frame, a lying one, none of the protocol: the connection ends or waits, and nothing grows."""
    sockets = [target.connect(upgrade(target, session) + bytes_after) for _ in range(TERMINALS)]
    for s in sockets:
        assert s.recv(12) == b"HTTP/1.1 101"
    target.serves()
    target.hang_up()
    e2e.wait_for(lambda: not any(t["attached"] for t in terminals(session)), 10, "nobody is attached")


def test_flood_of_pings(target, session):
    """Send pings without end and never read the pongs."""
    with Terminal(session, command="exec sleep 600") as terminal:
        terminal.socket.socket.settimeout(3)
        ping = b"\x89\xfd" + b"\0\0\0\0" + b"p" * 125
        sent = 0
        try:
            while sent < 64 * MIB:
                sent += terminal.socket.socket.send(ping * 500)
        except (TimeoutError, ConnectionError):
            pass  # back-pressure, or it was thrown out
        target.serves()
    assert session.value("6 * 7") == 42
