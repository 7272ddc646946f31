# SPDX-License-Identifier: Apache-2.0
"""The management plane: session pools and resource groups, and what changes do to running pools."""

import copy
import json
import re
import urllib.parse

import pytest

from conftest import (
    ARM_VERSION,
    GROUP_ID,
    ZERO,
    Daemon,
    Pool,
    pool_body,
    sandbox_pids,
    unique,
    wait_for,
)

FLAT_VERSIONS = [
    "2023-08-01-preview",
    "2023-11-02-preview",
    "2024-02-02-preview",
    "2024-08-02-preview",
    "2024-10-02-preview",
]
NESTED_VERSIONS = [
    "2025-01-01",
    "2025-02-02-preview",
    "2025-07-01",
    "2025-10-02-preview",
    "2026-01-01",
    "2026-07-01",
]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z")


@pytest.fixture
def new_pool(daemon):
    """A pool that does not exist yet, gone after the test."""
    p = Pool(daemon, unique("arm"))
    yield p
    p.arm("DELETE")


def arm(daemon, method, path, body=None, version=ARM_VERSION, **kw):
    mark = "&" if "?" in path else "?"
    return daemon.arm.request(method, f"{path}{mark}api-version={version}", body, **kw)


def change(path, value):
    """A pool's body with one property changed; value None leaves it out."""
    body = pool_body(maximum=5, ready=1)
    at = body
    *parents, last = path.split(".")
    for name in parents:
        at = at.setdefault(name, {})
    if value is None:
        at.pop(last, None)
    else:
        at[last] = value
    return body


LIFE = "properties.dynamicPoolConfiguration.lifecycleConfiguration"

# --- session pools ---


def test_put_get_list_delete(new_pool, daemon):
    assert new_pool.arm("GET").error(404, "ResourceNotFound")
    body = {**pool_body(maximum=7, ready=2, cooldown=120), "tags": {"team": "e2e"}}
    # 200, not 201: clients would begin to poll.
    reply = new_pool.arm("PUT", body).ok(200)
    found = reply.json
    assert found["id"] == new_pool.arm_path
    assert found["name"] == new_pool.name
    assert found["type"].lower() == "microsoft.app/sessionpools"
    assert found["tags"] == {"team": "e2e"}
    properties = found["properties"]
    assert properties["provisioningState"] == "Succeeded"
    assert properties["containerType"] == "PythonLTS"
    assert properties["poolManagementType"] == "Dynamic"
    assert properties["environmentId"] is None
    assert properties["scaleConfiguration"]["maxConcurrentSessions"] == 7
    assert properties["dynamicPoolConfiguration"] == {
        "lifecycleConfiguration": {"lifecycleType": "Timed", "cooldownPeriodInSeconds": 120}
    }
    assert properties["sessionNetworkConfiguration"] == {"status": "EgressDisabled"}
    assert properties["poolManagementEndpoint"] == daemon.base + new_pool.path
    for name in ("createdAt", "lastModifiedAt"):
        assert TIME.fullmatch(found["systemData"][name])
    got = new_pool.arm("GET").ok()
    assert got.json == found and got.headers["ETag"] == reply.headers["ETag"]
    assert ARM_VERSION in got.headers["api-supported-versions"]
    provider = "/providers/Microsoft.App/sessionPools"
    for scope in (GROUP_ID, f"/subscriptions/{ZERO}"):
        listed = arm(daemon, "GET", scope + provider).ok().json["value"]
        assert [p for p in listed if p["name"] == new_pool.name] == [found]
    assert new_pool.session().value("1 + 1") == 2
    assert new_pool.arm("DELETE").status in (200, 202)
    new_pool.arm("GET").error(404, "ResourceNotFound")
    new_pool.arm("DELETE").ok(204)


def test_the_endpoint_works_as_it_is_given(new_pool, daemon):
    endpoint = (
        new_pool.arm("PUT", pool_body(maximum=2)).ok().json["properties"]["poolManagementEndpoint"]
    )
    path = urllib.parse.urlsplit(endpoint).path
    reply = new_pool.client.request("POST", f"{path}/executions?identifier=abcd", {"code": "6*7"})
    assert reply.ok().json["result"]["executionResult"] == 42
    # It names the server as the caller did.
    named = new_pool.arm("GET", headers={"Host": "pools.example:8900"}).ok().json
    assert (
        named["properties"]["poolManagementEndpoint"] == "http://pools.example:8900" + new_pool.path
    )


def test_recorded_create_of_the_cli(new_pool):
    body = {
        "location": "northcentralus(stage)",
        "identity": {"type": "None", "userAssignedIdentities": None},
        "properties": {
            "environmentId": None,
            "nodeCount": None,
            "poolManagementType": "Dynamic",
            "containerType": "PythonLTS",
            "scaleConfiguration": {"maxConcurrentSessions": 10, "readySessionInstances": 5},
            "dynamicPoolConfiguration": {
                "executionType": "Timed",
                "cooldownPeriodInSeconds": "300",
            },
            "sessionNetworkConfiguration": {"status": "EgressDisabled"},
            "customContainerTemplate": None,
            "secrets": None,
            "managedIdentitySettings": None,
        },
    }
    found = new_pool.arm("PUT", body, version="2024-10-02-preview").ok(200).json
    assert found["properties"]["dynamicPoolConfiguration"] == {
        "executionType": "Timed",
        "cooldownPeriodInSeconds": 300,
    }
    assert found["properties"]["provisioningState"] == "Succeeded"


def test_founding_documents_pool(new_pool):
    # az containerapp sessionpool create --max-sessions 100 --container-type PythonLTS --cooldown-period 300
    body = {
        "location": "eastasia",
        "properties": {
            "poolManagementType": "Dynamic",
            "containerType": "PythonLTS",
            "scaleConfiguration": {"maxConcurrentSessions": 100},
            "dynamicPoolConfiguration": {
                "lifecycleConfiguration": {"lifecycleType": "Timed", "cooldownPeriodInSeconds": 300}
            },
        },
    }
    found = new_pool.arm("PUT", body, version="2024-08-02-preview").ok().json
    assert found["properties"]["sessionNetworkConfiguration"]["status"] == "EgressDisabled"


@pytest.mark.parametrize("version", FLAT_VERSIONS + NESTED_VERSIONS)
def test_life_cycle_in_both_forms(new_pool, version):
    nested = pool_body(maximum=3, cooldown=200)
    flat = copy.deepcopy(nested)
    flat["properties"]["dynamicPoolConfiguration"] = {
        "executionType": "Timed",
        "cooldownPeriodInSeconds": 200,
    }
    for body in (nested, flat):
        new_pool.arm("PUT", body, version=version).ok()
        shown = (
            new_pool.arm("GET", version=version).ok().json["properties"]["dynamicPoolConfiguration"]
        )
        if version in FLAT_VERSIONS:
            assert shown == {"executionType": "Timed", "cooldownPeriodInSeconds": 200}
        else:
            assert shown == {
                "lifecycleConfiguration": {"lifecycleType": "Timed", "cooldownPeriodInSeconds": 200}
            }


def test_contradicting_life_cycles(new_pool):
    body = pool_body(maximum=3, cooldown=200)
    body["properties"]["dynamicPoolConfiguration"]["cooldownPeriodInSeconds"] = 300
    new_pool.arm("PUT", body).error(400, "InvalidSessionPoolConfiguration")


def test_names_in_any_case(new_pool):
    body = {
        "Location": "local",
        "PROPERTIES": {
            "containertype": "pythonlts",
            "poolmanagementtype": "dynamic",
            "ScaleConfiguration": {"MAXCONCURRENTSESSIONS": "4"},
            "dynamicPoolConfiguration": {
                "lifecycleConfiguration": {"lifecycleType": "timed", "coolDownPeriodInSeconds": 90}
            },
            "sessionNetworkConfiguration": {"Status": "egressdisabled"},
            "isMCPServerEnabled": False,
        },
    }
    properties = new_pool.arm("PUT", body).ok().json["properties"]
    assert properties["containerType"] == "PythonLTS"
    assert properties["scaleConfiguration"]["maxConcurrentSessions"] == 4
    assert (
        properties["dynamicPoolConfiguration"]["lifecycleConfiguration"]["cooldownPeriodInSeconds"]
        == 90
    )
    assert properties["sessionNetworkConfiguration"]["status"] == "EgressDisabled"
    upper = new_pool.arm_path.replace("sessionPools", "SESSIONPOOLS").replace(
        "resourceGroups", "RESOURCEGROUPS"
    )
    assert arm(new_pool.daemon, "GET", upper).ok().json["properties"] == properties


@pytest.mark.parametrize(
    "body, code",
    [
        (change(f"{LIFE}.cooldownPeriodInSeconds", 59), "InvalidSessionPoolConfiguration"),
        (change(f"{LIFE}.cooldownPeriodInSeconds", 3601), "InvalidSessionPoolConfiguration"),
        (change(f"{LIFE}.cooldownPeriodInSeconds", -1), "InvalidSessionPoolConfiguration"),
        (change(f"{LIFE}.lifecycleType", "OnContainerExit"), "InvalidSessionPoolConfiguration"),
        (change(f"{LIFE}.lifecycleType", "Never"), None),
        (change(f"{LIFE}.maxAlivePeriodInSeconds", 400), "InvalidSessionPoolConfiguration"),
        (
            change("properties.scaleConfiguration.maxConcurrentSessions", 0),
            "InvalidSessionPoolConfiguration",
        ),
        (
            change("properties.scaleConfiguration.maxConcurrentSessions", 10001),
            "InvalidSessionPoolConfiguration",
        ),
        (change("properties.scaleConfiguration.maxConcurrentSessions", "many"), None),
        (
            change("properties.scaleConfiguration.readySessionInstances", 5),
            "SessionPoolInvalidReadySessionInstances",
        ),
        (
            change("properties.scaleConfiguration.readySessionInstances", -1),
            "SessionPoolInvalidReadySessionInstances",
        ),
        (change("properties.containerType", "CobolLTS"), "InvalidSessionPoolConfiguration"),
        (change("properties.containerType", 5), None),
        (change("properties.containerType", "CustomContainer"), "SessionTypeNotSupportedInRegion"),
        (change("properties.poolManagementType", "System"), "SessionPoolInvalidPoolManagementType"),
        (change("properties.environmentId", "/subscriptions/x"), "InvalidSessionPoolConfiguration"),
        (
            change("properties.customContainerTemplate", {"containers": []}),
            "InvalidSessionPoolConfiguration",
        ),
        (change("properties.sessionNetworkConfiguration.status", "Open"), None),
        (change("properties.isolation", "microvm"), "InvalidSessionPoolConfiguration"),
        (change("properties.isolation", "strong"), "InvalidSessionPoolConfiguration"),
        (change("properties.minimumIsolation", "microvm"), "InvalidSessionPoolConfiguration"),
        (change("properties.sessionLimits.memory", "1Mi"), "InvalidSessionPoolConfiguration"),
        (change("properties.sessionLimits.memory", "lots"), "InvalidSessionPoolConfiguration"),
        (change("properties.sessionLimits.dataSize", 1), "InvalidSessionPoolConfiguration"),
        (change("properties.sessionLimits.pids", 7), "InvalidSessionPoolConfiguration"),
        (change("properties.sessionLimits.cpu", 0.01), "InvalidSessionPoolConfiguration"),
        (change("properties.sessionLimits.queueLength", 0), "InvalidSessionPoolConfiguration"),
        (
            change("properties.sessionLimits.maxUploadSizeInBytes", 0),
            "InvalidSessionPoolConfiguration",
        ),
        (
            change("properties.sessionLimits.outputStreamsMaxLength", 0),
            "InvalidSessionPoolConfiguration",
        ),
        (
            change(
                "properties.sessionLimits",
                {"defaultTimeoutInSeconds": 100, "maxTimeoutInSeconds": 50},
            ),
            "InvalidSessionPoolConfiguration",
        ),
        (
            change(
                "properties.managedIdentitySettings", [{"identity": "system", "lifecycle": "Main"}]
            ),
            "SessionPoolManagedIdentityCreationError",
        ),
        (change("identity", {"type": "SystemAssigned"}), "SessionPoolManagedIdentityCreationError"),
        (change("properties.secrets", [{"name": "a"}]), "InvalidSessionPoolConfiguration"),
        (change("properties.secrets", "a"), None),
        (change("properties", []), None),
        (change("location", None), "LocationRequired"),
        (change("location", "no/where"), "LocationNotAvailableForResourceType"),
        (change("tags", {"a": {"b": 1}}), None),
        (change("tags", {f"t{i}": "" for i in range(51)}), None),
    ],
)
def test_validation(new_pool, body, code):
    new_pool.arm("PUT", body).error(400, code)
    new_pool.arm("GET").error(404)


@pytest.mark.parametrize(
    "body",
    [
        change(f"{LIFE}.cooldownPeriodInSeconds", 60),
        change(f"{LIFE}.cooldownPeriodInSeconds", 3600),
        change("properties.scaleConfiguration", {"maxConcurrentSessions": 1}),
        change(
            "properties.scaleConfiguration",
            {"maxConcurrentSessions": 10000, "readySessionInstances": 0},
        ),
        change("properties.scaleConfiguration.readySessionInstances", 4),
        change("properties.sessionLimits.memory", "64Mi"),
        change("properties.isolation", "process"),
        change("tags", {f"t{i}": "" for i in range(50)}),
    ],
)
def test_at_the_limits(new_pool, body):
    new_pool.arm("PUT", body).ok()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"location": "a", "location": "b"}', b"\xff"]
)
def test_malformed_bodies(new_pool, body):
    new_pool.arm("PUT", body).error(400, "InvalidRequestContent")
    new_pool.arm("PATCH", body).error(400)


@pytest.mark.parametrize(
    "name",
    [
        "ab",
        "x" * 64,
        "Upper",
        "1first",
        "with_underscore",
        "-first",
        "last-",
        "with.dot",
        "%2e%2e",
        "with%20space",
    ],
)
def test_bad_names(daemon, name):
    path = f"{GROUP_ID}/providers/Microsoft.App/sessionPools/{name}"
    arm(daemon, "PUT", path, pool_body()).error(400, "InvalidResourceName")


@pytest.mark.parametrize("length", [3, 63])
def test_names_at_the_limits(daemon, length):
    p = Pool(daemon, ("a" * length))
    p.arm("PUT", pool_body(maximum=1)).ok()
    p.delete()


def test_api_versions(new_pool, daemon):
    daemon.arm.request("GET", new_pool.arm_path).error(400, "MissingApiVersionParameter")
    for version in ("2020-01-01", "latest", "", "2025-07-02"):
        reply = new_pool.arm("GET", version=version)
        reply.error(
            400, "MissingApiVersionParameter" if not version else "InvalidApiVersionParameter"
        )
    new_pool.arm("PUT", pool_body(maximum=1), version="2025-10-02-PREVIEW").ok()


def test_secrets_are_never_shown(new_pool):
    body = change("properties.secrets", [{"name": "password", "value": "hunter2-zq7"}])
    for reply in (new_pool.arm("PUT", body), new_pool.arm("GET")):
        assert reply.ok().json["properties"]["secrets"] == [{"name": "password"}]
        assert b"hunter2-zq7" not in reply.body
    # What was read can be sent back.
    new_pool.arm("PUT", new_pool.arm("GET").json).ok()


def test_what_was_read_can_be_sent_back(new_pool):
    for version in ("2024-02-02-preview", ARM_VERSION):
        new_pool.arm("PUT", pool_body(maximum=3, limits={"memory": "256Mi"})).ok()
        before = new_pool.arm("GET", version=version).ok().json
        after = new_pool.arm("PUT", before, version=version).ok().json
        assert after["properties"] == before["properties"]


def test_replace_and_location(new_pool):
    new_pool.arm("PUT", pool_body(maximum=3, limits={"memory": "256Mi"})).ok()
    moved = {**pool_body(maximum=3), "location": "mars"}
    new_pool.arm("PUT", moved).error(409, "InvalidResourceLocation")
    found = new_pool.arm("PUT", pool_body(maximum=4)).ok().json
    # PUT replaces: what is not there has its default again.
    assert "256Mi" not in json.dumps(found)
    assert found["properties"]["scaleConfiguration"]["maxConcurrentSessions"] == 4


def test_etags(new_pool):
    tag = new_pool.arm("PUT", pool_body(maximum=3)).ok().headers["ETag"]
    new_pool.arm("PUT", pool_body(maximum=4), headers={"If-None-Match": "*"}).error(
        412, "PreconditionFailed"
    )
    new_pool.arm("PUT", pool_body(maximum=4), headers={"If-Match": '"no"'}).error(
        412, "PreconditionFailed"
    )
    reply = new_pool.arm("GET", headers={"If-None-Match": tag})
    assert (reply.status, reply.body) == (304, b"")
    newer = (
        new_pool.arm("PUT", pool_body(maximum=4), headers={"If-Match": tag}).ok().headers["ETag"]
    )
    assert newer != tag
    new_pool.arm("DELETE", headers={"If-Match": tag}).error(412, "PreconditionFailed")
    new_pool.arm("GET", headers={"If-None-Match": tag}).ok()


# --- patch ---


def test_patch(new_pool):
    new_pool.arm("PATCH", {"tags": {}}).error(404)
    new_pool.arm("PUT", {**pool_body(maximum=5, ready=2), "tags": {"a": "1", "b": "2"}}).ok()
    patch = {
        "tags": {"b": None, "c": "3"},
        "properties": {"scaleConfiguration": {"maxConcurrentSessions": "9"}},
    }
    found = new_pool.arm("PATCH", patch).ok().json
    assert found["tags"] == {"a": "1", "c": "3"}
    assert found["properties"]["scaleConfiguration"]["maxConcurrentSessions"] == 9
    assert (
        found["properties"]["dynamicPoolConfiguration"]["lifecycleConfiguration"][
            "cooldownPeriodInSeconds"
        ]
        == 300
    )
    assert new_pool.arm("GET").ok().json == found


def test_patch_of_the_life_cycle_in_both_forms(new_pool):
    new_pool.arm("PUT", pool_body(maximum=5)).ok()
    for configuration in (
        {"cooldownPeriodInSeconds": 400},
        {"lifecycleConfiguration": {"cooldownPeriodInSeconds": 400}},
    ):
        new_pool.arm("PUT", pool_body(maximum=5)).ok()
        found = (
            new_pool.arm("PATCH", {"properties": {"dynamicPoolConfiguration": configuration}})
            .ok()
            .json
        )
        life = found["properties"]["dynamicPoolConfiguration"]["lifecycleConfiguration"]
        assert life == {"lifecycleType": "Timed", "cooldownPeriodInSeconds": 400}


def test_patch_is_validated_as_a_whole(new_pool):
    new_pool.arm("PUT", pool_body(maximum=5, ready=2)).ok()
    before = new_pool.arm("GET").json
    patch = {"properties": {"scaleConfiguration": {"maxConcurrentSessions": 2}}}
    new_pool.arm("PATCH", patch).error(400, "SessionPoolInvalidReadySessionInstances")
    patch = {"properties": {"containerType": "NodeLTS"}}
    new_pool.arm("PATCH", patch).error(400, "PropertyChangeNotAllowed")
    assert new_pool.arm("GET").json == before


# --- resource groups, subscriptions, providers ---


def test_resource_groups(daemon):
    group = f"/subscriptions/{ZERO}/resourceGroups/{unique('group')}"
    assert arm(daemon, "HEAD", group).status == 404
    arm(daemon, "GET", group).error(404, "ResourceGroupNotFound")
    path = f"{group}/providers/Microsoft.App/sessionPools/inside"
    arm(daemon, "PUT", path, pool_body(maximum=2, ready=1)).error(404, "ResourceGroupNotFound")
    arm(daemon, "GET", f"{group}/providers/Microsoft.App/sessionPools").error(
        404, "ResourceGroupNotFound"
    )
    found = arm(daemon, "PUT", group, {"location": "local", "tags": {"a": "b"}}).ok(201).json
    assert found["id"] == group and found["properties"]["provisioningState"] == "Succeeded"
    arm(daemon, "PUT", group, {"location": "local"}).ok(200)
    assert arm(daemon, "HEAD", group).status == 204
    listed = arm(daemon, "GET", f"/subscriptions/{ZERO}/resourceGroups").ok().json["value"]
    assert group in [g["id"] for g in listed]
    assert arm(daemon, "PATCH", group, {"tags": {"c": "d"}}).ok().json["tags"]["c"] == "d"
    arm(daemon, "PUT", path, pool_body(maximum=2, ready=1)).ok()
    # Deleting a group deletes what is in it.
    assert arm(daemon, "DELETE", group).status in (200, 202)
    arm(daemon, "GET", path).error(404)
    arm(daemon, "DELETE", group).error(404, "ResourceGroupNotFound")


@pytest.mark.parametrize("name", ["x" * 91, "ends.", "a$b", "%00"])
def test_bad_group_names(daemon, name):
    arm(daemon, "PUT", f"/subscriptions/{ZERO}/resourceGroups/{name}", {"location": "local"}).error(
        400
    )


def test_subscriptions_and_providers(daemon):
    found = arm(daemon, "GET", "/subscriptions").ok().json["value"]
    assert found[0]["subscriptionId"] == ZERO and found[0]["state"] == "Enabled"
    provider = arm(daemon, "GET", f"/subscriptions/{ZERO}/providers/Microsoft.App").ok().json
    assert provider["registrationState"] == "Registered"
    (pools,) = [t for t in provider["resourceTypes"] if t["resourceType"] == "sessionPools"]
    assert ARM_VERSION in pools["apiVersions"] and pools["locations"]
    arm(daemon, "GET", f"/subscriptions/{ZERO}/providers/Microsoft.Nothing").error(
        404, "InvalidResourceNamespace"
    )


def test_paging(daemon):
    group = f"/subscriptions/{ZERO}/resourceGroups/{unique('pages')}"
    arm(daemon, "PUT", group, {"location": "local"}).ok(201)
    names = [f"pool-{i}" for i in range(5)]
    base = f"{group}/providers/Microsoft.App/sessionPools"
    for name in names:
        arm(daemon, "PUT", f"{base}/{name}", pool_body(maximum=1, ready=0)).ok()
    found, link, pages = [], f"{base}?api-version={ARM_VERSION}&$top=2", 0
    while link:
        page = daemon.arm.request("GET", link).ok().json
        found += [p["name"] for p in page["value"]]
        pages += 1
        link = page.get("nextLink")
        if link:
            url = urllib.parse.urlsplit(link)
            assert f"{url.scheme}://{url.netloc}" == daemon.base
            link = f"{url.path}?{url.query}"
    assert found == names and pages == 3
    for query in (
        "$top=0",
        "$top=1001",
        "$top=x",
        "$skipToken=zz",
        "$skipToken=" + b"/subscriptions/x".hex(),
    ):
        arm(daemon, "GET", f"{base}?{query}").error(400)
    arm(daemon, "DELETE", group).ok()


def test_arm_needs_its_own_token(daemon, new_pool):
    for token in (None, daemon.token, "x"):
        reply = arm(daemon, "PUT", new_pool.arm_path, pool_body(), token=token)
        assert (reply.status, reply.body) == (401, b"")
    new_pool.arm("GET").error(404)


@pytest.mark.parametrize("method", ["POST", "BREW"])
def test_wrong_method(daemon, new_pool, method):
    reply = arm(daemon, method, new_pool.arm_path)
    reply.error(405, "MethodNotAllowed")
    assert {"GET", "PUT", "PATCH", "DELETE"} <= set(re.split(r",\s*", reply.headers["Allow"]))


# --- changes take effect ---


def resize(pool, maximum):
    return pool.arm(
        "PATCH", {"properties": {"scaleConfiguration": {"maxConcurrentSessions": maximum}}}
    )


def test_more_and_fewer_sessions(make_pool):
    pool = make_pool(maximum=2, ready=1)
    sessions = [pool.session() for _ in range(4)]
    sessions[0].run("x = 1"), sessions[1].run("1")
    sessions[2].post("1").error(429)
    resize(pool, 3).ok()
    sessions[2].run("1")
    sessions[3].post("1").error(429)
    # Fewer than there are: those who are in stay, nobody new comes in.
    pool.arm("PUT", pool_body(maximum=1, ready=0)).ok()
    assert sessions[0].value("x") == 1
    assert len(pool.list_sessions()) == 3
    sessions[1].delete().ok(204)
    sessions[3].post("1").error(429)
    sessions[2].delete().ok(204)
    sessions[3].post("1").error(429)
    sessions[0].delete().ok(204)
    sessions[3].run("1")


def test_limits_of_new_sessions_change(make_pool):
    pool = make_pool(maximum=4, ready=1, limits={"outputStreamsMaxLength": 10, "dataSize": "1Mi"})
    before = pool.session()
    assert before.value("import os; s = os.statvfs('/mnt/data'); s.f_blocks * s.f_bsize") == 1 << 20
    limits = {"outputStreamsMaxLength": 20, "dataSize": "2Mi"}
    pool.arm("PATCH", {"properties": {"sessionLimits": limits}}).ok()
    # What is asked at each request is new at once, what a sandbox was made with is new in the next one.
    assert before.stdout("print('x' * 19)") == "x" * 19 + "\n"
    assert before.value("s = os.statvfs('/mnt/data'); s.f_blocks * s.f_bsize") == 1 << 20
    after = pool.session()
    assert after.value("import os; s = os.statvfs('/mnt/data'); s.f_blocks * s.f_bsize") == 2 << 20


def test_deleting_a_pool_ends_its_sessions(daemon):
    pool = daemon.make_pool(maximum=3, ready=1)
    sessions = [pool.session() for _ in range(2)]
    uids = []
    for s in sessions:
        lines = s.value("open('/proc/self/uid_map').read()").splitlines()
        uids += [int(line.split()[1]) for line in lines if line.split()[0] == "1000"]
        s.run("import subprocess; subprocess.Popen(['sleep', '1000']);")
    assert all(len(sandbox_pids(uid)) >= 2 for uid in uids)
    pool.delete()
    sessions[0].post("1").error(404, "SessionPoolNotFound")
    wait_for(lambda: not any(map(sandbox_pids, uids)), 10, "all processes are gone")
    # A pool of that name starts from nothing.
    again = daemon.make_pool(name=pool.name, maximum=3, ready=1)
    assert again.list_sessions() == []
    assert again.session(sessions[0].identifier).names() == []
    again.delete()


def test_deleting_a_pool_answers_those_who_wait(daemon):
    pool = daemon.make_pool(maximum=3, ready=1)
    session = pool.session()
    session.run("1")
    running = session.background("import time; time.sleep(60)")
    waiting = session.start("1")
    wait_for(lambda: session.execution(waiting)["status"] == "NotStarted")
    pool.delete()
    assert running.result(20).status in (404, 409)


def test_pools_survive_the_daemon():
    d = Daemon()
    try:
        pool = d.make_pool(maximum=7)
        before = pool.arm("GET").ok().json["properties"]
        d.stop()
        d.start()
        pool = Pool(d, pool.name)
        after = pool.arm("GET").ok().json["properties"]
        before.pop("poolManagementEndpoint"), after.pop("poolManagementEndpoint")
        assert after == before
        assert pool.session().value("1 + 1") == 2
        d.stop()
    finally:
        if d.process.poll() is None:
            d.process.kill()
        d.remove()
