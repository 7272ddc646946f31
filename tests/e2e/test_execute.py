# SPDX-License-Identifier: Apache-2.0
"""Executions: request and reply shapes, typing of values, limits, timeouts, the queue."""

import base64
import http.client
import json
import re
import threading
import time
import urllib.parse
import uuid

import pytest

from conftest import NEW, NEW_VERSIONS, OLD, OLD_VERSIONS, Background, png_size, unique, wait_for

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIMEOUT_TEXT = "Request timed out waiting for code execution to complete"
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()"

# The request of the founding document, as it stands there.
FOUNDING_BODY = """{
    "properties": {
        "codeInputType": "inline",
        "executionType": "synchronous",
        "code": "import pandas as pd\\ndf = pd.DataFrame({'A': [1, 2, 3], 'B': [4, 5, 6]})\\nprint(df.describe())"
    }
}
"""
FOUNDING_STDOUT = (
    "         A    B\n"
    "count  3.0  3.0\n"
    "mean   2.0  5.0\n"
    "std    1.0  1.0\n"
    "min    1.0  4.0\n"
    "25%    1.5  4.5\n"
    "50%    2.0  5.0\n"
    "75%    2.5  5.5\n"
    "max    3.0  6.0\n"
)


def flat(code, **more):
    return {"codeInputType": "Inline", "executionType": "Synchronous", "code": code, **more}


def wrapped(code, **more):
    return {
        "properties": {
            "codeInputType": "inline",
            "executionType": "synchronous",
            "code": code,
            **more,
        }
    }


# --- shapes ---


@pytest.mark.parametrize("version", NEW_VERSIONS)
def test_new_shape(session, version):
    reply = session.post("print('hello'); 6*7", version=version).ok()
    document = reply.json
    assert set(document) - {"$id"} == {"id", "identifier", "executionType", "status", "result"}
    assert UUID.fullmatch(document["id"])
    assert document["identifier"] == session.identifier
    assert document["executionType"] == "Synchronous"
    assert document["status"] == "Succeeded"
    result = document["result"]
    assert result["stdout"] == "hello\n" and result["stderr"] == ""
    assert isinstance(result["executionTimeInMilliseconds"], int)
    assert result["executionTimeInMilliseconds"] >= 0
    expected = "42" if version == "2024-10-02-preview" else 42
    assert result["executionResult"] == expected
    assert type(result["executionResult"]) is type(expected)


@pytest.mark.parametrize(
    "code, text",
    [
        ("6*7", "42"),
        ("0.5", "0.5"),
        ("True", "True"),
        ("'word'", "word"),
        ("[1, 2]", "[1, 2]"),
        ("x = 1", ""),
        ("a = None; a", None),
        ("float('nan')", "nan"),
    ],
)
def test_version_2024_10_02_has_string_or_null(session, code, text):
    assert session.value(code, version="2024-10-02-preview") == text


def test_version_2024_10_02_figure_is_string_or_null(session):
    # The .NET client of this version declares the property as `string?`.
    value = session.result(FIGURE, version="2024-10-02-preview")["executionResult"]
    assert value is None or isinstance(value, str)


@pytest.mark.parametrize("version", OLD_VERSIONS)
def test_old_shape(session, version):
    reply = session.call("POST", "code/execute", wrapped("print('hello'); 6*7"), version).ok()
    document = reply.json
    assert set(document) <= {"$id", "properties"}
    properties = document["properties"]
    assert properties["status"] == "Success"
    assert properties["stdout"] == "hello\n" and properties["stderr"] == ""
    assert properties["result"] == 42
    assert isinstance(properties["executionTimeInMilliseconds"], int)


@pytest.mark.parametrize("version", [NEW, None, "2024-10-02-preview"])
def test_code_execute_is_old_shape_at_any_version(session, version):
    document = session.call("POST", "code/execute", wrapped("6*7"), version).ok().json
    assert document["properties"]["result"] == 42
    assert document["properties"]["status"] == "Success"


@pytest.mark.parametrize("version", [OLD, None, "2030-01-01", "2030-01-01-preview"])
def test_executions_is_new_shape_at_any_version(session, version):
    document = session.call("POST", "executions", flat("6*7"), version).ok().json
    assert document["status"] == "Succeeded"
    assert document["result"]["executionResult"] == 42


def test_python_execute_is_flat(session):
    body = {
        "properties": {
            "identifier": session.identifier,
            "codeInputType": "inline",
            "executionType": "synchronous",
            "pythonCode": "print('hi'); 6*7",
            "timeoutInSeconds": 100,
        }
    }
    document = session.call("POST", "python/execute", body, OLD).ok().json
    for place in (document, document["properties"]):
        assert place["stdout"] == "hi\n"
        assert place["stderr"] == ""
        assert place["result"] == 42
        assert place["status"] == "Success"
    assert "error" not in document


def test_python_execute_never_has_null(session):
    document = session.call("POST", "python/execute", wrapped("a = None; a"), OLD).ok().json
    assert document["result"] == "" and document["properties"]["result"] == ""


def test_founding_form(pool):
    session = pool.session()
    path = (
        f"{pool.path}/identifier/{session.identifier}/code/execute?api-version=2024-02-02-preview"
    )
    reply = pool.client.request(
        "POST", path, FOUNDING_BODY, {"Content-Type": "application/json"}
    ).ok()
    document = reply.json
    assert document["status"] == "Success"
    result = document["result"]
    assert result["stdout"] == FOUNDING_STDOUT
    assert result["stderr"] == ""
    assert isinstance(result["executionTimeMs"], int)
    # It is the session that the query form names.
    assert session.value("list(df.columns)") == "['A', 'B']"
    session.delete()


def test_founding_form_failure_and_value(session):
    path = f"{session.pool.path}/identifier/{session.identifier}/code/execute"
    document = session.pool.client.request("POST", path, wrapped("1/0")).ok().json
    assert document["status"] == "Failure"
    assert "ZeroDivisionError" in document["result"]["stderr"]
    document = session.pool.client.request("POST", path, wrapped("6*7")).ok().json
    assert document["result"]["executionResult"] == 42


@pytest.mark.parametrize("where, version", [("executions", NEW), ("code/execute", OLD)])
@pytest.mark.parametrize("make", [flat, wrapped])
def test_wrapped_and_flat_bodies(session, where, version, make):
    document = session.call("POST", where, make("print('x')"), version).ok().json
    assert document.get("properties", document.get("result"))["stdout"] == "x\n"


@pytest.mark.parametrize("kind", ["Inline", "inline", "INLINE", "InlineText", "inlinetext", None])
@pytest.mark.parametrize("execution", ["Synchronous", "synchronous", "SYNCHRONOUS", None])
def test_enums_in_any_case(session, kind, execution):
    body = {"code": "1", "codeInputType": kind, "executionType": execution}
    body = {key: value for key, value in body.items() if value}
    document = session.call("POST", "executions", body).ok().json
    assert document["result"]["executionResult"] == 1
    assert document["executionType"] == (execution or "Synchronous")


def test_unknown_fields_are_ignored(session):
    body = flat("1", identifier=session.identifier, timeout=10, enableEgress=True, other={"a": [1]})
    assert session.call("POST", "executions", body).ok().json["result"]["executionResult"] == 1


@pytest.mark.parametrize("kind", ["InlineBase64", "inlinebase64"])
def test_base64(session, kind):
    code = "text = 'grüße ☃'\nprint(text)"
    sent = base64.b64encode(code.encode()).decode()
    assert session.stdout(sent, codeInputType=kind) == "grüße ☃\n"


@pytest.mark.parametrize(
    "path",
    ["{p}//executions", "{p}/executions/", "//{p}/executions", "{p}///executions//"],
)
def test_slashes(session, path):
    path = path.format(p=session.pool.path) + f"?identifier={session.identifier}&api-version={NEW}"
    reply = session.pool.client.request("POST", path, flat("40+2")).ok()
    assert reply.json["result"]["executionResult"] == 42


def test_keywords_of_the_path_in_any_case(session):
    path = session.pool.path.replace("sessionPools", "SESSIONPOOLS").replace(
        "resourceGroups", "resourcegroups"
    )
    path += f"/Code/Execute?identifier={session.identifier}"
    assert session.pool.client.request("POST", path, wrapped("1")).ok()


@pytest.mark.parametrize(
    "order", [("identifier", "api-version", "x"), ("x", "api-version", "identifier")]
)
def test_any_query_order(session, order):
    values = {"identifier": session.identifier, "api-version": NEW, "x": "1"}
    query = "&".join(f"{key}={values[key]}" for key in order)
    path = f"{session.pool.path}/executions?{query}"
    document = session.pool.client.request("POST", path, flat("1")).ok().json
    assert document["identifier"] == session.identifier


@pytest.mark.parametrize(
    "identifier", ["user:a@b/c", "a+b=c!", "x|-&^%$#(){}[];<>", "quo'te\"s?*,\\~._", "100%41"]
)
def test_encoded_identifiers(pool, identifier):
    session = pool.session(identifier)
    assert session.run("mark = 5")["identifier"] == identifier
    assert session.value("mark") == 5
    assert identifier in pool.identifiers()
    session.delete().ok(204)


def test_raw_and_encoded_identifiers_are_one(pool):
    # LangChain leaves '/' raw, its successor encodes it; Semantic Kernel encodes nothing.
    session = pool.session("user:1/thread:2")
    session.run("mark = 7")
    path = f"{pool.path}/executions?identifier=user:1/thread:2&api-version={NEW}"
    document = pool.client.request("POST", path, flat("mark")).ok().json
    assert document["result"]["executionResult"] == 7
    session.delete().ok(204)


def test_plus_in_query_stays_plus(pool):
    session = pool.session("a+b-plus")
    session.run("mark = 1")
    path = f"{pool.path}/executions?identifier=a+b-plus&api-version={NEW}"
    assert pool.client.request("POST", path, flat("mark")).ok().json["status"] == "Succeeded"
    session.delete().ok(204)


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/json; charset=utf-8",
        "text/plain;charset=UTF-8",
        "application/octet-stream",
        "",
    ],
)
def test_body_is_json_whatever_its_content_type(session, content_type):
    reply = session.call(
        "POST", "executions", json.dumps(flat("1")), headers={"Content-Type": content_type}
    )
    assert reply.ok().json["result"]["executionResult"] == 1


def test_upgrade_to_h2c_is_ignored(session):
    headers = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAEAAEAAAAIAAAAB",
    }
    assert session.post("1", headers=headers).ok().json["status"] == "Succeeded"


def test_chunked_request_and_keep_alive(session):
    connection = http.client.HTTPConnection(*session.pool.client.address, timeout=30)
    headers = {"Authorization": f"Bearer {session.pool.client.token}"}
    body = json.dumps(flat("'chunked'")).encode()
    for _ in range(3):
        connection.request(
            "POST",
            session.path("executions"),
            iter([body[:10], body[10:]]),
            {**headers, "Transfer-Encoding": "chunked"},
            encode_chunked=True,
        )
        local = connection.sock.getsockname()
        response = connection.getresponse()
        assert json.loads(response.read())["result"]["executionResult"] == "chunked"
        assert connection.sock and connection.sock.getsockname() == local
    connection.close()


def test_expect_100_continue(session, daemon):
    body = json.dumps(flat("'continued'"))
    with daemon.raw() as raw:
        raw.send(
            f"POST {session.path('executions')} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            f"Authorization: Bearer {daemon.token}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += raw.socket.recv(4096)
        assert head.startswith(b"HTTP/1.1 100 ")
        raw.send(body)
        assert raw.reply().ok().json["result"]["executionResult"] == "continued"


# --- headers ---


def test_operation_id(session):
    wanted = str(uuid.uuid4())
    reply = session.post("1", headers={"operation-id": wanted}).ok()
    assert reply.json["id"] == wanted and reply.headers["operation-id"] == wanted
    assert session.execution(wanted)["status"] == "Succeeded"
    # Without one the server chooses, and says so.
    reply = session.post("1").ok()
    assert reply.headers["operation-id"] == reply.json["id"] != wanted


def test_operation_id_twice_is_a_conflict(session):
    headers = {"operation-id": unique("op")}
    session.post("1", headers=headers).ok()
    session.post("1", headers=headers).error(409)


@pytest.mark.parametrize("bad", ["a b", "a/b", "../x", "x" * 128, "é".encode("latin-1")])
def test_operation_id_malformed(session, bad):
    session.post("1", headers={"operation-id": bad}).error(400)


def test_operation_id_at_limit(session):
    wanted = "x" * 127
    assert session.post("1", headers={"operation-id": wanted}).ok().json["id"] == wanted


def test_timing_headers(new_session):
    session = new_session()
    first = session.post("import time; time.sleep(0.2)").ok().headers
    second = session.post("1").ok().headers
    milliseconds = [
        "x-ms-allocation-time",
        "x-ms-preparation-time",
        "x-ms-execution-request-time",
        "x-ms-execution-read-response-time",
        "x-ms-container-execution-duration",
        "x-ms-overall-execution-time",
        "x-ms-total-execution-service-time",
    ]
    for headers in (first, second):
        assert all(float(headers[name]) >= 0 for name in milliseconds)
        assert UUID.fullmatch(headers["mise-correlation-id"])
        assert NEW in headers["api-supported-versions"]
        assert headers["x-ms-allocation-retries"] == "0"
        assert float(headers["x-ms-total-execution-service-time"]) >= float(
            headers["x-ms-overall-execution-time"]
        )
    assert float(first["x-ms-container-execution-duration"]) >= 200
    assert first["x-ms-new-allocation"] == "true" and second["x-ms-new-allocation"] == "false"
    assert UUID.fullmatch(first["x-ms-session-guid"])
    assert first["x-ms-session-guid"] == second["x-ms-session-guid"]
    assert "x-ms-allocation-time" not in session.call("GET", "files").ok().headers


def test_execution_time_is_the_codes_time(session):
    result = session.result("import time; time.sleep(0.3)")
    assert 300 <= result["executionTimeInMilliseconds"] < 5000


# --- typing of the value ---


@pytest.mark.parametrize(
    "code, value",
    [
        ("1+1", 2),
        ("6*7", 42),
        ("sum([-1530])", -1530),
        ("-2**63", -(2**63)),
        ("2**63-1", 2**63 - 1),
        ("0.1+0.2", 0.1 + 0.2),
        ("1e300", 1e300),
        ("import numpy as np; np.int64(7)", 7),
        ("import numpy as np; np.float64(1.5)", 1.5),
        ("True", True),
        ("1 > 2", False),
        ("'2024-01-01'", "2024-01-01"),
        ("'quote\"s and \\\\ and \\n and \\x01 and ☃'", 'quote"s and \\ and \n and \x01 and ☃'),
        ("'nul \\0 inside'", "nul \0 inside"),
        ("{'sin_pi': 1.2e-16, 'random_number': 9.6}", "{'sin_pi': 1.2e-16, 'random_number': 9.6}"),
        ("[1, 2, 3]", "[1, 2, 3]"),
        ("(1,)", "(1,)"),
        ("2**63", str(2**63)),
        ("b'ab'", "b'ab'"),
        ("3+4j", "(3+4j)"),
        ("x = 1", ""),
        ("", ""),
        ("   \n# only a comment\n", ""),
        ("def f(): pass", ""),
        ("1;", ""),
        ("a = None; a", None),
        ("float('nan')", "nan"),
        ("a = float('nan');a", "nan"),
        ("float('inf')", "inf"),
    ],
)
def test_value(session, code, value):
    found = session.value(code)
    assert found == value and type(found) is type(value)


def test_value_of_print_is_empty(session):
    result = session.result("print('only stdout')")
    assert result["executionResult"] == ""
    assert result["stdout"] == "only stdout\n"


def test_value_of_a_long_list_is_pretty_text(session):
    text = session.value("[f'package-name-{i:03}' for i in range(60)]")
    # autogen splits the list of packages at this.
    assert len(text.split(",\n")) == 60
    assert text.startswith("['package-name-000',\n 'package-name-001'")


def test_value_of_a_data_frame_is_text(session):
    text = session.value("import pandas as pd; pd.DataFrame({'a': [1, 2]})")
    assert text == "   a\n0  1\n1  2"


@pytest.mark.parametrize("code", [FIGURE, FIGURE + "\nprint('last line')"])
def test_value_of_a_figure_is_an_image(session, code):
    image = session.result(code)["executionResult"]
    assert set(image) == {"type", "format", "base64_data"}
    assert (image["type"], image["format"]) == ("image", "png")
    width, height = png_size(image["base64_data"])
    assert width > 100 and height > 100


def test_figure_in_the_old_shape(session):
    document = session.call("POST", "code/execute", wrapped(FIGURE), OLD).ok().json
    image = document["properties"]["result"]
    assert (image["type"], image["format"]) == ("image", "png")
    png_size(image["base64_data"])


# --- asynchronous ---


def test_asynchronous(session):
    reply = session.post(
        "import time\ntime.sleep(0.5)\nprint('late')\n'done'", executionType="Asynchronous"
    ).ok(202)
    document = reply.json
    assert document["status"] in ("NotStarted", "Running")
    assert document["executionType"] == "Asynchronous"
    assert reply.headers["operation-id"] == document["id"]
    location = urllib.parse.urlsplit(reply.headers["Operation-Location"])
    query = urllib.parse.parse_qs(location.query)
    assert query["identifier"] == [session.identifier] and query["api-version"] == [NEW]
    assert location.netloc == "%s:%s" % session.pool.client.address
    path = f"{location.path}?{location.query}"

    def finished():
        found = session.pool.client.request("GET", path).ok().json
        assert found["id"] == document["id"]
        if found["status"] in ("NotStarted", "Running"):
            return None
        return found

    found = wait_for(finished, 20, "execution")
    assert found["status"] == "Succeeded"
    assert found["result"]["stdout"] == "late\n"
    assert found["result"]["executionResult"] == "done"


def test_asynchronous_location_survives_strange_identifiers(new_session):
    session = new_session("a&b=c#d%41/é"[:-1] + "e")
    reply = session.post("1", executionType="asynchronous").ok(202)
    location = urllib.parse.urlsplit(reply.headers["Operation-Location"])
    path = f"{location.path}?{location.query}"
    found = wait_for(
        lambda: (d := session.pool.client.request("GET", path).ok().json)["status"] == "Succeeded"
        and d
    )
    assert found["identifier"] == session.identifier


def test_asynchronous_failure_and_timeout(session):
    document = session.finished(session.start("1/0"))
    assert document["status"] == "Failed" and "ZeroDivisionError" in document["result"]["stderr"]
    document = session.finished(session.start("while True: pass", timeoutInSeconds=0.3))
    assert document["status"] == "Failed" and TIMEOUT_TEXT in document["result"]["stderr"]


def test_asynchronous_figure_can_be_fetched_again_and_again(session):
    execution = session.start(FIGURE)
    first = session.finished(execution)
    assert session.execution(execution) == first
    png_size(first["result"]["executionResult"]["base64_data"])


def test_get_synchronous_execution_by_id(session):
    document = session.run("print('x'); 5")
    assert session.execution(document["id"]) == document


def test_get_unknown_execution(session):
    session.run("1")
    session.call("GET", f"executions/{uuid.uuid4()}").error(404, "SessionExecutionNotFound")


def test_get_execution_of_another_session(new_session):
    one, other = new_session(), new_session()
    execution = one.run("1")["id"]
    other.run("1")
    other.call("GET", f"executions/{execution}").error(404)


def test_get_execution_makes_no_session(pool):
    session = pool.session()
    session.call("GET", f"executions/{uuid.uuid4()}").error(404)
    assert session.identifier not in pool.identifiers()


def test_finished_executions_are_kept_up_to_a_limit(session):
    first = session.run("1")["id"]
    second = session.run("2")["id"]
    for _ in range(63):
        session.run("3")
    # 65 have finished: the 64 last ones are there.
    session.call("GET", f"executions/{first}").error(404)
    assert session.execution(second)["result"]["executionResult"] == 2


# --- failures and timeouts ---


def test_error_is_http_200(session):
    reply = session.post("d = {}\nprint('before')\nd['sales_amount']").ok()
    document = reply.json
    assert document["status"] == "Failed"
    assert document["error"]["code"] and "sales_amount" in document["error"]["message"]
    assert document["result"]["stdout"] == "before\n"
    assert "KeyError: 'sales_amount'" in document["result"]["stderr"]
    assert document["result"]["executionResult"] == ""


def test_error_in_the_old_shape(session):
    document = session.call("POST", "code/execute", wrapped("1/0"), OLD).ok().json
    assert document["properties"]["status"] == "Failure"
    assert "ZeroDivisionError" in document["properties"]["stderr"]
    assert document["properties"]["result"] == ""


def test_timeout_interrupts_and_keeps_state(session):
    session.run("kept = 41; caught = False")
    # CPython 3.11 lets an interrupt in a loop that begins a `try` escape from it: hence `x = 0`.
    code = "try:\n    x = 0\n    while True: pass\nexcept KeyboardInterrupt:\n    caught = True\n    raise"
    start = time.monotonic()
    error, stderr = session.fails(code, timeoutInSeconds=1)
    took = time.monotonic() - start
    assert 0.95 <= took < 1.5
    assert TIMEOUT_TEXT in stderr
    assert error["code"] == "ExecutionTimeout"
    assert session.value("(kept, caught)") == "(41, True)"


def test_timeout_of_a_sleep_keeps_output_so_far(session):
    document = session.run(
        "import time\nprint('so far')\ntime.sleep(30)", status="Failed", timeoutInSeconds=3
    )
    assert document["result"]["stdout"] == "so far\n"
    assert TIMEOUT_TEXT in document["result"]["stderr"]


def test_timeout_when_code_swallows_the_interrupt(session):
    code = "while True:\n    try:\n        x = 0\n        while True: pass\n    except KeyboardInterrupt:\n        x = 1"
    session.run("kept = 1")
    start = time.monotonic()
    _, stderr = session.fails(code, timeoutInSeconds=0.5)
    assert time.monotonic() - start < 1.0
    assert TIMEOUT_TEXT in stderr and "restarted" in stderr
    assert session.fails("kept")[0]["message"].startswith("NameError")


@pytest.mark.parametrize(
    "code",
    [
        "import re\nre.match(r'(a*)*b', 'a' * 60)",
        "import ctypes\nctypes.PyDLL(None).pause()",
        "import subprocess\nsubprocess.run(['sleep', '1000'])",
        "import asyncio\nawait asyncio.sleep(1000)",
        "import threading\nthreading.Event().wait()",
        "!sleep 1000",
    ],
    ids=["regular-expression", "system-call", "subprocess", "await", "lock", "shell"],
)
def test_timeout_interrupts_what_can_be_interrupted(session, code):
    session.run("variable = 1")
    _, stderr = session.fails(code, timeoutInSeconds=0.4)
    assert TIMEOUT_TEXT in stderr and "restarted" not in stderr
    assert session.value("variable") == 1


@pytest.mark.parametrize(
    "code",
    [
        # C code that never comes back to the interpreter, with and without the GIL.
        "import itertools\nany(itertools.repeat(0))",
        "import hashlib\nhashlib.pbkdf2_hmac('sha256', b'', b'', 2**30)",
        "import ctypes, signal\nlibc = ctypes.CDLL(None)\nlibc.signal(signal.SIGINT, 1)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: libc.pause()",
    ],
    ids=["with-gil", "without-gil", "signals-blocked"],
)
def test_timeout_of_code_that_ignores_signals(session, code):
    session.run("open('kept.txt', 'w').write('file')\nvariable = 1")
    start = time.monotonic()
    error, stderr = session.fails(code, timeoutInSeconds=1)
    assert 0.95 <= time.monotonic() - start < 1.5
    assert TIMEOUT_TEXT in stderr
    assert error["code"] == "ExecutionTimeout" and "restarted" in stderr
    assert session.value("open('kept.txt').read()") == "file"
    assert session.fails("variable")[0]["message"].startswith("NameError")


def test_timeout_as_text_and_as_fraction(session):
    assert session.value("1", timeoutInSeconds="5") == 1
    session.fails("import time; time.sleep(9)", timeoutInSeconds=0.2)


@pytest.mark.parametrize("timeout", [0, -1, "x", "", "0x10", "1e1", "inf", "nan", " 5", True, [1], 1801, 1e300])
def test_timeout_out_of_range(session, timeout):
    error = session.post("1", timeoutInSeconds=timeout).error(400)
    assert "timeoutInSeconds" in error["message"]


def test_timeout_at_the_maximum(session):
    assert session.value("1", timeoutInSeconds=1800) == 1


def test_default_timeout_of_the_pool(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"defaultTimeoutInSeconds": 1}).session()
    start = time.monotonic()
    session.fails("while True: pass")
    assert time.monotonic() - start < 5
    session.run("import time; time.sleep(1.3)", timeoutInSeconds=5)


# --- output ---


def cut_mark(text):
    """What is before the mark of a cut stream, and the mark."""
    before, mark = re.fullmatch(
        r"(?s)(.*)\n(\[std(?:out|err) truncated: [^\]]*\])\n", text
    ).groups()
    return before, mark


def test_output_at_the_default_limit(session):
    assert session.stdout("print('x' * 4095)") == "x" * 4095 + "\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_one_past_the_default_limit(session, stream):
    result = session.result(f"import sys; sys.{stream}.write('x' * 4097);")
    before, mark = cut_mark(result[stream])
    assert before == "x" * 4096
    assert "4096 of 4097" in mark and stream in mark
    other = "stderr" if stream == "stdout" else "stdout"
    assert result[other] == ""


def test_streams_are_cut_apart_from_each_other(session):
    result = session.result(
        "import sys; sys.stdout.write('o' * 5000); sys.stderr.write('e' * 4096);"
    )
    assert cut_mark(result["stdout"])[0] == "o" * 4096
    assert result["stderr"] == "e" * 4096


def test_output_is_cut_between_characters(session):
    # 3 bytes each: 4096 = 3 * 1365 + 1.
    before, mark = cut_mark(session.result("print('☃' * 3000)")["stdout"])
    assert before == "☃" * 1365
    assert "4095 of 9001" in mark
    before, _ = cut_mark(session.result("print('x' + '😀' * 3000)")["stdout"])
    assert before == "x" + "😀" * 1023


def test_output_limit_raised_by_the_caller(session):
    assert session.stdout("print('x' * 10000)", outputStreamsMaxLength=10001) == "x" * 10000 + "\n"
    before, _ = cut_mark(
        session.result("print('x' * 10001)", outputStreamsMaxLength=10001)["stdout"]
    )
    assert before == "x" * 10001


def test_output_limit_lowered_by_the_caller(session):
    before, _ = cut_mark(session.result("print('abcdef')", outputStreamsMaxLength=3)["stdout"])
    assert before == "abc"


def test_numbers_beyond_64_bits_spoil_nothing(session):
    more = {"traceNumber": 2**64, "nested": {"x": [10**30, -(2**63) - 1]}}
    assert session.value("6 * 7", **more) == 42
    before, _ = cut_mark(session.result("print('abcdef')", outputStreamsMaxLength=3, **more)["stdout"])
    assert before == "abc"
    assert session.value("1", timeoutInSeconds=5, maxMemory=100 << 20, **more) == 1
    for name in ("timeoutInSeconds", "outputStreamsMaxLength", "maxMemory"):
        error = session.post("1", **{name: 2**64}).error(400, "SessionRequestValidationFailed")
        assert name in error["message"]


def test_output_limit_of_one_and_as_text(session):
    for limit in (1, 1.5, "1"):
        before, _ = cut_mark(session.result("print('ab')", outputStreamsMaxLength=limit)["stdout"])
        assert before == "a"


def test_output_limit_at_the_configured_maximum(session):
    text = session.stdout("print('x' * (2**20 - 1))", outputStreamsMaxLength=2**20)
    assert text == "x" * (2**20 - 1) + "\n"


@pytest.mark.parametrize("limit", [2**20 + 1, 0, 0.5, "0.5", -1, "x", "0x400", 2**63])
def test_output_limit_out_of_range(session, limit):
    error = session.post("1", outputStreamsMaxLength=limit).error(400)
    assert "outputStreamsMaxLength" in error["message"]


def test_output_limit_of_the_pool(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"outputStreamsMaxLength": 10}).session()
    assert cut_mark(session.result("print('0123456789')")["stdout"])[0] == "0123456789"
    assert session.stdout("print('012345678')") == "012345678\n"
    assert session.stdout("print('0123456789')", outputStreamsMaxLength=20) == "0123456789\n"


def test_endless_output_is_bounded(session, daemon):
    before = daemon.memory("VmRSS")
    document = session.run("while True: print('x' * 1000)", status="Failed", timeoutInSeconds=1.5)
    assert cut_mark(document["result"]["stdout"])[0].startswith("x" * 1000)
    assert TIMEOUT_TEXT in document["result"]["stderr"]
    assert daemon.memory("VmRSS") - before < 16 << 20
    assert session.value("1") == 1


def test_output_that_is_not_utf8(session):
    assert session.stdout("import os; os.write(1, b'a\\xff\\xc3b\\n');") == "a\ufffd\ufffdb\n"
    assert session.stdout("print('a\\0b')") == "a\0b\n"


def test_stdout_and_stderr_are_separate(session):
    result = session.result("import sys\nprint('to out')\nprint('to err', file=sys.stderr)")
    assert (result["stdout"], result["stderr"]) == ("to out\n", "to err\n")


def test_warnings_go_to_stderr(session):
    result = session.result("import warnings; warnings.warn('careful')")
    assert "UserWarning: careful" in result["stderr"] and result["stdout"] == ""


def test_output_of_children_is_in_order(session):
    code = (
        "import os, subprocess, sys\n"
        "print('1 print')\n"
        "os.system('echo 2 system')\n"
        "print('3 print', end='')\n"
        "subprocess.run(['sh', '-c', 'echo; echo 4 run'])\n"
        "sys.stdout.write('5 write\\n')\n"
        "os.write(1, b'6 os.write\\n')\n"
        "print('7 print')\n"
        "subprocess.Popen(['echo', '8 popen']).wait();"
    )
    expected = "1 print\n2 system\n3 print\n4 run\n5 write\n6 os.write\n7 print\n8 popen\n"
    # os.write and children cannot know of text that Python still buffers: lines are flushed.
    assert session.stdout(code.replace("end=''", "end='', flush=True")) == expected


def test_unfinished_line_is_not_lost(session):
    assert session.stdout("print('no newline', end='')") == "no newline"


def test_output_after_the_cell_does_not_reach_the_next_reply_as_its_error(session):
    session.run("import threading, time\nt = threading.Timer(0.2, print, ['late'])\nt.start()")
    result = session.result("t.join(); 'ok'")
    assert result["executionResult"] == "ok"


# --- the queue ---


def test_executions_of_a_session_run_one_at_a_time(session):
    session.run("import time\nruns = []")
    code = "start = time.time(); time.sleep(0.02); runs.append((start, time.time())); len(runs)"
    jobs = [Background(session.value, code) for _ in range(24)]
    assert sorted(job.result() for job in jobs) == list(range(1, 25))
    assert session.value("all(a[1] <= b[0] for a, b in zip(runs, runs[1:]))") is True


def test_executions_run_in_arrival_order(session):
    session.run("seen = []")
    session.start("import time; time.sleep(0.5)")
    # Asynchronous ones are accepted one after the other, so their order of arrival is known.
    ids = [session.start(f"seen.append({i})") for i in range(20)]
    assert session.execution(ids[-1])["status"] == "NotStarted"
    assert session.finished(ids[-1])["status"] == "Succeeded"
    assert session.value("seen == list(range(20))") is True


def test_synchronous_ones_wait_behind_asynchronous_ones(session):
    session.run("order = []")
    session.start("import time; time.sleep(0.4); order.append('first')")
    assert session.value("order.append('second'); order") == "['first', 'second']"


def test_sessions_run_at_the_same_time(new_session):
    sessions = [new_session() for _ in range(4)]
    for s in sessions:
        s.run("import time")
    blocked = threading.Barrier(4)

    def run(s):
        blocked.wait()
        return s.value("a = time.time(); time.sleep(0.5); [a, time.time()]")

    spans = [json.loads(job.result()) for job in [Background(run, s) for s in sessions]]
    assert max(a for a, _ in spans) < min(b for _, b in spans)


def test_queue_limit(make_pool):
    session = make_pool(maximum=2, ready=1, limits={"queueLength": 3}).session()
    session.run("done = 0")
    running = session.start(
        "import time\nwhile not os.path.exists('go'): time.sleep(0.01)".replace(
            "import time", "import os, time"
        )
    )
    wait_for(lambda: session.execution(running)["status"] == "Running")
    waiting = [session.start("done += 1") for _ in range(3)]
    for kind in ("Synchronous", "Asynchronous"):
        reply = session.post("done += 100", executionType=kind)
        reply.error(429, "SessionQueueFull")
        assert int(reply.headers["Retry-After"]) >= 1
    # Files do not queue behind code.
    session.upload(("go", b"")).ok()
    for execution in waiting:
        assert session.finished(execution)["status"] == "Succeeded"
    assert session.value("done") == 3


def test_first_requests_of_one_identifier_share_one_session(pool):
    session = pool.session()
    jobs = [Background(session.post, "import os; os.getpid()") for _ in range(40)]
    guids = {job.result().ok().headers["x-ms-session-guid"] for job in jobs}
    assert len(guids) == 1
    assert pool.identifiers().count(session.identifier) == 1
    session.delete().ok(204)


# --- size of code ---


def test_code_at_the_limit_and_one_past_it(session):
    limit = 4194304
    code = "x = 5\n" + "#".ljust(79, "a") + "\n"
    code += "#" * (limit - len(code) - 2) + "\nx"
    assert len(code) == limit
    assert session.value(code) == 5
    error = session.post(code + " ").error(413)
    assert str(limit) in error["message"]
