"""The link to other hosts (pipeline.links.vxlan), as demux sees it: many stations of many hosts on one link.

Each host is the gateway of its own guests. So the gateway answers nothing that comes through the tunnel, and
nothing of the gateway goes into it. The link itself drops such frames. Demux makes sure of it: a frame for a
group goes to the guests of this host, and no further.

The gateway cannot ask a station of another host by its own address, since the answer would go to the gateway
of that host. So it asks with a MAC address that only this host has, and without an IP address, like a station
that looks whether an address is free (RFC 5227, RFC 4862 section 5.4).

For the same reason the gateway cannot connect to a station of another host. In a fleet, this host has
addresses of its own for that: an IPv4 address of the pool, and the IPv6 address that its MAC address makes.
Then it is a *station* of the network itself (own_station.py). It asks with its IPv6 address, since the answer
to a question without one goes to a group.
"""

import os

from pipeline.config import fleet
from pipeline.config.model import Config
from pipeline.records.frames import NO_LINK
from pipeline.wire import arp, ethernet, icmpv6, ip, ipv6


class Tunnel:
    """The link to other hosts. There is at most one."""

    def __init__(self, config: Config) -> None:
        self.link = NO_LINK
        """Its number; NO_LINK without such a link."""
        self.mtu = 0
        """The longest packet that the path to all hosts can carry."""
        self.mac = fleet.station_mac(config.fleet) or ethernet.local_mac(os.urandom(ethernet.MAC_LEN))
        """The sender of questions about stations of other hosts."""
        self.addr = 0
        """The IPv4 address from which this host connects to stations of other hosts; 0 for none."""
        self.addr6 = fleet.station_addr6(config)
        """The same of IPv6."""

    @property
    def own(self) -> frozenset[int]:
        """The addresses of this host as a station."""
        return frozenset((self.addr, self.addr6)) - {0}

    def source_for(self, addr: int) -> int:
        """The address from which this host connects to this station of another host; 0 if it cannot.

        It has no link-local address: hosts know a station by the addresses of the network.
        """
        if ip.is_ipv4(addr):
            return self.addr
        return 0 if ip.is_link_local(addr) else self.addr6

    def question(self, addr: int, mac: bytes = ethernet.BROADCAST) -> bytes:
        """Asks the station with this MAC address, or all, whether it has addr."""
        if ip.is_ipv4(addr):
            return ethernet.header(mac, self.mac, ethernet.TYPE_ARP) + arp.build(
                arp.REQUEST, self.mac, ip.from_ipv4(0), ethernet.ZERO, addr
            )
        group = ipv6.solicited_node(addr)
        if self.addr6:
            to = ipv6.group_mac(group) if mac == ethernet.BROADCAST else mac
            question = icmpv6.build_solicitation(addr, self.mac, self.addr6, group)
            return icmpv6.frame(to, self.mac, self.addr6, group, question)
        message = icmpv6.build(icmpv6.NEIGHBOR_SOLICITATION, 0, 0, 0, group, addr.to_bytes(16, "big"))
        return icmpv6.frame(mac, self.mac, 0, group, message)
