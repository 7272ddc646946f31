# SPDX-License-Identifier: Apache-2.0
"""sys.stdout and sys.stderr over descriptors 1 and 2, kept usable whatever a cell does to them."""

import fcntl
import io
import os
import sys


class _Writer(io.BufferedWriter):
    """Has attributes of its own: while somebody watches, `write` is one of them."""

    def write_through(self, data):
        written = super().write(data)
        self.flush()
        return written


def _open(fd, name):
    raw = io.FileIO(fd, "wb", closefd=False)
    stream = io.TextIOWrapper(
        _Writer(raw), "utf-8", errors="backslashreplace", line_buffering=True
    )
    raw.name = name
    stream.mode = "w"
    return stream


def dup_high(fd):
    """A close-on-exec copy far above the numbers user code sees and closes by habit."""
    for least in (200, 64, 3):
        try:
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)
        except OSError:
            continue
    return fd


class Streams:
    __slots__ = ("out", "err", "_saved", "_watched")

    def __init__(self):
        self._saved = None
        self._watched = False
        self._make()
        sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)

    def _make(self):
        self.out = sys.stdout = sys.__stdout__ = _open(1, "<stdout>")
        self.err = sys.stderr = sys.__stderr__ = _open(2, "<stderr>")
        if self._watched:
            self.watch(True)

    def watch(self, watched):
        """Whether output is to leave as it is written, and not line by line."""
        self._watched = watched
        for stream in (self.out, self.err):
            try:
                stream.reconfigure(write_through=watched)
                if watched:
                    stream.buffer.write = stream.buffer.write_through
                else:
                    stream.buffer.__dict__.pop("write", None)
            except (AttributeError, OSError, ValueError):
                pass  # the cell closed or took it; restore() sees to that

    def attach(self, out_fd, err_fd):
        """Make the two descriptors 1 and 2, and remember them for restore()."""
        os.dup2(out_fd, 1)
        os.dup2(err_fd, 2)
        null = os.open("/dev/null", os.O_RDONLY)
        if null != 0:
            os.dup2(null, 0)
            os.close(null)
        for fd in {out_fd, err_fd} - {0, 1, 2}:
            os.close(fd)
        self._saved = tuple((fd, dup_high(fd), self._identity(fd)) for fd in (1, 2))
        sys.stdout, sys.stderr = self.out, self.err

    @staticmethod
    def _identity(fd):
        st = os.fstat(fd)
        return st.st_dev, st.st_ino

    def flush(self):
        """Flush; a stream the cell broke is replaced. KeyboardInterrupt passes through."""
        try:
            if sys.stdout is not self.out and sys.stdout is not None:
                sys.stdout.flush()
        except Exception:
            pass
        try:
            self.out.flush()
            self.err.flush()
        except (OSError, ValueError, AttributeError):
            self._recover()

    def _recover(self):
        # What cannot be written is dropped: the old objects must not retry when collected.
        for stream in (self.out, self.err):
            try:
                stream.detach()
            except Exception:
                pass
        self._make()

    def restore(self):
        """After a cell: our streams, our descriptors."""
        for fd, saved, identity in self._saved or ():
            try:
                intact = self._identity(fd) == identity
            except OSError:
                intact = False
            if not intact:
                try:
                    os.dup2(saved, fd)
                except OSError:
                    pass
        if self.out.closed or self.err.closed:
            self._recover()
        sys.stdout = self.out
        sys.stderr = self.err
