# SPDX-License-Identifier: Apache-2.0
"""Frames of src/base/kernel_proto.h over a stream socket."""

import array
import struct

INIT, RUN = 1, 2
READY, DISPLAY, DONE = 16, 17, 18
OK, ERROR, INTERRUPTED = 0, 1, 2
(
    VALUE_NONE,
    VALUE_NULL,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STR,
    VALUE_TEXT,
    VALUE_IMAGE,
) = range(8)
RUN_STREAM, RUN_ARGV = 1, 2

FRAME_MAX = 16 * 1024 * 1024
# What a value may take of a frame: the rest is for headers, the error name and the traceback.
VALUE_MAX = FRAME_MAX - 64 * 1024

_MSG_NOSIGNAL = 0x4000
_MSG_CMSG_CLOEXEC = 0x40000000
_SOL_SOCKET, _SCM_RIGHTS = 1, 1

_HEADER = struct.Struct("<IB")
_U32 = struct.Struct("<I")
_RUN_HEAD = struct.Struct("<IBI")
_DONE_HEAD = struct.Struct("<IBBBI")
_DISPLAY_HEAD = struct.Struct("<IBBI")
_NO_ERROR = bytes(12)  # three empty blobs: error name, error text, traceback


class ProtocolError(Exception):
    """The other side sent something the protocol does not allow."""


def ready(pid):
    return _HEADER.pack(4, READY) + _U32.pack(pid)


def display(kind, value):
    return _DISPLAY_HEAD.pack(5 + len(value), DISPLAY, kind, len(value)) + value


def done_ok(kind, value):
    return _DONE_HEAD.pack(18 + len(value), DONE, OK, kind, len(value)) + value + _NO_ERROR


def done_error(status, name, text, traceback):
    blobs = b"".join(_U32.pack(len(blob)) + blob for blob in (name, text, traceback))
    return _DONE_HEAD.pack(6 + len(blobs), DONE, status, VALUE_NONE, 0) + blobs


def run(number, code, flags=0):
    """What the agent sends; here for the warm-up cells."""
    return _HEADER.pack(9 + len(code), RUN) + _RUN_HEAD.pack(number, flags, len(code)) + code


def parse_run(payload):
    """Split a RUN payload into (cell number, flags, code bytes)."""
    if len(payload) < 9:
        raise ProtocolError("short RUN")
    number, flags, size = _RUN_HEAD.unpack_from(payload)
    if size != len(payload) - 9:
        raise ProtocolError("RUN: wrong blob length")
    return number, flags, payload[9:]


def parse_init(payload):
    """The entropy of an INIT payload."""
    if len(payload) < 4 or _U32.unpack_from(payload)[0] != len(payload) - 4:
        raise ProtocolError("INIT: wrong blob length")
    return payload[4:]


class Channel:
    """Reads frames into one buffer; most frames arrive whole and cost one system call."""

    __slots__ = ("sock", "_buf", "_view", "_start", "_end")

    def __init__(self, sock):
        self.sock = sock
        self._buf = bytearray(8192)
        self._view = memoryview(self._buf)
        self._start = self._end = 0

    def send(self, frame):
        self.sock.sendall(frame, _MSG_NOSIGNAL)

    def read(self):
        """Return (type, payload), or None at end of file between frames."""
        while True:
            have = self._end - self._start
            if have >= 5:
                size, kind = _HEADER.unpack_from(self._buf, self._start)
                if size > FRAME_MAX:
                    raise ProtocolError("frame too large")
                if have >= size + 5:
                    begin = self._start + 5
                    stop = begin + size
                    payload = bytes(self._view[begin:stop])
                    if stop == self._end:
                        self._start = self._end = 0
                    else:
                        self._start = stop
                    return kind, payload
                if size + 5 > len(self._buf):
                    return kind, self._read_large(size)
            if self._start:
                self._buf[:have] = self._buf[self._start : self._end]
                self._start, self._end = 0, have
            got = self.sock.recv_into(self._view[self._end :])
            if not got:
                if have:
                    raise ProtocolError("end of file inside a frame")
                return None
            self._end += got

    def _read_large(self, size):
        payload = bytearray(size)
        view = memoryview(payload)
        filled = self._end - self._start - 5
        view[:filled] = self._view[self._start + 5 : self._end]
        self._start = self._end = 0
        while filled < size:
            got = self.sock.recv_into(view[filled:])
            if not got:
                raise ProtocolError("end of file inside a frame")
            filled += got
        return bytes(payload)

    def read_init(self):
        """Return (entropy, [fd, fd]) of the first frame, or None at end of file."""
        data, fds = bytearray(), array.array("i")
        while True:
            # Never more than the first frame, so that nothing behind it is lost.
            want = 5 - len(data) if len(data) < 5 else 5 + self._init_size(data) - len(data)
            if not want:
                break
            chunk, ancillary, flags, _ = self.sock.recvmsg(want, 64, _MSG_CMSG_CLOEXEC)
            for level, kind, body in ancillary:
                if level == _SOL_SOCKET and kind == _SCM_RIGHTS:
                    fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
            if not chunk:
                if data:
                    raise ProtocolError("end of file inside INIT")
                return None
            data += chunk
        if data[4] != INIT or len(fds) != 2:
            raise ProtocolError("expected INIT with two descriptors")
        return parse_init(bytes(data[5:])), list(fds)

    @staticmethod
    def _init_size(data):
        size = _HEADER.unpack_from(data)[0]
        if size > 4096:
            raise ProtocolError("INIT too large")
        return size
