# SPDX-License-Identifier: Apache-2.0
"""The bytes that known clients send, and what they read of the answer.

From their sources and from recordings; one section per client. These clients are not run here: those that are,
are in tests/clients. What they read is asserted as strictly as they read it.
"""

import base64
import json
import re
import urllib.parse
import uuid

import pytest

from conftest import NEW, OLD, RawConnection, png_size
from wire import AUTH, Wire, chunked, chunks_of, form_of

V24 = "2024-02-02-preview"
V2410 = "2024-10-02-preview"
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"


@pytest.fixture
def wire(pool):
    w = Wire(pool, str(uuid.uuid4()))
    yield w
    pool.session(w.identifier).delete()


def requests_headers(agent, *more):
    """python-requests: the session's headers, then the call's."""
    return [
        ("User-Agent", agent),
        ("Accept-Encoding", "gzip, deflate"),
        ("Accept", "*/*"),
        ("Connection", "keep-alive"),
        AUTH,
        *more,
    ]


def json_type(reply):
    """What raise-on-other-types clients insist on."""
    assert reply.headers["Content-Type"].split(";")[0] == "application/json"
    return reply.ok().json


JSON = ("Content-Type", "application/json")


# --- langchain-azure-dynamic-sessions 1.0.3, langchain-azure-compute ---

LANGCHAIN = "langchain-azure-dynamic-sessions/1.0.3 (Language=Python)"


def langchain_query(wire, version=V24):
    return f"identifier={urllib.parse.quote(wire.identifier)}&api-version={version}"


def langchain_run(wire, code):
    body = {"properties": {"codeInputType": "inline", "executionType": "synchronous", "code": code}}
    target = wire.target("code/execute", langchain_query(wire))
    reply = wire.send("POST", target, requests_headers(LANGCHAIN, JSON), json.dumps(body))
    properties = json_type(reply)["properties"]
    return {key: properties.get(key) for key in ("result", "stdout", "stderr")}


def langchain_upload(wire, name, data):
    boundary = uuid.uuid4().hex
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: application/octet-stream'
    headers = requests_headers(LANGCHAIN, ("Content-Type", f"multipart/form-data; boundary={boundary}"))
    target = wire.target("files/upload", langchain_query(wire))
    reply = wire.send("POST", target, headers, form_of(head, data, boundary)).ok()
    return reply.json["value"][0]["properties"]


def test_langchain_execute_is_exact(wire):
    assert langchain_run(wire, "print('hello world'); 1 + 1") == {
        "result": 2,
        "stdout": "hello world\n",
        "stderr": "",
    }


def test_langchain_execute_keeps_state_and_reports_errors(wire):
    langchain_run(wire, "value = 21")
    assert langchain_run(wire, "value * 2")["result"] == 42
    found = langchain_run(wire, "1 / 0")
    assert found["result"] == "" and "ZeroDivisionError" in found["stderr"]


def test_langchain_execute_dict_and_image(wire):
    code = "{'sin_pi': 1.2246467991473532e-16, 'random_number': 9.6}"
    assert langchain_run(wire, code)["result"] == code
    image = langchain_run(wire, FIGURE)["result"]
    assert image["type"] == "image" and image["format"] == "png"
    assert min(png_size(base64.b64decode(image["base64_data"]))) > 50


def test_langchain_identifier_keeps_its_slash(pool):
    wire = Wire(pool, "user/1 a".replace(" ", "-"))
    assert "user/1-a" in langchain_query(wire)
    assert langchain_run(wire, "1")["result"] == 1
    assert "user/1-a" in pool.identifiers()
    pool.session("user/1-a").delete()


def test_langchain_files(wire):
    contents = {
        "hello.txt": b"hello",
        "grüße ☃.txt": b"raw UTF-8 name",
        "data.bin": bytes(range(256)) * 50,
        "empty": b"",
    }
    for name, data in contents.items():
        properties = langchain_upload(wire, name, data)
        assert (properties["filename"], properties["size"]) == (name, len(data))
    target = wire.target("files", langchain_query(wire))
    listed = wire.send("GET", target, requests_headers(LANGCHAIN)).ok().json["value"]
    assert len(listed) == 4  # its live test counts: nothing else may be there
    assert {e["properties"]["filename"]: e["properties"]["size"] for e in listed} == {
        name: len(data) for name, data in contents.items()
    }
    for name, data in contents.items():
        target = wire.target(f"files/content/{urllib.parse.quote(name)}", langchain_query(wire))
        assert wire.send("GET", target, requests_headers(LANGCHAIN)).ok().body == data


def test_langchain_full_path_in_url_keeps_its_slashes(wire):
    """quote() leaves '/' as it is."""
    langchain_upload(wire, "hello.txt", b"hello")
    for path in ("/mnt/data/hello.txt", "hello.txt"):
        target = wire.target(f"files/content/{urllib.parse.quote(path)}", langchain_query(wire))
        assert wire.send("GET", target, requests_headers(LANGCHAIN)).ok().body == b"hello"


def test_langchain_deletes_with_a_newer_version(wire):
    langchain_run(wire, "1")
    target = wire.target("session", langchain_query(wire, NEW))
    reply = wire.send("DELETE", target, requests_headers(LANGCHAIN, ("Content-Length", "0")))
    assert reply.status == 204
    assert wire.identifier not in wire.pool.identifiers()


def test_langchain_compute_encodes_every_value(pool):
    wire = Wire(pool, "user/1:ü".replace("ü", "u"))
    encoded = urllib.parse.quote(wire.identifier, safe="")
    tail = f"path=%2Fmnt%2Fdata&identifier={encoded}&api-version={NEW}"
    head = 'Content-Disposition: form-data; name="file"; filename="a b.txt"\r\nContent-Type: application/octet-stream'
    headers = requests_headers(LANGCHAIN, ("Content-Type", "multipart/form-data; boundary=X"))
    entry = wire.send("POST", wire.target("files", tail), headers, form_of(head, b"four", "X")).ok().json
    assert (entry["name"], entry["sizeInBytes"]) == ("a b.txt", 4)
    tail = f"identifier={encoded}&api-version={NEW}"
    listed = wire.send("GET", wire.target("files", tail), requests_headers(LANGCHAIN)).ok().json["value"]
    assert [(e["name"], e["sizeInBytes"]) for e in listed] == [("a b.txt", 4)]
    reply = wire.send("GET", wire.target("files/a%20b.txt/content", tail), requests_headers(LANGCHAIN))
    assert reply.ok().body == b"four"
    pool.session(wire.identifier).delete()


def test_langchain_compute_pages_what_was_cut(wire):
    """It takes 4093 bytes and more for cut output, and reads on in smaller pieces."""
    text = "".join(chr(97 + i % 26) for i in range(10_000))
    langchain_run(wire, f"text = {text!r}")
    first = langchain_run(wire, "print(text, end='')")["stdout"]
    assert len(first.encode()) >= 4093
    pieces = [langchain_run(wire, f"print(text[{i}:{i + 4000}], end='')")["stdout"] for i in range(0, 10_000, 4000)]
    assert "".join(pieces) == text and all(len(p) < 4093 for p in pieces)


# --- llama-index-tools-azure-code-interpreter 0.7 ---


def test_llamaindex_python_execute(wire):
    """Appends a line break; returns the whole document."""
    body = {
        "properties": {"codeInputType": "inline", "executionType": "synchronous", "code": "'2024'\n"}
    }
    target = wire.target("code/execute", f"identifier={wire.identifier}&api-version={V24}")
    headers = requests_headers("llamaindex-azure-code-interpreter", JSON)
    found = json_type(wire.send("POST", target, headers, json.dumps(body)))
    assert found["properties"]["result"] == "2024"
    body["properties"]["code"] = FIGURE + "\n"
    image = wire.send("POST", target, headers, json.dumps(body)).ok().json["properties"]["result"]
    assert f"x.{image['format']}" == "x.png" and base64.b64decode(image["base64_data"])


def test_llamaindex_python_files(wire):
    """An absolute name on upload, the bare one (not quoted by it, but by its HTTP library) on download."""
    tail = f"identifier={wire.identifier}&api-version={V24}"
    head = 'Content-Disposition: form-data; name="file"; filename="/mnt/data/a b.csv"'
    headers = [AUTH, ("Content-Type", "multipart/form-data; boundary=6b0c1d2e")]
    body = form_of(head, b"1,2\r\n", "6b0c1d2e")
    value = wire.send("POST", wire.target("files/upload", tail), headers, body).ok().json["value"]
    assert [(v["properties"]["filename"], v["properties"]["size"]) for v in value] == [("a b.csv", 5)]
    listed = wire.send("GET", wire.target("files", tail)).ok().json["value"]
    assert [v["properties"]["filename"] for v in listed] == ["a b.csv"]
    assert wire.send("GET", wire.target("files/content/a%20b.csv", tail)).ok().body == b"1,2\r\n"


# --- semantic-kernel (Python), SessionsPythonTool ---

SK_AGENT = ("User-Agent", "python-httpx/0.28.1")
HTTPX = [("Accept", "*/*"), ("Accept-Encoding", "gzip, deflate"), ("Connection", "keep-alive"), SK_AGENT]


def sk_run(wire, code, base=None):
    body = {
        "properties": {
            "codeInputType": "inline",
            "executionType": "synchronous",
            "code": code,
            "timeoutInSeconds": 100,
        }
    }
    target = f"{base or wire.base + '/'}code/execute?identifier={wire.identifier}&api-version={V24}"
    text = json.dumps(body, separators=(",", ":"))
    reply = wire.send("POST", target, [*HTTPX, AUTH, JSON], text).ok()
    return reply.json["properties"]


def test_semantic_kernel_execute_has_all_four_keys(wire):
    for code, status in (("6*7", "Success"), ("x = 1", "Success"), ("1/0", "Failure"), ("", "Success")):
        properties = sk_run(wire, code)
        text = "Status:\n{}\nResult:\n{}\nStdout:\n{}\nStderr:\n{}".format(
            *(properties[key] for key in ("status", "result", "stdout", "stderr"))
        )
        assert text.startswith(f"Status:\n{status}\n")


def test_semantic_kernel_execute_with_values_that_are_not_encoded(pool):
    """httpx escapes what no URL may hold, and leaves the rest."""
    wire = Wire(pool, "chat:1@host/a;b=c,d'(e)*!$")
    assert sk_run(wire, "6*7")["result"] == 42
    assert wire.identifier in pool.identifiers()
    pool.session(wire.identifier).delete()


def test_semantic_kernel_upload_is_announced_as_json(wire):
    """The client keeps the content type of the execution before; the body is a form."""
    tail = f"identifier={wire.identifier}&api-version={V24}"
    sk_run(wire, "1")
    boundary = uuid.uuid4().hex
    head = 'Content-Disposition: form-data; name="file"; filename="/mnt/data/test.txt"\r\nContent-Type: application/octet-stream'
    body = form_of(head, b"hello", boundary)
    target = wire.target("files/upload", tail)
    wire.send("POST", target, [*HTTPX, AUTH, JSON, ("Content-Length", str(len(body)))], body).ok()
    # It ignores that reply and looks for its name in the list.
    listed = wire.send("GET", wire.target("files", tail), [*HTTPX, AUTH, JSON]).ok().json["value"]
    names = [e["properties"]["filename"] for e in listed]
    assert [n for n in names if n in ("test.txt", "/mnt/data/test.txt")]
    assert all(isinstance(e["properties"]["size"], int) and e["properties"]["lastModifiedTime"] for e in listed)
    target = wire.target("files/content/test.txt", tail)
    assert wire.send("GET", target, [*HTTPX, AUTH, JSON]).ok().body == b"hello"


def test_semantic_kernel_error_has_a_text(wire):
    target = wire.target("files/content/none.txt", f"identifier={wire.identifier}&api-version={V24}")
    reply = wire.send("GET", target, [*HTTPX, AUTH])
    assert reply.status == 404 and reply.text


def test_semantic_kernel_1_0_speaks_the_oldest_form(wire):
    """api-version 2023-08-01-preview; lists are flat, and called $values."""
    tail = f"identifier={wire.identifier}&api-version=2023-08-01-preview"
    boundary = uuid.uuid4().hex
    head = 'Content-Disposition: form-data; name="file"; filename="/mnt/data/a.txt"\r\nContent-Type: application/octet-stream'
    headers = [*HTTPX, AUTH, ("Content-Type", f"multipart/form-data; boundary={boundary}")]
    target = wire.target("python/uploadFile", tail)
    wire.send("POST", target, headers, form_of(head, b"oldest", boundary)).ok()
    listed = wire.send("GET", wire.target("python/files", tail), [*HTTPX, AUTH]).ok().json["$values"]
    assert [(e["filename"], e["size"]) for e in listed] == [("a.txt", 6)] and listed[0]["last_modified_time"]
    for name in ("a.txt", "%2Fmnt%2Fdata%2Fa.txt", "/mnt/data/a.txt"):
        target = wire.target("python/downloadFile", f"{tail}&filename={name}")
        assert wire.send("GET", target, [*HTTPX, AUTH]).ok().body == b"oldest"


# --- autogen-ext, ACADynamicSessionsCodeExecutor 0.7.5 ---

AIOHTTP = [
    AUTH,
    ("Accept", "*/*"),
    ("Accept-Encoding", "gzip, deflate"),
    ("User-Agent", "Python/3.11 aiohttp/3.11.11"),
]


def autogen_query(wire):
    return f"api-version={V24}&identifier={wire.identifier}"


def autogen_run(wire, code):
    body = {"properties": {"codeInputType": "inline", "executionType": "synchronous", "code": code}}
    target = wire.target("code/execute", autogen_query(wire))
    return json_type(wire.send("POST", target, [*AIOHTTP, JSON], json.dumps(body)))["properties"]


def autogen_output(properties):
    assert "Success" in properties["status"] or "Failure" in properties["status"]
    return properties["stderr"] + properties["stdout"] + str(properties["result"])


def test_autogen_first_runs(wire):
    code = "\nimport pkg_resources\n[d.project_name for d in pkg_resources.working_set]\n"
    found = autogen_run(wire, code)
    assert "Success" in found["status"]
    packages = {p.strip("'") for p in found["result"].strip("[]").split(",\n ")}
    assert {"numpy", "pandas"} <= packages and all(re.fullmatch(r"[\w.\-]+", p) for p in packages)
    assert autogen_output(autogen_run(wire, "import os; os.chdir('/mnt/data')")) == ""


def test_autogen_output_is_what_was_printed(wire):
    """None would be shown as "None"."""
    assert autogen_output(autogen_run(wire, "import sys; print('hello world!')")) == "hello world!\n"
    found = autogen_run(wire, "import sys\nprint('out')\nraise SystemError('no')")
    assert "Failure" in found["status"]
    assert "SystemError: no" in autogen_output(found)


def test_autogen_upload(wire):
    """Chunked; in the part, the type comes before the disposition."""
    boundary = uuid.uuid4().hex
    data = b"test_file_1 contents" * 1000
    head = 'Content-Type: application/octet-stream\r\nContent-Disposition: form-data; name="file"; filename="test_file_1.txt"'
    body = form_of(head, data, boundary)
    more = [("Content-Type", f"multipart/form-data; boundary={boundary}"), ("Transfer-Encoding", "chunked")]
    request = wire.head("POST", wire.target("files/upload", autogen_query(wire)), [*AIOHTTP, *more])
    start = body.index(data)
    pieces = chunked(body[: start - 4], body[start - 4 : start], data, body[start + len(data) :])
    with RawConnection(wire.pool.client.address) as raw:
        raw.send(request + pieces)
        raw.reply().ok()
    listed = json_type(wire.send("GET", wire.target("files", autogen_query(wire)), AIOHTTP))["value"]
    assert [e["properties"]["filename"] for e in listed] == ["test_file_1.txt"]
    target = wire.target("files/content/test_file_1.txt", autogen_query(wire))
    assert wire.send("GET", target, AIOHTTP).ok().body == data


def test_autogen_hangs_up(wire):
    autogen_run(wire, "n = 0")
    body = json.dumps({"properties": {"code": "import time; time.sleep(0.2); n += 1"}}).encode()
    with RawConnection(wire.pool.client.address) as raw:
        target = wire.target("code/execute", autogen_query(wire))
        raw.send(wire.head("POST", target, [*AIOHTTP, JSON], len(body)) + body)
    assert autogen_run(wire, "n")["result"] in (0, 1)


# --- Azure-Samples autogen-python-webapi: the oldest form ---


def test_webapi_sample(wire):
    body = {
        "properties": {
            "identifier": wire.identifier,
            "codeInputType": "inline",
            "executionType": "synchronous",
            "pythonCode": "print('hi')\n6*7",
            "timeoutInSeconds": 100,
        }
    }
    target = wire.target("python/execute", f"identifier={wire.identifier}")
    found = wire.send("POST", target, requests_headers("python-requests/2.32", JSON), json.dumps(body)).ok().json
    assert "error" not in found
    assert (found["stdout"], found["stderr"], found["result"]) == ("hi\n", "", 42)


# --- JavaScript: @langchain/azure-dynamic-sessions 1.0.1, samples ---

UNDICI = [
    ("connection", "keep-alive"),
    AUTH,
    ("accept", "*/*"),
    ("accept-language", "*"),
    ("sec-fetch-mode", "cors"),
    ("user-agent", "@langchain/azure-dynamic-sessions/1.0.1 (Language=TypeScript; node.js/v20)"),
    ("accept-encoding", "gzip, deflate"),
]


def test_langchainjs_execute_is_exact(wire):
    body = '{"properties":{"codeInputType":"inline","executionType":"synchronous","code":"print(\'hello world\\\\n\'); 1 + 1"}}'
    target = wire.target("code/execute", f"identifier={wire.identifier}&api-version={V24}")
    found = wire.send("POST", target, [*UNDICI, ("content-type", "application/json")], body).ok().json
    properties = found["properties"]
    text = {key: properties[key] for key in ("result", "stdout", "stderr")}
    assert text == {"result": 2, "stdout": "hello world\n\n", "stderr": ""}


def test_langchainjs_files(wire):
    tail = f"identifier={wire.identifier}&api-version={V24}"
    boundary = "----formdata-undici-017430163012"
    head = 'Content-Disposition: form-data; name="file"; filename="grüße.txt"\r\nContent-Type: application/octet-stream'
    headers = [*UNDICI, ("content-type", f"multipart/form-data; boundary={boundary}")]
    body = form_of(head, b"hello world!", boundary)
    properties = wire.send("POST", wire.target("files/upload", tail), headers, body).ok().json["value"][0]["properties"]
    assert properties["filename"] == "grüße.txt" and properties["size"] == 12
    assert properties["$id"] and properties["last_modified_time"] == properties["lastModifiedTime"]
    target = wire.target("files/content/gr%C3%BC%C3%9Fe.txt", tail)
    assert wire.send("GET", target, UNDICI).ok().body == b"hello world!"


def test_javascript_samples(wire):
    """No api-version, unknown properties, a double slash before the path."""
    body = (
        '{"properties":{"identifier":"other","codeInputType":"inline","executionType":"synchronous",'
        '"code":"6*7","timeout":100,"enableEgress":true}}'
    )
    target = f"{wire.base}//code/execute?identifier={wire.identifier}"
    found = wire.send("POST", target, [*UNDICI, ("content-type", "text/plain;charset=UTF-8")], body).ok().json
    assert found["properties"]["result"] == 42
    assert wire.identifier in wire.pool.identifiers() and "other" not in wire.pool.identifiers()
    body = body.replace('"code"', '"pythonCode"')
    assert wire.send("POST", target, [*UNDICI, JSON], body).ok().json["properties"]["result"] == 42


# --- Semantic Kernel for .NET, SessionsPythonPlugin ---

DOTNET = [AUTH, ("User-Agent", "Semantic-Kernel"), ("Semantic-Kernel-Version", "1.61.0")]


def dotnet_target(wire, where):
    return wire.target(where, f"identifier={wire.identifier}&api-version={V2410}")


def dotnet_run(wire, code):
    body = json.dumps(
        {"codeInputType": "Inline", "executionType": "Synchronous", "timeoutInSeconds": 100, "code": code},
        separators=(",", ":"),
    )
    headers = [*DOTNET, ("Content-Type", "application/json; charset=utf-8")]
    return wire.send("POST", dotnet_target(wire, "executions"), headers, body).ok().json


def dotnet_upload(wire, name, data):
    boundary = str(uuid.uuid4())
    quoted = urllib.parse.quote(name, safe="")
    plain = name if name.isascii() and " " not in name else f'"=?utf-8?B?{base64.b64encode(name.encode()).decode()}?="'
    head = f"Content-Disposition: form-data; name=file; filename={plain}; filename*=utf-8''{quoted}"
    headers = [*DOTNET, ("Content-Type", f'multipart/form-data; boundary="{boundary}"')]
    return wire.send("POST", dotnet_target(wire, "files"), headers, form_of(head, data, boundary)).ok().json


@pytest.mark.parametrize("code", ["6*7", "print('x')", "1/0", "a=None;a", "[1, 2]", "0.5", "True", FIGURE])
def test_dotnet_execute_is_strings_and_null(wire, code):
    found = dotnet_run(wire, code)
    assert found["status"] in ("Succeeded", "Failed")
    for key in ("stdout", "stderr", "executionResult"):
        assert found["result"][key] is None or isinstance(found["result"][key], str)
    assert isinstance(found["executionType"], str)


def test_dotnet_upload(wire):
    entry = dotnet_upload(wire, "test_file.txt", b"hello")
    assert entry["name"] == "test_file.txt" and entry["type"] == "file"
    assert entry["contentType"] == "text/plain; charset=utf-8"
    assert entry["sizeInBytes"] == 5 and type(entry["sizeInBytes"]) is int
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z", entry["lastModifiedAt"])
    assert dotnet_upload(wire, "grüße 1.txt", b"")["name"] == "grüße 1.txt"


def test_dotnet_list_and_download(wire):
    for i in (1, 2):
        dotnet_upload(wire, f"test_file_{i}.txt", b"%d" % i)
    listed = wire.send("GET", dotnet_target(wire, "files"), DOTNET).ok().json["value"]
    assert [e["name"] for e in listed] == ["test_file_1.txt", "test_file_2.txt"]
    dotnet_run(wire, "import os\nos.mkdir('d')\nopen('d/f.txt', 'w').write('deep');")
    reply = wire.send("GET", dotnet_target(wire, "files/d%2Ff.txt/content"), DOTNET).ok()
    assert reply.body == b"deep"


# --- langchain4j, SessionsREPLTool, over java.net.http ---

JAVA = [
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
    ("Upgrade", "h2c"),
    ("User-Agent", "Java-http-client/17.0.9"),
    AUTH,
]


def java_target(wire, where):
    return wire.target(where, f"identifier={wire.identifier}&api-version={V24}")


def test_langchain4j_execute(wire):
    body = '{"properties":{"codeInputType":"inline","executionType":"synchronous","code":"6*7"}}'
    found = wire.send("POST", java_target(wire, "code/execute"), [*JAVA, JSON], body).ok().json
    properties = found["properties"]
    assert properties["result"] == 42
    assert all(isinstance(properties[key], str) for key in ("stdout", "stderr"))


def test_langchain4j_files(wire):
    boundary = "----1731000000000"
    head = 'Content-Disposition: form-data; name="file"; filename="f.txt"\r\nContent-Type: application/json'
    headers = [*JAVA, ("Content-Type", f"multipart/form-data; boundary={boundary}")]
    body = form_of(head, b"java", boundary)
    value = wire.send("POST", java_target(wire, "files/upload"), headers, body).ok().json["value"]
    assert value[0]["properties"]["filename"] == "f.txt" and value[0]["properties"]["size"] == 4
    listed = wire.send("GET", java_target(wire, "files"), JAVA).ok().json["value"]
    assert [e["properties"]["filename"] for e in listed] == ["f.txt"]
    assert wire.send("GET", java_target(wire, "files/content/f.txt"), JAVA).ok().body == b"java"


def test_langchain4j_missing_file_has_404_in_its_body(wire):
    reply = wire.send("GET", java_target(wire, "files/content/none.txt"), JAVA)
    assert reply.status == 404 and "404" in reply.text and reply.json["error"]["message"]


def test_langchain4j_errors_have_a_message(wire):
    reply = wire.send("POST", java_target(wire, "code/execute"), [*JAVA, JSON], "{}")
    assert reply.status == 400 and "400" in reply.json["error"]["message"]


# --- az containerapp session code-interpreter ---

AZ = [
    ("User-Agent", "AZURECLI/2.79.0 (DEB) azsdk-python-core/1.35.0 Python/3.12.10"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Accept", "*/*"),
    ("Connection", "keep-alive"),
    ("x-ms-client-request-id", "0b0a5d52-6f0e-11f0-8de9-0242ac120002"),
    ("CommandName", "containerapp session code-interpreter execute"),
    ("ParameterSetName", "-n -g --identifier --code"),
    AUTH,
]
AZ_VERSION = "2025-02-02-preview"


def az_target(wire, where, path=None):
    tail = f"identifier={wire.identifier}&api-version={AZ_VERSION}"
    return wire.target(where, tail if path is None else f"path={path}&{tail}")


def test_az_execute_in_an_envelope(wire):
    body = json.dumps(
        {
            "properties": {
                "identifier": wire.identifier,
                "codeInputType": "inline",
                "executionType": "synchronous",
                "timeoutInSeconds": 60,
                "code": "print('Hello world')",
            }
        }
    )
    reply = wire.send("POST", az_target(wire, "executions"), [*AZ, JSON], body)
    assert reply.status == 200
    assert reply.json["status"] == "Succeeded" and reply.json["result"]["stdout"] == "Hello world\n"


@pytest.mark.parametrize("path", ["", "/", "sub/dir"])
def test_az_files(wire, path):
    """The part has no type; `path` may be empty; a name with directories is taken apart by it."""
    boundary = uuid.uuid4().hex
    headers = [*AZ, ("Content-Type", f"multipart/form-data; boundary={boundary}")]
    head = 'Content-Disposition: form-data; name="file"; filename="cert.txt"'
    body = form_of(head, b"testing", boundary)
    reply = wire.send("POST", az_target(wire, "files", path), headers, body)
    assert reply.status == 200 and reply.json["name"] == "cert.txt"  # 201 would begin a poll
    listed = wire.send("GET", az_target(wire, "files", path), AZ).ok().json["value"]
    assert [e["name"] for e in listed] == ["cert.txt"]
    assert wire.send("GET", az_target(wire, "files/cert.txt/content", path), AZ).ok().body == b"testing"
    assert wire.send("GET", az_target(wire, "files/cert.txt", path), AZ).ok().json["sizeInBytes"] == 7
    reply = wire.send("DELETE", az_target(wire, "files/cert.txt", path), [*AZ, ("Content-Length", "0")])
    assert reply.status == 204
    assert wire.send("GET", az_target(wire, "files", path), AZ).ok().json["value"] == []


def test_az_session_stop(pool):
    wire = Wire(pool)
    wire.execute("1")
    target = az_target(wire, ".management/stopSession")
    reply = wire.send("POST", target, [*AZ, JSON])
    assert reply.ok().text == f"Session {wire.identifier} in session pool {pool.name} stopped."
    assert wire.send("POST", target, [*AZ, JSON]).status >= 400


# --- crabbox (Go) and curl ---

GO = [("User-Agent", "Go-http-client/1.1"), ("Content-Length", "0"), AUTH, ("Accept-Encoding", "gzip")]


def test_crabbox_management(pool):
    wire = Wire(pool)
    wire.execute("1")
    tail = f"api-version={NEW}&identifier={wire.identifier}"
    found = wire.send("POST", wire.target(".management/getSession", tail), GO).ok().json
    assert found["identifier"] == wire.identifier and found["expiresAt"] > found["createdAt"]
    listed = wire.send("POST", wire.target(".management/listSessions", f"api-version={NEW}&skip=0"), GO).ok().json
    assert wire.identifier in [s["identifier"] for s in listed["value"]]
    wire.send("POST", wire.target(".management/stopSession", tail), GO).ok()
    wire.send("POST", wire.target(".management/getSession", tail), GO).error(400)


@pytest.mark.parametrize("where, version", [("files", NEW), ("files/upload", OLD)])
def test_curl_upload_waits_for_the_interim_reply(wire, where, version):
    """curl -F with a body over one megabyte."""
    boundary = "------------------------d74496d66958873e"
    data = bytes(range(256)) * 8192
    head = 'Content-Disposition: form-data; name="file"; filename="big.bin"\r\nContent-Type: application/octet-stream'
    body = form_of(head, data, boundary)
    headers = [
        AUTH,
        ("User-Agent", "curl/7.88.1"),
        ("Accept", "*/*"),
        ("Content-Length", str(len(body))),
        ("Content-Type", f"multipart/form-data; boundary={boundary}"),
        ("Expect", "100-continue"),
    ]
    target = wire.target(where, f"identifier={wire.identifier}&api-version={version}")
    with RawConnection(wire.pool.client.address) as raw:
        raw.send(wire.head("POST", target, headers))
        interim = b""
        while not interim.endswith(b"\r\n\r\n"):
            interim += raw.socket.recv(1)
        assert interim.startswith(b"HTTP/1.1 100")
        raw.send(body)
        raw.reply().ok()
    target = wire.target("files/big.bin/content", f"identifier={wire.identifier}")
    assert wire.send("GET", target).ok().body == data


def test_fetch_streams_its_body(wire):
    """A stream as body is chunked, and its first chunk may be the boundary alone."""
    boundary = "----formdata-undici-000000000001"
    head = 'Content-Disposition: form-data; name="file"; filename="s.bin"\r\nContent-Type: application/octet-stream'
    headers = [*UNDICI, ("content-type", f"multipart/form-data; boundary={boundary}"), ("transfer-encoding", "chunked")]
    target = wire.target("files", f"identifier={wire.identifier}&api-version={NEW}")
    with RawConnection(wire.pool.client.address) as raw:
        raw.send(wire.head("POST", target, headers) + chunks_of(form_of(head, b"streamed", boundary), len(boundary) + 2))
        assert raw.reply().ok().json["sizeInBytes"] == 8
