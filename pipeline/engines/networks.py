"""A set of IP networks of both families, made once and asked for each new flow."""

from bisect import bisect_right
from collections.abc import Iterable

from pipeline.wire import ip

Ends = tuple[list[int], list[int]]
"""The first and the last addresses of ranges that do not touch, in ascending order."""


class Networks:
    """Says of an address whether one of the networks has it."""

    def __init__(self, texts: Iterable[str]) -> None:
        """texts: addresses, or networks such as ``10.0.0.0/8``. Raises ValueError."""
        ranges: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for text in texts:
            first, last = ip.network(text)
            ranges[ip.is_ipv4(last)].append((first, last))
        # Each family has its own: as numbers, IPv4 addresses lie within ::/0.
        self._ipv4 = _merged(ranges[True])
        self._ipv6 = _merged(ranges[False])

    def __contains__(self, addr: int) -> bool:
        firsts, lasts = self._ipv4 if ip.is_ipv4(addr) else self._ipv6
        at = bisect_right(firsts, addr) - 1
        return at >= 0 and addr <= lasts[at]


def _merged(ranges: list[tuple[int, int]]) -> Ends:
    firsts: list[int] = []
    lasts: list[int] = []
    for first, last in sorted(ranges):
        if lasts and first <= lasts[-1] + 1:
            lasts[-1] = max(lasts[-1], last)
        else:
            firsts.append(first)
            lasts.append(last)
    return firsts, lasts
