"""Turns the old supervisor into the minder of its successor (minder.py)."""

import ctypes
import os
import sys
from typing import Final, NoReturn

from pipeline import logs
from pipeline.daemon import minder
from pipeline.daemon.restart import Replacement

_PR_SET_CHILD_SUBREAPER: Final = 36


def become_minder(successor: Replacement) -> NoReturn:
    """Run the minder in place of this program. All other descriptors are closed by that."""
    assert successor.minder_end is not None
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    logs.flush()
    fd = successor.minder_end.fileno()
    os.set_inheritable(fd, True)
    # -I -S: neither the environment nor site-packages matter to it.
    words = [sys.executable, "-I", "-S", str(minder.__file__), str(fd), str(successor.pid)]
    os.execv(sys.executable, words)
