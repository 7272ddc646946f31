#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""make bench: Bivouac's numbers beside the floors of the machine and the peers, measured in one run.

Prints a table and writes the same rows as JSON lines (bench.jsonl in the build directory).
bench/README.md says what each row means.
"""

import sys

sys.dont_write_bytecode = True

import argparse
import json
import math
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import peers

HERE = Path(__file__).resolve().parent
ARM_VERSION = "2025-07-01"
# An allocation that had a ready sandbox is a list operation and a row in the store, far below this; one that had
# to make a sandbox cannot be.
WAITED_MS = 1
GROUP = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/default"
MIB = 1024 * 1024
CORES = os.cpu_count() or 1


class Failed(Exception):
    """A measurement could not be made; the text says why."""


def percentile(samples, p):
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(p / 100 * len(ordered)) - 1))]


# --- rows ---


class Table:
    """Rows in the order they were measured. A sample is in nanoseconds, bytes or as `unit` says."""

    SCALE = {"µs": 1e3, "ms": 1e6, "MiB": MIB}

    def __init__(self):
        self.rows = []
        self.skipped = []

    def add(self, name, unit, samples, against=None, at_most=None, at_least=None, times=None, note=""):
        """against: name of an earlier row; the ratio is p50 / its p50 (for rates and peers that are
        slower it is turned round, so that it always says how many times). times: least wanted ratio."""
        scale = self.SCALE.get(unit, 1)
        values = [s / scale for s in samples]
        row = {"name": name, "unit": unit, "n": len(values)}
        for p in (50, 95, 99):
            row[f"p{p}"] = round(percentile(values, p), 4)
        row["min"] = round(min(values), 4)
        row.update(against=None, ratio=None, faster=None, goal=None, met=None, note=note)
        self.compare(row, against)
        self.judge(row, at_most, at_least, times)
        self.rows.append(row)
        return row

    def compare(self, row, against):
        other = self.find(against) if against else None
        if not other:
            return
        mine = row["p50"] * self.SCALE.get(row["unit"], 1)
        theirs = other["p50"] * self.SCALE.get(other["unit"], 1)
        row["against"] = against
        row["faster"] = mine < theirs
        row["ratio"] = round(theirs / mine if row["faster"] else mine / theirs, 2)

    @staticmethod
    def judge(row, at_most, at_least, times):
        goals, met = [], []
        if at_most is not None:
            goals.append(f"≤ {at_most:g} {row['unit']}")
            met.append(row["p50"] <= at_most)
        if at_least is not None:
            goals.append(f"≥ {at_least:g} {row['unit']}")
            met.append(row["p50"] >= at_least)
        if times is not None:
            goals.append(f"≥ {times:g} × faster")
            met.append(None if row["ratio"] is None else bool(row["faster"]) and row["ratio"] >= times)
        if goals:
            # A goal whose peer is missing is neither met nor missed.
            row["goal"] = ", ".join(goals)
            row["met"] = False if False in met else None if None in met else True

    def find(self, name):
        return next((r for r in self.rows if r["name"] == name), None)

    def skip(self, name, why):
        self.skipped.append({"name": name, "skipped": str(why)})

    def text(self):
        head = ["", "unit", "n", "p50", "p95", "p99", "min", "against", "ratio", "goal", "met"]
        lines = [head]
        for r in self.rows:
            ratio = "" if r["ratio"] is None else f"{r['ratio']:g} ×" + (" faster" if r["faster"] else "")
            met = {None: "", True: "yes", False: "NO"}[r["met"]]
            figures = [f"{r[k]:.4g}" if r[k] < 1e4 else f"{r[k]:.0f}" for k in ("p50", "p95", "p99", "min")]
            lines.append([r["name"], r["unit"], str(r["n"])] + figures
                         + [r["against"] or "", ratio, r["goal"] or "", met])
            if r.get("repeated"):
                lines[-1][:7] = [""] * 7
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        right = {2, 3, 4, 5, 6}
        out = ["  ".join(c.rjust(w) if i in right else c.ljust(w)
                         for i, (c, w) in enumerate(zip(line, widths))).rstrip() for line in lines]
        out += [f"note, {r['name']}: {r['note']}" for r in self.rows if r["note"]]
        out += [f"skipped, {s['name']}: {s['skipped']}" for s in self.skipped]
        return "\n".join(out)


# --- programs ---


def compile_program(build, name):
    out = build / f"bivouac-bench-{name}"
    source = HERE / f"{name}.c"
    if not out.exists() or out.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([os.environ.get("CC", "cc"), "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra",
                        "-o", str(out), str(source)], check=True)
    return out


def samples_of(argv, env=None):
    """Runs a C program of ours; ([(ns, allocation ms or None)], {total name: number})."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, env=env, timeout=120)
    if done.returncode != 0:
        raise Failed((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    samples, totals = [], {}
    for line in done.stdout.splitlines():
        words = line.split()
        if words[0] == "sample":
            samples.append((int(words[1]), float(words[2]) if len(words) > 2 else None))
        elif words[0] == "total":
            totals[words[1]] = float(words[2])
    return samples, totals


def waited_of(samples):
    """How many of a load's samples had to wait for a sandbox to be made."""
    return sum(1 for _, allocation in samples if allocation is not None and allocation >= WAITED_MS)


# --- processes ---


def process_table():
    """{pid: (parent, command name)}"""
    table = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = Path(f"/proc/{entry}/stat").read_text()
        except OSError:
            continue
        name, rest = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()
        if rest[0] != "Z":
            table[int(entry)] = (int(rest[1]), name)
    return table


def busy_seconds(pid, children=False):
    """Processor time of a process, or of its children that have ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text[text.rindex(")") + 2:].split()
    first = 13 if children else 11
    return (int(fields[first]) + int(fields[first + 1])) / os.sysconf("SC_CLK_TCK")


def machine_busy_seconds():
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def first_argument(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


def status_bytes(pid, key):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise Failed(f"/proc/{pid}/status has no {key}")


def machine_memory():
    """(bytes of kernel memory in use, bytes available) of the whole machine."""
    info = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        info[line.split(":")[0]] = int(line.split()[1]) * 1024
    return sum(info.get(k, 0) for k in ("SUnreclaim", "PageTables", "KernelStack", "Percpu")), info["MemAvailable"]


def memory_cgroup(pid):
    """Directory of the cgroup that charges the memory of a process, and its version."""
    mounts = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        device, where, kind, options = line.split()[:4]
        if kind == "cgroup" and "memory" in options.split(","):
            mounts[1] = where
        elif kind == "cgroup2":
            mounts[2] = where
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") and 1 in mounts:
            return Path(mounts[1] + path), 1
        if not controllers and 1 not in mounts and 2 in mounts:
            # On version 2 a sandbox has a leaf per half; the sandbox is their parent.
            leaf = Path(mounts[2] + path)
            return (leaf.parent if leaf.name in ("agent", "kernel") else leaf), 2
    raise Failed("no memory cgroup")


def cgroup_bytes(pid):
    """Everything that is charged to the cgroup of a process."""
    where, version = memory_cgroup(pid)
    return int((where / ("memory.usage_in_bytes" if version == 1 else "memory.current")).read_text())


class Daemon:
    """A bivouacd of our own on a free port, in temporary directories."""

    def __init__(self, build, images, options=()):
        self.work = Path(tempfile.mkdtemp(prefix="bivouac-bench-"))
        self.work.chmod(0o755)
        self.log = open(self.work / "log", "w+")
        argv = [str(build / "bivouacd"), "--dev", "--listen", "127.0.0.1:0", "--state", str(self.work / "state"),
                "--run-dir", str(self.work / "run"), *options]
        if images:
            argv += ["--images", str(images)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=self.log)
        started = time.monotonic()
        if not select.select([self.process.stdout], [], [], 120)[0]:
            self.fail("not ready in two minutes")
        line = self.process.stdout.readline()
        if not line:
            self.fail("it ended at once")
        self.start_s = time.monotonic() - started
        ready = json.loads(line)
        self.endpoint, self.arm, self.arm_token = ready["endpoint"], ready["armEndpoint"], ready["armToken"]
        self.env = dict(os.environ, BIVOUAC_BENCH_TOKEN=ready["token"])

    def fail(self, what):
        self.log.seek(0)
        text = self.log.read()[-2000:]
        self.close()
        raise Failed(f"bivouacd: {what}\n{text}")

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        shutil.rmtree(self.work, ignore_errors=True)

    def arm_call(self, method, name, body=None):
        request = urllib.request.Request(
            f"{self.arm}{GROUP}/providers/Microsoft.App/sessionPools/{name}?api-version={ARM_VERSION}",
            method=method, data=json.dumps(body).encode() if body else None,
            headers={"Authorization": f"Bearer {self.arm_token}", "Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=60).read()
        except urllib.error.HTTPError as e:
            raise Failed(f"{method} pool {name}: {e.code} {e.read().decode(errors='replace')[:300]}") from None

    def make_pool(self, name, sessions, ready, limits=None, container_type="PythonLTS"):
        self.arm_call("PUT", name, {"location": "local", "properties": {
            **({"sessionLimits": limits} if limits else {}),
            "containerType": container_type, "poolManagementType": "Dynamic",
            "scaleConfiguration": {"maxConcurrentSessions": sessions, "readySessionInstances": ready},
            "dynamicPoolConfiguration": {"lifecycleConfiguration": {
                "lifecycleType": "Timed", "cooldownPeriodInSeconds": 600}},
            "sessionNetworkConfiguration": {"status": "EgressDisabled"}}})
        return self.endpoint.rsplit("/", 1)[0] + "/" + name

    def sandboxes(self):
        """{pid of agent: [pids of what runs below it]}, all pools."""
        table = process_table()
        children = {}
        for pid, (parent, _) in table.items():
            children.setdefault(parent, []).append(pid)

        def below(pid):
            found, todo = [], list(children.get(pid, ()))
            while todo:
                found.append(todo.pop())
                todo += children.get(found[-1], ())
            return found

        return {pid: below(pid) for pid in below(self.process.pid) if first_argument(pid) == "bivouac-agent"}

    def zygote(self):
        """The process that is forked to make kernels: below the jailer, in no sandbox."""
        table = process_table()
        for pid in table:
            if first_argument(pid).startswith("bivouac-zygote"):
                parent = table[pid][0]
                if first_argument(parent) == "bivouac-jailer" and self.is_ours(parent, table):
                    return pid
        raise Failed("no zygote found")

    def busy(self):
        """Seconds of processor time used so far: {who: seconds}."""
        table, zygote = process_table(), self.zygote()
        jailers = [p for p in table if first_argument(p) == "bivouac-jailer" and self.is_ours(p, table)]
        return {
            "bivouacd": busy_seconds(self.process.pid),
            "jailer": sum(busy_seconds(p) for p in jailers),
            # The forking is done by children of the zygote that end at once.
            "zygote": busy_seconds(zygote) + busy_seconds(zygote, children=True),
            # The jailer reaps the agents, and their time has that of their kernels in it.
            "ended sandboxes": sum(busy_seconds(p, children=True) for p in jailers),
            "kernel threads": sum(busy_seconds(p) for p, (parent, _) in table.items() if parent == 2),
            "all": machine_busy_seconds(),
        }

    def is_ours(self, pid, table):
        while pid in table:
            if pid == self.process.pid:
                return True
            pid = table[pid][0]
        return False

    def wait_kernels(self, least, most=None, timeout_s=60):
        """Until so many sandboxes have a kernel, and it has been so for half a second."""
        deadline = time.monotonic() + timeout_s
        since = None
        while time.monotonic() < deadline:
            count = sum(1 for inner in self.sandboxes().values() if inner)
            if count >= least and (most is None or count <= most):
                since = since or time.monotonic()
                if time.monotonic() - since > 0.5:
                    return
            else:
                since = None
            time.sleep(0.1)
        raise Failed(f"{count} sandboxes with a kernel after {timeout_s} s, expected {least}"
                     + (f" to {most}" if most is not None else " or more"))


# --- measurements ---


class Bench:
    def __init__(self, args):
        self.args = args
        self.build = args.build
        self.table = Table()
        self.load = compile_program(self.build, "load")
        self.floors = compile_program(self.build, "floors")
        self.daemon = None
        self.root = None

    def n(self, count, least=3):
        return max(least, count // 10) if self.args.quick else count

    def say(self, what):
        print(f"… {what}", file=sys.stderr, flush=True)

    def run_load(self, mode, url, **settings):
        return samples_of([self.load, mode, url] + [f"{k}={v}" for k, v in settings.items()], self.daemon.env)

    def attempt(self, name, fn):
        """One part; what it needs may be missing, and then the rest goes on."""
        self.say(name)
        try:
            fn()
        except (peers.Unavailable, Failed, subprocess.SubprocessError, OSError) as e:
            self.table.skip(name, e)

    def best_round(self, what):
        """A floor is the best the machine does: of some rounds, left to the scheduler and with both
        ends on one processor, the one with the lowest median. Spread over two processors of a virtual
        machine, such a round trip mostly measures how fast an idle one wakes up."""
        rounds = []
        for processor in [None, *sorted(os.sched_getaffinity(0))[:2]] * 2:
            pin = ["taskset", "-c", str(processor)] if processor is not None else []
            rounds.append([ns for ns, _ in samples_of([*pin, self.floors, what, self.n(5000)])[0]])
        return min(rounds, key=lambda r: percentile(r, 50))

    def measure_floors(self):
        add = self.table.add
        http, worker = self.best_round("http"), self.best_round("worker")
        add("floor: loopback HTTP round trip", "µs", http)
        add("floor: forked worker round trip", "µs", worker)
        self.floor_sum = "floor: HTTP + worker round trip"
        add(self.floor_sum, "µs", [a + b for a, b in zip(sorted(http), sorted(worker))])

    def measure_forks(self):
        zygote = self.daemon.zygote()
        huge = peers.rollup_bytes(zygote, "AnonHugePages") // 1024
        small = status_bytes(zygote, "RssAnon") // 1024 - huge
        forks = [ns for ns, _ in samples_of([self.floors, "fork", self.n(100, 20), small, huge])[0]]
        self.table.add("floor: fork of as much memory", "ms", forks,
                       note=f"as the loaded zygote has: {small} KiB of private memory in small and {huge} KiB in huge "
                            "pages; fork, exit, wait")
        self.table.add("floor: fork of the loaded interpreter", "ms",
                       peers.interpreter_fork(self.root, self.n(100, 20)),
                       note="CPython with numpy, pandas, matplotlib.pyplot; fork, exit, wait; no namespaces")

    def measure_bubblewrap(self):
        self.table.add("peer: bwrap, python3", "ms", peers.bubblewrap_plain(self.root, self.n(30, 5)))
        self.table.add("peer: bwrap, python3 + imports", "ms",
                       peers.bubblewrap_scientific(self.root, self.n(10)))

    def measure_crun(self):
        self.table.add("peer: crun, python3", "ms", peers.crun(self.root, peers.PLAIN, self.n(30, 5)))
        self.table.add("peer: crun, python3 + imports", "ms",
                       peers.crun(self.root, peers.SCIENTIFIC, self.n(5)))

    def measure_jupyter(self):
        first, trips, memory = peers.jupyter(self.n(8, 2), self.n(300, 30))
        self.table.add("peer: Jupyter kernel, start to 1+1", "ms", first, note="without any import of libraries")
        self.table.add("peer: Jupyter kernel, live 1+1", "ms", trips)
        self.table.add("peer: Jupyter kernel, idle memory", "MiB", memory,
                       note="Pss, without kernel memory and without any import of libraries")

    def measure_daemon_memory(self, when):
        self.table.add(f"bivouacd memory, {when}", "MiB", [status_bytes(self.daemon.process.pid, "VmRSS")],
                       at_most=15 if when == "idle" else None, note="VmRSS of the daemon process alone")

    def measure_sequential(self):
        url = self.daemon.endpoint
        got, _ = self.run_load("get", url, n=self.n(3000))
        self.table.add("GET /health", "µs", [ns for ns, _ in got], against="floor: loopback HTTP round trip")
        got, _ = self.run_load("live", url, n=self.n(3000))
        self.table.add("live session, 1+1", "µs", [ns for ns, _ in got], against=self.floor_sum, at_most=150)
        self.versus("live session, 1+1", "peer: Jupyter kernel, live 1+1")
        got, _ = self.run_load("stream", url, n=self.n(100, 10))
        self.table.add("stream: print to first byte", "ms", [ns for ns, _ in got], at_most=5)
        self.daemon.wait_kernels(10)
        got, _ = self.run_load("new", url, n=self.n(300), pace_us=25000)
        waited = waited_of(got)
        self.table.add("new identifier, 1+1", "µs", [ns for ns, _ in got], against=self.floor_sum, at_most=300,
                       note=f"{waited} of {len(got)} waited for a sandbox" if waited else "")
        self.versus("new identifier, 1+1", "peer: Jupyter kernel, start to 1+1")
        self.versus("new identifier, 1+1", "peer: bwrap, python3")

    def versus(self, name, peer):
        """The same row once more, against another one."""
        mine, other = self.table.find(name), self.table.find(peer)
        if mine and other:
            row = dict(mine, goal=None, met=None, note="", repeated=True)
            self.table.compare(row, peer)
            self.table.rows.append(row)

    def measure_empty_list(self):
        # With fewer than five sessions a pool keeps none ready, however busy it was.
        url = self.daemon.make_pool("bench-empty", 4, 0)
        time.sleep(1)
        got, _ = self.run_load("new", url, n=self.n(100, 10), pace_us=50000)
        self.daemon.arm_call("DELETE", "bench-empty")
        found = len(got) - waited_of(got)
        self.table.add("ready list empty, 1+1", "ms", [ns for ns, _ in got],
                       against="peer: bwrap, python3 + imports", at_most=6, times=150,
                       note=f"{found} of {len(got)} found a ready sandbox after all" if found else "")
        self.versus("ready list empty, 1+1", "floor: fork of as much memory")
        self.versus("ready list empty, 1+1", "floor: fork of the loaded interpreter")
        self.versus("ready list empty, 1+1", "peer: crun, python3 + imports")

    def measure_burst(self):
        url = self.daemon.make_pool("bench-burst", 1000, 120)
        totals, each, waited = [], [], 0
        for _ in range(self.n(50, 5) // 10 or 2):
            self.daemon.wait_kernels(130)
            got, total = self.run_load("burst", url, n=100)
            totals.append(total["burst_ns"])
            each += [ns for ns, _ in got]
            waited += waited_of(got)
        self.daemon.arm_call("DELETE", "bench-burst")
        self.table.add("burst of 100 identifiers, all answered", "ms", totals, at_most=80,
                       note=f"{waited} of {len(each)} waited for a sandbox" if waited else "")
        self.table.add("burst of 100 identifiers, each answer", "ms", each)

    def measure_rate(self):
        url = self.daemon.make_pool("bench-rate", 200, 20)
        self.daemon.wait_kernels(30)
        busy = self.daemon.busy()
        got, total = self.run_load("rate", url, connections=self.args.connections, warmup_ms=2000,
                                   ms=2000 if self.args.quick else 10000)
        now = self.daemon.busy()
        busy = {who: now[who] - busy[who] for who in now}
        everything = busy.pop("all")
        own_s = max(sum(busy.values()), 0.01)
        shares = ", ".join(f"{who} {1000 * s / total['all_cycles']:.1f} ms" for who, s in busy.items())
        self.daemon.arm_call("DELETE", "bench-rate")
        rate = total["cycles"] / total["wall_s"]
        self.table.add("create, execute, delete", "per s", [rate],
                       note=f"{self.args.connections} connections, {total['wall_s']:.1f} s")
        self.table.add("create, execute, delete, per core", "per s", [rate / CORES], at_least=200,
                       note=f"the rate divided by {CORES} processors")
        self.table.add("create, execute, delete, per CPU second", "per s",
                       [total["cycles"] / max(total["busy_s"], 1e-9)], at_least=200,
                       note=f"all of the machine's work counts: {total['busy_s']:.1f} s busy of "
                            f"{total['wall_s'] * CORES:.1f} s, of which the client {total['client_s']:.1f} s")
        self.table.add("create, execute, delete, per own CPU second", "per s", [total["all_cycles"] / own_s],
                       note=f"what is not Bivouac's left out (with the warm-up, {own_s:.1f} of {everything:.1f} s busy); "
                            f"each circle: {shares}")
        waited = waited_of(got)
        self.table.add("create in the circle", "ms", [ns for ns, _ in got],
                       note=f"{waited} of {len(got)} waited for a sandbox")

    def measure_runtime(self, container_type, name, command):
        """V8 and bash cannot be forked warm: what is ready is a sandbox with a started kernel."""
        url = self.daemon.make_pool(f"bench-{name}", 40, 8, container_type=container_type)
        try:
            got, _ = self.run_load("live", url, n=self.n(1000), command=command)
            self.table.add(f"{name}: live session, {'echo 2' if command else '1+1'}", "µs", [ns for ns, _ in got],
                           against=self.floor_sum)
            time.sleep(3)  # the list is full
            got, _ = self.run_load("new", url, n=self.n(40), pace_us=400000, command=command)
            waited = waited_of(got)
            self.table.add(f"{name}: new identifier, ready", "µs", [ns for ns, _ in got], against=self.floor_sum,
                           note=f"{waited} of {len(got)} waited for a sandbox" if waited else "")
        finally:
            self.daemon.arm_call("DELETE", f"bench-{name}")

    def measure_idle_sessions(self):
        # A pool as large as its sessions keeps nothing ready beside them: all kernels are theirs.
        count = 20 if self.args.quick else 100
        self.daemon.arm_call("DELETE", "default")
        self.daemon.wait_kernels(0, 0)
        time.sleep(2)  # what the kernel frees late must not count as free twice
        before, (kernel, available) = status_bytes(self.daemon.process.pid, "VmRSS"), machine_memory()
        url = self.daemon.make_pool("bench-idle", count, 0)
        self.run_load("hold", url, n=count)
        self.daemon.wait_kernels(count, count)
        kernel_now, available_now = machine_memory()
        kernel = max(0, kernel_now - kernel) / count
        daemon = max(0, status_bytes(self.daemon.process.pid, "VmRSS") - before) / count
        pss, charged = [], []
        for agent, inner in self.daemon.sandboxes().items():
            if inner:
                charged.append(cgroup_bytes(agent))
                pss.append(peers.pss_bytes(agent) + sum(peers.pss_bytes(pid) for pid in inner))
        add = self.table.add
        add("idle session, all in", "MiB", [p + kernel + daemon for p in pss], at_most=2,
            against="peer: Jupyter kernel, idle memory",
            note=f"Pss and kernel memory as below, and what bivouacd grew by ({daemon / 1024:.0f} KiB a session). No "
                 "file contents: there are none")
        add("idle session, Pss", "MiB", pss,
            note="agent and kernel; pages shared with the zygote are divided among all who map them")
        add("idle session, kernel memory", "MiB", [kernel],
            note="growth of the machine's SUnreclaim, PageTables, KernelStack and Percpu, divided by the sessions. A "
                 "cgroup is charged for less: page tables are made by the zygote, namespaces and mounts by the jailer")
        add("idle session, charged to its cgroup", "MiB", charged,
            note="what its memory limit sees")
        add("idle session, what the machine lost", "MiB", [(available - available_now) / count],
            note="MemAvailable before and after: counts everything, also what others did meanwhile; trust it on a "
                 "quiet machine only")

    def run(self):
        image = (self.build / "python.image-id").read_text().strip()
        rootfs = Path(self.args.images or "/var/cache/bivouac/images") / image / "rootfs"
        if not rootfs.is_dir():
            raise Failed(f"the Python image is not there ({rootfs}); build it with: bivouac image build")
        self.root = peers.Root(rootfs)
        self.say("floors")
        self.measure_floors()
        for name, fn in (("bubblewrap", self.measure_bubblewrap), ("crun", self.measure_crun),
                         ("Jupyter", self.measure_jupyter)):
            self.attempt(name, fn)
        self.say("starting bivouacd")
        self.daemon = Daemon(self.build, self.args.images)
        self.daemon.wait_kernels(10)
        for name, fn in (("bivouacd memory", lambda: self.measure_daemon_memory("idle")),
                         ("bare forks", self.measure_forks),
                         ("round trips", self.measure_sequential),
                         ("ready list empty", self.measure_empty_list),
                         ("burst", self.measure_burst),
                         ("rate", self.measure_rate),
                         ("Node", lambda: self.measure_runtime("NodeLTS", "node", 0)),
                         ("Shell", lambda: self.measure_runtime("Shell", "shell", 1)),
                         ("bivouacd memory after load", lambda: self.measure_daemon_memory("after the load")),
                         ("idle sessions", self.measure_idle_sessions)):
            self.attempt(name, fn)

    def close(self):
        if self.daemon:
            self.daemon.close()
        if self.root:
            self.root.close()


def install_peers():
    subprocess.run(["apt-get", "install", "-y", "--no-install-recommends",
                    *" ".join(peers.PACKAGES.values()).split()], check=True, stdout=sys.stderr,
                   env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return os.uname().machine


def context(started, load):
    """What every row says about its run."""
    return {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)), "processor": processor(),
            "processors": CORES, "kernel": os.uname().release, "load_before": load}


def heading(about, started):
    return (f"{about['at']}  {CORES} × {about['processor']}, Linux {about['kernel']}, load {about['load_before']:.2f} "
            f"before, {time.time() - started:.0f} s\n")


def write_rows(out, table, about, mode):
    with open(out, mode) as f:
        for row in table.rows + table.skipped:
            f.write(json.dumps({**row, **about}, ensure_ascii=False) + "\n")


def main():
    ap = argparse.ArgumentParser(description="Measures Bivouac beside floors and peers.")
    ap.add_argument("--build", type=Path, default=HERE.parent / "build", help="where bivouacd was built")
    ap.add_argument("--images", type=Path, help="directory of images (bivouacd's default otherwise)")
    ap.add_argument("--out", type=Path, help="JSON lines go here (default: bench.jsonl in the build directory)")
    ap.add_argument("--install", action="store_true",
                    help="install the peers' Debian packages first (or BIVOUAC_BENCH_INSTALL=1)")
    ap.add_argument("--quick", action="store_true", help="a tenth of the measurements, to try the bench itself")
    ap.add_argument("--connections", type=int, default=8, help="connections of the rate rows (default 8)")
    args = ap.parse_args()
    args.build = args.build.resolve()
    if os.geteuid() != 0:
        sys.exit("bench: bivouacd makes sandboxes: run this as root")
    if not (args.build / "bivouacd").exists():
        sys.exit(f"bench: no bivouacd in {args.build}: run make build first")
    if args.install or os.environ.get("BIVOUAC_BENCH_INSTALL") == "1":
        install_peers()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by a signal"))
    started, load = time.time(), os.getloadavg()[0]
    bench = Bench(args)
    try:
        bench.run()
    except Failed as e:
        sys.exit(f"bench: {e}")
    finally:
        bench.close()
    about = context(started, load)
    print(heading(about, started))
    print(bench.table.text())
    out = args.out or args.build / "bench.jsonl"
    write_rows(out, bench.table, about, "w")
    print(f"\nwritten to {out}")
    # A goal missed is a finding; a row of Bivouac's own that could not be measured is a failure.
    own = [s for s in bench.table.skipped if s["name"] not in ("bubblewrap", "crun", "Jupyter", "bare forks")]
    return 1 if own else 0


if __name__ == "__main__":
    sys.exit(main())
