"""The full memory fence that Python does not have: an uncontended lock.

Taking a ``threading.Lock`` runs an atomic read-modify-write (``lock cmpxchg`` on x86, an
acquire/release pair on Arm64 whose two halves together order everything on both sides), and
the call itself keeps the compiler from moving memory accesses across. The lock is private to
the process, never held for longer than the fence, and so never contended.
"""

import threading
from collections.abc import Callable
from typing import Final

_LOCK: Final = threading.Lock()
_acquire: Final[Callable[[], bool]] = _LOCK.acquire
_release: Final[Callable[[], None]] = _LOCK.release


def full_fence() -> None:
    """Order every memory access before the call against every one after it (store-load included)."""
    _acquire()
    _release()
