# SPDX-License-Identifier: Apache-2.0
"""
Create, execute, delete, thousands of times: nothing is left behind and memory stays flat.

BIVOUAC_SOAK=5000 is the figure of the acceptance; without it 300 cycles run.
"""

import os
import threading
import time

import pytest
import survival

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sandboxes need root")

CYCLES = int(os.environ.get("BIVOUAC_SOAK", "300"))
WIDTH = 4
READY, SHELLS = 10, 4
GROWTH_KIB = 2048


class Measure:
    """What the daemon has when nobody uses it."""

    def __init__(self, d):
        self.d = d
        self.counts = {
            "processes": len(d.processes()),
            "agents": len(d.agents()),
            "records": len(d.records()),
            "run files": len(d.files()),
            "cgroup directories": {root: len(sids) for root, sids in d.cgroup_sids().items()},
            "all cgroup directories": len(d.cgroups()),
            "namespaces": d.namespaces(),
            "mounts of the host": len(survival.host_mounts()),
            "descriptors of bivouacd": len(survival.Process(d.pid).fds()),
            "descriptors of the jailer": len(survival.Process(d.worker()).fds()),
            "descriptors of the keeper": len(survival.Process(d.keeper()).fds()),
            "descriptors of the zygote": len(survival.Process(d.zygotes()[0].pid).fds()),
            "mounts of the jailer": len(survival.read(f"/proc/{d.worker()}/mountinfo").splitlines()),
        }
        self.rss_kib = {
            "bivouacd": survival.Process(d.pid).rss_kib,
            "jailer": survival.Process(d.worker()).rss_kib,
            "keeper": survival.Process(d.keeper()).rss_kib,
            "zygote": d.zygotes()[0].rss_kib,
        }


def rested(d):
    """
    Measures once the stock is full and what was deleted is gone. Sandboxes that are just being ended count in the
    stock as long as they are there, so it has to stay as it is for a while.
    """
    for _ in range(20):
        d.wait_owned((READY, READY), SHELLS)
        first = Measure(d)
        time.sleep(1)
        second = Measure(d)
        if first.counts == second.counts and not d.ownership(READY, READY, SHELLS):
            return second
    raise AssertionError(f"never at rest: {first.counts}, then {second.counts}")


def cycles(d, first, count):
    numbers = iter(range(first, first + count))
    lock = threading.Lock()
    failed = []

    def work():
        try:
            while not failed:
                with lock:
                    n = next(numbers, None)
                if n is None:
                    return
                name = f"soak-{n:06}"
                kind = n % 10
                if kind == 0:
                    assert d.upload(name, "a.bin", b"a" * 100_000).status == 200
                    assert d.value(name, "import os; os.path.getsize('/mnt/data/a.bin')") == 100_000
                elif kind == 1:
                    assert d.value(name, "import subprocess; subprocess.Popen(['sleep', '1000']).pid > 0") is True
                elif kind == 2:
                    d.submit(name, "import time; time.sleep(1000)")
                elif kind == 3:
                    r = d.execute(name, "import os; os._exit(1)")
                    assert r.status == 200 and r.json["status"] == "Failed", r
                else:
                    assert d.value(name, f"x = {n}; x + 1") == n + 1
                r = d.delete(name)
                assert r.status == 204, r
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=work) for _ in range(WIDTH)]
    began = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failed:
        raise failed[0]
    return count / (time.monotonic() - began)


def test_soak():
    d = survival.Daemon().start()
    try:
        # A fifth of its sessions is the most that a pool keeps ready, so this stock does not follow demand.
        d.only_pool("soak", 5 * READY, READY)
        cycles(d, 0, 100)  # caches and connection pools fill
        before = rested(d)
        first_speed = cycles(d, 1000, CYCLES // 2)
        middle = rested(d)
        second_speed = cycles(d, 1000 + CYCLES // 2, CYCLES - CYCLES // 2)
        after = rested(d)
        print(f"{CYCLES} cycles, {first_speed:.0f} and {second_speed:.0f} per second")
        print("resident KiB before, in the middle, after:")
        for name in before.rss_kib:
            print(f"  {name}: {before.rss_kib[name]} {middle.rss_kib[name]} {after.rss_kib[name]}")
        print(before.counts)
        print(f"log: {os.path.getsize(d.log)} bytes; state: {sum(e.stat().st_size for e in os.scandir(d.state))} bytes")
        assert middle.counts == before.counts
        assert after.counts == before.counts
        assert not d.new_mounts()
        for name, kib in after.rss_kib.items():
            assert kib - middle.rss_kib[name] < GROWTH_KIB, f"{name} grew: {middle.rss_kib} {after.rss_kib}"
        zombies = [p for p in d.processes() if p.state == "Z"]
        assert not zombies
        assert d.terminate() == 0
        assert d.leftovers() == {}
    finally:
        print(f"--- end of the daemon's log ---\n{d.log_tail(20)}")
        d.close()
