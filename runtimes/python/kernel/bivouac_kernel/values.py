# SPDX-License-Identifier: Apache-2.0
"""How the value of a cell's last expression travels: the kinds of kernel_proto.h.

int within 64 bits and finite float are numbers, bool is a bool, str is itself, an image is an
image; all else is the text IPython would print.
"""

import ast
import io
import pprint
import sys

from bivouac_kernel import proto

TEXT_MAX = 1024 * 1024
_CUT = "\n[... cut at 1 MiB ...]"
_SEQUENCE_MAX = 1000  # IPython's own default
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1

NONE = (proto.VALUE_NONE, b"")
NULL = (proto.VALUE_NULL, b"")
_TRUE = (proto.VALUE_BOOL, b"1")
_FALSE = (proto.VALUE_BOOL, b"0")

# A None that one of these names was asked for; one that a call returned is not worth showing.
_EXPLICIT = frozenset((ast.Name, ast.Attribute, ast.Constant, ast.Subscript, ast.NamedExpr))
# Never images, so that the display formatters need not be asked.
_PLAIN = frozenset((list, dict, tuple, set, frozenset, bytes, bytearray, complex, range, type))


class _Full(Exception):
    pass


class _Bounded(io.StringIO):
    """Stops the printer as soon as there is more than anyone will be shown."""

    def write(self, text):
        room = TEXT_MAX - self.tell()
        if len(text) > room:
            super().write(text[:room])
            raise _Full
        return super().write(text)


def clip(text):
    """UTF-8 of a text value, cut with a mark where it is too long."""
    if len(text) <= TEXT_MAX:
        data = text.encode("utf-8", "backslashreplace")
        if len(data) <= TEXT_MAX:
            return data
    mark = _CUT.encode()
    data = text[:TEXT_MAX].encode("utf-8", "backslashreplace")[: TEXT_MAX - len(mark)]
    return data.decode("utf-8", "ignore").encode() + mark


class Pretty:
    """text/plain of any object, by IPython's printer, or pprint's where there is no IPython."""

    def __init__(self, formatter=None):
        self._formatter = formatter

    def __call__(self, obj):
        if self._formatter is None:
            return _fallback_pretty(obj)
        from IPython.lib import pretty

        own = self._formatter
        stream = _Bounded()
        printer = pretty.RepresentationPrinter(
            stream,
            own.verbose,
            own.max_width,
            own.newline,
            max_seq_length=_SEQUENCE_MAX,
            singleton_pprinters=own.singleton_printers,
            type_pprinters=own.type_printers,
            deferred_pprinters=own.deferred_printers,
        )
        try:
            printer.pretty(obj)
            printer.flush()
        except _Full:
            return stream.getvalue() + _CUT
        return stream.getvalue()


def _fallback_pretty(obj):
    if type(obj) in (list, dict, tuple, set):
        return pprint.pformat(obj, sort_dicts=False, compact=False, width=79)
    return repr(obj)


def _number(value):
    if _INT_MIN <= value <= _INT_MAX:
        return proto.VALUE_INT, b"%d" % value
    return proto.VALUE_TEXT, str(value).encode()


def _real(value):
    if value - value == 0.0:
        return proto.VALUE_FLOAT, float.__repr__(value).encode()
    return proto.VALUE_STR, float.__repr__(value).encode()


def _string(value):
    if len(value) > proto.VALUE_MAX:
        return proto.VALUE_TEXT, clip(value)
    data = value.encode("utf-8", "backslashreplace")
    if len(data) > proto.VALUE_MAX:
        return proto.VALUE_TEXT, clip(value)
    return proto.VALUE_STR, data


def _scalar(value, cls):
    """Numbers and strings that are not exactly int, float, str: subclasses, numpy scalars."""
    if cls.__repr__ is int.__repr__ and issubclass(cls, int):
        return _number(int(value))
    if cls.__repr__ is float.__repr__ and issubclass(cls, float):
        return _real(float(value))
    if cls.__repr__ is str.__repr__ and issubclass(cls, str):
        return _string(str.__str__(value))
    numpy = sys.modules.get("numpy")
    generic = getattr(numpy, "generic", None)
    if generic is None or not isinstance(value, generic):
        return None
    if isinstance(value, numpy.bool_):
        return _TRUE if value else _FALSE
    if isinstance(value, numpy.timedelta64):  # a numpy integer, but not a number to a reader
        return None
    if isinstance(value, numpy.integer):
        return _number(int(value))
    if isinstance(value, numpy.floating):
        return _real(float(value))
    if isinstance(value, numpy.str_):
        return _string(str.__str__(value))
    return None


def render(value, node, show):
    """Return (kind, bytes) for the value of the expression `node`.

    show(value) displays a rich object: its text, or None if it displayed an image or itself.
    """
    cls = type(value)
    if cls is int:
        return _number(value)
    if value is None:
        return NULL if type(node) in _EXPLICIT else NONE
    if cls is str:
        return _string(value)
    if cls is bool:
        return _TRUE if value else _FALSE
    if cls is float:
        return _real(value)
    found = _scalar(value, cls)
    if found is not None:
        return found
    text = show(value, cls in _PLAIN)
    return NONE if text is None else (proto.VALUE_TEXT, clip(text))
