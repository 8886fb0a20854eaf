"""The DHCP servers of both families: guests' messages, answers, leases, and the names of guests."""

from collections.abc import Callable
from typing import Final

from pipeline.config.choices import DNS
from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines import tally
from pipeline.engines.dhcp.lease import Change
from pipeline.engines.dhcp.names import HostNames
from pipeline.engines.dhcp.server import Dhcp, Ignored, Reply, Wanted
from pipeline.engines.dhcp.server6 import Dhcp6, Sender
from pipeline.ipc import fleet_messages, healing_messages
from pipeline.records.flows import Ends, flow_key
from pipeline.records.services import ServiceDatagram
from pipeline.stages.resolver.fleet import WAIT_S, FleetQuestions, Waiting
from pipeline.stages.resolver.leases import LeaseKeeper
from pipeline.stages.resolver.replies import Replies
from pipeline.stages.resolver.reports import report_lease
from pipeline.stages.worker import Worker
from pipeline.wire import dhcp, dhcpv6, ip, ipv6

_LEASES: Final = INDEX["dhcp_leases"]
_LEASES6: Final = INDEX["dhcpv6_leases"]
_BUSY: Final = INDEX["dhcp_message_dropped_fleet_busy"]
_DECLINED: Final = "lease-declined"
_OVER: Final = ("lease-released", _DECLINED)


class DhcpService:
    """Answers DHCP, and DHCPv6 while IPv6 is on."""

    def __init__(
        self,
        worker: Worker,
        config: Config,
        guest_of: Callable[[int], int],
        names: HostNames | None,
        replies: Replies,
        now: float,
    ) -> None:
        """guest_of: the number of the guest that opened a link. names: where clients' names go."""
        network = config.network
        has_dns = DNS not in config.access.disable
        self._worker = worker
        self._guest_of = guest_of
        self._replies = replies
        self._gateway = network.gateway_ip
        self._fleet = FleetQuestions(worker) if config.fleet.fleet_servers else None
        self._ipv4 = Dhcp(
            network,
            guest_of,
            names=names,
            has_dns=has_dns,
            name_server=network.dns_address,
            fleet=self._fleet is not None,
        )
        self._ipv6 = (
            Dhcp6(network, guest_of, has_dns=has_dns, name_server=network.ipv6_dns)
            if network.ipv6_first
            else None
        )
        self._link_local = ipv6.link_local(network.gateway_mac)
        self.keeper = LeaseKeeper(worker, self._ipv4, self._ipv6, network.state_file, now)
        self._count()

    def _count(self) -> None:
        self._worker.counts[_LEASES] = self._ipv4.lease_count
        if self._ipv6 is not None:
            self._worker.counts[_LEASES6] = self._ipv6.lease_count

    def restore(self, leases: healing_messages.RestoreLeases, now: float) -> None:
        """Take over the leases of a predecessor that has died."""
        self.keeper.restore(leases, now)
        self._count()

    def takes(self, port: int) -> bool:
        """Whether datagrams to this port are for a server."""
        return port == dhcp.SERVER_PORT or (port == dhcpv6.SERVER_PORT and self._ipv6 is not None)

    def on_datagram(self, datagram: ServiceDatagram, ends: Ends, now: float) -> str:
        """A message of a guest. Returns the counter of a host name that was refused, or an empty text."""
        refusal = ""
        if ends.remote_port == dhcp.SERVER_PORT:
            refusal = self._on_message(datagram, ends, now)
        elif self._ipv6 is not None:
            self._on_message6(self._ipv6, datagram, ends, now)
        self._count()
        self.keeper.on_change(now)
        return refusal

    def _on_message(self, datagram: ServiceDatagram, ends: Ends, now: float) -> str:
        view = self._worker.ports.arena.slots[datagram.slot]
        begin, end = datagram.off, datagram.off + datagram.length
        link = datagram.link
        outcome = self._ipv4.on_message(view, begin, end, link, ends.guest_addr, ends.guest_port, now)
        if isinstance(outcome, Wanted):
            payload = bytes(view[begin:end])
            waiting = Waiting(payload, link, ends.guest_addr, ends.guest_port, now + WAIT_S)
            self._ask_fleet(outcome, waiting, now)
        else:
            self._on_outcome(outcome, link)
        return self._ipv4.name_refusal

    def _ask_fleet(self, wanted: Wanted, waiting: Waiting, now: float) -> None:
        assert self._fleet is not None
        asked = self._fleet.ask(wanted.mac, wanted.seconds, waiting, now)
        self._worker.counts[INDEX[wanted.counter] if asked else _BUSY] += 1

    def on_granted(self, ask: fleet_messages.LeaseGranted, now: float) -> str:
        """The fleet has chosen an address for a client. Returns the counter of a host name as above."""
        waiting = self._fleet.answered(ask.mac, now) if self._fleet is not None else None
        if waiting is None:
            return ""
        self._ipv4.granted(ask.mac, ip.of_packed(ask.addr) if ask.addr else 0, ask.seconds)
        payload, link = waiting.payload, waiting.link
        outcome = self._ipv4.on_message(
            payload, 0, len(payload), link, waiting.guest_addr, waiting.guest_port, now
        )
        if not isinstance(outcome, Wanted):
            self._on_outcome(outcome, link)
        self._count()
        self.keeper.on_change(now)
        return self._ipv4.name_refusal

    def _on_outcome(self, outcome: Reply | Ignored, link: int) -> None:
        """Count what became of a message, report it, and send the answer."""
        self._worker.counts[INDEX[outcome.counter]] += 1
        if outcome.change is not None:
            report_lease(self._worker.events, outcome.change, self._guest_of(link), link)
            self._tell_fleet(outcome.change)
        if isinstance(outcome, Reply):
            key = flow_key(outcome.guest_addr, outcome.guest_port, self._gateway, dhcp.SERVER_PORT)
            self._replies.send(link, key, outcome.payload)

    def _tell_fleet(self, change: Change) -> None:
        """If a client has given its address back, it is the fleet's again."""
        if self._fleet is not None and change.kind in _OVER:
            self._fleet.over(change.mac, ip.packed(change.addr), declined=change.kind == _DECLINED)

    def _on_message6(self, server: Dhcp6, datagram: ServiceDatagram, ends: Ends, now: float) -> None:
        view = self._worker.ports.arena.slots[datagram.slot]
        begin, end = datagram.off, datagram.off + datagram.length
        link = datagram.link
        sender = Sender(link, datagram.mac, not ip.is_multicast(ends.remote_addr))
        outcome = server.on_message(view, begin, end, sender, now)
        for counter in outcome.counters:
            self._worker.counts[INDEX[counter]] += 1
        for change in outcome.changes:
            report_lease(self._worker.events, change, self._guest_of(link), link)
        if outcome.payload:
            # Clients listen on one port, whatever port their message came from (RFC 8415 section 7.2).
            key = flow_key(ends.guest_addr, dhcpv6.CLIENT_PORT, self._link_local, dhcpv6.SERVER_PORT)
            self._replies.send(link, key, outcome.payload)

    def on_link_down(self, link: int) -> None:
        """A guest's link is gone. Another guest may get its number."""
        self._ipv4.on_link_down(link)
        if self._fleet is not None:
            self._fleet.forget_link(link)
        if self._ipv6 is not None:
            self._ipv6.on_link_down(link)

    def set_search_domains(self, domains: tuple[str, ...]) -> None:
        """Change the search list."""
        self._ipv4.set_search_domains(domains)
        if self._ipv6 is not None:
            self._ipv6.set_search_domains(domains)

    def leases(self) -> dict[int, bytes]:
        """Address -> MAC of the gateway, of the static leases and of every client that has an address.

        The static lease of a DUID is there while a client holds it.
        """
        return self._ipv4.leases() | (self._ipv6.leases() if self._ipv6 is not None else {})

    def sums(self) -> dict[int, int]:
        """How many leases each guest has, by its number, loans included."""
        sums = self._ipv4.sums()
        for guest, count in (self._ipv6.sums() if self._ipv6 is not None else {}).items():
            tally.add(sums, guest, count)
        return sums
