"""The YAML configuration file: what may stand in it, and errors that say where.

Reads every key of gvproxy's file and ours. A scalar keeps its text until the schema says
what it is, so a MAC address of digits (``10:11:11:11:11:11``) stays a text and is not
taken for a number to base 60. A wrong value raises ConfigError, which names the key, its
line and what is allowed; an unknown key is only reported, with the nearest known one,
since gvproxy ignores it. Does not merge the file with flags: config/merge.py does.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, NamedTuple

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from pipeline.config import limits
from pipeline.config.model import MAX_BUSY_POLL, SYMMETRIC, UDP_NATS
from pipeline.engines.dns.patterns import Regexp, RegexpError
from pipeline.go import flags

MAX_DEPTH: Final = 32
MAX_MTU: Final = 65521
"""A frame of this MTU still fits the 2-byte length of /connect, 14 bytes of header included."""

_TRUE: Final = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y"})
_FALSE: Final = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N"})
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")
_NETWORKS: Final = ("udp", "udp4", "udp6", "tcp", "tcp4", "tcp6")
_NULL_TAG: Final = "tag:yaml.org,2002:null"

Path = tuple[str | int, ...]


class ConfigError(Exception):
    """The configuration cannot be used; the text says where and what is allowed."""


class Scalar(str):
    """The text of a scalar; ``plain`` says that it stood there without quotes."""

    __slots__ = ("plain",)
    plain: bool

    def __new__(cls, text: str, plain: bool) -> "Scalar":
        made = super().__new__(cls, text)
        made.plain = plain
        return made


class Document(NamedTuple):
    """A file as read: nested dicts and lists of Scalar, and the line of each path."""

    data: dict[str, Any]
    lines: dict[Path, int]


# --- scalars of the schema -----------------------------------------------------------


def _text(value: object) -> str:
    if isinstance(value, Scalar):
        return str.__str__(value)
    raise ValueError("must be a text")


def _true(value: object) -> bool:
    if isinstance(value, Scalar) and value.plain and value in _TRUE | _FALSE:
        return value in _TRUE
    raise ValueError("must be true or false")


def _number(low: int, high: int) -> BeforeValidator:
    def check(value: object) -> int:
        try:
            number = flags.integer(value) if isinstance(value, Scalar) and value.plain else None
        except flags.FlagError:
            number = None
        if number is None or not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return number

    return BeforeValidator(check)


def _ipv4(value: object) -> str:
    text = _text(value)
    if not is_ipv4(text):
        raise ValueError("must be an IPv4 address such as 192.168.127.2")
    return text


def _any_ip(value: object) -> str:
    text = _text(value)
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("must be an IP address such as 192.168.127.2 or fd00::2") from None
    return text


def _mac(value: object) -> str:
    text = _text(value)
    if not _MAC.fullmatch(text):
        raise ValueError("must be a MAC address such as 5a:94:ef:e4:0c:ee")
    return text


def _regexp(value: object) -> str:
    text = _text(value)
    try:
        Regexp(text)
    except RegexpError as error:
        raise ValueError(f"must be a regular expression ({error})") from None
    return text


def _one_of(*words: str) -> BeforeValidator:
    def check(value: object) -> str:
        text = _text(value)
        if text not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return text

    return BeforeValidator(check)


def _network(value: object) -> str:
    try:
        return str(ipaddress.ip_network(_text(value)))
    except ValueError:
        raise ValueError("must be an address or a network such as 10.0.0.0/8") from None


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


def _name_pattern(value: object) -> str:
    text = _text(value).rstrip(".").lower()
    if not re.fullmatch(
        r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", text
    ):
        raise ValueError("must be a name such as example.com, or *.example.com for all names below it")
    return text


def _optional(check: Callable[[object], str]) -> BeforeValidator:
    return BeforeValidator(lambda value: "" if value == "" else check(value))


def _guest_address(value: object) -> str:
    text = _text(value)
    host, colon, port = text.rpartition(":")
    if not colon or not is_ipv4(host) or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("must be the guest's address and port such as 192.168.127.2:22")
    return text


def _local_address(value: object) -> str:
    text = _text(value)
    _, colon, port = split_network(text)[1].rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("must be host:port or udp:host:port, such as 127.0.0.1:2222")
    return text


def split_network(text: str) -> tuple[str, str]:
    """(network, ``host:port``) of a key of stack.forwards. ``tcp4:80`` is port 80 of a host of that name."""
    network, _, local = text.partition(":")
    return (network, local) if network in _NETWORKS and ":" in local else ("tcp", text)


def is_ipv4(text: str) -> bool:
    """Whether text is an IPv4 address in dotted form."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


Text = Annotated[str, BeforeValidator(_text)]
Flag = Annotated[bool, BeforeValidator(_true)]
Ip = Annotated[str, BeforeValidator(_ipv4)]
Mac = Annotated[str, BeforeValidator(_mac)]
OptionalAnyIp = Annotated[str, _optional(_any_ip)]
OptionalMac = Annotated[str, _optional(_mac)]
Pattern = Annotated[str, BeforeValidator(_regexp)]
Network = Annotated[str, BeforeValidator(_network)]
Ipv4Network = Annotated[str, BeforeValidator(_ipv4_network)]
Ports = Annotated[tuple[int, int], BeforeValidator(_ports)]
NamePattern = Annotated[str, BeforeValidator(_name_pattern)]
GuestAddress = Annotated[str, BeforeValidator(_guest_address)]
LocalAddress = Annotated[str, BeforeValidator(_local_address)]

# --- the schema ------------------------------------------------------------------------


class _Map(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class RecordKeys(_Map):
    """One name of a zone, or a pattern of names."""

    name: Text = ""
    ip: OptionalAnyIp = ""
    regexp: Pattern = ""


class ZoneKeys(_Map):
    """One zone of the built-in name server."""

    name: Text = ""
    records: list[RecordKeys] = []
    default_ip: OptionalAnyIp = Field(default="", validation_alias="defaultIP")


class SocketForwardKeys(_Map):
    """A socket on the host that leads to one in the guest over ssh."""

    socket: Text = ""
    dest: Text = ""
    user: Text = ""
    identity: Text = ""


class InterfaceKeys(_Map):
    """Where guests attach."""

    vpnkit: Text = ""
    qemu: Text = ""
    bess: Text = ""
    stdio: Text = ""
    vfkit: Text = ""


class StackKeys(_Map):
    """The virtual network."""

    debug: Flag = False
    capture_file: Text = Field(default="", validation_alias="capture-file")
    mtu: Annotated[int, _number(0, 2**31 - 1)] = 0
    subnet: Text = ""
    gateway_ip: Text = Field(default="", validation_alias="gatewayIP")
    device_ip: Text = Field(default="", validation_alias="deviceIP")
    host_ip: Text = Field(default="", validation_alias="hostIP")
    gateway_mac: OptionalMac = Field(default="", validation_alias="gatewayMacAddress")
    dns: list[ZoneKeys] = []
    dns_search_domains: list[Text] = Field(default=[], validation_alias="dnsSearchDomains")
    forwards: dict[LocalAddress, GuestAddress] = {}
    nat: dict[Ip, Ip] = {}
    gateway_virtual_ips: list[Ip] = Field(default=[], validation_alias="gatewayVirtualIPs")
    dhcp_static_leases: dict[Ip, Mac] = Field(default={}, validation_alias="dhcpStaticLeases")
    vpnkit_macs: dict[Text, Mac] = Field(default={}, validation_alias="vpnKitUUIDMacAddresses")
    ec2_metadata_access: Flag = Field(default=False, validation_alias="ec2MetadataAccess")


def _limit_fields() -> Any:
    return {
        limit.name: (
            Annotated[int, _number(limit.low, limit.high)],
            Field(limit.default, validation_alias=limit.key),
        )
        for limit in limits.TABLE
    }


LimitKeys: Final[type[_Map]] = create_model("LimitKeys", __base__=_Map, **_limit_fields())


class GuestApiKeys(_Map):
    """What guests may do through the gateway's port 80."""

    enabled: Flag = True
    unix: Flag = True
    addresses: list[Network] = []
    ports: list[Ports] = []


class PolicyRuleKeys(_Map):
    """One rule of the egress policy."""

    action: Annotated[str, _one_of("allow", "deny")]
    guests: list[Ipv4Network] = []
    networks: list[Ipv4Network] = []
    names: list[NamePattern] = []
    ports: list[Ports] = []
    protocols: list[Annotated[str, _one_of("tcp", "udp", "icmp")]] = []


class EgressPolicyKeys(_Map):
    """Where guests may connect to."""

    default: Annotated[str, _one_of("allow", "deny")] = "allow"
    rules: list[PolicyRuleKeys] = []


class FileKeys(_Map):
    """The whole file."""

    listen: list[Text] = []
    log_level: Text = Field(default="", validation_alias="log-level")
    log_file: Text = Field(default="", validation_alias="log-file")
    pid_file: Text = Field(default="", validation_alias="pid-file")
    services: Text = ""
    notification: Text = ""
    ec2_metadata_access: Flag = Field(default=False, validation_alias="ec2-metadata-access")
    interfaces: InterfaceKeys = InterfaceKeys()
    links: list[Text] = []
    forwards: list[SocketForwardKeys] = []
    stack: StackKeys = StackKeys()
    placement: Text = ""
    tcp_workers: Annotated[int, _number(1, 64)] = Field(default=1, validation_alias="tcp-workers")
    egress_workers: Annotated[int, _number(1, 64)] = Field(default=1, validation_alias="egress-workers")
    slots: Annotated[int, _number(64, 1 << 16)] = 512
    busy_poll: Annotated[int, _number(0, MAX_BUSY_POLL)] = Field(
        default=MAX_BUSY_POLL, validation_alias="busy-poll"
    )
    limits: LimitKeys = LimitKeys()  # type: ignore[valid-type]
    api_token_file: Text = Field(default="", validation_alias="api-token-file")
    state_file: Text = Field(default="", validation_alias="state-file")
    guest_api: GuestApiKeys = Field(default=GuestApiKeys(), validation_alias="guest-api")
    egress_policy: EgressPolicyKeys = Field(default=EgressPolicyKeys(), validation_alias="egress-policy")
    udp_nat: Annotated[str, _one_of(*UDP_NATS)] = Field(default=SYMMETRIC, validation_alias="udp-nat")
    proxy_protocol: dict[LocalAddress, Annotated[str, _one_of("v1", "v2")]] = Field(
        default={}, validation_alias="proxy-protocol"
    )


# --- reading ----------------------------------------------------------------------------


def read(text: str) -> tuple[FileKeys, tuple[str, ...]]:
    """The file's content and a note for each unknown key. Raises ConfigError."""
    document = parse(text)
    try:
        keys = FileKeys.model_validate(document.data)
    except ValidationError as errors:
        raise ConfigError("; ".join(_problem(error, document) for error in errors.errors())) from None
    return keys, tuple(_unknown_keys(keys, document, ()))


def parse(text: str) -> Document:
    """YAML text without a schema. Raises ConfigError with the parser's words and the line."""
    lines: dict[Path, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        data = {} if node is None or node.tag == _NULL_TAG else _plain(loader, node, (), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"yaml: {where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"yaml: {error}".replace("\n", " ")) from None
    except RecursionError:
        # The parser ends before _plain can see how deep it is.
        raise ConfigError(f"yaml: nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(data, dict):
        raise ConfigError("yaml: line 1: the file must hold a map of keys")
    return Document(data, lines)


def _plain(loader: yaml.SafeLoader, node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    lines[path] = node.start_mark.line + 1
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"yaml: line {lines[path]}: nested deeper than {MAX_DEPTH} levels")
    if isinstance(node, yaml.ScalarNode):
        null = node.tag == _NULL_TAG and node.style is None
        return Scalar("" if null else node.value, node.style is None)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, index), lines) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"yaml: line {key.start_mark.line + 1}: a key must be a text")
        if own.count(key.value) > 1:
            raise ConfigError(f'yaml: line {key.start_mark.line + 1}: key "{key.value}" stands there twice')
    # Resolves `<<` merges; keys written here come last and win.
    loader.flatten_mapping(node)
    found: dict[str, Any] = {}
    for key, value in node.value:
        if value.tag == _NULL_TAG and value.style is None:
            continue
        name = Scalar(key.value, key.style is None)
        found[name] = _plain(loader, value, (*path, str(name)), lines)
        lines[(*path, str(name))] = key.start_mark.line + 1
    return found


_EXPECTED: Final = {
    "list_type": "must be a list",
    "dict_type": "must be a map",
    "model_type": "must be a map",
    "model_attributes_type": "must be a map",
}


def _problem(error: Mapping[str, Any], document: Document) -> str:
    # A bad key of a map has the place (..., key, "[key]").
    path: Path = tuple(step for step in error["loc"] if step != "[key]")
    line = next((document.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in document.lines), 1)
    cause = error.get("ctx", {}).get("error")
    expected = str(cause) if cause is not None else _EXPECTED.get(error["type"], error["msg"])
    found = error["input"]
    shown = f", not {flags.quote(found)}" if isinstance(found, str) else ""
    return f"yaml: line {line}: {path_text(path)}: {expected}{shown}"


def path_text(path: Path) -> str:
    """``("stack", "dns", 0, "ip")`` as ``stack.dns[0].ip``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _unknown_keys(keys: _Map, document: Document, path: Path) -> list[str]:
    names = {str(field.validation_alias or name): name for name, field in type(keys).model_fields.items()}
    notes = []
    for key in keys.model_extra or {}:
        where = (*path, str(key))
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]}?" if near else f"; known here: {', '.join(sorted(names))}"
        notes.append(f"line {document.lines.get(where, 1)}: unknown key {path_text(where)}{hint}")
    for key, name in names.items():
        value = getattr(keys, name)
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, item in items:
            if isinstance(item, _Map):
                inner = (*path, key) if index is None else (*path, key, index)
                notes += _unknown_keys(item, document, inner)
    return notes
