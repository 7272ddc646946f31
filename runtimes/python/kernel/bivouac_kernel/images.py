# SPDX-License-Identifier: Apache-2.0
"""Images a cell shows: each is sent once as DISPLAY; the last one is also the cell's result."""

import base64
import io
import sys

from bivouac_kernel import proto

MIME_TYPES = ("image/png", "image/jpeg", "image/svg+xml", "image/gif", "image/webp", "image/bmp")
_SENDABLE = ("png", "jpeg", "svg+xml")


def _to_png(data):
    from PIL import Image

    out = io.BytesIO()
    image = Image.open(io.BytesIO(data))
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I"):
        image = image.convert("RGBA")
    image.save(out, "PNG")
    return out.getvalue()


def of_bundle(bundle):
    """The (format, bytes) of a MIME bundle, or None if it holds no image."""
    for mime in MIME_TYPES:
        data = bundle.get(mime)
        if data is None:
            continue
        name = mime[6:]
        if isinstance(data, str):
            data = data.encode() if name == "svg+xml" else base64.b64decode(data)
        if name in _SENDABLE:
            return name, bytes(data)
        try:
            return "png", _to_png(data)
        except Exception:
            continue
    return None


def pil_png(image):
    """PNG of a PIL image, None for modes that PNG cannot hold."""
    out = io.BytesIO()
    try:
        image.save(out, "PNG")
    except (OSError, ValueError):
        return None
    return out.getvalue()


def figure_png(figure):
    """PNG of a matplotlib figure, None for an empty one."""
    if len(figure.get_children()) <= 1:  # its background patch
        return None
    out = io.BytesIO()
    figure.canvas.print_figure(
        out,
        format="png",
        dpi=figure.dpi,
        facecolor=figure.get_facecolor(),
        edgecolor=figure.get_edgecolor(),
        bbox_inches="tight",
    )
    return out.getvalue()


class Images:
    """What the running cell has shown."""

    __slots__ = ("last", "_send", "_shown")

    def __init__(self, send):
        self._send = send
        self.last = None
        self._shown = []

    def emit(self, name, data):
        if len(data) + 1 + len(name) > proto.VALUE_MAX:
            note = f"[{name} image of {len(data)} bytes left out: too large]"
            kind, value = proto.VALUE_TEXT, note.encode()
        else:
            kind = proto.VALUE_IMAGE
            value = bytes((len(name),)) + name.encode() + data
        if self._send(proto.display(kind, value)):
            self.last = (kind, value)

    def figure(self, figure):
        """The formatter of matplotlib figures: remembers which need not be shown again."""
        self._shown.append(figure)
        return figure_png(figure)

    def show_figures(self):
        """Show all open figures not shown yet, and close them."""
        gcf = _open_figures()
        if gcf is None:
            return
        managers = sorted(gcf.get_all_fig_managers(), key=lambda manager: manager.num)
        for manager in managers:
            self.show_one(manager.canvas.figure)
            gcf.destroy(manager.num)

    def show_one(self, figure):
        if not any(figure is other for other in self._shown):
            self._shown.append(figure)
            data = figure_png(figure)
            if data is not None:
                self.emit("png", data)

    def close_figures(self):
        gcf = _open_figures()
        if gcf is not None:
            gcf.destroy_all()

    def clear(self):
        self.last = None
        if self._shown:
            self._shown = []


def _open_figures():
    module = sys.modules.get("matplotlib._pylab_helpers")
    if module is None:
        return None
    return module.Gcf if module.Gcf.figs else None
