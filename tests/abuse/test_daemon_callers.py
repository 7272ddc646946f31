# SPDX-License-Identifier: Apache-2.0
"""Callers without a right, and callers with one who want everything."""

import base64
import http.client
import json
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from daemon_target import MIB, e2e, status_of, target, unharmed  # noqa: E402, F401


def b64(data):
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class KeepAlive:
    """Many requests on as few connections as the daemon allows."""

    def __init__(self, target):
        self.target = target
        self.connection = http.client.HTTPConnection(*target.address, timeout=60)

    def ask(self, method, path, body=None, token=None):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body:
            headers["Content-Type"] = "application/json"
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        return response.status, response.read()


def forgeries(target):
    """Tokens that are nobody's, from the good one."""
    head, claims, signature = target.daemon.token.split(".")
    return {
        "none": f"{b64({'alg': 'none'})}.{claims}.",
        "none, signed": f"{b64({'alg': 'none'})}.{claims}.{signature}",
        "HS256 with the public key": f"{b64({'alg': 'HS256', 'typ': 'JWT'})}.{claims}.{signature}",
        "kid is a path": f"{b64({'alg': 'ES256', 'kid': '../../../dev/null'})}.{claims}.{signature}",
        "kid is a query": f"{b64({'alg': 'ES256', 'kid': chr(39) + ' or 1=1'})}.{claims}.{signature}",
        "key comes along": f"{b64({'alg': 'ES256', 'jwk': {'kty': 'EC'}})}.{claims}.{signature}",
        "key from elsewhere": f"{b64({'alg': 'ES256', 'jku': 'http://127.0.0.1/'})}.{claims}.{signature}",
        "other claims": f"{head}.{b64({'aud': 'https://dynamicsessions.io', 'exp': 1 << 40})}.{signature}",
        "no signature": f"{head}.{claims}.",
        "two parts": f"{head}.{claims}",
        "five parts": f"{head}.{claims}.{signature}.{claims}.{signature}",
        "other plane": target.daemon.arm_token,
        "very long": "A" * 20_000,
        "deep header": f"{b64(b'[' * 10_000)}.{claims}.{signature}",
        "empty": "",
    }


def test_forged_tokens(target):
    """Tokens without a signature, of other algorithms, with keys of their own, or malformed."""
    path = target.bystander.path("executions")
    for name, token in forgeries(target).items():
        head = target.head("POST", path, token or "", Content_Length=2)
        answer = target.talk(head + b"{}")
        assert status_of(answer) == 401, (name, answer[:200])
        assert answer.endswith(b"\r\n\r\n"), name  # no body, no word about the session


def test_two_authorization_headers(target):
    """A request has two Authorization headers, a good and a bad one, either first."""
    good = f"Authorization: Bearer {target.daemon.token}\r\n"
    bad = "Authorization: Bearer x.y.z\r\n"
    for pair in (good + bad, bad + good, good + good):
        head = f"GET {target.bystander.path('files')} HTTP/1.1\r\nHost: h\r\n{pair}\r\n"
        assert status_of(target.talk(head.encode())) == 401, pair[:30]


def test_flood_of_bad_tokens(target):
    """Ten thousand requests with ten thousand different bad tokens."""
    head, claims, signature = target.daemon.token.split(".")
    caller = KeepAlive(target)
    path = target.bystander.path("files")
    before = target.daemon.memory("VmRSS")
    for i in range(10_000):
        forged = f"{head}.{claims}.{b64(i.to_bytes(64, 'big'))}" if i % 2 else f"x{i}.y.z"
        assert caller.ask("GET", path, token=forged)[0] == 401
    target.serves()
    assert target.daemon.memory("VmRSS") - before < 8 * MIB


def test_flood_of_identifiers(target):
    """A caller with a good token uses ten thousand identifiers of a pool for three sessions."""
    pool = target.daemon.make_pool(maximum=3, ready=1)
    try:
        caller = KeepAlive(target)
        body = json.dumps({"codeInputType": "Inline", "executionType": "Synchronous", "code": "1"})
        for i in range(3):
            path = pool.session(f"first-{i}").path("executions")
            assert caller.ask("POST", path, body, target.daemon.token)[0] == 200
        before = target.daemon.memory("VmRSS")
        for i in range(10_000):
            path = pool.session(f"flood-{i}").path("executions")
            status, answer = caller.ask("POST", path, body, target.daemon.token)
            assert status == 429 and b"SessionPoolCapacityReached" in answer
        target.serves()
        assert sorted(pool.identifiers()) == ["first-0", "first-1", "first-2"]
        assert target.daemon.memory("VmRSS") - before < 8 * MIB
    finally:
        pool.delete()


def test_flood_of_executions(target):
    """A caller queues executions in one session without end."""
    pool = target.daemon.make_pool(maximum=2, ready=1, limits={"queueLength": 20})
    try:
        session = pool.session()
        session.run("1")
        statuses = set()
        for _ in range(30):
            reply = session.post("import time; time.sleep(60)", executionType="Asynchronous")
            statuses.add(reply.status)
            if reply.status == 429:
                reply.error(429, "SessionQueueFull")
                break
        assert statuses == {202, 429}
        target.serves()
    finally:
        pool.delete()


def test_one_token_is_not_two_planes(target):
    """A data-plane token asks for the management plane, and the other way round."""
    arm = f"{target.victim.arm_path}?api-version={e2e.ARM_VERSION}"
    assert target.daemon.arm.request("DELETE", arm, token=target.daemon.token).status == 401
    files = target.bystander.path("files")
    assert target.bystander.pool.client.request("GET", files, token=target.daemon.arm_token).status == 401
    assert target.victim.arm("GET").status == 200


_DOTS = (400, "SessionRequestValidationFailed", "A file path may not contain")
_ABSENT = (404, "SessionFileNotFound", "does not exist below /mnt/data")
CLIMBS = {
    "..%2f": _DOTS,
    "../": _DOTS,
    "%2e%2e/": _DOTS,
    "..%252f": _ABSENT,  # decoded once: a name with a percent sign
    "%2fproc%2fself%2fcwd%2f": _ABSENT,
}


@pytest.mark.parametrize("name", ["issuer.jwk", "documents.db", "sessions.db"])
def test_secrets_are_not_served(target, name):
    """Paths climb to the daemon's own files."""
    target.bystander.upload(("there.txt", b"x")).ok()
    base, query = target.bystander.path("files").split("?")
    own = target.talk(target.head("GET", f"{base}/there.txt/content?{query}"))
    assert status_of(own) == 200, own[:200]
    for climb, refusal in CLIMBS.items():
        path = f"{base}/{climb * 8}state%2f{name}/content?{query}"
        answer = target.talk(target.head("GET", path))
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert (status_of(answer), error["code"]) == refusal[:2], answer[:400]
        assert refusal[2] in error["message"], error
        assert b"SQLite" not in answer and b"kty" not in answer
