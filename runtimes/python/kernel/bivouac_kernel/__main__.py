# SPDX-License-Identifier: Apache-2.0
"""The kernel as a program of its own: started by a launcher (runtimes/launch.h), not forked.

Where Python is one language among others, as in the Shell image. Nothing is imported ahead; the
launcher has made the outputs descriptors 1 and 2, the socket descriptor 3 and the environment.
"""

import os
import sys

# Run by the path of its directory, which is then first on the path; the package is beside that, and
# nothing there is for user code to find.
del sys.path[0]
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from bivouac_kernel import session, zygote  # noqa: E402

zygote.prepare([], launched=True)
session.serve_launched()
