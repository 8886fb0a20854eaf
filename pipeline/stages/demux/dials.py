"""Connections that the host opens to guests: demux finds the guest and chooses the gateway's port.

Egress asks with DIAL. If the guest's MAC is not known, the dial waits for ARP. The port decides which tcp
worker gets the connection.
"""

import os
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines.flows import PortAllocator
from pipeline.records.dials import Dial, DialFailed, DialRouted
from pipeline.records.flows import Ends
from pipeline.stages.demux.network import Network

_NO_PORT: Final = INDEX["tcp_dial_failed_no_port"]


class DialRouter:
    """Passes dials of egress on to tcp."""

    def __init__(self, network: Network) -> None:
        self.counts = network.counts
        self.neighbors = network.neighbors
        self.source_for = network.source_for
        self.egress_out = network.egress_out
        self.tcp_out = network.tcp_out
        self.ports = PortAllocator(int.from_bytes(os.urandom(2), "big"))

    def on_dial(self, egress: int, dial: Dial, now: float) -> None:
        """An egress worker asks for a connection."""
        neighbor = self.neighbors.resolve(dial.guest_addr, now, _WaitingDial(self, egress, dial))
        if neighbor is not None:
            self.route(egress, dial, neighbor.link)

    def route(self, egress: int, dial: Dial, link: int) -> None:
        """The guest is on this link: choose a port and pass the dial on."""
        source = self.source_for(dial.guest_addr, link)
        if not source:
            self.fail(egress, dial)
            return
        guest = (dial.guest_addr, dial.guest_port)
        port = self.ports.allocate(guest)
        if port is None:
            self.counts[_NO_PORT] += 1
            self.fail(egress, dial)
            return
        # Tcp knows which ports are in use. The allocator only has to reuse this one as late as possible.
        self.ports.release(guest, port)
        ends = Ends(dial.guest_addr, dial.guest_port, source, port)
        self.tcp_out.push(DialRouted.pack(dial.flow, ends.key(), link, egress, dial.client), ends)

    def fail(self, egress: int, dial: Dial) -> None:
        """The dial has failed for good."""
        self.egress_out[egress].push(DialFailed.pack(dial.flow, final=True))


class _WaitingDial:
    """A dial whose guest has to answer ARP first."""

    def __init__(self, dials: DialRouter, egress: int, dial: Dial) -> None:
        self._dials = dials
        self._egress = egress
        self._dial = dial

    def on_resolved(self, link: int) -> None:
        """The guest answered."""
        self._dials.route(self._egress, self._dial, link)

    def on_lost(self) -> None:
        """No guest has the address."""
        self._dials.fail(self._egress, self._dial)
