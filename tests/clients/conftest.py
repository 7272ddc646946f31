# SPDX-License-Identifier: Apache-2.0
"""Fixtures: those of the end-to-end tests, and Node.js programs that use published clients."""

import fcntl
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
UNREACHABLE = re.compile(r"\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH)\b")


def _e2e():
    """conftest of tests/e2e under a name of its own: `conftest` is this one."""
    if "e2e_conftest" not in sys.modules:
        file = HERE.parent / "e2e" / "conftest.py"
        spec = importlib.util.spec_from_file_location("e2e_conftest", file)
        sys.modules["e2e_conftest"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["e2e_conftest"])
    return sys.modules["e2e_conftest"]


e2e = _e2e()
make_pool = e2e.make_pool
new_session = e2e.new_session
pool = e2e.pool
session = e2e.session


def _install(directory):
    """npm ci into a directory that is complete or not there; the packages' own scripts never run."""
    fresh = directory.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(HERE / name, fresh)
    done = subprocess.run(["npm", "ci"], cwd=fresh, capture_output=True, text=True, timeout=600)
    if done.returncode:
        said = done.stdout + done.stderr
        shutil.rmtree(fresh, ignore_errors=True)
        if UNREACHABLE.search(said):
            pytest.skip(f"the npm registry cannot be reached: {UNREACHABLE.search(said).group()}")
        raise AssertionError(said)
    fresh.rename(directory)


@pytest.fixture(scope="session")
def daemon():
    """One that speaks TLS as well, with a certificate of its own authority."""
    if os.geteuid() != 0:
        pytest.skip("bivouacd must be started as root")
    if not (e2e.BIN_DIR / "bivouacd").exists():
        pytest.skip(f"no bivouacd in {e2e.BIN_DIR}; build it or set BIVOUAC_BIN_DIR")
    d = e2e.Daemon("--tls-listen", "127.0.0.1:0")
    yield d
    d.stop()
    d.remove()


@pytest.fixture(params=["http", "https"])
def origin(request, daemon):
    """http://host:port, then https://host:port."""
    if request.param == "http":
        return daemon.base
    return daemon.ready["tlsEndpoint"].removesuffix(f"{e2e.GROUP_ID}/sessionPools/default")


@pytest.fixture
def trust(daemon, monkeypatch):
    """For Python's libraries: the variables by which a user makes them trust the authority."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", daemon.ready["caFile"])
    monkeypatch.setenv("SSL_CERT_FILE", daemon.ready["caFile"])


@pytest.fixture(scope="session")
def clients():
    """The directory whose node_modules has the clients; kept in the build directory, by content."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed; run: make deps")
    parent = e2e.BIN_DIR / "clients"
    parent.mkdir(parents=True, exist_ok=True)
    lock = (HERE / "package-lock.json").read_bytes()
    directory = parent / hashlib.sha256(lock).hexdigest()[:16]
    with open(parent / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not directory.exists():
            _install(directory)
    return directory


@pytest.fixture
def node(clients, daemon, tmp_path):
    """A function that runs one of the programs here with these environment variables; what it reports.

    Programs import the clients as their readers do, so they lie beside node_modules while they run.
    The environment has nothing else: no token of this machine, no proxy.
    """

    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    # Debian 12 has Node.js 18, where what these clients take for given is behind a flag.
    old = int(version.stdout[1:].split(".")[0]) < 20
    flags = ["--experimental-global-webcrypto"] if old else []

    def run(program, **environment):
        program = HERE / program
        (tmp_path / "node_modules").unlink(missing_ok=True)
        (tmp_path / "node_modules").symlink_to(clients / "node_modules")
        if program != tmp_path / program.name:
            shutil.copy(program, tmp_path)
        report = tmp_path / "report.json"
        done = subprocess.run(
            ["node", *flags, program.name],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "REPORT": str(report),
                "NODE_EXTRA_CA_CERTS": daemon.ready["caFile"],
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return json.loads(report.read_text())

    return run


@pytest.fixture
def identity(daemon):
    """What a user sets so that credentials of Azure SDKs ask this machine."""
    return {
        "IDENTITY_ENDPOINT": daemon.ready["identityEndpoint"],
        "IDENTITY_HEADER": daemon.ready["identityHeader"],
    }
