# SPDX-License-Identifier: Apache-2.0
"""The MCP server of a session pool, spoken to with bare JSON-RPC (azure-api.md §4)."""

import base64
import concurrent.futures
import json
import subprocess
import time
import uuid

import pytest

from conftest import BIN_DIR, Background, Client, Daemon, png_size, unique, wait_for

PREVIEW = "2025-10-02-preview"
TOOLS = {
    "launchShell",
    "runShellCommandInRemoteEnvironment",
    "listFilesInRemoteEnvironment",
    "readFileInRemoteEnvironment",
    "writeFileInRemoteEnvironment",
    "deleteFileInRemoteEnvironment",
    "endRemoteEnvironment",
}
PYTHON = {"launchPythonEnvironment", "runPythonCodeInRemoteEnvironment"}
NODE = {"runJavaScriptCodeInRemoteEnvironment"}


class Mcp:
    def __init__(self, pool, **settings):
        self.pool = pool
        self.path = f"{pool.path}/mcp"
        self.settings(isMcpServerEnabled=True, **settings)
        self.key = self.action("fetchMCPServerCredentials").ok().json["apiKey"]
        self.client = Client(pool.daemon.address, None)

    def settings(self, **settings):
        body = {"properties": {"mcpServerSettings": settings}}
        return self.pool.arm("PATCH", body, version=PREVIEW).ok()

    def action(self, name, version=PREVIEW):
        path = f"{self.pool.arm_path}/{name}?api-version={version}"
        return self.pool.daemon.arm.request("POST", path)

    def post(self, body, key=None, headers=None, method="POST"):
        headers = {"Content-Type": "application/json", **(headers or {})}
        if key is not False:
            headers["x-ms-apikey"] = key or self.key
        if not isinstance(body, (bytes, type(None))):
            body = json.dumps(body).encode()
        return self.client.request(method, self.path, body, headers=headers, token=False)

    def rpc(self, method, params=None, id="1", **kw):
        message = {"jsonrpc": "2.0", "id": id, "method": method}
        if params is not None:
            message["params"] = params
        reply = self.post(message, **kw).ok().json
        assert reply["jsonrpc"] == "2.0" and reply["id"] == id
        return reply

    def call(self, tool, **arguments):
        return self.rpc("tools/call", {"name": tool, "arguments": arguments})

    def result(self, tool, **arguments):
        reply = self.call(tool, **arguments)
        assert "error" not in reply, reply
        result = reply["result"]
        # For clients that know no structuredContent.
        assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
        return result

    def structured(self, tool, **arguments):
        result = self.result(tool, **arguments)
        assert result["isError"] is False, result
        return result["structuredContent"]

    def error(self, tool, **arguments):
        reply = self.call(tool, **arguments)
        assert "result" not in reply, reply
        return reply["error"]

    def launch(self):
        return self.structured("launchShell")["environmentId"]

    def python(self, environment, code, **more):
        return self.structured(
            "runPythonCodeInRemoteEnvironment", environmentId=environment, pythonCode=code, **more
        )


@pytest.fixture(scope="module")
def mcp(daemon):
    return Mcp(daemon.make_pool(unique("mcp")))


# --- the protocol ---


def test_initialize_without_params(mcp):
    result = mcp.rpc("initialize")["result"]
    assert result["protocolVersion"] == "2025-03-26"
    assert result["serverInfo"]["name"] == "Microsoft Container Apps MCP Server"
    assert result["capabilities"]["tools"]["call"] is True
    assert result["capabilities"]["tools"]["list"] is True


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_version_is_negotiated(mcp, version):
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    assert mcp.rpc("initialize", params)["result"]["protocolVersion"] == version


@pytest.mark.parametrize("version", ["1999-01-01", "2099-01-01", ""])
def test_unknown_version_gets_the_newest(mcp, version):
    result = mcp.rpc("initialize", {"protocolVersion": version})["result"]
    assert result["protocolVersion"] == "2025-11-25"


def test_version_header(mcp):
    mcp.rpc("ping", headers={"MCP-Protocol-Version": "2025-06-18"})
    reply = mcp.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, headers={"MCP-Protocol-Version": "1"})
    assert reply.status == 400
    assert reply.json["error"]["code"] == -32600
    assert "2025-11-25" in reply.json["error"]["message"]


@pytest.mark.parametrize("id", ["1", "a b", 7, 0, -3, 1.5, ""])
def test_id_comes_back_as_it_was(mcp, id):
    assert mcp.rpc("ping", id=id)["result"] == {}


@pytest.mark.parametrize("id", ["1", 7, 0, -3, 1.5, 10**15])
def test_id_beside_a_number_beyond_64_bits(mcp, id):
    reply = mcp.post({"jsonrpc": "2.0", "id": id, "method": "ping", "params": {"_meta": {"x": 2**64}}}).ok()
    assert reply.json == {"jsonrpc": "2.0", "id": id, "result": {}}
    assert type(reply.json["id"]) is type(id)


@pytest.mark.parametrize("id", [2**63 - 1, -(2**63), 2**53 + 1])
def test_id_of_64_bits(mcp, id):
    assert mcp.rpc("ping", id=id)["id"] == id


@pytest.mark.parametrize("id", [2**63, 2**64 + 1, 10**30])
def test_id_that_could_not_be_echoed(mcp, id):
    """Refused, not answered with a number near it."""
    reply = mcp.post({"jsonrpc": "2.0", "id": id, "method": "ping"}).ok().json
    assert reply["id"] is None and reply["error"]["code"] == -32600
    assert '"id"' in reply["error"]["message"]


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
        {"jsonrpc": "2.0", "method": "no/such"},
        {"jsonrpc": "2.0", "id": 3, "result": {}},
        {"jsonrpc": "2.0", "id": 3, "error": {"code": 1, "message": "x"}},
    ],
)
def test_what_needs_no_answer(mcp, message):
    reply = mcp.post(message)
    assert reply.status == 202
    assert reply.body == b""


def test_get_and_delete_are_not_there(mcp):
    for method in ("GET", "DELETE"):
        reply = mcp.post(None, method=method)
        assert reply.status == 405
        assert reply.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    "method", ["resources/list", "prompts/list", "logging/setLevel", "tools", "x" * 300, "%s%n"]
)
def test_unknown_method(mcp, method):
    assert mcp.rpc(method)["error"]["code"] == -32601


@pytest.mark.parametrize("odd", range(4))
def test_messages_that_quote_the_caller_are_cut_between_characters(mcp, odd):
    name = "x" * odd + "€" * 40
    for reply in (mcp.rpc(name), mcp.call(name)):
        assert "€€€" in reply["error"]["message"]


@pytest.mark.parametrize(
    "body, status, code",
    [
        (b"", 400, -32700),
        (b"{", 400, -32700),
        (b"\xff", 400, -32700),
        (b'{"jsonrpc":"2.0","jsonrpc":"2.0"}', 400, -32700),
        (b"[" * 100, 400, -32700),
        (b"[]", 400, -32600),
        (b"3", 200, -32600),
        (b"null", 200, -32600),
        (b'{"id":1,"method":"ping"}', 200, -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', 200, -32600),
        (b'{"jsonrpc":"2.0","id":1}', 200, -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', 200, -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping\\u0000x"}', 200, -32600),
        (b'{"jsonrpc":"2.0\\u0000","id":1,"method":"ping"}', 200, -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"launchShell\\u0000"}}', 200, -32602),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', 200, -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', 200, -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}', 200, -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"x"}}', 200, -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}', 200, -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":3}}', 200, -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":3}}', 200, -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm"}}', 200, -32602),
    ],
)
def test_malformed(mcp, body, status, code):
    reply = mcp.post(body)
    assert reply.status == status
    assert reply.json["error"]["code"] == code
    assert reply.json["error"]["message"]


def test_batch(mcp):
    reply = mcp.post(
        [
            {"jsonrpc": "2.0", "id": 1, "method": "ping"},
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "launchShell"}},
            {"jsonrpc": "2.0", "id": 3, "method": "nothing"},
            5,
        ]
    ).ok()
    assert [r["id"] for r in reply.json] == [1, 2, 3, None]
    assert reply.json[1]["result"]["structuredContent"]["environmentId"]
    assert reply.json[2]["error"]["code"] == -32601


def test_batch_runs_in_order(mcp):
    environment = mcp.launch()

    def run(id, code):
        arguments = {"environmentId": environment, "pythonCode": code}
        params = {"name": "runPythonCodeInRemoteEnvironment", "arguments": arguments}
        return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}

    batch = [run(0, "x = 1")] + [run(i, "x *= 2; x") for i in range(1, 6)]
    replies = mcp.post(batch).ok().json
    values = [r["result"]["structuredContent"]["executionResult"] for r in replies]
    assert values[1:] == [2, 4, 8, 16, 32]


def test_batch_limit(mcp):
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert len(mcp.post([ping] * 32).ok().json) == 32
    assert mcp.post([ping] * 33).status == 400


def test_batch_of_large_results(mcp):
    """What one request makes the daemon hold is bounded: the rest is refused, not run."""
    environment = mcp.launch()

    def run(id, code):
        arguments = {"environmentId": environment, "pythonCode": code}
        params = {"name": "runPythonCodeInRemoteEnvironment", "arguments": arguments}
        return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}

    mcp.python(environment, "n = 0")
    large = "n += 1; print(end='x' * 1000000)"
    batch = [run(i, large) for i in range(12)]
    for message in batch:
        message["params"]["arguments"]["outputStreamsMaxLength"] = 1_000_000
    replies = mcp.post([*batch, {"jsonrpc": "2.0", "id": "p", "method": "ping"}]).ok().json
    assert [r["id"] for r in replies] == [*range(12), "p"]
    assert [len(r["result"]["structuredContent"]["stdout"]) for r in replies[:9]] == [1_000_000] * 9
    for refused in replies[9:12]:
        assert refused["error"]["code"] == -32000
        assert refused["error"]["data"] == {"code": "RequestEntityTooLarge", "status": 413}
        assert "another request" in refused["error"]["message"]
    assert replies[12]["result"] == {}
    assert mcp.python(environment, "n")["executionResult"] == 9


def test_batch_that_ends_its_own_environment(mcp):
    environment = mcp.launch()

    def tool(id, name, **arguments):
        params = {"name": name, "arguments": {"environmentId": environment, **arguments}}
        return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}

    batch = [
        tool(1, "runPythonCodeInRemoteEnvironment", pythonCode="x = 1"),
        tool(2, "endRemoteEnvironment"),
        tool(3, "runPythonCodeInRemoteEnvironment", pythonCode="'x' in globals()"),
        tool(4, "writeFileInRemoteEnvironment", path="empty", content=""),
        tool(5, "readFileInRemoteEnvironment", path="empty"),
    ]
    replies = [r["result"]["structuredContent"] for r in mcp.post(batch).ok().json]
    assert replies[1] == {"ended": True}
    assert replies[2]["executionResult"] is False
    assert (replies[4]["content"], replies[4]["sizeInBytes"]) == ("", 0)


@pytest.mark.parametrize("how", ["session", "pool"])
def test_what_ends_while_a_batch_runs(daemon, how):
    mcp = Mcp(daemon.make_pool(unique("mcp"), maximum=3, ready=0))

    def run(id, code):
        arguments = {"environmentId": "ends-in-batch", "pythonCode": code}
        params = {"name": "runPythonCodeInRemoteEnvironment", "arguments": arguments}
        return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}

    batch = [run(1, "open('begun', 'w').close()\nimport time; time.sleep(60)"), run(2, "1 + 1")]
    running = Background(mcp.post, batch)
    session = mcp.pool.session("ends-in-batch")
    wait_for(lambda: "begun" in session.names(), what="the code runs")
    if how == "pool":
        mcp.pool.delete()
    else:
        session.delete()
    first, second = running.result().ok().json
    assert first["error"]["code"] == -32000
    if how == "session":
        assert second["result"]["structuredContent"]["executionResult"] == 2
        mcp.pool.delete()
    else:
        assert second["error"]["code"] == -32000
    daemon.default_pool().session().value("1")


# --- the bytes that curl sends ---


def curl(mcp, body, accept="*/*"):
    """As the service's documentation shows it; accept None: no such header."""
    body = body.encode()
    lines = [f"POST {mcp.path} HTTP/1.1", f"Host: {mcp.pool.daemon.base.removeprefix('http://')}"]
    lines += ["User-Agent: curl/7.88.1"] + ([f"Accept: {accept}"] if accept else [])
    lines += ["Content-Type: application/json", f"x-ms-apikey: {mcp.key}"]
    lines += [f"Content-Length: {len(body)}", "", ""]
    with mcp.pool.daemon.raw() as raw:
        raw.send("\r\n".join(lines).encode() + body)
        reply = raw.reply()
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert "Mcp-Session-Id" not in reply.headers
    return reply.json


@pytest.mark.parametrize("accept", ["*/*", None, "application/json", "application/json, text/event-stream"])
def test_bytes_of_curl(mcp, accept):
    answer = curl(mcp, '{ "jsonrpc": "2.0", "id": "1", "method": "initialize" }', accept)
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", "1")
    assert answer["result"]["protocolVersion"] == "2025-03-26"
    assert answer["result"]["serverInfo"]["name"] == "Microsoft Container Apps MCP Server"
    assert {"call": True, "list": True}.items() <= answer["result"]["capabilities"]["tools"].items()
    answer = curl(
        mcp,
        """{
    "jsonrpc": "2.0",
    "id": "2",
    "method": "tools/call",
    "params": {
        "name": "launchShell",
        "arguments": {}
    }
}""",
        accept,
    )
    assert answer["id"] == "2"
    environment = answer["result"]["structuredContent"]["environmentId"]
    answer = curl(
        mcp,
        """{
    "jsonrpc": "2.0",
    "id": "3",
    "method": "tools/call",
    "params": {
        "name": "runShellCommandInRemoteEnvironment",
        "arguments": {
            "environmentId": "%s",
            "shellCommand": "echo 'Hello World'"
        }
    }
}"""
        % environment,
        accept,
    )
    assert (answer["id"], answer["result"]["structuredContent"]["stdout"]) == ("3", "Hello World\n")
    assert answer["result"]["structuredContent"]["stderr"] == ""


# --- who may ---


def test_keys(mcp):
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    for key in ("", "x", mcp.key[:-1], mcp.key + "0", mcp.key.upper() + "z", "0" * 64):
        reply = mcp.post(ping, key=key or " ")
        assert reply.status == 401, key
        assert reply.body == b""
    assert mcp.post(ping, key=False).status == 401
    assert mcp.post(ping).status == 200


def test_bearer_token_does_as_well(mcp):
    token = {"Authorization": f"Bearer {mcp.pool.daemon.token}"}
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert mcp.post(ping, key=False, headers=token).status == 200
    wrong = {"Authorization": f"Bearer {mcp.pool.daemon.arm_token}"}
    assert mcp.post(ping, key=False, headers=wrong).status == 401
    # A wrong key is not made good by a token.
    assert mcp.post(ping, key="0" * 64, headers=token).status == 401


def test_key_opens_nothing_else(mcp):
    for path in ("executions?identifier=abcd", "files?identifier=abcd", "listSessions"):
        method = "POST" if path.startswith("exec") else "GET"
        reply = mcp.client.request(
            method, f"{mcp.pool.path}/{path}", b"{}", headers={"x-ms-apikey": mcp.key}, token=False
        )
        assert reply.status == 401


def test_key_of_another_pool(mcp, daemon):
    other = Mcp(daemon.make_pool(unique("mcp")))
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert mcp.key != other.key
    assert mcp.post(ping, key=other.key).status == 401
    other.pool.delete()


PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "http://localhost:6274", "https://LocalHost:1", "http://127.0.0.1:6274", "http://[::1]:6274"],
)
def test_origins_on_loopback_may_call(mcp, origin):
    mcp.rpc("ping", headers={"Origin": origin})


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "localhost",
        "file://",
        "http://",
        "http://:80",
        "http://localhost.evil.example",
        "http://localhost:80.evil.example",
        "http://localhost:99999",
        "http://localhost:",
        "http://localhost@evil.example",
        "http://evil.example/localhost",
        "http://localhost/",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.2",
        "http://[::1",
        "http://[::1].evil.example",
        "http://[::1]x:1",
        "http://[evil]",
        "ftp://localhost",
        "http://localhost http://evil.example",
        "http://localhost, http://evil.example",
        "http://" + "a" * 5000,
    ],
)
def test_origins_that_may_not_call(mcp, origin):
    environment = mcp.launch()
    arguments = {"environmentId": environment, "path": "x", "content": "x"}
    call = {**PING, "method": "tools/call", "params": {"name": "writeFileInRemoteEnvironment", "arguments": arguments}}
    reply = mcp.post(call, headers={"Origin": origin})
    assert "--mcp-origin" in reply.error(403, "AuthorizationFailed")["message"]
    assert "jsonrpc" not in reply.json
    assert environment not in mcp.pool.identifiers()


def test_origin_that_is_our_own(mcp):
    """By address; as a name it may be one that was pointed here, and is Host as well then."""
    own = {"Host": "10.0.0.5:8900", "Origin": "http://10.0.0.5:8900"}
    mcp.rpc("ping", headers=own)
    mcp.rpc("ping", headers={"Host": "[fd00::5]", "Origin": "http://[fd00::5]"})
    for change in (
        {"Origin": "http://10.0.0.6:8900"},
        {"Origin": "http://10.0.0.5:8901"},
        {"Origin": "https://10.0.0.5:8900"},
        {"Host": "rebound.example:8900", "Origin": "http://rebound.example:8900"},
        {"Host": "0x0a.0.0.5", "Origin": "http://0x0a.0.0.5"},
    ):
        mcp.post(PING, headers={**own, **change}).error(403, "AuthorizationFailed")


def test_origins_named_by_the_operator():
    daemon = Daemon("--mcp-origin", "https://tools.example,http://10.9.8.7:6274", "--ready", "0", "--shells", "0")
    try:
        mcp = Mcp(daemon.make_pool(unique("mcp")))
        for origin in ("https://tools.example", "https://TOOLS.example", "http://10.9.8.7:6274", "http://localhost:1"):
            mcp.rpc("ping", headers={"Origin": origin})
        for origin in ("http://tools.example", "https://tools.example:8443", "https://tools.exampl", "https://a.tools.example"):
            mcp.post(PING, headers={"Origin": origin}).error(403, "AuthorizationFailed")
    finally:
        daemon.stop()
        daemon.remove()


@pytest.mark.parametrize(
    "value, words",
    [
        *((v, "takes origins") for v in ("", "*", "tools.example", "https://tools.example/", "http://a,", "http://a b")),
        (",".join(["http://a"] * 65), "more than 64"),
    ],
)
def test_operators_origins_that_are_refused(value, words):
    done = subprocess.run(
        [BIN_DIR / "bivouacd", "--state", "/nowhere/state", "--mcp-origin", value],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 64 and "--mcp-origin" in done.stderr and words in done.stderr


def test_rotate(daemon):
    mcp = Mcp(daemon.make_pool(unique("mcp")))
    old = mcp.key
    new = mcp.action("rotateMcpServerCredentials").ok().json["apiKey"]
    assert new != old
    assert mcp.action("fetchMcpServerCredentials").ok().json == {"apiKey": new}
    mcp.key = new
    mcp.rpc("ping")
    # For five minutes more; how long exactly is for test_mcp_keys.c.
    mcp.rpc("ping", key=old)
    newest = mcp.action("rotateMcpServerCredentials").ok().json["apiKey"]
    assert mcp.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, key=old).status == 401
    mcp.rpc("ping", key=new)
    mcp.rpc("ping", key=newest)
    mcp.pool.delete()


def test_not_enabled(daemon):
    pool = daemon.make_pool(unique("mcp"))
    token = {"Authorization": f"Bearer {daemon.token}"}
    client = Client(daemon.address, None)
    reply = client.request("POST", f"{pool.path}/mcp", b"{}", headers=token, token=False)
    reply.error(400, "SessionMCPServerNotEnabled")
    assert "isMcpServerEnabled" in reply.text
    mcp = Mcp(pool)
    mcp.rpc("ping")
    mcp.settings(isMcpServerEnabled=False)
    assert mcp.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}).status == 401
    mcp.settings(isMcpServerEnabled=True, isMcpServerApiKeyDisabled=True)
    assert mcp.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}).status == 401
    mcp.rpc("ping", key=False, headers=token)
    pool.delete()


def test_endpoint_is_shown(mcp):
    shown = mcp.pool.arm("GET", version=PREVIEW).ok().json["properties"]["mcpServerSettings"]
    assert shown["mcpServerEndpoint"] == mcp.pool.daemon.base + mcp.path
    assert shown["isMcpServerEnabled"] is True
    assert mcp.key not in json.dumps(shown)


# --- tools ---


def test_tools_list(mcp):
    tools = {t["name"]: t for t in mcp.rpc("tools/list")["result"]["tools"]}
    assert set(tools) == TOOLS | PYTHON
    for tool in tools.values():
        assert tool["inputSchema"]["type"] == "object"
        assert set(tool["inputSchema"]["required"]) <= set(tool["inputSchema"]["properties"])
        assert tool["description"] and tool["title"]
    assert tools["readFileInRemoteEnvironment"]["annotations"]["readOnlyHint"] is True


@pytest.mark.parametrize("kind, more", [("Shell", PYTHON | NODE), ("NodeLTS", NODE)])
def test_tools_of_other_pools(daemon, kind, more):
    """Those of the languages that the image has."""
    pool = daemon.make_pool(unique("mcp"), type=kind, maximum=2, ready=0)
    mcp = Mcp(pool)
    tools = {t["name"] for t in mcp.rpc("tools/list")["result"]["tools"]}
    assert tools == TOOLS | more
    environment = mcp.launch()
    arguments = {"environmentId": environment, "shellCommand": "echo out; echo err >&2; exit 3"}
    answer = mcp.structured("runShellCommandInRemoteEnvironment", **arguments)
    assert (answer["stdout"], answer["stderr"], answer["exitCode"]) == ("out\n", "err\n", 3)
    answer = mcp.structured(
        "runJavaScriptCodeInRemoteEnvironment", environmentId=environment, javaScriptCode="6 * 7"
    )
    assert answer["executionResult"] == 42
    if kind == "NodeLTS":
        error = mcp.error("runPythonCodeInRemoteEnvironment", environmentId=environment, pythonCode="1")
        assert error["code"] == -32602 and "Unknown tool" in error["message"]
    else:
        assert mcp.python(environment, "'a' * 3")["executionResult"] == "aaa"
    pool.delete()


# --- shell commands ---


def shell(mcp, **arguments):
    return mcp.structured("runShellCommandInRemoteEnvironment", **arguments)


def test_shell_keeps_its_state(mcp):
    environment = mcp.launch()
    shell(mcp, environmentId=environment, shellCommand="cd /tmp; export V='a b'")
    assert shell(mcp, environmentId=environment, shellCommand='pwd; echo "$V"')["stdout"] == "/tmp\na b\n"


def test_program_without_a_shell(mcp):
    words = ["printf", "%s|", "a b", "$HOME", "", "ü"]
    for name in ("execCommandAndArgs", "command"):
        answer = shell(mcp, environmentId=mcp.launch(), **{name: words})
        assert answer["stdout"] == "a b|$HOME||ü|"
        assert answer["exitCode"] == 0


def test_shell_timeout(mcp):
    arguments = {"environmentId": mcp.launch(), "shellCommand": "sleep 60", "timeoutSeconds": 0.5}
    result = mcp.result("runShellCommandInRemoteEnvironment", **arguments)
    assert result["isError"] is True
    assert result["structuredContent"]["exitCode"] == 124
    assert result["structuredContent"]["error"]["code"] == "ExecutionTimeout"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({}, "'shellCommand' or 'execCommandAndArgs' is missing"),
        ({"shellCommand": "a", "execCommandAndArgs": ["a"]}, "not both"),
        ({"shellCommand": ["a"]}, "string"),
        ({"shellCommand": "a\0b"}, "NUL"),
        ({"execCommandAndArgs": "a"}, "array of strings"),
        ({"execCommandAndArgs": []}, "empty"),
        ({"execCommandAndArgs": [""]}, "empty name"),
        ({"execCommandAndArgs": ["a", 1]}, "array of strings"),
        ({"execCommandAndArgs": ["a\0b"]}, "NUL"),
        ({"execCommandAndArgs": [["a"]]}, "array of strings"),
    ],
)
def test_bad_commands(mcp, arguments, words):
    error = mcp.error("runShellCommandInRemoteEnvironment", environmentId="bad-commands", **arguments)
    assert error["code"] == -32602
    assert words in error["message"]
    assert "bad-commands" not in mcp.pool.identifiers()


def test_launch_allocates_nothing(mcp):
    before = mcp.pool.identifiers()
    one, two = mcp.launch(), mcp.structured("launchPythonEnvironment")["environmentId"]
    assert one != two
    assert str(uuid.UUID(one)) == one
    assert mcp.pool.identifiers() == before


def test_python(mcp):
    environment = mcp.launch()
    assert mcp.python(environment, "x = 6; print('hi')")["stdout"] == "hi\n"
    answer = mcp.python(environment, "x * 7")
    assert answer["executionResult"] == 42
    assert answer["status"] == "Succeeded"
    assert answer["stderr"] == ""
    assert isinstance(answer["executionTimeInMilliseconds"], int)
    assert environment in mcp.pool.identifiers()
    # An environment is a session.
    assert mcp.pool.session(environment).value("x") == 6


@pytest.mark.parametrize("code", ["0.1", "0.1 + 0.2", "1e300", "1 / 3", "2 ** 100", "-0.0", "5e-324"])
def test_numbers(mcp, code):
    result = mcp.result("runPythonCodeInRemoteEnvironment", environmentId="numbers", pythonCode=code)
    value = eval(code)
    expected = str(value) if isinstance(value, int) else value
    assert result["structuredContent"]["executionResult"] == expected
    # As short as it can be: models read this.
    if len(repr(value)) < 5:
        assert f'"executionResult":{value!r},' in result["content"][0]["text"]


def test_python_error(mcp):
    result = mcp.result(
        "runPythonCodeInRemoteEnvironment", environmentId=mcp.launch(), pythonCode="1/0"
    )
    assert result["isError"] is True
    answer = result["structuredContent"]
    assert answer["status"] == "Failed"
    assert "ZeroDivisionError" in answer["stderr"]
    assert answer["error"]["code"] == "CodeExecutionFailed"


def test_image_is_a_content_block(mcp):
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    arguments = {"environmentId": mcp.launch(), "pythonCode": code}
    result = mcp.result("runPythonCodeInRemoteEnvironment", **arguments)
    kinds = [block["type"] for block in result["content"]]
    assert kinds == ["text", "image"]
    assert result["content"][1]["mimeType"] == "image/png"
    assert png_size(base64.b64decode(result["content"][1]["data"]))[0] > 100
    assert result["structuredContent"]["executionResult"] == {"type": "image", "format": "png"}


def test_environment_of_the_callers_choice(mcp):
    assert mcp.python("my-own-environment", "1+1")["executionResult"] == 2


@pytest.mark.parametrize("id", ["", "abc", "x" * 129, "with blank", "ünï", "a\nb"])
def test_bad_environment(mcp, id):
    error = mcp.error("runPythonCodeInRemoteEnvironment", environmentId=id, pythonCode="1")
    assert error["code"] == -32602
    assert "environment" in error["message"] and "invalid" in error["message"]


def test_environment_that_has_ended(mcp):
    """Told from one that was not used yet by the time in its id."""
    old = int((time.time() - 3600) * 1000).to_bytes(6, "big").hex()
    fresh = mcp.launch()
    ended = f"{old[:8]}-{old[8:]}{fresh[13:]}"
    error = mcp.error("runPythonCodeInRemoteEnvironment", environmentId=ended, pythonCode="1")
    assert error["data"] == {"code": "SessionWithIdentifierNotFound", "status": 400}
    assert "environment" in error["message"] and "not found" in error["message"]
    assert "launchShell" in error["message"]
    assert ended not in mcp.pool.identifiers()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({}, "environmentId"),
        ({"environmentId": 7}, "environmentId"),
        ({"environmentId": "abcd"}, "pythonCode"),
        ({"environmentId": "abcd", "pythonCode": 3}, "pythonCode"),
        ({"environmentId": "abcd", "pythonCode": "a\0b"}, "NUL"),
        ({"environmentId": "abcd", "pythonCode": "1", "timeoutSeconds": 0}, "timeoutSeconds"),
        ({"environmentId": "abcd", "pythonCode": "1", "timeoutSeconds": "x"}, "timeoutSeconds"),
        ({"environmentId": "abcd", "pythonCode": "1", "timeoutSeconds": 1e9}, "timeoutSeconds"),
        ({"environmentId": "abcd", "pythonCode": "1", "outputStreamsMaxLength": -1}, "outputStreamsMaxLength"),
        ({"environmentId": "abcd", "pythonCode": "1", "outputStreamsMaxLength": 0.5}, "outputStreamsMaxLength"),
        ({"environmentId": "abcd", "pythonCode": "1", "timeoutSeconds": "0x10"}, "timeoutSeconds"),
    ],
)
def test_bad_arguments(mcp, arguments, words):
    error = mcp.error("runPythonCodeInRemoteEnvironment", **arguments)
    assert error["code"] == -32602
    assert words in error["message"]


def test_timeout(mcp):
    arguments = {"environmentId": mcp.launch(), "pythonCode": "while True: pass", "timeoutSeconds": 0.5}
    result = mcp.result("runPythonCodeInRemoteEnvironment", **arguments)
    assert result["isError"] is True
    assert result["structuredContent"]["error"]["code"] == "ExecutionTimeout"


def test_output_limit(mcp):
    environment = mcp.launch()
    assert "truncated" in mcp.python(environment, "print('x' * 5000)")["stdout"]
    whole = mcp.python(environment, "print('x' * 5000)", outputStreamsMaxLength=6000)
    assert whole["stdout"] == "x" * 5000 + "\n"


def test_files(mcp):
    environment = mcp.launch()

    def tool(name, **arguments):
        return mcp.structured(f"{name}InRemoteEnvironment", environmentId=environment, **arguments)

    assert tool("listFiles") == {"files": [], "truncated": False}
    written = tool("writeFile", path="/mnt/data/a/b.txt", content="häl")
    assert (written["path"], written["sizeInBytes"]) == ("a/b.txt", 4)
    read = tool("readFile", path="a/b.txt")
    assert (read["content"], read["encoding"], read["truncated"]) == ("häl", "utf-8", False)
    data = bytes(range(256)) * 500
    tool("writeFile", path="raw", content=base64.b64encode(data).decode(), encoding="base64")
    read = tool("readFile", path="raw")
    assert read["encoding"] == "base64" and base64.b64decode(read["content"]) == data
    part = tool("readFile", path="raw", maxBytes=10)
    assert base64.b64decode(part["content"]) == data[:10]
    assert part["truncated"] is True and part["sizeInBytes"] == len(data)
    names = {f["path"]: f["type"] for f in tool("listFiles", recursive=True)["files"]}
    assert names == {"a": "directory", "a/b.txt": "file", "raw": "file"}
    for deep in ("true", "True", 1, "1"):
        assert len(tool("listFiles", recursive=deep)["files"]) == 3
    for flat in (False, "FALSE", 0, "0", None):
        assert len(tool("listFiles", recursive=flat)["files"]) == 2
    assert [f["path"] for f in tool("listFiles", path="a")["files"]] == ["a/b.txt"]
    assert tool("deleteFile", path="raw") == {"deleted": True}
    tool("writeFile", path="empty", content="")
    assert tool("readFile", path="empty")["content"] == ""
    tool("writeFile", path="nul", content="a\0b")
    assert base64.b64decode(tool("readFile", path="nul")["content"]) == b"a\0b"
    assert mcp.pool.session(environment).download("a/b.txt").body == "häl".encode()


def test_file_as_large_as_the_window_and_larger(mcp):
    environment = mcp.launch()
    text = "0123456789abcdef" * (1 << 17)  # 2 MiB
    arguments = {"environmentId": environment, "path": "large"}
    mcp.structured("writeFileInRemoteEnvironment", content=text, **arguments)
    read = mcp.structured("readFileInRemoteEnvironment", maxBytes=4 << 20, **arguments)
    assert read["content"] == text and read["truncated"] is False
    exact = mcp.structured("readFileInRemoteEnvironment", maxBytes=len(text), **arguments)
    assert exact["content"] == text and exact["truncated"] is False
    less = mcp.structured("readFileInRemoteEnvironment", maxBytes=len(text) - 1, **arguments)
    assert less["content"] == text[:-1] and less["truncated"] is True


def test_text_is_cut_between_characters(mcp):
    arguments = {"environmentId": mcp.launch(), "path": "t"}
    mcp.structured("writeFileInRemoteEnvironment", content="aä" * 10, **arguments)
    cut = mcp.structured("readFileInRemoteEnvironment", maxBytes=5, **arguments)
    assert cut["content"] == "aäa" and cut["encoding"] == "utf-8"


@pytest.mark.parametrize(
    "tool, arguments, code, words",
    [
        ("readFile", {"path": "../x"}, -32602, "'..'"),
        ("readFile", {"path": "/mnt/data"}, -32602, "names no file"),
        ("readFile", {}, -32602, "path"),
        ("readFile", {"path": "nothing"}, -32000, "nothing"),
        ("readFile", {"path": "x", "maxBytes": 0}, -32602, "maxBytes"),
        ("readFile", {"path": "x", "maxBytes": (4 << 20) + 1}, -32602, "maxBytes"),
        ("writeFile", {"path": "x"}, -32602, "content"),
        ("writeFile", {"path": "x", "content": 3}, -32602, "content"),
        ("writeFile", {"path": "x", "content": "!!", "encoding": "base64"}, -32602, "base64"),
        ("writeFile", {"path": "x", "content": "a", "encoding": "latin1"}, -32602, "encoding"),
        ("deleteFile", {"path": "nothing"}, -32000, "nothing"),
        ("listFiles", {"path": "nothing"}, -32000, "nothing"),
        ("listFiles", {"recursive": "yes"}, -32602, "'recursive'"),
        ("listFiles", {"recursive": ""}, -32602, "'recursive'"),
        ("listFiles", {"recursive": 2}, -32602, "'recursive'"),
        ("listFiles", {"recursive": []}, -32602, "'recursive'"),
    ],
)
def test_bad_files(mcp, tool, arguments, code, words):
    error = mcp.error(f"{tool}InRemoteEnvironment", environmentId="bad-files", **arguments)
    assert error["code"] == code
    assert words in error["message"]


def test_files_are_named_as_the_caller_wrote_them(mcp):
    environment = mcp.launch()
    mcp.structured("writeFileInRemoteEnvironment", environmentId=environment, path="süb/x", content="")
    for tool, path, words in (
        ("readFile", "übel.txt", "does not exist"),
        ("deleteFile", "übel.txt", "does not exist"),
        ("listFiles", "übel", "does not exist"),
        ("readFile", "süb", "is a directory"),
        ("listFiles", "süb/x", "is not a directory"),
    ):
        error = mcp.error(f"{tool}InRemoteEnvironment", environmentId=environment, path=path)
        assert f"'{path}' {words}" in error["message"]
        assert error["data"] == {"code": "SessionFileNotFound", "status": 404}


def test_end(mcp):
    environment = mcp.launch()
    assert mcp.structured("endRemoteEnvironment", environmentId=environment) == {"ended": False}
    mcp.python(environment, "x = 1")
    assert mcp.structured("endRemoteEnvironment", environmentId=environment) == {"ended": True}
    assert environment not in mcp.pool.identifiers()


def test_capacity_is_an_error_with_the_services_code(daemon):
    mcp = Mcp(daemon.make_pool(unique("mcp"), maximum=1, ready=0))
    mcp.python("first", "1")
    error = mcp.error("runPythonCodeInRemoteEnvironment", environmentId="second", pythonCode="1")
    assert error["code"] == -32000
    assert error["data"] == {"code": "SessionPoolCapacityReached", "status": 429}
    mcp.pool.delete()


def test_client_that_leaves_does_not_stop_the_code(mcp):
    environment = mcp.launch()
    mcp.python(environment, "import time")
    body = json.dumps(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {
                "name": "runPythonCodeInRemoteEnvironment",
                "arguments": {"environmentId": environment, "pythonCode": "time.sleep(1); done = 1"},
            },
        }
    ).encode()
    with mcp.pool.daemon.raw() as raw:
        raw.send(
            f"POST {mcp.path} HTTP/1.1\r\nHost: h\r\nx-ms-apikey: {mcp.key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        time.sleep(0.3)
    assert mcp.python(environment, "done")["executionResult"] == 1


def test_many_at_once(mcp):
    def one(i):
        environment = f"parallel-{i % 8}"
        return mcp.python(environment, f"{i} + 1")["executionResult"] == i + 1

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        assert all(threads.map(one, range(64)))
