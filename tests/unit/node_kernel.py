# SPDX-License-Identifier: Apache-2.0
"""Kernels of the Node driver, for its tests: started as their launcher does, socket at 3, pipes at 1 and 2.

With BIVOUAC_TEST_ROOTFS_NODE they run chrooted into that image, laid read-only below a tmpfs, and with
this tree's driver; without, with the Node of this machine.
"""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from kernel_peer import NONE, OK, Peer, lay_out, run_frame

RUNTIME = pathlib.Path(__file__).resolve().parents[2] / "runtimes/node"
ROOTFS = os.environ.get("BIVOUAC_TEST_ROOTFS_NODE")
NODE = "/usr/bin/node"

needs_node = pytest.mark.skipif(
    not ROOTFS and not os.path.exists(NODE),
    reason="needs Node: set BIVOUAC_TEST_ROOTFS_NODE to the root of a node image",
)

FRAME_MAX = 16 << 20

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/home/session",
    "LANG": "C.UTF-8",
    "NODE_PATH": "/mnt/data/node_modules:/home/session/.local/lib/node_modules:/usr/share/nodejs:/usr/lib/nodejs",
}

# Holds the mount namespace.
MOUNTS = lay_out("echo ready\nexec sleep infinity")


def node_arguments():
    """What the recipe starts, without the driver's own path."""
    for line in (RUNTIME / "recipe").read_text().splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "kernel" and value.split()[0] == "node":
            return value.split()[1:]
    raise AssertionError("the recipe has no kernel = node")


def filled(words, memory_mib):
    """As runtimes/launch.c fills in what a session has; None: nobody says."""
    share = re.compile(r"\{memory_mib:(\d+)\}")
    if memory_mib is None:
        return [word for word in words if not share.search(str(word))]
    return [share.sub(lambda m: str(memory_mib * int(m[1]) // 100), str(word)) for word in words]


class Launcher:
    def __init__(self, base):
        self.driver = base / "driver"
        shutil.copytree(RUNTIME / "kernel", self.driver)
        subprocess.run(
            ["cc", "-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden",
             "-o", self.driver / "native.node", RUNTIME / "native.c"],
            check=True,
        )  # fmt: skip
        self.holder = None
        self.work = base / "data"
        self.work.mkdir()
        self.argv, self.where = node_arguments(), {}
        if ROOTFS:
            root = base / "root"
            root.mkdir()
            argv = ["unshare", "--mount", "sh", "-c", MOUNTS, "sh", ROOTFS, self.driver, root, "opt/bivouac/node"]
            self.holder = subprocess.Popen(argv, stdout=subprocess.PIPE)
            assert self.holder.stdout.readline() == b"ready\n"
            pairs = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
            into = ["nsenter", "-t", str(self.holder.pid), "--mount", "chroot", "--userspec=1000:1000", root / "root"]
            self.argv = [*into, "/usr/bin/env", "-i", "-C", "/mnt/data", *pairs, *self.argv]
        else:
            self.argv[-1] = self.driver / "kernel.js"
            self.where = {"cwd": self.work, "env": {**ENVIRONMENT, "HOME": str(self.work)}}

    def command(self, memory_mib):
        words = filled(self.argv, memory_mib)
        if memory_mib is None:
            return words
        return ["sh", "-c", 'ulimit -m "$0"; exec "$@"', str(memory_mib << 10), *words]

    def close(self):
        if self.holder:
            self.holder.kill()
            self.holder.wait()


class Kernel(Peer):
    def __init__(self, launcher, warm=True, memory_mib=None):
        super().__init__()
        self.launch(launcher.command(memory_mib), **launcher.where)
        if warm:
            self.sock.sendall(run_frame(0, b""))
            got = self.finish()
            assert (got.status, got.kind, got.out, got.err, got.displays) == (OK, NONE, "", "", [])

    def read_done(self, timeout=30.0):
        status, kind, blobs, displays = super().read_done(timeout)
        assert 2 + sum(4 + len(part) for part in blobs) <= FRAME_MAX
        assert len(blobs[1]) <= 1024 and len(blobs[2]) <= 4096 and len(blobs[3]) <= 16384
        traceback = blobs[3].decode()
        assert "\x1b" not in traceback and "/opt/bivouac" not in traceback and "driver/" not in traceback
        return status, kind, blobs, displays

    def interrupted(self, code, timeout=20):
        """The result of a cell that is interrupted once it has printed `go`."""
        self.start(code)
        self.wait_for("go\n")
        self.interrupt()
        return self.finish(timeout)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    base = tmp_path_factory.mktemp("node")
    for directory in (base, *base.parents):
        if directory.owner() == "root" and str(directory).startswith("/tmp/"):
            directory.chmod(0o755)
    made = Launcher(base)
    yield made
    made.close()


@pytest.fixture
def kernel(launcher):
    made = Kernel(launcher)
    yield made
    assert made.close() == 0
