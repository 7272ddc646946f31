# SPDX-License-Identifier: Apache-2.0
"""The Python kernel of a Bivouac session.

zygote.c calls prepare() once, in the zygote, and serve(fd) in every process it forks from there.
The protocol is src/base/kernel_proto.h.
"""

from bivouac_kernel import forks

forks.hold()  # before anything that registers is imported

from bivouac_kernel.session import serve  # noqa: E402
from bivouac_kernel.zygote import prepare  # noqa: E402

__all__ = ["prepare", "serve"]
