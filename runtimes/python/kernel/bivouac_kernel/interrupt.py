# SPDX-License-Identifier: Apache-2.0
"""SIGINT: a KeyboardInterrupt while a cell runs, nothing at any other time.

One handler stays installed for good and looks at a flag, so that no instant exists in which the
signal could end the kernel. CPython runs the handler only at function entries, calls and backward
jumps, so a plain store `STATE.armed = False` as the first statement of an except clause cannot be
interrupted.
"""

import _signal

SIGINT = _signal.SIGINT
_MASK = (SIGINT,)


class _State:
    __slots__ = ("armed", "pending")


STATE = _State()
STATE.armed = False
STATE.pending = False


def _on_sigint(_signum, _frame):
    if STATE.armed:
        raise KeyboardInterrupt
    STATE.pending = True


def install():
    """Take SIGINT back from whatever user code did with it: a handler, SIG_IGN, a blocked mask."""
    _signal.signal(SIGINT, _on_sigint)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _MASK)


class held:
    """Within a running cell: put an interrupt off while a frame is written, then deliver it."""

    __slots__ = ("_was",)

    def __enter__(self):
        self._was = STATE.armed
        STATE.armed = False

    def __exit__(self, *_exc):
        STATE.armed = self._was
        if self._was and STATE.pending:
            STATE.pending = False
            raise KeyboardInterrupt
        return False
