"""The listeners of ingress, through which guests open links. (Links of /connect come from the supervisor.)

The supervisor hands over bound sockets with the request Open (pipeline.ipc.messages). It gets a GuestEvent
when a link has ended, or when a listener has failed.
This module knows no protocol (pipeline.links.protocols does) and keeps no links (ports.py does).
"""

import socket
from collections.abc import Callable
from typing import Final

from pipeline.counters import INDEX
from pipeline.ipc import fleet_messages, messages
from pipeline.ipc.healing_messages import Adopt
from pipeline.links import protocols
from pipeline.links.adopted import AdoptedLinks
from pipeline.links.base import Link, LinkClosed
from pipeline.links.listener import Arrival, GatewayAddresses, LinkResources, Listener
from pipeline.links.vxlan_url import End
from pipeline.stages.worker import Message, Worker

_NEVER: Final = float("inf")
_ACCEPT_FAILED: Final = INDEX["link_accept_failed"]


class Acceptors:
    """All listeners. For them, this object owns the links (pipeline.links.listener.Owner)."""

    def __init__(
        self,
        worker: Worker,
        resources: LinkResources,
        add: Callable[[Arrival], bool],
        remove: Callable[[Link, LinkClosed], None],
        wake: Callable[[Link], None],
        mtu_changed: Callable[[Link], None],
        gateway: GatewayAddresses,
    ) -> None:
        """add attaches a link, or closes it and returns False. remove ends a link. wake has it read.

        mtu_changed: a link to other hosts has another MTU. gateway: what it must keep on this host.
        """
        self._worker = worker
        self._resources = resources
        self._add = add
        self._remove = remove
        self._wake = wake
        self._mtu_changed = mtu_changed
        self._gateway = gateway
        self._listeners: list[Listener] = []
        self._listener_of: dict[Link, Listener] = {}
        self._connecting: dict[int, Listener] = {}
        """Listeners whose socket the supervisor connects, by the number of their request."""
        self._requests = 0
        self._closed = False
        self._adopted: AdoptedLinks | None = None

    def adopt(self, ask: Adopt, fds: list[int], row: memoryview) -> Arrival:
        """The link of a guest that a dead predecessor of this worker had. Raises OSError or ValueError."""
        if self._adopted is None:
            self._adopted = AdoptedLinks()
            self.add(self._adopted)
        arrival = self._adopted.adopt(ask, fds, row)
        self._listener_of[arrival.link] = self._adopted
        return arrival

    def open(self, ask: messages.Open, fds: list[int]) -> Message:
        """Serve the request Open, with its descriptors."""
        listener = protocols.make(
            ask.protocol,
            fds,
            once=bool(ask.once),
            macs=ask.macs,
            vnet=ask.vnet,
            shared=bool(ask.shared),
            place=ask.place or "",
            gateway=self._gateway,
        )
        self.add(listener)
        return {}

    def add(self, listener: Listener) -> None:
        """Let guests arrive through a listener."""
        self._listeners.append(listener)
        listener.open(self._worker, self._resources, self)

    def set_members(self, ask: fleet_messages.Members) -> Message:
        """Other hosts are members of the fleet now, or not any more."""
        ends = [End(address, int(port)) for address, _, port in (host.rpartition(" ") for host in ask.hosts)]
        for listener in self._listeners:
            listener.set_members(ends)
        return {}

    def set_places(self, ask: fleet_messages.Places) -> Message:
        """The fleet says where stations are."""
        for listener in self._listeners:
            listener.set_places(ask.macs, ask.addrs)
        return {}

    def deadline(self) -> float:
        """When the first listener has something to do without an event."""
        at = _NEVER
        for listener in self._listeners:
            at = min(at, listener.deadline())
        return at

    def on_timer(self, now: float) -> None:
        """Let each listener do what is due."""
        for listener in list(self._listeners):
            listener.on_timer(now)

    def on_left(self, number: int, guest: int, arrival: Arrival, error: LinkClosed) -> None:
        """A link has ended and is closed. Unless close() was called before, its guest has caused that.

        number, guest: the numbers of the link and of its guest.
        """
        self._worker.events.report(
            "guest-gone",
            guest=guest,
            link=number,
            protocol=arrival.protocol,
            peer=arrival.peer,
            error=str(error),
            **arrival.opened_by(),
        )
        self._notify_left(arrival, error)

    def _notify_left(self, arrival: Arrival, error: LinkClosed) -> None:
        if self._closed:
            return
        text = error.log_text(arrival.peer)
        opened_by = arrival.identity or None
        left = messages.GuestEvent("left", arrival.protocol, str(error), arrival.peer, text, opened_by)
        self._worker.send_event(left.encode())
        if listener := self._listener_of.pop(arrival.link, None):
            listener.on_left(arrival.link)

    def close(self) -> None:
        """Close all listeners. Their links live on."""
        self._closed = True
        self._listener_of.clear()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    # --- what listeners report -----------------------------------------------------------

    def attach(self, arrival: Arrival, listener: Listener) -> None:
        """See pipeline.links.listener.Owner."""
        self._listener_of[arrival.link] = listener
        if not self._add(arrival):
            self._notify_left(arrival, LinkClosed("too many guests"))

    def hang_up(self, link: Link, text: str) -> None:
        """See pipeline.links.listener.Owner."""
        self._remove(link, LinkClosed(text))

    def wake(self, link: Link) -> None:
        """See pipeline.links.listener.Owner."""
        self._wake(link)

    def mtu_changed(self, link: Link) -> None:
        """See pipeline.links.listener.Owner."""
        self._mtu_changed(link)

    def refuse(self, listener: Listener, text: str, reason: str) -> None:
        """See pipeline.links.listener.Owner."""
        if reason:
            self._worker.counts[INDEX[reason]] += 1
        self._worker.log.warning("guest refused", protocol=listener.protocol, reason=text)

    def connect(self, listener: Listener, sock: socket.socket) -> None:
        """See pipeline.links.listener.Owner."""
        self._requests += 1
        self._connecting[self._requests] = listener
        self._worker.send_event(messages.ConnectEvent(self._requests).encode(), [sock])

    def on_connected(self, answer: messages.Connected) -> None:
        """The supervisor has connected the socket of a listener, or could not."""
        listener = self._connecting.pop(answer.number, None)
        if listener is not None and not self._closed:
            listener.on_connected(answer.error or "")

    def fail(self, listener: Listener, text: str) -> None:
        """See pipeline.links.listener.Owner."""
        self._worker.counts[_ACCEPT_FAILED] += 1
        self._worker.log.error("no more guests", protocol=listener.protocol, error=text)
        self._worker.send_event(messages.GuestEvent("failed", listener.protocol, text).encode())
