# SPDX-License-Identifier: Apache-2.0
"""MCP clients as they are published: @modelcontextprotocol/sdk 1.32.2, its successor client 2.3.1, inspector 2.12.0."""

import base64
import json
import os
import subprocess

import pytest

from clients.conftest import e2e

PREVIEW = "2025-10-02-preview"


class McpPool:
    def __init__(self, daemon, kind="PythonLTS"):
        self.pool = e2e.Pool(daemon, e2e.unique("mcp"))
        body = e2e.pool_body(maximum=10, ready=0 if kind != "PythonLTS" else 2)
        body["properties"]["containerType"] = kind
        body["properties"]["mcpServerSettings"] = {"isMcpServerEnabled": True}
        self.pool.arm("PUT", body, version=PREVIEW).ok()
        self.path = f"{self.pool.path}/mcp"
        self.key = self.action("fetchMcpServerCredentials")

    def action(self, name):
        path = f"{self.pool.arm_path}/{name}?api-version={PREVIEW}"
        return self.pool.daemon.arm.request("POST", path).ok().json["apiKey"]


@pytest.fixture(scope="module")
def python(daemon):
    mcp = McpPool(daemon)
    yield mcp
    mcp.pool.delete()


@pytest.fixture(params=["NodeLTS", "Shell"])
def other(request, daemon):
    mcp = McpPool(daemon, request.param)
    yield mcp
    mcp.pool.delete()


def run(node, mcp, language, origin):
    report = node("mcp.mjs", MCP_URL=origin + mcp.path, MCP_KEY=mcp.key, MCP_LANGUAGE=language)
    check_protocol(report)
    check_commands(report)
    check_files(report)
    return report


def structured(result, is_error=False):
    assert result["isError"] is is_error, result
    assert result["content"][0]["type"] == "text"
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
    return result["structuredContent"]


def values(results):
    return [structured(result)["executionResult"] for result in results]


def check_protocol(report):
    assert report["server"]["name"] == "Microsoft Container Apps MCP Server"
    assert report["version"] == "2025-11-25"  # of the header that the transport sends
    assert "tools" in report["capabilities"]
    assert "launchShell" in report["instructions"]
    assert report["ping"] == {}
    for tool in report["tools"]:
        assert tool["inputSchema"]["type"] == "object"
        assert tool["title"] == tool["annotations"]["title"]
    unknown = report["unknown"]
    assert (unknown["name"], unknown["code"]) == ("McpError", -32602)
    assert "Unknown tool 'rm'" in unknown["message"]
    assert report["invalid"]["code"] == -32602
    assert structured(report["ended"]) == {"ended": True}
    # What makes a client ask for the key again.
    assert report["wrongKey"]["code"] == 401


def check_commands(report):
    shell = structured(report["shell"])
    assert (shell["stdout"], shell["stderr"], shell["exitCode"]) == ("/tmp\n", "e\n", 3)
    assert structured(report["program"])["stdout"] == "a b|$HOME|"


def check_files(report):
    assert structured(report["written"])["sizeInBytes"] == 5
    assert structured(report["read"])["content"] == "häl\n"
    assert [f["path"] for f in structured(report["files"])["files"]] == ["a", "a/ü.txt"]
    assert structured(report["deleted"]) == {"deleted": True}
    assert report["missing"]["code"] == -32000
    assert report["missing"]["data"] == {"code": "SessionFileNotFound", "status": 404}


def test_sdk_on_a_python_pool(node, python, origin):
    report = run(node, python, "python", origin)
    assert values([report["value"], *report["parallel"]]) == [42, 6, 12, 18, 24]
    state = structured(report["state"])
    assert (state["stdout"], state["executionResult"]) == ("6\n", 0.1)
    failure = structured(report["failure"], is_error=True)
    assert failure["error"]["message"] == "ZeroDivisionError: division by zero"
    text, image = report["figure"]["content"]
    assert (image["type"], image["mimeType"]) == ("image", "image/png")
    assert min(e2e.png_size(base64.b64decode(image["data"]))) > 50
    assert "enough" in report["aborted"]["message"]
    assert report["closed"]["name"] == "McpError"
    assert values([report["after"]]) == ["ran onran on"]


def test_sdk_on_other_pools(node, other, daemon):
    report = run(node, other, "node", daemon.base)
    assert values([report["value"], report["state"]]) == [42, "later"]
    assert structured(report["state"])["stdout"] == "6\n"
    assert "TypeError" in structured(report["failure"], is_error=True)["stderr"]


def test_sdk_after_the_key_was_replaced(node, daemon):
    mcp = McpPool(daemon, "Shell")
    old, mcp.key = mcp.key, mcp.action("rotateMcpServerCredentials")
    assert mcp.key != old
    run(node, mcp, "", daemon.base)
    mcp.key = old  # for five minutes more
    run(node, mcp, "", daemon.base)
    mcp.pool.delete()


def test_successor_of_the_sdk(node, python, origin):
    report = node("mcp2.mjs", MCP_URL=origin + python.path, MCP_KEY=python.key)
    for found in report.values():
        assert found["version"] == "2025-11-25"
        assert "runPythonCodeInRemoteEnvironment" in found["tools"]
        assert structured(found["value"])["executionResult"] == 42


# --- the inspector's command line ---


@pytest.fixture
def inspector(clients, daemon, tmp_path):
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout[1:].split(".")[0]) < 20:
        pytest.skip(f"the inspector needs Node.js 20 or later; this is {version.stdout.strip()}")
    program = clients / "node_modules" / ".bin" / "mcp-inspector"

    def call(url, key, *arguments):
        header = f"x-ms-apikey: {key}"
        command = ["node", program, "--cli", url, "--transport", "http", "--header", header]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "NODE_EXTRA_CA_CERTS": daemon.ready["caFile"],
        }
        return subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )

    return call


def test_inspector(inspector, python, origin):
    url = origin + python.path
    # --strict: a schema that not every client takes is an error.
    done = inspector(url, python.key, "--method", "tools/list", "--strict")
    assert done.returncode == 0, done.stderr
    names = [tool["name"] for tool in json.loads(done.stdout)["tools"]]
    assert "runShellCommandInRemoteEnvironment" in names
    code = ["environmentId=inspector", "pythonCode=print('out'); 6 * 7"]
    tool = ["--tool-name", "runPythonCodeInRemoteEnvironment", "--tool-arg", *code]
    done = inspector(url, python.key, "--method", "tools/call", *tool)
    assert done.returncode == 0, done.stderr
    answer = structured(json.loads(done.stdout))
    assert (answer["stdout"], answer["executionResult"]) == ("out\n", 42)


def test_inspector_with_a_wrong_key(inspector, python, daemon):
    done = inspector(daemon.base + python.path, "0" * 64, "--method", "tools/list", "--stored-auth-only")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "auth" in done.stderr.lower() or "401" in done.stderr
