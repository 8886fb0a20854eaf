"""The guests that a rule is about: addresses and networks, MAC addresses, and links by their numbers."""

from collections.abc import Callable, Iterable
from typing import Final

from pipeline.engines.networks import Networks
from pipeline.engines.stations import Station
from pipeline.wire import ethernet

LINK_MARK: Final = "link:"
"""Before the number of a link."""
MAX_LINK: Final = 0xFFFF
"""A record has 16 bits for the number."""

StationOf = Callable[[int], Station | None]
"""The station that has an address now (pipeline.engines.stations)."""


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
    """Says of a guest's address whether the rule is about this guest."""

    def __init__(self, words: Iterable[str], station_of: StationOf) -> None:
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
        self._station_of = station_of
        self._macs = frozenset(macs)
        self._links = frozenset(links)
        self._networks = Networks(networks) if networks else None

    def __contains__(self, addr: int) -> bool:
        if self._networks is not None and addr in self._networks:
            return True
        if not self._macs and not self._links:
            return False
        station = self._station_of(addr)
        return station is not None and (station[0] in self._macs or station[1] in self._links)
