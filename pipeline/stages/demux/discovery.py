"""Neighbour discovery in demux (RFC 4861): what guests say and ask, and what the gateway asks and advertises.

The neighbour table decides which claims count, by the same rules as for ARP. A guest that looks whether an
address is free (RFC 4862 section 5.4) learns nothing from a guest that it cannot hear. So the gateway answers
for a live guest on another link.
"""

from random import random
from typing import Final

from pipeline.config.choices import DNS
from pipeline.counters import INDEX
from pipeline.engines import neighbor_discovery
from pipeline.engines.neighbor_discovery import DiscoveryMessages
from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.engines.neighbors.table import REACHABLE_TIME
from pipeline.engines.router_advertiser import RouterAdvertiser
from pipeline.records.frames import ALL_LINKS
from pipeline.stages.demux.ip import IpInput
from pipeline.stages.demux.network import Network
from pipeline.wire import icmpv6, ipv6
from pipeline.wire.errors import WireError

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
        self.links = network.links
        self.messages = DiscoveryMessages(config.network.gateway_mac, addresses)
        self.advertiser = RouterAdvertiser(
            config.network.gateway_mac,
            addresses,
            config.network.mtu,
            search_domains=config.network.dns_search_domains,
            has_dns=DNS not in config.access.disable,
            random=random,
        )

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
                reply = self._defence(message.target, link, now)
                counter = _DEFENDED
        if reply is None:
            return
        self.ip.limit_answers(link, now)
        if counter:
            self.counts[counter] += 1
        self.output.frame(link, reply)

    def _defence(self, addr: int, link: int, now: float) -> bytes | None:
        """What tells a guest that a live one on another link has the address that it wants to use."""
        neighbor = self.neighbors.get(addr)
        if neighbor is None or neighbor.link == link:
            return None
        if now - neighbor.confirmed >= REACHABLE_TIME:
            # The owner is asked. It answers the guest itself, if the guest can hear it.
            self.neighbors.resolve(addr, now)
            return None
        return self.messages.defence(addr, neighbor.mac)

    # --- router advertisements ------------------------------------------------------------------

    def on_link_up(self, link: int, now: float) -> None:
        """A guest that has kept its interface over a restart does not ask, so it is told."""
        self.advertiser.start(now)
        self.counts[_ADVERTISED] += 1
        self.output.frame(link, self.advertiser.frame())

    def on_timer(self, now: float) -> None:
        """Advertise to all guests, if it is time."""
        if self.advertiser.deadline() > now:
            return
        self.advertiser.stop()
        if self.links:
            self.advertiser.start(now)
            self._advertise()

    def deadline(self) -> float:
        """When on_timer() has to be called."""
        return self.advertiser.deadline()

    def set_search_domains(self, domains: tuple[str, ...]) -> None:
        """Advertise another search list, if it is another one."""
        if self.advertiser.set_search_domains(domains) and self.links:
            self._advertise()

    def _advertise(self) -> None:
        self.counts[_ADVERTISED] += 1
        self.output.frame(ALL_LINKS, self.advertiser.frame())
