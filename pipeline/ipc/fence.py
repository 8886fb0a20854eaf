"""The full memory fence that Python does not have: an uncontended lock.

Taking a ``threading.Lock`` runs an atomic read-modify-write, and the call itself keeps the compiler from
moving memory accesses across. The lock is private to the process, never held for longer than the
fence, and so never contended.

On x86 that read-modify-write (``lock cmpxchg``) is a full fence. On Arm64 taking the lock is an acquire and
giving it back a release: accesses before may sink below the first and those after may rise above the
second, so between the two they could still pass each other. What cannot be passed is a release followed by
an acquire, so there the lock is taken twice: what stands before is done by the first release, what follows
begins after the second acquire. This rests on the instructions that C libraries use for locks
(load-acquire and store-release, or atomics with these meanings), not on a promise of Python's; it was not
run on such a machine.
"""

import platform
import threading
from collections.abc import Callable
from typing import Final

ORDERED: Final = platform.machine() in ("x86_64", "AMD64", "i686")
"""Whether this machine keeps store-store and load-load order by itself; else a fence stands in between."""

_LOCK: Final = threading.Lock()
_acquire: Final[Callable[[], bool]] = _LOCK.acquire
_release: Final[Callable[[], None]] = _LOCK.release


def _once() -> None:
    _acquire()
    _release()


def _twice() -> None:
    _acquire()
    _release()
    _acquire()
    _release()


full_fence: Final[Callable[[], None]] = _once if ORDERED else _twice
"""Order every memory access before the call against every one after it (store-load included)."""
