"""The guests that a rule is about: addresses and networks, MAC addresses, and links by their numbers."""

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from pipeline.engines.networks import Networks
from pipeline.engines.stations import Station
from pipeline.wire import ethernet

LINK_MARK: Final = "link:"
"""Before the number of a link."""
MAX_LINK: Final = 0xFFFF
"""A record has 16 bits for the number."""


class KnownGuest(NamedTuple):
    """What is known of the guest that a rule may be about."""

    addresses: Collection[int]
    """All of its station's. Another guest may have some of them too (pipeline.engines.apart)."""
    station: Station | None
    """The guest's own, never that of another guest with such an address. None if it is not known."""


def link_number(word: str) -> int | None:
    """The number in ``link:3``, None for another word."""
    text = word.removeprefix(LINK_MARK)
    if not word.startswith(LINK_MARK) or not (text.isascii() and text.isdigit() and len(text) <= 5):
        return None
    number = int(text)
    return number if number <= MAX_LINK else None


def mac(word: str) -> bytes | None:
    """The MAC address that a word is, None for another word."""
    try:
        return ethernet.mac_parse(word)
    except ValueError:
        return None


def needs_stations(words: Iterable[str]) -> bool:
    """Whether any of the words is a MAC address or a link."""
    return any(link_number(word) is not None or mac(word) is not None for word in words)


class GuestSet:
    """Says of a guest whether the rule is about it."""

    def __init__(self, words: Iterable[str]) -> None:
        """words: as scalars.GuestWord allows them."""
        macs: set[bytes] = set()
        links: set[int] = set()
        networks: list[str] = []
        for word in words:
            number, found = link_number(word), mac(word)
            if number is not None:
                links.add(number)
            elif found is not None:
                macs.add(found)
            else:
                networks.append(word)
        self._macs = frozenset(macs)
        self._links = frozenset(links)
        self._networks = Networks(networks) if networks else None

    def __contains__(self, guest: KnownGuest) -> bool:
        networks, station = self._networks, guest.station
        if networks is not None and any(addr in networks for addr in guest.addresses):
            return True
        return station is not None and (station[0] in self._macs or station[1] in self._links)
