# SPDX-License-Identifier: Apache-2.0
"""matplotlib backend `module://bivouac_kernel.mpl_backend`: Agg, and show() sends the figures."""

from matplotlib._pylab_helpers import Gcf
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bivouac_kernel import cell


class FigureManager(FigureManagerBase):
    def show(self):
        running = cell.current()
        if running is not None:
            running.images.show_one(self.canvas.figure)
            Gcf.destroy(self.num)

    @classmethod
    def pyplot_show(cls, *, block=None):
        show()


class FigureCanvas(FigureCanvasAgg):
    manager_class = FigureManager


def show(*_args, **_kwargs):
    """pyplot.show(): all open figures, in the order of their numbers."""
    running = cell.current()
    if running is not None:
        running.images.show_figures()
