"""Whether this process can still get memory for one more of what it has many of, such as connections.

An allocation may fail in the middle of a change, and nobody can go on from there. So a worker looks for room
before it begins something. It refuses that one then, and keeps what it has. This matters where the system
says that memory is short, as with RLIMIT_AS, or without overcommitment. (A control group says nothing.)

A process seldom gives memory back. So there is room for as many as there ever were, and only more than that
need a look.
"""

import mmap
from collections.abc import Callable
from typing import Final

ROOM: Final = 4 << 20
"""Bytes that must be free: Python gets its memory in pieces of 1 MiB."""
ROOM_EACH: Final = 256
"""Further bytes for each thing that is there: a table of all of them doubles when it is full."""
STEP: Final = 64
"""How many more may begin after a look that found room."""


class Headroom:
    """The room of one process for one kind of thing."""

    def __init__(self, has_room: Callable[[int], bool] | None = None) -> None:
        """has_room: whether so many bytes can be had now."""
        self._has_room = has_room or can_have
        self._proven = 0
        """For how many there was room."""

    def is_short(self, held: int) -> bool:
        """Whether one more has no room. held: how many there are."""
        if held < self._proven:
            return False
        if not self._has_room(ROOM + held * ROOM_EACH):
            return True
        self._proven = held + STEP
        return False


def can_have(size: int) -> bool:
    """Whether the system gives this process so many bytes more. They are not touched."""
    flags = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
    try:
        with mmap.mmap(-1, size, **({"flags": flags} if flags else {})):
            return True
    except OSError:
        return False
