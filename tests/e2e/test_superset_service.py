# SPDX-License-Identifier: Apache-2.0
"""The contract with all known clients, points 11 to 14: errors and HTTP, disconnects, sessions, tokens."""

import json
import re
import threading
import time
import urllib.parse

import pytest

from conftest import NEW, OLD, Background, RawConnection, form, unique, wait_for
from wire import AUTH, Wire

CODE = '{"code":"6*7"}'
H2C = [
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
    ("Upgrade", "h2c"),
]


@pytest.fixture
def wire(pool):
    w = Wire(pool)
    yield w
    pool.session(w.identifier).delete()


def query(wire, version=NEW, more=""):
    return f"identifier={wire.identifier}&api-version={version}{more}"


# --- 11: errors ---

# method, path after the pool, query after the identifier, body, status, code
ERRORS = [
    ("POST", "executions", "", "{", 400, "InvalidRequestContent"),
    ("POST", "executions", "", "{}", 400, "SessionPropertiesMissing"),
    ("POST", "code/execute", "", "{}", 400, "SessionPropertiesMissing"),
    ("POST", "python/execute", "", '{"properties":{}}', 400, "SessionPropertiesMissing"),
    ("POST", "executions", "&api-version=x", CODE, 400, "SessionRequestValidationFailed"),
    ("POST", "files", "", "no form", 400, None),
    ("GET", "files", "&path=../..", "", 400, "SessionRequestValidationFailed"),
    ("GET", "files/none.txt/content", "", "", 404, "SessionFileNotFound"),
    ("GET", "files/none.txt", "", "", 404, "SessionFileNotFound"),
    ("DELETE", "files/none.txt", "", "", 404, "SessionFileNotFound"),
    ("GET", "executions/none", "", "", 404, "SessionExecutionNotFound"),
    ("GET", "nothing/here", "", "", 404, "NotFound"),
    ("PUT", "executions", "", CODE, 405, "MethodNotAllowed"),
    ("PATCH", "files", "", "{}", 405, "MethodNotAllowed"),
    ("POST", ".management/restartSession", "", "", 400, "SessionRequestNotSupported"),
    ("POST", ".management/getSession", "x", "", 400, "SessionWithIdentifierNotFound"),
    ("GET", "listSessions", "&skip=-1", "", 400, "SessionRequestValidationFailed"),
]


@pytest.mark.parametrize("method, where, more, body, status, code", ERRORS)
def test_11_errors(wire, method, where, more, body, status, code):
    reply = wire.send(method, wire.target(where, f"identifier={wire.identifier}{more}"), (AUTH,), body)
    error = reply.error(status, code)
    assert str(status) in error["message"] and len(error["message"]) > 20
    assert set(reply.json) == {"error"} and set(error) == {"code", "message", "traceId"}
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert reply.headers["x-ms-request-id"] == error["traceId"]
    assert int(reply.headers["Content-Length"]) == len(reply.body)


def test_11_errors_of_unknown_pools(wire):
    wire.base += "-lost"
    message = wire.send("GET", wire.target("files", query(wire))).error(404, "SessionPoolNotFound")["message"]
    assert "404" in message and "sessionPools" in message


def test_11_errors_of_too_much(make_pool):
    pool = make_pool(maximum=1, limits={"queueLength": 1})
    wire, other = Wire(pool), Wire(pool)
    wire.execute("1")
    reply = other.send("POST", other.target("executions", query(other)), (AUTH,), CODE)
    assert "429" in reply.error(429, "SessionPoolCapacityReached")["message"]
    assert reply.headers["Retry-After"] == "1"
    session = pool.session(wire.identifier)
    gate = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)"
    running = session.background(gate)
    waiting = session.start("2")
    reply = wire.send("POST", wire.target("executions", query(wire)), (AUTH,), CODE)
    assert "429" in reply.error(429, "SessionQueueFull")["message"]
    assert reply.headers["Retry-After"] == "1"
    session.upload(("go", b"")).ok()
    running.result().ok()
    assert session.finished(waiting)["status"] == "Succeeded"


def test_11_errors_of_bodies_over_the_limit(wire):
    head = wire.head(
        "POST", wire.target("executions", query(wire)), [AUTH, ("Content-Length", str(1 << 40))]
    )
    with RawConnection(wire.pool.client.address) as raw:
        raw.send(head)
        assert "413" in raw.reply().error(413, "RequestEntityTooLarge")["message"]


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer x", "Bearer a.b.c", "Basic dTpw", "token x", "Bearer \xff"],
)
@pytest.mark.parametrize("where", ["executions", "code/execute", "files", "session", "metadata"])
def test_11_errors_401_is_empty(wire, authorization, where):
    """The body is empty as with the service; what is wrong is in the challenge only."""
    headers = [] if authorization is None else [("Authorization", authorization.encode("latin-1"))]
    method = "POST" if "exec" in where else "GET"
    reply = wire.send(method, wire.target(where, query(wire)), headers, CODE if method == "POST" else "")
    assert (reply.status, reply.body, reply.headers["Content-Length"]) == (401, b"", "0")
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    assert reply.headers["mise-correlation-id"]
    assert wire.identifier not in wire.pool.identifiers()


def test_11_errors_have_no_html_but_for_what_is_no_request(wire):
    """Whatever comes in a well-formed request, up to the longest head."""
    long = "x" * 8000
    for target in ("/", "*", "/%00", "/%ff", "/" + long, wire.target("files", f"identifier={long}")):
        for method in ("GET", "POST", "OPTIONS", "TRACE", "BREW"):
            with RawConnection(wire.pool.client.address) as raw:
                raw.send(wire.head(method, target, (AUTH,), 0))
                reply = raw.reply(method)
            assert reply.status in (400, 401, 404, 405), reply
            assert b"<" not in reply.body.replace(b"<4 to", b""), reply
            if reply.status != 401:
                assert str(reply.status) in reply.error(reply.status)["message"]


def test_11_header_names_in_any_case(wire):
    token = wire.pool.client.token
    headers = [
        ("authorization", f"bearer {token}"),
        ("CONTENT-TYPE", "application/json"),
        ("Operation-ID", wire.identifier),
        ("content-LENGTH", str(len(CODE))),
    ]
    reply = wire.send("POST", wire.target("executions", query(wire)), headers, CODE).ok()
    assert reply.headers["operation-id"] == wire.identifier == reply.json["id"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_11_upgrade_to_h2c_is_ignored(wire, method):
    """Java's HttpClient sends it with every clear-text request, and keeps the connection."""
    with RawConnection(wire.pool.client.address) as raw:
        for _ in range(3):
            if method == "POST":
                target, body = wire.target("executions", query(wire)), CODE.encode()
            else:
                target, body = wire.target("files", query(wire)), b""
            raw.send(wire.head(method, target, [*H2C, AUTH], len(body)) + body)
            reply = raw.reply(method).ok()
            assert "Upgrade" not in reply.headers
            assert reply.headers.get("Connection", "").lower() in ("", "keep-alive")


def test_11_keep_alive_after_errors(wire):
    with RawConnection(wire.pool.client.address) as raw:
        for target, status in (
            (wire.target("files/none", query(wire)), 404),
            (wire.target("nothing", query(wire)), 404),
            (wire.target("files", "identifier=x"), 400),
            (wire.target("files", query(wire)), 200),
        ):
            raw.send(wire.head("GET", target))
            assert raw.reply("GET").status == status


def test_11_http_1_0_and_connection_close(wire):
    head = wire.head("GET", wire.target("files", query(wire))).replace(b"HTTP/1.1", b"HTTP/1.0")
    with RawConnection(wire.pool.client.address) as raw:
        raw.send(head)
        assert json.loads(raw.read_all().partition(b"\r\n\r\n")[2])["value"] == []
    headers = [AUTH, ("Connection", "close")]
    with RawConnection(wire.pool.client.address) as raw:
        raw.send(wire.head("GET", wire.target("files", query(wire)), headers))
        answer = raw.read_all()
    assert b"connection: close" in answer.lower() and answer.endswith(b'"nextLink":null}')


def test_11_status_line_and_headers_of_every_answer(wire):
    with RawConnection(wire.pool.client.address) as raw:
        raw.send(wire.head("GET", wire.target("files", query(wire)), [AUTH, ("Connection", "close")]))
        head = raw.read_all().partition(b"\r\n\r\n")[0]
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    names = [line.partition(b":")[0].lower() for line in lines[1:]]
    assert len(names) == len(set(names))  # no header twice
    assert {b"date", b"content-type", b"content-length", b"x-ms-request-id"} <= set(names)


# --- 12: disconnects and concurrency ---


@pytest.mark.parametrize("where", ["executions", "code/execute", "python/execute"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_12_disconnect_in_mid_execution(wire, where, how):
    wire.execute("import time; ran = 0")
    body = json.dumps({"properties": {"code": "time.sleep(0.3); ran += 1"}}).encode()
    execution = unique("gone")
    headers = [AUTH, ("operation-id", execution)]
    session = wire.pool.session(wire.identifier)
    with RawConnection(wire.pool.client.address) as raw:
        raw.send(wire.head("POST", wire.target(where, query(wire)), headers, len(body)) + body)
        wait_for(lambda: session.call("GET", f"executions/{execution}").status == 200)
        raw.reset() if how == "reset" else raw.socket.close()
    # The next one waits for what was begun, or finds it ended: never both at once.
    assert session.value("ran") in (0, 1)
    assert session.execution(execution)["status"] in ("Succeeded", "Canceled", "Failed")


def test_12_disconnect_in_mid_request(wire):
    body = CODE.encode()
    head = wire.head("POST", wire.target("executions", query(wire)), (AUTH,), len(body))
    for data in (head[:10], head[:-2], head, head + body[:5]):
        with RawConnection(wire.pool.client.address) as raw:
            raw.send(data)
            raw.reset()
    assert wire.execute("6*7")["result"]["executionResult"] == 42


def test_12_disconnect_in_mid_upload(wire):
    body, content_type = form(("f.bin", b"x" * 100_000))
    headers = [AUTH, ("Content-Type", content_type)]
    head = wire.head("POST", wire.target("files", query(wire)), headers, len(body))
    with RawConnection(wire.pool.client.address) as raw:
        raw.send(head + body[:60_000])
        raw.reset()
    assert wire.execute("import os; os.listdir()")["result"]["executionResult"] == "[]"


def test_12_requests_of_one_identifier_run_one_after_another(wire):
    """With all three ways in at once, before there is a session."""
    code = (
        "import time\nif 'inside' not in globals(): inside = most = 0\n"
        "inside += 1; most = max(most, inside); time.sleep(0.02); inside -= 1"
    )
    jobs = [
        Background(wire.execute, code, where, wrapped=where != "executions")
        for where in ("executions", "code/execute", "python/execute") * 4
    ]
    for job in jobs:
        job.result()
    assert wire.execute("(inside, most)")["result"]["executionResult"] == "(0, 1)"


# --- 13: sessions, management, asynchronous executions ---

SESSION = {"identifier", "etag", "createdAt", "lastAccessedAt", "expireAt"}


def test_13_session_get_and_delete(wire):
    wire.send("GET", wire.target("session", query(wire))).error(400, "SessionWithIdentifierNotFound")
    wire.execute("1")
    found = wire.send("GET", wire.target("session", query(wire))).ok().json
    assert set(found) == SESSION and found["identifier"] == wire.identifier
    reply = wire.send("DELETE", wire.target("session", query(wire)))
    assert (reply.status, reply.body) == (204, b"")
    assert "Content-Type" not in reply.headers


def test_13_metadata(wire):
    """As the service's documents have it; identifiers are not needed."""
    found = wire.send("GET", wire.target("metadata", f"api-version={NEW}")).ok().json
    assert set(found) == {"runtimes", "preInstalledPackages", "createdAt", "lastUpdatedAt", "jupyterKernel"}
    assert all(set(r) == {"name", "version"} for r in found["runtimes"])
    assert all(set(p) == {"name", "version"} for p in found["preInstalledPackages"])
    assert set(found["jupyterKernel"]) == {"name", "version", "projectUrl", "description"}
    texts = [*found["runtimes"][0].values(), *found["jupyterKernel"].values()]
    assert all(isinstance(t, str) and t for t in texts)


def test_13_lists_and_their_next_page(make_pool):
    """300 a page; the link is of the origin that was asked, and can be followed as it is."""
    pool = make_pool(maximum=310, ready=10)
    names = [unique("page") for _ in range(301)]
    todo = iter(names)
    lock = threading.Lock()

    def make():
        while True:
            with lock:
                name = next(todo, None)
            if name is None:
                return
            pool.session(name).call("GET", "files").ok()

    for job in [Background(make) for _ in range(8)]:
        job.result(300)
    origin = "http://{}:{}".format(*pool.client.address)
    for method, where, key in (
        ("GET", "listSessions", "sessions"),
        ("POST", ".management/listSessions", "value"),
    ):
        found, target, pages = [], f"{pool.path}/{where}?api-version={NEW}&skip=0", 0
        while target:
            page = pool.client.request(method, target).ok().json
            assert set(page) == {key, "nextLink"} | ({"count"} if key == "value" else set())
            found += [s["identifier"] for s in page[key]]
            link, pages = page["nextLink"], pages + 1
            assert link is None or link.startswith(f"{origin}{pool.path}/{where}?")
            assert link is None or f"api-version={NEW}" in link
            target = link and link[len(origin) :]
        assert pages == 2 and len(found) == 301 and set(found) == set(names)


@pytest.mark.parametrize("version", ["2024-02-02-preview", "2025-02-02-preview", NEW])
def test_13_management_calls(pool, version):
    """POST with and without a body, api-version and identifier in both orders."""
    wire = Wire(pool)
    tail = f"api-version={version}&identifier={wire.identifier}"
    for action in ("getSession", "stopSession"):
        reply = wire.send("POST", wire.target(f".management/{action}", tail))
        message = reply.error(400, "SessionWithIdentifierNotFound")["message"]
        assert wire.identifier in message and pool.name in message
    assert wire.identifier not in pool.identifiers()
    wire.execute("1")
    found = wire.send("POST", wire.target(".management/getSession", tail)).ok().json
    assert set(found) == (SESSION - {"expireAt"}) | {"expiresAt"}
    found = wire.send("POST", wire.target(".management/listSessions", f"skip=0&api-version={version}"), (AUTH,), "{}")
    document = found.ok().json
    assert set(document) == {"value", "count", "nextLink"} and document["nextLink"] is None
    assert document["count"] == len(document["value"])
    assert wire.identifier in [s["identifier"] for s in document["value"]]
    reply = wire.send("POST", wire.target(".management/stopSession", tail)).ok()
    assert reply.headers["Content-Type"].split(";")[0] == "text/plain"
    assert reply.text == f"Session {wire.identifier} in session pool {pool.name} stopped."
    wire.send("POST", wire.target(".management/stopSession", tail)).error(400, "SessionWithIdentifierNotFound")


@pytest.mark.parametrize("version", ["2024-10-02-preview", "2025-02-02-preview", NEW])
def test_13_asynchronous_executions(wire, version):
    body = '{"code":"import time; time.sleep(0.3); print(1)","executionType":"Asynchronous"}'
    reply = wire.send("POST", wire.target("executions", query(wire, version)), (AUTH,), body).ok(202)
    started = reply.json
    assert started["status"] in ("NotStarted", "Running") and "result" not in started
    assert reply.headers["operation-id"] == started["id"]
    location = urllib.parse.urlsplit(reply.headers["Operation-Location"])
    assert location.path == f"{wire.base}/executions/{started['id']}"
    assert location.query == f"api-version={version}&identifier={wire.identifier}"
    seen = []

    def look():
        document = wire.send("GET", f"{location.path}?{location.query}").ok().json
        seen.append(document["status"])
        return document if "result" in document else None

    document = wait_for(look, 20, "the execution has finished")
    assert document["status"] == "Succeeded" and document["result"]["stdout"] == "1\n"
    assert set(seen) <= {"NotStarted", "Running", "Succeeded"}
    assert set(document) == {"id", "identifier", "executionType", "status", "result"}


def test_13_operation_id_is_the_callers(wire):
    for kind, status in (("Synchronous", 200), ("Asynchronous", 202)):
        wanted = unique("my-operation")
        body = json.dumps({"code": "6*7", "executionType": kind})
        headers = [AUTH, ("operation-id", wanted)]
        reply = wire.send("POST", wire.target("executions", query(wire)), headers, body).ok(status)
        assert reply.headers["operation-id"] == reply.json["id"] == wanted
        target = wire.target(f"executions/{wanted}", query(wire))
        found = wait_for(lambda: (d := wire.send("GET", target).ok().json)["status"] == "Succeeded" and d)
        assert found["result"]["executionResult"] == 42
        assert wire.send("GET", target).headers["operation-id"] == wanted


def test_13_operation_ids_of_wrong_form(wire):
    for bad in ("a b", "a/b", "x" * 128, "a;b"):
        headers = [AUTH, ("operation-id", bad)]
        reply = wire.send("POST", wire.target("executions", query(wire)), headers, CODE)
        assert "operation-id" in reply.error(400)["message"]


# --- 14: tokens of the machine ---


@pytest.mark.parametrize("resource", ["https://dynamicsessions.io", "https%3A%2F%2Fdynamicsessions.io"])
def test_14_identity_endpoint(daemon, wire, resource):
    """As Python's (unescaped) and JavaScript's credentials ask; the token opens the data plane."""
    headers = [("X-IDENTITY-HEADER", daemon.ready["identityHeader"]), ("Accept", "application/json")]
    reply = wire.send("GET", f"/msi/token?api-version=2019-08-01&resource={resource}", headers).ok()
    assert set(reply.json) == {"access_token", "expires_on", "resource", "token_type"}
    assert re.fullmatch(r"\d+", reply.json["expires_on"]) and int(reply.json["expires_on"]) > time.time()
    bearer = [("Authorization", f"Bearer {reply.json['access_token']}")]
    wire.send("POST", wire.target("executions", query(wire, OLD)), bearer, CODE).ok()
