"""DHCP, DHCPv6 and DNS of the gateway: demux passes datagrams between the guests and the resolver.

Demux also passes NAMED records on to egress, and reads DHCP's answers and leases (leases.py).
"""

from typing import Final

from pipeline.config.choices import APART
from pipeline.counters import INDEX
from pipeline.engines import nat
from pipeline.records import kinds
from pipeline.records.addresses import NO_MAC
from pipeline.records.flows import Ends
from pipeline.records.guests import Leased
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.services import ServiceDatagram
from pipeline.records.udp import UdpRange
from pipeline.stages.demux.leases import LeaseHolders
from pipeline.stages.demux.network import Network
from pipeline.stages.demux.service_rates import ServiceRates
from pipeline.wire import ethernet, ip

_SENT: Final = INDEX["udp_datagrams_to_guest"]
_NO_NEIGHBOR: Final = INDEX["udp_datagram_dropped_no_neighbor"]


class Services:
    """Passes datagrams to the resolver, and its records on to guests and egress."""

    def __init__(self, network: Network) -> None:
        self.worker = network.worker
        self.counts = network.counts
        self.slots = network.slots
        self.output = network.output
        self.neighbors = network.neighbors
        self.resolver_out = network.resolver_out
        self.egress_out = network.egress_out
        self.rates = ServiceRates(network.config.limits, network.targets.gateways, network.links)
        self.holders = LeaseHolders(
            network.worker,
            network.neighbors,
            network.switch,
            learns=network.config.access.guests != APART,
        )

    def to_resolver(self, run: UdpRange, port: int, now: float, mac: bytes = NO_MAC) -> None:
        """Pass datagrams on one by one. Several together are rare. They are copied, to get a reference each.

        mac: see ServiceDatagram. Raises WireError if the guest asks too often. The caller then still owns the
        reference.
        """
        crowded = self.rates.admit(port, run.link, run.piece_count(), now)
        if run.length <= run.piece_size:
            self.resolver_out.push(
                ServiceDatagram.pack(run.link, run.key, run.slot, run.off, run.length, crowded, mac)
            )
            return
        view = self.slots[run.slot]
        for begin, end in run.piece_bounds():
            where = self.output.copy(view[begin:end])
            if where is not None:
                slot, off = where
                self.resolver_out.push(
                    ServiceDatagram.pack(run.link, run.key, slot, off, end - begin, crowded, mac)
                )
        self.worker.free(run.slot)

    def on_resolver_burst(self, burst: memoryview, now: float) -> int:
        """Records of the resolver: answers of DHCP and DNS, names for egress, leases of an earlier run."""
        for at in range(0, len(burst), RECORD_BYTES):
            kind = burst[at]
            if kind == kinds.SERVICE_DATAGRAM:
                self._on_answer(ServiceDatagram.unpack(burst, at), now)
            elif kind == kinds.NAMED or kind == kinds.TOLD:
                record = burst[at : at + RECORD_BYTES].tobytes()
                for ring in self.egress_out:
                    ring.push(record)
            elif kind == kinds.LEASED:
                self.holders.on_restored(Leased.unpack(burst, at), now)
        return len(burst) // RECORD_BYTES

    def _on_answer(self, answer: ServiceDatagram, now: float) -> None:
        ends = Ends.of(answer.key)
        if ends.remote_port == nat.DHCP_PORT:
            self.holders.on_answer(answer, now)
        if ends.guest_addr == ip.BROADCAST:
            link, mac = answer.link, ethernet.BROADCAST
        else:
            neighbor = self.neighbors.get(ends.guest_addr)
            if neighbor is None:
                self.counts[_NO_NEIGHBOR] += 1
                self.worker.free(answer.slot)
                return
            link, mac = neighbor.link, neighbor.mac
        if ends.remote_port == nat.DHCPV6_PORT:
            self.holders.on_reply(answer, mac, now)
        self.counts[_SENT] += 1
        self.output.service_datagram(link, mac, answer)
