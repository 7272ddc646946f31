# SPDX-License-Identifier: Apache-2.0
"""What libraries want done when a process forks: kept back from our own forks, given to the user's.

Modules register functions that make a copy of themselves fit for use after a fork. The zygote's
own forks need none of them: it has one thread and reseeds on its own, and running them touches 200 pages,
most of a megabyte in every idle session. Processes that user code forks need all of them, so a kernel
registers them for real before its first cell. Imported before any other module that may register.
"""

import os

_held = []
_register = os.register_at_fork


def _hold(**functions):
    _held.append(functions)


def hold():
    os.register_at_fork = _hold


def release():
    """In a kernel: from now on forks behave as in any Python program."""
    os.register_at_fork = _register
    for functions in _held:
        _register(**functions)
    _held.clear()
