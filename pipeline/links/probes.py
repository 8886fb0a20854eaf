"""Finds the end of guests on datagram sockets whose peer has no name, such as one of a socketpair().

The system reports such an end only to a sender. So the guest gets a frame that means nothing every
PROBE_INTERVAL. If the guest is gone, that is an error. And while a queue is full, macOS does not report that
it has room again, so the link tries again after RETRY_INTERVAL.
"""

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final

from pipeline.links import vnet
from pipeline.links.base import LinkClosed
from pipeline.links.listener import Owner
from pipeline.links.packet import PacketLink

PROBE_INTERVAL: Final = 5.0
RETRY_INTERVAL: Final = 0.002
"""Seconds until a link tries a full queue again, if the system does not report room (macOS)."""
PROBE: Final = bytes.fromhex("0180c200000e 020000000001 88b5").ljust(60, b"\0")
"""A frame to the nearest bridge, of an EtherType for local experiments (IEEE 802). Guests drop it."""

_NEVER: Final = float("inf")


class Probes:
    """The links of one listener that must be probed."""

    def __init__(self) -> None:
        self._links: dict[PacketLink, None] = {}
        self._probe_at = _NEVER
        self._retry_at = _NEVER

    def add(self, link: PacketLink) -> None:
        """Probe this link from now on."""
        self._links[link] = None
        self._probe_at = min(self._probe_at, monotonic() + PROBE_INTERVAL)

    def remove(self, link: object) -> None:
        """The link has ended, or never was one of these."""
        self._links = {each: None for each in self._links if each is not link}
        if not self._links:
            self._probe_at = _NEVER

    def deadline(self) -> float:
        """When to call on_timer() next."""
        if self._retry_at == _NEVER and any(_waits(link) for link in self._links):
            self._retry_at = monotonic() + RETRY_INTERVAL
        return min(self._probe_at, self._retry_at)

    def on_timer(self, now: float, owner: Owner) -> None:
        """Send what is due. Links whose guest is gone are reported to the owner."""
        if now >= self._retry_at:
            self._retry_at = _NEVER
            for link in [link for link in self._links if _waits(link)]:
                _try(owner, link, link.flush)
        if now >= self._probe_at:
            self._probe_at = now + PROBE_INTERVAL
            for link in [link for link in self._links if not link.blocked]:
                probe = vnet.framed(PROBE) if link.vnet_len else PROBE
                _try(owner, link, partial(link.send, [probe]))


def _try(owner: Owner, link: PacketLink, call: Callable[[], object]) -> None:
    try:
        call()
    except LinkClosed as error:
        owner.hang_up(link, str(error))


def _waits(link: PacketLink) -> bool:
    """Whether frames wait for room that the system does not report."""
    return link.blocked and link.room_unreported
