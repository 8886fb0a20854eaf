"""The events about guests and their traffic. Subscribers of ``/events`` can have all of them.

Level info is for what happens once in a guest's life, debug for each question, forward and request.
"""

from typing import Final

from pipeline.events.kind import DEBUG, INFO, WARNING, Kind, published

_GUEST: Final = "number of the guest, as in /guests"
_LINK: Final = "number of the guest's link"
_MAC: Final = "MAC address of the guest"
_ADDRESS: Final = "address of the guest"
_HOST_NAME: Final = "name that the guest calls itself (DHCP option 12), null if it sends none"
_PROTOCOL: Final = "protocol of the link"
_PEER: Final = "address of the socket at the other end"
_OPENED_BY: Final = "process or machine that opened the link"
_FORWARD: Final = "tcp or udp, with 4 or 6 for one version of IP; unix or npipe for a socket of the host"
_LOCAL: Final = "address on the host, or the path of a socket"
_REMOTE: Final = "address and port of the guest"

ZONE: Final = "zone"
CACHE: Final = "cache"
UPSTREAM: Final = "upstream"
GATEWAY: Final = "gateway"
MAX_ADDRESSES: Final = 8
"""Addresses of one answer in an event."""

GUESTS: Final = (
    published(
        *("guest-connected", INFO, "guest connected"),
        "A guest has opened a link.",
        guest=_GUEST,
        link=_LINK,
        protocol=_PROTOCOL,
        peer=_PEER,
        opened_by=_OPENED_BY,
    ),
    published(
        *("guest-gone", INFO, "guest disconnected"),
        "A guest's link has ended.",
        guest=_GUEST,
        link=_LINK,
        protocol=_PROTOCOL,
        peer=_PEER,
        opened_by=_OPENED_BY,
        error="why it ended",
    ),
    published(
        *("guest-renamed", INFO, "guest renamed"),
        "Another guest has this address or MAC address too, or it is not of the network (guests: apart)."
        " Records have an inner one in its place.",
        link=_LINK,
        address="address or MAC address that the guest has",
        inner="what stands for it in records, tables and this log",
    ),
)

_OF_MAC: Final = {"change": "seen, gone, moved or contested", "mac": _MAC, "link": _LINK}

MACS: Final = (
    published(
        *("guest-mac-seen", INFO, "guest mac"),
        "A MAC address sends its first frame on a link.",
        **_OF_MAC,
    ),
    published(
        *("guest-mac-gone", INFO, "guest mac"),
        "The link of a MAC address has ended.",
        **_OF_MAC,
    ),
    published(
        *("guest-mac-moved", WARNING, "guest mac"),
        "A MAC address has moved to another link. Two machines have it, or one wants the other's frames.",
        **_OF_MAC,
    ),
    published(
        *("guest-mac-contested", WARNING, "guest mac"),
        "A guest sends frames with the MAC address of another guest, which is asked whether it is there.",
        **_OF_MAC,
    ),
)

_LEASE: Final = {
    "guest": _GUEST,
    "link": _LINK,
    "mac": _MAC,
    "address": "address that the lease is for, of IPv6 if it is one of DHCPv6",
    "host_name": _HOST_NAME,
}

DHCP: Final = (
    published(
        *("lease-given", INFO, "lease given"),
        "DHCP or DHCPv6 has given a guest an address that it did not have before on this link.",
        **_LEASE,
        seconds="length of the lease; null for one without end (BOOTP)",
    ),
    published(
        *("lease-renewed", DEBUG, "lease renewed"),
        "A guest has prolonged its lease, or has asked for it again.",
        **_LEASE,
        seconds="length of the lease from now; null for one without end (BOOTP)",
    ),
    published(
        *("lease-released", INFO, "lease released"),
        "A guest has given its address back.",
        **_LEASE,
    ),
    published(
        *("lease-declined", WARNING, "lease declined"),
        "A guest has found that another one uses the address that DHCP or DHCPv6 gave it.",
        **_LEASE,
    ),
    published(
        *("lease-refused", WARNING, "lease refused"),
        "A guest gets no address from DHCP or DHCPv6.",
        **{**_LEASE, "address": "address that the guest asked for; null for none"},
        reason="the counter of the refusal (docs/metrics.md)",
    ),
)

DNS: Final = (
    published(
        *("question-answered", DEBUG, "question answered"),
        "The name server has answered a guest's question.",
        guest=_GUEST,
        guest_address=_ADDRESS,
        transport="udp or tcp",
        name="the name in the question",
        type="type of the question, such as A",
        rcode="response code (RFC 1035 section 4.1.1), such as NOERROR",
        answers="number of answer records",
        addresses=f"the addresses among them, at most {MAX_ADDRESSES}",
        rule="what has refused the question or its answer: egress-policy.rules[N], .default, .preset or "
        ".rebinding; else null",
        source=f"{ZONE}: zones and the host's files; {CACHE}; {UPSTREAM}; {GATEWAY}: an error of the gateway",
        seconds="time from asking upstream servers to their answer; null for other sources",
    ),
)

FORWARDS: Final = (
    published(
        *("forward-opened", INFO, "forward opened"),
        "A forward is open.",
        protocol=_FORWARD,
        local=_LOCAL,
        remote=_REMOTE,
        guest_address="address of the guest that asked for it; missing if the host did",
    ),
    published(
        *("forward-closed", INFO, "forward closed"),
        "A forward is closed. Its connections live on.",
        protocol=_FORWARD,
        local=_LOCAL,
        remote=_REMOTE,
        guest_address="address of the guest that asked for it; missing if the host did",
    ),
    published(
        *("forward-unreachable", DEBUG, "forward cannot reach its guest"),
        "A client of a forward or tunnel was turned away, because its guest does not answer.",
        address=_ADDRESS,
        port="port of the guest",
        reason="what went wrong, in words",
    ),
)

LIMITS: Final = (
    published(
        *("limit-reached", WARNING, "limit reached"),
        "Something was refused, lost or dropped because of a limit. Reported once a minute for each limit.",
        key="the configuration key, or several that share a counter; empty for a limit without a key",
        counter="the counter of the limit (docs/metrics.md)",
        count="by how much it grew since the last event about this limit",
    ),
    published(
        *("limit-met", DEBUG, "limit met"),
        "A limit had its usual effect: queries wait, bytes are copied, or flows of a guest that left end.",
        key="the configuration key",
        counter="the counter of the limit (docs/metrics.md)",
        count="by how much it grew since the last event about this limit",
    ),
)

KINDS: Final[tuple[Kind, ...]] = (*GUESTS, *MACS, *DHCP, *DNS, *FORWARDS, *LIMITS)
