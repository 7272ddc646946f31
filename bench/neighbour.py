#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""make neighbour: how long executions of one session take while another one does its worst.

Measures a quiet session, then the same session beside an attacker who burns processors, memory, processes, files,
output and connections, first one by one and then all at once. Appends its rows to bench.jsonl in the build directory.
bench/README.md says what each row means.
"""

import sys

sys.dont_write_bytecode = True

import argparse
import http.client
import json
import multiprocessing
import os
import signal
import time
import urllib.parse
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import run

TIMES = 3  # the goal: p99 beside the attacker is at most so many times the quiet one
ATTACKER = "attacker-of-neighbours"
LIMITS = {"memory": "512Mi", "pids": 64, "dataSize": "64Mi", "tmpSize": "32Mi", "cpu": 1}

# What runs inside the attacker's session, each as a process of its own that starts again when it is killed.
INSIDE = {
    "processors": """
import os, threading
def burn():
    while True: pass
for _ in range(3): os.fork()
for _ in range(3): threading.Thread(target=burn).start()
""",
    "memory": """
held = []
while True: held.append(bytearray(os.urandom(4096)) * 1024)
""",
    "processes": """
import os, time
while True:
    try:
        if os.fork() == 0:
            try: os.fork()
            except OSError: pass
            time.sleep(0.05); os._exit(0)
    except OSError: pass
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
    except ChildProcessError: pass
""",
    "disk": """
import os
block, n = os.urandom(1 << 20), 0
while True:
    for where in ('/mnt/data/', '/tmp/', '/dev/shm/'):
        try:
            with open(where + 'fill', 'wb', buffering=0) as f:
                while f.write(block): pass
        except OSError: pass
        try:
            for i in range(2000): open(where + str(i), 'w').close()
        except OSError: pass
        for name in os.listdir(where):
            if name != 'attack.py': os.unlink(where + name)
""",
}

# A guard starts each again, because out of memory is part of the attack. Ended by deleting the session.
START = """
import os, subprocess, sys
for part in {parts!r}:
    subprocess.Popen([sys.executable, '-c', '''
import subprocess, sys, time
while True:
    subprocess.run([sys.executable, "-c", "import os\\\\n" + sys.argv[1]], stderr=subprocess.DEVNULL); time.sleep(0.02)
''', part], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
"""
FLOOD = "import sys\nfor _ in range(200): sys.stdout.write('x' * 100000)\n'y' * 1000000"


def execute(url, token, code, connection=None):
    body = json.dumps({"codeInputType": "Inline", "executionType": "Synchronous", "code": code})
    at = urllib.parse.urlsplit(url)
    c = connection or http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    c.request("POST", f"{at.path}/executions?api-version=2025-10-02-preview&identifier={ATTACKER}", body,
              {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
    reply = c.getresponse()
    document = reply.read()
    if not connection:
        c.close()
    return reply.status, document


def requests_without_end(url, token, code):
    """One hostile client: a new connection per request, into the attacker's session."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.nice(10)  # it stands for another machine
    while True:
        try:
            execute(url, token, code)
        except (OSError, http.client.HTTPException):
            pass


class Neighbour(run.Bench):
    """Quiet and loud moments take turns, so that what else happens on the machine meets both."""

    def sample(self):
        samples, _ = self.run_load("live", self.url, n=self.n(2000))
        return [ns for ns, _ in samples]

    def row(self, name, rounds, against=None):
        values = [ns for r in rounds for ns in r]
        row = self.table.add(name, "µs", values, against=against, note=f"max {max(values) / 1000:.0f} µs")
        row["max"] = round(max(values) / 1000, 4)
        return row

    def compare(self, name, inside=(), outside=()):
        """ROUNDS times without and beside these parts of the attack; the ratio is the median of the rounds'."""
        self.say(f"beside {name}")
        quiet, loud = [], []
        for _ in range(1 if self.args.quick else self.args.rounds):
            quiet.append(self.sample())
            loud.append(self.attack(inside, outside))
        ratios = [run.percentile(b, 99) / run.percentile(a, 99) for a, b in zip(quiet, loud)]
        self.row(f"neighbour: quiet, before {name}", quiet)
        row = self.row(f"neighbour: beside {name}", loud, f"neighbour: quiet, before {name}")
        row["p99_ratio"] = round(run.percentile(ratios, 50), 2)
        row["goal"], row["met"] = f"p99 ≤ {TIMES} × quiet", row["p99_ratio"] <= TIMES
        row["note"] += f", p99 {row['p99_ratio']:g} × quiet (rounds: {', '.join(f'{r:.1f}' for r in ratios)})"

    def attack(self, inside, outside):
        """Samples taken beside the attack, from its worst to its end."""
        token = self.daemon.env["BIVOUAC_BENCH_TOKEN"]
        clients = [multiprocessing.Process(target=requests_without_end, args=(self.url, token, code), daemon=True)
                   for code in outside]
        try:
            status, reply = execute(self.url, token, START.format(parts=[INSIDE[part] for part in inside]))
            if status != 200 or json.loads(reply)["status"] != "Succeeded":
                raise run.Failed(f"the attack did not start: {status} {reply[:300]}")
            for c in clients:
                c.start()
            time.sleep(1.5)
            return self.sample()
        finally:
            for c in clients:
                c.terminate()
                c.join()
            self.end_attacker(token)

    def end_attacker(self, token):
        at = urllib.parse.urlsplit(self.url)
        c = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
        c.request("DELETE", f"{at.path}/session?api-version=2025-10-02-preview&identifier={ATTACKER}",
                  headers={"Authorization": f"Bearer {token}"})
        c.getresponse().read()
        c.close()
        time.sleep(1)  # the stock is filled up again

    def run(self):
        self.say("starting bivouacd")
        self.daemon = run.Daemon(self.build, self.args.images)
        self.url = self.daemon.make_pool("bench-neighbour", 20, 2, LIMITS)
        self.daemon.wait_kernels(2)
        self.run_load("live", self.url, n=500)
        for part in INSIDE:
            self.compare(part, [part])
        self.compare("output", outside=[FLOOD] * 2)
        self.compare("connections", outside=["1+1"] * 4)
        self.compare("all at once", list(INSIDE), [FLOOD] * 2 + ["1+1"] * 4)


def main():
    ap = argparse.ArgumentParser(description="Measures a session beside a hostile one.")
    ap.add_argument("--build", type=Path, default=run.HERE.parent / "build", help="where bivouacd was built")
    ap.add_argument("--images", type=Path, help="directory of images (bivouacd's default otherwise)")
    ap.add_argument("--out", type=Path, help="JSON lines are added here (default: bench.jsonl in the build directory)")
    ap.add_argument("--rounds", type=int, default=5, help="quiet and loud moments per row (default 5)")
    ap.add_argument("--quick", action="store_true", help="one round of a tenth of the measurements")
    args = ap.parse_args()
    args.build = args.build.resolve()
    if os.geteuid() != 0:
        sys.exit("neighbour: bivouacd makes sandboxes: run this as root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("neighbour: ended by a signal"))
    started, load = time.time(), os.getloadavg()[0]
    bench = Neighbour(args)
    try:
        bench.run()
    except run.Failed as e:
        sys.exit(f"neighbour: {e}")
    finally:
        bench.close()
    context = run.context(started, load)
    print(run.heading(context, started))
    print(bench.table.text())
    out = args.out or args.build / "bench.jsonl"
    run.write_rows(out, bench.table, context, "a")
    print(f"\nadded to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
