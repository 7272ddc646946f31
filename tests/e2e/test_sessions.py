# SPDX-License-Identifier: Apache-2.0
"""Sessions of a pool: looking at them, ending them, limits on their number, their expiry."""

import calendar
import re
import threading
import time

import pytest

from conftest import NEW, NEW_VERSIONS, OLD, Background, wait_for

TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,7})?Z")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def seconds(text):
    whole, fraction = TIME.fullmatch(text).groups()
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(fraction or 0)


def manage(session, action, **query):
    return session.call("POST", f".management/{action}", query=query)


# --- one session ---


@pytest.mark.parametrize("version", NEW_VERSIONS)
def test_get_session(session, version):
    guid = session.post("1").ok().headers["x-ms-session-guid"]
    found = session.call("GET", "session", version=version).ok().json
    assert set(found) == {"identifier", "etag", "createdAt", "lastAccessedAt", "expireAt"}
    assert found["identifier"] == session.identifier
    assert found["etag"] == guid and UUID.fullmatch(guid)
    now = time.time()
    assert now - 5 < seconds(found["createdAt"]) <= seconds(found["lastAccessedAt"]) <= now + 0.1


def test_get_session_that_is_not_there(pool):
    session = pool.session()
    error = session.call("GET", "session").error(400, "SessionWithIdentifierNotFound")
    assert session.identifier in error["message"] and pool.name in error["message"]
    assert session.identifier not in pool.identifiers()


def test_delete_session(pool):
    session = pool.session()
    session.run("x = 1; open('f', 'w').write('x');")
    guid = session.call("GET", "session").ok().json["etag"]
    reply = session.delete()
    assert (reply.status, reply.body) == (204, b"")
    assert session.identifier not in pool.identifiers()
    session.call("GET", "session").error(400, "SessionWithIdentifierNotFound")
    # Gone is gone; a second time is no error and makes no session.
    session.delete().ok(204)
    assert session.identifier not in pool.identifiers()
    # The identifier starts from nothing.
    assert session.fails("x")[0]["message"].startswith("NameError")
    assert session.names() == []
    assert session.call("GET", "session").ok().json["etag"] != guid
    session.delete().ok(204)


def test_delete_ends_what_runs(pool):
    session = pool.session()
    session.run("1")
    running = session.background("import time; time.sleep(60)")
    queued = Background(session.post, "2")
    waiting = session.start("3")
    wait_for(lambda: session.execution(waiting)["status"] == "NotStarted")
    session.delete().ok(204)
    for job in (running, queued):
        reply = job.result(20)
        # `queued` may have come after the delete, into a new session.
        if reply.status == 200:
            assert job is queued
        else:
            reply.error(409)
    session.call("GET", f"executions/{waiting}").error(404)
    session.delete().ok(204)


def test_session_can_be_deleted_under_its_old_version(pool):
    # LangChain deletes with 2025-10-02-preview what it made with 2024-02-02-preview.
    session = pool.session()
    session.call("POST", "code/execute", {"properties": {"code": "1"}}, OLD).ok()
    session.call("DELETE", "session", version="2025-10-02-preview").ok(204)
    assert session.identifier not in pool.identifiers()


# --- management calls ---


def test_management_get_session(session):
    session.run("1")
    found = manage(session, "getSession").ok().json
    assert set(found) == {"identifier", "etag", "createdAt", "lastAccessedAt", "expiresAt"}
    assert found["etag"] == session.call("GET", "session").ok().json["etag"]
    assert seconds(found["expiresAt"]) > time.time() + 200


def test_management_stop_session(pool):
    session = pool.session("stop-me|1")
    session.run("1")
    reply = manage(session, "stopSession").ok()
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert reply.text == f"Session stop-me|1 in session pool {pool.name} stopped."
    manage(session, "stopSession").error(400, "SessionWithIdentifierNotFound")
    manage(session, "getSession").error(400, "SessionWithIdentifierNotFound")
    assert session.identifier not in pool.identifiers()


def test_management_calls_in_any_case(session):
    session.run("1")
    manage(session, "GETSESSION").ok()
    manage(session, "getsession").ok()


def test_management_of_the_unknown(session):
    manage(session, "restartSession").error(400, "SessionRequestNotSupported")
    session.pool.client.request("POST", f"{session.pool.path}/.management/getSession").error(400)


# --- lists ---


def test_list_sessions(make_pool):
    pool = make_pool(maximum=20, ready=3)
    assert pool.list_sessions() == []
    sessions = [pool.session() for _ in range(5)]
    for s in sessions:
        s.run("1")
    found = pool.list_sessions()
    assert [s["identifier"] for s in found] == [s.identifier for s in sessions]
    for entry in found:
        assert set(entry) == {"identifier", "etag", "createdAt", "lastAccessedAt", "expireAt"}
    assert len({entry["etag"] for entry in found}) == 5
    page = (
        pool.client.request("GET", f"{pool.path}/listSessions?api-version={NEW}&skip=3").ok().json
    )
    assert [s["identifier"] for s in page["sessions"]] == [s.identifier for s in sessions[3:]]
    assert page["nextLink"] is None
    page = (
        pool.client.request("GET", f"{pool.path}/listSessions?api-version={NEW}&skip=5").ok().json
    )
    assert page["sessions"] == []
    page = pool.client.request("GET", f"{pool.path}/listSessions?skip=1000000").ok().json
    assert page["sessions"] == []
    managed = (
        pool.client.request(
            "POST", f"{pool.path}/.management/listSessions?skip=1&api-version={NEW}"
        )
        .ok()
        .json
    )
    assert [s["identifier"] for s in managed["value"]] == [s.identifier for s in sessions[1:]]
    assert managed["count"] == 4 and managed["nextLink"] is None
    assert {"expiresAt", "etag"} <= set(managed["value"][0])
    sessions[1].delete().ok(204)
    assert len(pool.list_sessions()) == 4


@pytest.mark.parametrize("skip", ["-1", "x", "1.5", "99999999999999999999", ""])
def test_list_with_a_bad_skip(pool, skip):
    pool.client.request("GET", f"{pool.path}/listSessions?skip={skip}").error(400)
    pool.client.request("POST", f"{pool.path}/.management/listSessions?skip={skip}").error(400)


def test_list_does_not_keep_sessions_alive(session):
    session.run("1")
    before = session.call("GET", "session").ok().json
    time_before = [
        s for s in session.pool.list_sessions() if s["identifier"] == session.identifier
    ][0]
    for _ in range(3):
        after = [s for s in session.pool.list_sessions() if s["identifier"] == session.identifier][
            0
        ]
    assert after["lastAccessedAt"] == time_before["lastAccessedAt"] == before["lastAccessedAt"]


def test_sessions_of_pools_are_apart(make_pool):
    one, two = make_pool(maximum=3, ready=1), make_pool(maximum=3, ready=1)
    a, b = one.session("same-name"), two.session("same-name")
    a.run("x = 'one'"), b.run("x = 'two'")
    assert (a.value("x"), b.value("x")) == ("one", "two")
    a.delete().ok(204)
    assert one.identifiers() == [] and two.identifiers() == ["same-name"]
    assert b.value("x") == "two"


# --- metadata ---


def test_metadata(pool, session):
    found = pool.client.request("GET", f"{pool.path}/metadata?api-version={NEW}").ok().json
    (runtime,) = [r for r in found["runtimes"] if r["name"] == "python"]
    assert session.value("import sys; '%d.%d.%d' % sys.version_info[:3]") == runtime["version"]
    packages = {p["name"].lower(): p["version"] for p in found["preInstalledPackages"]}
    for name in ("numpy", "pandas", "matplotlib"):
        assert session.value(f"import {name}; {name}.__version__") == packages[name]
    assert len(packages) > 20
    assert TIME.fullmatch(found["createdAt"]) and TIME.fullmatch(found["lastUpdatedAt"])
    assert {"name", "version", "projectUrl", "description"} <= set(found["jupyterKernel"])


def test_metadata_needs_no_identifier_and_makes_no_session(make_pool):
    pool = make_pool(maximum=2, ready=1)
    pool.client.request("GET", f"{pool.path}/metadata").ok()
    assert pool.list_sessions() == []


# --- how many ---


def test_maximum_of_sessions(make_pool):
    pool = make_pool(maximum=3, ready=1)
    sessions = [pool.session() for _ in range(3)]
    for s in sessions:
        s.run("1")
    one_more = pool.session()
    for reply in (
        one_more.post("1"),
        one_more.call("GET", "files"),
        one_more.upload(("f", b"")),
        one_more.post("1", executionType="Asynchronous"),
    ):
        reply.error(429, "SessionPoolCapacityReached")
        assert int(reply.headers["Retry-After"]) >= 1
    assert len(pool.list_sessions()) == 3
    # Those who are in are served on, and who leaves makes room.
    assert sessions[0].value("1 + 1") == 2
    sessions[1].delete().ok(204)
    assert one_more.value("1 + 1") == 2


def test_maximum_is_never_exceeded(make_pool):
    pool = make_pool(maximum=10, ready=2)
    sessions = [pool.session() for _ in range(30)]
    start = threading.Barrier(len(sessions) + 1)
    seen = []

    def first_request(s):
        start.wait()
        reply = s.post("1 + 1")
        seen.append(len(pool.list_sessions()))
        return reply

    jobs = [Background(first_request, s) for s in sessions]
    start.wait()
    replies = [job.result() for job in jobs]
    assert sorted({reply.status for reply in replies}) == [200, 429]
    assert sum(reply.status == 200 for reply in replies) == 10
    assert max(seen) <= 10 and len(pool.list_sessions()) == 10


def test_first_requests_of_all_kinds_share_one_session(pool):
    session = pool.session()
    calls = [
        lambda: session.post("1"),
        lambda: session.call("GET", "files"),
        lambda: session.upload(("f", b"x")),
        lambda: session.call("POST", "code/execute", {"code": "1"}, OLD),
        lambda: session.post("1", executionType="Asynchronous"),
    ]
    jobs = [Background(calls[i % 5]) for i in range(40)]
    guids = {job.result().headers["x-ms-session-guid"] for job in jobs}
    assert len(guids) == 1
    session.delete().ok(204)


def test_cold_pool(make_pool):
    # No sandbox stands ready: each session is made when it is asked for.
    pool = make_pool(maximum=20, ready=0)
    jobs = [Background(pool.session().value, "1 + 1") for _ in range(12)]
    assert [job.result() for job in jobs] == [2] * 12


def test_create_and_delete_many(pool, daemon):
    def cycle(count):
        for i in range(count):
            s = pool.session()
            assert s.value("1 + 1") == 2
            s.delete().ok(204)

    cycle(20)
    before = daemon.memory("VmRSS")
    jobs = [Background(cycle, 40) for _ in range(4)]
    for job in jobs:
        job.result(120)
    assert pool.list_sessions() == []
    assert daemon.memory("VmRSS") - before < 4 << 20


# --- expiry ---


@pytest.mark.parametrize("cooldown", [60, 300, 3600])
def test_expiry_is_cooldown_after_the_last_request(make_pool, cooldown):
    session = make_pool(maximum=2, ready=1, cooldown=cooldown).session()
    session.run("1")
    found = session.call("GET", "session").ok().json
    assert seconds(found["expireAt"]) - seconds(found["lastAccessedAt"]) == pytest.approx(
        cooldown, abs=1e-3
    )


@pytest.mark.parametrize("request_kind", ["execute", "files", "upload", "get", "execution"])
def test_every_request_moves_the_expiry(session, request_kind):
    execution = session.run("1")["id"]
    calls = {
        "execute": lambda: session.post("1"),
        "files": lambda: session.call("GET", "files"),
        "upload": lambda: session.upload(("f", b"")),
        "get": lambda: session.call("GET", "session"),
        "execution": lambda: session.call("GET", f"executions/{execution}"),
    }

    def listed():
        return [s for s in session.pool.list_sessions() if s["identifier"] == session.identifier][0]

    before = listed()
    wait_for(lambda: time.time() > seconds(before["lastAccessedAt"]) + 0.02)
    calls[request_kind]().ok()
    after = listed()
    assert seconds(after["lastAccessedAt"]) > seconds(before["lastAccessedAt"])
    assert seconds(after["expireAt"]) > seconds(before["expireAt"])
    assert after["createdAt"] == before["createdAt"]


def test_change_of_the_cooldown_reaches_living_sessions(make_pool):
    pool = make_pool(maximum=2, ready=1, cooldown=300)
    session = pool.session()
    session.run("1")
    life = {"lifecycleConfiguration": {"lifecycleType": "Timed", "cooldownPeriodInSeconds": 900}}
    pool.arm("PATCH", {"properties": {"dynamicPoolConfiguration": life}}).ok()
    found = session.call("GET", "session").ok().json
    assert seconds(found["expireAt"]) - seconds(found["lastAccessedAt"]) == pytest.approx(
        900, abs=1e-3
    )


@pytest.mark.expiry
def test_idle_sessions_expire(expiring):
    pool, job = expiring
    # Seconds from the last request of a session to when it was listed last; looked at four times a second.
    lived = job.result(100)
    assert 59 <= lived["expires-alone"] < 62
    assert 59 <= lived["expires-later"] < 62
    assert pool.list_sessions() == []
    for identifier in lived:
        session = pool.session(identifier)
        session.call("GET", "session").error(400, "SessionWithIdentifierNotFound")
        assert session.fails("x")[0]["message"].startswith("NameError")
