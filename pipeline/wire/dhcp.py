"""DHCP messages (RFC 2131) and their options (RFC 2132, 3396, 3397): bytes to fields and back.

A BOOTP message (RFC 951) has the same fixed fields. It has no message type, and perhaps no options at all.
Options are a dict from code to bytes. An option that occurs several times is one value (RFC 3396). With
option overload, the sname and file fields hold options too. Leases are in engines/dhcp/leases.py.

::

    0   1      2     3     4    8     10     12      16      20      24      28      44     108
    op  htype  hlen  hops  xid  secs  flags  ciaddr  yiaddr  siaddr  giaddr  chaddr  sname  file
    236     240
    cookie  options
"""

from collections.abc import Iterable, Mapping
from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire import ip
from pipeline.wire.cursor import Cursor
from pipeline.wire.errors import WireError

FIXED: Final = Struct("!BBBBIHHIIII16s64s128sI")
HEADER_LEN: Final = FIXED.size
MIN_LEN: Final = 300
"""The shortest message that old BOOTP relays accept. build() pads to it (RFC 1542 section 2.1)."""
COOKIE: Final = 0x63825363
SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68

BOOT_REQUEST: Final = 1
BOOT_REPLY: Final = 2
HTYPE_ETHERNET: Final = 1

DISCOVER: Final = 1
OFFER: Final = 2
REQUEST: Final = 3
DECLINE: Final = 4
ACK: Final = 5
NAK: Final = 6
RELEASE: Final = 7
INFORM: Final = 8

PAD: Final = 0
SUBNET_MASK: Final = 1
ROUTER: Final = 3
DNS_SERVER: Final = 6
HOST_NAME: Final = 12
DOMAIN_NAME: Final = 15
INTERFACE_MTU: Final = 26
REQUESTED_ADDRESS: Final = 50
LEASE_TIME: Final = 51
OVERLOAD: Final = 52
MESSAGE_TYPE: Final = 53
SERVER_ID: Final = 54
PARAMETER_LIST: Final = 55
MAX_MESSAGE_SIZE: Final = 57
CLIENT_ID: Final = 61
RELAY_INFO: Final = 82
DOMAIN_SEARCH: Final = 119
END: Final = 255

MAX_LABEL: Final = 63
MIN_DATAGRAM: Final = 576
"""Every client accepts IP datagrams of this length (RFC 2131 section 2). MAX_MESSAGE_SIZE is never less."""
DATAGRAM_HEADERS: Final = 28
"""Bytes of the IP and UDP headers. MAX_MESSAGE_SIZE counts them."""
_MAX_CHADDR: Final = 16
_MAX_OPTION: Final = 255
_BAD_OPTIONS: Final = "dhcp_message_dropped_bad_options"


class Message(NamedTuple):
    """One message. Addresses: see pipeline.wire.ip. ``chaddr`` has ``hlen`` bytes, ``secs`` is in seconds.

    ``options`` keeps the order in which codes first occur, and does not contain OVERLOAD. ``sname`` is the
    name of a server, or empty when the field holds options.
    """

    op: int
    xid: int
    chaddr: bytes
    options: Mapping[int, bytes]
    htype: int = HTYPE_ETHERNET
    hops: int = 0
    secs: int = 0
    flags: int = 0
    ciaddr: int = 0
    yiaddr: int = 0
    siaddr: int = 0
    giaddr: int = 0
    sname: bytes = b""

    @property
    def is_bootp(self) -> bool:
        """Whether this is a BOOTP message: it has no message type (RFC 1534)."""
        return MESSAGE_TYPE not in self.options

    @property
    def max_datagram(self) -> int:
        """Bytes of the longest IP datagram that the sender accepts (RFC 2132 section 9.10)."""
        value = self.options.get(MAX_MESSAGE_SIZE, b"")
        return max(MIN_DATAGRAM, int.from_bytes(value, "big")) if len(value) == 2 else MIN_DATAGRAM

    @property
    def kind(self) -> int:
        """The message type, such as DISCOVER; 0 for a BOOTP message or a malformed option."""
        value = self.options.get(MESSAGE_TYPE, b"")
        return value[0] if len(value) == 1 else 0

    def option_addr(self, code: int) -> int:
        """The first address in an option; 0 when the option is absent or malformed."""
        value = self.options.get(code, b"")
        return ip.from_ipv4(int.from_bytes(value[:4], "big")) if len(value) >= 4 else 0


def parse(view: memoryview | bytes, off: int, end: int) -> Message:
    """Read the UDP payload view[off:end]. Raises WireError."""
    if end - off < HEADER_LEN or end > len(view) or off < 0:
        raise WireError("dhcp_message_dropped_truncated")
    (
        op,
        htype,
        hlen,
        hops,
        xid,
        secs,
        flags,
        ciaddr,
        yiaddr,
        siaddr,
        giaddr,
        chaddr,
        sname,
        file,
        cookie,
    ) = FIXED.unpack_from(view, off)
    if op not in (BOOT_REQUEST, BOOT_REPLY) or hlen > _MAX_CHADDR or (op == BOOT_REPLY and cookie != COOKIE):
        raise WireError("dhcp_message_dropped_bad_header")
    server_name = sname.rstrip(b"\0")
    ciaddr, yiaddr, siaddr, giaddr = map(ip.from_ipv4, (ciaddr, yiaddr, siaddr, giaddr))
    if cookie != COOKIE:
        # A BOOTP client may have anything here (RFC 951 section 3).
        return Message(
            op, xid, chaddr[:hlen], {}, htype, hops, secs, flags, ciaddr, yiaddr, siaddr, giaddr, server_name
        )
    pieces: dict[int, list[bytes]] = {}
    _read_options(Cursor(view, off + HEADER_LEN, end, _BAD_OPTIONS), pieces)
    overload = b"".join(pieces.pop(OVERLOAD, ()))
    if overload:
        # RFC 2131 section 4.1: the file field is read before sname.
        for bit, field in ((1, file), (2, sname)):
            if overload[0] & bit:
                _read_options(Cursor(field, 0, len(field), _BAD_OPTIONS), pieces)
        pieces.pop(OVERLOAD, None)
        if overload[0] & 2:
            server_name = b""
    options = {code: b"".join(parts) for code, parts in pieces.items()}
    return Message(
        op, xid, chaddr[:hlen], options, htype, hops, secs, flags, ciaddr, yiaddr, siaddr, giaddr, server_name
    )


def _read_options(cursor: Cursor, pieces: dict[int, list[bytes]]) -> None:
    """Collect options up to END, or up to the end of the field: many clients send no END."""
    while cursor.remaining:
        code = cursor.u8()
        if code == END:
            return
        if code != PAD:
            pieces.setdefault(code, []).append(cursor.take(cursor.u8()))


def build(message: Message, min_len: int = MIN_LEN) -> bytes:
    """The UDP payload, padded to min_len. Options are in dict order, long ones in pieces (RFC 3396)."""
    parts = [
        FIXED.pack(
            message.op,
            message.htype,
            len(message.chaddr),
            message.hops,
            message.xid,
            message.secs,
            message.flags,
            *map(ip.to_ipv4, (message.ciaddr, message.yiaddr, message.siaddr, message.giaddr)),
            message.chaddr,
            message.sname,
            b"",
            COOKIE,
        )
    ]
    for code, value in message.options.items():
        for start in range(0, len(value) or 1, _MAX_OPTION):
            piece = value[start : start + _MAX_OPTION]
            parts.append(bytes((code, len(piece))) + piece)
    parts.append(bytes((END,)))
    return b"".join(parts).ljust(min_len, b"\0")


def option_len(value: bytes) -> int:
    """Bytes that an option with this value takes in a message, all its pieces together."""
    return len(value) + 2 * max(1, -(-len(value) // _MAX_OPTION))


def build_search_list(domains: Iterable[str]) -> bytes:
    """The value of DOMAIN_SEARCH (RFC 3397), labels without compression.

    Names that DNS cannot carry are left out: not ASCII, or with a label that is empty or longer than 63
    bytes. So one bad line in a resolver's file does not cost the guest the other names.
    """
    parts = []
    for domain in domains:
        labels = domain.rstrip(".").split(".")
        if all(label.isascii() and 0 < len(label) <= MAX_LABEL for label in labels):
            parts.append(b"".join(bytes((len(label),)) + label.encode("ascii") for label in labels) + b"\0")
    return b"".join(parts)


def search_list_of(domains: Iterable[str], room: int) -> bytes:
    """The first valid domains in the same form, as many as fit into room bytes."""
    found = b""
    for domain in domains:
        longer = found + build_search_list((domain,))
        if len(longer) > room:
            break
        found = longer
    return found
