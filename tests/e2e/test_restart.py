# SPDX-License-Identifier: Apache-2.0
"""Sessions outlive the daemon and the jailer, whatever kills them and whenever, and nothing is left that nobody owns."""

import hashlib
import os
import random
import subprocess
import threading
import time

import pytest
import survival

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sandboxes need root")

SESSIONS = 50
READY, READY_MOST, SHELLS = 10, 13, 4  # the stock of a pool of 50; refill lets a little more stand


SEED = int(os.environ.get("BIVOUAC_SEED", time.time_ns() % 1_000_000))


def seed_of(n=0):
    print(f"seed: BIVOUAC_SEED={SEED}, round {n}")
    return random.Random(SEED + n)


def start(*args):
    d = survival.Daemon("--executions-kept", "10000", *args).start()
    try:
        d.only_pool("survive", SESSIONS, READY)
    except BaseException:
        d.close()
        raise
    return d


def ready_min(d):
    """A pool keeps no more ready than it may still give away."""
    return min(READY, SESSIONS - len(d.sessions()))


def settled(d):
    """Everything that runs belongs to a session or to the stock."""
    d.wait_owned((ready_min(d), READY_MOST), SHELLS)


# Each execution says once, in a file, that it ran: a second line would be a second run.
RAN = "open('/mnt/data/ran', 'a').write('{name}\\n')\n"


def running(until, name):
    return (
        RAN.format(name=name)
        + f"import time\nprint('begin {name}', x, flush=True)\n{until}\nprint('end {name}', x)\ntime.time()"
    )


class Population:
    """50 sessions, each with a variable, a file, and executions in every phase of life."""

    def __init__(self, d, rng):
        self.d = d
        self.kinds = {}  # identifier -> what runs there while the daemon is away
        self.secrets = {}
        self.promised = []  # (identifier, execution id, name): acknowledged, must be found
        self.order = {}  # identifier -> names in order of submission
        self.lock = threading.Lock()
        self.outage_end = None
        names = [f"life-{i:02}-{rng.randrange(1 << 30)}" for i in range(SESSIONS)]
        for i, name in enumerate(names):
            self.kinds[name] = ("before", "during", "after", "queued-during", "queued-after")[i % 5]
            self.secrets[name] = rng.randrange(1 << 40)
            self.order[name] = []

    def each(self, fn, width=10):
        names = list(self.kinds)
        failed = []

        def work():
            while names:
                try:
                    name = names.pop()
                except IndexError:
                    return
                try:
                    fn(name)
                except BaseException as e:  # handed to the test below
                    failed.append((name, e))

        threads = [threading.Thread(target=work) for _ in range(width)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if failed:
            raise AssertionError(f"{len(failed)} of {SESSIONS}, first: {failed[0]!r}") from failed[0][1]

    def submit(self, name, label, code):
        id = self.d.submit(name, code)
        with self.lock:
            self.promised.append((name, id, label))
            self.order[name].append(label)
        return id

    def settle_in(self):
        def one(name):
            x = self.secrets[name]
            assert self.d.value(name, f"x = {x}\nopen('/mnt/data/own', 'w').write(str(x))\nx") == x

        self.each(one)

        def fast(name):
            id = self.submit(name, "fast", RAN.format(name="fast") + "print('fast', x)\nx + 1")
            done = self.d.result(name, id)
            assert done["status"] == "Succeeded", done

        self.each(fast)

    def start_work(self, outage_s):
        """From here on work is going on; the outage must last until self.outage_end."""
        self.outage_end = time.time() + outage_s

        def one(name):
            kind = self.kinds[name]
            if kind == "before":
                return
            if kind.endswith("during"):
                until = f"while time.time() < {self.outage_end}: time.sleep(0.02)"
            else:
                until = "import os\nwhile not os.path.exists('/mnt/data/go'): time.sleep(0.02)"
            self.submit(name, "long", running(until, "long"))
            if kind.startswith("queued"):
                self.submit(name, "next", running("", "next"))
                self.submit(name, "last", running("", "last"))

        self.each(one)

    def go_on(self):
        """Lets those end that wait for the time after the outage."""

        def one(name):
            if self.kinds[name].endswith("after"):
                r = self.d.upload(name, "go", b"go")
                assert r.status == 200, r

        self.each(one)

    def check(self, away=None):
        """away: (from, to) of the outage in wall time; executions that ended then must say so."""
        results = {}
        guids = self.d.sessions()
        assert set(guids) >= set(self.kinds), f"lost: {set(self.kinds) - set(guids)}"
        for name, id, label in list(self.promised):
            done = self.d.result(name, id)
            assert done["status"] == "Succeeded", (name, self.kinds[name], label, done)
            assert done["id"] == id and done["identifier"] == name
            x = self.secrets[name]
            r = done["result"]
            assert r["stderr"] == ""
            if label == "fast":
                assert (r["stdout"], r["executionResult"]) == (f"fast {x}\n", x + 1), (name, r)
            elif label == "stream":
                assert r["executionResult"] == x, (name, r)
            else:
                assert r["stdout"] == f"begin {label} {x}\nend {label} {x}\n", (name, label, r)
                results[name, label] = r["executionResult"]
        if away:
            ended = [t for (name, label), t in results.items() if label == "long" and "during" in self.kinds[name]]
            assert ended and all(away[0] < t < away[1] for t in ended), f"{away}: {ended}"
            later = [t for (name, label), t in results.items() if label != "long" or "after" in self.kinds[name]]
            assert later and all(t > away[1] for t in later), f"{away}: {later}"

        def one(name):
            x = self.secrets[name]
            got = self.d.value(name, "str((x, open('/mnt/data/own').read(), open('/mnt/data/ran').read().split()))")
            assert got == str((x, str(x), self.order[name])), (name, got)

        self.each(one)


@pytest.fixture
def daemon():
    d = start()
    try:
        yield d
    except BaseException:
        raise
    finally:
        print(f"--- end of the daemon's log ---\n{d.log_tail(30)}")
        d.close()


def streaming(people, stop):
    """Submits short executions to the sessions without long ones, up to the moment of the kill."""
    names = [n for n, kind in people.kinds.items() if kind == "before"]
    rng = random.Random(1)

    def work():
        while not stop.is_set():
            name = rng.choice(names)
            try:
                id = people.d.submit(name, "x")
            except survival.Gone:
                return
            with people.lock:
                people.promised.append((name, id, "stream"))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    return threads


@pytest.mark.parametrize("which", [("bivouacd",), ("keeper",), ("bivouacd", "worker", "keeper")], ids="+".join)
def test_fifty_sessions_survive(daemon, which):
    """Shown by 3: SIGKILL with 50 sessions at work; all state and all results are there after a restart."""
    rng = seed_of()
    people = Population(daemon, rng)
    people.settle_in()
    guids = daemon.sessions()
    people.start_work(outage_s=6)
    stop = threading.Event()
    threads = streaming(people, stop)
    time.sleep(rng.uniform(0, 1))  # the random moment
    killed_at = time.time()
    assert killed_at < people.outage_end - 1, "the machine is too slow for this plan"
    old = {p.pid for p in daemon.zygotes()} | {daemon.pid, daemon.keeper(), daemon.worker()}
    daemon.kill(*which)
    if "bivouacd" not in which:
        assert daemon.proc.wait(30) != 0
    stop.set()
    for t in threads:
        t.join()
    # The root half ends with the daemon: only sandboxes are left.
    survival.wait_for(lambda: not old & {p.pid for p in daemon.processes()}, "end of the old daemon", 30)
    assert len(daemon.agents()) >= SESSIONS
    survival.wait_for(lambda: time.time() > people.outage_end + 0.5, "end of the outage", 30)
    restarted_at = time.time()
    daemon.start()
    assert daemon.sessions() == guids
    people.go_on()
    people.check(away=(killed_at, restarted_at))
    settled(daemon)
    # And it is a daemon as any other: new sessions, and old ones end.
    gone = next(iter(people.kinds))
    assert daemon.delete(gone).status == 204
    assert daemon.value("someone-new", "1 + 1") == 2
    assert gone not in daemon.sessions()
    assert daemon.terminate() == 0
    survival.wait_for(lambda: not daemon.processes(), "end of all processes", 10)
    assert daemon.leftovers() == {}


def test_worker_is_replaced(daemon):
    """SIGKILL to the jailer's worker: the daemon serves on, sessions do not notice, new ones work again soon."""
    rng = seed_of()
    people = Population(daemon, rng)
    people.settle_in()
    guids = daemon.sessions()
    people.start_work(outage_s=2)
    spare = next(n for n, kind in people.kinds.items() if kind == "before")
    time.sleep(rng.uniform(0, 1))
    old_keeper, (old_worker,) = daemon.keeper(), daemon.kill("worker")
    # At once, without any jailer.
    assert daemon.value(spare, "x") == people.secrets[spare]
    assert daemon.upload(spare, "during", b"outage").status == 200
    assert daemon.sessions() == guids
    new_worker = survival.wait_for(daemon.worker, "a new worker", 10)
    assert new_worker != old_worker
    assert daemon.keeper() == old_keeper and daemon.alive
    # A kernel that dies now comes from the new worker's zygote; a new session too.
    assert daemon.delete(spare).status == 204
    del people.kinds[spare]
    people.promised = [p for p in people.promised if p[0] != spare]
    r = daemon.execute("after-the-worker", "import numpy; int(numpy.arange(4).sum())")
    assert (r.status, r.json["result"]["executionResult"]) == (200, 6), r
    r = daemon.execute("after-the-worker", "import os; os._exit(3)")
    assert r.json["status"] == "Failed", r
    assert daemon.value("after-the-worker", "'alive'") == "alive"
    assert daemon.delete("after-the-worker").status == 204
    # Sessions from before the kill can be given a new kernel too.
    phoenix = next(n for n, kind in people.kinds.items() if kind == "before")
    r = daemon.execute(phoenix, "import os; os._exit(3)")
    assert r.json["status"] == "Failed", r
    x = people.secrets[phoenix]
    assert daemon.value(phoenix, "x = int(open('/mnt/data/own').read()); x") == x
    people.go_on()
    people.check()
    settled(daemon)
    # Again and again: each time a new worker takes over what the one before left.
    for _ in range(3):
        (old,) = daemon.kill("worker")
        survival.wait_for(lambda: daemon.worker() not in (None, old), "a new worker", 20)
        assert daemon.value(phoenix, "x") == x
    fresh = daemon.execute("after-many", "40 + 2")
    assert fresh.status == 200 and fresh.json["result"]["executionResult"] == 42, fresh
    settled(daemon)
    assert daemon.terminate() == 0
    assert daemon.leftovers() == {}


class Storm:
    """Creates, deletes and uploads all at once, and remembers what was acknowledged."""

    def __init__(self, d, rng, book):
        self.d, self.book = d, book
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.failed = []
        self.answers = 0
        self.threads = [
            threading.Thread(target=self.work, args=(fn, random.Random(rng.random())))
            for fn in (self.create, self.create, self.create, self.remove, self.upload, self.upload)
        ]

    def work(self, fn, rng):
        while not self.stop.is_set():
            try:
                fn(rng)
                self.answers += 1
            except survival.Gone:
                return
            except BaseException as e:
                self.failed.append(e)
                return

    def create(self, rng):
        name = f"storm-{rng.randrange(1 << 40):010x}"
        with self.lock:
            if len(self.book) >= SESSIONS - 5:
                full = True
            else:
                full = False
                self.book[name] = {"state": "asked", "files": {}, "uploads": 0}
        if full:
            time.sleep(0.005)
            return
        r = self.d.execute(name, f"x = '{name}'; x")
        if r.status == 503:
            # Without a jailer no sandbox can be made: an honest answer, and no session.
            return
        assert r.status == 200 and r.json["result"]["executionResult"] == name, r
        with self.lock:
            self.book[name]["state"] = "there"

    def pick(self, rng, state):
        with self.lock:
            names = [n for n, b in self.book.items() if b["state"] == "there"]
            if not names:
                return None
            name = rng.choice(names)
            if state:
                # An upload on its way may come after the deletion, and makes a new session then.
                self.book[name]["state"] = state if not self.book[name]["uploads"] else "in doubt"
            else:
                self.book[name]["uploads"] += 1
            return name

    def remove(self, rng):
        name = self.pick(rng, "leaving")
        if not name:
            time.sleep(0.005)
            return
        r = self.d.delete(name)
        assert r.status == 204, r
        with self.lock:
            if self.book[name]["state"] == "leaving":
                self.book[name]["state"] = "gone"

    def upload(self, rng):
        name = self.pick(rng, None)
        if not name:
            time.sleep(0.005)
            return
        data = rng.randbytes(rng.randrange(1, 300_000))
        file = f"f{rng.randrange(1 << 40):010x}"
        r = self.d.upload(name, file, data)
        with self.lock:
            self.book[name]["uploads"] -= 1
            if r.status == 200 and self.book[name]["state"] == "there":
                self.book[name]["files"][file] = hashlib.sha256(data).hexdigest()
            elif self.book[name]["state"] == "there":
                raise AssertionError(f"upload: {r}")


LOOK = """
import hashlib, os
str([x] + sorted((f, hashlib.sha256(open('/mnt/data/' + f, 'rb').read()).hexdigest()) for f in os.listdir('/mnt/data')))
"""


def check_book(d, book):
    listed = d.sessions()
    for name, b in sorted(book.items()):
        if b["state"] == "gone":
            assert name not in listed, f"{name} was deleted and is back"
        if b["state"] != "there":
            continue
        assert name in listed, f"{name} was acknowledged and is lost"
        r = d.execute(name, LOOK)
        assert r.status == 200 and r.json["status"] == "Succeeded", (name, r)
        got = eval(r.json["result"]["executionResult"])
        assert got[0] == name
        files = dict(got[1:])
        for file, digest in b["files"].items():
            assert files.get(file) == digest, f"{name}: {file} was acknowledged; there is {files}"
    unknown = set(listed) - set(book)
    assert not unknown, f"sessions nobody asked for: {unknown}"


TARGETS = [("bivouacd",), ("worker",), ("keeper",), ("bivouacd", "keeper", "worker"), ("bivouacd", "worker")]


def test_killed_at_random_moments(daemon):
    """Ten times, in a storm of creations, deletions and uploads: what was acknowledged is there, what is not owned is not."""
    rounds = int(os.environ.get("BIVOUAC_ROUNDS", "10"))
    book = {}
    for n in range(rounds):
        rng = seed_of(n)
        which = TARGETS[n % len(TARGETS)]
        storm = Storm(daemon, rng, book)
        for t in storm.threads:
            t.start()
        time.sleep(rng.uniform(0.05, 1.5))
        print(f"round {n}: killing {'+'.join(which)} after {storm.answers} answers")
        daemon.kill(*which)
        if which == ("worker",):
            time.sleep(rng.uniform(0, 1))  # the storm goes on without a jailer
        storm.stop.set()
        for t in storm.threads:
            t.join(60)
            assert not t.is_alive(), "a request has no answer"
        assert not storm.failed, storm.failed
        if which == ("worker",):
            assert daemon.alive, f"bivouacd ended with {daemon.proc.returncode}"
            survival.wait_for(daemon.worker, "a new worker", 20)
        else:
            daemon.proc.wait(30)
            daemon.start()
        check_book(daemon, book)
        # Half of them make room for the next round; those the storm left in doubt go too.
        for name in list(daemon.sessions()):
            if book[name]["state"] != "there" or rng.random() < 0.5:
                assert daemon.delete(name).status == 204
        left = daemon.sessions()
        book = {name: {**b, "uploads": 0} for name, b in book.items() if name in left}
        settled(daemon)
    assert daemon.terminate() == 0
    survival.wait_for(lambda: not daemon.processes(), "end of all processes", 10)
    assert daemon.leftovers() == {}


def test_killed_while_starting(daemon):
    """A daemon that dies on its way up, five times, loses nothing."""
    rng = seed_of()
    assert daemon.value("early-bird", "x = 5; x") == 5
    guids = daemon.sessions()
    daemon.kill("bivouacd")
    for _ in range(5):
        with open(daemon.log, "ab") as log:
            early = subprocess.Popen(
                [survival.BIVOUACD, "--listen", "127.0.0.1:0", "--state", daemon.state, "--run-dir", daemon.run],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        time.sleep(rng.uniform(0, 2.5))
        assert early.poll() is None
        early.kill()
        early.wait()
    daemon.start()
    assert daemon.sessions() == guids
    assert daemon.value("early-bird", "x") == 5
    settled(daemon)
    assert daemon.terminate() == 0
    survival.wait_for(lambda: not daemon.processes(), "end of all processes", 10)
    assert daemon.leftovers() == {}


def test_keep_sessions():
    """SIGTERM with --keep-sessions: sessions and running executions go on; the next start takes them over."""
    d = start("--keep-sessions")
    try:
        assert d.value("kept-one", "x = {'a': 1}; x['a']") == 1
        assert d.upload("kept-one", "f.bin", bytes(range(256)) * 100).status == 200
        id = d.submit("kept-one", "import time, os\nwhile not os.path.exists('/mnt/data/go'): time.sleep(0.02)\nx['a'] += 41\nx['a']")
        behind = d.submit("kept-one", "x['a'] * 2")
        guids = d.sessions()
        assert d.terminate() == 0
        names = {p.name for p in d.processes()}
        assert names and not any(n.startswith(("bivouacd", "bivouac-jailer")) for n in names), names
        assert d.agents()
        d.start()
        assert d.sessions() == guids
        assert d.execution("kept-one", id).json["status"] == "Running"
        assert d.execution("kept-one", behind).json["status"] == "NotStarted"
        assert d.upload("kept-one", "go", b"").status == 200
        assert d.result("kept-one", id)["result"]["executionResult"] == 42
        assert d.result("kept-one", behind)["result"]["executionResult"] == 84
        assert d.download("kept-one", "f.bin").body == bytes(range(256)) * 100
        settled(d)
        # Without the option the end is the end.
        d.args.remove("--keep-sessions")
        assert d.terminate() == 0
        d.start()
        assert d.sessions() == guids
        assert d.terminate() == 0
        survival.wait_for(lambda: not d.processes(), "end of all processes", 10)
        assert d.leftovers() == {}
    finally:
        d.close()


@pytest.mark.parametrize("moment", ["idle", "at-work", "at-once"])
def test_sigterm_leaves_nothing(moment):
    """After SIGTERM there is no process, cgroup, mount, file or block of user ids of this daemon."""
    d = survival.Daemon().start()
    try:
        assert d.cgroups() and d.processes() and d.uid_blocks(), "the test looks in the wrong place"
        threads = []
        if moment == "at-work":
            d.make_pool("second", 20, 5)
            for i in range(20):
                assert d.value(f"work-{i:02}", "import subprocess; p = subprocess.Popen(['sleep', '1000']); 1") == 1
                d.submit(f"work-{i:02}", "import time; time.sleep(1000)")
            answers = []

            def wait(name):
                try:
                    answers.append(d.execute(name, "import time; time.sleep(1000)").status)
                except survival.Gone:
                    answers.append(0)

            threads = [threading.Thread(target=wait, args=(f"work-{i:02}",)) for i in range(5)]
            for t in threads:
                t.start()
        elif moment == "at-once":
            assert d.value("just-one", "1") == 1
        assert d.terminate() == 0
        for t in threads:
            t.join(30)
            assert not t.is_alive()
        assert d.leftovers() == {}
        # And a start on the same directories is a first start, with the same pools.
        d.start()
        assert d.sessions() == {}
        assert d.value("next-life", "1 + 1") == 2
        assert d.terminate() == 0
        assert d.leftovers() == {}
    finally:
        d.close()
