"""The events about guests and their traffic. Subscribers of ``/events`` can have all of them.

Level info is for what happens once in a guest's life, debug for each question, forward and request.
"""

from typing import Final

from pipeline.events.kind import DEBUG, INFO, WARNING, Kind, published

_LINK: Final = "number of the guest's link"
_MAC: Final = "MAC address of the guest"
_ADDRESS: Final = "IPv4 address of the guest"
_HOST_NAME: Final = "name that the guest calls itself (DHCP option 12), null if it sent none"
_PROTOCOL: Final = "protocol of the link"
_PEER: Final = "address of the socket at the other end"
_OPENED_BY: Final = "process or machine that opened the link"
_FORWARD: Final = "tcp or udp, with 4 or 6 for one version of IP; unix or npipe for a socket of the host"
_LOCAL: Final = "address on the host, or the path of a socket"
_REMOTE: Final = "address and port of the guest"

GUESTS: Final = (
    published(
        *("guest-connected", INFO, "guest connected"),
        "A guest has opened a link.",
        link=_LINK,
        protocol=_PROTOCOL,
        peer=_PEER,
        opened_by=_OPENED_BY,
        framing="how frames are delimited",
        opened_at="name that the client of /connect gave",
    ),
    published(
        *("guest-gone", INFO, "guest disconnected"),
        "A guest's link has ended.",
        link=_LINK,
        protocol=_PROTOCOL,
        peer=_PEER,
        opened_by=_OPENED_BY,
        error="why it ended",
    ),
)

DHCP: Final = (
    published(
        *("lease-given", INFO, "lease given"),
        "DHCP has given a guest an address that this guest did not have before.",
        mac=_MAC,
        address=_ADDRESS,
        host_name=_HOST_NAME,
        seconds="length of the lease",
        link=_LINK,
    ),
    published(
        *("lease-renewed", DEBUG, "lease renewed"),
        "A guest has confirmed or prolonged its lease.",
        mac=_MAC,
        address=_ADDRESS,
        host_name=_HOST_NAME,
        seconds="length of the lease from now",
        link=_LINK,
    ),
    published(
        *("lease-released", INFO, "lease released"),
        "A guest has given its address back.",
        mac=_MAC,
        address=_ADDRESS,
        link=_LINK,
    ),
    published(
        *("lease-refused", WARNING, "lease refused"),
        "A guest gets no address.",
        mac=_MAC,
        address="IPv4 address that the guest asked for, null for none",
        host_name=_HOST_NAME,
        reason="the counter of the refusal (docs/metrics.md)",
        link=_LINK,
    ),
)

DNS: Final = (
    published(
        *("question-answered", DEBUG, "question answered"),
        "The name server has answered a guest's question.",
        guest="address and port of the guest",
        link="number of the guest's link, null over TCP",
        transport="udp or tcp",
        name="the name in the question",
        type="type of the question, such as A",
        rcode="response code (RFC 1035 section 4.1.1), such as NOERROR",
        answers="number of answer records",
        addresses="the first addresses among them, at most 8",
        source="zone: configured zones and the host's files; cache; upstream",
        seconds="time from the question to the answer",
    ),
)

FORWARDS: Final = (
    published(
        *("forward-opened", INFO, "forward opened"),
        "A forward is open.",
        protocol=_FORWARD,
        local=_LOCAL,
        remote=_REMOTE,
        opened_by="address of the guest that asked for it; empty for the host",
    ),
    published(
        *("forward-closed", INFO, "forward closed"),
        "A forward is closed. Its connections live on.",
        protocol=_FORWARD,
        local=_LOCAL,
        remote=_REMOTE,
        closed_by="address of the guest that asked for it; empty for the host",
    ),
    published(
        *("forward-unreachable", DEBUG, "forward cannot reach its guest"),
        "A client of a forward or tunnel was turned away, because its guest does not answer.",
        address=_ADDRESS,
        port="port of the guest",
        reason="what went wrong",
    ),
)

LIMITS: Final = (
    published(
        *("limit-reached", WARNING, "limit reached"),
        "Something was refused, lost or dropped because of a limit. Reported once a minute for each limit.",
        key="the configuration key; the counter's name if the limit has no key",
        counter="what was counted (docs/metrics.md)",
        count="how often since the last event of this kind about this limit",
    ),
)

KINDS: Final[tuple[Kind, ...]] = (*GUESTS, *DHCP, *DNS, *FORWARDS, *LIMITS)
