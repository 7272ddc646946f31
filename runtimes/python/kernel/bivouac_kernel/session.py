# SPDX-License-Identifier: Apache-2.0
"""The life of one kernel: INIT, one silent warm-up cell, then cells until end of file."""

import _sha512
import _socket
import builtins
import fcntl
import gc
import linecache
import os
import random
import site
import sys
import tempfile
import threading

from bivouac_kernel import errors, forks, interrupt, proto, zygote
from bivouac_kernel.cell import Kernel
from bivouac_kernel.streams import Streams, dup_high

HOME = "/home/session"
WORKDIR = "/mnt/data"
USER_SITE = HOME + "/.local/lib/python%d.%d/site-packages" % sys.version_info[:2]
_EXIT_PROTOCOL = 76  # EX_PROTOCOL of sysexits.h
_KERNEL_FD = 3  # kernel_proto.h

# One thread each for BLAS and OpenMP: a session has a share of a processor, and as many threads as
# the host has processors would meet its process limit. Cells raise it with threadpoolctl.
ENVIRONMENT = {
    "PATH": HOME + "/.local/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": HOME,
    "USER": "session",
    "LOGNAME": "session",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "PIP_BREAK_SYSTEM_PACKAGES": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}

# Each page these touch is memory of every idle session: they stop short of the pretty printer.
_WARM_UP = (b"x = 1\nprint(repr(x))", b"1+1", b"1+1")
_FIRST = b"None"  # cell 0, which the agent leaves to us


class StdinNotImplementedError(NotImplementedError):
    """input() in a session: nobody is there to answer."""


def _no_input(prompt="", /):
    raise StdinNotImplementedError("input() is not available: a session has no standard input")


def _no_getpass(prompt="Password: ", stream=None):
    _no_input()


def serve(sock_fd):
    """Serve the agent over a connected stream socket. Never returns."""
    _exit_with(_serve, sock_fd)


def serve_launched():
    """The same where a launcher has read INIT. Never returns."""
    _exit_with(_serve_launched)


def _exit_with(function, *args):
    status = _EXIT_PROTOCOL
    try:
        status = function(*args)
    except (proto.ProtocolError, ConnectionError):
        pass
    except BaseException as exc:
        # Nothing of the user's can get here; say what the driver itself did wrong.
        try:
            os.write(2, b"bivouac kernel: " + errors.describe(exc)[2])
        except OSError:
            pass
        status = 70
    finally:
        os._exit(status)


def _serve(sock_fd):
    channel = _open_channel(sock_fd)
    first = channel.read_init()
    if first is None:
        return 0
    entropy, fds = first
    kernel = _initialise(channel, entropy, fds)
    channel.send(proto.ready(os.getpid()))
    return _loop(kernel, channel)


def _serve_launched():
    outputs = [dup_high(fd) for fd in (1, 2)]
    channel = _open_channel(_KERNEL_FD, outputs)
    kernel = _initialise(channel, os.urandom(32), outputs)
    channel.send(proto.ready(os.getpid()))
    return _loop(kernel, channel)


def _loop(kernel, channel):
    read, run, send, housekeep = channel.read, kernel.run, channel.send, kernel.housekeep
    while True:
        frame = read()
        if frame is None:
            return 0
        if frame[0] != proto.RUN:
            raise proto.ProtocolError("expected RUN")
        number, flags, code = proto.parse_run(frame[1])
        if not number and not code:
            code = _FIRST
        send(run(number, code.decode("utf-8", "replace"), flags))
        housekeep()


def _open_channel(sock_fd, keep=()):
    # SECURITY: user code gets descriptors 0 to 2 and nothing the zygote may have left open.
    high = dup_high(sock_fd)
    kept = sorted([2, high, *keep])
    for low, above in zip(kept, [*kept[1:], max(1024, kept[-1] + 1)]):
        os.closerange(low + 1, above)
    fcntl.fcntl(high, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    sock = _socket.socket(fileno=high)
    sock.settimeout(None)
    return proto.Channel(sock)


def make_kernel(main, shell, pretty, environment):
    """In the zygote: the kernel that each forked process starts from. environment: None keeps it."""
    _set_surroundings(environment)
    kernel = Kernel(main.__dict__, Streams(), None, shell, pretty)
    kernel.user_site = USER_SITE
    _set_builtins(kernel, shell)
    kernel.make_current()
    return kernel


def rehearse(kernel):
    """In the zygote: run what every kernel runs, so that only private state is left to touch."""
    reseed(os.urandom(32))
    warm_up_cells(kernel.shell, kernel.pretty, kernel.streams)


def _initialise(channel, entropy, fds):
    interrupt.install()
    if os.getsid(0) != os.getpid() and os.getpgid(0) != os.getpid():
        os.setsid()
    os.umask(0o022)
    _enter_directory()
    reseed(entropy)
    kernel = zygote.PREPARED.kernel
    _warm_up(kernel)
    kernel.streams.attach(*fds)
    kernel.channel = channel
    forks.release()
    threading.main_thread()._set_native_id()  # one of the things a hook would have done
    kernel.watch_forks()
    kernel.housekeep()
    gc.enable()
    return kernel


def _warm_up(kernel):
    """Take the page faults of a first cell, in a namespace of its own, with output to nowhere."""
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    if null > 2:
        os.close(null)
    warm_up_cells(kernel.shell, kernel.pretty, kernel.streams)


def warm_up_cells(shell, pretty, streams):
    """Run the cells as if an agent had sent them, through a socket of their own."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    channel = proto.Channel(ours)
    namespace = {"__name__": "__main__", "__builtins__": builtins}
    scratch = Kernel(namespace, streams, channel, shell, pretty)
    for source in _WARM_UP:
        theirs.sendall(proto.run(0, source))
    theirs.shutdown(_socket.SHUT_WR)
    _loop(scratch, channel)
    ours.close()
    theirs.close()
    linecache.cache.pop("<cell 0>", None)


def reseed(entropy):
    """SECURITY: all kernels of a zygote share its memory; give each its own random states.

    The secret of str hashes is not reachable from here; zygote.c sees to it.
    """

    def derive(label):
        return _sha512.sha512(label + b"\0" + entropy).digest()

    random.seed(derive(b"random"))
    modules = sys.modules
    if "numpy.random" in modules:
        # One word: seeding from an array touches 50 pages more, for a generator that is no secret.
        modules["numpy.random"].seed(int.from_bytes(derive(b"numpy")[:4], "little"))
    if "ssl" in modules:
        modules["ssl"].RAND_add(derive(b"ssl"), 32.0)
    if "uuid" in modules:
        modules["uuid"]._node = None
        modules["uuid"]._last_timestamp = None
    if "multiprocessing.process" in modules:
        process = modules["multiprocessing.process"].current_process()
        process.authkey = derive(b"multiprocessing")[:32]
    tempfile._name_sequence = None
    tempfile.tempdir = None


def _enter_directory():
    for directory in (WORKDIR, HOME, "/"):
        try:
            os.chdir(directory)
            return
        except OSError:
            continue


def _set_surroundings(environment):
    """Environment, arguments and module path of user code; the same in every session."""
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    sys.argv = [""]
    sys.executable = zygote.python_executable()
    if "multiprocessing.spawn" in sys.modules:
        sys.modules["multiprocessing.spawn"].set_executable(sys.executable)
    site.USER_BASE, site.USER_SITE, site.ENABLE_USER_SITE = HOME + "/.local", USER_SITE, True
    sys.path[:] = [""] + [path for path in sys.path if path and path != USER_SITE]
    # Where Python itself puts it: in front of the distribution's packages.
    packages = [i for i, path in enumerate(sys.path) if path.endswith("-packages")]
    sys.path.insert(packages[0] if packages else len(sys.path), USER_SITE)


def _set_builtins(kernel, shell):
    builtins.input = _no_input
    if "getpass" in sys.modules:
        sys.modules["getpass"].getpass = _no_getpass
    for name in ("exit", "quit"):
        setattr(builtins, name, _Exit(name))
    if shell is None:

        def display(*objects, **_options):
            for value in objects:
                text = kernel.show_plainly(value)
                if text is not None:
                    print(text)

        builtins.display = display


class _Exit:
    """exit and quit: end the cell, as sys.exit() does; the session stays."""

    def __init__(self, name):
        self._name = name

    def __repr__(self):
        return f"Use {self._name}() to end the cell"

    def __call__(self, code=None):
        raise SystemExit(code)
