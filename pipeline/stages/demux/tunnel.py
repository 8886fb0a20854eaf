"""The link to other hosts (pipeline.links.vxlan), as demux sees it: many stations of many hosts on one link.

Each host is the gateway of its own guests. So the gateway answers nothing that comes through the tunnel, and
nothing of the gateway goes into it. The link itself drops such frames. Demux makes sure of it: a frame for a
group goes to the guests of this host, and no further.

The gateway cannot ask a station of another host by its own address, since the answer would go to the gateway
of that host. So it asks with a MAC address that only this host has, and without an IP address, like a station
that looks whether an address is free (RFC 5227, RFC 4862 section 5.4).
"""

import os

from pipeline.records.frames import NO_LINK
from pipeline.wire import arp, ethernet, icmpv6, ip, ipv6


class Tunnel:
    """The link to other hosts. There is at most one."""

    def __init__(self) -> None:
        self.link = NO_LINK
        """Its number; NO_LINK without such a link."""
        self.mtu = 0
        """The longest packet that the path to all hosts can carry."""
        self.mac = ethernet.local_mac(os.urandom(ethernet.MAC_LEN))
        """The sender of questions about stations of other hosts."""

    def question(self, addr: int, mac: bytes) -> bytes:
        """Asks the station with this MAC address whether it has addr."""
        if ip.is_ipv4(addr):
            return ethernet.header(mac, self.mac, ethernet.TYPE_ARP) + arp.build(
                arp.REQUEST, self.mac, ip.from_ipv4(0), ethernet.ZERO, addr
            )
        group = ipv6.solicited_node(addr)
        message = icmpv6.build(icmpv6.NEIGHBOR_SOLICITATION, 0, 0, 0, group, addr.to_bytes(16, "big"))
        return icmpv6.frame(mac, self.mac, 0, group, message)
