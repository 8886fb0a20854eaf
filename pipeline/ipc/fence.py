"""A full memory fence. Python has none, so this module acquires and releases an uncontended lock.

Acquiring a ``threading.Lock`` executes an atomic read-modify-write. The compiler does not move memory
accesses across the call. The lock is private to the process and held for the fence alone, so it is never
contended.

On x86 the read-modify-write (``lock cmpxchg``) is a full fence. On Arm64 one acquire and release are not
enough: an access before them may move below the acquire, and an access after them may move above the release.
So two such accesses can change places. No access moves across a release that is followed by an acquire.
Therefore the lock is taken twice on Arm64: accesses before the call are complete at the first release, and
accesses after the call begin after the second acquire.

This relies on the instructions that C libraries use for locks (load-acquire and store-release, or atomics
with these meanings). Python does not promise it. It has not been run on Arm64.

Compiled code calls no lock: the compiler puts a fence of C11 in the place of ``full_fence()``
(native/compiler.py).
"""

import platform
import threading
from collections.abc import Callable
from typing import Final

ORDERED: Final = platform.machine() in ("x86_64", "AMD64", "i686")
"""Whether this machine keeps store-store and load-load order. On others rings need fences for that."""

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
"""Order every memory access before the call before every access after it, also a store before a load."""
