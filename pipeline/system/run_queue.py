"""How long this process waited for a core, as the system counts it: Linux only."""

import os
from contextlib import suppress
from typing import Final

_FILE: Final = "/proc/self/schedstat"
"""Nanoseconds on a core, nanoseconds in a run queue, number of slices: of the main thread."""
_MOST: Final = 128


class RunQueue:
    """The time that the main thread of this process waited in a run queue."""

    def __init__(self) -> None:
        """To be made in the process that is looked at."""
        self._fd = -1
        with suppress(OSError):
            self._fd = os.open(_FILE, os.O_RDONLY | os.O_CLOEXEC)

    def waited(self) -> float | None:
        """Seconds so far; None where the system does not count them. One system call of a microsecond."""
        if self._fd < 0:
            return None
        try:
            words = os.pread(self._fd, _MOST, 0).split()
        except OSError:
            return None
        return int(words[1]) * 1e-9 if len(words) > 1 else None

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
