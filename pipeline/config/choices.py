"""The words among which a setting chooses: schemes of addresses, and modes.

options.py needs nothing else of the configuration, so help and version load little.
"""

from collections.abc import Mapping
from typing import Final

STREAM_SCHEMES: Final = ("unix", "tcp", "tcp4", "tcp6", "vsock", "fd")
"""Where clients of the API and guests on byte streams may come; fd is a descriptor passed by a parent."""
METRICS_SCHEMES: Final = ("unix", "tcp", "tcp4", "tcp6", "fd")
"""Where monitors may come."""
LINK_SCHEMES: Final[Mapping[str, tuple[str, ...]]] = {
    "qemu": STREAM_SCHEMES,
    "le16": STREAM_SCHEMES,
    "vpnkit": STREAM_SCHEMES,
    "bess": ("unixpacket", "fd"),
    "vfkit": ("unixgram", "fd"),
    "fd": ("unix", "fd"),
    "vhost-user": ("unix", "fd"),
}
"""Protocols that may stand before the + of ``links``, and schemes after it. ``-listen-NAME`` has the same."""
VNET_LINKS: Final = ("qemu", "bess", "vfkit", "fd")
"""Protocols whose URL may have the option ``vnet`` (pipeline.links.vnet)."""
TAP: Final = "tap"
"""The protocol of ``links`` that has no URL, but the name of an interface (pipeline.links.tap_url)."""
TAP_FORM: Final = "NAME[?netns=NAME-or-path][&userns=path][&mac=address] or fd://"

VXLAN: Final = "vxlan"
"""The protocol of ``links`` that leads to other hosts (pipeline.links.vxlan_url)."""

FORWARD_FORM: Final = "[HOST:]PORT[-PORT]:[GUEST:]PORT[-PORT][/udp]"
"""The word that means a port forward (pipeline.config.forward_words)."""

SEPARATE: Final = "separate"
AUTO: Final = "auto"
PLACEMENTS: Final = (SEPARATE, AUTO)
"""A process for each worker, or fewer where that pays (pipeline.daemon.placement)."""
SYMMETRIC: Final = "symmetric"
FULL_CONE: Final = "full-cone"
UDP_NATS: Final = (SYMMETRIC, FULL_CONE)
"""Hosts that may answer a guest's datagram: its destination, or all (pipeline.stages.egress.udp.cone)."""
DNS: Final = "dns"
UDP: Final = "udp"
ICMP: Final = "icmp"
HOST_LOOPBACK: Final = "host-loopback"
API: Final = "api"
DISABLED: Final = (DNS, UDP, ICMP, HOST_LOOPBACK, API)
"""What may be switched off for all guests (pipeline.engines.nat)."""
OFF: Final = "off"
ON: Final = "on"
IPV6: Final = (OFF, ON, AUTO)
"""Whether guests have IPv6 (pipeline.config.ipv6). AUTO: with a default route only while the host has one."""
NAT64: Final = (OFF, ON, AUTO)
"""Which questions get IPv6 addresses for IPv4 hosts: none, all, or those over IPv6 (pipeline.engines.dns)."""
GROUPS: Final = ("public", "private", "loopback", "link-local", "metadata", "host", "guests")
"""Groups of addresses (pipeline.engines.groups)."""
PUBLIC: Final = "public"
LOCKED: Final = "locked"
PRESETS: Final = ("open", PUBLIC, LOCKED)
"""What the egress policy says if no rule fits: all, the Internet and nothing inside, or nothing."""
ALLOW: Final = "allow"
DENY: Final = "deny"
ASK: Final = "ask"
PROXY: Final = "proxy"
"""What a rule says of a flow, besides ALLOW and DENY."""
ASK_SECONDS: Final = (1, 120)
"""The least and the most. Systems give a connection up after about two minutes."""
REMOVE: Final = "remove"
CUT: Final = "cut"
KEEP: Final = "keep"
OPEN_FLOWS: Final = (CUT, KEEP)
"""What becomes of a guest's open flows when it has used up its bytes."""
LIFE: Final = "life"
PERIODS: Final = (LIFE, "hour", "day", "month")
"""For which a quota holds."""
QUESTIONS: Final = ("refuse", "nxdomain", "answer")
"""What a guest gets that asks for a name which no rule allows."""
STRICT: Final = "strict"
SANDBOXES: Final = (ON, OFF, STRICT)
"""Whether workers give up what they do not need (pipeline.daemon.confinement)."""
GUARDED: Final = "guarded"
ISOLATED: Final = "isolated"
OPEN: Final = "open"
APART: Final = "apart"
GUESTS: Final = (GUARDED, ISOLATED, APART, OPEN)
"""What guests may send to each other: honest frames, nothing, or anything (pipeline.stages.demux.guard).

APART: nothing, and several guests may have the same address (pipeline.engines.apart)."""
HIDDEN: Final = (ISOLATED, APART)
"""Those with which no frame goes from one guest to another."""
