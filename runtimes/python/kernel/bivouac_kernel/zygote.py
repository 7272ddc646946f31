# SPDX-License-Identifier: Apache-2.0
"""The zygote's part: import the libraries, build the shell, warm what forks should share."""

import builtins
import gc
import importlib.util
import io
import os
import shutil
import sys
import tempfile
import threading
import types
import warnings

RECIPE = "/opt/bivouac/recipe"
MATPLOTLIB_CACHE = "/opt/bivouac/matplotlib"
_DEFAULT_IMPORTS = "numpy pandas matplotlib.pyplot"
_WARM_ROUNDS = 20  # CPython specialises a function's bytecode after some runs


class _Prepared:
    """What prepare() made, for the kernels to take over."""

    main = None
    replaced = None
    shell = None
    pretty = None
    kernel = None


PREPARED = _Prepared()


def python_executable():
    for path in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if os.path.exists(path):
            return path
    return sys.executable or ""


def recipe_imports(path=RECIPE):
    """The `import` lines of the recipe."""
    names = []
    try:
        with open(path, encoding="utf-8") as recipe:
            for line in recipe:
                key, _, value = line.partition("=")
                if key.strip() == "import":
                    names += value.split()
    except OSError:
        return _DEFAULT_IMPORTS.split()
    return names


def prepare(modules=None, launched=False):
    """Make this process ready to be forked. A module that cannot be imported is left out.

    launched: there will be no fork, this process becomes the kernel.

    Returns the list of problems met, as text; zygote.c logs it.
    """
    problems = []
    gc.disable()  # a collection would only write to pages that forks share
    # OpenBLAS and OpenMP start threads when they are loaded, and a zygote must not have any.
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    PREPARED.main = _fresh_main()
    for name in recipe_imports() if modules is None else modules:
        how = _import_matplotlib if name.startswith("matplotlib") else importlib.import_module
        _attempt(problems, name, how, name)
    _attempt(problems, "IPython", _make_shell)
    if PREPARED.pretty is None:
        from bivouac_kernel.values import Pretty

        PREPARED.pretty = Pretty()
    if "matplotlib.pyplot" in sys.modules:
        _attempt(problems, "matplotlib drawing", _draw)
    _attempt(problems, "pandas", _touch_pandas)
    _make_kernel(launched)
    _one_thread()
    gc.collect()
    gc.freeze()
    return problems


def _attempt(problems, what, function, *args):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(*args)
    except Exception as exc:
        problems.append(f"{what}: {type(exc).__name__}: {exc}")


def _fresh_main():
    """A __main__ as an interactive interpreter has it: no file, no spec."""
    old = sys.modules.get("__main__")
    PREPARED.replaced = old  # its globals must outlive it: they may be running right now
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    return main


def _import_matplotlib(name):
    """Import with the image's font cache, and without looking for a writable directory.

    matplotlib would make a temporary one and warn: the image is read-only at run time.
    """
    data = importlib.util.find_spec("matplotlib")
    if data is None:
        raise ModuleNotFoundError("No module named 'matplotlib'")
    own_rc = os.path.join(os.path.dirname(data.origin), "mpl-data/matplotlibrc")
    shipped = ("/etc/matplotlibrc", own_rc)
    rc_file = next((path for path in shipped if os.path.exists(path)), None)
    if rc_file is not None:
        os.environ["MATPLOTLIBRC"] = rc_file
    matplotlib = importlib.import_module("matplotlib")
    own = {key: getattr(matplotlib, key) for key in ("get_configdir", "get_cachedir")}
    built = os.path.isdir(MATPLOTLIB_CACHE)
    cache = MATPLOTLIB_CACHE if built else tempfile.mkdtemp()
    try:
        for key in own:
            setattr(matplotlib, key, lambda: cache)
        importlib.import_module("matplotlib.font_manager")
        importlib.import_module("matplotlib.style")
        matplotlib.use("agg")
        importlib.import_module(name)
    finally:
        for key, function in own.items():
            setattr(matplotlib, key, function)
            if hasattr(function, "cache_clear"):
                function.cache_clear()
        os.environ.pop("MATPLOTLIBRC", None)
        if not built:
            shutil.rmtree(cache, ignore_errors=True)


def _draw():
    """One figure with text, lines and a legend: fonts, glyphs, layout, the PNG writer."""
    import matplotlib
    from matplotlib import pyplot

    backend = "module://bivouac_kernel.mpl_backend"
    pyplot.switch_backend(backend)
    matplotlib.rcParamsOrig["backend"] = backend
    figure, axes = pyplot.subplots()
    axes.plot([1, 2, 3], [1, 4, 9], label="$x^2$")
    axes.bar([1, 2], [3, 4])
    axes.set_title("Title")
    axes.legend()
    figure.canvas.print_figure(io.BytesIO(), format="png", bbox_inches="tight")
    pyplot.close("all")
    # Fonts hold open files; matplotlib drops them in a forked process, which is dear there.
    font_manager = sys.modules["matplotlib.font_manager"]
    font_manager._get_font.cache_clear()


def _touch_pandas():
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        repr(pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}).describe())
        repr(pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}).groupby("b").sum())


def _make_shell():
    jedi_absent = "jedi" not in sys.modules
    try:
        if jedi_absent:
            sys.modules["jedi"] = None  # nobody completes names here; it costs 6 MiB
        from bivouac_kernel import shell
    finally:
        if jedi_absent:
            sys.modules.pop("jedi", None)
    from bivouac_kernel.values import Pretty

    PREPARED.shell = shell.make(PREPARED.main)
    PREPARED.pretty = Pretty(PREPARED.shell.display_formatter.formatters["text/plain"])
    sys.modules["__main__"] = PREPARED.main


def _make_kernel(launched):
    """Build the kernel and run warm-up cells in it, with nothing shown and nothing kept open."""
    from bivouac_kernel import session, streams

    kept = {fd: streams.dup_high(fd) for fd in (1, 2)}
    null = os.open("/dev/null", os.O_WRONLY)
    try:
        for fd in kept:
            os.dup2(null, fd)
        environment = None if launched else session.ENVIRONMENT
        PREPARED.kernel = session.make_kernel(
            PREPARED.main, PREPARED.shell, PREPARED.pretty, environment
        )
        for _ in range(0 if launched else _WARM_ROUNDS):
            session.rehearse(PREPARED.kernel)
        if PREPARED.shell is not None:
            PREPARED.shell.transform_cell("%time x = !true\nx?")
    finally:
        for fd, copy in kept.items():
            os.dup2(copy, fd)
            os.close(copy)
        os.close(null)


def _one_thread():
    # SECURITY and correctness: a fork of a process with threads copies locks nobody will release.
    names = [thread.name for thread in threading.enumerate()]
    try:
        count = len(os.listdir("/proc/self/task"))
    except OSError:
        count = len(names)
    if count != 1:
        raise RuntimeError(f"the zygote must have one thread, it has {count}: {', '.join(names)}")
