# SPDX-License-Identifier: Apache-2.0
"""The code that docs/clients shows for clients that are run here, as it stands there."""

import json
import re
import subprocess

import pytest

from clients.conftest import HERE, e2e

PREVIEW = "2025-10-02-preview"
MCP = {"properties": {"mcpServerSettings": {"isMcpServerEnabled": True}}}
DOCS = HERE.parents[1] / "docs" / "clients"
SHOWN = {
    "llamaindex.md": (0, "{ result, stdout, stderr }", {"result": 3, "stdout": "", "stderr": ""}),
    "azure-sdk-js.md": (0, "token.split('.').length", 3),
    "azure-sdk-js.md#arm": (1, "pool.provisioningState", "Succeeded"),
}


def test_code_of_the_mcp_page(node, daemon, tmp_path):
    daemon.default_pool().arm("PATCH", MCP, version=PREVIEW).ok()
    path = f"{daemon.default_pool().arm_path}/fetchMcpServerCredentials?api-version={PREVIEW}"
    key = daemon.arm.request("POST", path).ok().json["apiKey"]
    program = tmp_path / "shown.mjs"
    program.write_text(
        'import { writeFile } from "node:fs/promises";\n'
        + blocks("mcp.md")[0]
        + "await writeFile(process.env.REPORT, JSON.stringify(structuredContent.executionResult));\n"
    )
    assert node(program, MCP_URL=f"{daemon.endpoint}/mcp", MCP_KEY=key) == 42
    daemon.default_pool().session("user-4711").delete()


def test_configurations_of_the_mcp_page(daemon):
    """Valid JSON, with the address and the header that the server has."""
    text = (DOCS / "mcp.md").read_text()
    shown = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", text, re.M | re.S)]
    servers = [s.get("mcpServers") or s["servers"] for s in shown]
    assert len(servers) == 2
    for server in servers:
        assert server["sessions"]["type"] == "http"
        path = server["sessions"]["url"].removeprefix("http://127.0.0.1:8900")
        assert path == f"{daemon.endpoint}/mcp".removeprefix(daemon.base)
        assert list(server["sessions"]["headers"]) == ["x-ms-apikey"]


def blocks(page):
    return re.findall(r"^```js\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)


@pytest.mark.parametrize("key", SHOWN)
def test_code_of_the_page(node, identity, daemon, tmp_path, key):
    index, value, expected = SHOWN[key]
    page = key.partition("#")[0]
    program = tmp_path / "shown.mjs"
    program.write_text(
        'import { writeFile } from "node:fs/promises";\n'
        + blocks(page)[index]
        + f"await writeFile(process.env.REPORT, JSON.stringify({value}));\n"
    )
    found = node(program, AZURE_POOL_MANAGEMENT_ENDPOINT=daemon.endpoint, ARM_ENDPOINT=daemon.base, **identity)
    assert found == expected
    if key == "llamaindex.md":
        found = node(program, AZURE_POOL_MANAGEMENT_ENDPOINT=daemon.ready["tlsEndpoint"], **identity)
        assert found == expected
    daemon.default_pool().session("user-4711").delete()


def test_shell_lines_of_the_mcp_page(daemon, tmp_path):
    """From switching the server on to a result, by curl alone."""
    ready = tmp_path / "ready.json"
    ready.write_text(json.dumps(daemon.ready))
    text = (DOCS / "mcp.md").read_text()
    assert "R=/run/bivouac-dev/ready.json" in text
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S))
    script = "set -eu\n" + lines.replace("/run/bivouac-dev/ready.json", str(ready))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    listed, brace, result = done.stdout.partition("{")
    assert "runPythonCodeInRemoteEnvironment" in listed.split()
    assert json.loads(brace + result)["executionResult"] == 42, result


def test_every_page_says_what_was_tried():
    pages = sorted(p.name for p in DOCS.glob("*.md") if p.name != "README.md")
    listed = re.findall(r"^\| \[(.*?)\]\(\1\)", (DOCS / "README.md").read_text(), re.M)
    assert sorted(listed) == pages and len(pages) == 6
    for page in pages:
        assert "\nTried: " in (DOCS / page).read_text(), page


def test_variables_of_the_pages_are_in_the_ready_line(daemon):
    text = "".join(p.read_text() for p in DOCS.glob("*.md"))
    fields = set(re.findall(r"jq -r \.(\w+) \$R", text))
    assert fields <= set(daemon.ready) and len(fields) >= 7
    assert e2e.ZERO in text
