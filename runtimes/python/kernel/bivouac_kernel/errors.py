# SPDX-License-Identifier: Apache-2.0
"""Exceptions as name, text and a bounded traceback in Python's standard format."""

import os
import sys
import traceback

TRACEBACK_MAX = 16 * 1024
TEXT_MAX = 4 * 1024
_FRAMES_MAX = 400
_CHAIN_MAX = 16
_DRIVER = os.path.dirname(os.path.abspath(__file__)) + os.sep


def bound(text, limit):
    """UTF-8 of text, at most limit bytes: head and tail kept, the cut marked."""
    if len(text) <= limit:
        data = text.encode("utf-8", "backslashreplace")
        if len(data) <= limit:
            return data
    half = limit // 2 - 32
    head = text[:half].encode("utf-8", "backslashreplace")[:half].decode("utf-8", "ignore")
    tail = text[-half:].encode("utf-8", "backslashreplace")[-half:].decode("utf-8", "ignore")
    left = max(0, len(text) - len(head) - len(tail))
    return f"{head}\n[... {left} characters left out ...]\n{tail}".encode()


def _own_frames_off(tb):
    """Drop the driver's frames in front of the user's."""
    frame = tb
    while frame is not None:
        if frame.tb_frame.f_code.co_filename.startswith("<cell "):
            return frame
        frame = frame.tb_next
    while tb is not None and _is_own(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    return tb


def _is_own(filename):
    return filename.startswith(_DRIVER) or "/IPython/" in filename


def _splice(tb):
    """A traceback of bounded length, and how many frames that left out."""
    frames = []
    while tb is not None:
        frames.append(tb)
        tb = tb.tb_next
    extra = len(frames) - _FRAMES_MAX
    if extra <= 0:
        return (frames[0] if frames else None), 0
    half = _FRAMES_MAX // 2
    tail = frames[len(frames) - half]
    for old in reversed(frames[:half]):
        tail = type(old)(tail, old.tb_frame, old.tb_lasti, old.tb_lineno)
    return tail, extra


def _chain(exc):
    """The exception and those behind it, newest first, at most _CHAIN_MAX; whether there are more."""
    seen, out = set(), []
    while exc is not None and id(exc) not in seen and len(out) < _CHAIN_MAX:
        seen.add(id(exc))
        out.append(exc)
        if exc.__cause__ is not None:
            exc = exc.__cause__
        else:
            exc = None if exc.__suppress_context__ else exc.__context__
    return out, exc is not None and id(exc) not in seen


def _format(exc):
    """As traceback.format_exception, one exception of the chain at a time, each bounded."""
    chain, more = _chain(exc)
    parts = []
    if more:
        parts.append("[... earlier exceptions of the chain left out ...]\n\n")
    for index in range(len(chain) - 1, -1, -1):
        one = chain[index]
        tb, extra = _splice(_own_frames_off(one.__traceback__))
        te = traceback.TracebackException(type(one), one, tb, compact=True)
        te.__cause__ = te.__context__ = None
        if extra:
            parts.append(f"[{extra} frames in the middle left out]\n")
        parts.append("".join(te.format(chain=False)))
        if index:
            above = chain[index - 1]
            direct = above.__cause__ is one
            parts.append(
                "\nThe above exception was the direct cause of the following exception:\n\n"
                if direct
                else "\nDuring handling of the above exception, another exception occurred:\n\n"
            )
    return "".join(parts)


def _text(exc):
    try:
        return str(exc)
    except Exception:
        return "<exception str() failed>"


def describe(exc):
    """Return (name, text, traceback) as bounded UTF-8."""
    limit = sys.getrecursionlimit()
    if limit < 1000:
        sys.setrecursionlimit(1000)
    try:
        name = bound(str(type(exc).__name__), 256)
        try:
            return name, bound(_text(exc), TEXT_MAX), bound(_format(exc), TRACEBACK_MAX)
        except Exception as second:
            why = type(second).__name__
            note = f"{type(exc).__name__}: <no traceback: {why} while formatting>\n"
            return name, b"", bound(note, TRACEBACK_MAX)
    finally:
        if limit < 1000:
            sys.setrecursionlimit(limit)
