"""Where each link is in its byte stream, in shared memory: what a successor of ingress needs to go on.

A stream has no marks. Whoever reads on at the wrong byte takes payload for lengths. So ingress writes down
before each system call that the place will be uncertain, and after it where the link is now. If ingress dies
in between, nobody knows how many bytes the call has moved, and the link ends. Otherwise its successor
continues at the same byte. The bytes of a frame that has come in part lie in a slot, which is shared memory
too.

A row has 64-bit words. Only ingress writes it, or the supervisor while ingress is dead. A link without a row
writes to memory of its own.
"""

from collections.abc import Container
from typing import Final, NamedTuple

from pipeline.records.kinds import NO_SLOT

ROWS: Final = 256
"""Links whose place is known."""
WORDS: Final = 8

NUMBER: Final = 0
"""The number of the link; 0 if the row is free."""
READING: Final = 1
"""Whether it is uncertain what was read."""
SENDING: Final = 2
"""Whether it is uncertain what was sent, or the guest has got a part of a frame."""
SLOT: Final = 3
BEGIN: Final = 4
END: Final = 5
"""The bytes of a partial frame: [begin, end) of a slot."""
SKIP: Final = 6
"""Bytes to come of a frame that is too long."""

BYTES: Final = ROWS * WORDS * 8


def private_row() -> memoryview:
    """A row that nobody else sees."""
    return memoryview(bytearray(WORDS * 8)).cast("Q")


class Place(NamedTuple):
    """The place of a link. head: the bytes of a partial frame. skip: as SKIP."""

    head: bytes
    skip: int


class Places:
    """The rows of all links."""

    def __init__(self, buf: memoryview) -> None:
        """buf: BYTES of shared memory, initially zero."""
        words = buf[:BYTES].cast("Q")
        self._rows = [words[at : at + WORDS] for at in range(0, ROWS * WORDS, WORDS)]

    def take(self, number: int) -> memoryview:
        """The row of a new link. All rows may be in use: then it is a private one."""
        for row in self._rows:
            if not row[NUMBER]:
                self._clear(row)
                row[NUMBER] = number
                return row
        return private_row()

    def free(self, number: int) -> None:
        """The link is gone. An unknown number is ignored."""
        row = self._row(number)
        if row is not None:
            self._clear(row)

    def keep(self, numbers: Container[int]) -> None:
        """Free the rows of all links but these."""
        for row in self._rows:
            if row[NUMBER] and row[NUMBER] not in numbers:
                self._clear(row)

    def place(self, number: int, slots: list[memoryview]) -> Place | None:
        """Where the link was when ingress died; None if that is not certain."""
        row = self._row(number)
        if row is None or row[READING] or row[SENDING]:
            return None
        begin, end, slot = row[BEGIN], row[END], row[SLOT]
        if begin >= end or slot == NO_SLOT:
            return Place(b"", row[SKIP])
        # Every worker can write here, also one that a guest has taken over.
        if slot >= len(slots) or end > len(slots[slot]):
            return None
        return Place(bytes(slots[slot][begin:end]), row[SKIP])

    def _row(self, number: int) -> memoryview | None:
        for row in self._rows:
            if row[NUMBER] == number:
                return row
        return None

    def _clear(self, row: memoryview) -> None:
        for word in range(WORDS):
            row[word] = 0
