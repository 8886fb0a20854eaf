"""Which names the guests have asked for: the last replies of each guest, read only when somebody asks.

The supervisor shows the name of the host that a guest reaches (/flows, events). Nobody may ever ask. So a
reply is only kept, which costs next to nothing, and read together with others when that is needed.
"""

from collections import OrderedDict
from typing import Final

from pipeline.engines.dns import glance

MAX_GUESTS: Final = 64
"""Addresses of guests. The one that asked last longest ago makes room."""
MAX_UNREAD: Final = 64
"""Replies to one guest that are not read yet. One more has them read."""
MAX_REPLY: Final = 1232
"""Bytes. Longer replies are not kept: they take room, and hold more addresses than a guest will use."""
MAX_NAMES: Final = 4096
"""Addresses with a name, of all guests. The guest with most loses its oldest one."""


class _Told:
    """What one guest was told."""

    def __init__(self) -> None:
        self.unread: list[bytes] = []
        self.names: OrderedDict[int, bytes] = OrderedDict()
        """The question by address, the one told last at the end. Few are ever shown, so it stays bytes."""

    def read(self) -> int:
        """Read the replies that wait. Returns how many names there are more."""
        before = len(self.names)
        for payload in self.unread:
            addresses = glance.addresses(payload)
            if not addresses:
                continue
            question = glance.question(payload)
            for address in addresses:
                self.names[address] = question
                self.names.move_to_end(address)
        self.unread.clear()
        return len(self.names) - before


class ToldNames:
    """The names of all guests."""

    def __init__(self) -> None:
        self._guests: OrderedDict[int, _Told] = OrderedDict()
        """By the guest's address."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def on_reply(self, guest_addr: int, payload: bytes) -> None:
        """This reply goes to a guest."""
        if len(payload) > MAX_REPLY:
            return
        told = self._guests.get(guest_addr)
        if told is None:
            told = self._guests[guest_addr] = _Told()
            if len(self._guests) > MAX_GUESTS:
                _, gone = self._guests.popitem(last=False)
                self._count -= len(gone.names)
        else:
            self._guests.move_to_end(guest_addr)
        told.unread.append(payload)
        if len(told.unread) > MAX_UNREAD:
            self._read(told)

    def name(self, guest_addr: int, address: int) -> str:
        """The name for which the guest last got this address; "" if none is known."""
        told = self._guests.get(guest_addr)
        if told is None:
            return ""
        if told.unread:
            self._read(told)
        return glance.name_asked(told.names.get(address, b""))

    def _read(self, told: _Told) -> None:
        self._count += told.read()
        while self._count > MAX_NAMES:
            most = max(self._guests.values(), key=_name_count)
            most.names.popitem(last=False)
            self._count -= 1


def _name_count(told: _Told) -> int:
    return len(told.names)
