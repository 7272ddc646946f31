# SPDX-License-Identifier: Apache-2.0
"""@azure/identity: credentials get tokens of this machine over plain HTTP, unmodified."""

import time

import pytest

from clients.conftest import e2e


@pytest.fixture
def report(node, identity):
    return node("identity.mjs", **identity)


def test_azure_identity(report, daemon, pool):
    now = time.time()
    for tokens in (report["default"], report["managed"]):
        assert len(tokens) == 4
        for scope, token in tokens.items():
            assert "error" not in token, (scope, token)
            assert now + 80_000 < token["expiresOnTimestamp"] / 1000 < now + 87_000
            client = e2e.Client(daemon.address, token["token"])
            data = client.request("GET", f"{pool.path}/metadata")
            arm = client.request("GET", f"{pool.arm_path}?api-version={e2e.ARM_VERSION}")
            management = "management" in scope
            assert (data.status, arm.status) == ((401, 200) if management else (200, 401))
    first, second = report["provider"]
    assert first == second  # the credential remembers it
    assert report["client"]["token"]
    assert report["unknown"]["error"] and report["refused"]["error"]
