# SPDX-License-Identifier: Apache-2.0
"""GET /msi/token of --dev: what credentials of Azure SDKs ask when IDENTITY_ENDPOINT is set."""

import base64
import json
import re
import subprocess
import time
import urllib.parse

import pytest

from conftest import ARM_VERSION, Client, Daemon, unique

DATA = ["https://dynamicsessions.io", "https://acasessions.io"]
ARM = ["https://management.azure.com", "https://management.core.windows.net"]
VERSION = "api-version=2019-08-01"


def ask(daemon, resource=None, secret=True, query=VERSION, method="GET"):
    """resource goes out as it is: Python's library does not escape it, JavaScript's does."""
    headers = {}
    if secret is True:
        secret = daemon.ready["identityHeader"]
    if secret is not None:
        headers["X-IDENTITY-HEADER"] = secret
    if resource is not None:
        query += f"&resource={resource}"
    path = urllib.parse.urlsplit(daemon.ready["identityEndpoint"]).path
    return daemon.arm.request(method, f"{path}?{query}", None, headers, token=None)


def claims(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_ready_line(daemon):
    assert daemon.ready["identityEndpoint"] == f"{daemon.base}/msi/token"
    assert re.fullmatch(r"[0-9a-f]{64}", daemon.ready["identityHeader"])


@pytest.mark.parametrize("suffix", ["", "/", "/.default", "//.default"])
@pytest.mark.parametrize("resource", DATA + ARM)
def test_token(daemon, resource, suffix):
    before = int(time.time())
    reply = ask(daemon, resource + suffix).ok()
    document = reply.json
    assert set(document) == {"access_token", "expires_on", "resource", "token_type"}
    assert document["token_type"] == "Bearer"
    assert document["resource"] == resource + suffix
    assert re.fullmatch(r"\d{10}", document["expires_on"])
    assert before + 86400 <= int(document["expires_on"]) <= int(time.time()) + 86400
    assert reply.headers["Cache-Control"] == "no-store"
    assert claims(document["access_token"])["aud"] == resource


@pytest.mark.parametrize("resource", DATA)
def test_token_of_the_data_plane_is_taken_there_and_nowhere_else(daemon, pool, resource):
    token = ask(daemon, resource).ok().json["access_token"]
    client = Client(daemon.address, token)
    path = f"{pool.path}/executions?identifier={unique()}"
    assert client.request("POST", path, {"code": "6*7"}).ok().json["result"]["executionResult"] == 42
    assert client.request("GET", f"{pool.arm_path}?api-version={ARM_VERSION}").status == 401


@pytest.mark.parametrize("resource", ARM)
def test_token_of_the_management_plane_is_taken_there_and_nowhere_else(daemon, pool, resource):
    token = ask(daemon, resource).ok().json["access_token"]
    client = Client(daemon.address, token)
    document = client.request("GET", f"{pool.arm_path}?api-version={ARM_VERSION}").ok().json
    assert document["name"] == pool.name
    assert client.request("GET", f"{pool.path}/files?identifier={unique()}").status == 401


def test_escaped_resource_and_more_parameters(daemon):
    resource = urllib.parse.quote(DATA[0], safe="")
    for query in (VERSION, f"{VERSION}&client_id=11111111-2222-3333-4444-555555555555"):
        assert ask(daemon, resource, query=query).ok().json["resource"] == DATA[0]


def test_secret_is_needed(daemon):
    right = daemon.ready["identityHeader"]
    wrong = ["", "x", right[:-1], right + "0", right.upper(), right[:-1] + "?", "0" * 64]
    for secret in [None, *(w for w in wrong if w != right)]:
        error = ask(daemon, DATA[0], secret).error(403, "AuthorizationFailed")
        assert "IDENTITY_HEADER" in error["message"] and "403" in error["message"]
        assert right not in error["message"]


def test_secret_is_looked_at_before_the_rest(daemon):
    ask(daemon, "https://vault.azure.net", "wrong", "").error(403, "AuthorizationFailed")


def test_bearer_token_is_no_secret(daemon):
    headers = {"Authorization": f"Bearer {daemon.arm_token}"}
    reply = daemon.arm.request("GET", f"/msi/token?{VERSION}&resource={DATA[0]}", None, headers)
    reply.error(403, "AuthorizationFailed")


@pytest.mark.parametrize(
    "resource",
    [
        None,
        "",
        "https://vault.azure.net",
        "https://graph.microsoft.com/.default",
        "https://dynamicsessions.io.example.org",
        "http://dynamicsessions.io",
        "https://dynamicsessions.io%00",
        "%ff%fe",
    ],
)
def test_unknown_resources(daemon, resource):
    error = ask(daemon, resource).error(400, "SessionRequestValidationFailed")
    assert "'resource' is" in error["message"]
    assert all(known in error["message"] for known in DATA + ARM)


@pytest.mark.parametrize("query", ["", "api-version=", "api-version=2017-09-01", "api-version=x"])
def test_other_versions(daemon, query):
    error = ask(daemon, DATA[0], query=query).error(400, "SessionRequestValidationFailed")
    assert "2019-08-01" in error["message"]


def test_other_methods(daemon):
    assert ask(daemon, DATA[0], method="POST").status == 405
    assert ask(daemon, DATA[0], method="OPTIONS").status == 405


def test_not_without_dev():
    d = Daemon("--dev=false")
    try:
        assert set(d.ready) == {"armEndpoint"}
        d.arm.request("GET", f"/msi/token?{VERSION}&resource={DATA[0]}", token=None).error(404)
        d.stop()
    finally:
        d.remove()


@pytest.mark.parametrize("option", ["--listen", "--tls-listen"])
def test_not_on_addresses_that_others_reach(option):
    """Whichever listener has one. In a namespace with a loopback interface only: 0.0.0.0 reaches nobody from there."""
    netns = unique("msi")
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        subprocess.run(["ip", "-n", netns, "link", "set", "lo", "up"], check=True)
        d = Daemon(option, "0.0.0.0:0", netns=netns)
        try:
            assert set(d.ready) - {"tlsEndpoint", "caFile"} == {
                "endpoint",
                "armEndpoint",
                "token",
                "armToken",
            }
            path = f"/msi/token?{VERSION}&resource={DATA[0]}"
            d.arm.request("GET", path, headers={"X-IDENTITY-HEADER": ""}, token=None).error(404)
            assert "0.0.0.0 is not a loopback address" in d.stderr()
            d.stop()
        finally:
            d.remove()
    finally:
        subprocess.run(["ip", "netns", "delete", netns], check=True)


def test_every_start_has_its_own_secret(daemon):
    d = Daemon()
    try:
        first = d.ready["identityHeader"]
        d.stop()
        d.start()
        assert d.ready["identityHeader"] not in (first, daemon.ready["identityHeader"])
        ask(d, DATA[0], first).error(403)
        ask(d, DATA[0]).ok()
        d.stop()
    finally:
        d.remove()
