# SPDX-License-Identifier: Apache-2.0
"""@llamaindex/azure 0.2.1: the tool for agents, unmodified, set up by environment variables alone."""

import base64

import pytest

from clients.conftest import e2e


@pytest.fixture
def report(node, identity, origin, pool):
    endpoint = f"{origin}{pool.path}"
    found = node("llamaindex.mjs", AZURE_POOL_MANAGEMENT_ENDPOINT=endpoint, **identity)
    assert found["endpoint"] == endpoint
    yield found
    for identifier in (found["sessionId"], "tenant/1-&-more"):
        pool.session(identifier).delete()


def test_llamaindex_tool(report, pool):
    def outcome(name):
        return tuple(report[name][key] for key in ("result", "stdout", "stderr"))

    assert report["metadata"] == "code_interpreter"
    assert outcome("sum") == (2, "", "")
    assert outcome("print") == ("", "hello world\n", "")
    assert outcome("text") == ("2024-05-02", "", "")
    assert outcome("list") == ("[1, 'a']", "", "")
    assert outcome("nothing") == ("", "", "")
    assert outcome("state") == (21, "", "")
    assert outcome("none") == ("", "", "")  # null would make the tool fail
    assert report["failure"]["result"] == "" and "ZeroDivisionError" in report["failure"]["stderr"]

    # A figure is saved as a file, whose name is the result.
    assert report["figure"]["result"].startswith("tool-output/")
    assert report["figure"]["result"].endswith(".png")
    assert min(e2e.png_size(report["figure"]["file"])) > 50

    assert report["upload"]["filename"] == "cities ü.csv" and report["upload"]["size"] == 14
    assert report["read"]["result"] == "city,n\nRiga,3\n"
    assert [(f["filename"], f["size"]) for f in report["files"]] == [
        ("cities ü.csv", 14),
        ("empty", 0),
        ("out.bin", 256000),
    ]
    assert report["download"] == "city,n\nRiga,3\n"
    assert base64.b64decode(report["local"]) == bytes(range(256)) * 1000

    # The tool never looks at the status: errors have to be JSON.
    assert report["missing"]["error"]["code"] == "SessionFileNotFound"
    assert report["wrong"]["stderr"].startswith("Error: Failed to execute Python code.")
    assert report["tenant"]["result"] is False

    assert report["sessionId"] in pool.identifiers()
    assert "tenant/1-&-more" in pool.identifiers()
