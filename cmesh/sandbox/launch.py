"""The launcher's first lines: a program under `python -I -S`, between sandbox and task.

Nothing but the way to `cmesh.sandbox.steps`: a script is compiled at each start, a module once.
"""

import os
import sys

# A script under `-I`: nothing else puts the package on the path. Last, so that the modules of
# the standard library stay what they are.
sys.path.append(os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))

from cmesh.sandbox.steps import main

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
