# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the attack suite: those of the end-to-end tests, and witnesses that watch the host."""

import os

import pytest

from abuse.attack import CANARY, CANARY_NAME, e2e
from abuse.kernel_log import WatchedKernelLog

make_pool = e2e.make_pool
new_session = e2e.new_session
pool = e2e.pool
session = e2e.session


@pytest.fixture(scope="session")
def daemon():
    """A daemon with a secret in its environment, which no session may ever see."""
    if os.geteuid() != 0:
        pytest.skip("bivouacd must be started as root")
    if not (e2e.BIN_DIR / "bivouacd").exists():
        pytest.skip(f"no bivouacd in {e2e.BIN_DIR}; build it or set BIVOUAC_BIN_DIR")
    os.environ[CANARY_NAME] = CANARY
    try:
        d = e2e.Daemon()
    finally:
        del os.environ[CANARY_NAME]
    yield d
    d.stop()
    d.remove()


@pytest.fixture(scope="module")
def neighbour(pool):
    """Another tenant's session."""
    s = pool.session()
    s.run("secret = 'of the neighbour'\nopen('kept.txt', 'w').write(secret);")
    yield s
    s.delete()


@pytest.fixture(autouse=True)
def _witnesses(request, daemon):
    """After every attack: the daemon runs, a neighbour's data is whole, the kernel has no complaint."""
    log = WatchedKernelLog()
    try:
        witness = request.getfixturevalue("neighbour") if "pool" in request.fixturenames else None
        yield
    finally:
        log.stop()
    assert e2e.alive(daemon.pid), daemon.stderr()
    if witness:
        assert witness.value("secret") == "of the neighbour"
        assert witness.download("kept.txt").ok().body == b"of the neighbour"
    assert not log.trouble
    assert not log.lost, "records of the kernel were overwritten before they could be read"
