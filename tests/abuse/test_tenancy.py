# SPDX-License-Identifier: Apache-2.0
"""
Cases 52 to 57: tenants against each other and against what the service remembers.

Not repeated here: tokens (case 52: end to end, test_bad_input.py from test_audiences on), executions during deletion,
double deletions, disconnects (case 53: test_races.py), SIGKILL and restart (case 53: test_restart.py), one session more
than the limit (case 54: test_races.py::test_never_more_than_the_maximum, test_maximum_holds_while_sessions_come_and_go).
"""

import json
import os
import re
import signal
import threading
import time

import pytest

from abuse.attack import LONG, survival

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sandboxes need root")

ROUNDS = 20 if LONG else 1
CANARY = "canary-7f3d9a4c51be4e0d"


@pytest.fixture
def own_daemon():
    with survival.Daemon() as d:
        yield d


def in_threads(count, fn):
    """fn(i) for each i at the same time; what they returned."""
    results = [None] * count
    start = threading.Barrier(count)

    def work(i):
        start.wait()
        try:
            results[i] = fn(i)
        except BaseException as e:
            results[i] = e

    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


class Pool:
    """Calls into one pool of a daemon; survival.Daemon speaks to the last one that was made."""

    def __init__(self, d, name, maximum, ready, limits=None):
        d.make_pool(name, maximum, ready, limits)
        self.d, self.path = d, d.pool_path

    def request(self, method, where, identifier, body=None):
        return self.d.request(
            method, f"{self.path}{where}?api-version={survival.VERSION}&identifier={identifier}", body
        )

    def execute(self, identifier, code):
        return self.request(
            "POST",
            "/executions",
            identifier,
            {"codeInputType": "Inline", "executionType": "Synchronous", "code": code},
        )

    def value(self, identifier, code):
        r = self.execute(identifier, code)
        assert r.status == 200 and r.json["status"] == "Succeeded", r
        return r.json["result"]["executionResult"]

    def delete(self, identifier):
        return self.request("DELETE", "/session", identifier)


def test_52_token_of_one_plane_or_daemon_is_nothing_on_another(own_daemon):
    """A caller tries a management token on sessions, a session token on resources, and a token of another own_daemon."""
    path = own_daemon.url("/executions", "token-test")
    body = {"codeInputType": "Inline", "executionType": "Synchronous", "code": "1"}
    assert own_daemon.request("POST", path, body).status == 200
    assert own_daemon.request("POST", path, body, token="armToken").status == 401
    arm = f"{survival.DEFAULT_POOL}?api-version={survival.ARM_VERSION}"
    assert own_daemon.request("GET", arm, token="armToken").status == 200
    assert own_daemon.request("GET", arm).status == 401
    assert own_daemon.request("DELETE", arm).status == 401
    with survival.Daemon() as other:
        foreign = {"Authorization": "Bearer " + other.ready["token"]}
        assert own_daemon.request("POST", path, body, headers=foreign).status == 401
        foreign = {"Authorization": "Bearer " + other.ready["armToken"]}
        assert own_daemon.request("GET", arm, headers=foreign).status == 401


def test_52_tokens_end_with_their_key(own_daemon):
    """A token that was good is used again after the operator replaced the key."""
    old = own_daemon.ready["token"]
    path = own_daemon.url("/files", "rotated")
    assert own_daemon.request("GET", path).status == 200
    assert own_daemon.terminate() == 0
    os.unlink(os.path.join(own_daemon.state, "issuer.jwk"))
    own_daemon.start()
    assert own_daemon.ready["token"] != old
    assert own_daemon.request("GET", path).status == 200
    assert own_daemon.request("GET", path, headers={"Authorization": "Bearer " + old}).status == 401


def test_54_a_hundred_clients_at_the_limit(own_daemon):
    """A hundred clients create sessions at the same moment where only ten are left, each by another kind of call."""
    pool = Pool(own_daemon, "ten-left", 10, 2)
    for _ in range(ROUNDS):

        def create(i):
            name = f"racer-{i:03}"
            if i % 2:
                return name, pool.execute(name, "1 + 1").status
            return name, pool.request("GET", "/files", name).status

        got = in_threads(100, create)
        served = [name for name, status in got if status == 200]
        assert len(served) == 10 and {status for _, status in got} == {200, 429}, got
        assert set(own_daemon.sessions()) == set(served)
        for name in served:
            assert pool.delete(name).status == 204


def test_55_flood_of_new_identifiers_does_not_keep_another_pool_from_serving(own_daemon):
    """One tenant asks for hundreds of sessions at once, so that every sandbox in the making is his."""
    flooded = Pool(own_daemon, "flooded-pool", 400, 0)
    other = Pool(own_daemon, "other-pool", 20, 0)
    assert other.value("warm-up", "1 + 1") == 2
    waiting = threading.Thread(target=in_threads, args=(200, lambda i: flooded.execute(f"flood-{i:03}", "1 + 1")))
    waiting.start()
    survival.wait_for(lambda: len(sessions_of(flooded)) >= 150, "the flood is in the queue", 30, 0.01)
    served_before = [other.value(f"honest-{i}", "1 + 1") for i in range(4)]
    left = waiting.is_alive()
    waiting.join()
    assert served_before == [2] * 4
    # All four were answered while the flood still waited: its place in the queue is not theirs.
    assert left, "the other pool was served after the whole flood only"
    assert {flooded.value(f"flood-{i:03}", "2") for i in (0, 100, 199)} == {2}


def sessions_of(pool):
    r = pool.request("GET", "/listSessions", "none")
    assert r.status == 200, r
    return r.json["sessions"]


def test_55_pool_whose_kernels_cannot_start_does_not_disturb_others(own_daemon):
    """A session kills every kernel it is given as soon as it lives, so that the service does nothing but start kernels."""
    hostile = Pool(own_daemon, "hostile-pool", 10, 1)
    other = Pool(own_daemon, "other-pool", 10, 1)
    code = (
        "import os, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', '''\n"
        "import os, signal, time\n"
        "while True:\n"
        "    for name in os.listdir(\"/proc\"):\n"
        "        if name.isdigit() and int(name) not in (1, os.getpid()):\n"
        "            try: os.kill(int(name), signal.SIGKILL)\n"
        "            except OSError: pass\n"
        "'''], start_new_session=True)"
    )
    for i in range(3):
        assert hostile.execute(f"killer-{i}", code).status == 200
    zygotes = [p.pid for p in own_daemon.zygotes()]
    began = time.monotonic()
    while time.monotonic() - began < (60 if LONG else 4):
        assert other.value("honest-user", "1 + 1") == 2
        name = f"guest-{time.monotonic_ns()}"
        assert other.value(name, "1 + 1") == 2
        assert other.delete(name).status == 204
    # Growing pauses: the service did not spend this time forking kernels into the killers' sandboxes.
    assert own_daemon.log_tail(2000).count("its kernel ended") < 120 * (15 if LONG else 1)
    assert [p.pid for p in own_daemon.zygotes()] == zygotes and own_daemon.alive
    for i in range(3):
        assert hostile.delete(f"killer-{i}").status == 204


def test_55_zygote_that_is_killed_again_and_again(own_daemon):
    """Whoever manages to kill the zygote finds sessions alive and the next one at work."""
    pool = Pool(own_daemon, "zygote-pool", 20, 0)
    pool.value("old-session", "x = 7; x")
    for i in range(10 if LONG else 2):
        zygotes = own_daemon.zygotes()
        for p in zygotes:
            os.kill(p.pid, signal.SIGKILL)
        assert pool.value("old-session", "x") == 7
        assert pool.value(f"after-{i}", "1 + 1") == 2
        own_daemon.remember()
    assert len(own_daemon.zygotes()) == 1


def test_55_zygote_cannot_be_reached_from_inside(own_daemon):
    """A session looks for the zygote or anything else of the host among the processes it can see or signal."""
    pool = Pool(own_daemon, "look-around", 5, 1)
    code = (
        "import os, errno\n"
        "seen = []\n"
        "for pid in range(1, 40000):\n"
        "    try:\n"
        "        os.kill(pid, 0)\n"
        "        seen.append(pid)\n"
        "    except OSError as e:\n"
        "        if e.errno != errno.ESRCH: seen.append((pid, e.errno))\n"
        "me = os.getpid()\n"
        "[p for p in seen if p not in (1, me) and (p if isinstance(p, int) else p[0]) != 1]"
    )
    assert pool.value("looker-1", code) == "[]"


def test_57_forks_inherit_no_secret(own_daemon):
    """A session searches its memory, environment, arguments and files for what belongs to the daemon or to others."""
    pool = Pool(own_daemon, "canary-pool", 10, 2)
    pool.value("victim-1", f"held = '{CANARY}' * 10; open('/mnt/data/f', 'w').write(held); import os; os.environ['S'] = held; 1")
    key = json.loads(open(os.path.join(own_daemon.state, "issuer.jwk")).read())
    secrets = {
        "key": key["d"],
        "token": own_daemon.ready["token"].split(".")[2],
        "management token": own_daemon.ready["armToken"].split(".")[2],
        "neighbour": CANARY + CANARY,
        "run directory": own_daemon.run,
        "state directory": own_daemon.state,
    }
    # One letter in a class of its own, or the search would find its own text.
    patterns = {name: re.escape(text[:8]) + f"[{text[8]}]" + re.escape(text[9:]) for name, text in secrets.items()}
    search = f"""
import os, re
patterns = {{name: re.compile(text.encode()) for name, text in {patterns!r}.items()}}
found = []
def look(where, data):
    for name, pattern in patterns.items():
        if pattern.search(data): found.append((name, where))
with open('/proc/self/mem', 'rb', 0) as mem:
    for line in open('/proc/self/maps'):
        at, rights = line.split()[:2]
        a, b = (int(x, 16) for x in at.split('-'))
        if rights[0] != 'r' or '[v' in line: continue
        for start in range(a, b, 1 << 22):
            try: mem.seek(start); data = mem.read(min(1 << 22, b - start))
            except (OSError, ValueError, OverflowError): continue
            look('memory', data)
for name in os.listdir('/proc'):
    for what in ('environ', 'cmdline', 'maps', 'mountinfo', 'cgroup'):
        try: look('/proc/' + name + '/' + what, open('/proc/' + name + '/' + what, 'rb').read())
        except OSError: pass
for top in ('/mnt', '/tmp', '/home', '/dev/shm', '/etc', '/run', '/var'):
    for where, dirs, files in os.walk(top):
        for f in files:
            try: look(os.path.join(where, f), open(os.path.join(where, f), 'rb').read(1 << 20))
            except OSError: pass
found
"""
    assert pool.value("searcher-1", search) == "[]"
    # The search is one that finds: something of its own.
    own = search.replace("patterns = {", "mine = 'plan' + 'ted-' + 'ab12cd34'; patterns = {'own': re.compile(b'planted[-]ab12cd34'), **{", 1)
    own = own.replace(".items()}", ".items()}}", 1)
    assert "('own', 'memory')" in pool.value("searcher-1", own)


RANDOM = {
    "random": "import random; random.getrandbits(64)",
    "numpy": "import numpy; int(numpy.random.randint(1 << 62))",
    "ssl": "import ssl; ssl.RAND_bytes(8).hex()",
    "uuid1": "import uuid; str(uuid.uuid1())",
    "hash": "hash('never-seen-before')",
    "pid": "import os; os.getpid()",
    "temporary name": "import tempfile; tempfile.mktemp()",
    "shuffle of a set": "list({f'k{i}-unseen' for i in range(40)})",
}


@pytest.mark.parametrize("source", RANDOM)
def test_57_random_state_is_not_shared(source, new_session):
    """A session computes its neighbours' random numbers from its own, because all are copies of one process."""
    values = {new_session().value(RANDOM[source]) for _ in range(6)}
    assert len(values) == 6, values
