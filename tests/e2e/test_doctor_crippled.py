# SPDX-License-Identifier: Apache-2.0
"""`bivouac doctor` where something is missing: names it, says what is lost and how to get it, and its exit status tells.

What is missing is really missing for the command; see crippled.py.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from conftest import BIN_DIR

HELPER = pathlib.Path(__file__).with_name("crippled.py")
NAMESPACES = [f"namespace {kind}" for kind in ("user", "pid", "mount", "net", "ipc", "uts", "cgroup")]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to take things away")


def doctor(*missing):
    command = [str(BIN_DIR / "bivouac"), "doctor", "-o", "json"]
    if missing:
        command = [sys.executable, str(HELPER), *missing, "--", *command]
    result = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert result.returncode in (0, 69), result.stderr
    return result.returncode, {f["what"]: f for f in json.loads(result.stdout)}, result.stderr.decode()


@pytest.fixture(scope="module")
def whole():
    return doctor()


def changed(whole, crippled, status):
    return sorted(what for what, f in crippled.items() if f["status"] == status != whole[1].get(what, {}).get("status"))


def test_a_whole_machine(whole):
    """The machine of the tests has all that sessions take; otherwise the tests below say little."""
    status, findings, _ = whole
    bad = [f for f in findings.values() if f["status"] == "fail"]
    assert status == 0 and not bad, bad
    for what in ("landlock", "landlock scopes", "seccomp notify", "system calls", "proc", "cgroup memory", "veth",
                 "nftables", "conntrack accounting", "ip_forward", "namespace limits", "user namespaces"):
        assert findings[what]["status"] == "ok", findings[what]
        assert findings[what]["fix"] == ""


def test_controllers_hidden(whole):
    status, findings, stderr = doctor("cgroups")
    assert status == 69 and "cannot run sessions safely" in stderr
    assert changed(whole, findings, "fail") == ["cgroup layout", "cgroup memory", "cgroup pids"]
    assert changed(whole, findings, "warn") == ["cgroup cpu", "cgroup freezer", "cgroup swap"]
    for what, loss in (("memory", "no memory limit"), ("pids", "no process limit"), ("cpu", "without a limit")):
        assert loss in findings[f"cgroup {what}"]["fix"]
        assert "not mounted" in findings[f"cgroup {what}"]["detail"]


def test_user_namespaces_off(whole):
    status, findings, _ = doctor("userns")
    assert status == 69
    assert findings["namespace limits"]["status"] == "fail"
    assert "user.max_user_namespaces" in findings["namespace limits"]["detail"]
    assert "sysctl" in findings["namespace limits"]["fix"]
    failed = changed(whole, findings, "fail")
    assert set(NAMESPACES) | {"proc", "tmpfs", "namespace limits"} == set(failed)
    assert "no more namespaces are allowed" in findings["namespace user"]["detail"]


def test_landlock_missing(whole):
    status, findings, _ = doctor("landlock")
    assert status == whole[0]
    assert changed(whole, findings, "fail") == []
    assert changed(whole, findings, "warn") == ["landlock", "landlock devices", "landlock scopes"]
    assert findings["landlock"]["detail"] == "not in this kernel"
    assert "lsm=landlock" in findings["landlock"]["fix"]


def test_user_notification_missing(whole):
    status, findings, _ = doctor("notify")
    assert status == whole[0]
    assert changed(whole, findings, "fail") == []
    assert changed(whole, findings, "warn") == ["seccomp notify"]
    assert "do not name it" in findings["seccomp notify"]["fix"]


def test_everything_at_once(whole):
    status, findings, _ = doctor("cgroups", "userns", "landlock", "notify")
    assert status == 69
    failed = changed(whole, findings, "fail")
    assert {"cgroup memory", "cgroup pids", "namespace limits", "proc", *NAMESPACES} <= set(failed)
    assert {"landlock", "seccomp notify", "cgroup cpu"} <= set(changed(whole, findings, "warn"))
    assert all(f["fix"] for f in findings.values() if f["status"] != "ok")
