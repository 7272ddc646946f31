# SPDX-License-Identifier: Apache-2.0
"""Executions watched as they run: events, characters, slow and lost clients, ends of every kind."""

import base64
import pathlib
import re
import time

import pytest
from event_stream import Broken, EventStream, names_of, text_of

from conftest import Background, Daemon, descendants, png_size, unique, wait_for

GO = "/mnt/data/go"
# Interruptible, and without a time of its own: the test says when it goes on.
WAIT_FOR_GO = f"import os, time\nwhile not os.path.exists('{GO}'): time.sleep(0.01)\n"
SHAPES = ("executions", "code/execute", "python/execute")


def go(session):
    session.upload(("go", b"")).ok()


def state(session, execution_id):
    return session.execution(execution_id)["status"]


def canceled(session, execution_id):
    wait_for(lambda: state(session, execution_id) == "Canceled", 20, "it is canceled")


def test_events_of_a_run(session):
    code = (
        "import sys\nprint('one')\nprint('two', file=sys.stderr)\n"
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n"
        "print('three')"
    )
    with EventStream(session, code, headers={"operation-id": "streamed-1"}) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["operation-id"] == "streamed-1"
        guid = stream.headers["x-ms-session-guid"]
        assert re.fullmatch(r"[0-9a-f-]{36}", guid)
        events = list(stream)
        assert stream.comments == []
    assert events[0] == ("started", {"id": "streamed-1", "identifier": session.identifier})
    assert text_of(events, "stdout") == "one\nthree\n"
    assert text_of(events, "stderr") == "two\n"
    names = [event.name for event in events]
    display = events[names.index("display")].data
    assert set(display) == {"type", "format", "base64_data"}
    assert (display["type"], display["format"]) == ("image", "png")
    assert png_size(display["base64_data"])[0] > 100
    # What was printed before the figure came before it.
    assert text_of(events[: names.index("display")], "stdout").startswith("one\n")
    assert names[-1] == "result" and "error" not in names
    document = events[-1].data
    assert document["id"] == "streamed-1" and document["status"] == "Succeeded"
    assert document["result"]["stdout"] == "one\nthree\n"
    assert document["result"]["executionResult"] == display
    # The last event is what a plain call would have answered, and what can be asked for later.
    assert session.execution("streamed-1") == document


def test_output_comes_while_the_program_runs(session):
    with EventStream(session, f"print('ready')\n{WAIT_FOR_GO}print('done')") as stream:
        assert stream.until_text("ready\n") == "ready\n"
        assert state(session, stream.headers["operation-id"]) == "Running"
        go(session)
        assert text_of(list(stream), "stdout") == "done\n"


def test_output_without_a_line_break_comes_at_once(session):
    code = f"import sys\nprint('a', end='')\nsys.stderr.write('b')\n{WAIT_FOR_GO}"
    with EventStream(session, code) as stream:
        stream.expect("started")
        seen = {stream.next().name: 1, stream.next().name: 1}
        assert set(seen) == {"stdout", "stderr"}
        go(session)
        assert stream.expect("result")["status"] == "Succeeded"


def test_children_are_heard_too(session):
    code = f"import subprocess\nsubprocess.run(['echo', 'child'])\n{WAIT_FOR_GO}"
    with EventStream(session, code) as stream:
        stream.until_text("child\n")
        go(session)
        assert list(stream)[-1].data["result"]["stdout"] == "child\n"


@pytest.mark.parametrize("where", SHAPES)
def test_result_has_the_shape_of_its_path(session, where):
    plain = session.call("POST", where, {"code": "print('x'); 7"}).ok().json
    with EventStream(session, "print('x'); 7", where) as stream:
        streamed = list(stream)[-1]
    assert streamed.name == "result"

    def keys(value):
        return {k: keys(v) for k, v in value.items()} if isinstance(value, dict) else None

    assert keys(streamed.data) == keys(plain)


def test_founding_path_streams(session):
    where = f"identifier/{session.identifier}/code/execute"
    with EventStream(session, {"properties": {"code": "print('x')"}}, where) as stream:
        events = list(stream)
    assert events[-1].data["result"]["stdout"] == "x\n" and events[-1].data["status"] == "Success"


def test_code_that_raises(session):
    with EventStream(session, "print('before')\n1/0") as stream:
        events = list(stream)
    assert [e.name for e in events if e.name in ("error", "result")] == ["error", "result"]
    error, document = events[-2].data, events[-1].data
    assert error == document["error"]
    assert error["code"] == "CodeExecutionFailed" and "ZeroDivisionError" in error["message"]
    assert document["status"] == "Failed" and document["result"]["stdout"] == "before\n"
    assert "ZeroDivisionError" in document["result"]["stderr"]


def test_timeout(session):
    code = "print('before')\nimport time\nwhile True: time.sleep(0.05)"
    with EventStream(session, {"code": code, "timeoutInSeconds": 3}) as stream:
        events = list(stream)
    assert text_of(events, "stdout") == "before\n"
    assert events[-2].data["code"] == "ExecutionTimeout"
    assert events[-1].data["status"] == "Failed"
    assert session.value("6 * 7") == 42


def test_kernel_that_dies(session):
    with EventStream(session, "print('before')\nimport os\nos.kill(os.getpid(), 9)") as stream:
        events = list(stream)
    assert text_of(events, "stdout") == "before\n"
    assert events[-2].data["code"] == "KernelDied" and events[-1].data["status"] == "Failed"
    with EventStream(session, "print('alive')") as stream:
        assert text_of(list(stream), "stdout") == "alive\n"


def test_session_that_is_deleted_meanwhile(new_session):
    session = new_session()
    with EventStream(session, f"print('begun')\n{WAIT_FOR_GO}") as stream:
        stream.until_text("begun\n")
        session.delete().ok(204)
        events = list(stream)
    # An error, no result: and still an end in order.
    assert [e.name for e in events] == ["error"]
    assert set(events[0].data) == {"code", "message"}
    assert "deleted before the request was done" in events[0].data["message"]


# --- what is asked for ---


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "text/*",
        "application/json",
        "text/event-stream;q=0",
        "text/event-stream;q=0.5, application/json",
        "text/event-stream;q=0.5, */*",
    ],
)
def test_who_wants_json_gets_json(session, accept):
    with EventStream(session, "6 * 7", headers={"Accept": accept}) as stream:
        assert stream.reply.ok().json["result"]["executionResult"] == 42


@pytest.mark.parametrize(
    "accept",
    ["text/event-stream", "TEXT/EVENT-STREAM; charset=utf-8", "application/json;q=0.5, text/event-stream"],
)
def test_who_wants_events_gets_events(session, accept):
    with EventStream(session, "6 * 7", headers={"Accept": accept}) as stream:
        assert list(stream)[-1].data["result"]["executionResult"] == 42


@pytest.mark.parametrize(
    "body, status, code",
    [
        ({"code": "1", "executionType": "Asynchronous"}, 400, "SessionRequestValidationFailed"),
        ({"code": "1", "timeoutInSeconds": -1}, 400, "SessionRequestValidationFailed"),
        ({"code": "1", "onDisconnect": "panic"}, 400, "SessionRequestValidationFailed"),
        ({"code": "1", "onDisconnect": 1}, 400, "SessionRequestValidationFailed"),
        ({}, 400, "SessionPropertiesMissing"),
        ([], 400, "InvalidRequestContent"),
    ],
)
def test_errors_before_the_start_are_plain(session, body, status, code):
    with EventStream(session, body) as stream:
        assert stream.status == status
        stream.reply.error(status, code)


def test_operation_id_that_is_taken(session):
    session.post("1", headers={"operation-id": "taken"}).ok()
    with EventStream(session, "1", headers={"operation-id": "taken"}) as stream:
        stream.reply.error(409, "Conflict")


def test_onDisconnect_stop_needs_somebody_who_waits(session):
    reply = session.post("1", executionType="Asynchronous", onDisconnect="stop")
    assert "Asynchronous" in reply.error(400, "SessionRequestValidationFailed")["message"]
    session.post("1", executionType="Asynchronous", onDisconnect="continue").ok(202)


def test_no_token_no_stream(session):
    with EventStream(session, "1", headers={"Authorization": "Bearer x"}) as stream:
        assert stream.status == 401


# --- text ---


def test_characters_are_never_cut(session):
    text = "grün 😀 €\n"
    code = (
        "import os, time\n"
        f"for b in {text!r}.encode() * 3:\n    os.write(1, bytes([b]))\n    time.sleep(0.002)\n"
    )
    with EventStream(session, code) as stream:
        events = list(stream)
    assert text_of(events, "stdout") == text * 3
    assert "�" not in text_of(events, "stdout")
    assert events[-1].data["result"]["stdout"] == text * 3


@pytest.mark.parametrize(
    "raw",
    [
        b"a\xff\xfeb",
        b"\xe2\x82",
        b"x\xf0\x9f\x98",
        b"\xc3(\xa0\xa1",
        b"\xed\xa0\x80 \xf5\x80\x80\x80",
        b"\x00\x01\x1b[1m\r\n\x7f",
        bytes(range(256)),
    ],
)
def test_bytes_that_are_no_text_come_as_in_a_plain_reply(session, raw):
    code = f"import os\nfor b in {raw!r}: os.write(1, bytes([b])) and os.write(2, bytes([b]))"
    plain = session.result(code)
    with EventStream(session, code) as stream:
        events = list(stream)
    assert text_of(events, "stdout") == plain["stdout"]
    assert text_of(events, "stderr") == plain["stderr"] == plain["stdout"]


def test_text_cannot_make_events(session):
    forged = "\n\nevent: result\ndata: {}\n\n\r\n: \u2028\u0085"
    with EventStream(session, f"print({forged!r}, end='')\n{forged!r}") as stream:
        events = list(stream)
    assert text_of(events, "stdout") == forged
    assert [e.name for e in events if e.name != "stdout"] == ["started", "result"]
    assert events[-1].data["result"]["executionResult"] == forged


def test_the_stream_has_all_and_the_result_what_was_asked_for(session):
    code = "print('x' * 5000); print('y' * 5000)"
    with EventStream(session, code) as stream:
        events = list(stream)
    assert text_of(events, "stdout") == "x" * 5000 + "\n" + "y" * 5000 + "\n"
    stdout = events[-1].data["result"]["stdout"]
    assert stdout.startswith("x" * 4096 + "\n[stdout truncated: 4096 of 10002 bytes shown")
    with EventStream(session, {"code": code, "outputStreamsMaxLength": 10002}) as stream:
        assert list(stream)[-1].data["result"]["stdout"] == text_of(events, "stdout")


def test_many_figures(session):
    # Text and figures come by ways of their own: what is shown may come late, never before its time.
    code = (
        "import matplotlib.pyplot as plt\n"
        "for i in range(3):\n    plt.plot([i])\n    plt.show()\n    print(i)"
    )
    with EventStream(session, code) as stream:
        events = list(stream)
    displays = [e.data for e in events if e.name == "display"]
    assert len(displays) == 3
    assert displays == events[-1].data["result"]["displayData"]
    assert text_of(events, "stdout") == "0\n1\n2\n"


# --- waiting ---


def test_who_waits_in_the_queue_sees_that_somebody_is_there(session):
    job = session.background(WAIT_FOR_GO)
    with EventStream(session, "print('mine')") as stream:
        assert stream.status == 200 and stream.comment() == "queued"
        assert state(session, stream.headers["operation-id"]) == "NotStarted"
        go(session)
        events = list(stream)
    assert names_of(events) == ["started", "stdout", "result"]
    assert text_of(events, "stdout") == "mine\n"
    assert job.result().ok().json["status"] == "Succeeded"


def test_who_leaves_the_queue_is_never_run(session):
    job = session.background(WAIT_FOR_GO)
    for asked in ({"onDisconnect": "stop"}, {}):
        body = {"code": "open('/mnt/data/ran', 'w')", **asked}
        with EventStream(session, body) as stream:
            assert stream.comment() == "queued"
            waiting = stream.headers["operation-id"]
        wait_for(
            lambda waiting=waiting: session.call("GET", f"executions/{waiting}").status == 404,
            20,
            "it has left the queue",
        )
    go(session)
    job.result().ok()
    assert "ran" not in session.names()


def test_who_leaves_the_queue_is_run_if_that_was_asked_for(session):
    job = session.background(WAIT_FOR_GO)
    body = {"code": "print('x' * 300000)\n7", "onDisconnect": "continue"}
    with EventStream(session, body) as stream:
        assert stream.comment() == "queued"
        waiting = stream.headers["operation-id"]
    go(session)
    job.result().ok()
    document = session.finished(waiting)
    assert document["status"] == "Succeeded" and document["result"]["executionResult"] == 7


# --- clients that leave ---

BUSY = "x = 41\nprint('busy', flush=True)\nimport time\nwhile True: time.sleep(0.01)"


def test_stream_that_is_left_is_stopped(session):
    with EventStream(session, BUSY) as stream:
        stream.until_text("busy\n")
        execution_id = stream.headers["operation-id"]
    canceled(session, execution_id)
    # Interrupted, not killed: what it had made is there.
    assert session.value("x + 1") == 42


def test_stream_that_is_left_and_never_writes_is_stopped(session):
    with EventStream(session, "import time\nwhile True: time.sleep(0.01)") as stream:
        stream.expect("started")
        execution_id = stream.headers["operation-id"]
    canceled(session, execution_id)


def test_stream_that_is_left_while_it_floods_is_stopped(session):
    code = "import os\nwhile True: os.write(1, b'x' * 65536)"
    with EventStream(session, code, receive_buffer=4096) as stream:
        stream.read(10000)
        execution_id = stream.headers["operation-id"]
    canceled(session, execution_id)
    assert session.value("6 * 7") == 42


def test_stream_that_is_left_goes_on_if_that_was_asked_for(session):
    body = {"code": f"print('a')\n{WAIT_FOR_GO}print('b' * 300000)\n5", "onDisconnect": "continue"}
    with EventStream(session, body) as stream:
        stream.until_text("a\n")
        execution_id = stream.headers["operation-id"]
    assert state(session, execution_id) == "Running"
    go(session)
    # Nobody reads it any more: it is not held up.
    document = session.finished(execution_id)
    assert document["status"] == "Succeeded" and document["result"]["executionResult"] == 5
    assert document["result"]["stdout"].startswith("a\nbbbb")


@pytest.mark.parametrize("asked", [None, "Continue", "STOP"])
def test_plain_call_that_is_left(session, daemon, asked):
    execution_id = unique("left")
    code = f"print('begun', flush=True)\n{WAIT_FOR_GO}'end'"
    body = {"code": code, **({"onDisconnect": asked} if asked else {})}
    headers = {"Accept": "application/json", "operation-id": execution_id}
    sock = daemon.raw().socket
    # Its reply comes when it is over, and nobody waits that long.
    job = Background(EventStream, session, body, headers=headers, sock=sock)
    wait_for(
        lambda: session.call("GET", f"executions/{execution_id}").body.find(b"Running") > 0,
        20,
        "it runs",
    )
    sock.shutdown(2)
    with pytest.raises((Broken, OSError)):
        job.result()
    sock.close()
    if asked == "STOP":
        canceled(session, execution_id)
    else:
        go(session)
        assert session.finished(execution_id)["status"] == "Succeeded"


# --- clients that are slow ---

GIB = 1 << 30
FLOOD = f"""import os
b = b'~' * 65536
with open('/mnt/data/count', 'w') as f:
    for i in range({GIB} // 65536):
        assert os.write(1, b) == 65536
        if i % 16 == 0:
            print(i // 16, file=f, flush=True)
"""


def agent_memory(daemon):
    """The largest resident size of any agent below this daemon."""
    most = 0
    for pid in descendants(daemon.pid):
        try:
            text = pathlib.Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        if re.search(r"^Name:\s+bivouac-agent$", text, re.M):
            most = max(most, int(re.search(r"^VmHWM:\s+(\d+) kB", text, re.M).group(1)) * 1024)
    return most


def written(session):
    """MiB that the program has begun to write."""
    return len(session.download("count").body.splitlines())


def test_gibibyte_to_a_slow_reader(daemon, session):
    session.run("1")
    agents = agent_memory(daemon)
    daemon.reset_peak()
    before = daemon.memory("VmRSS")
    with EventStream(session, FLOOD, receive_buffer=65536, timeout=300) as stream:
        stream.expect("started")
        # At first nothing is read: what is written fills buffers, then the program waits.
        seen = []
        wait_for(
            lambda: seen.append(written(session)) or (seen[-1] and seen[-3:] == seen[-1:] * 3),
            30,
            "the program waits",
            0.2,
        )
        assert seen[-1] < 16, seen
        count, tail = 0, b""
        while data := stream.read(1 << 20):
            count += data.count(b"~")
            tail = (tail + data)[-20000:]
    assert b"\nevent: result\ndata: {" in tail and b'"Succeeded"' in tail
    assert count == GIB + 4096  # those of the result
    assert daemon.memory("VmHWM") - before < 16 << 20
    assert agent_memory(daemon) - agents < 8 << 20


def test_who_never_reads_holds_up_nobody_else(session, new_session):
    code = "import os\nwhile True: os.write(1, b'y' * 65536)"
    streams = [EventStream(new_session(), code, receive_buffer=4096) for _ in range(4)]
    try:
        for stream in streams:
            assert stream.status == 200
        assert session.value("6 * 7") == 42
        with EventStream(session, "print('here')") as stream:
            assert text_of(list(stream), "stdout") == "here\n"
    finally:
        for stream in streams:
            stream.close()


def test_program_that_waits_for_its_reader_can_still_time_out(session):
    code = "import os\nwhile True: os.write(1, b'y' * 65536)"
    with EventStream(session, {"code": code, "timeoutInSeconds": 2}, receive_buffer=4096) as stream:
        session.finished(stream.headers["operation-id"])
        tail = b""
        while data := stream.read(1 << 20):
            tail = (tail + data)[-20000:]
    assert b'event: error\ndata: {"code":"ExecutionTimeout"' in tail
    assert session.value("6 * 7") == 42


def test_many_streams_at_once(new_session):
    sessions = [new_session() for _ in range(6)]

    def watch(n):
        code = f"import time\nfor i in range(200):\n    print({n}, i)\n    time.sleep(0.001)\n{n}"
        with EventStream(sessions[n % len(sessions)], code) as stream:
            return list(stream)

    jobs = [Background(watch, n) for n in range(30)]
    for n, job in enumerate(jobs):
        events = job.result()
        assert text_of(events, "stdout") == "".join(f"{n} {i}\n" for i in range(200))
        assert events[-1].data["result"]["executionResult"] == n


# --- connections ---


def test_connection_serves_on_after_a_stream(session):
    with EventStream(session, "print('first')") as stream:
        assert text_of(list(stream), "stdout") == "first\n"
        again = EventStream(session, "print('second')", sock=stream.socket)
        assert text_of(list(again), "stdout") == "second\n"
        plain = EventStream(
            session, "6 * 7", headers={"Accept": "*/*"}, sock=stream.socket
        )
        assert plain.reply.ok().json["result"]["executionResult"] == 42


def test_http_1_0_client(session):
    with EventStream(session, "print('old')\n6 * 7", http="1.0") as stream:
        assert not stream.chunked
        events = list(stream)
    assert text_of(events, "stdout") == "old\n"
    assert events[-1].data["result"]["executionResult"] == 42


def test_head_is_no_execution(session):
    reply = session.call("HEAD", "executions", headers={"Accept": "text/event-stream"})
    assert reply.status == 405 and reply.body == b""


def test_comment_in_the_quiet(session):
    with EventStream(session, WAIT_FOR_GO) as stream:
        stream.expect("started")
        assert stream.comment() == "keep-alive"
        go(session)
        stream.expect("result")


def test_daemon_that_ends_in_the_middle():
    d = Daemon()
    try:
        session = d.default_pool().session()
        with EventStream(session, f"x = 1\nprint('begun')\n{WAIT_FOR_GO}x = 2") as stream:
            stream.until_text("begun\n")
            d.process.kill()
            d.process.wait()
            with pytest.raises(Broken):
                list(stream)
        d.process.stdout.close()
        d.start()
        session = d.default_pool().session(session.identifier)
        # It went on without anybody, and what comes next waits for it.
        go(session)
        assert session.value("x") == 2
    finally:
        d.stop()
        d.remove()


def test_daemon_that_is_stopped_in_the_middle():
    d = Daemon()
    try:
        session = d.default_pool().session()
        with EventStream(session, f"print('begun')\n{WAIT_FOR_GO}") as stream:
            stream.until_text("begun\n")
            d.stop()
            with pytest.raises(Broken):
                for event in stream:
                    assert event.name == "error"
                raise Broken
    finally:
        d.remove()


def test_image_is_whole(session):
    code = (
        "from IPython.display import Image, display\nimport base64, zlib, struct, os\n"
        "def chunk(kind, data):\n"
        "    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))\n"
        "w = 1200\nraw = b''.join(b'\\0' + os.urandom(3 * w) for _ in range(w))\n"
        "png = b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, w, 8, 2, 0, 0, 0))\n"
        "png += chunk(b'IDAT', zlib.compress(raw, 0)) + chunk(b'IEND', b'')\n"
        "open('/mnt/data/image.png', 'wb').write(png)\ndisplay(Image(data=png))"
    )
    with EventStream(session, code, receive_buffer=65536) as stream:
        stream.expect("started")
        body = b""
        while data := stream.read(1 << 20):
            body += data
    display = re.search(rb'event: display\ndata: .*?"base64_data":"([^"]*)"}\n\n', body).group(1)
    assert len(display) > 4 << 20
    assert base64.b64decode(display, validate=True) == session.download("image.png").ok().body
