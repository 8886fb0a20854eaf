"""Links that outlive their ingress worker. Its successor gets their sockets from the supervisor.

Packets have no place that could be lost. Links whose listener keeps the descriptor itself (vfkit, taps of the
configuration) come back with the listener. On vhost-user the monitor connects again.

If ingress has died, a link on a byte stream continues only if its place is certain (places.py). Our own
offload and stdio are not carried over. If a supervisor hands over to another one, ingress lives, and says
where each stream is (carried()). Then all of them continue.
"""

import os
import socket
from typing import Final

from pipeline.ipc.healing_messages import Adopt, LinkEvent
from pipeline.links import datagram, stdio, tap_url
from pipeline.links.base import Link
from pipeline.links.datagram import DatagramLink
from pipeline.links.listener import Arrival, LinkResources, Listener, Owner, Poller
from pipeline.links.offload import OffloadLink
from pipeline.links.passed import PROTOCOL as PASSED
from pipeline.links.passed import PassedSocket
from pipeline.links.places import private_row
from pipeline.links.probes import Probes
from pipeline.links.seqpacket import SeqpacketLink
from pipeline.links.stdio import PipePair, StdioLink
from pipeline.links.stream import StreamLink
from pipeline.wire import framing

QEMU: Final = "qemu"
LE16: Final = "le16"
PACKET: Final = "packet"
DATAGRAM: Final = "datagram"
TAP: Final = "tap"
OFFLOAD: Final = "offload"
STDIO: Final = "stdio"
"""Two forms that do not outlive ingress, but a change of supervisors."""
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


def carried_form(arrival: Arrival) -> str:
    """The form in which the link can be carried on if ingress lives; "" if it cannot."""
    return {OffloadLink: OFFLOAD, StdioLink: STDIO}.get(type(arrival.link)) or form_of(arrival)


def carried(
    number: int, guest: int, arrival: Arrival, places: list[bytes] | None = None
) -> tuple[LinkEvent, list[int]] | None:
    """A link as another process can carry it on, and its descriptors; None if it cannot.

    number, guest: those of the link and of its guest. places: as in CarriedLink. The descriptors stay the
    link's.
    """
    link, form = arrival.link, carried_form(arrival)
    if not form:
        return None
    head, skip, backlog = link.carried() if isinstance(link, StreamLink) else (b"", 0, b"")
    offers = isinstance(link, OffloadLink)
    event = LinkEvent(
        number,
        guest,
        arrival.protocol,
        arrival.peer,
        arrival.identity,
        form,
        head,
        skip,
        link.guest_features if link.vnet_len and not offers else None,
        backlog,
        link.decided if isinstance(link, OffloadLink) else None,
        link.features if link.vnet_len and offers else None,
        places or None,
    )
    fds = [link.fileno(), link.write_fileno()] if form == STDIO else [link.fileno()]
    return event, fds


class AdoptedLinks(Listener):
    """Makes these links. It has no socket of its own."""

    protocol = "adopted"

    def __init__(self) -> None:
        self._probes = Probes()

    def open(self, poller: Poller, resources: LinkResources, owner: Owner) -> None:
        """See Listener.open."""
        self._resources, self._owner = resources, owner

    def adopt(self, ask: Adopt, fds: list[int], row: memoryview) -> Arrival:
        """The link of a guest, which goes on. Owns fds from now on. row: where the link writes its place.

        Raises OSError or ValueError if a descriptor is of another kind. Then it is closed.
        """
        wanted = 2 if ask.form == STDIO else 1
        for fd in fds[wanted:]:
            os.close(fd)
        if len(fds) < wanted:
            raise ValueError("a descriptor is missing")
        return Arrival(self._link(ask, fds, row), ask.protocol, ask.peer, ask.identity)

    def _link(self, ask: Adopt, fds: list[int], row: memoryview) -> Link:
        if ask.form == TAP:
            from pipeline.links.tap import passed_link  # noqa: PLC0415  few daemons have a tap

            return passed_link(fds[0], self._resources)[0]
        link: Link
        if ask.form in (PACKET, DATAGRAM):
            link = self._packet_link(ask, socket.socket(fileno=fds[0]))
        else:
            link = self._stream_link(ask, fds, row)
        if ask.vnet is not None:
            link.begin_vnet(ask.vnet)
        return link

    def _packet_link(self, ask: Adopt, sock: socket.socket) -> Link:
        stream = PassedSocket(sock) if ask.protocol == PASSED else sock
        if ask.form == PACKET:
            return SeqpacketLink(stream, *self._resources)
        link = DatagramLink(stream, *self._resources)
        self._probes.add(link)
        return link

    def _stream_link(self, ask: Adopt, fds: list[int], row: memoryview) -> StreamLink:
        pool, slots, _ = self._resources
        link: StreamLink
        if ask.form == STDIO:
            link, row = StdioLink(PipePair(*fds[:2]), self._resources, ask.head), private_row()
        elif ask.form == OFFLOAD:
            link = offering = OffloadLink(socket.socket(fileno=fds[0]), pool, slots, ask.head)
            offering.begin_again(decided=bool(ask.decided), features=ask.features)
            row = private_row()
        else:
            sock = socket.socket(fileno=fds[0])
            form = framing.QEMU if ask.form == QEMU else framing.LE16
            stream = PassedSocket(sock) if ask.protocol == PASSED else sock
            link = StreamLink(stream, form, pool, slots, ask.head)
        link.keep_place(row, ask.skip)
        if ask.backlog:
            link.owe(ask.backlog)
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
