"""Neighbour discovery in demux (RFC 4861): what guests say and ask, and what the gateway asks and advertises.

The neighbour table decides which claims count, by the same rules as for ARP. A guest that looks whether an
address is free (RFC 4862 section 5.4) learns nothing from a guest that it cannot hear. So the gateway answers
for a live guest on another link.
"""

from random import random
from typing import Final

from pipeline.config.choices import AUTO, DNS
from pipeline.counters import INDEX
from pipeline.engines import neighbor_discovery
from pipeline.engines.neighbor_discovery import DiscoveryMessages
from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.engines.neighbors.table import REACHABLE_TIME
from pipeline.engines.router_advertiser import RouterAdvertiser
from pipeline.records.frames import ALL_LINKS
from pipeline.stages.demux.ip import IpInput
from pipeline.stages.demux.network import Network
from pipeline.system import ipv6_route, outbound
from pipeline.wire import icmpv6, ipv6
from pipeline.wire.errors import WireError

LOOK_EVERY_S: Final = 5.0
"""Seconds between two looks whether the host has an IPv6 route, while guests are there."""

_INF: Final = float("inf")
_RECEIVED: Final = INDEX["nd_messages_received"]
_DEFENDED: Final = INDEX["nd_duplicates_reported"]
_ADVERTISED: Final = INDEX["router_advertisements_sent"]


class Discovery:
    """Messages of guests, and the gateway's router advertisements."""

    def __init__(self, network: Network, addresses: Ipv6Addresses, ip: IpInput) -> None:
        config = network.config
        self.ip = ip
        self.counts = network.counts
        self.output = network.output
        self.neighbors = network.neighbors
        self.switch = network.switch
        self.links = network.links
        self.messages = DiscoveryMessages(config.network.gateway_mac, addresses)
        self.advertiser = RouterAdvertiser(
            config.network.gateway_mac,
            addresses,
            config.network.mtu,
            search_domains=config.network.dns_search_domains,
            has_dns=DNS not in config.access.disable,
            has_nat64=config.network.has_nat64,
            random=random,
        )
        self.log = network.worker.log
        self.outbound = outbound.for_guests(
            config.network.outbound_address, config.network.outbound_interface
        )
        self.looks_at = _INF
        """When to look again whether the host has a route; inf if that does not matter."""
        self.has_route: bool | None = None
        """What the last look has found."""
        if config.network.ipv6_enabled == AUTO:
            self.looks_at = 0.0
        else:
            self.advertiser.set_default(True)

    # --- messages of guests -----------------------------------------------------------------

    def learn(
        self, header: ipv6.Header, message: icmpv6.Discovery, mac: bytes, link: int, now: float
    ) -> None:
        """Learn from a message in a frame from mac. Raises WireError as Neighbors.learn() does."""
        if message.mac and message.mac != mac:
            raise WireError("nd_message_dropped_foreign_sender")
        self.counts[_RECEIVED] += 1
        addr, claimant = neighbor_discovery.claim(header, message, mac)
        if addr:
            self.neighbors.learn(addr, claimant, link, now, by_arp=True)
        if header.src and header.src != addr:
            self.neighbors.learn(header.src, mac, link, now)

    def answer(
        self, header: ipv6.Header, message: icmpv6.Discovery, mac: bytes, link: int, now: float
    ) -> None:
        """Answer a message of the guest at (mac, link), if it wants an answer of the gateway.

        Raises WireError if the guest asks too often.
        """
        counter = 0
        if message.kind == icmpv6.ROUTER_SOLICITATION:
            reply: bytes | None = self.advertiser.frame(mac)
            counter = _ADVERTISED
        else:
            reply = self.messages.answer(header, message, mac)
            if reply is None and message.kind == icmpv6.NEIGHBOR_SOLICITATION and not header.src:
                reply = self._defence(message.target, mac, link, now)
                counter = _DEFENDED
        if reply is None:
            return
        self.ip.limit_answers(link, now)
        if counter:
            self.counts[counter] += 1
        self.output.frame(link, reply)

    def _defence(self, addr: int, mac: bytes, link: int, now: float) -> bytes | None:
        """What tells a guest that a live one on another link has the address that it wants to use.

        A guest with the owner's MAC is the owner, if the switch has moved that MAC: it has moved here, and
        starts its interface.
        """
        neighbor = self.neighbors.get(addr)
        if neighbor is None or neighbor.link == link:
            return None
        if neighbor.mac == mac and self.switch.link_of(mac) == link:
            return None
        if now - neighbor.confirmed >= REACHABLE_TIME:
            # The owner is asked. It answers the guest itself, if the guest can hear it.
            self.neighbors.resolve(addr, now)
            return None
        return self.messages.defence(addr, neighbor.mac)

    # --- router advertisements ------------------------------------------------------------------

    def on_link_up(self, link: int, now: float) -> None:
        """A guest that has kept its interface over a restart does not ask, so it is told."""
        self._look(now)
        self.advertiser.start(now)
        self.counts[_ADVERTISED] += 1
        self.output.frame(link, self.advertiser.frame())

    def on_timer(self, now: float) -> None:
        """Advertise to all guests, if it is time, or if the host has or has lost its route."""
        if self.links and self._look(now):
            self._advertise()
        if self.advertiser.deadline() > now:
            return
        self.advertiser.stop()
        if self.links:
            self.advertiser.start(now)
            self._advertise()

    def deadline(self) -> float:
        """When on_timer() has to be called."""
        return min(self.advertiser.deadline(), self.looks_at if self.links else _INF)

    def _look(self, now: float) -> bool:
        """Follow the host's route. Returns whether the advertisement is another one now."""
        if now < self.looks_at or self.looks_at == _INF:
            return False
        self.looks_at = now + LOOK_EVERY_S
        has_route = ipv6_route.exists(self.outbound)
        if has_route is None:
            return False
        if has_route != self.has_route:
            self.has_route = has_route
            if has_route:
                self.log.info("guests have a default route over IPv6")
            else:
                self.log.info("guests have no default route over IPv6")
        return self.advertiser.set_default(has_route)

    def withdraw(self) -> None:
        """The daemon ends: the gateway is no default router any more (RFC 4861 section 6.2.5)."""
        self.looks_at = _INF
        if self.advertiser.set_default(False) and self.links:
            self._advertise()

    def set_search_domains(self, domains: tuple[str, ...]) -> None:
        """Advertise another search list, if it is another one."""
        if self.advertiser.set_search_domains(domains) and self.links:
            self._advertise()

    def _advertise(self) -> None:
        self.counts[_ADVERTISED] += 1
        self.output.frame(ALL_LINKS, self.advertiser.frame())
