# SPDX-License-Identifier: Apache-2.0
"""The contract with all known clients, points 8 to 10: multipart, downloads, times and types."""

import datetime
import os
import re
import time
import urllib.parse

import pytest

from conftest import NEW, OLD, OLD_VERSIONS, RawConnection
from wire import AUTH, Wire, chunks_of, form_of, last, part

BYTES = b"\r\n--X--\r\n--X\r\n\x00\xff\r\n--" + bytes(range(256)) + b"--X"
ENTRY = {"name", "type", "contentType", "sizeInBytes", "lastModifiedAt"}
OLD_ENTRY = {"$id", "filename", "size", "lastModifiedTime", "last_modified_time"}


@pytest.fixture
def wire(pool):
    w = Wire(pool)
    yield w
    pool.session(w.identifier).delete()


def upload(wire, body, content_type, where="files", query="", headers=(), version=NEW):
    more = [] if content_type is None else [("Content-Type", content_type)]
    query = f"identifier={wire.identifier}&api-version={version}{query}"
    return wire.send("POST", wire.target(where, query), [AUTH, *more, *headers], body)


def one(name, data=BYTES, boundary="b0unDary", content_type=None, head=None):
    """A form with one file, as most clients write it."""
    head = head or f'Content-Disposition: form-data; name="file"; filename="{name}"'
    if content_type:
        head += f"\r\nContent-Type: {content_type}"
    return form_of(head, data, boundary), f"multipart/form-data; boundary={boundary}"


def content(wire, path, version=NEW, query=""):
    query = f"identifier={wire.identifier}&api-version={version}{query}"
    return wire.send("GET", wire.target(path, query))


# --- 8: multipart ---


@pytest.mark.parametrize(
    "boundary, in_header",
    [
        ("X", "X"),
        ("X", '"X"'),
        ("with space", '"with space"'),
        ("----WebKitFormBoundaryePkpFF7tjBAqx29L", "----WebKitFormBoundaryePkpFF7tjBAqx29L"),
        ("----1731000000000", "----1731000000000"),
        ("'()+_,-./:=?", "\"'()+_,-./:=?\""),
        ("a" * 70, "a" * 70),
        ("X", "X; charset=utf-8"),
        ("X", 'X ; other="a;b"'),
    ],
)
def test_08_multipart_boundaries(wire, boundary, in_header):
    body, _ = one("f.bin", boundary=boundary, data=b"\r\n--" + os.urandom(50))
    for key in ("boundary", "Boundary", "BOUNDARY"):
        reply = upload(wire, body, f"multipart/form-data; {key}={in_header}").ok()
        assert reply.json["name"] == "f.bin" and reply.json["sizeInBytes"] == 54


@pytest.mark.parametrize(
    "disposition, name",
    [
        ('form-data; name="file"; filename="a.txt"', "a.txt"),
        ("form-data; name=file; filename=a.txt", "a.txt"),
        ("form-data; name=file; filename=a.txt; filename*=utf-8''a.txt", "a.txt"),
        ("form-data; name=file; filename=\"=?utf-8?B?w7w=?=\"; filename*=utf-8''%C3%BC.txt", "ü.txt"),
        ("form-data; name=\"file\"; filename*=UTF-8''a%20b%25.txt", "a b%.txt"),
        ('form-data; name="file"; filename="grüße ☃ 😀.txt"', "grüße ☃ 😀.txt"),
        ('form-data; filename="a.txt"; name="anything"', "a.txt"),
        ('form-data; filename="a.txt"', "a.txt"),
        ('FORM-DATA;NAME=file;FILENAME="a;b=c.txt"', "a;b=c.txt"),
        ('form-data; name="file"; filename="a\\"b.txt"', 'a"b.txt'),
        ('form-data; name="file"; filename="a#b?c&d.txt"', "a#b?c&d.txt"),
        ('attachment; name="file"; filename="a.txt"', "a.txt"),
    ],
)
def test_08_multipart_names(wire, disposition, name):
    body, content_type = one(None, head=f"Content-Disposition: {disposition}")
    assert upload(wire, body, content_type).ok().json["name"] == name
    properties = upload(wire, body, content_type, "files/upload", version=OLD).ok().json["value"][0]["properties"]
    assert properties["filename"] == name and properties["size"] == len(BYTES)
    assert content(wire, f"files/{urllib.parse.quote(name, safe='')}/content").ok().body == BYTES


@pytest.mark.parametrize(
    "head",
    [
        "Content-Disposition: form-data; name=file; filename=a.txt",
        "Content-Type: text/plain\r\nContent-Disposition: form-data; name=file; filename=a.txt",
        "Content-Disposition: form-data; name=file; filename=a.txt\r\nContent-Type: application/json",
        "content-type: image/png\r\nX-Other: 1\r\ncontent-disposition: form-data; name=file; filename=a.txt",
        "Content-Length: 999999\r\nContent-Disposition: form-data; name=file; filename=a.txt",
        "Content-Transfer-Encoding: binary\r\nContent-Disposition: form-data; name=file; filename=a.txt",
    ],
)
def test_08_multipart_part_headers_in_any_order(wire, head):
    body, content_type = one(None, head=head)
    assert upload(wire, body, content_type).ok().json["sizeInBytes"] == len(BYTES)
    assert content(wire, "files/a.txt/content").ok().body == BYTES


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "application/json; charset=utf-8",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=another",
        "application/octet-stream",
        "text/plain; boundary=b0unDary",
    ],
)
def test_08_multipart_boundary_is_sniffed(wire, content_type):
    body, _ = one("a.txt")
    reply = upload(wire, body, content_type)
    assert reply.ok().json["name"] == "a.txt"
    assert content(wire, "files/a.txt/content").ok().body == BYTES


@pytest.mark.parametrize("size", [1, 2, 3, 17, 4096])
def test_08_multipart_chunked(wire, size):
    body, content_type = one("a.bin")
    query = f"identifier={wire.identifier}&api-version={NEW}"
    head = wire.head(
        "POST",
        wire.target("files", query),
        [AUTH, ("Content-Type", content_type), ("Transfer-Encoding", "chunked")],
    )
    with RawConnection(wire.pool.client.address) as raw:
        raw.send(head + chunks_of(body, size))
        assert raw.reply().ok().json["sizeInBytes"] == len(BYTES)
    assert content(wire, "files/a.bin/content").ok().body == BYTES


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_08_multipart_expect_continue(wire, framing):
    body, content_type = one("a.bin")
    headers = [AUTH, ("Content-Type", content_type), ("Expect", "100-continue")]
    if framing == "chunked":
        headers.append(("Transfer-Encoding", "chunked"))
        body = chunks_of(body, 1000)
    head = wire.head("POST", wire.target("files", f"identifier={wire.identifier}"), headers, len(body))
    with RawConnection(wire.pool.client.address) as raw:
        raw.send(head)
        interim = b""
        while not interim.endswith(b"\r\n\r\n"):
            interim += raw.socket.recv(1)
        assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.send(body)
        assert raw.reply().ok().json["name"] == "a.bin"
    assert content(wire, "files/a.bin/content").ok().body == BYTES


def test_08_multipart_expect_continue_without_waiting(wire):
    """Clients may send the body at once."""
    body, content_type = one("a.bin")
    headers = [AUTH, ("Content-Type", content_type), ("Expect", "100-continue")]
    reply = wire.send("POST", wire.target("files", f"identifier={wire.identifier}"), headers, body)
    if reply.status == 100:
        pytest.fail("the interim reply was taken for the final one")
    assert reply.ok().json["sizeInBytes"] == len(BYTES)


@pytest.mark.parametrize("data", [b"", b"\r\n", b"--", b"\r\n--b0unDar", b"\r\n--b0unDary-", b"x" * 70000])
def test_08_multipart_data(wire, data):
    body, content_type = one("a.bin", data)
    assert upload(wire, body, content_type).ok().json["sizeInBytes"] == len(data)
    assert content(wire, "files/a.bin/content").ok().body == data


@pytest.mark.parametrize(
    "filename, name, where",
    [
        ("/mnt/data/a.txt", "a.txt", "a.txt"),
        ("//mnt//data//a.txt", "a.txt", "a.txt"),
        ("/mnt/data/d/a.txt", "d/a.txt", "d/a.txt"),
        ("/data/a.txt", "a.txt", "a.txt"),
        ("d/e/a.txt", "d/e/a.txt", "d/e/a.txt"),
        ("/a.txt", "a.txt", "a.txt"),
        ("mnt/data/a.txt", "mnt/data/a.txt", "mnt/data/a.txt"),
    ],
)
def test_08_multipart_names_with_directories(wire, filename, name, where):
    """The old reply has the name below /mnt/data, the new one its last part."""
    body, content_type = one(filename)
    old = upload(wire, body, content_type, "files/upload", version=OLD).ok().json
    assert old["value"][0]["properties"]["filename"] == name
    assert upload(wire, body, content_type).ok().json["name"] == name.rpartition("/")[2]
    code = f"open('/mnt/data/{where}', 'rb').read() == {BYTES!r}"
    assert wire.execute(code)["result"]["executionResult"] is True


@pytest.mark.parametrize(
    "filename", ["../a", "..", "d/../../a", "/mnt/data/../x", "/mnt/data/", "", ".", "a\\b", "x" * 256]
)
def test_08_multipart_names_that_are_refused(wire, filename):
    body, content_type = one(None, head=f'Content-Disposition: form-data; name="file"; filename="{filename}"')
    message = upload(wire, body, content_type).error(400, "SessionRequestValidationFailed")["message"]
    assert "file" in message and "400" in message
    assert content(wire, "files").ok().json["value"] == []


@pytest.mark.parametrize(
    "body, content_type, word",
    [
        (b"", "multipart/form-data; boundary=X", "boundary"),
        (b"--X--\r\n", "multipart/form-data; boundary=X", "file"),
        (b"just bytes", "application/octet-stream", "multipart/form-data"),
        (b'{"a":1}', "application/json", "multipart/form-data"),
        (
            b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nno end',
            "multipart/form-data; boundary=X",
            "boundary",
        ),
        (
            b'--X\r\nContent-Disposition: form-data; name="field"\r\n\r\nvalue\r\n--X--\r\n',
            "multipart/form-data; boundary=X",
            "filename",
        ),
    ],
)
def test_08_multipart_broken_forms(wire, body, content_type, word):
    message = upload(wire, body, content_type).error(400)["message"]
    assert word in message and "400" in message


def test_08_multipart_two_files(wire):
    body = part('Content-Disposition: form-data; name="file"; filename="1"', b"one", "X")
    body += part('Content-Disposition: form-data; name="file"; filename="2"', b"two!", "X") + last("X")
    content_type = "multipart/form-data; boundary=X"
    old = upload(wire, body, content_type, "files/upload", version=OLD).ok().json["value"]
    assert [(e["properties"]["filename"], e["properties"]["size"]) for e in old] == [("1", 3), ("2", 4)]
    new = upload(wire, body, content_type).ok().json["value"]
    assert [(e["name"], e["sizeInBytes"]) for e in new] == [("1", 3), ("2", 4)]


def test_08_multipart_over_the_limit_is_413(make_pool):
    wire = Wire(make_pool(limits={"maxUploadSizeInBytes": 1000}))
    body, content_type = one("at", b"x" * 1000)
    upload(wire, body, content_type).ok()
    body, content_type = one("over", b"x" * 1001)
    message = upload(wire, body, content_type).error(413, "RequestEntityTooLarge")["message"]
    assert "413" in message and "1000" in message and "maxUploadSizeInBytes" in message
    assert [e["name"] for e in content(wire, "files").ok().json["value"]] == ["at"]


def test_08_multipart_default_limit_is_128_mib(wire):
    """The head alone is refused."""
    headers = [AUTH, ("Content-Type", "multipart/form-data; boundary=X"), ("Content-Length", str(140 << 20))]
    with RawConnection(wire.pool.client.address) as raw:
        raw.send(wire.head("POST", wire.target("files", f"identifier={wire.identifier}"), headers))
        assert str(128 << 20) in raw.reply().error(413)["message"]


@pytest.mark.parametrize("where", ["files/upload", "python/uploadFile"])
@pytest.mark.parametrize("version", OLD_VERSIONS)
def test_08_multipart_reply_of_old_versions(wire, where, version):
    body, content_type = one("a.txt")
    document = upload(wire, body, content_type, where, version=version).ok().json
    assert set(document) == {"$id", "value"} and len(document["value"]) == 1
    assert set(document["value"][0]) == {"$id", "properties"}
    assert set(document["value"][0]["properties"]) == OLD_ENTRY


def test_08_multipart_reply_of_new_versions(wire):
    body, content_type = one("a.txt")
    document = upload(wire, body, content_type).ok().json
    assert set(document) == ENTRY
    assert (document["type"], document["contentType"]) == ("file", "text/plain; charset=utf-8")


# --- 9: downloads ---

NESTED = "import os\nos.makedirs('d/content')\nopen('d/f.txt', 'w').write('nested')\nopen('d/content/g', 'w').write('deep');"


@pytest.mark.parametrize(
    "path, body",
    [
        ("files/d%2Ff.txt/content", b"nested"),
        ("files/d%2ff.txt/content", b"nested"),
        ("files/d/f.txt/content", b"nested"),
        ("files/content/d/f.txt", b"nested"),
        ("files/content/d%2Ff.txt", b"nested"),
        ("files/content/d/f.txt/content", b"nested"),
        ("files//content//d//f.txt", b"nested"),
        ("files/%2Fmnt%2Fdata%2Fd%2Ff.txt/content", b"nested"),
        ("files/content//mnt/data/d/f.txt", b"nested"),
        ("Files/d/f.txt/Content", b"nested"),
        ("files/d%2Fcontent%2Fg/content", b"deep"),
        ("files/d/content/g/content", b"deep"),
        ("files/content/d/content/g", b"deep"),
        ("files//mnt/data/d/f.txt/content", b"nested"),
    ],
)
def test_09_downloads_of_names_with_directories(wire, path, body):
    wire.execute(NESTED)
    for version in (OLD, NEW):
        reply = content(wire, path, version).ok()
        assert reply.body == body and reply.headers["Content-Length"] == str(len(body))


def test_09_downloads_from_a_directory_called_content(wire):
    """`content%2Ff.txt` is one segment, so a name and not the word of the path."""
    wire.execute("import os\nos.mkdir('content')\nopen('content/f.txt', 'w').write('inside');")
    assert content(wire, "files/content%2Ff.txt/content").ok().body == b"inside"
    assert content(wire, "files/content/content/f.txt").ok().body == b"inside"
    assert content(wire, "files/content%2Ff.txt").ok().json["name"] == "f.txt"
    assert content(wire, "files/f.txt/content", query="&path=content").ok().body == b"inside"


@pytest.mark.parametrize(
    "name, sent",
    [
        ("a b.txt", "a%20b.txt"),
        ("a b.txt", "a b.txt"),
        ("grüße.txt", "gr%C3%BC%C3%9Fe.txt"),
        ("grüße.txt", "gr%c3%bc%c3%9fe.txt"),
        ("grüße.txt", "grüße.txt"),
        ("a%20b.txt", "a%2520b.txt"),
        ("100%.txt", "100%25.txt"),
        ("100%.txt", "100%.txt"),
        ("a+b.txt", "a+b.txt"),
        ("a+b.txt", "a%2Bb.txt"),
        ("a#b?c.txt", "a%23b%3Fc.txt"),
        ("a#b.txt", "a#b.txt"),
        ("a&b=c;d.txt", "a&b=c;d.txt"),
        ("a'b(c)!.txt", "a'b(c)!.txt"),
        ('a"b<c>|.txt', 'a"b<c>|.txt'),
    ],
)
def test_09_downloads_raw_and_encoded(wire, name, sent):
    body, content_type = one(None, name.encode(), head=f"Content-Disposition: form-data; filename*=utf-8''{urllib.parse.quote(name, safe='')}")
    upload(wire, body, content_type).ok()
    for path in (f"files/{sent}/content", f"files/content/{sent}"):
        assert content(wire, path).ok().body == name.encode()
    assert content(wire, f"files/{sent}").ok().json["name"] == name


@pytest.mark.parametrize("cut", ["?rest.txt", "#rest.txt"])
def test_09_downloads_whose_name_was_cut_by_the_client(wire, cut):
    """What a client makes of `a?b.txt` that it did not encode: the rest is a query, or never sent."""
    wire.execute("open('a', 'w').close()")
    query = "" if cut[0] == "#" else f"{cut}?api-version={OLD}&identifier={wire.identifier}"
    reply = wire.send("GET", f"{wire.base}/files/content/name{query}")
    if cut[0] == "#":
        assert "identifier" in reply.error(400)["message"]
    else:
        assert "404" in reply.error(404, "SessionFileNotFound")["message"]


@pytest.mark.parametrize("path", ["files/none.txt/content", "files/content/none.txt", "files/none.txt", "python/downloadFile"])
@pytest.mark.parametrize("version", [OLD, NEW])
def test_09_missing_files_are_404_in_the_body_too(wire, path, version):
    """langchain4j looks for 404 in the text, and fails on an empty one."""
    query = "&filename=none.txt" if path.startswith("python") else ""
    reply = content(wire, path, version, query)
    error = reply.error(404, "SessionFileNotFound")
    assert "404" in error["message"] and "none.txt" in error["message"]
    assert set(reply.json) == {"error"} and set(error) == {"code", "message", "traceId"}


def test_09_missing_files_are_named_as_the_caller_wrote_them(wire):
    for name in ("grüße ☃.txt", "d/" + "ü" * 100 + ".txt"):
        quoted = urllib.parse.quote(name, safe="")
        for path in (f"files/{quoted}/content", f"files/{quoted}"):
            assert f"'{name}'" in content(wire, path).error(404, "SessionFileNotFound")["message"]
    long = "/".join(["ü" * 120] * 3)
    message = content(wire, f"files/{urllib.parse.quote(long, safe='')}").error(404)["message"]
    assert "'" + long[:120] in message and "404" in message


def test_09_content_is_a_name_where_nothing_is_downloaded(wire):
    wire.execute(NESTED)
    query = f"identifier={wire.identifier}&api-version={NEW}"
    assert wire.send("DELETE", wire.target("files/d/content", query)).status == 409  # not empty
    assert wire.send("DELETE", wire.target("files/d/content/g", query)).status == 204
    assert wire.send("DELETE", wire.target("files/d/content", query)).status == 204
    assert [e["name"] for e in content(wire, "files", query="&path=d").ok().json["value"]] == ["f.txt"]


def test_09_missing_files_cannot_be_deleted(wire):
    query = f"identifier={wire.identifier}&api-version={NEW}"
    reply = wire.send("DELETE", wire.target("files/none.txt", query))
    assert "404" in reply.error(404, "SessionFileNotFound")["message"]


@pytest.mark.parametrize(
    "name, content_type",
    [
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.csv", "text/csv; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.bin", "application/octet-stream"),
        ("noext", "application/octet-stream"),
    ],
)
def test_09_downloads_are_exact(wire, name, content_type):
    data = os.urandom(100_000)
    body, form_type = one(name, data)
    upload(wire, body, form_type).ok()
    for path in (f"files/{name}/content", f"files/content/{name}"):
        reply = content(wire, path).ok()
        assert reply.body == data and reply.headers["Content-Length"] == "100000"
        assert reply.headers["Content-Type"] == content_type
        assert "Transfer-Encoding" not in reply.headers and "Content-Encoding" not in reply.headers


def test_09_download_of_an_empty_file(wire):
    wire.execute("open('empty', 'w').close()")
    reply = content(wire, "files/empty/content").ok()
    assert reply.body == b"" and reply.headers["Content-Length"] == "0"


# --- 10: times and types ---


def parse(text, digits):
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,%d}Z" % digits, text), text
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.timezone.utc).timestamp()


def test_10_times_of_files(wire):
    before = time.time()
    body, content_type = one("a.txt")
    new = upload(wire, body, content_type).ok().json
    old = upload(wire, body, content_type, "files/upload", version=OLD).ok().json["value"][0]["properties"]
    assert old["lastModifiedTime"] == old["last_modified_time"]
    for text in (new["lastModifiedAt"], old["lastModifiedTime"]):
        assert before - 1 <= parse(text, 7) <= time.time() + 1
    listed = content(wire, "files").ok().json["value"][0]
    assert listed["lastModifiedAt"] == content(wire, "files/a.txt").ok().json["lastModifiedAt"]
    flat = content(wire, "python/files", "2023-08-01-preview").ok().json
    assert set(flat) >= {"$id", "$values"}
    assert parse(flat["$values"][0]["last_modified_time"], 7) == parse(listed["lastModifiedAt"], 7)


def test_10_times_of_sessions_and_pools(wire):
    before = time.time()
    wire.execute("1")
    session = content(wire, "session").ok().json
    assert set(session) == {"identifier", "createdAt", "lastAccessedAt", "expireAt", "etag"}
    assert before - 1 <= parse(session["createdAt"], 7) <= parse(session["lastAccessedAt"], 7) <= time.time() + 1
    assert parse(session["expireAt"], 7) > time.time()
    metadata = content(wire, "metadata").ok().json
    assert parse(metadata["createdAt"], 7) <= parse(metadata["lastUpdatedAt"], 7) <= before + 1


def test_10_types_of_files_and_directories(wire):
    wire.execute("import os\nos.mkdir('d')\nopen('d/f.txt', 'w').write('xy')\nopen('a.txt', 'w').write('x');")
    listed = content(wire, "files", query="&recursive=true").ok().json["value"]
    assert all(set(e) == ENTRY | {"directory"} for e in listed)
    assert [(e["directory"], e["name"], e["type"], e["contentType"]) for e in listed] == [
        ("", "a.txt", "file", "text/plain; charset=utf-8"),
        ("", "d", "directory", "application/octet-stream"),
        ("d", "f.txt", "file", "text/plain; charset=utf-8"),
    ]
    assert [type(e["sizeInBytes"]) for e in listed] == [int] * 3
    (old,) = content(wire, "files", OLD).ok().json["value"]  # files only
    assert set(old["properties"]) == OLD_ENTRY and old["properties"]["filename"] == "a.txt"


def test_10_lists_have_names_in_order_and_nothing_else(wire):
    for name in ("test_file_3.txt", "test_file_1.txt", "test_file_2.txt", ".hidden"):
        upload(wire, *one(name)).ok()
    names = [e["name"] for e in content(wire, "files").ok().json["value"]]
    assert names == [".hidden", "test_file_1.txt", "test_file_2.txt", "test_file_3.txt"]
    assert len(content(wire, "files", OLD).ok().json["value"]) == 4
