"""Links that outlive their ingress worker. Its successor gets their sockets from the supervisor.

Packets have no place that could be lost. A link on a byte stream continues only if its place is certain
(places.py). Links whose listener keeps the descriptor itself (vfkit, taps of the configuration) come back
with the listener. vhost-user, our own offload and stdio are not carried over: their guests connect again.
"""

import socket
from typing import Final

from pipeline.ipc.healing_messages import Adopt
from pipeline.links import datagram, stdio, tap_url
from pipeline.links.base import Link
from pipeline.links.datagram import DatagramLink
from pipeline.links.listener import Arrival, LinkResources, Listener, Owner, Poller
from pipeline.links.passed import PROTOCOL as PASSED
from pipeline.links.passed import PassedSocket
from pipeline.links.probes import Probes
from pipeline.links.seqpacket import SeqpacketLink
from pipeline.links.stream import StreamLink
from pipeline.wire import framing

QEMU: Final = "qemu"
LE16: Final = "le16"
PACKET: Final = "packet"
DATAGRAM: Final = "datagram"
TAP: Final = "tap"
_OWN_WAY: Final = frozenset({datagram.PROTOCOL, tap_url.PROTOCOL, stdio.PROTOCOL})
"""Protocols whose listener keeps the descriptor, or whose stream cannot be carried over."""


def form_of(arrival: Arrival) -> str:
    """The form in which the link of this arrival can be carried over; "" if it cannot."""
    link = arrival.link
    if arrival.protocol in _OWN_WAY:
        return ""
    if type(link) is StreamLink:
        return QEMU if link.framing is framing.QEMU else LE16
    if isinstance(link, SeqpacketLink):
        return PACKET
    if arrival.protocol != PASSED:
        return ""
    return DATAGRAM if isinstance(link, DatagramLink) else TAP


class AdoptedLinks(Listener):
    """Makes these links. It has no socket of its own."""

    protocol = "adopted"

    def __init__(self) -> None:
        self._probes = Probes()

    def open(self, poller: Poller, resources: LinkResources, owner: Owner) -> None:
        """See Listener.open."""
        self._resources, self._owner = resources, owner

    def adopt(self, ask: Adopt, fd: int, row: memoryview) -> Arrival:
        """The link of a guest, which goes on. Owns fd from now on. row: where the link writes its place.

        Raises OSError or ValueError if the descriptor is of another kind. Then it is closed.
        """
        return Arrival(self._link(ask, fd, row), ask.protocol, ask.peer, ask.identity)

    def _link(self, ask: Adopt, fd: int, row: memoryview) -> Link:
        pool, slots, mtu = self._resources
        if ask.form == TAP:
            from pipeline.links.tap import passed_link  # noqa: PLC0415  few daemons have a tap

            return passed_link(fd, self._resources)[0]
        sock = socket.socket(fileno=fd)
        stream = PassedSocket(sock) if ask.protocol == PASSED else sock
        link: Link
        if ask.form == PACKET:
            link = SeqpacketLink(stream, pool, slots, mtu)
        elif ask.form == DATAGRAM:
            datagrams = DatagramLink(stream, pool, slots, mtu)
            self._probes.add(datagrams)
            link = datagrams
        else:
            form = framing.QEMU if ask.form == QEMU else framing.LE16
            made = StreamLink(stream, form, pool, slots, ask.head)
            made.keep_place(row, ask.skip)
            link = made
        if ask.vnet is not None:
            link.begin_vnet(ask.vnet)
        return link

    def on_left(self, link: Link) -> None:
        """See Listener.on_left."""
        self._probes.remove(link)

    def deadline(self) -> float:
        """See Listener.deadline."""
        return self._probes.deadline()

    def on_timer(self, now: float) -> None:
        """See Listener.on_timer."""
        self._probes.on_timer(now, self._owner)

    def close(self) -> None:
        """There is no socket."""
