"""The name of this process in ps, pgrep and killall: the kernel's "comm", 15 bytes on Linux.

Each worker has a name of its own, so a search for the program's name finds only the supervisor. On other
systems the name stays that of the interpreter.
"""

import ctypes
import sys
from typing import Final

MAX_BYTES: Final = 15
_PR_SET_NAME: Final = 15


def set_name(name: str) -> None:
    """Rename this process. A name that is too long is cut."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:MAX_BYTES], 0, 0, 0)
