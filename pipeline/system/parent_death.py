"""Has the kernel signal this process when its parent ends. Other systems than Linux cannot do that."""

import ctypes
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def request(number: int) -> None:
    """Get this signal when the thread that forked this process ends, for whatever reason."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
