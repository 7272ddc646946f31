# SPDX-License-Identifier: Apache-2.0
"""Running cells.

Plain Python takes a lean path: parse, compile, run, render. Only what does not parse as Python
(magics, `!command`, `name?`) is translated by IPython first and then takes the same path.
"""

import _thread
import ast
import asyncio
import builtins
import linecache
import os
import sys

from bivouac_kernel import errors, interrupt, proto, values
from bivouac_kernel.images import Images

_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_PARSE = _AWAIT | ast.PyCF_ONLY_AST
_CO_COROUTINE = 0x80
_FUTURES = 0x1FF0000  # the CO_FUTURE_* bits, which compile() takes as flags
_SOURCES_KEPT = 1000
# IPython's tokenizer is slow on large text that is not Python; cell magics do not go through it.
_TRANSLATE_MAX = 256 * 1024

_Module, _Expression, _Expr, _Name = ast.Module, ast.Expression, ast.Expr, ast.Name
_STATE = interrupt.STATE
_current = None


def current():
    """The kernel of this process, None before serve() and in processes forked by user code."""
    return _current


def _set_current(kernel):
    global _current
    _current = kernel


class Kernel:
    """One namespace, and what running cells in it needs."""

    def __init__(self, namespace, streams, channel, shell=None, pretty=None):
        self.namespace = namespace
        self.streams = streams
        self.channel = channel
        self.shell = shell
        self.pretty = pretty or values.Pretty()
        self.images = Images(self._send_display)
        self.main = sys.modules["__main__"]
        self.user_site = ""
        self.forked = False
        self._in_cell = False
        self._lock = _thread.allocate_lock()
        self._main = _thread.get_ident()
        self._flags = 0
        self._loop = None
        self._last = [None, None, None]  # what we put into _, __ and ___

    def make_current(self):
        _set_current(self)

    def watch_forks(self):
        """In the kernel, not in the zygote: what a zygote runs around a fork unshares memory."""
        os.register_at_fork(before=_flush_before_fork, after_in_child=_after_fork_in_child)

    # Sending

    def _send_display(self, frame):
        """Send a DISPLAY from within a cell; False where none may be sent."""
        if _thread.get_ident() != self._main:
            return self._send_in_cell(frame)
        with interrupt.held():
            return self._send_in_cell(frame)

    def _send_in_cell(self, frame):
        with self._lock:
            if self.forked or not self._in_cell or self.channel is None:
                return False
            self.streams.flush()
            self.channel.send(frame)
            return True

    # Running

    def run(self, number, source, flags=0):
        """Run one cell and return its DONE frame. Nothing raised by user code gets out of here."""
        if flags & proto.RUN_STREAM:
            self.streams.watch(True)
            try:
                return self._run_cell(number, source)
            finally:
                self.streams.watch(False)
        return self._run_cell(number, source)

    def _run_cell(self, number, source):
        exc = None
        self._in_cell = True
        _STATE.pending = False
        try:
            _STATE.armed = True
            kind, value = self._evaluate(number, source)
            if self.shell is not None and self.shell.failure is not None:
                raise self.shell.failure
            self.images.show_figures()
            self.streams.flush()
            _STATE.armed = False
        except BaseException as caught:
            _STATE.armed = False
            exc = caught
        if exc is not None:
            frame = self._failed(exc)
            exc = None
        elif self.images.last is not None:
            frame = proto.done_ok(*self.images.last)
        else:
            frame = proto.done_ok(kind, value)
        return self._finish(frame)

    def _finish(self, frame):
        with self._lock:
            self._in_cell = False
            if self.shell is not None:
                self.shell.failure = None
            self.images.clear()
        if self.forked:
            # A process that user code forked came to the end of the cell: it has no one to answer.
            self.streams.flush()
            os._exit(0)
        self.streams.flush()
        interrupt.install()
        return frame

    def _failed(self, exc):
        """The DONE frame of a cell that raised."""
        interrupted = isinstance(exc, KeyboardInterrupt)
        status = proto.INTERRUPTED if interrupted else proto.ERROR
        described = type(exc).__name__.encode("utf-8", "replace")[:256], b"", b""
        try:
            # User code again: __str__ of the exception, artists of the figures. It may hang.
            _STATE.armed = True
            if not interrupted:
                self.images.show_figures()
            described = errors.describe(exc)
            self.images.close_figures()
            self.streams.flush()
            _STATE.armed = False
        except BaseException:
            _STATE.armed = False
            described = self._describe_again(exc, described)
        return proto.done_error(status, *described)

    def _describe_again(self, exc, described):
        """Showing the figures of a failed cell failed, or describing was interrupted."""
        try:
            _STATE.armed = True
            self.images.close_figures()
            described = described if described[2] else errors.describe(exc)
            _STATE.armed = False
        except BaseException:
            _STATE.armed = False
        return described

    def _evaluate(self, number, source):
        """Run the cell; return the kind and bytes of its value."""
        name = "<cell %d>" % number
        cache = linecache.cache
        cache[name] = len(source), None, source.splitlines(True), name
        if number > _SOURCES_KEPT:
            cache.pop("<cell %d>" % (number - _SOURCES_KEPT), None)
        tree, quiet = self._parse(source, name)
        body = tree.body
        if not body:
            return values.NONE
        last = body[-1]
        if type(last) is not _Expr:
            self._run(compile(tree, name, "exec", self._flags | _AWAIT, True))
            return values.NONE
        quiet = quiet or (";" in source and _ends_in_semicolon(source, last))
        body.pop()
        if body:
            self._run(compile(tree, name, "exec", self._flags | _AWAIT, True))
        node = last.value
        value = self._run(compile(_Expression(node), name, "eval", self._flags | _AWAIT, True))
        if quiet:
            return values.NONE
        if value is None:
            return values.render(value, node, None)
        rendered = values.render(value, node, self._show)
        self._remember(number, value)
        return rendered

    def _parse(self, source, name):
        """The syntax tree, by way of IPython if need be, and whether IPython syntax ends in `;`."""
        try:
            tree = compile(source, name, "exec", self._flags | _PARSE, True)
            failure = None
        except (SyntaxError, ValueError) as exc:
            failure = exc.with_traceback(None)
        if failure is None:
            if len(tree.body) != 1 or not self._is_automagic(tree.body[0]):
                return tree, False
        translated = self._translate(source)
        if translated is None or translated.rstrip() == source.rstrip():
            if failure is None:
                return tree, False
            raise failure
        tree = compile(translated, name, "exec", self._flags | _PARSE, True)
        return tree, source.rstrip().endswith(";")

    def _is_automagic(self, statement):
        """A lone word such as `pwd` that means nothing in Python but is a magic."""
        if type(statement) is not _Expr or type(statement.value) is not _Name or self.shell is None:
            return False
        word = statement.value.id
        return (
            word not in self.namespace
            and not hasattr(builtins, word)
            and self.shell.find_line_magic(word) is not None
        )

    def _translate(self, source):
        if self.shell is None:
            return None
        if len(source) > _TRANSLATE_MAX and not source.lstrip().startswith("%%"):
            return None
        try:
            return self.shell.transform_cell(source)
        except SyntaxError:
            return None

    def _run(self, code):
        if code.co_flags & _CO_COROUTINE:
            value = self._await(eval(code, self.namespace))
        else:
            value = eval(code, self.namespace)
        if code.co_flags & _FUTURES:
            self._flags |= code.co_flags & _FUTURES
        return value

    def _await(self, coroutine):
        """Run a cell with top-level await on the session's one event loop."""
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                # Interrupted: let the coroutine clean up; a second interrupt leaves it behind.
                task.cancel()
                try:
                    self._loop.run_until_complete(task)
                except asyncio.CancelledError:
                    pass
            raise

    def _show(self, value, plain):
        """Show a rich value: its text, or None when it was displayed otherwise."""
        if plain:
            return self.pretty(value)
        if self.shell is None:
            return self.show_plainly(value)
        bundle, metadata = self.shell.display_formatter.format(value)
        if not bundle:
            return None  # it displayed itself
        if any(kind.startswith("image/") for kind in bundle):
            self.shell.display_pub.publish(bundle, metadata)
            return None
        return bundle.get("text/plain", "")

    def show_plainly(self, value):
        """As _show, without IPython."""
        figure = sys.modules.get("matplotlib.figure")
        if figure is not None and isinstance(value, figure.Figure):
            self.images.show_one(value)
            return None
        png = getattr(type(value), "_repr_png_", None)
        data = png(value) if png is not None else None
        if data is None:
            return self.pretty(value)
        self.images.emit("png", data)
        return None

    def _remember(self, number, value):
        """Set `_`, `__` and `___`, unless user code uses the name for something of its own.

        Out keeps the same three: a session that held all its results would run out of memory.
        """
        namespace, last = self.namespace, self._last
        if namespace.get("_", last[0]) is last[0]:
            new = [value, last[0], last[1]]
            for name, mine, fresh in zip(("_", "__", "___"), last, new):
                if namespace.get(name, mine) is mine:
                    namespace[name] = fresh
            self._last = new
        kept = namespace.get("_oh")
        if type(kept) is dict:
            kept[number] = value
            if len(kept) > 3:
                del kept[next(iter(kept))]

    def housekeep(self):
        """After DONE: undo what the cell may have left in the way of the next one."""
        self.streams.restore()
        if sys.gettrace() is not None:
            sys.settrace(None)
        if sys.modules.get("__main__") is not self.main:
            sys.modules["__main__"] = self.main
        if self._loop is not None and not self._loop.is_closed():
            asyncio.set_event_loop(self._loop)
        # A user site directory that did not exist is cached as such; pip may have made it.
        importers = sys.path_importer_cache
        if self.user_site in importers and importers[self.user_site] is None:
            del importers[self.user_site]


def _ends_in_semicolon(source, last):
    lines = source.splitlines()
    if last.end_lineno > len(lines):
        return False
    rest = lines[last.end_lineno - 1].encode("utf-8", "surrogatepass")[last.end_col_offset :]
    return rest.lstrip().startswith(b";")


def _flush_before_fork():
    if _current is not None:
        _current.streams.flush()


def _after_fork_in_child():
    """Cut a process forked by user code off from the agent."""
    kernel = _current
    if kernel is None or kernel.forked:
        return
    kernel.forked = True
    kernel._lock = _thread.allocate_lock()
    kernel.channel.sock.close()
