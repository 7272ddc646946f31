# SPDX-License-Identifier: Apache-2.0
"""Requests that are too large, too deep, too many or meant to be read two ways."""

import gzip
import json
import pathlib
import socket
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from daemon_target import MIB, receive, status_of, target, unharmed  # noqa: E402, F401

HEAD_MAX = 32 * 1024
BODY_MAX = 8 * MIB  # --body-max
DROPPED_MAX = 16 * MIB  # what a refused client may go on sending
DEPTH_MAX = 64
VALUES_MAX = 10_000


def send_until_refused(target, head, chunk, most):
    """Sends chunk over and over; (bytes sent, what came back)."""
    sent = 0
    with target.connect(head) as s:
        try:
            while sent < most:
                s.sendall(chunk)
                sent += len(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        return sent, receive(s)


# --- heads ---


def test_endless_headers(target):
    """A head has headers without end, many small ones or one large one."""
    for chunk in (b"X-A: b\r\n" * 1000, b"x" * 8000):
        head = b"GET /health HTTP/1.1\r\nHost: h\r\nY: "
        sent, answer = send_until_refused(target, head, chunk, 64 * MIB)
        assert sent < 16 * MIB
        assert status_of(answer) in (431, 413, None), answer[:200]


def test_ten_thousand_headers(target):
    """A head has ten thousand headers."""
    headers = b"".join(b"X-%d: a\r\n" % i for i in range(10_000))
    answer = target.talk(b"GET /health HTTP/1.1\r\nHost: h\r\n" + headers + b"\r\n")
    assert status_of(answer) in (431, None), answer[:200]


def test_largest_head_and_one_past_it(target):
    """A header is as large as a whole head may be; half of that is fine."""
    for size, expected in ((HEAD_MAX // 2, 200), (HEAD_MAX, 431)):
        answer = target.talk(b"GET /health HTTP/1.1\r\nHost: h\r\nX: " + b"a" * size + b"\r\n\r\n")
        assert status_of(answer) == expected, (size, answer[:200])


def test_long_target(target):
    """The path of a request is as large as a whole head may be."""
    for size, expected in ((HEAD_MAX // 4, 404), (HEAD_MAX, 414)):
        answer = target.talk(b"GET /" + b"a" * size + b" HTTP/1.1\r\nHost: h\r\n\r\n")
        assert status_of(answer) == expected, (size, answer[:200])


SMUGGLING = {
    "length and chunked": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "list of lengths": b"Content-Length: 5, 5\r\n\r\nhello",
    "signed length": b"Content-Length: +5\r\n\r\nhello",
    "hexadecimal length": b"Content-Length: 0x5\r\n\r\nhello",
    "empty length": b"Content-Length:\r\n\r\n",
    "unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "several codings": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "blank before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded line": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "folded line of another header": b"X: a\r\n b\r\nY: c\r\n\r\n",
    "bare LF": b"X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare CR": b"X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare LF at the end": b"X: a\r\n\n",
    "bare LF before the end": b"X: a\n\r\n",
    "NUL in a value": b"X: a\0b\r\nY: c\r\n\r\n",
    "NUL in the last value": b"X: a\0b\r\n\r\n",
    "NUL in a name": b"X\0Y: a\r\n\r\n",
    "line without a colon": b"hello\r\n\r\n",
    "two hosts": b"Host: other\r\n\r\n",
}


@pytest.mark.parametrize("shape", SMUGGLING)
def test_request_smuggling(target, shape):
    """A head that a proxy and the daemon could end at different places hides a second request."""
    answer = target.talk(
        b"GET /health HTTP/1.1\r\nHost: h\r\n"
        + SMUGGLING[shape]
        + b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    assert status_of(answer) == 400
    assert b"healthy" not in answer


@pytest.mark.parametrize(
    "chunk", [b"-1\r\n", b"fffffffffffffffff\r\n", b"0x5\r\nhello\r\n", b"g\r\n", b"1" * 70_000]
)
def test_bad_chunk_sizes(target, chunk):
    """A chunk's size is negative, larger than any number, or no number."""
    head = target.head("POST", target.bystander.path("executions"), Transfer_Encoding="chunked")
    answer = target.talk(head + chunk + b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
    assert status_of(answer) in (400, 413, None)
    assert b"healthy" not in answer


GARBAGE = {
    "TLS hello": bytes.fromhex("160301020001fc0303") + bytes(range(256)) * 4,
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "HTTP/3 version": b"GET /health HTTP/3.0\r\nHost: h\r\n\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "zeros": bytes(100_000),
    "all bytes": bytes(range(256)) * 400,
    "line breaks": b"\r\n" * 50_000,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "PROXY protocol": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /health HTTP/1.1\r\nHost: h\r\n\r\n",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_other_protocols(target, what):
    """A client speaks something else than HTTP/1."""
    answer = target.talk(GARBAGE[what])
    assert status_of(answer) in (400, 405, 413, 414, 431, 505, None), answer[:200]
    assert b"healthy" not in answer


@pytest.mark.parametrize(
    "extra",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\n",
        b"Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n",
    ],
)
def test_upgrades_are_not_taken_up(target, extra):
    """A client asks to go on in another protocol: it is answered in this one."""
    answer = target.talk(b"GET /health HTTP/1.1\r\nHost: h\r\n" + extra + b"\r\n")
    assert status_of(answer) == 200 and b"healthy" in answer


@pytest.mark.parametrize(
    "first",
    [
        b"GET http://evil.example/health HTTP/1.1\r\nHost: h",
        b"GET http:///health HTTP/1.1\r\nHost: h",
        b"GET http://user:pass@evil.example:99999/health HTTP/1.1\r\nHost: h",
        b"GET /health HTTP/1.1\r\nHost: a b@c/../\"<script>",
        b"GET /health HTTP/1.1\r\nHost: " + b"h" * 5000,
        b"GET /health HTTP/1.1\r\nHost:",
        b"OPTIONS * HTTP/1.1\r\nHost: h",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: h",
        b"TRACE /health HTTP/1.1\r\nHost: h",
        b"GET /%00/../health HTTP/1.1\r\nHost: h",
        b"GET //evil.example/health HTTP/1.1\r\nHost: h",
    ],
)
def test_odd_hosts_and_targets(target, first):
    """The Host header or the target names somebody else: the daemon fetches nothing and repeats nothing."""
    answer = target.talk(first + b"\r\n\r\n")
    assert status_of(answer) in (200, 400, 404, 405), answer[:200]
    if status_of(answer) == 200:
        assert b"evil" not in answer and b"script" not in answer


def test_host_of_links_is_harmless(target):
    """A Host header with markup does not come back in the links of an ARM answer."""
    path = target.pool.arm_path.rsplit("/", 1)[0] + "?api-version=2025-07-01"
    head = target.head("GET", path, token=target.daemon.arm_token)
    answer = target.talk(head.replace(b"Host: h", b'Host: evil"><script>'))
    assert status_of(answer) == 200 and b"<script>" not in answer


# --- bodies ---


def routes(target):
    multipart = "multipart/form-data; boundary=b"
    return {
        "execute": ("POST", target.bystander.path("executions"), "application/json", True),
        "upload": ("POST", target.bystander.path("files"), multipart, True),
        "ARM": (
            "PUT",
            f"{target.victim.arm_path}?api-version=2025-07-01",
            "application/json",
            target.daemon.arm_token,
        ),
    }


@pytest.mark.parametrize("with_token", [False, True])
@pytest.mark.parametrize("kind", ["execute", "upload", "ARM"])
def test_endless_chunked_body(target, kind, with_token):
    """A chunked body never ends."""
    method, path, content_type, token = routes(target)[kind]
    head = target.head(
        method, path, token if with_token else False, Transfer_Encoding="chunked", Content_Type=content_type
    )
    if kind == "upload":
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        head += b"%x\r\n%s\r\n" % (len(part), part)
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    sent, answer = send_until_refused(target, head, chunk, 512 * MIB)
    assert sent < 512 * MIB
    if not with_token:
        assert sent < DROPPED_MAX + 12 * MIB  # and what sockets hold
        assert status_of(answer) in (401, None), answer[:300]
    elif kind == "upload":
        assert status_of(answer) in (413, 507, None), answer[:300]
    else:
        assert sent < BODY_MAX + DROPPED_MAX + 12 * MIB
        assert status_of(answer) in (413, None), answer[:300]


@pytest.mark.parametrize("kind", ["execute", "ARM"])
def test_deep_json(target, kind):
    """JSON nests deeper than the limit: sixty-four levels are parsed, one more is refused as such."""
    method, path, content_type, token = routes(target)[kind]
    for depth in (DEPTH_MAX, DEPTH_MAX + 1, 100_000, 2_000_000):
        body = b'{"location": "local", "tags":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
        head = target.head(
            method, path, token, Content_Length=len(body), Content_Type=content_type
        )
        answer = target.talk(head + body)
        assert status_of(answer) == 400
        assert (b"nests deeper than 64" in answer) == (depth > DEPTH_MAX), answer


@pytest.mark.parametrize("kind", ["execute", "ARM"])
def test_number_of_json_values(target, kind):
    """JSON has more values than the limit: as many are parsed, one more is refused as such."""
    method, path, content_type, token = routes(target)[kind]
    for count in (VALUES_MAX, VALUES_MAX + 1):
        # The object, its two members, the array's items.
        body = b'{"tags": 5, "x": [' + b",".join([b"0"] * (count - 3)) + b"]}"
        head = target.head(
            method, path, token, Content_Length=len(body), Content_Type=content_type
        )
        answer = target.talk(head + body)
        assert status_of(answer) == 400
        assert (b"more than 10000 values" in answer) == (count > VALUES_MAX), answer


@pytest.mark.parametrize("kind", ["execute", "ARM"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"code": "1", "code": "2"}',
        b"{" + b",".join(b'"k%d": %d' % (i, i) for i in range(400_000)) + b"}",
        b'{"timeoutInSeconds": ' + b"9" * 4_000_000 + b"}",
        b'{"timeoutInSeconds": 1e' + b"9" * 1000 + b"}",
        b'{"' + b"k" * 4_000_000 + b'": 1}',
        b'{"x": "' + b"\\u0041" * 1_000_000 + b'"}',
        b'{"x": [' + b"0," * 2_000_000 + b"0]}",
        b'{"x": [' + b"{}," * 2_000_000 + b"0]}",
    ],
    ids=["twice", "members", "digits", "exponent", "key", "escapes", "numbers", "objects"],
)
def test_wasteful_json(target, kind, body):
    """JSON within the size limit that takes a parser many times its size, or time, or is ambiguous."""
    method, path, content_type, token = routes(target)[kind]
    head = target.head(method, path, token, Content_Length=len(body), Content_Type=content_type)
    answer = target.talk(head + body)
    # Members nobody knows are dropped by ARM, as by the real service; all else is refused.
    assert status_of(answer) in ((200, 400) if kind == "ARM" else (400,)), answer[:300]


def test_compressed_bodies_are_not_unpacked(target):
    """A body of some kilobytes would unpack to a hundred megabytes."""
    bomb = gzip.compress(b'{"code": "' + b" " * (100 * MIB) + b'"}', 9)
    for encoding in ("gzip", "deflate", "br", "gzip, gzip"):
        head = target.head(
            "POST",
            target.bystander.path("executions"),
            Content_Length=len(bomb),
            Content_Type="application/json",
            Content_Encoding=encoding,
        )
        answer = target.talk(head + bomb)
        assert status_of(answer) in (400, 415), answer[:300]


# --- multipart ---


def upload(target, body_start, chunk, most):
    head = target.head(
        "POST",
        target.bystander.path("files"),
        Transfer_Encoding="chunked",
        Content_Type="multipart/form-data; boundary=b",
    )
    framed = b"%x\r\n%s\r\n" % (len(chunk), chunk)
    return send_until_refused(
        target, head + b"%x\r\n%s\r\n" % (len(body_start), body_start), framed, most
    )


def test_a_million_parts(target):
    """An upload has parts without end."""
    part = b"--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n"
    sent, answer = upload(target, part, part * 1000, 256 * MIB)
    assert sent < 64 * MIB
    assert status_of(answer) in (400, 413, None), answer[:300]


def test_endless_part_header(target):
    """The header of a part never ends."""
    sent, answer = upload(target, b"--b\r\nContent-Disposition: ", b"a" * 65536, 256 * MIB)
    assert sent < 64 * MIB
    assert status_of(answer) in (400, 413, None), answer[:300]


def test_endless_part_headers(target):
    """A part has headers without end."""
    sent, answer = upload(target, b"--b\r\n", b"X: y\r\n" * 10_000, 256 * MIB)
    assert sent < 64 * MIB
    assert status_of(answer) in (400, 413, None), answer[:300]


def test_body_of_almost_boundaries(target):
    """An upload consists of beginnings of its boundary."""
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    sent, answer = upload(target, start, b"\r\n--\r\n-\r\r\n--B" * 5000, 512 * MIB)
    assert sent < 512 * MIB
    assert status_of(answer) in (400, 413, 507, None), answer[:300]
