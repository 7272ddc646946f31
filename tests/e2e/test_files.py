# SPDX-License-Identifier: Apache-2.0
"""Files: both shapes, every spelling of paths and forms that clients use, limits, hostile input."""

import hashlib
import http.client
import json
import os
import re
import urllib.parse

import pytest

from conftest import NEW, NEW_VERSIONS, OLD, OLD_VERSIONS, Background, form, wait_for

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z")
MIB = 1 << 20


def everything(session):
    """All paths below /mnt/data, as the session itself sees them."""
    code = (
        "import os\n"
        "sorted(os.path.relpath(os.path.join(d, n), '/mnt/data')"
        " for d, ds, fs in os.walk(b'/mnt/data'.decode()) for n in ds + fs)"
    )
    return session.value(code)


def post(session, body, content_type, version=NEW, where="files", **query):
    headers = {"Content-Type": content_type} if content_type else {"Content-Type": ""}
    return session.call("POST", where, body, version, headers, query)


def part(disposition, data, boundary="X", more=""):
    return (
        f"--{boundary}\r\n{disposition}\r\n{more}\r\n".encode()
        + data
        + f"\r\n--{boundary}--\r\n".encode()
    )


# --- both shapes ---


@pytest.mark.parametrize("version", NEW_VERSIONS)
def test_new_shape(session, version):
    data = b"hello\n"
    entry = session.upload(("cert.txt", data), version=version).ok().json
    listing = session.call("GET", "files", version=version).ok().json
    assert listing["nextLink"] is None
    meta = session.call("GET", "files/cert.txt", version=version).ok().json
    for found in (entry, meta, listing["value"][0]):
        found.pop("$id", None)
        assert found["name"] == "cert.txt"
        assert found["type"] == "file"
        assert found["contentType"] == "text/plain; charset=utf-8"
        assert found["sizeInBytes"] == 6
        assert TIME.fullmatch(found["lastModifiedAt"])
    assert len(listing["value"]) == 1
    content = session.call("GET", "files/cert.txt/content", version=version).ok()
    assert content.body == data and content.headers["Content-Length"] == "6"
    reply = session.call("DELETE", "files/cert.txt", version=version)
    assert (reply.status, reply.body) == (204, b"")
    assert session.names() == []
    session.call("GET", "files/cert.txt", version=version).error(404, "SessionFileNotFound")
    session.call("GET", "files/cert.txt/content", version=version).error(404, "SessionFileNotFound")
    session.call("DELETE", "files/cert.txt", version=version).error(404, "SessionFileNotFound")


@pytest.mark.parametrize("version", OLD_VERSIONS)
def test_old_shape(session, version):
    data = b"1234567890123456"
    uploaded = session.upload(("test1.txt", data), version=version).ok().json
    listed = session.call("GET", "files", version=version).ok().json
    meta = session.call("GET", "files/test1.txt", version=version).ok().json
    for envelope in (uploaded, listed, meta):
        assert set(envelope) <= {"$id", "value", "nextLink"}
        (entry,) = envelope["value"]
        assert set(entry) <= {"$id", "properties"}
        properties = entry["properties"]
        assert properties["filename"] == "test1.txt"
        assert properties["size"] == 16
        assert TIME.fullmatch(properties["lastModifiedTime"])
    assert session.call("GET", "files/content/test1.txt", version=version).ok().body == data
    assert session.call("DELETE", "files/test1.txt", version=version).ok().json["message"]
    assert session.call("GET", "files", version=version).ok().json["value"] == []


def test_oldest_form(session):
    body, content_type = form(("a.txt", b"oldest"))
    post(session, body, content_type, OLD_VERSIONS[0], "python/uploadFile").ok()
    listed = session.call("GET", "python/files", version=OLD_VERSIONS[0]).ok().json
    assert "a.txt" in json.dumps(listed)
    for name in ("a.txt", "/mnt/data/a.txt"):
        reply = session.call(
            "GET", "python/downloadFile", version=OLD_VERSIONS[0], query={"filename": name}
        )
        assert reply.ok().body == b"oldest"
    session.call("GET", "python/downloadFile", version=OLD_VERSIONS[0]).error(400)


def test_no_version_is_new_shape_for_the_listing(session):
    session.upload(("a", b"")).ok()
    assert session.call("GET", "files", version=None).ok().json["value"][0]["name"] == "a"


def test_path_form(session):
    base = f"{session.pool.path}/identifier/{session.identifier}/files"
    body, content_type = form(("a.txt", b"path form"))
    session.pool.client.request("POST", base, body, {"Content-Type": content_type}).ok()
    assert session.pool.client.request("GET", f"{base}/a.txt/content").ok().body == b"path form"


def test_fresh_identifier_has_an_empty_list(pool):
    session = pool.session()
    assert session.list() == []
    assert session.identifier in pool.identifiers()
    session.delete().ok(204)


def test_listing_has_exactly_the_uploaded_files(session):
    session.run("import numpy, matplotlib.pyplot, os; os.getcwd()")
    names = [f"test_file_{i}.txt" for i in (1, 2, 3, 4)]
    for name in reversed(names):
        session.upload((name, name.encode())).ok()
    assert session.names() == names
    old = session.call("GET", "files", version=OLD).ok().json["value"]
    assert [entry["properties"]["filename"] for entry in old] == names


def test_files_and_code_see_each_other(session):
    session.upload(("in.bin", bytes(range(256)))).ok()
    session.run(
        "data = open('/mnt/data/in.bin', 'rb').read()\nopen('out.bin', 'wb').write(data[::-1]);"
    )
    assert session.download("out.bin").ok().body == bytes(range(256))[::-1]
    assert session.names() == ["in.bin", "out.bin"]


def test_overwrite_replaces_as_a_whole(session):
    session.upload(("f", b"long content")).ok()
    session.run("f = open('f')")
    session.upload(("f", b"new")).ok()
    assert session.download("f").ok().body == b"new"
    # Who had it open reads on in the old one.
    assert session.value("f.read()") == "long content"


def test_uploaded_files_belong_to_the_user(session):
    session.upload(("f", b"1"), path="new/dir").ok()
    code = "import os; s = os.stat('new/dir/f'); (s.st_uid == os.getuid(), oct(s.st_mode & 0o777), os.access('new/dir', os.W_OK))"
    assert session.value(code) == "(True, '0o644', True)"


def test_head(session):
    session.upload(("f.txt", b"12345")).ok()
    reply = session.call("HEAD", "files/f.txt/content").ok()
    assert reply.headers["Content-Length"] == "5" and reply.body == b""


@pytest.mark.parametrize(
    "name, content_type",
    [
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.CSV", "text/csv; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.png", "image/png"),
        ("a.unknown", "application/octet-stream"),
        ("noextension", "application/octet-stream"),
    ],
)
def test_content_type(session, name, content_type):
    assert session.upload((name, b"x")).ok().json["contentType"] == content_type
    reply = session.download(name).ok()
    assert reply.headers["Content-Type"] == content_type
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


# --- paths ---


@pytest.mark.parametrize("path", [None, "", "/", "/mnt/data", "/mnt/data/", "/data", "//"])
def test_path_of_the_root(session, path):
    query = {} if path is None else {"path": path}
    assert session.upload(("f.txt", b"root"), path=path).ok().json["name"] == "f.txt"
    assert everything(session) == "['f.txt']"
    assert session.names(**query) == ["f.txt"]
    assert session.call("GET", "files/f.txt", query=query).ok().json["sizeInBytes"] == 4
    assert session.call("GET", "files/f.txt/content", query=query).ok().body == b"root"
    session.call("DELETE", "files/f.txt", query=query).ok(204)


@pytest.mark.parametrize(
    "path", ["sub/dir", "/sub/dir", "sub/dir/", "/mnt/data/sub/dir", "sub//dir", "/data/sub/dir"]
)
def test_path_of_a_sub_directory(session, path):
    entry = session.upload(("f.txt", b"deep"), path=path).ok().json
    assert entry["name"] == "f.txt"
    assert everything(session) == "['sub', 'sub/dir', 'sub/dir/f.txt']"
    assert session.names(path=path) == ["f.txt"]
    assert session.call("GET", "files/f.txt", query={"path": path}).ok().json["name"] == "f.txt"
    assert session.call("GET", "files/f.txt/content", query={"path": path}).ok().body == b"deep"
    session.call("DELETE", "files/f.txt", query={"path": path}).ok(204)
    assert session.names(path=path) == []


def test_recursive(session):
    for path, name in (("", "top.txt"), ("a", "one.txt"), ("a/b", "two.txt")):
        session.upload((name, b"x"), path=path).ok()
    flat = {entry["name"]: entry for entry in session.list()}
    assert set(flat) == {"a", "top.txt"}
    assert flat["a"]["type"] == "directory"
    assert flat["a"]["contentType"] == "application/octet-stream"
    found = [(e["directory"], e["name"], e["type"]) for e in session.list(recursive="true")]
    assert sorted(found) == [
        ("", "a", "directory"),
        ("", "top.txt", "file"),
        ("a", "b", "directory"),
        ("a", "one.txt", "file"),
        ("a/b", "two.txt", "file"),
    ]
    below = [(e["directory"], e["name"]) for e in session.list(recursive="true", path="a")]
    assert sorted(below) == [("", "b"), ("", "one.txt"), ("b", "two.txt")]
    for flat in ("false", "False", "0"):
        assert set(session.names(recursive=flat)) == {"a", "top.txt"}
    for deep in ("True", "1"):
        assert len(session.names(recursive=deep)) == 5
    for other in ("banana", "yes", "", "2", "ä" * 90):
        error = session.call("GET", "files", query={"recursive": other}).error(400, "SessionRequestValidationFailed")
        assert "'recursive'" in error["message"]


def test_list_of_what_is_no_directory(session):
    session.upload(("f.txt", b"")).ok()
    session.call("GET", "files", query={"path": "missing"}).error(404)
    session.call("GET", "files", query={"path": "f.txt"}).error(404)


def test_nested_filename_of_the_form(session):
    # Paths relative to /mnt/data, as LangChain sends them to the old form.
    reply = session.upload(("deep/er/f.txt", b"nested"), version=OLD).ok().json
    assert reply["value"][0]["properties"]["filename"] == "deep/er/f.txt"
    assert session.call("GET", "files/content/deep/er/f.txt", version=OLD).ok().body == b"nested"
    assert session.call("GET", "files/deep/er/f.txt/content").ok().body == b"nested"


def test_encoded_slash_in_a_name(session):
    session.upload(("d/f.txt", b"dotnet")).ok()
    assert session.call("GET", "files/d%2Ff.txt/content").ok().body == b"dotnet"
    assert session.call("GET", "files/d%2Ff.txt").ok().json["sizeInBytes"] == 6
    session.call("DELETE", "files/d%2Ff.txt").ok(204)


@pytest.mark.parametrize("version", [OLD, NEW])
@pytest.mark.parametrize("prefix", ["/mnt/data/", "/data/"])
def test_absolute_filename_lands_in_data(session, version, prefix):
    session.upload((prefix + "x.csv", b"llama"), version=version).ok()
    assert session.names() == ["x.csv"]
    old = session.call("GET", "files", version=OLD).ok().json["value"]
    assert old[0]["properties"]["filename"] == "x.csv"
    quoted = urllib.parse.quote(prefix + "x.csv", safe="")
    assert session.call("GET", f"files/{quoted}/content").ok().body == b"llama"
    assert session.call("GET", f"files/content/{quoted}", version=OLD).ok().body == b"llama"


def test_both_spellings_of_content_at_once(session):
    session.upload(("f.txt", b"both")).ok()
    assert session.call("GET", "files/content/f.txt/content", version=OLD).ok().body == b"both"


def test_file_that_is_called_content(session):
    session.upload(("content", b"word"), ("a/content", b"nested")).ok()
    assert session.call("GET", "files/content").ok().json["name"] == "content"
    assert session.call("GET", "files/content/content").ok().body == b"word"


@pytest.mark.parametrize(
    "name",
    [
        "with space.txt",
        "grüße-☃-😀.txt",
        "a+b&c=d;e,f@g$h#i%25j^(k).txt",
        "quo'te.txt",
        ".hidden",
        "..double",
        "trailing.",
        "name ",
        "-rf",
        "$(id)",
        "%2e%2e",
        "x" * 255,
    ],
)
def test_unusual_names(session, name):
    data = name.encode()
    assert session.upload((name, data)).ok().json["name"] == name
    assert session.names() == [name]
    assert session.download(name).ok().body == data
    quoted = urllib.parse.quote(name, safe="")
    assert session.call("GET", f"files/{quoted}").ok().json["name"] == name
    assert session.value("open(%r, 'rb').read().decode()" % name) == name
    session.call("DELETE", f"files/{quoted}").ok(204)
    assert session.names() == []


def test_names_made_by_code_may_be_any_bytes(session):
    session.run("open(b'/mnt/data/\\xff\\xfe\\n\"', 'w').write('x');")
    (entry,) = session.list()
    assert entry["sizeInBytes"] == 1 and "\ufffd" in entry["name"]


def test_directories_as_files(session):
    session.upload(("f", b""), path="d").ok()
    meta = session.call("GET", "files/d").ok().json
    assert meta["type"] == "directory"
    session.call("GET", "files/d/content").error(404)
    session.call("DELETE", "files/d").error(409)
    session.upload(("d", b"x")).error(409)
    session.upload(("g", b"x"), path="d/f").error(409)
    assert everything(session) == "['d', 'd/f']"
    session.call("DELETE", "files/f", query={"path": "d"}).ok(204)
    session.call("DELETE", "files/d").ok(204)


# --- forms ---


@pytest.mark.parametrize(
    "boundary, disposition, more",
    [
        # .NET: quoted boundary, unquoted tokens, no type of the part
        (
            '"X"',
            "Content-Disposition: form-data; name=file; filename=f.txt; filename*=utf-8''f.txt",
            "",
        ),
        ("X", "content-disposition:form-data;name=file;filename=f.txt", ""),
        # autogen: type before disposition
        (
            "X",
            'Content-Type: application/octet-stream\r\nContent-Disposition: form-data; name="file"; filename="f.txt"',
            "",
        ),
        # az: no type
        ("X", 'Content-Disposition: form-data; name="file"; filename="f.txt"', ""),
        # langchain4j
        (
            "X",
            'Content-Disposition: form-data; name="file"; filename="f.txt"',
            "Content-Type: application/json\r\n",
        ),
        ("X; charset=utf-8", 'Content-Disposition: form-data; filename="f.txt"; name="other"', ""),
        ("X", 'CONTENT-DISPOSITION: FORM-DATA; NAME="file"; FILENAME="f.txt"', "X-Other: 1\r\n"),
        ("X", "Content-Disposition: form-data; name=\"file\"; filename*=UTF-8''f%2Etxt", ""),
    ],
)
def test_forms(session, boundary, disposition, more):
    body = part(disposition, b"form data", more=more)
    reply = post(session, body, f"multipart/form-data; boundary={boundary}").ok()
    assert reply.json["name"] == "f.txt"
    assert session.download("f.txt").ok().body == b"form data"


def test_filename_star_wins(session):
    disposition = "Content-Disposition: form-data; name=file; filename=plain.txt; filename*=utf-8''gr%C3%BC%C3%9Fe.txt"
    assert (
        post(session, part(disposition, b""), "multipart/form-data; boundary=X").ok().json["name"]
        == "grüße.txt"
    )


def test_escaped_quotes_in_filename(session):
    disposition = 'Content-Disposition: form-data; name="file"; filename="a%22b.txt"'
    reply = post(session, part(disposition, b""), "multipart/form-data; boundary=X").ok()
    assert reply.json["name"] in ('a"b.txt', "a%22b.txt")


@pytest.mark.parametrize(
    "content_type", ["application/json", "multipart/form-data", "text/plain", ""]
)
def test_wrong_content_type(session, content_type):
    # Semantic Kernel's client leaves application/json on its uploads: the boundary is in the body.
    body, _ = form(("f.txt", b"sniffed"))
    assert post(session, body, content_type, OLD, "files/upload").ok()
    assert session.download("f.txt").ok().body == b"sniffed"


@pytest.mark.parametrize("chunk", [1, 7, 1000, 65536])
def test_chunked_upload(session, chunk):
    data = os.urandom(3000 if chunk < 1000 else 300000)
    body, content_type = form(("f.bin", data))
    connection = http.client.HTTPConnection(*session.pool.client.address, timeout=60)
    headers = {
        "Authorization": f"Bearer {session.pool.client.token}",
        "Content-Type": content_type,
        "Transfer-Encoding": "chunked",
    }
    chunks = (body[i : i + chunk] for i in range(0, len(body), chunk))
    connection.request(
        "POST", session.path("files/upload", OLD), chunks, headers, encode_chunked=True
    )
    response = connection.getresponse()
    assert response.status == 200, response.read()
    assert json.loads(response.read())["value"][0]["properties"]["size"] == len(data)
    connection.close()
    assert session.download("f.bin").ok().body == data


def test_expect_100_continue(session, daemon):
    body, content_type = form(("f.txt", b"continued"))
    with daemon.raw() as raw:
        raw.send(
            f"POST {session.path('files')} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: {content_type}\r\n"
            f"Authorization: Bearer {daemon.token}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += raw.socket.recv(4096)
        assert head.startswith(b"HTTP/1.1 100 ")
        raw.send(body)
        raw.reply().ok()
    assert session.download("f.txt").ok().body == b"continued"


def test_empty_file(session):
    assert session.upload(("empty", b"")).ok().json["sizeInBytes"] == 0
    reply = session.download("empty").ok()
    assert reply.body == b"" and reply.headers["Content-Length"] == "0"
    assert session.value("open('empty').read()") == ""


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n--X",
        b"--X--\r\n",
        b"\r\n--X\r",
        b"\r\n--\r\n--\r\n-\r\n",
        b"\r\n--XX--\r\n"[:-3],
        b"\r\n" * 1000,
        b"\r" * 70000,
        b"\r\n--" * 20000,
        b"\x00\xff" * 40000,
        bytes(range(256)) * 300,
    ],
)
def test_data_that_looks_like_a_boundary(session, data):
    # The boundary itself does not occur, its beginnings do, and what is next to it.
    body, content_type = form(("f", data), boundary="XY")
    post(session, body, content_type).ok()
    assert session.download("f").ok().body == data


def test_preamble_and_epilogue(session):
    body, content_type = form(("f", b"x"))
    post(session, b"preamble\r\n" + body + b"epilogue\r\n", content_type).ok()
    assert session.download("f").ok().body == b"x"


def test_fields_beside_the_file_are_ignored(session):
    field = b'--X\r\nContent-Disposition: form-data; name="note"\r\n\r\nvalue\r\n'
    body = field + part('Content-Disposition: form-data; name="file"; filename="f"', b"data")
    assert post(session, body, "multipart/form-data; boundary=X").ok().json["name"] == "f"
    assert session.names() == ["f"]


@pytest.mark.parametrize("version", [OLD, NEW])
def test_two_files_in_one_form(session, version):
    reply = session.upload(("one.txt", b"1"), ("two.txt", b"22"), version=version).ok().json
    entries = [entry.get("properties", entry) for entry in reply["value"]]
    assert [e.get("filename", e.get("name")) for e in entries] == ["one.txt", "two.txt"]
    assert [e.get("size", e.get("sizeInBytes")) for e in entries] == [1, 2]
    assert session.names() == ["one.txt", "two.txt"]


@pytest.mark.parametrize(
    "body, content_type",
    [
        (b"", "multipart/form-data; boundary=X"),
        (b"no form at all", "multipart/form-data; boundary=X"),
        (b"--X--\r\n", "multipart/form-data; boundary=X"),
        (
            b'--X\r\nContent-Disposition: form-data; name="f"\r\n\r\nno file\r\n--X--\r\n',
            "multipart/form-data; boundary=X",
        ),
        (
            b'--X\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\nnot closed',
            "multipart/form-data; boundary=X",
        ),
        (
            b'--X\r\nContent-Disposition: form-data; name="f"; filename="f"',
            "multipart/form-data; boundary=X",
        ),
        (b"--X\r\nNo-Disposition: 1\r\n\r\nx\r\n--X--\r\n", "multipart/form-data; boundary=X"),
        (
            b"--X\r\n" + b"A: " + b"b" * 100000 + b"\r\n\r\nx\r\n--X--\r\n",
            "multipart/form-data; boundary=X",
        ),
        (b"x", "multipart/form-data; boundary=" + "b" * 5000),
        (b'{"a": 1}', "application/json"),
    ],
)
def test_broken_forms(session, body, content_type):
    post(session, body, content_type).error(400)
    assert everything(session) == "[]"


# --- limits ---


def test_upload_limit(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"maxUploadSizeInBytes": 5000}).session()
    assert session.upload(("exact", b"e" * 5000)).ok().json["sizeInBytes"] == 5000
    assert "5000" in session.upload(("over", b"o" * 5001)).error(413)["message"]
    assert session.upload(("a", b"1" * 5000), ("b", b"2" * 5000)).ok()
    session.upload(("c", b"3" * 10), ("d", b"4" * 5001)).error(413)
    assert "over" not in session.names() and "d" not in session.names()
    # Announced and far over: refused before the body is sent.
    session.upload(("huge", b"h" * (3 * MIB))).error(413)
    body, content_type = form(("chunked", b"h" * (3 * MIB)))
    headers = {"Content-Type": content_type, "Transfer-Encoding": "chunked"}
    chunks = (
        b"%x\r\n%b\r\n" % (len(body[i : i + 65536]), body[i : i + 65536])
        for i in range(0, len(body), 65536)
    )
    connection = http.client.HTTPConnection(*session.pool.client.address, timeout=30)
    connection.request(
        "POST",
        session.path("files"),
        None,
        {**headers, "Authorization": f"Bearer {session.pool.client.token}"},
    )
    try:
        for chunk in chunks:
            connection.send(chunk)
        connection.send(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # told before the end
    assert connection.getresponse().status == 413
    connection.close()
    assert session.names() == ["a", "b", "c", "exact"] or session.names() == ["a", "b", "exact"]
    assert everything(session).count("'") == 2 * len(session.names()), "no temporary files are left"


def test_default_upload_limit_is_128_mib(session, daemon):
    limit = 128 * MIB
    head = (
        f"POST {session.path('files')} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=X\r\n"
        f"Authorization: Bearer {daemon.token}\r\nContent-Length: {limit + 2 * MIB}\r\n\r\n"
    )
    with daemon.raw() as raw:
        raw.send(head)
        raw.reply().error(413)


def test_storage_full(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"dataSize": "1Mi"}).session()
    session.upload(("fits", b"f" * 500000)).ok()
    session.upload(("too-much", b"t" * 800000)).error(507, "SessionStorageFull")
    assert session.names() == ["fits"]
    assert everything(session) == "['fits']"
    session.upload(("small", b"s" * 1000)).ok()
    session.call("DELETE", "files/fits").ok(204)
    session.upload(("now-it-fits", b"t" * 800000)).ok()


def test_listing_limit(session):
    session.run("import os\nfor i in range(10000): open(f'f{i:05}', 'w').close()")
    assert len(session.names()) == 10000
    session.run("open('one-more', 'w').close()")
    session.call("GET", "files").error(413)
    assert session.call("GET", "files/one-more").ok()
    # The session works on.
    session.run("import shutil\nfor n in os.listdir('.'): os.remove(n)")
    assert session.names() == []


# --- hostile names and trees ---

HOSTILE = [
    "..",
    ".",
    "../x",
    "../../etc/cron.d/x",
    "a/../../x",
    "a/./x",
    "/mnt/data/../x",
    "/mnt/data/..",
    "sub/..",
    "nul\x00byte",
    "back\\slash",
    "..\\x",
    "control\x01",
    "tab\there",
    "del\x7f",
    "x" * 256,
    "x" * 300,
    "a/" + "y" * 300,
    "/".join(["d" * 100] * 60),
    b"\xff\xfe.txt",
    b"cut\xe2\x98",
    "",
    "/",
    "/mnt/data",
    "/mnt/data/",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_in_the_form(session, name):
    for version in (OLD, NEW):
        session.upload((name, b"hostile"), version=version).error(400)
    assert everything(session) == "[]"
    assert session.value("os.path.exists('/mnt/x') or os.path.exists('/x')") is False


def test_absolute_name_elsewhere_stays_in_data(session):
    # Either answer is right, as long as /etc is not meant.
    reply = session.upload(("/etc/passwd", b"root::0:0"))
    assert reply.status in (200, 400)
    assert "root::0:0" not in session.value("open('/etc/passwd').read()")
    assert everything(session) in ("[]", "['etc', 'etc/passwd']")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_in_the_url(session, name):
    session.upload(("f", b"x")).ok()
    quoted = urllib.parse.quote(name, safe="")
    if not quoted or name in ("/", "/mnt/data", "/mnt/data/"):
        return  # other routes
    for method, path in (
        ("GET", f"files/{quoted}"),
        ("GET", f"files/{quoted}/content"),
        ("GET", f"files/content/{quoted}"),
        ("DELETE", f"files/{quoted}"),
    ):
        session.call(method, path).error(400)
    assert session.names() == ["f"]


@pytest.mark.parametrize(
    "path", ["..", "../..", "a/../..", "/mnt/data/../..", "x\x00", "a\\b", "\x01", "z" * 300]
)
def test_hostile_path(session, path):
    session.upload(("f", b"x"), path=path).error(400)
    session.call("GET", "files", query={"path": path}).error(400)
    session.call("GET", "files/passwd/content", query={"path": path}).error(400)
    session.call("DELETE", "files/f", query={"path": path}).error(400)
    assert everything(session) == "[]"


def test_links_out_of_the_data_directory(session):
    session.run(
        "import os\nopen('/tmp/target', 'w').write('t'); os.makedirs('/tmp/dir'); open('/tmp/dir/in', 'w').write('t')\n"
        "for name, to in dict(passwd='/etc/passwd', file='/tmp/target', dir='/tmp/dir', up='..', root='/',"
        " proc='/proc/self', magic='/proc/self/root/etc/passwd', fd='/proc/self/fd/0', loop='loop', dangling='nowhere',"
        " cwd='/proc/self/cwd').items(): os.symlink(to, name)"
    )
    assert session.names() == []
    assert session.names(recursive="true") == []
    for name in (
        "passwd",
        "file",
        "magic",
        "fd",
        "loop",
        "dangling",
        "dir/in",
        "up/data/file",
        "root/etc/passwd",
        "proc/environ",
    ):
        session.call("GET", f"files/{name}/content").error(404)
        session.call("GET", f"files/{name}").error(404)
    for path in ("dir", "up", "root", "proc"):
        session.call("GET", "files", query={"path": path}).error(404)
        session.upload(("new", b"x"), path=path).error(404)
    session.call("DELETE", "files/dir/in").error(404)
    # Deleting and writing act on the link, not on what it names.
    session.upload(("file", b"replaced")).ok()
    session.call("DELETE", "files/passwd").ok(204)
    assert (
        session.value(
            "open('/tmp/target').read(), os.listdir('/tmp/dir'), os.path.exists('/etc/passwd')"
        )
        == "('t', ['in'], True)"
    )
    assert session.value("os.path.islink('file'), open('file').read()") == "(False, 'replaced')"


def test_links_inside_the_data_directory(session):
    session.upload(("real.txt", b"inside"), path="d").ok()
    session.run(
        "import os; os.symlink('d/real.txt', 'link.txt'); os.symlink('d', 'linkdir'); os.symlink('..', 'd/cycle')"
    )
    assert session.download("link.txt").ok().body == b"inside"
    assert session.call("GET", "files/linkdir/real.txt/content").ok().body == b"inside"
    assert len(session.names(recursive="true")) < 20


def test_fifo_socket_and_device_do_not_hang(session):
    session.run(
        "import os, socket\nos.mkfifo('fifo')\ns = socket.socket(socket.AF_UNIX); s.bind('sock')\n"
        "os.symlink('/dev/zero', 'zero'); os.symlink('/dev/tty', 'tty')"
    )
    assert session.names() == []
    for name in ("fifo", "sock", "zero", "tty"):
        session.call("GET", f"files/{name}/content", timeout=10).error(404)
        session.call("GET", f"files/{name}", timeout=10).error(404)
    for name in ("fifo", "sock"):
        for path in (f"files/{name}/content", f"files/{name}"):
            message = session.call("GET", path, timeout=10).error(404, "SessionFileNotFound")["message"]
            assert f"'{name}' is neither a regular file nor a directory" in message
    # An upload puts a regular file in its place.
    session.upload(("fifo", b"file"), timeout=10).ok()
    assert session.download("fifo").ok().body == b"file"
    session.call("DELETE", "files/sock").ok(204)


def test_what_is_there_but_of_another_kind_is_called_by_its_kind(session):
    session.upload(("ü.txt", b"x"), path="sub").ok()
    error = session.call("GET", "files/sub/content").error(404, "SessionFileNotFound")
    assert "'sub' is a directory (404)" in error["message"]
    error = session.call("GET", "files", query={"path": "sub/ü.txt"}).error(404, "SessionFileNotFound")
    assert "'sub/ü.txt' is not a directory (404)" in error["message"]
    for path, query in (
        ("files", {"path": "sub/none"}),
        ("files", {"path": "sub/ü.txt/x"}),
        ("files/sub/%C3%BC.txt/x/content", {}),
    ):
        error = session.call("GET", path, query=query).error(404, "SessionFileNotFound")
        assert "does not exist below /mnt/data (404)" in error["message"]


def test_unreadable_files(session):
    session.run("open('closed', 'w').write('x'); import os; os.chmod('closed', 0)")
    reply = session.download("closed")
    assert reply.status in (200, 403, 404, 409)
    session.run("os.makedirs('dir/sub'); open('dir/f', 'w').close(); os.chmod('dir', 0)")
    assert set(session.names(recursive="true")) >= {"closed", "dir"}
    assert session.call("GET", "files", query={"path": "dir"}).status in (200, 403, 404, 409)
    assert session.upload(("new", b"x"), path="dir").status in (200, 403, 404, 409)
    session.upload(("closed", b"replaced")).ok()
    assert session.download("closed").ok().body == b"replaced"


def test_file_that_changes_while_it_is_read(session):
    session.run("f = open('f', 'wb'); f.write(b'x' * (8 << 20)); f.flush()")
    connection = http.client.HTTPConnection(*session.pool.client.address, timeout=30)
    connection.request(
        "GET",
        session.path("files/f/content"),
        headers={"Authorization": f"Bearer {session.pool.client.token}"},
    )
    response = connection.getresponse()
    assert int(response.headers["Content-Length"]) == 8 << 20
    session.run("f.truncate(100)")
    # A short body must not look like a whole one.
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        response.read()
    connection.close()
    assert session.download("f").ok().body == b"x" * 100


def test_sparse_file_larger_than_memory(session):
    session.run("f = open('sparse', 'wb'); f.truncate(1 << 40); f.close()")
    assert session.list()[0]["sizeInBytes"] == 1 << 40
    connection = http.client.HTTPConnection(*session.pool.client.address, timeout=30)
    connection.request(
        "GET",
        session.path("files/sparse/content"),
        headers={"Authorization": f"Bearer {session.pool.client.token}"},
    )
    response = connection.getresponse()
    assert response.read(1 << 20) == bytes(1 << 20)
    connection.close()
    assert session.value("1") == 1


# --- streaming ---


def test_large_transfers_in_constant_memory(session, daemon):
    size = 64 * MIB
    block = os.urandom(MIB)
    digest = hashlib.sha256()
    boundary = "stream-boundary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n\r\n'.encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    session.run("1")
    connection = http.client.HTTPConnection(*daemon.address, timeout=60)
    token = {"Authorization": f"Bearer {daemon.token}"}
    daemon.reset_peak()
    before = daemon.memory("VmRSS")
    connection.putrequest("POST", session.path("files"))
    for name, value in {
        **token,
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(len(head) + size + len(tail)),
    }.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(head)
    for i in range(size // MIB):
        data = i.to_bytes(8, "big") + block[8:]
        digest.update(data)
        connection.send(data)
    connection.send(tail)
    response = connection.getresponse()
    assert response.status == 200 and json.loads(response.read())["sizeInBytes"] == size
    code = "import hashlib; hashlib.sha256(open('big.bin', 'rb').read()).hexdigest()"
    assert session.value(code) == digest.hexdigest()
    connection.request("GET", session.path("files/big.bin/content"), headers=token)
    response = connection.getresponse()
    found, total = hashlib.sha256(), 0
    while chunk := response.read(MIB):
        found.update(chunk)
        total += len(chunk)
    assert (total, found.hexdigest()) == (size, digest.hexdigest())
    connection.close()
    assert daemon.memory("VmHWM") - before < 16 * MIB


def test_slow_reader_is_held_back_in_constant_memory(session, daemon):
    session.run("f = open('big', 'wb'); [f.write(bytes(1 << 20)) for _ in range(100)]; f.close()")
    daemon.reset_peak()
    before = daemon.memory("VmRSS")
    with daemon.raw() as raw:
        raw.send(
            f"GET {session.path('files/big/content')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {daemon.token}\r\n\r\n"
        )
        assert raw.socket.recv(100).startswith(b"HTTP/1.1 200")
        # While it does not read, others do.
        assert session.value("1 + 1") == 2
        assert session.names() == ["big"]
        raw.reset()
    assert daemon.memory("VmHWM") - before < 16 * MIB
    assert session.value("1 + 1") == 2


def test_many_transfers_at_once(session):
    files = {f"f{i}": os.urandom(200000 + i) for i in range(12)}
    jobs = [Background(session.upload, item) for item in files.items()]
    for job in jobs:
        job.result().ok()
    jobs = {name: Background(session.download, name) for name in files}
    for name, job in jobs.items():
        assert job.result().ok().body == files[name]


def test_files_while_code_runs(session):
    session.run("import os, time")
    job = Background(
        session.run, "while not os.path.exists('go'): time.sleep(0.01)", timeoutInSeconds=20
    )
    session.upload(("data", b"while running")).ok()
    assert session.download("data").ok().body == b"while running"
    session.upload(("go", b"")).ok()
    job.result()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_disconnect_in_mid_upload_leaves_nothing(session, daemon, how):
    session.upload(("before", b"b")).ok()
    body, content_type = form(("half", b"h" * (4 * MIB)))
    with daemon.raw() as raw:
        raw.send(
            f"POST {session.path('files')} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
            f"Authorization: Bearer {daemon.token}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        raw.send(body[: 2 * MIB])
        # On its way: the session's storage has some of it.
        used = "import os; s = os.statvfs('/mnt/data'); (s.f_blocks - s.f_bfree) * s.f_bsize"
        wait_for(lambda: session.value(used) > MIB // 2, 10, "half a file arrived")
        if how == "close":
            raw.socket.close()
        elif how == "reset":
            raw.reset()
        else:
            raw.half_close()
            raw.read_all()
    wait_for(lambda: session.value(used) < MIB // 2, 10, "the half is gone")
    assert everything(session) == "['before']"
    session.upload(("half", b"whole")).ok()
    assert session.download("half").ok().body == b"whole"


def test_delete_of_the_session_in_mid_upload(pool, daemon):
    session = pool.session()
    body, content_type = form(("half", b"h" * (4 * MIB)))
    with daemon.raw() as raw:
        raw.send(
            f"POST {session.path('files')} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
            f"Authorization: Bearer {daemon.token}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        raw.send(body[:MIB])
        wait_for(lambda: session.identifier in pool.identifiers(), 10, "session")
        session.delete().ok(204)
        try:
            raw.send(body[MIB:])
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = raw.read_all()
    assert answer == b"" or re.match(rb"HTTP/1\.1 [45]\d\d ", answer), answer[:200]
    assert session.names() == []
    session.delete().ok(204)
