"""The listener of a link to other hosts. It has one link, from the start to the end (links.vxlan_link)."""

import socket
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.engines.vxlan.forwarding import TICK_SECONDS
from pipeline.engines.vxlan.stays import Gateway
from pipeline.links.base import Link
from pipeline.links.listener import Arrival, GatewayAddresses, LinkResources, Listener, Owner, Poller
from pipeline.links.vxlan_link import VxlanLink
from pipeline.links.vxlan_socket import VxlanSocket
from pipeline.links.vxlan_url import PROTOCOL, End, VxlanPlace

MEASURE_SECONDS: Final = 1.0
"""Seconds between two looks at the paths while datagrams are too long for them."""
ASK_SECONDS: Final = 1.0
"""Seconds between two questions whether hosts understand trains."""


class VxlanListener(Listener):
    """Has one link, which is there from the start and stays."""

    protocol = PROTOCOL

    def __init__(self, sock: socket.socket, place: VxlanPlace, gateway: GatewayAddresses) -> None:
        """The listener owns sock from now on."""
        self._sock = sock
        self._place = place
        self._gateway = Gateway(*gateway)
        self._link: VxlanLink | None = None
        self._tick_at = 0.0
        self._measure_at = 0.0
        self._ask_at = 0.0

    def open(self, poller: Poller, resources: LinkResources, owner: Owner) -> None:
        """See Listener.open."""
        self._owner = owner
        link = VxlanLink(VxlanSocket(self._sock), self._place, self._gateway, resources.pool, resources.slots)
        self._link = link
        name = f"{PROTOCOL} {self._place.vni}"
        owner.attach(Arrival(link, PROTOCOL, name, name), self)

    def deadline(self) -> float:
        """See Listener.deadline."""
        if self._link is None:
            return float("inf")
        at = self._tick_at
        if self._link.is_outdated:
            at = min(at, self._measure_at)
        if self._link.has_questions:
            at = min(at, self._ask_at)
        return at

    def on_timer(self, now: float) -> None:
        """See Listener.on_timer."""
        link = self._link
        if link is None:
            return
        if link.has_questions and now >= self._ask_at:
            self._ask_at = now + ASK_SECONDS
            link.ask()
        is_tick = now >= self._tick_at
        if is_tick:
            if self._tick_at:
                link.age()
            self._tick_at = now + TICK_SECONDS
        if is_tick or (link.is_outdated and now >= self._measure_at):
            self._measure_at = now + MEASURE_SECONDS
            if link.measure():
                self._owner.mtu_changed(link)

    def set_members(self, members: Sequence[End]) -> None:
        """See Listener.set_members."""
        link = self._link
        if link is not None:
            link.set_members(members)
            if link.measure():
                self._owner.mtu_changed(link)

    def set_places(self, macs: Mapping[bytes, str], addrs: Mapping[bytes, str]) -> None:
        """See Listener.set_places."""
        if self._link is not None:
            self._link.set_places(macs, addrs)

    def on_left(self, link: Link) -> None:
        """See Listener.on_left."""
        self._link = None

    def close(self) -> None:
        """See Listener.close."""
        if self._link is None:
            self._sock.close()
