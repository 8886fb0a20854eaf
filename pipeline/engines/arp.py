"""The gateway's ARP messages (RFC 826): replies for its own addresses, and requests for guests' addresses.

This engine keeps no table: neighbors/ learns from the messages. It makes whole Ethernet frames of 42 bytes,
without padding.
"""

from collections.abc import Iterable

from pipeline.wire import arp, ethernet

_EMPTY_MAC = ethernet.ZERO


class ArpResponder:
    """Answers for ``gateway`` and the other ``own`` addresses with the gateway's MAC."""

    def __init__(self, mac: bytes, gateway: int, own: Iterable[int] = ()) -> None:
        self._mac = mac
        self._gateway = gateway
        self._own = frozenset((gateway, *own))

    def answer(self, message: arp.Arp) -> bytes | None:
        """The unicast reply to a request for one of the own addresses; None for everything else.

        A request for any other address gets no answer. So guests find each other, and a guest that probes for
        a duplicate of its address (RFC 5227) finds none. A request that claims to come from one of the
        gateway's addresses or from a group gets no answer either: no station would receive it.
        """
        if message.op != arp.REQUEST or message.tpa not in self._own or message.spa in self._own:
            return None
        if ethernet.is_group(message.sha) or message.sha in (self._mac, _EMPTY_MAC):
            return None
        return ethernet.header(message.sha, self._mac, ethernet.TYPE_ARP) + arp.build(
            arp.REPLY, self._mac, message.tpa, message.sha, message.spa
        )

    def request(self, target: int, mac: bytes = ethernet.BROADCAST) -> bytes:
        """A request for target: a broadcast, or to the one station whose MAC is to be confirmed."""
        return ethernet.header(mac, self._mac, ethernet.TYPE_ARP) + arp.build(
            arp.REQUEST, self._mac, self._gateway, _EMPTY_MAC, target
        )

    def announcement(self, addr: int, mac: bytes) -> bytes:
        """An announcement of a station's address, sent on its behalf to all stations (RFC 5227 section 3)."""
        return ethernet.header(ethernet.BROADCAST, mac, ethernet.TYPE_ARP) + arp.build(
            arp.REQUEST, mac, addr, _EMPTY_MAC, addr
        )
