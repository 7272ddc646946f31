# SPDX-License-Identifier: Apache-2.0
"""The host kernel's log from a moment on: what a healthy kernel never says."""

import errno
import os
import re
import select
import threading

TROUBLE = re.compile(
    r"BUG:|BUG at|WARNING: |Oops|general protection fault[,:]|Kernel panic|KASAN|KMSAN|KCSAN|UBSAN"
    r"|refcount_t|blocked for more than|rcu.*(stall|self-detected)|soft lockup|hard LOCKUP|list_(add|del) corruption"
    r"|bad page|Bad page|page allocation failure|unable to handle|double fault|stack segment|use-after-free"
    r"|nobody cared|Out of memory: Killed|nf_conntrack: table full|TCP: out of memory|VFS: file-max"
)
# The fault of a process in user space, whatever words it has.
OF_A_PROCESS = re.compile(r"traps: .*\[\d+\]|segfault at|Memory cgroup out of memory")


class KernelLog:
    """Records that come after this object."""

    def __init__(self):
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)
        self.lines = 0
        self.lost = 0
        self.trouble = []

    def read(self):
        """Takes what has come; call it often, the kernel's buffer is small."""
        while True:
            try:
                record = os.read(self._fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return self
            except OSError as e:
                if e.errno != errno.EPIPE:
                    raise
                self.lost += 1  # overwritten before it was read; the next read goes on with the oldest
                continue
            self.lines += 1
            text = record.partition(";")[2]
            if TROUBLE.search(text) and not OF_A_PROCESS.search(text):
                self.trouble.append(text.strip())

    def close(self):
        os.close(self._fd)


class WatchedKernelLog(KernelLog):
    """One that is read as the records come, in a thread, until it is stopped."""

    def __init__(self):
        super().__init__()
        self._failure = None
        self._end, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self):
        try:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.register(self._end, 0)  # the other end is closed: POLLHUP
            while self._end not in dict(poll.poll()):
                self.read()
            self.read()
        except BaseException as error:  # handed over to the caller of stop()
            self._failure = error

    def stop(self):
        """Takes what has come until now and ends the thread."""
        os.close(self._wake)
        self._thread.join()
        os.close(self._end)
        self.close()
        if self._failure:
            raise self._failure
