# SPDX-License-Identifier: Apache-2.0
"""Peers: what others need for the same job, on this machine, in the same run.

Each function returns a list of measurements or raises Unavailable with the reason. Every timed run's
output is checked, so that a peer which fails fast does not look fast.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGES = {
    "bubblewrap": "bubblewrap",
    "crun": "crun",
    "jupyter": "python3-ipykernel python3-jupyter-client",
}
PLAIN = "print(1+1)"
SCIENTIFIC = "import numpy, pandas, matplotlib.pyplot; print(1+1)"
FORKS = """
import numpy, pandas, matplotlib.pyplot, gc, os, time
gc.freeze()
for i in range(%d):
    started = time.monotonic_ns()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    print('sample', time.monotonic_ns() - started)
"""
CGROUP2_OF_HYBRID = "/sys/fs/cgroup/unified"


class Unavailable(Exception):
    """The peer cannot be measured here; the text says why."""


def need(program, package):
    path = shutil.which(program)
    if not path:
        raise Unavailable(f"{program} is not installed (Debian package {package})")
    return path


def timed(argv, n, warmup=1):
    """Wall nanoseconds of n runs of a command that must print 2."""
    samples = []
    for i in range(-warmup, n):
        started = time.monotonic_ns()
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        took = time.monotonic_ns() - started
        if done.returncode != 0 or done.stdout != "2\n":
            text = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            raise Unavailable(f"{Path(argv[0]).name} fails: {text[-1][:160]}")
        if i >= 0:
            samples.append(took)
    return samples


class Root:
    """The Bivouac image as a root directory for the peers, with its font cache where matplotlib may
    use it (a read-only one it would rebuild at every start, which would be unfair)."""

    def __init__(self, rootfs):
        self.rootfs = str(rootfs)
        self.fonts = Path(tempfile.mkdtemp(prefix="bivouac-bench-fonts-"))
        self.fonts.chmod(0o755)
        cache = Path(rootfs) / "opt/bivouac/matplotlib"
        if cache.is_dir():
            shutil.copytree(cache, self.fonts, dirs_exist_ok=True)

    def close(self):
        shutil.rmtree(self.fonts, ignore_errors=True)

    def bwrap(self, code):
        return [need("bwrap", PACKAGES["bubblewrap"]), "--ro-bind", self.rootfs, "/", "--proc", "/proc",
                "--dev", "/dev", "--tmpfs", "/tmp", "--bind", str(self.fonts), "/run",
                "--unshare-all", "--die-with-parent", "--new-session", "--clearenv",
                "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp",
                "--setenv", "MPLCONFIGDIR", "/run", "/usr/bin/python3", "-c", code]


def bubblewrap_plain(root, n):
    return timed(root.bwrap(PLAIN), n)


def bubblewrap_scientific(root, n):
    return timed(root.bwrap(SCIENTIFIC), n)


def interpreter_fork(root, n):
    """Not a peer but a floor: fork, exit and wait of a CPython with the libraries loaded."""
    done = subprocess.run(root.bwrap(FORKS % n), capture_output=True, text=True)
    samples = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("sample")]
    if len(samples) != n:
        raise Unavailable("forking the loaded interpreter fails: " + done.stderr.strip()[-160:])
    return samples


# --- crun ---


def crun_bundle(root, code, bundle):
    """An OCI bundle equal to the bwrap call: read-only image, all namespaces, no network."""
    subprocess.run([need("crun", PACKAGES["crun"]), "spec"], cwd=bundle, check=True)
    path = Path(bundle) / "config.json"
    config = json.loads(path.read_text())
    config["root"] = {"path": root.rootfs, "readonly": True}
    config["process"].update(terminal=False, cwd="/", args=["/usr/bin/python3", "-c", code], env=[
        "PATH=/usr/bin:/bin", "HOME=/tmp", "MPLCONFIGDIR=/run"])
    # What one may not raise cannot be set: stay within what we have.
    config["process"]["rlimits"] = []
    config["mounts"] = [m for m in config["mounts"] if m["destination"] in ("/proc", "/dev", "/dev/shm")]
    config["mounts"] += [
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/run", "type": "bind", "source": str(root.fonts), "options": ["bind"]},
    ]
    config["linux"].pop("resources", None)
    config["linux"].pop("cgroupsPath", None)
    path.write_text(json.dumps(config))


def crun(root, code, n):
    """crun refuses hosts with both cgroup versions mounted: it is measured in a mount namespace that
    shows it one, without cgroups, which only makes it faster."""
    need("crun", PACKAGES["crun"])
    need("unshare", "util-linux")
    with tempfile.TemporaryDirectory(prefix="bivouac-bench-crun-") as work:
        bundle, state = Path(work) / "bundle", Path(work) / "state"
        bundle.mkdir()
        crun_bundle(root, code, bundle)
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", sys.executable, __file__, "crun-loop",
             str(bundle), str(state), str(n)], capture_output=True, text=True)
    if done.returncode != 0:
        text = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise Unavailable(text[:200])
    return json.loads(done.stdout)


def crun_loop(bundle, state, n):
    if os.path.ismount(CGROUP2_OF_HYBRID):
        subprocess.run(["umount", CGROUP2_OF_HYBRID], check=True)
    argv = [shutil.which("crun"), "--cgroup-manager=disabled", "--root", state, "run", "--bundle",
            bundle, f"bench-{os.getpid()}"]
    print(json.dumps(timed(argv, n)))


# --- Jupyter ---


def rollup_bytes(pid, key):
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def pss_bytes(pid):
    return rollup_bytes(pid, "Pss")


def jupyter_execute(client):
    """1+1 until its result and the idle message are there."""
    request = client.execute("1+1")
    text = None
    while True:
        message = client.get_iopub_msg(timeout=30)
        if message["parent_header"].get("msg_id") != request:
            continue
        if message["msg_type"] == "execute_result":
            text = message["content"]["data"]["text/plain"]
        elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            break
    while client.get_shell_msg(timeout=30)["parent_header"].get("msg_id") != request:
        pass
    if text != "2":
        raise Unavailable(f"the Jupyter kernel answered {text!r}")


def jupyter(starts, round_trips):
    """Returns (start to first result, round trip, Pss of an idle kernel)."""
    try:
        from jupyter_client import KernelManager
        import ipykernel  # noqa: F401
    except ImportError as e:
        raise Unavailable(f"{e} (Debian packages {PACKAGES['jupyter']})") from None
    import logging

    logging.getLogger("traitlets").setLevel(logging.ERROR)
    first, trips, memory = [], [], []
    with tempfile.TemporaryDirectory(prefix="bivouac-bench-jupyter-") as work:
        saved = dict(os.environ)
        os.environ.update(HOME=work, JUPYTER_RUNTIME_DIR=work, IPYTHONDIR=work, JUPYTER_PLATFORM_DIRS="1",
                          PYDEVD_DISABLE_FILE_VALIDATION="1")
        try:
            for i in range(starts):
                manager = KernelManager()
                started = time.monotonic_ns()
                manager.start_kernel(stderr=subprocess.DEVNULL)
                client = manager.client()
                try:
                    client.start_channels()
                    client.wait_for_ready(timeout=60)
                    jupyter_execute(client)
                    first.append(time.monotonic_ns() - started)
                    for _ in range(round_trips if i == starts - 1 else 0):
                        started = time.monotonic_ns()
                        jupyter_execute(client)
                        trips.append(time.monotonic_ns() - started)
                    memory.append(pss_bytes(manager.provisioner.pid))
                finally:
                    client.stop_channels()
                    manager.shutdown_kernel(now=True)
        finally:
            os.environ.clear()
            os.environ.update(saved)
    return first, trips, memory


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[1] != "crun-loop":
        sys.exit("a part of bench/run.py")
    try:
        crun_loop(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    except Unavailable as e:
        sys.exit(str(e))
