"""Which links belong to one guest: those that one peer opened (pipeline.system.peer).

A guest has a number, and its limits and shares hold for all its links together. A link whose peer is unknown
is a guest of its own.
"""

from typing import Final

MAX_NUMBER: Final = 0xFFFF
"""Guests are numbered from 1, in 16 bits of a record."""


class GuestNumbers:
    """Numbers of the guests that have links. A number is used again as late as possible."""

    def __init__(self) -> None:
        self._number_of: dict[str, int] = {}
        self._links: dict[int, int] = {}
        """How many links each guest has, by its number."""
        self._identity_of: dict[int, str] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._links)

    def add_link(self, identity: str) -> int:
        """The number of the guest that opened one more link."""
        number = self._number_of.get(identity, 0) if identity else 0
        if not number:
            number = self._free_number()
            self._links[number] = 0
            if identity:
                self._number_of[identity] = number
                self._identity_of[number] = identity
        self._links[number] += 1
        return number

    def links(self, number: int) -> int:
        """How many links a guest has."""
        return self._links.get(number, 0)

    def remove_link(self, number: int) -> None:
        """A link of this guest is over. After its last one, the number is free."""
        self._links[number] -= 1
        if not self._links[number]:
            del self._links[number]
            self._number_of.pop(self._identity_of.pop(number, ""), None)

    def _free_number(self) -> int:
        while True:
            self._last = self._last % MAX_NUMBER + 1
            if self._last not in self._links:
                return self._last
