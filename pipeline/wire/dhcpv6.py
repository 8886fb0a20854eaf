"""DHCPv6 messages between clients and servers (RFC 8415 section 8) and their options (section 21).

The messages of relay agents have another header. parse() refuses them by their type. The value of an option
may hold options itself (section 9): those of an IA are parsed and built by parse_ia() and build_ia().

::

    message   msg-type (1)  transaction-id (3)  options
    option    code (2)  length (2)  value
    IA_NA     IAID (4)  T1 (4)  T2 (4)  options       IA_PD is the same, IA_TA has no T1 and T2
    IAADDR    address (16)  preferred lifetime (4)  valid lifetime (4)  options
    status    code (2)  text

All times are in seconds.
"""

import re
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire.errors import WireError

ALL_SERVERS: Final = 0xFF02 << 112 | 1 << 16 | 2
"""ff02::1:2, All_DHCP_Relay_Agents_and_Servers (section 7.1)."""
CLIENT_PORT: Final = 546
SERVER_PORT: Final = 547

SOLICIT: Final = 1
ADVERTISE: Final = 2
REQUEST: Final = 3
CONFIRM: Final = 4
RENEW: Final = 5
REBIND: Final = 6
REPLY: Final = 7
RELEASE: Final = 8
DECLINE: Final = 9
RECONFIGURE: Final = 10
INFORMATION_REQUEST: Final = 11
RELAY_FORW: Final = 12
RELAY_REPL: Final = 13

CLIENT_ID: Final = 1
SERVER_ID: Final = 2
IA_NA: Final = 3
IA_TA: Final = 4
IAADDR: Final = 5
ORO: Final = 6
PREFERENCE: Final = 7
STATUS_CODE: Final = 13
RAPID_COMMIT: Final = 14
DNS_SERVERS: Final = 23
DOMAIN_LIST: Final = 24
IA_PD: Final = 25
INFORMATION_REFRESH_TIME: Final = 32
IAS: Final = frozenset((IA_NA, IA_TA, IA_PD))

SUCCESS: Final = 0
NO_ADDRS_AVAIL: Final = 2
NO_BINDING: Final = 3
NOT_ON_LINK: Final = 4
USE_MULTICAST: Final = 5
NO_PREFIX_AVAIL: Final = 6

MAX_OPTIONS: Final = 64
"""The most options that are read of one message, and of one IA in it."""
MIN_DUID: Final = 3
MAX_DUID: Final = 130
"""A DUID is a type of 2 bytes, and 1 to 128 bytes after it (section 11.1)."""
_BYTE: Final = "[0-9a-fA-F]{2}"
DUID_PATTERN: Final = "|".join(
    f"{_BYTE}(?:{mark}{_BYTE}){{{MIN_DUID - 1},{MAX_DUID - 1}}}" for mark in (":", "-")
)
_DUID_TEXT: Final = re.compile(DUID_PATTERN)

_HEADER: Final = Struct("!I")
_OPTION: Final = Struct("!HH")
_TIMES: Final = Struct("!III")  # IAID, T1, T2
_IAID: Final = Struct("!I")
_LIFETIMES: Final = Struct("!16sII")
_STATUS: Final = Struct("!H")
_CODE: Final = Struct("!H")
_DUID_LL: Final = Struct("!HH6s")
_DUID_LL_TYPE: Final = 3
_ETHERNET: Final = 1
_MAX_XID: Final = 0xFFFFFF

_TRUNCATED: Final = "dhcpv6_message_dropped_truncated"
_BAD_OPTIONS: Final = "dhcpv6_message_dropped_bad_options"
_BAD_DUID: Final = "dhcpv6_message_dropped_bad_duid"

Options = tuple[tuple[int, bytes], ...]
"""Codes and values in the order of the message. A code may occur several times, as that of an IA does."""


class Message(NamedTuple):
    """One message. xid: the transaction ID, 24 bits."""

    kind: int
    xid: int
    options: Options

    def option(self, code: int) -> bytes | None:
        """The value of the first option with this code; None if there is none."""
        return next((value for each, value in self.options if each == code), None)

    def duid(self, code: int) -> bytes:
        """The DUID in CLIENT_ID or SERVER_ID; empty if there is none. Raises WireError for a wrong length."""
        value = self.option(code)
        if value is None:
            return b""
        if not MIN_DUID <= len(value) <= MAX_DUID:
            raise WireError(_BAD_DUID)
        return value

    def requested(self) -> frozenset[int]:
        """The codes in the Option Request option (section 21.7). Raises WireError for half a code."""
        value = self.option(ORO) or b""
        if len(value) % _CODE.size:
            raise WireError(_BAD_OPTIONS)
        return frozenset(code for (code,) in _CODE.iter_unpack(value))

    def ias(self) -> Iterator["Ia"]:
        """The IA options. Raises WireError if one is malformed."""
        return (parse_ia(code, value) for code, value in self.options if code in IAS)


class IaAddress(NamedTuple):
    """An address in an IA. preferred, valid: its lifetimes in seconds."""

    addr: int
    preferred: int
    valid: int


class Ia(NamedTuple):
    """An identity association: IA_NA, IA_TA or IA_PD, by its ``code``.

    t1, t2: seconds after which the client renews and rebinds; 0 in an IA_TA. addresses: of an IA_PD none are
    read. status: the code of its status option; None without one.
    """

    code: int
    iaid: int
    t1: int = 0
    t2: int = 0
    addresses: tuple[IaAddress, ...] = ()
    status: int | None = None


def parse(view: memoryview | bytes, off: int, end: int) -> Message:
    """Read the UDP payload view[off:end]. Raises WireError, also for a message of a relay agent."""
    if end - off < _HEADER.size or end > len(view) or off < 0:
        raise WireError(_TRUNCATED)
    (first,) = _HEADER.unpack_from(view, off)
    kind = first >> 24
    if kind in (RELAY_FORW, RELAY_REPL):
        raise WireError("dhcpv6_message_dropped_relay")
    return Message(kind, first & _MAX_XID, _parse_options(view, off + _HEADER.size, end))


def _parse_options(view: memoryview | bytes, at: int, end: int) -> Options:
    """The options in view[at:end], which must end with the last one. Raises WireError."""
    found: list[tuple[int, bytes]] = []
    while at < end:
        if end - at < _OPTION.size or len(found) == MAX_OPTIONS:
            raise WireError(_BAD_OPTIONS)
        code, length = _OPTION.unpack_from(view, at)
        at += _OPTION.size
        if length > end - at:
            raise WireError(_BAD_OPTIONS)
        found.append((code, bytes(view[at : at + length])))
        at += length
    return tuple(found)


def parse_ia(code: int, value: bytes) -> Ia:
    """Read the value of IA_NA, IA_TA or IA_PD. Raises WireError."""
    head = _IAID if code == IA_TA else _TIMES
    if len(value) < head.size:
        raise WireError(_BAD_OPTIONS)
    iaid, t1, t2 = (*head.unpack_from(value), 0, 0)[:3]
    addresses: list[IaAddress] = []
    status: int | None = None
    for each, inner in _parse_options(value, head.size, len(value)):
        if each == IAADDR and code != IA_PD:
            addresses.append(_parse_address(inner))
        elif each == STATUS_CODE and status is None:
            status = parse_status(inner)
    return Ia(code, iaid, t1, t2, tuple(addresses), status)


def _parse_address(value: bytes) -> IaAddress:
    if len(value) < _LIFETIMES.size:
        raise WireError(_BAD_OPTIONS)
    raw, preferred, valid = _LIFETIMES.unpack_from(value)
    _parse_options(value, _LIFETIMES.size, len(value))
    return IaAddress(int.from_bytes(raw, "big"), preferred, valid)


def parse_status(value: bytes) -> int:
    """The code in a status option (section 21.13). Raises WireError."""
    if len(value) < _STATUS.size:
        raise WireError(_BAD_OPTIONS)
    code: int = _STATUS.unpack_from(value)[0]
    return code


def build(message: Message) -> bytes:
    """The UDP payload."""
    return _HEADER.pack(message.kind << 24 | message.xid) + _build_options(message.options)


def _build_options(options: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(_OPTION.pack(code, len(value)) + value for code, value in options)


def build_ia(ia: Ia) -> tuple[int, bytes]:
    """The option with this IA: code and value."""
    head = _IAID.pack(ia.iaid) if ia.code == IA_TA else _TIMES.pack(ia.iaid, ia.t1, ia.t2)
    options = [(IAADDR, _build_address(each)) for each in ia.addresses]
    if ia.status is not None:
        options.append(build_status(ia.status))
    return ia.code, head + _build_options(options)


def _build_address(address: IaAddress) -> bytes:
    return _LIFETIMES.pack(address.addr.to_bytes(16, "big"), address.preferred, address.valid)


def build_status(code: int) -> tuple[int, bytes]:
    """A status option without a text: code and value."""
    return STATUS_CODE, _STATUS.pack(code)


def duid_ll(mac: bytes) -> bytes:
    """The DUID of a device with this MAC address: type DUID-LL (section 11.4)."""
    return _DUID_LL.pack(_DUID_LL_TYPE, _ETHERNET, mac)


def duid_text(duid: bytes) -> str:
    """The text ``00:03:00:01:5a:94:ef:e4:0c:dd``: lower case, with colons."""
    return duid.hex(":")


def duid_parse(text: str) -> bytes:
    """The bytes of a DUID as in duid_text(), in any case, with colons or dashes. ValueError otherwise."""
    if not _DUID_TEXT.fullmatch(text):
        raise ValueError(f"invalid DUID: {text}")
    return bytes.fromhex(text.replace("-", "").replace(":", ""))
