# SPDX-License-Identifier: Apache-2.0
"""
Case 61: random system calls from inside many sessions at once; everybody else must not notice.

    BIVOUAC_ABUSE_SESSIONS   how many sessions (default 20)
    BIVOUAC_ABUSE_SECONDS    how long in all (default 40)
    BIVOUAC_ABUSE_WIDTH      how many at a time (default 10)
    BIVOUAC_ABUSE_SEED       first seed (default: of the clock); session n of a run has seed + n
"""

import json
import os
import pathlib
import subprocess
import threading
import time

import pytest

from abuse.attack import survival
from abuse.kernel_log import KernelLog

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sandboxes need root")

SOURCE = pathlib.Path(__file__).resolve().parent / "c" / "sysfuzz.c"
SESSIONS = int(os.environ.get("BIVOUAC_ABUSE_SESSIONS", "20"))
SECONDS = float(os.environ.get("BIVOUAC_ABUSE_SECONDS", "40"))
WIDTH = min(int(os.environ.get("BIVOUAC_ABUSE_WIDTH", "10")), SESSIONS)
SEED = int(os.environ.get("BIVOUAC_ABUSE_SEED", "0")) or int(time.time())
EACH_S = max(2, round(SECONDS * WIDTH / SESSIONS))
LIMITS = {"memory": "256Mi", "dataSize": "16Mi", "tmpSize": "16Mi", "pids": 64, "cpu": 0.5}
READY, SHELLS = 4, 4
GROWTH_KIB = 8192
# How one execution of an attacker may end. Everything else is the service giving way.
ENDINGS = {None, "ExecutionOutOfMemory", "KernelDied", "ExecutionTimeout", "CodeExecutionFailed"}
RUN = """
import os, subprocess
os.chmod('/mnt/data/sysfuzz', 0o755)
done = subprocess.run(['/mnt/data/sysfuzz', '{seed}', '{seconds}'], capture_output=True, text=True)
print(done.stdout or done.stderr, end='')
"""


@pytest.fixture(scope="module")
def sysfuzz(tmp_path_factory):
    program = tmp_path_factory.mktemp("sysfuzz") / "sysfuzz"
    subprocess.run(
        ["gcc", "-std=gnu17", "-O2", "-Wall", "-Wextra", "-static", "-o", program, SOURCE], check=True
    )
    return program.read_bytes()


class Campaign:
    """WIDTH threads that take one session after the other until all have had their time."""

    def __init__(self, daemon, program):
        self.daemon = daemon
        self.program = program
        self.totals = {}
        self.endings = {}
        self.surprises = []
        self.cut_short = 0
        self._numbers = iter(range(SESSIONS))
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work) for _ in range(WIDTH)]
        for t in self._threads:
            t.start()

    def running(self):
        return any(t.is_alive() for t in self._threads)

    def _work(self):
        try:
            while True:
                with self._lock:
                    n = next(self._numbers, None)
                if n is None or self.surprises:
                    return
                self._session(n)
        except BaseException as e:
            self.surprises.append(repr(e))

    def _session(self, n):
        """Until its time is over; a campaign that broke its own session goes on in the next one."""
        end = time.monotonic() + EACH_S
        attempt = 0
        while (left := round(end - time.monotonic())) > 0 and not self.surprises:
            attempt += 1
            identifier = f"attacker-{n}-{attempt}"
            self._attack(identifier, SEED + n, left)
            r = self.daemon.delete(identifier)
            # 404: the session ended with its sandbox.
            if r.status not in (204, 404):
                self.surprises.append(f"delete of {identifier}: {r}")

    def _attack(self, identifier, seed, seconds):
        r = self.daemon.upload(identifier, "sysfuzz", self.program)
        if r.status != 200:
            self.surprises.append(f"upload to {identifier}: {r}")
            return
        r = self.daemon.execute(identifier, RUN.format(seed=seed, seconds=seconds), timeout=seconds + 8)
        if r.status != 200:
            self.surprises.append(f"execution in {identifier}, seed {seed}: {r}")
            return
        ending = (r.json.get("error") or {}).get("code")
        output = (r.json["result"] or {}).get("stdout", "")
        with self._lock:
            self.endings[ending] = self.endings.get(ending, 0) + 1
            if ending not in ENDINGS:
                self.surprises.append(f"execution in {identifier}, seed {seed}: {r}")
            try:
                counts = json.loads(output)
                del counts["seed"]
                for name, number in counts.items():
                    self.totals[name] = self.totals.get(name, 0) + number
            except ValueError:
                self.cut_short += 1


class Neighbours:
    """Two sessions of other people, that compute with what they hold, all the time."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.answers = 0
        self.slowest_s = 0
        self.surprises = []
        self._stop = threading.Event()
        for i in range(2):
            made = daemon.execute(
                f"neighbour-{i}",
                f"import hashlib, os\nheld = os.urandom(1 << 20); at_first = hashlib.sha256(held).hexdigest()\n"
                f"_ = open('kept', 'wb').write(held); asked = 0",
            )
            assert made.status == 200 and made.json["status"] == "Succeeded", made
        self._threads = [threading.Thread(target=self._work, args=(f"neighbour-{i}",)) for i in range(2)]
        for t in self._threads:
            t.start()

    def _work(self, identifier):
        check = (
            "asked += 1; kept = open('/mnt/data/kept', 'rb').read()\n"
            "(asked, kept == held and hashlib.sha256(held).hexdigest() == at_first, os.listdir('/mnt/data'))"
        )
        asked = 0
        try:
            while not self._stop.wait(0.1):
                asked += 1
                began = time.monotonic()
                r = self.daemon.execute(identifier, check)
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                if r.status != 200 or r.json["result"]["executionResult"] != f"({asked}, True, ['kept'])":
                    self.surprises.append(f"{identifier}, question {asked}: {r}")
                    return
                self.answers += 1
        except BaseException as e:
            self.surprises.append(f"{identifier}: {e!r}")

    def stop(self):
        self._stop.set()
        for t in self._threads:
            t.join()


def pids(d):
    return {
        "bivouacd": d.pid,
        "keeper": d.keeper(),
        "worker": d.worker(),
        "zygotes": [p.pid for p in d.zygotes()],
    }


def owners(d):
    pids = {"bivouacd": d.pid, "keeper": d.keeper(), "worker": d.worker(), "zygote": d.zygotes()[0].pid}
    return {name: survival.Process(pid) for name, pid in pids.items()}


def descriptors(d):
    """Without the one per sandbox that daemon and worker hold: the stock may differ by some."""
    spare = len(d.agents())
    return {name: len(p.fds()) - spare * (name in ("bivouacd", "worker")) for name, p in owners(d).items()}


def settled(d):
    """Descriptors and memory when all belongs to somebody and nothing is under way."""
    d.wait_owned((READY, READY + 2), SHELLS)
    seen = []

    def same_again():
        seen.append(descriptors(d))
        return len(seen) > 5 and all(s == seen[-1] for s in seen[-5:])

    survival.wait_for(same_again, "the number of descriptors stays", 30, 0.1)
    return seen[-1], {name: p.rss_kib for name, p in owners(d).items()}


@pytest.fixture
def daemon():
    """One that nobody else uses, so that everything of it can be counted; in the end nothing may be left."""
    d = survival.Daemon().start()
    try:
        yield d
        assert d.terminate() == 0
        assert d.leftovers() == {}
    finally:
        print(f"--- end of the daemon's log ---\n{d.log_tail(20)}")
        d.close()


def test_61_random_system_calls(daemon, sysfuzz):
    """A session makes every system call there is with every argument it can think of, to break out or break things."""
    d, log = daemon, KernelLog()
    try:
        d.only_pool("random-calls", 5 * READY + WIDTH, READY, limits=LIMITS)
        neighbours = Neighbours(d)
        before = pids(d)
        fds_before, rss_before = settled(d)
        campaign = Campaign(d, sysfuzz)
        while campaign.running():
            log.read()
            assert d.alive and pids(d) == before, f"{pids(d)}, before {before}; seeds from {SEED}"
            time.sleep(0.1)
        neighbours.stop()
        fds_after, rss_after = settled(d)
        log.read()
        print(
            f"{SESSIONS} sessions of {EACH_S} s, {WIDTH} at a time, seeds from {SEED}: {campaign.totals}; "
            f"executions ended {campaign.endings}, {campaign.cut_short} without a count"
        )
        print(
            f"neighbours: {neighbours.answers} answers, slowest {neighbours.slowest_s:.2f} s; kernel log: "
            f"{log.lines} lines, {log.lost} times some lost; descriptors {fds_before} {fds_after}, KiB {rss_before} {rss_after}"
        )
        assert campaign.surprises == []
        assert neighbours.surprises == [] and neighbours.answers > SECONDS
        assert log.trouble == []
        assert pids(d) == before
        assert fds_after == fds_before, "descriptors leak"
        for name, kib in rss_after.items():
            assert kib - rss_before[name] < GROWTH_KIB, f"{name} grew: {rss_before} {rss_after}"
        # Not a campaign of refused or broken calls only.
        assert campaign.totals["calls"] > 1000 * SESSIONS and campaign.totals["succeeded"] > 100 * SESSIONS
    finally:
        log.close()
