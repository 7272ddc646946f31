# SPDX-License-Identifier: Apache-2.0
"""Kernels of the Python driver, for its tests: forked ones and one that is a program of its own.

A launcher stands for zygote.c: it calls prepare() once, then forks a kernel for every socket it is sent.
With BIVOUAC_TEST_ROOTFS it runs chrooted into that image, laid read-only below a tmpfs.
"""

import array
import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from kernel_peer import INIT, Peer, blob, frame, lay_out

DRIVER = pathlib.Path(__file__).resolve().parents[2] / "runtimes/python"
ROOTFS = os.environ.get("BIVOUAC_TEST_ROOTFS")
# The machine's own Python, where there is no image, may have it too.
HAS_IPYTHON = bool(ROOTFS or importlib.util.find_spec("IPython"))
needs_packages = pytest.mark.skipif(
    not ROOTFS, reason="needs numpy, IPython, matplotlib: set BIVOUAC_TEST_ROOTFS to an image's root"
)

LAUNCHER = r"""
import array, os, socket, sys
sys.path.insert(0, sys.argv[1])
control_fd = int(sys.argv[2])
import bivouac_kernel
problems = bivouac_kernel.prepare()
control = socket.socket(fileno=control_fd)
assert len(os.listdir('/proc/self/task')) == 1
control.send(('ready ' + '; '.join(problems)).encode())
while True:
    data, anc, _, _ = control.recvmsg(16, 64)
    if not data:
        os._exit(0)
    if not anc:
        status = os.waitpid(int(data), 0)[1]
        control.send(str(status).encode())
        continue
    fds = array.array('i'); fds.frombytes(anc[0][2])
    pid = os.fork()
    if pid == 0:
        control.close()
        if os.getuid() == 0 and os.path.isdir('/opt/bivouac'):
            os.setgroups([]); os.setgid(1000); os.setuid(1000)
        bivouac_kernel.serve(fds[0])
    os.close(fds[0])
    control.send(str(pid).encode())
"""

CHROOT = lay_out(
    'exec chroot . /usr/bin/python3 -c "$6" /opt/bivouac "$7"',
    fill='[ -e opt/bivouac/recipe ] || cp "$5" opt/bivouac/recipe',
)


class Zygote:
    def __init__(self, base):
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fd = str(theirs.fileno())
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
        if ROOTFS:
            argv = ["unshare", "--mount", "sh", "-c", CHROOT, "sh", ROOTFS, DRIVER / "kernel/bivouac_kernel", base]
            argv += ["opt/bivouac/bivouac_kernel", DRIVER / "recipe", LAUNCHER, fd]
        else:
            argv = ["/usr/bin/python3", "-c", LAUNCHER, str(DRIVER / "kernel"), fd]
        self.process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], env=env)
        theirs.close()
        self.banner = self.control.recv(65536).decode()
        assert self.banner.startswith("ready"), "the zygote did not start"

    def fork(self, sock):
        fds = array.array("i", [sock.fileno()])
        self.control.sendmsg([b"fork"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        return int(self.control.recv(64))

    def wait(self, pid):
        """The wait status of a kernel."""
        self.control.send(str(pid).encode())
        return int(self.control.recv(64))

    def close(self):
        self.control.close()
        self.process.wait(20)


class Kernel(Peer):
    def __init__(self, zygote, entropy=None, init=True):
        super().__init__()
        self.zygote, self.status = zygote, None
        self.pid = zygote.fork(self.theirs)
        self.theirs.close()
        if init:
            self.initialise(os.urandom(32) if entropy is None else entropy)

    def initialise(self, entropy):
        out, err = self.make_pipes()
        fds = array.array("i", [out, err])
        data = frame(INIT, blob(entropy))
        self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        os.close(out)
        os.close(err)
        self.expect_ready(self.pid)

    def wait(self):
        """The wait status; the zygote can tell it once."""
        if self.status is None:
            self.status = self.zygote.wait(self.pid)
        return self.status


class LaunchedKernel(Peer):
    """The driver as a program of its own, as runtimes/launch.c starts it, with this machine's Python."""

    def __init__(self, directory, environment):
        super().__init__()
        argv = ["/usr/bin/python3", "-B", "-s", DRIVER / "kernel/bivouac_kernel"]
        self.launch(argv, cwd=directory, env=environment)


def interrupt_soon(kernel, delay=0.15):
    time.sleep(delay)
    os.kill(kernel.pid, signal.SIGINT)


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    made = Zygote(str(tmp_path_factory.mktemp("root")))
    yield made
    made.close()


@pytest.fixture
def kernel(zygote):
    made = Kernel(zygote)
    yield made
    status = made.close()
    assert status == 0, status
