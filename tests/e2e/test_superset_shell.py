# SPDX-License-Identifier: Apache-2.0
"""The contract with all known clients, point 5: Shell pools. The commands themselves: test_shell_commands.py."""

import json

import pytest

from wire import AUTH, Wire, form_of

V25 = "2025-02-02-preview"
AGENT = ("User-Agent", "langchain-azure-dynamic-sessions/1.0.3 (Language=Python)")
JSON = ("Content-Type", "application/json")
ENTRY = {"name", "type", "contentType", "sizeInBytes", "lastModifiedAt"}


@pytest.fixture
def wire(shell_pool):
    w = Wire(shell_pool)
    yield w
    shell_pool.session(w.identifier).delete()


def post(wire, body, version=V25):
    """LangChain's bash tools: the body is this and nothing else."""
    target = wire.target("executions", f"identifier={wire.identifier}&api-version={version}")
    return wire.send("POST", target, [AGENT, AUTH, JSON], json.dumps(body))


@pytest.mark.parametrize("version", [V25, "2025-10-02-preview", "2031-01-01"])
def test_05_shell_command(wire, version):
    found = post(wire, {"shellCommand": "echo hello; echo oops >&2"}, version).ok().json
    assert set(found) == {"id", "identifier", "executionType", "status", "result"}
    assert found["status"] == "0" and found["identifier"] == wire.identifier
    assert (found["result"]["stdout"], found["result"]["stderr"]) == ("hello\n", "oops\n")
    assert type(found["result"]["executionTimeInMilliseconds"]) is int


@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
def test_05_shell_status_is_the_exit_code_as_text(wire, code):
    found = post(wire, {"shellCommand": f"exit {code}"}).ok().json
    assert found["status"] == str(code) and int(found["status"]) == code
    # State is kept all the same.
    post(wire, {"shellCommand": "export LEFT=1; cd /tmp"}).ok()
    post(wire, {"shellCommand": f"exit {code}"}).ok()
    assert post(wire, {"shellCommand": "echo $LEFT $PWD"}).ok().json["result"]["stdout"] == "1 /tmp\n"


def test_05_shell_exec_command_and_args(wire):
    found = post(wire, {"execCommandAndArgs": ["printf", "%s|", "a b", "$HOME", ""]}).ok().json
    assert (found["status"], found["result"]["stdout"]) == ("0", "a b|$HOME||")


def test_05_shell_envelope_of_properties(wire):
    assert post(wire, {"properties": {"shellCommand": "echo x"}}).ok().json["result"]["stdout"] == "x\n"


def test_05_shell_code_is_refused(wire):
    """As the service does, which takes nothing but shellCommand here."""
    body = {"codeInputType": "inline", "executionType": "synchronous", "code": "1+1"}
    message = post(wire, body).error(400, "SessionPropertiesMissing")["message"]
    assert "shellCommand" in message and "400" in message


def test_05_shell_old_version_is_refused(wire):
    message = post(wire, {"shellCommand": "true"}, "2024-02-02-preview").error(
        400, "SessionRequestNotSupported"
    )["message"]
    assert "Shell execution is not supported in API version 2023-08-01-preview" in message


def test_05_shell_files_are_new_style(wire):
    boundary = "6b0c1d2e"
    head = 'Content-Disposition: form-data; name="file"; filename="$(id) f.txt"\r\nContent-Type: application/octet-stream'
    headers = [AGENT, AUTH, ("Content-Type", f"multipart/form-data; boundary={boundary}")]
    tail = f"identifier={wire.identifier}&api-version={V25}"
    target = wire.target("files", tail + "&path=/mnt/data")
    entry = wire.send("POST", target, headers, form_of(head, b"four", boundary)).ok().json
    assert set(entry) == ENTRY and (entry["name"], entry["sizeInBytes"]) == ("$(id) f.txt", 4)
    listed = wire.send("GET", wire.target("files", tail), [AGENT, AUTH]).ok().json["value"]
    assert [(e["name"], e["sizeInBytes"]) for e in listed] == [("$(id) f.txt", 4)]
    target = wire.target("files/%24%28id%29%20f.txt/content", tail)
    assert wire.send("GET", target, [AGENT, AUTH]).ok().body == b"four"
    found = post(wire, {"shellCommand": "cat '/mnt/data/$(id) f.txt'"}).ok().json
    assert found["result"]["stdout"] == "four"


def test_05_shell_output_is_cut_at_4096_bytes(wire):
    found = post(wire, {"shellCommand": "head -c 10000 /dev/zero | tr '\\0' x"}).ok().json
    assert found["status"] == "0"
    assert found["result"]["stdout"].startswith("x" * 4096) and len(found["result"]["stdout"]) < 5000


@pytest.mark.parametrize(
    "command",
    [
        "printf 'a\\nb\\n' | awk 'END { print NR }'",
        "printf 'a\\nb\\n' | grep -cF a",
        "echo aGk= | base64 -d",
        "f=$(mktemp) && test -f \"$f\" && rm \"$f\"",
        "find /mnt/data -maxdepth 1 -printf '%y %s %p\\n'",
        "ls -1apL /mnt/data",
        "echo a > /tmp/a && echo a > /tmp/b && cmp /tmp/a /tmp/b && ln -f /tmp/a /tmp/c",
    ],
)
def test_05_shell_has_the_tools_of_the_deepagents_backend(wire, command):
    found = post(wire, {"shellCommand": command}).ok().json
    assert (found["status"], found["result"]["stderr"]) == ("0", ""), found
