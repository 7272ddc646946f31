# SPDX-License-Identifier: Apache-2.0
"""shellCommand and execCommandAndArgs: shapes, exit codes, state, limits, and what is refused."""

import pytest
from event_stream import EventStream, text_of

from conftest import NEW, OLD, OLD_VERSIONS, Background, unique, wait_for

V25 = "2025-02-02-preview"
CODE_MAX = 4 << 20


@pytest.fixture
def shell(shell_pool):
    s = shell_pool.session()
    yield s
    s.delete()


@pytest.fixture(params=["shell", "python"])
def either(request):
    """A session of a Shell pool, and one of a Python pool, which has a shell as well."""
    s = request.getfixturevalue("shell_pool" if request.param == "shell" else "pool").session()
    yield s
    s.delete()


def command(session, text, version=V25, **more):
    return session.call("POST", "executions", {"shellCommand": text, **more}, version)


def run(session, text, status="0", **more):
    document = command(session, text, **more).ok().json
    assert document["status"] == status, document
    return document


def words(session, *argv, **more):
    return session.call("POST", "executions", {"execCommandAndArgs": list(argv), **more})


# --- the shape ---


def test_shape(either):
    reply = command(either, "echo hello; echo oops >&2").ok()
    document = reply.json
    assert set(document) == {"id", "identifier", "executionType", "status", "result"}
    assert document["identifier"] == either.identifier
    assert document["executionType"] == "Synchronous" and document["status"] == "0"
    result = document["result"]
    assert set(result) == {"stdout", "stderr", "exitCode", "executionTimeInMilliseconds"}
    assert (result["stdout"], result["stderr"]) == ("hello\n", "oops\n")
    assert result["exitCode"] == 0
    assert isinstance(result["executionTimeInMilliseconds"], int)
    assert reply.headers["operation-id"] == document["id"]
    assert either.execution(document["id"]) == document


@pytest.mark.parametrize("code", [0, 1, 3, 126, 255])
def test_exit_code_is_the_status_as_text(either, code):
    document = run(either, f"(exit {code})", status=str(code))
    assert document["result"]["exitCode"] == code and "error" not in document


@pytest.mark.parametrize(
    "text, status",
    [("exit 7", "7"), ("exit", "0"), ("false", "1"), ("no-such-program", "127"), ("if", "2"), ("", "0")],
)
def test_ends_of_a_command(either, text, status):
    run(either, text, status=status)
    # Whatever it was, the next one runs.
    assert run(either, "echo on")["result"]["stdout"] == "on\n"


def test_versions_that_have_commands(shell):
    for version in (V25, NEW, None, "2026-01-01"):
        assert command(shell, "echo x", version).ok().json["result"]["stdout"] == "x\n"


@pytest.mark.parametrize("version", [*OLD_VERSIONS, "2024-10-02-preview", "2025-02-01"])
def test_versions_that_have_none(shell, version):
    error = command(shell, "echo x", version).error(400, "SessionRequestNotSupported")
    text = "Shell execution is not supported in API version 2023-08-01-preview"
    assert error["message"].startswith(text)


@pytest.mark.parametrize("where", ["code/execute", "python/execute"])
def test_paths_that_have_none(shell, where):
    reply = shell.call("POST", where, {"properties": {"shellCommand": "true"}}, OLD)
    reply.error(400, "SessionRequestNotSupported")


def test_in_properties_too(shell):
    body = {"properties": {"shellCommand": "echo wrapped"}}
    assert shell.call("POST", "executions", body).ok().json["result"]["stdout"] == "wrapped\n"


# --- state ---


def test_directory_and_environment_are_kept(either):
    run(either, "cd /tmp && export GREETING='hello you' && f() { echo \"f $1\"; } && shopt -s nullglob")
    result = run(either, 'pwd; echo "$GREETING"; f 1; env | grep -c ^GREETING=')["result"]
    assert result["stdout"] == "/tmp\nhello you\nf 1\n1\n"


def test_begins_in_the_data_directory(either):
    either.upload(("a file.txt", b"content")).ok()
    assert run(either, "pwd; cat 'a file.txt'")["result"]["stdout"] == "/mnt/data\ncontent"


def test_python_and_shell_of_one_session_share_files(session):
    session.run("open('/mnt/data/n', 'w').write('41')\nx = 1")
    assert run(session, "echo $(($(cat n) + 1)) > m; cat m")["result"]["stdout"] == "42\n"
    assert session.value("x + int(open('/mnt/data/m').read())") == 43


# --- words ---


def test_words_are_no_shell(either):
    odd = ["a b", "$HOME", "*", "`id`", "'\"", "", "ü😀", "new\nline", "-n"]
    result = words(either, "printf", "[%s]\\n", *odd).ok().json["result"]
    assert result["stdout"] == "".join(f"[{word}]\n" for word in odd)


def test_words_see_directory_and_environment(either):
    run(either, "cd /tmp; export WHERE=here")
    assert words(either, "pwd").ok().json["result"]["stdout"] == "/tmp\n"
    assert words(either, "printenv", "WHERE").ok().json["result"]["stdout"] == "here\n"


@pytest.mark.parametrize(
    "argv, status", [(["false"], "1"), (["no-such-program"], "127"), (["/etc"], "126")]
)
def test_words_and_exit_codes(either, argv, status):
    assert words(either, *argv).ok().json["status"] == status


def test_shellcommand_of_a_single_word_is_not_split(either):
    assert words(either, "echo hello").ok().json["status"] == "127"


# --- limits ---


def test_output_is_cut_at_4096(either):
    assert run(either, "head -c 4096 /dev/zero | tr '\\0' x")["result"]["stdout"] == "x" * 4096
    stdout = run(either, "head -c 4097 /dev/zero | tr '\\0' x")["result"]["stdout"]
    assert stdout.startswith("x" * 4096 + "\n[stdout truncated: 4096 of 4097 bytes shown")
    more = run(either, "head -c 5000 /dev/zero | tr '\\0' x", outputStreamsMaxLength=5000)
    assert more["result"]["stdout"] == "x" * 5000


def test_timeout(either):
    document = run(either, "echo begun; sleep 60", status="124", timeoutInSeconds=3)
    assert document["error"]["code"] == "ExecutionTimeout"
    assert document["result"]["exitCode"] == 124 and document["result"]["stdout"] == "begun\n"
    assert run(either, "echo on")["result"]["stdout"] == "on\n"


def test_cancel(either):
    execution_id = unique("command")
    body = {"shellCommand": "touch /mnt/data/begun; sleep 60"}
    job = Background(either.call, "POST", "executions", body, headers={"operation-id": execution_id})
    wait_for(lambda: "begun" in either.names(), 20, "it has begun")
    either.call("DELETE", f"executions/{execution_id}").ok(204)
    document = job.result().ok().json
    assert document["status"] == "130" and document["result"]["exitCode"] == 130
    assert document["error"]["code"] == "ExecutionCanceled"
    assert either.execution(execution_id) == document


def test_kernel_that_dies(either):
    document = run(either, "kill -9 $(ps -eo pid=,comm= | awk '/bivouac-kernel/ {print $1}')", "137")
    assert document["error"]["code"] == "KernelDied" and document["result"]["exitCode"] == 137
    assert run(either, "echo on")["result"]["stdout"] == "on\n"


def test_code_limit(shell):
    fits = "#" + "x" * (CODE_MAX - 1)
    run(shell, fits)
    for body in ({"shellCommand": fits + "x"}, {"execCommandAndArgs": ["true", fits[:-5]]}):
        error = shell.call("POST", "executions", body).error(413, "RequestEntityTooLarge")
        assert str(CODE_MAX) in error["message"]


# --- asynchronous, streamed ---


def test_asynchronous(either):
    reply = command(
        either, "while [ ! -e go ]; do sleep 0.05; done; echo end; exit 3", executionType="Asynchronous"
    ).ok(202)
    assert reply.json["status"] in ("NotStarted", "Running") and "result" not in reply.json
    execution_id = reply.json["id"]
    wait_for(lambda: either.execution(execution_id)["status"] == "Running", 20, "it runs")
    either.upload(("go", b"")).ok()
    document = either.finished(execution_id)
    assert document["status"] == "3" and document["executionType"] == "Asynchronous"
    assert document["result"]["stdout"] == "end\n" and document["result"]["exitCode"] == 3


def test_streamed(either):
    with EventStream(either, {"shellCommand": "echo ready; while [ ! -e go ]; do sleep 0.05; done; exit 4"}) as stream:
        stream.until_text("ready\n")
        either.upload(("go", b"")).ok()
        events = list(stream)
    assert [e.name for e in events] == ["result"]
    assert events[0].data["status"] == "4" and events[0].data["result"]["exitCode"] == 4


def test_streamed_words(either):
    with EventStream(either, {"execCommandAndArgs": ["echo", "a b"]}) as stream:
        assert text_of(list(stream), "stdout") == "a b\n"


# --- code in pools of commands, commands in pools of code ---


def test_code_on_a_shell_pool_needs_a_language(shell):
    for body in ({"code": "1"}, {"codeInputType": "inline", "executionType": "synchronous", "code": "1"}, {}):
        error = shell.call("POST", "executions", body).error(400, "SessionPropertiesMissing")
        assert "shellCommand" in error["message"]


@pytest.mark.parametrize(
    "language, code, value",
    [("python", "6 * 7", 42), ("Py", "6 * 7", 42), ("javascript", "6 * 7", 42), ("JS", "6 * 7", 42)],
)
def test_code_on_a_shell_pool(shell, language, code, value):
    document = shell.post(code, language=language).ok().json
    assert document["status"] == "Succeeded" and document["result"]["executionResult"] == value


def test_shell_as_a_language_has_the_shape_of_code(either):
    for language in ("shell", "bash", "SH"):
        document = either.post("echo x; exit 3", language=language).ok().json
        assert document["status"] == "Succeeded"
        assert document["result"]["stdout"] == "x\n" and document["result"]["executionResult"] == 3


# --- what is refused ---


@pytest.mark.parametrize(
    "body, code, word",
    [
        ({"shellCommand": "a", "execCommandAndArgs": ["b"]}, "SessionRequestValidationFailed", "Only one"),
        ({"shellCommand": "a", "code": "b"}, "SessionRequestValidationFailed", "Only one"),
        ({"execCommandAndArgs": ["a"], "code": "b"}, "SessionRequestValidationFailed", "Only one"),
        ({"shellCommand": 1}, "SessionRequestValidationFailed", "string"),
        ({"shellCommand": ["ls"]}, "SessionRequestValidationFailed", "string"),
        ({"shellCommand": "a\0b"}, "SessionRequestValidationFailed", "NUL"),
        ({"shellCommand": None}, "SessionPropertiesMissing", "shellCommand"),
        ({"execCommandAndArgs": []}, "SessionRequestValidationFailed", "array"),
        ({"execCommandAndArgs": "ls"}, "SessionRequestValidationFailed", "array"),
        ({"execCommandAndArgs": {}}, "SessionRequestValidationFailed", "array"),
        ({"execCommandAndArgs": ["ls", 1]}, "SessionRequestValidationFailed", "[1]"),
        ({"execCommandAndArgs": ["ls", None]}, "SessionRequestValidationFailed", "[1]"),
        ({"execCommandAndArgs": ["ls", "a\0b"]}, "SessionRequestValidationFailed", "[1]"),
        ({"execCommandAndArgs": ["", "x"]}, "SessionRequestValidationFailed", "[0]"),
        ({"shellCommand": "a", "language": "python"}, "SessionRequestValidationFailed", "python"),
        ({"shellCommand": "a", "language": "cobol"}, "SessionRequestValidationFailed", "cobol"),
        ({"shellCommand": "a", "timeoutInSeconds": 0}, "SessionRequestValidationFailed", "timeout"),
        ({"shellCommand": "a", "executionType": "Later"}, "SessionRequestValidationFailed", "Later"),
        ({"shellCommand": "a", "context": "a b"}, "SessionRequestValidationFailed", "context"),
    ],
)
def test_refused(shell_pool, body, code, word):
    s = shell_pool.session()
    assert word in s.call("POST", "executions", body).error(400, code)["message"]
    # And it has not cost a session.
    assert s.identifier not in shell_pool.identifiers()
