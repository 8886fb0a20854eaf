"""What each guest link sent and got: one row of the worker's counter block for each link.

A row is free when its link is 0. Links that find no free row share the last one.
"""

from pipeline.counter_block import GUEST_ROWS, GUEST_WORDS, GUESTS_AT, LINK, OTHERS


class Accounts:
    """The rows of the links that are attached now."""

    def __init__(self, counts: memoryview) -> None:
        self._counts = counts
        self._free = [GUESTS_AT + row * GUEST_WORDS for row in range(GUEST_ROWS)]
        self._shared = GUESTS_AT + GUEST_ROWS * GUEST_WORDS

    def open(self, link: int) -> int:
        """A link is attached. Returns the index of the first word of its row, whose words are 0."""
        if not self._free:
            self._counts[self._shared + LINK] = OTHERS
            return self._shared
        # The row that is free for longest: a reader sees its old link for as short a time as possible.
        row = self._free.pop(0)
        for word in range(row, row + GUEST_WORDS):
            self._counts[word] = 0
        self._counts[row + LINK] = link
        return row

    def close(self, row: int) -> None:
        """The link of this row is gone."""
        if row != self._shared:
            self._counts[row + LINK] = 0
            self._free.append(row)
