"""What each guest link sent and got: one row of the worker's counter block for each link.

A link counts in its Account. Once a second all accounts are added to their rows, which costs less than adding
to shared memory for each burst. A row is free when its link is 0. Links that find no free row share the last
one.
"""

from typing import Final

from pipeline.counter_block import (
    BYTES_FROM_GUEST,
    BYTES_TO_GUEST,
    FRAMES_DROPPED,
    FRAMES_FROM_GUEST,
    FRAMES_TO_GUEST,
    GUEST_ROWS,
    GUEST_WORDS,
    GUESTS_AT,
    LINK,
    OTHERS,
)

WRITE_S: Final = 1.0
"""Seconds between two updates of the rows."""


class Account:
    """What one link counted since the last update of its row."""

    __slots__ = (
        "bytes_from_guest",
        "bytes_to_guest",
        "frames_dropped",
        "frames_from_guest",
        "frames_to_guest",
        "row",
    )

    def __init__(self, row: int) -> None:
        self.row = row
        """Index of the first word of its row."""
        self.clear()

    def clear(self) -> None:
        """Begin again."""
        self.bytes_from_guest = 0
        self.frames_from_guest = 0
        self.bytes_to_guest = 0
        self.frames_to_guest = 0
        self.frames_dropped = 0


class Accounts:
    """The accounts of the links that are attached now."""

    def __init__(self, counts: memoryview) -> None:
        self._counts = counts
        self._free = [GUESTS_AT + row * GUEST_WORDS for row in range(GUEST_ROWS)]
        self._shared = GUESTS_AT + GUEST_ROWS * GUEST_WORDS
        self._open: dict[Account, None] = {}
        self._write_at = 0.0

    def open(self, link: int) -> Account:
        """A link is attached. Its row begins with zeros, unless it shares one."""
        if self._free:
            # The row that is free for longest: a reader sees its old link for as short a time as possible.
            row, number = self._free.pop(0), link
            for word in range(row, row + GUEST_WORDS):
                self._counts[word] = 0
        else:
            row, number = self._shared, OTHERS
        self._counts[row + LINK] = number
        account = Account(row)
        self._open[account] = None
        return account

    def close(self, account: Account) -> None:
        """The link of this account is gone."""
        self._write(account)
        del self._open[account]
        if account.row != self._shared:
            self._counts[account.row + LINK] = 0
            self._free.append(account.row)

    def write(self, now: float) -> None:
        """Update the rows, if it is time."""
        if now >= self._write_at:
            self._write_at = now + WRITE_S
            for account in self._open:
                self._write(account)

    def _write(self, account: Account) -> None:
        counts, row = self._counts, account.row
        counts[row + BYTES_FROM_GUEST] += account.bytes_from_guest
        counts[row + FRAMES_FROM_GUEST] += account.frames_from_guest
        counts[row + BYTES_TO_GUEST] += account.bytes_to_guest
        counts[row + FRAMES_TO_GUEST] += account.frames_to_guest
        counts[row + FRAMES_DROPPED] += account.frames_dropped
        account.clear()
