"""Waits for descriptors. select() takes none above 1023, and this process may have more."""

import select
from typing import Protocol


class HasFileno(Protocol):
    """A socket, or anything else with a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


def readable(file: int | HasFileno, seconds: float) -> bool:
    """Whether something can be read within this time, or the end has come."""
    poller = select.poll()
    poller.register(file, select.POLLIN)
    return bool(poller.poll(seconds * 1000))
