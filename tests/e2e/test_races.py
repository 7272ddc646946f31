# SPDX-License-Identifier: Apache-2.0
"""Requests that arrive at the same moment: one session per identifier, never too many, and an answer for everybody."""

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time

import pytest
import survival

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sandboxes need root")

CROWD = 1000

# Sends prepared requests, all at the same moment, each on a connection of its own. A process of its own, so that it
# does not share an interpreter lock with the test. Lines in: JSON [method, path, body]; lines out: JSON
# [status, headers, body], in the same order.
CROWD_CLIENT = r"""
import asyncio, json, resource, sys
host, port, token = sys.argv[1], int(sys.argv[2]), sys.argv[3]
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
wanted = [json.loads(line) for line in sys.stdin]

async def one(want, arrived, go):
    method, path, body = want
    reader, writer = await asyncio.open_connection(host, port)
    arrived.release()
    await go.wait()
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
    writer.write((head + f"Content-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}").encode())
    raw = await reader.read(-1)
    writer.close()
    head, _, rest = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {k.strip().lower(): v.strip() for k, v in (l.split(":", 1) for l in lines[1:])}
    return [int(lines[0].split()[1]) if lines[0] else 0, headers, rest.decode()]

async def main():
    arrived, go = asyncio.Semaphore(0), asyncio.Event()
    tasks = [asyncio.create_task(one(w, arrived, go)) for w in wanted]
    for _ in wanted:
        await arrived.acquire()
    go.set()
    for t in tasks:
        print(json.dumps(await t))

asyncio.run(main())
"""


def crowd(d, requests):
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    done = subprocess.run(
        [sys.executable, "-c", CROWD_CLIENT, *map(str, d.address), d.ready["token"]],
        input=lines,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    replies = [survival.Reply(*json.loads(line)) for line in done.stdout.splitlines()]
    assert len(replies) == len(requests)
    return replies


def execute_request(d, identifier, code):
    body = {"codeInputType": "Inline", "executionType": "Synchronous", "code": code}
    return ["POST", d.url("/executions", identifier), json.dumps(body)]


@pytest.fixture
def daemon():
    with survival.Daemon() as d:
        yield d


def assert_429(r):
    assert r.status == 429, r
    assert int(r.headers["retry-after"]) >= 1
    error = r.json["error"]
    assert error["code"] and error["code"] == r.headers["x-ms-error-code"]
    assert "maximum" in error["message"] and "maxConcurrentSessions" in error["message"]


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_a_thousand_first_requests(daemon, warm):
    """Shown by 4: one identifier, 1000 first requests at once: one session, which answers them all, one at a time."""
    daemon.only_pool("crowd", 20, 2 if warm else 0, limits={"queueLength": CROWD})
    if warm:
        survival.wait_for(lambda: len(daemon.agents()) >= 2, "ready sandboxes")
    code = "n = globals().get('n', 0) + 1\nn"
    replies = crowd(daemon, [execute_request(daemon, "everybody", code)] * CROWD)
    assert {r.status for r in replies} == {200}, [r for r in replies if r.status != 200][:3]
    guids = {r.headers["x-ms-session-guid"] for r in replies}
    assert len(guids) == 1
    assert daemon.sessions() == {"everybody": guids.pop()}
    assert sorted(r.json["result"]["executionResult"] for r in replies) == list(range(1, CROWD + 1))
    # However they came, exactly one of them made the session, for everybody behind it is the same one.
    assert daemon.value("everybody", "n") == CROWD


def test_one_more_than_the_queue(daemon):
    """A full queue refuses with 429 and loses nothing that it took."""
    daemon.only_pool("queue", 5, 1, limits={"queueLength": 10})
    daemon.value("patient", "n = 0")
    long = daemon.submit("patient", "import os, time\nwhile not os.path.exists('/mnt/data/go'): time.sleep(0.01)")
    survival.wait_for(lambda: daemon.execution("patient", long).json["status"] == "Running", "start")
    ids = [daemon.submit("patient", "n += 1\nn") for _ in range(10)]
    r = daemon.execute("patient", "n += 1")
    assert r.status == 429 and int(r.headers["retry-after"]) >= 1, r
    assert "queueLength" in r.json["error"]["message"]
    assert daemon.upload("patient", "go", b"").status == 200
    assert [daemon.result("patient", id)["result"]["executionResult"] for id in ids] == list(range(1, 11))
    assert daemon.value("patient", "n") == 10


def each_in_a_thread(fns):
    failed = []

    def run(fn):
        try:
            fn()
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=run, args=(fn,)) for fn in fns]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failed:
        raise failed[0]


def test_never_more_than_the_maximum():
    """Shown by 4: 24 identifiers at once, again and again, in a pool of 8: eight sessions, the others are told to wait."""
    d = survival.Daemon("--shells", "0").start()
    try:
        d.only_pool("eight", 8, 3)
        survival.wait_for(lambda: len(d.records()) == 3, "the stock")
        for n in range(4):
            names = [f"round-{n}-{i:02}" for i in range(24)]
            done = threading.Event()
            most = {"listed": 0, "agents": 0}

            def watch():
                while not done.is_set():
                    most["listed"] = max(most["listed"], len(d.sessions()))
                    most["agents"] = max(most["agents"], len(d.records()))

            watcher = threading.Thread(target=watch)
            watcher.start()
            replies = crowd(d, [execute_request(d, name, f"me = '{name}'; me") for name in names * 3])
            done.set()
            watcher.join()
            served = {}
            for name, r in zip(names * 3, replies):
                if r.status == 200:
                    assert r.json["result"]["executionResult"] == name
                    served.setdefault(name, set()).add(r.headers["x-ms-session-guid"])
                else:
                    assert_429(r)
            assert len(served) == 8 and all(len(g) == 1 for g in served.values()), served
            assert d.sessions() == {name: g.pop() for name, g in served.items()}
            assert most["listed"] <= 8 and most["agents"] <= 8, most
            # Those who are in are served on, whatever the others ask.
            outside = next(name for name in names if name not in served)
            assert_429(d.execute(outside, "1"))
            assert_429(d.upload(outside, "f", b"x"))
            for name in served:
                assert d.value(name, "me") == name
            # One goes, one comes.
            first = next(iter(served))
            assert d.delete(first).status == 204
            assert d.value(outside, "1 + 1") == 2
            assert_429(d.execute(first, "1"))
            for name in d.sessions():
                assert d.delete(name).status == 204
            assert d.sessions() == {}
            survival.wait_for(lambda: len(d.records()) == 3, "the stock", 30)
    finally:
        d.close()


def test_maximum_holds_while_sessions_come_and_go(daemon):
    """Deletions make room at any moment; the room is given away once."""
    daemon.only_pool("eight", 8, 2)
    until = time.monotonic() + 6
    counts = {200: 0, 204: 0, 409: 0, 429: 0}
    lock = threading.Lock()

    def count(r, allowed):
        assert r.status in allowed, r
        with lock:
            counts[r.status] += 1

    def guest(i):
        rng = random.Random(i)
        while time.monotonic() < until:
            name = f"guest-{rng.randrange(24):02}"
            if rng.random() < 0.4:
                count(daemon.delete(name), (204,))
            else:
                # 409: deleted by another while this waited for it.
                count(daemon.execute(name, "1"), (200, 409, 429))

    def watch():
        while time.monotonic() < until:
            assert len(daemon.sessions()) <= 8

    each_in_a_thread([lambda i=i: guest(i) for i in range(12)] + [watch])
    print(counts)
    assert counts[200] > 50 and counts[204] > 50 and counts[429] > 0, counts
    for name in daemon.sessions():
        daemon.delete(name)
    daemon.wait_owned((2, 3))


def test_delete_while_executing(daemon):
    """A deletion ends what runs, answers who waits, and leaves the identifier free for a fresh session."""
    daemon.only_pool("gone", 10, 2)
    assert daemon.value("busy-one", "x = 1; open('/mnt/data/f', 'w').write('f'); x") == 1
    old = daemon.sessions()["busy-one"]
    answers = []
    code = "open('/mnt/data/begun', 'w').close()\nimport time\ntime.sleep(600)"

    def wait(code):
        answers.append(daemon.execute("busy-one", code))

    threads = [threading.Thread(target=wait, args=(c,)) for c in (code, "2", "3")]
    threads[0].start()
    survival.wait_for(lambda: daemon.download("busy-one", "begun").status == 200, "the execution has begun")
    for t in threads[1:]:
        t.start()
    behind = daemon.submit("busy-one", "4")
    assert daemon.delete("busy-one").status == 204
    for t in threads:
        t.join(10)
        assert not t.is_alive(), "a request to a deleted session has no answer"
    # The two in the queue may have come after the deletion on a slow machine: then they had a new session.
    assert all(r.status == 409 and r.json["error"]["code"] or r.status == 200 for r in answers), answers
    refused = [r for r in answers if r.status == 409]
    assert refused
    for reply in refused:
        assert "deleted before the request was done" in reply.json["error"]["message"]
    assert daemon.execution("busy-one", behind).status == 404
    assert daemon.value("busy-one", "str(('x' in globals(), __import__('os').listdir('/mnt/data')))") == "(False, [])"
    assert daemon.sessions()["busy-one"] != old
    assert daemon.delete("busy-one").status == 204
    daemon.wait_owned((2, 3))


@pytest.mark.parametrize("cut", ["head", "boundary", "part-head", "data", "second-part", "end"])
def test_delete_during_upload(daemon, cut):
    """The session goes away between two packets of an upload: the upload gets an answer, and nobody else notices."""
    mark = "b0undary"
    part = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n'
    first, second = (part % "one.bin").encode(), b"\r\n" + (part % "two.bin").encode()
    data = b"d" * 200_000
    body = first + data + second + data + f"\r\n--{mark}--\r\n".encode()
    at = {
        "head": 0,
        "boundary": 5,
        "part-head": len(first) - 10,
        "data": len(first) + 100_000,
        "second-part": len(first) + len(data) + len(second) - 5,
        "end": len(body) - 4,
    }[cut]
    assert daemon.value("uploader", "1") == 1
    assert daemon.value("bystander", "x = 7; x") == 7
    old = daemon.sessions()["uploader"]
    with socket.create_connection(daemon.address, timeout=60) as s:
        head = (
            f"POST {daemon.url('/files', 'uploader')} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
            f"Authorization: Bearer {daemon.ready['token']}\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: multipart/form-data; boundary={mark}\r\n\r\n"
        ).encode()
        s.sendall(head + body[:at])
        # Both requests go through one event loop; a listing after them proves that the first bytes were seen.
        assert daemon.sessions()["uploader"] == old
        assert daemon.delete("uploader").status == 204
        assert "uploader" not in daemon.sessions()
        reply = b""
        try:
            s.sendall(body[at:])
            while chunk := s.recv(65536):
                reply += chunk
        except (BrokenPipeError, ConnectionResetError):
            pass  # answered before the end of the body, and closed
    assert daemon.alive, f"bivouacd ended with {daemon.proc.returncode}"
    if reply:
        assert int(reply.split()[1]) in (200, 409), reply[:300]
    assert daemon.value("bystander", "x") == 7
    assert daemon.value("uploader", "str('x' in globals())") == "False"


def test_double_delete(daemon):
    assert daemon.value("twice-gone", "1") == 1
    assert daemon.delete("twice-gone").status == 204
    assert daemon.delete("twice-gone").status == 204
    assert daemon.value("twice-gone", "1") == 1
    stop = daemon.url("/.management/stopSession", "twice-gone")
    first, second = daemon.request("POST", stop), daemon.request("POST", stop)
    assert (first.status, first.body) == (200, b"Session twice-gone in session pool default stopped."), first
    # As the service: 400, not 404.
    assert second.status == 400 and second.json["error"]["code"] == "SessionWithIdentifierNotFound", second
    # Many at once: one session, one end.
    for _ in range(10):
        assert daemon.value("twice-gone", "1") == 1
        replies = crowd(daemon, [["POST", stop, ""]] * 10 + [["DELETE", daemon.url("/session", "twice-gone"), ""]] * 10)
        assert sorted(r.status for r in replies[:10])[1:] == [400] * 9, replies[:10]
        assert {r.status for r in replies[10:]} == {204}
        assert daemon.sessions() == {}


def test_delete_and_execute_hammer(daemon):
    """Four delete what six use: every request gets a sensible answer, every 200 comes from a real session."""
    daemon.only_pool("hammer", 10, 2)
    until = time.monotonic() + 8
    lock = threading.Lock()
    seen = {}
    counts = {}

    def use(i):
        n = 0
        while time.monotonic() < until:
            n += 1
            token = f"{i}.{n}"
            code = f"mine = globals().get('mine', []) + ['{token}']\nstr(mine)"
            r = daemon.execute("hammered", code)
            with lock:
                counts[r.status] = counts.get(r.status, 0) + 1
            if r.status == 200:
                mine = eval(r.json["result"]["executionResult"])
                with lock:
                    seen.setdefault(r.headers["x-ms-session-guid"], []).append((token, mine))
            else:
                assert r.status == 409 and r.json["error"]["message"], r

    def files(i):
        while time.monotonic() < until:
            r = daemon.upload("hammered", f"file{i}", b"x" * 100_000)
            with lock:
                counts["up", r.status] = counts.get(("up", r.status), 0) + 1
            assert r.status in (200, 409), r
            try:
                r = daemon.download("hammered", f"file{i}")
            except survival.Gone:
                continue  # deleted in the middle of the bytes: HTTP has no other way to say so
            assert r.status in (404, 409) or (r.status == 200 and r.body == b"x" * 100_000), r

    def remove():
        rng = random.Random()
        while time.monotonic() < until:
            assert daemon.delete("hammered").status == 204
            time.sleep(rng.uniform(0, 0.2))

    each_in_a_thread([lambda i=i: use(i) for i in range(6)] + [lambda i=i: files(i) for i in range(2)] + [remove] * 4)
    print(counts, len(seen), "sessions")
    assert daemon.alive
    assert len(seen) > 20 and counts[200] > 50, counts
    for guid, runs in seen.items():
        # Within a session every execution sees all that ran before it, and nothing of another session.
        runs.sort(key=lambda run: len(run[1]))
        for (token, mine), (_, later) in zip(runs, runs[1:]):
            assert mine[-1] == token and later[: len(mine)] == mine, (guid, runs)
    everything = [token for runs in seen.values() for token, _ in runs]
    assert len(everything) == len(set(everything))
    assert daemon.value("hammered", "1 + 1") == 2
    assert daemon.delete("hammered").status == 204
    daemon.wait_owned((2, 3))


def test_burst_of_a_hundred(daemon):
    """100 new identifiers at the same moment, ten of them ready: all are answered, each by its own session."""
    for n in range(2):
        names = [f"burst-{n}-{i:03}" for i in range(100)]
        replies = crowd(daemon, [execute_request(daemon, name, f"me = '{name}'\nme") for name in names])
        assert {r.status for r in replies} == {200}, [r for r in replies if r.status != 200][:3]
        assert [r.json["result"]["executionResult"] for r in replies] == names
        guids = {name: r.headers["x-ms-session-guid"] for name, r in zip(names, replies)}
        assert len(set(guids.values())) == 100
        assert daemon.sessions() == guids
        assert_429(daemon.execute("one-too-many", "1"))
        replies = crowd(daemon, [["DELETE", daemon.url("/session", name), ""] for name in names])
        assert {r.status for r in replies} == {204}
        assert daemon.sessions() == {}
