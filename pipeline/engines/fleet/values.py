"""Keys and values of the common store of a fleet, as bytes.

=====================  =======================================================================================
key                    value: an object of JSON
=====================  =======================================================================================
``host.NAME``          Host: where a member is, and what its network looks like
``member.NAME``        Member: its beat in the lease pool (entries.py)
``claim.ADDRESS``      Claim: an address of the pool belongs to a host
``place.MAC``          Place: at which host a station is, and its addresses. The MAC has 12 digits
``name.LABEL``         Name: a guest's host name
``forward.PLACE``      Forward: a port that all hosts open. The place is PROTOCOL.PORT.ADDRESS
``policy``             the egress policy, as in a file
``zone.NAME``          a zone of the name server, as in the API
=====================  =======================================================================================

All hosts write into the store, and people do. So a value may be anything: what is wrong is not read.
"""

import ipaddress
import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from pipeline.engines.fleet.entries import Claim, Member
from pipeline.wire import ethernet, ip

HOST: Final = "host."
MEMBER: Final = "member."
CLAIM: Final = "claim."
PLACE: Final = "place."
NAME: Final = "name."
FORWARD: Final = "forward."
ZONE: Final = "zone."
POLICY: Final = "policy"

MAX_VALUE: Final = 1 << 16
"""Bytes of the longest policy or zone that is read."""
MAX_ROW: Final = 1 << 11
"""Bytes of the longest other value that is read."""
MAX_KEY: Final = 300
MAX_ADDRESSES: Final = 16
"""Addresses of one station in a place."""
MAX_EPOCH: Final = 1 << 53
UNREADABLE: Final = ""
"""In place of the host in a claim that cannot be read. No host has this name."""

PROTOCOLS: Final = ("tcp", "tcp4", "tcp6", "udp", "udp4", "udp6")
"""What a forward may carry."""
EVERY: Final = "any"
"""In place of the address in the key of a forward that is open on all addresses of a host."""

_ROWS: Final = (HOST, MEMBER, CLAIM, PLACE, NAME, FORWARD)
_MAX_PORT: Final = 0xFFFF


class StoredValueError(ValueError):
    """A value in the store is not what its key says."""


class Host(NamedTuple):
    """A member of the fleet. address, port: of its VXLAN socket, as text and number.

    network: a text that must be the same on all hosts. run: differs between two runs with the same name.
    beat: counts its writes.
    """

    address: str
    port: int
    network: str
    run: str
    beat: int


class Place(NamedTuple):
    """At which host a station is. addresses: packed, those that it is known to have."""

    host: str
    addresses: tuple[bytes, ...]


class Name(NamedTuple):
    """A guest's host name. address: packed IPv4."""

    host: str
    address: bytes


class Forward(NamedTuple):
    """A port that all hosts open, and a port of a guest to which it leads.

    local: address and port of the host; without an address, on all of them. remote: of the guest. Both as the
    API has them, with numbers.
    """

    protocol: str
    local: str
    remote: str


def admits(key: str) -> bool:
    """Whether a host looks at such a key at all. Others are not kept."""
    return len(key) <= MAX_KEY and key.isprintable() and (key == POLICY or key.startswith((*_ROWS, ZONE)))


def limited(key: str, value: bytes | None) -> bytes | None:
    """The value of the key; an empty one, which cannot be read, in place of one that is too long."""
    most = MAX_ROW if key.startswith(_ROWS) else MAX_VALUE
    return value if value is None or len(value) <= most else b""


def _object(value: bytes) -> Mapping[str, object]:
    if len(value) > MAX_VALUE:
        raise StoredValueError(f"a value of {len(value)} bytes is too long (allowed: {MAX_VALUE})")
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        raise StoredValueError("a value is not JSON") from None
    if not isinstance(found, dict):
        raise StoredValueError("a value is not an object")
    return found


def _written(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _text(found: Mapping[str, object], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or len(value) > 255 or not value.isprintable():
        raise StoredValueError(f"{key} is not a text")
    return value


def _number(found: Mapping[str, object], key: str, most: int) -> int:
    value = found.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise StoredValueError(f"{key} is not a number from 0 to {most}")
    return value


def packed(text: str) -> bytes:
    """An address of either family, packed. Raises StoredValueError."""
    return ip.packed(_address(text))


def address_text(addr: bytes) -> str:
    """The text of a packed address."""
    return ip.text(ip.of_packed(addr))


def mac_key(mac: bytes) -> str:
    """The key of a station's place."""
    return PLACE + mac.hex()


def mac_of(key: str) -> bytes:
    """The MAC address in such a key. Raises StoredValueError."""
    try:
        mac = bytes.fromhex(key.removeprefix(PLACE))
    except ValueError:
        mac = b""
    if len(mac) != ethernet.MAC_LEN or mac_key(mac) != key:
        raise StoredValueError(f"{key} is not the key of a place")
    return mac


def claim_key(addr: int) -> str:
    """The key of a claim on an IPv4 address."""
    return CLAIM + ip.text(addr)


def addr_of(key: str) -> int:
    """The address in such a key. Raises StoredValueError."""
    try:
        return ip.parse_ipv4(key.removeprefix(CLAIM))
    except ValueError:
        raise StoredValueError(f"{key} is not the key of a claim") from None


# --- values ---------------------------------------------------------------------------------------


def host_bytes(host: Host) -> bytes:
    """The value of a host."""
    return _written(**host._asdict())


def host_of(value: bytes) -> Host:
    """The host in a value. Raises StoredValueError."""
    found = _object(value)
    address, port = _text(found, "address"), _number(found, "port", 0xFFFF)
    packed(address)
    if not port:
        raise StoredValueError("port is 0")
    beat = _number(found, "beat", MAX_EPOCH)
    return Host(address, port, _text(found, "network"), _text(found, "run"), beat)


def member_bytes(member: Member) -> bytes:
    """The value of a member."""
    return _written(**member._asdict())


def member_of(value: bytes) -> Member:
    """The member in a value. Raises StoredValueError."""
    found = _object(value)
    fenced = found.get("fenced")
    if not isinstance(fenced, bool):
        raise StoredValueError("fenced is neither true nor false")
    return Member(_number(found, "epoch", MAX_EPOCH), _number(found, "beat", MAX_EPOCH), fenced)


def claim_bytes(claim: Claim) -> bytes:
    """The value of a claim."""
    return _written(host=claim.host, epoch=claim.epoch, mac=claim.mac.hex())


def claim_of(value: bytes) -> Claim:
    """The claim in a value. Raises StoredValueError."""
    found = _object(value)
    try:
        mac = bytes.fromhex(_text(found, "mac"))
    except ValueError:
        raise StoredValueError("mac is not hexadecimal") from None
    if len(mac) not in (0, ethernet.MAC_LEN):
        raise StoredValueError("mac has not 6 bytes")
    return Claim(_text(found, "host"), _number(found, "epoch", MAX_EPOCH), mac)


def place_bytes(place: Place) -> bytes:
    """The value of a place."""
    return _written(host=place.host, addresses=[address_text(each) for each in place.addresses])


def place_of(value: bytes) -> Place:
    """The place in a value. Raises StoredValueError."""
    found = _object(value)
    texts = found.get("addresses")
    if not isinstance(texts, list) or len(texts) > MAX_ADDRESSES:
        raise StoredValueError(f"addresses is not a list of at most {MAX_ADDRESSES}")
    return Place(_text(found, "host"), tuple(packed(str(text)) for text in texts))


def zone_of(value: bytes) -> dict[str, object]:
    """The zone in a value, as in the API. Raises StoredValueError."""
    return dict(_object(value))


def name_bytes(name: Name) -> bytes:
    """The value of a name."""
    return _written(host=name.host, address=address_text(name.address))


def name_of(value: bytes) -> Name:
    """The name in a value. Raises StoredValueError."""
    found = _object(value)
    address = packed(_text(found, "address"))
    if len(address) != 4:
        raise StoredValueError("address is not one of IPv4")
    return Name(_text(found, "host"), address)


def forward_key(protocol: str, local: str) -> str:
    """The key of a forward of this local address. Raises StoredValueError."""
    if protocol not in PROTOCOLS:
        raise StoredValueError(f"{protocol} cannot be forwarded (allowed: {', '.join(PROTOCOLS)})")
    host, port = _host_port(local)
    if host and local != (made := _usual(host, port)):
        raise StoredValueError(f"{local} is not the usual form (allowed: {made})")
    # A key has no colons.
    return f"{FORWARD}{protocol}.{port}.{host.replace(':', '_') or EVERY}"


def forward_bytes(forward: Forward) -> bytes:
    """The value of a forward."""
    return _written(**forward._asdict())


def forward_of(key: str, value: bytes) -> Forward:
    """The forward in a value, which its key must name. Raises StoredValueError."""
    found = _object(value)
    made = Forward(_text(found, "protocol"), _text(found, "local"), _text(found, "remote"))
    if forward_key(made.protocol, made.local) != key:
        raise StoredValueError(f"{made.protocol} {made.local} is not what {key} says")
    check_remote(made.remote)
    return made


def check_remote(remote: str) -> None:
    """Raise StoredValueError for what is not the address of a guest and a port.

    Guests of other hosts are not reached by link-local addresses (pipeline.stages.demux.tunnel).
    """
    host, port = _host_port(remote)
    try:
        addr = ip.parse(host)
    except ValueError:
        raise StoredValueError(f"{remote} does not name the address of a guest") from None
    if ip.is_link_local(addr) and not ip.is_ipv4(addr):
        raise StoredValueError(f"{remote} names a link-local address, by which other hosts reach no guest")
    if ip.host_port(addr, port) != remote:
        raise StoredValueError(f"{remote} is not the usual form (allowed: {ip.host_port(addr, port)})")


def _host_port(text: str) -> tuple[str, int]:
    """The host, without brackets, and the port. Raises StoredValueError."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) <= _MAX_PORT):
        raise StoredValueError(f"{text} has no port from 1 to {_MAX_PORT}")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host or f"{host}:{int(port)}" != text:
        raise StoredValueError(f"{text} is not an address with a port")
    return host, int(port)


def _usual(host: str, port: int) -> str:
    """The usual form of an address with a port. Unlike ip.text(), it tells :: from 0.0.0.0."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        raise StoredValueError(f"{host!r} is not an address") from None
    if "%" in host:
        raise StoredValueError(f"{host!r} has a scope")
    return f"[{found}]:{port}" if found.version == 6 else f"{found}:{port}"


def _address(text: str) -> int:
    try:
        return ip.parse(text)
    except ValueError:
        raise StoredValueError(f"{text!r} is not an address") from None
