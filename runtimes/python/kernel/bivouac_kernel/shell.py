# SPDX-License-Identifier: Apache-2.0
"""IPython's shell without what a session does not need: history, files, threads, colours.

Plain cells never come here; magics, `!command`, `name?` and display() do.
"""

import builtins
import os
import re
import signal
import subprocess
import sys

from IPython.core import interactiveshell
from IPython.core.displaypub import DisplayPublisher
from IPython.core.formatters import PlainTextFormatter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from bivouac_kernel import cell, images
from bivouac_kernel.values import Pretty

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class _Publisher(DisplayPublisher):
    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **kwargs):
        running = cell.current()
        found = images.of_bundle(data)
        if found and running is not None:
            running.images.emit(*found)
        elif "text/plain" in data:
            print(data["text/plain"])

    def clear_output(self, wait=False):
        pass


class _PlainText(PlainTextFormatter):
    def __call__(self, obj):
        return Pretty(self)(obj)


class _NoProfile:
    """Stands for a profile directory; none exists."""

    location = "/nonexistent"
    startup_dir = security_dir = log_dir = pid_dir = static_dir = location


class Shell(InteractiveShell):
    failure = None
    profile_dir = _NoProfile()

    def init_ipython_dir(self, ipython_dir):
        self.ipython_dir = "/"  # one that exists: IPython would make its own

    def init_profile_dir(self, profile_dir):
        pass

    def init_virtualenv(self):
        pass

    def init_display_pub(self):
        self.display_pub = _Publisher(parent=self, shell=self)
        self.configurables.append(self.display_pub)

    def init_display_formatter(self):
        super().init_display_formatter()
        formatter = self.display_formatter
        formatter.active_types = ["text/plain", *images.MIME_TYPES[:3]]
        plain = _PlainText(parent=self)
        formatter.formatters["text/plain"] = plain
        png = formatter.formatters["image/png"]
        png.for_type_by_name("matplotlib.figure", "Figure", _figure_png)
        png.for_type_by_name("PIL.Image", "Image", images.pil_png)

    # A magic that runs code (%run, %%capture) reports its failure instead of printing it.
    def showtraceback(self, exc_tuple=None, *args, **kwargs):
        exc = (exc_tuple or sys.exc_info())[1]
        if self.failure is None and isinstance(exc, BaseException):
            self.failure = exc

    showsyntaxerror = showindentationerror = showtraceback

    def enable_gui(self, gui=None):
        pass

    def enable_matplotlib(self, gui=None):
        return gui or "inline", "module://bivouac_kernel.mpl_backend"

    def ask_exit(self):
        pass

    def system(self, cmd):
        """`!cmd`: straight to the session's output, or through sys.stdout if that is captured."""
        command = self.var_expand(cmd, depth=1)
        running = cell.current()
        direct = running is not None and sys.stdout is running.streams.out
        sys.stdout.flush()
        with subprocess.Popen(
            ["/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=None if direct else subprocess.PIPE,
            stderr=None if direct else subprocess.STDOUT,
        ) as process:
            try:
                if not direct:
                    for line in process.stdout:
                        sys.stdout.write(line.decode("utf-8", "replace"))
                process.wait()
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(1)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
        self.user_ns["_exit_code"] = process.returncode

    system_piped = system_raw = system


def _figure_png(figure):
    running = cell.current()
    return running.images.figure(figure) if running else images.figure_png(figure)


def _page(_shell, data, start=0, screen_lines=0, pager_cmd=None):
    if isinstance(data, dict):
        data = data.get("text/plain", "")
    print(_COLOUR.sub("", data))


def make(module):
    """Create the shell over the module that user code lives in."""
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.Completer.use_jedi = False
    config.InteractiveShell.colors = "NoColor"
    config.InteractiveShell.cache_size = 0
    config.InteractiveShell.autoindent = False
    config.InteractiveShell.ast_node_interactivity = "last_expr"
    interactiveshell.PickleShareDB = lambda _root: {}
    excepthook, displayhook = sys.excepthook, sys.displayhook
    shell = Shell.instance(config=config, user_module=module, user_ns=module.__dict__)
    sys.excepthook, sys.displayhook = excepthook, displayhook
    shell.set_hook("show_in_pager", _page, 0)
    builtins.get_ipython = shell.get_ipython
    # IPython's exit and quit would ask the shell to end; the builtin ones raise SystemExit.
    for name in ("exit", "quit", "open", "_", "__", "___", "_i", "_ii", "_iii"):
        module.__dict__.pop(name, None)
    return shell
