"""What demux learns from DHCP and DHCPv6: the address of a guest that has not used it yet.

Between the server's ACK and the guest's first packet, another guest could use the address first and get it.
So the address belongs to the client from the ACK on. Another station gets it only if the client does not
answer when it is asked, as with any owner. Clients with leases from the state file have no link yet. Demux
holds their addresses until they come back, or until they were asked and did not answer.

A guest can write any MAC into a request of DHCP. For DHCPv6 it is that of the answer's frame. It counts only
if the switch has seen it on that link. Then it counts like any other claim: an owner of the address on
another link is asked first. An owner that had the address by an earlier lease is not asked. The server gives
an address to another client only when that lease is over.

With ``guests: apart`` demux learns nothing from leases: ingress decides who has an address, by the first
frame. Who comes second has another one.
"""

from pipeline.counters import INDEX
from pipeline.engines.neighbors.table import Neighbors
from pipeline.engines.switch import Switch
from pipeline.records.addresses import Addr
from pipeline.records.guests import Leased
from pipeline.records.services import ServiceDatagram
from pipeline.stages.worker import Worker
from pipeline.wire import dhcp, dhcpv6
from pipeline.wire.errors import WireError


class LeaseHolders:
    """Reads the answers of the DHCP servers to guests, and their leases of an earlier run."""

    def __init__(self, worker: Worker, known: Neighbors, switch: Switch, *, learns: bool = True) -> None:
        """learns: False if guests with the same address do not meet. Then a lease keeps nobody away."""
        self._learns = learns
        self._slots = worker.ports.arena.slots
        self._counts = worker.counts
        self._neighbors = known
        self._switch = switch
        self._leased: dict[Addr, bytes] = {}
        """Address -> MAC of the last client that got it and whose MAC was on the answer's link."""

    def on_answer(self, answer: ServiceDatagram, now: float) -> None:
        """The DHCP server sends a guest this message."""
        message = dhcp.parse(self._slots[answer.slot], answer.off, answer.off + answer.length)
        given = message.kind == dhcp.ACK or message.is_bootp
        if not given or not message.yiaddr:
            return
        self._on_given(message.yiaddr, message.chaddr, answer.link, now)

    def on_reply(self, answer: ServiceDatagram, mac: bytes, now: float) -> None:
        """The DHCPv6 server sends the guest with this MAC address a message."""
        message = dhcpv6.parse(self._slots[answer.slot], answer.off, answer.off + answer.length)
        if message.kind != dhcpv6.REPLY:
            return
        for ia in message.ias():
            for each in ia.addresses:
                if each.valid:
                    self._on_given(each.addr, mac, answer.link, now)

    def _on_given(self, addr: int, mac: bytes, link: int, now: float) -> None:
        """The server has given the client with this MAC address an address."""
        if not self._learns:
            return
        self._neighbors.unhold(addr, mac)
        if self._switch.link_of(mac) != link:
            return
        before = self._leased.get(addr, mac)
        self._leased[addr] = mac
        if before != mac:
            self._neighbors.withdraw(addr, before, link)
        try:
            self._neighbors.learn(addr, mac, link, now)
        except WireError as error:
            # The link has too many addresses, or a station on another link is asked first.
            self._counts[INDEX[error.reason]] += 1

    def on_restored(self, lease: Leased, now: float) -> None:
        """A DHCP server has read this lease from its state file."""
        self._neighbors.hold(lease.guest_addr, lease.mac, now)
