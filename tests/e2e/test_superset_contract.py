# SPDX-License-Identifier: Apache-2.0
"""The contract with all known clients, points 1 to 7: routing, versions, bodies, replies, output, state.

Every test is named after its point. Files, times, errors and the rest: test_superset_files.py and
test_superset_service.py. What single clients send: test_client_bytes.py.
"""

import json
import re
import urllib.parse

import pytest

from conftest import NEW, OLD, OLD_VERSIONS, png_size, unique
from wire import AUTH, Wire

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint('after')"
CODE = '{"code":"6*7"}'


@pytest.fixture
def wire(pool):
    w = Wire(pool)
    yield w
    pool.session(w.identifier).delete()


# --- 1: routing ---


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p,
        str.upper,
        str.lower,
        lambda p: p.replace("/", "//"),
        lambda p: "///" + p[1:],
        lambda p: p + "/",
        lambda p: p.replace("sessionPools", "%73essionPools"),
        lambda p: p.replace("executions", "e%78ecutions"),
        lambda p: p.replace("/executions", "//executions//"),
    ],
)
def test_01_suffix_routing_of_paths(wire, change):
    path = change(f"{wire.base}/executions")
    document = wire.send("POST", f"{path}?identifier={wire.identifier}", (AUTH,), CODE).ok().json
    assert document["result"]["executionResult"] == 42


@pytest.mark.parametrize(
    "where, value",
    [
        ("executions", lambda d: d["result"]["executionResult"]),
        ("code/execute", lambda d: d["properties"]["result"]),
        ("python/execute", lambda d: d["result"]),
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_01_suffix_routing_without_a_prefix(daemon, where, value, slash):
    """The pool of --dev is meant."""
    session = daemon.default_pool().session()
    w = Wire(session.pool, session.identifier)
    target = f"/{where}{slash}?identifier={w.identifier}"
    assert value(w.send("POST", target, (AUTH,), CODE).ok().json) == 42
    assert w.identifier in session.pool.identifiers()
    assert w.send("GET", f"/files?identifier={w.identifier}").ok().json["value"] == []
    assert w.send("GET", f"/session?identifier={w.identifier}").ok().json["etag"]
    assert w.send("DELETE", f"/session?identifier={w.identifier}").status == 204


@pytest.mark.parametrize("where", ["executions", "python/execute", "code/execute"])
def test_01_suffix_routing_identifier_infix(wire, where):
    target = f"{wire.base}/identifier/{wire.identifier}/{where}"
    document = wire.send("POST", target, (AUTH,), CODE).ok().json
    found = document["result"]
    assert (found["executionResult"] if isinstance(found, dict) else found) == 42
    # The page of the documentation has both; the same session is meant.
    target += f"?api-version={OLD}&identifier={wire.identifier}"
    wire.send("POST", target, (AUTH,), CODE).ok()


def test_01_suffix_routing_identifier_infix_of_files(wire):
    base = f"{wire.base}/identifier/{wire.identifier}"
    wire.execute("open('f.txt', 'w').write('x')")
    assert [e["name"] for e in wire.send("GET", f"{base}/files").ok().json["value"]] == ["f.txt"]
    assert wire.send("GET", f"{base}/files/f.txt/content").ok().body == b"x"
    assert wire.send("GET", f"{base}/session").ok().json["identifier"] == wire.identifier


@pytest.mark.parametrize(
    "query",
    [
        "identifier={i}&api-version={v}",
        "api-version={v}&identifier={i}",
        "path=&api-version={v}&identifier={i}",
        "IDENTIFIER={i}&API-Version={v}",
        "identifie%72={i}&api%2Dversion={v}",
        "&&identifier={i}&&api-version={v}&",
        "x&y=&=z&identifier={i}",
        "identifier={i}",
    ],
)
def test_01_queries_in_any_order_and_spelling(wire, query):
    query = query.format(i=wire.identifier, v=NEW)
    document = wire.send("POST", wire.target("executions", query), (AUTH,), CODE).ok().json
    assert document["identifier"] == wire.identifier


RAW = "a/b:c@d(e)[f]{g}<h>|i^j$k!l~m'n\"o*p,q;r=s?t\\u"


def test_01_identifiers_raw_and_encoded_are_one(pool):
    encoded = Wire(pool, urllib.parse.quote(RAW, safe=""))
    raw = Wire(pool, RAW)
    assert raw.execute("x = 7")["identifier"] == RAW
    half = Wire(pool, urllib.parse.quote(RAW))  # '/' stays, as LangChain sends it
    for wire in (encoded, half, raw):
        document = wire.execute("x")
        assert document["identifier"] == RAW and document["result"]["executionResult"] == 7
    assert pool.identifiers().count(RAW) == 1
    encoded.send("DELETE", encoded.target("session", f"identifier={encoded.identifier}"))


def test_01_identifiers_are_decoded_once(pool):
    once = Wire(pool, "a%2525b")
    assert once.execute("1")["identifier"] == "a%25b"
    assert Wire(pool, "aa%2Bb").execute("1")["identifier"] == "aa+b"
    assert Wire(pool, "aa+b").execute("1")["identifier"] == "aa+b"
    for identifier in ("a%25b", "aa+b"):
        pool.session(identifier).delete()


@pytest.mark.parametrize("identifier", ["", "abc", "x" * 129, "a%20bc", "a%00bc", "%C3%A9tat", "ab\tcd"])
def test_01_identifiers_of_wrong_form(pool, identifier):
    wire = Wire(pool, identifier)
    reply = wire.send("POST", wire.target("executions", f"identifier={identifier}"), (AUTH,), CODE)
    message = reply.error(400, "SessionRequestValidationFailed")["message"]
    assert "identifier" in message and "400" in message


@pytest.mark.parametrize("identifier", ["abcd", "x" * 128])
def test_01_identifiers_at_the_limits(pool, identifier):
    assert Wire(pool, identifier).execute("1")["identifier"] == identifier
    pool.session(identifier).delete()


@pytest.mark.parametrize("path", [None, "", "/", "//", "/mnt/data", "%2Fmnt%2Fdata", "/mnt/data/", "/data"])
def test_01_path_of_the_root(wire, path):
    wire.execute("open('f.txt', 'w').write('x')")
    query = f"identifier={wire.identifier}&api-version={NEW}"
    query += "" if path is None else f"&path={path}"
    assert [e["name"] for e in wire.send("GET", wire.target("files", query)).ok().json["value"]] == ["f.txt"]
    assert wire.send("GET", wire.target("files/f.txt/content", query)).ok().body == b"x"
    assert wire.send("DELETE", wire.target("files/f.txt", query)).status == 204


@pytest.mark.parametrize("path", ["d/e", "/d/e", "d/e/", "d%2Fe", "/mnt/data/d/e", "%2Fmnt%2Fdata%2Fd%2Fe"])
def test_01_path_of_a_directory(wire, path):
    wire.execute("import os\nos.makedirs('d/e')\nopen('d/e/f.txt', 'w').write('x');")
    query = f"path={path}&identifier={wire.identifier}&api-version={NEW}"
    assert [e["name"] for e in wire.send("GET", wire.target("files", query)).ok().json["value"]] == ["f.txt"]
    assert wire.send("GET", wire.target("files/f.txt/content", query)).ok().body == b"x"
    assert wire.send("GET", wire.target("files/f.txt", query)).ok().json["name"] == "f.txt"


# --- 2: versions ---

FUTURE = ["2026-03-01", "2031-12-31-preview", "9999-99-99"]


@pytest.mark.parametrize("version", [*OLD_VERSIONS, "2024-09-01", NEW, *FUTURE, None])
def test_02_the_path_decides_the_shape_of_executions(wire, version):
    new = wire.execute("6*7", "executions", version)
    assert new["status"] == "Succeeded" and "properties" not in new
    old = wire.execute("6*7", "code/execute", version, wrapped=True)
    assert old["properties"]["status"] == "Success" and old["properties"]["result"] == 42


@pytest.mark.parametrize("version", [*OLD_VERSIONS, "2024-09-01"])
def test_02_files_of_old_versions(wire, version):
    wire.execute("open('f.txt', 'w').write('four')")
    query = f"identifier={wire.identifier}&api-version={version}"
    document = wire.send("GET", wire.target("files", query)).ok().json
    assert [e["properties"]["filename"] for e in document["value"]] == ["f.txt"]
    assert set(document) >= {"$id", "value"}
    assert "name" not in document["value"][0]


@pytest.mark.parametrize("version", ["2024-10-02-preview", "2025-02-02-preview", NEW, *FUTURE, None])
def test_02_files_of_new_versions_unknown_ones_and_none(wire, version):
    wire.execute("open('f.txt', 'w').write('four')")
    query = f"identifier={wire.identifier}" + (f"&api-version={version}" if version else "")
    document = wire.send("GET", wire.target("files", query)).ok().json
    assert set(document) == {"value", "nextLink"} and document["nextLink"] is None
    (entry,) = document["value"]
    assert set(entry) == {"name", "type", "contentType", "sizeInBytes", "lastModifiedAt"}


def test_02_future_versions_are_typed_as_the_newest(wire):
    for version in FUTURE:
        assert wire.execute("6*7", version=version)["result"]["executionResult"] == 42
    # The one version whose client has room for text only.
    assert wire.execute("6*7", version="2024-10-02-preview")["result"]["executionResult"] == "42"


@pytest.mark.parametrize("version", ["latest", "2024", "2024-02-02-", "2024-02-02-beta", "24-02-02", "x" * 500])
def test_02_what_is_no_version(wire, version):
    query = f"identifier={wire.identifier}&api-version={version}"
    error = wire.send("POST", wire.target("executions", query), (AUTH,), CODE).error(400)
    assert "api-version" in error["message"] and NEW in error["message"]


# --- 3: bodies ---


@pytest.mark.parametrize("where", ["executions", "code/execute", "python/execute"])
@pytest.mark.parametrize(
    "body",
    [
        {"code": "6*7"},
        {"properties": {"code": "6*7"}},
        {"pythonCode": "6*7"},
        {"properties": {"pythonCode": "6*7", "identifier": "ignored", "enableEgress": True}},
        {"properties": None, "code": "6*7"},
        {"properties": {"code": "6*7"}, "code": "'not this one'"},
        {"code": "6*7", "pythonCode": "'not this one'"},
        {"Code": "6*7", "CODEINPUTTYPE": "INLINE", "executiontype": "SYNCHRONOUS"},
        {"code": "6*7", "codeInputType": "inlineText", "executionType": "synchronous"},
        {"code": "Nio3", "codeInputType": "InlineBase64"},
        {"code": "6*7", "timeoutInSeconds": None, "codeInputType": None, "executionType": None},
        {"code": "6*7", "timeoutInSeconds": 100, "timeout": "x", "$id": "1", "nested": {"a": [1]}},
        {"code": "6*7", "timeoutInSeconds": "100"},
    ],
)
def test_03_bodies(wire, where, body):
    query = f"identifier={wire.identifier}"
    document = wire.send("POST", wire.target(where, query), (AUTH,), json.dumps(body)).ok().json
    place = document.get("properties", document.get("result"))
    assert place.get("executionResult") == 42


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "APPLICATION/JSON",
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "no type at all",
    ],
)
def test_03_bodies_whatever_their_content_type(wire, content_type):
    headers = [AUTH] + ([("Content-Type", content_type)] if content_type is not None else [])
    query = f"identifier={wire.identifier}&api-version={NEW}"
    body = '{"code":"\'grüße\'"}'
    document = wire.send("POST", wire.target("executions", query), headers, body).ok().json
    assert document["result"]["executionResult"] == "grüße"


def test_03_bodies_with_a_byte_order_mark(wire):
    """.NET's StreamWriter and PowerShell put one before the text."""
    query = f"identifier={wire.identifier}&api-version={NEW}"
    body = b'\xef\xbb\xbf{"code":"6*7"}'
    document = wire.send("POST", wire.target("executions", query), (AUTH,), body).ok().json
    assert document["result"]["executionResult"] == 42


@pytest.mark.parametrize(
    "body, code, word",
    [
        ("", "InvalidRequestContent", "JSON"),
        ("{", "InvalidRequestContent", "JSON"),
        ("[]", "InvalidRequestContent", "object"),
        ("null", "InvalidRequestContent", "JSON"),
        ("{}", "SessionPropertiesMissing", "'code'"),
        ('{"properties":{}}', "SessionPropertiesMissing", "'code'"),
        ('{"code":null}', "SessionPropertiesMissing", "'code'"),
        ('{"code":1}', "SessionRequestValidationFailed", "'code'"),
        ('{"code":"1","codeInputType":"file"}', "SessionRequestValidationFailed", "Inline"),
        ('{"code":"%%","codeInputType":"InlineBase64"}', "SessionRequestValidationFailed", "base64"),
        ('{"code":"1","executionType":"later"}', "SessionRequestValidationFailed", "Asynchronous"),
        ('{"code":"1","timeoutInSeconds":0}', "SessionRequestValidationFailed", "timeoutInSeconds"),
        ('{"code":"1","timeoutInSeconds":"soon"}', "SessionRequestValidationFailed", "timeoutInSeconds"),
        ('{"code":"1","outputStreamsMaxLength":0}', "SessionRequestValidationFailed", "outputStreamsMaxLength"),
    ],
)
def test_03_wrong_bodies_say_what_to_do(wire, body, code, word):
    reply = wire.send("POST", wire.target("executions", f"identifier={wire.identifier}"), (AUTH,), body)
    message = reply.error(400, code)["message"]
    assert word in message and "400" in message


# --- 4: replies ---

PROPERTIES = {"status", "stdout", "stderr", "result", "executionResult", "executionTimeInMilliseconds"}


def test_04_both_key_families(wire):
    new = wire.execute("print('out'); 6*7")
    assert set(new) == {"id", "identifier", "executionType", "status", "result"}
    assert set(new["result"]) == {"stdout", "stderr", "executionResult", "executionTimeInMilliseconds"}
    assert UUID.fullmatch(new["id"]) and new["executionType"] == "Synchronous"
    old = wire.execute("print('out'); 6*7", "code/execute", OLD, wrapped=True)
    assert set(old) == {"$id", "properties"} and old["$id"] == "1"
    assert set(old["properties"]) == PROPERTIES | {"$id", "id"} and old["properties"]["$id"] == "2"
    flat = wire.execute("print('out'); 6*7", "python/execute", OLD, wrapped=True)
    assert set(flat) == PROPERTIES | {"$id", "properties"}
    assert set(flat["properties"]) == PROPERTIES | {"$id", "id"}
    for place in (new["result"], old["properties"], flat, flat["properties"]):
        assert (place["stdout"], place["stderr"]) == ("out\n", "")
        assert place["executionResult"] == 42
        assert type(place["executionTimeInMilliseconds"]) is int
    for place in (old["properties"], flat, flat["properties"]):
        assert (place["status"], place["result"]) == ("Success", 42)


def test_04_keys_are_there_when_there_is_nothing(wire):
    for code in ("", "pass", "x = 1", "# nothing"):
        result = wire.execute(code)["result"]
        del result["executionTimeInMilliseconds"]
        assert result == {"stdout": "", "stderr": "", "executionResult": ""}
        properties = wire.execute(code, "code/execute", OLD, wrapped=True)["properties"]
        assert [properties[k] for k in ("status", "stdout", "stderr", "result")] == ["Success", "", "", ""]


def test_04_errors_of_code_are_http_200(wire):
    new = wire.execute("print('before')\n{}['missing']")
    assert new["status"] == "Failed"
    assert new["error"] == {"code": "CodeExecutionFailed", "message": "KeyError: 'missing'"}
    assert new["result"]["stdout"] == "before\n" and new["result"]["executionResult"] == ""
    assert "KeyError: 'missing'" in new["result"]["stderr"]
    old = wire.execute("{}['missing']", "code/execute", OLD, wrapped=True)
    assert old["properties"]["status"] == "Failure" and old["properties"]["result"] == ""
    flat = wire.execute("{}['missing']", "python/execute", OLD, wrapped=True)
    assert flat["status"] == "Failure" and "error" not in flat  # a key that old callers take for a failed call
    assert "KeyError" in flat["stderr"] == flat["properties"]["stderr"]


@pytest.mark.parametrize(
    "where, headers",
    [("executions", {"operation-id"}), ("code/execute", {"operation-id"}), ("python/execute", {"operation-id"})],
)
def test_04_content_type_and_length(wire, where, headers):
    reply = wire.send("POST", wire.target(where, f"identifier={wire.identifier}"), (AUTH,), CODE).ok()
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert int(reply.headers["Content-Length"]) == len(reply.body)
    assert headers <= {name.lower() for name in reply.headers}


# The table of clients.md, 0.1. Types are compared too: 2 is not 2.0, and true is not 1.
TYPES = [
    ("1+1", 2),
    ("6*7", 42),
    ("sum([-1000, -530])", -1530),
    ("0.5", 0.5),
    ("1e300", 1e300),
    ("2**62", 2**62),
    ("True", True),
    ("1 < 0", False),
    ("'2024-05-02'", "2024-05-02"),
    ("'42'", "42"),
    ('"with \\"quotes\\" and ü"', 'with "quotes" and ü'),
    ("{'sin_pi': 1.2e-16, 'random_number': 9.6}", "{'sin_pi': 1.2e-16, 'random_number': 9.6}"),
    ("[1, 2, 3]", "[1, 2, 3]"),
    ("(1, 'a')", "(1, 'a')"),
    ("['package-%02d' % i for i in range(12)]", "[" + ",\n ".join(f"'package-{i:02}'" for i in range(12)) + "]"),
    ("print('x', end='')", ""),
    ("x = 1", ""),
    ("float('nan')", "nan"),
    ("a = float('nan');a", "nan"),
    ("a=None;a", None),
]


@pytest.mark.parametrize("code, value", TYPES)
def test_04_typing_of_results(wire, code, value):
    new = wire.execute(code)["result"]["executionResult"]
    old = wire.execute(code, "code/execute", OLD, wrapped=True)["properties"]["result"]
    flat = wire.execute(code, "python/execute", OLD, wrapped=True)["result"]
    for found in (new, old):
        assert found == value and type(found) is type(value)
    assert flat == ("" if value is None else value)
    text = wire.execute(code, version="2024-10-02-preview")["result"]["executionResult"]
    assert text is None or type(text) is str


def test_04_typing_of_figures(wire):
    """An image, even if the last line prints."""
    new = wire.execute(FIGURE)["result"]
    old = wire.execute(FIGURE, "code/execute", OLD, wrapped=True)["properties"]
    flat = wire.execute(FIGURE, "python/execute", OLD, wrapped=True)
    for value, place in ((new["executionResult"], new), (old["result"], old), (flat["result"], flat)):
        assert set(value) == {"type", "format", "base64_data"}
        assert (value["type"], value["format"]) == ("image", "png")
        assert min(png_size(value["base64_data"])) > 50
        assert place["stdout"] == "after\n"
    text = wire.execute(FIGURE, version="2024-10-02-preview")["result"]["executionResult"]
    assert json.loads(text)["type"] == "image"


# --- 6: output ---


def test_06_output_at_the_cap_is_whole(wire):
    result = wire.execute("print('x' * 4095)")["result"]
    assert result["stdout"] == "x" * 4095 + "\n"


def test_06_output_over_the_cap_is_cut_and_recognised(wire):
    """A client that pages takes 4093 bytes and more for cut output."""
    result = wire.execute("import sys\nprint('x' * 5000)\nprint('y' * 5000, file=sys.stderr)")["result"]
    for stream, letter in (("stdout", "x"), ("stderr", "y")):
        text = result[stream]
        assert text.startswith(letter * 4096) and not text.startswith(letter * 4097)
        assert len(text.encode()) >= 4093 and "outputStreamsMaxLength" in text[4096:]


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_06_output_is_cut_between_characters(wire, shift):
    text = wire.execute(f"print('a' * {shift} + '😀' * 2000)")["result"]["stdout"]
    shown = text.split("\n")[0]
    assert shown == "a" * shift + "😀" * ((4096 - shift) // 4)


def test_06_output_cap_is_raised_by_the_request(wire):
    for wrapped, where in ((False, "executions"), (True, "code/execute")):
        document = wire.execute("print('x' * 100000)", where, outputStreamsMaxLength=200000, wrapped=wrapped)
        assert document.get("properties", document.get("result"))["stdout"] == "x" * 100000 + "\n"


# --- 7: state ---


def test_07_state_is_kept_per_identifier(wire, new_session):
    wire.execute("import os\nimport math as m\nx = 41\ndef f(): return x + 1\nos.makedirs('d')\nos.chdir('d')")
    assert wire.execute("f()")["result"]["executionResult"] == 42
    assert wire.execute("m.floor(2.5)")["result"]["executionResult"] == 2
    assert wire.execute("os.getcwd()")["result"]["executionResult"] == "/mnt/data/d"
    other = new_session()
    assert "NameError" in other.fails("x")[1]


def test_07_data_directory_is_there_and_empty_at_birth(wire):
    query = f"identifier={wire.identifier}&api-version={OLD}"
    assert wire.send("GET", wire.target("files", query)).ok().json["value"] == []
    code = "import os\n(os.getcwd(), os.listdir('/mnt/data'), os.access('/mnt/data', os.W_OK))"
    assert wire.execute(code)["result"]["executionResult"] == "('/mnt/data', [], True)"


def test_07_pkg_resources_can_be_imported(wire):
    """autogen asks so for the packages, before every first run, and splits the answer."""
    code = "\nimport pkg_resources\n[d.project_name for d in pkg_resources.working_set]\n"
    properties = wire.execute(code, "code/execute", OLD, wrapped=True)["properties"]
    assert properties["status"] == "Success"
    names = [n.strip("[]' \n") for n in properties["result"].split(",\n")]
    assert {"numpy", "pandas", "matplotlib"} <= {n.lower() for n in names}


def test_07_deleted_sessions_and_what_comes_after(wire):
    wire.execute("x = 1\nopen('f', 'w').write('x');")
    query = f"identifier={wire.identifier}&api-version={NEW}"
    for _ in range(2):  # also when there is none
        reply = wire.send("DELETE", wire.target("session", query))
        assert (reply.status, reply.body) == (204, b"")
    assert wire.execute("'x' in globals()")["result"]["executionResult"] is False
    assert wire.send("GET", wire.target("files", query)).ok().json["value"] == []


def test_07_sessions_of_other_identifiers_are_fresh(pool):
    names = [unique("fresh") for _ in range(3)]
    for name in names:
        assert Wire(pool, name).execute("'marker' in globals()")["result"]["executionResult"] is False
        Wire(pool, name).execute("marker = 1\nopen('marker', 'w').close()")
    for name in names:
        assert len(pool.session(name).list()) == 1
        pool.session(name).delete()
