# SPDX-License-Identifier: Apache-2.0
"""@azure/arm-appcontainers 3.0.0: session pools by the management SDK, with @azure/identity."""

import pytest

from clients.conftest import e2e


@pytest.fixture
def name():
    return e2e.unique("sdk")


@pytest.fixture
def report(node, identity, origin, name):
    return node(
        "arm.mjs",
        ARM_ENDPOINT=origin,
        SUBSCRIPTION=e2e.ZERO,
        GROUP="default",
        POOL=name,
        **identity,
    )


def test_session_pools(report, origin, name):
    path = f"{e2e.GROUP_ID}/providers/Microsoft.App/sessionPools/{name}"
    assert report["before"]["statusCode"] == 404 and report["before"]["code"] == "ResourceNotFound"
    for key, maximum in (("created", 7), ("found", 7), ("updated", 9)):
        document = report[key]
        assert "error" not in document, document
        assert (document["name"], document["id"]) == (name, path)
        assert document["type"].lower() == "microsoft.app/sessionpools"
        assert document["location"] and document["tags"] == {"made": "by the SDK"}
        assert document["provisioningState"] == "Succeeded"
        assert document["scaleConfiguration"]["maxConcurrentSessions"] == maximum
        endpoint = f"{origin}{e2e.GROUP_ID}/sessionPools/{name}"
        assert document["poolManagementEndpoint"] == endpoint
        assert document["systemData"]["createdAt"].endswith("Z")
    assert name in report["inGroup"] and name in report["inSubscription"]
    assert "default" in report["inGroup"]
    assert report["refused"]["statusCode"] == 400 and report["refused"]["code"]
    assert "containerType" in report["refused"]["message"]
    for key in ("deleted", "again"):
        assert "error" not in (report.get(key) or {}), report[key]
    assert report["after"]["statusCode"] == 404

    # No polling: what the first answer says ends every operation.
    methods = [(method, status) for method, where, _, status in report["requests"] if where == path]
    assert methods == [
        ("GET", 404),
        ("PUT", 200),
        ("GET", 200),
        ("PATCH", 200),
        ("PUT", 400),
        ("DELETE", 200),
        ("GET", 404),
        ("DELETE", 204),
    ]
    assert {version for _, _, version, _ in report["requests"]} == {"2025-07-01"}
    assert not [where for _, where, _, _ in report["requests"] if "operation" in where.lower()]
