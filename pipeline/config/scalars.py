"""The kinds of single values in the YAML file, each with a check.

A check gets the text as it was written. It returns the value, or raises ValueError, which says what is
allowed. A type whose value is not a text also says how the value is written. keys.py and model.py make the
layout of the file from these types. schema.py has pydantic make validators of it; only a file needs them.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pipeline.config.address_words import ipv6_number, is_bracketed_ipv6, is_ipv4, split_network
from pipeline.engines import guest_set
from pipeline.engines.dns.patterns import Regexp, RegexpError
from pipeline.engines.proxy import via
from pipeline.go import flags
from pipeline.wire import dhcpv6, ethernet, ip

_TRUE: Final = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y"})
_FALSE: Final = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N"})
_LABEL: Final = "[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?"
_NAME: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_INTERFACE: Final = re.compile(r"[!-.0-9;-~]{1,15}", re.ASCII)
"""Linux allows neither spaces nor a slash, and a colon means an alias."""
_SERVER: Final = re.compile(r"(?:([0-9.]+)|\[([^\[\]]+)\])(?::([0-9]{1,5}))?", re.ASCII)
_HOST_LABEL: Final = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME: Final = re.compile(rf"{_HOST_LABEL}(\.{_HOST_LABEL})*")
_FLEET_NAME: Final = re.compile(_HOST_LABEL)
_FLEET_SERVER: Final = re.compile(r"([A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{0,4})?", re.ASCII)
DUID_MARK: Final = "duid:"
"""Before a DUID. So it is no MAC address, and a MAC address with a byte too few or too many is no DUID."""
MAX_INTERFACE: Final = 15
MAX_ZONE: Final = 189
"""Characters of a zone, so that a label of 63 and a dot fit before it into a name of 253."""
IPV6_PREFIX_LEN: Final = 64
"""Bits of the prefix. Hosts make the other 64 bits of their addresses (RFC 4291 section 2.5.1)."""
_UNICAST: Final = frozenset((0xFC, 0xFD, *range(0x20, 0x40)))
"""First bytes of unique local and of global unicast addresses."""


@dataclass(frozen=True, slots=True)
class Check:
    """A kind of value. pydantic finds this object in Annotated, and calls its two methods.

    ``read``: makes the value, or raises ValueError. ``written``: the text of a value that is not a text.
    ``schema``: what the kind allows, in JSON Schema's words. It has none for some checks: the host bits of a
    network, the syntax of RE2, the order of a range of ports.
    """

    read: Callable[[object], object]
    written: Callable[[Any], str] | None = None
    schema: Mapping[str, object] = field(default_factory=dict)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """The validator and the serializer."""
        from pydantic_core import core_schema  # noqa: PLC0415  without a file nothing needs it

        written = self.written and core_schema.plain_serializer_function_ser_schema(self.written)
        return core_schema.no_info_before_validator_function(
            self.read, schema=handler(source), serialization=written or None
        )

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, object]:
        """The JSON schema of the value as it stands in a file."""
        if "anyOf" in self.schema:
            return dict(self.schema)
        if self.written is not None:
            return {"type": "string", **self.schema}
        return {**handler(core), **self.schema}


class Scalar(str):
    """The text of a scalar. ``plain``: it was written without quotes."""

    __slots__ = ("plain",)
    plain: bool

    def __new__(cls, text: str, plain: bool) -> "Scalar":
        made = super().__new__(cls, text)
        made.plain = plain
        return made


def _text(value: object) -> str:
    if not isinstance(value, Scalar):
        raise ValueError("must be a text")
    if "\0" in value:
        raise ValueError("must be a text without NUL bytes")
    return str.__str__(value)


def _true(value: object) -> bool:
    if isinstance(value, Scalar) and value.plain and value in _TRUE | _FALSE:
        return value in _TRUE
    raise ValueError("must be true or false")


def number(low: int, high: int) -> Check:
    """A whole number of this range."""

    def check(value: object) -> int:
        try:
            number = flags.integer(value) if isinstance(value, Scalar) and value.plain else None
        except flags.FlagError:
            number = None
        if number is None or not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return number

    return Check(check, schema={"minimum": low, "maximum": high})


def _ipv4(value: object) -> int:
    try:
        return ip.parse_ipv4(_text(value))
    except ValueError:
        raise ValueError("must be an IPv4 address such as 192.168.127.2") from None


def ip_range(value: object) -> tuple[int, int]:
    """The first and the last of a range of IPv4 addresses. Raises ValueError."""
    first, dash, last = _text(value).partition("-")
    try:
        found = ip.parse_ipv4(first), ip.parse_ipv4(last)
    except ValueError:
        found = 1, 0
    if not dash or found[0] > found[1]:
        raise ValueError("must be a range of IPv4 addresses such as 192.168.127.10-192.168.127.99")
    return found


def _range_text(bounds: tuple[int, int]) -> str:
    return f"{ip.text(bounds[0])}-{ip.text(bounds[1])}" if any(bounds) else ""


def source_address(value: object) -> str:
    """An IPv4 address from which sockets may reach other hosts. This and the next three raise ValueError."""
    text = _text(value)
    address = ipaddress.IPv4Address(text) if is_ipv4(text) else None
    if address is None or address.is_loopback or address.is_multicast or not 0 < address.packed[0] < 0xF0:
        raise ValueError("must be an IPv4 address of this host other than loopback")
    return text


def interface(value: object) -> str:
    """The name of a network interface, which need not exist."""
    text = _text(value)
    if not _INTERFACE.fullmatch(text) or text in (".", ".."):
        raise ValueError(f"must be the name of a network interface, at most {MAX_INTERFACE} characters")
    return text


def name_server(value: object) -> str:
    """``10.0.0.1``, ``10.0.0.1:5353``, ``fd00::1`` or ``[fd00::1]:53``. Returns it with brackets and port."""
    text = _text(value)
    found = _SERVER.fullmatch(text)
    host, port = (found[1] or found[2], found[3] or "53") if found else (text, "53")
    try:
        address = ipaddress.ip_address(host)
        if found is None and address.version == 4:
            raise ValueError
    except ValueError:
        address = None
    usable = address is not None and not address.is_multicast and not address.is_unspecified
    if not usable or not 1 <= int(port) <= 65535:
        raise ValueError("must be an IP address with a port or without, such as 10.0.0.1 or [fd00::1]:5353")
    return f"[{host}]:{int(port)}" if ":" in host else f"{host}:{int(port)}"


def fleet_servers(value: object) -> str:
    """NATS servers, as nats://one,two:4223 or tls://one. Raises ValueError."""
    text = _text(value)
    scheme, mark, hosts = text.partition("://")
    if not mark or scheme not in ("nats", "tls") or not all(map(_FLEET_SERVER.fullmatch, hosts.split(","))):
        raise ValueError(
            "must be NATS servers such as nats://one.example,two.example:4222 or tls://one.example"
        )
    return text


def fleet_name(value: object) -> str:
    """A name of a host or a network in a fleet: one label. Raises ValueError."""
    text = _text(value)
    if not _FLEET_NAME.fullmatch(text):
        raise ValueError("must be a name of small letters, digits and hyphens, at most 63")
    return text


def zone_name(value: object) -> str:
    """The name of a zone of hosts (RFC 1123 section 2.1), in lower case and without the last dot."""
    text = _text(value).rstrip(".").lower()
    if len(text) > MAX_ZONE or not _HOST_NAME.fullmatch(text):
        raise ValueError("must be the name of a zone such as vm.internal")
    return text


def _ipv6(value: object) -> int:
    try:
        found = ipv6_number(_text(value))
    except ValueError:
        found = None
    if not found:
        raise ValueError("must be an IPv6 address such as fd12:3456:789a:1::1")
    return found


def _any_ip(value: object) -> str:
    text = _text(value)
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("must be an IP address such as 192.168.127.2 or fd00::2") from None
    return text


def _mac(value: object) -> bytes:
    try:
        return ethernet.mac_parse(_text(value))
    except ValueError:
        raise ValueError("must be a MAC address such as 5a:94:ef:e4:0c:ee") from None


@dataclass(frozen=True, slots=True)
class Duid:
    """The DUID of a DHCPv6 client. It has a class of its own, since it may be as long as a MAC address."""

    value: bytes


def _static_client(value: object) -> bytes | Duid:
    text = _text(value)
    try:
        if text.startswith(DUID_MARK):
            return Duid(dhcpv6.duid_parse(text.removeprefix(DUID_MARK)))
        return ethernet.mac_parse(text)
    except ValueError:
        raise ValueError(
            f"must be a MAC address such as 5a:94:ef:e4:0c:ee, or {DUID_MARK} with {dhcpv6.MIN_DUID} to "
            f"{dhcpv6.MAX_DUID} bytes such as {DUID_MARK}00:03:00:01:5a:94:ef:e4:0c:ee"
        ) from None


def _static_client_text(owner: bytes | Duid) -> str:
    return DUID_MARK + dhcpv6.duid_text(owner.value) if isinstance(owner, Duid) else ethernet.mac_text(owner)


def _regexp(value: object) -> str:
    text = _text(value)
    try:
        Regexp(text)
    except RegexpError as error:
        raise ValueError(f"must be a regular expression ({error})") from None
    return text


def one_of(*words: str) -> Check:
    """One of these texts."""

    def check(value: object) -> str:
        text = _text(value)
        if text not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return text

    return Check(check, schema={"enum": list(words)})


def word_or_none(*words: str) -> Check:
    """One of these texts, or an empty one."""
    check = one_of(*words)
    return Check(_optional(check.read, ""), schema={"enum": ["", *words]})


def switch(*words: str) -> Check:
    """One of these texts. As YAML 1.1 has it, false and no mean off, and true and yes mean on."""

    def check(value: object) -> str:
        if isinstance(value, Scalar) and value.plain and value in _TRUE | _FALSE:
            return "on" if value in _TRUE else "off"
        text = _text(value)
        if text not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return text

    return Check(check, schema={"anyOf": [{"enum": list(words)}, {"type": "boolean"}]})


def ipv6_prefix(value: object) -> str:
    """The /64 of guests: of a unique local network, or of a global one. Raises ValueError."""
    text = _text(value)
    try:
        found = ipaddress.IPv6Network(text)
    except ValueError:
        found = None
    if found is None or found.prefixlen != IPV6_PREFIX_LEN or int(found[0]) >> 120 not in _UNICAST:
        raise ValueError("must be a /64 of fc00::/7 or 2000::/3 such as fd12:3456:789a:1::/64")
    return str(found)


def _network(value: object) -> str:
    try:
        return str(ipaddress.ip_network(_text(value)))
    except ValueError:
        raise ValueError("must be an address or a network such as 10.0.0.0/8") from None


def _guest_word(value: object) -> str:
    text = _text(value).lower()
    number, mac = guest_set.link_number(text), guest_set.mac(text)
    if number is not None:
        return f"{guest_set.LINK_MARK}{number}"
    if mac is not None:
        return ethernet.mac_text(mac)
    try:
        return _network(value)
    except ValueError:
        raise ValueError(
            "must be an address or a network such as 192.168.127.0/24, a MAC address such as "
            "5a:94:ef:e4:0c:ee, or a link such as link:3"
        ) from None


def _ipv4_network(value: object) -> str:
    text = _network(value)
    if ":" in text:
        raise ValueError("must be an IPv4 address or network such as 10.0.0.0/8")
    return text


def _ports(value: object) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", _text(value), re.ASCII)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not low <= high <= 65535:
        raise ValueError("must be a port or a range of ports such as 8000-8100")
    return low, high


def _absolute_path(value: object) -> str:
    text = _text(value)
    if not text.startswith("/"):
        raise ValueError("must be an absolute path such as /etc/gvtap/names.txt")
    return text


def name_pattern(value: object) -> str:
    """``example.com`` or ``*.example.com``, in lower case and without the last dot. Raises ValueError."""
    text = _text(value).rstrip(".").lower()
    if not _NAME.fullmatch(text):
        raise ValueError("must be a name such as example.com, or *.example.com for all names below it")
    return text


class SecretError(ValueError):
    """A value is wrong that may hold a password. Nobody is shown the value."""


def _proxy_url(value: object) -> str:
    text = _text(value)
    try:
        via.check(text)
    except ValueError as error:
        raise SecretError(str(error)) from None
    return text


def _port_text(ports: tuple[int, int]) -> str:
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"


def _optional(check: Callable[[object], object], nothing: object) -> Callable[[object], object]:
    return lambda value: nothing if value == "" else check(value)


def _guest_address(value: object) -> str:
    text = _text(value)
    host, colon, port = text.rpartition(":")
    is_address = is_bracketed_ipv6(host) if host.startswith("[") else is_ipv4(host)
    if not colon or not is_address or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("must be the guest's address and port such as 192.168.127.2:22 or [fd00::2]:22")
    return text


def _local_address(value: object) -> str:
    text = _text(value)
    _, colon, port = split_network(text)[1].rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("must be host:port or udp:host:port, such as 127.0.0.1:2222")
    return text


_OCTET: Final = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4: Final = rf"{_OCTET}(\.{_OCTET}){{3}}"
_ANY_SCALAR: Final = {"type": ["string", "number", "boolean", "null"]}
"""Any scalar is read as the text that it is written as, such as a file called 0x10."""
_IPV4_SCHEMA: Final = {"pattern": f"^{_IPV4}$"}
_IPV6_SHAPE: Final = "[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*"
_PORT: Final = "[0-9]{1,5}"
_IPV4_NETWORK: Final = rf"{_IPV4}(/(3[0-2]|[12]?[0-9]|{_IPV4}))?"


def _pattern(*patterns: str) -> dict[str, str]:
    return {"pattern": f"^({'|'.join(patterns)})$"}


Text = Annotated[str, Check(_text, schema=_ANY_SCALAR)]
Flag = Annotated[bool, Check(_true)]
Ip = Annotated[int, Check(_ipv4, ip.text, _IPV4_SCHEMA)]
OptionalIp = Annotated[
    int, Check(_optional(_ipv4, 0), lambda addr: ip.text(addr) if addr else "", _pattern("", _IPV4))
]
"""A number as in pipeline.wire.ip, or 0."""
OptionalIpRange = Annotated[
    tuple[int, int],
    Check(_optional(ip_range, (0, 0)), _range_text, _pattern("", f"{_IPV4}-{_IPV4}")),
]
"""The first and the last address, or zeros."""
Ip6 = Annotated[int, Check(_ipv6, ip.text, _pattern(_IPV6_SHAPE))]
Mac = Annotated[bytes, Check(_mac, ethernet.mac_text, _pattern(ethernet.MAC_PATTERN))]
OptionalMac = Annotated[
    bytes, Check(_optional(_mac, b""), ethernet.mac_text, _pattern("", ethernet.MAC_PATTERN))
]
_DUID: Final = f"{DUID_MARK}({dhcpv6.DUID_PATTERN})"
StaticClient = Annotated[
    bytes | Duid, Check(_static_client, _static_client_text, _pattern(ethernet.MAC_PATTERN, _DUID))
]
"""The owner of a static lease of DHCPv6: a MAC address (6 bytes), or a DUID."""
OptionalAnyIp = Annotated[str, Check(_optional(_any_ip, ""), schema=_pattern("", _IPV4, _IPV6_SHAPE))]
SourceAddress = Annotated[str, Check(_optional(source_address, ""), schema=_pattern("", _IPV4))]
"""The address of sockets that go out, or an empty text."""
Interface = Annotated[str, Check(_optional(interface, ""))]
NameServer = Annotated[str, Check(name_server)]
"""Address and port, the address in brackets if it is of IPv6."""
OptionalIpv6 = Annotated[
    int, Check(_optional(_ipv6, 0), lambda addr: ip.text(addr) if addr else "", _pattern("", _IPV6_SHAPE))
]
"""A number as in pipeline.wire.ip, or 0."""
Ipv6Prefix = Annotated[
    str,
    Check(
        _optional(ipv6_prefix, ""),
        schema=_pattern("", "([fF][cCdD][0-9A-Fa-f]{2}|[23][0-9A-Fa-f]{3}):[0-9A-Fa-f:]*/64"),
    ),
]
FleetServers = Annotated[str, Check(_optional(fleet_servers, ""))]
FleetName = Annotated[str, Check(_optional(fleet_name, ""))]
GuestZone = Annotated[str, Check(_optional(zone_name, ""))]
AbsolutePath = Annotated[str, Check(_absolute_path, schema={"pattern": "^/"})]
Pattern = Annotated[str, Check(_regexp)]
AnyNetwork = Annotated[
    str, Check(_network, schema=_pattern(_IPV4_NETWORK, rf"{_IPV6_SHAPE}(/[0-9]{{1,3}})?"))
]
GuestWord = Annotated[
    str,
    Check(
        _guest_word,
        schema=_pattern(
            *(
                _IPV4_NETWORK,
                rf"{_IPV6_SHAPE}(/[0-9]{{1,3}})?",
                ethernet.MAC_PATTERN,
                "[lL][iI][nN][kK]:[0-9]+",
            ),
        ),
    ),
]
"""Guests of a rule: a network, a MAC address, or the number of a link."""
ProxyUrl = Annotated[
    str,
    Check(
        _optional(_proxy_url, ""),
        schema=_pattern("", rf"[A-Za-z0-9]+://([^@/?#]*@)?([A-Za-z0-9._-]+|\[{_IPV6_SHAPE}\]):{_PORT}/?"),
    ),
]
"""The proxy of a rule, or an empty text."""
Ipv4Network = Annotated[str, Check(_ipv4_network, schema=_pattern(_IPV4_NETWORK))]
_ANY_CASE_NAME: Final = _NAME.pattern.replace("a-z", "a-zA-Z")
_ONE_PORT: Final = {"type": "integer", "minimum": 0, "maximum": 65535}
_PORTS_SCHEMA: Final = {"anyOf": [_ONE_PORT, {"type": "string", **_pattern(f"{_PORT}(-{_PORT})?")}]}
Ports = Annotated[tuple[int, int], Check(_ports, _port_text, _PORTS_SCHEMA)]
"""First and last port."""
NamePattern = Annotated[str, Check(name_pattern, schema={"pattern": f"^{_ANY_CASE_NAME}[.]*$"})]
GuestAddress = Annotated[
    str, Check(_guest_address, schema={"pattern": rf"^({_IPV4}|\[{_IPV6_SHAPE}\]):{_PORT}$"})
]
LocalAddress = Annotated[str, Check(_local_address, schema={"pattern": f":{_PORT}$"})]
