"""The one frozen Config that every process of the program is given.

Addresses are ints (32-bit value) and MAC addresses are 6 bytes, as the workers use them.
Only says what a configuration is and how it looks as a file; config/merge.py makes one from
flags and a YAML file.
"""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from pipeline.config import limits
from pipeline.config.limits import Limits

LINKS: Final = ("vpnkit", "qemu", "bess", "stdio", "vfkit")
"""Fields of Links that name where guests attach, beside /connect and ``further``."""
STREAM_SCHEMES: Final = ("unix", "tcp", "tcp4", "tcp6", "vsock", "fd")
"""Where clients of the API and guests on byte streams may come; fd is a descriptor passed by a parent."""
LINK_SCHEMES: Final[Mapping[str, tuple[str, ...]]] = {
    "qemu": STREAM_SCHEMES,
    "le16": STREAM_SCHEMES,
    "vpnkit": STREAM_SCHEMES,
    "bess": ("unixpacket", "fd"),
    "vfkit": ("unixgram", "fd"),
}
"""Protocols that may stand before the + of ``links``, and schemes behind it, as behind ``-listen-NAME``."""

SEPARATE: Final = "separate"
AUTO: Final = "auto"
PLACEMENTS: Final = (SEPARATE, AUTO)
"""A process for each worker, or fewer where that pays (pipeline.placement)."""
SYMMETRIC: Final = "symmetric"
FULL_CONE: Final = "full-cone"
UDP_NATS: Final = (SYMMETRIC, FULL_CONE)
"""Who may answer a guest's datagram: only whom it was for, or everybody (pipeline.stages.egress.udp.cone)."""
MAX_BUSY_POLL: Final = 50
"""Microseconds that a worker looks for more work before it sleeps (pipeline.stages.loop)."""


@dataclass(frozen=True, slots=True)
class Record:
    """One name of a zone, or a pattern of names, and its address as text."""

    name: str
    ip: str
    regexp: str = ""


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone of the built-in name server; ``default_ip`` answers for names without a record, "" for none."""

    name: str
    records: tuple[Record, ...]
    default_ip: str = ""


@dataclass(frozen=True, slots=True)
class PortForward:
    """A host address and the guest's behind it, ``host:port`` each.

    ``protocol`` is "tcp" or "udp", or one of these with "4" or "6" for a single address family.

    ``proxy_protocol``: version of the PROXY header that the guest gets first, 0 for none.
    """

    protocol: str
    local: str
    remote: str
    proxy_protocol: int = 0


@dataclass(frozen=True, slots=True)
class SocketForward:
    """A unix socket on the host that leads to one in the guest over ssh."""

    socket: str
    dest: str
    user: str
    identity: str


PortRange = tuple[int, int]
"""First and last port."""


@dataclass(frozen=True, slots=True)
class GuestApi:
    """What guests may do through the gateway's port 80. Empty ``addresses`` or ``ports`` mean every one."""

    enabled: bool = True
    unix: bool = True
    addresses: tuple[str, ...] = ()
    """Networks of host addresses on which a guest may open and close forwards."""
    ports: tuple[PortRange, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule of the egress policy. An empty field means "any"; networks and names are one condition."""

    action: str  # "allow" or "deny"
    guests: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    ports: tuple[PortRange, ...] = ()
    protocols: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """Where guests may connect to: the first rule that fits decides, else ``default``."""

    default: str = "allow"
    rules: tuple[PolicyRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Network:
    """The virtual network: its addresses, names and leases."""

    mtu: int
    subnet: ipaddress.IPv4Network
    gateway_ip: int
    device_ip: int
    host_ip: int
    gateway_mac: bytes
    dns_zones: tuple[Zone, ...]
    dns_search_domains: tuple[str, ...]
    nat: Mapping[int, int]
    gateway_virtual_ips: tuple[int, ...]
    dhcp_static_leases: Mapping[int, bytes]
    vpnkit_macs: Mapping[str, bytes]
    udp_nat: str = SYMMETRIC  # one of UDP_NATS
    state_file: str = ""  # keeps the leases


@dataclass(frozen=True, slots=True)
class Links:
    """The sockets: where clients of the API and guests come, and where notifications go."""

    listen: tuple[str, ...]
    services: str
    notification: str  # path of the socket
    vpnkit: str
    qemu: str
    bess: str
    stdio: str
    vfkit: str
    further: tuple[tuple[str, str], ...]  # (protocol, URL)


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes and the memory that they share."""

    placement: str  # one of PLACEMENTS
    tcp_workers: int
    egress_workers: int
    slots: int
    busy_poll: int  # microseconds


@dataclass(frozen=True, slots=True)
class Access:
    """Who may reach what: clients of the API, guests, and the host's side of forwarded ports."""

    forwards: tuple[PortForward, ...]
    socket_forwards: tuple[SocketForward, ...]
    ec2_metadata_access: bool
    api_token_file: str = ""
    guest_api: GuestApi = GuestApi()
    egress_policy: EgressPolicy = EgressPolicy()


@dataclass(frozen=True, slots=True)
class Logging:
    """The files that the program writes for its user: log, process id and capture."""

    log_level: str  # one of critical, error, warning, info, debug
    log_file: str
    pid_file: str
    capture_file: str
    stack_debug: bool


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the program was told. Empty texts mean "none"."""

    network: Network
    links: Links
    workers: Workers
    limits: Limits
    access: Access
    logging: Logging


def mac_bytes(text: str) -> bytes:
    """A MAC address text with colons or dashes as 6 bytes."""
    return bytes.fromhex(text.replace(":", "").replace("-", ""))


def mac_text(mac: bytes) -> str:
    """A MAC address with colons, lower case."""
    return mac.hex(":")


def address_text(address: int) -> str:
    """An address of 32 bits in dotted form."""
    return str(ipaddress.IPv4Address(address))


# --- what a merged configuration is, as a file ---------------------------------------------

ALWAYS: Final = "busy-poll"
"""The key for which zero means something, so it is never left out."""

KEYS: Final[tuple[tuple[str, Callable[[Config], object]], ...]] = (
    (ALWAYS, lambda config: config.workers.busy_poll),
    ("listen", lambda config: list(config.links.listen)),
    ("services", lambda config: config.links.services),
    ("notification", lambda config: config.links.notification),
    ("log-level", lambda config: config.logging.log_level),
    ("log-file", lambda config: config.logging.log_file),
    ("pid-file", lambda config: config.logging.pid_file),
    ("ec2-metadata-access", lambda config: config.access.ec2_metadata_access),
    ("interfaces", lambda config: _filled({name: getattr(config.links, name) for name in LINKS})),
    ("links", lambda config: [f"{protocol}+{url}" for protocol, url in config.links.further]),
    ("forwards", lambda config: [asdict(forward) for forward in config.access.socket_forwards]),
    ("stack.debug", lambda config: config.logging.stack_debug),
    ("stack.capture-file", lambda config: config.logging.capture_file),
    ("stack.mtu", lambda config: config.network.mtu),
    ("stack.subnet", lambda config: str(config.network.subnet)),
    ("stack.gatewayIP", lambda config: address_text(config.network.gateway_ip)),
    ("stack.deviceIP", lambda config: address_text(config.network.device_ip)),
    ("stack.hostIP", lambda config: address_text(config.network.host_ip)),
    ("stack.gatewayMacAddress", lambda config: mac_text(config.network.gateway_mac)),
    ("stack.dns", lambda config: [_zone(zone) for zone in config.network.dns_zones]),
    ("stack.dnsSearchDomains", lambda config: list(config.network.dns_search_domains)),
    ("stack.forwards", lambda config: {forward_key(f): f.remote for f in config.access.forwards}),
    ("stack.nat", lambda config: {address_text(a): address_text(b) for a, b in config.network.nat.items()}),
    ("stack.gatewayVirtualIPs", lambda config: [address_text(a) for a in config.network.gateway_virtual_ips]),
    (
        "stack.dhcpStaticLeases",
        lambda config: {address_text(a): mac_text(m) for a, m in config.network.dhcp_static_leases.items()},
    ),
    (
        "stack.vpnKitUUIDMacAddresses",
        lambda config: {uuid: mac_text(m) for uuid, m in config.network.vpnkit_macs.items()},
    ),
    ("placement", lambda config: config.workers.placement),
    ("tcp-workers", lambda config: config.workers.tcp_workers),
    ("egress-workers", lambda config: config.workers.egress_workers),
    ("slots", lambda config: config.workers.slots),
    ("limits", lambda config: {limit.key: getattr(config.limits, limit.name) for limit in limits.TABLE}),
    ("api-token-file", lambda config: config.access.api_token_file),
    ("state-file", lambda config: config.network.state_file),
    ("guest-api", lambda config: _guest_api(config.access.guest_api)),
    ("egress-policy", lambda config: _policy(config.access.egress_policy)),
    ("udp-nat", lambda config: config.network.udp_nat),
    (
        "proxy-protocol",
        lambda config: {
            forward_key(f): f"v{f.proxy_protocol}" for f in config.access.forwards if f.proxy_protocol
        },
    ),
)
"""Each key of a file and what it is for a Config."""


def as_file(config: Config) -> dict[str, Any]:
    """The keys of a file that gives this Config again, without empty ones."""
    top: dict[str, Any] = {}
    stack: dict[str, Any] = {}
    for path, value_of in KEYS:
        value = value_of(config)
        if not value and path != ALWAYS:
            continue
        if path.startswith("stack."):
            top["stack"] = stack
            stack[path.removeprefix("stack.")] = value
        else:
            top[path] = value
    return top


def forward_key(forward: PortForward) -> str:
    """The key of stack.forwards that means this one."""
    return ("" if forward.protocol == "tcp" else f"{forward.protocol}:") + forward.local


def _zone(zone: Zone) -> dict[str, Any]:
    records = [_filled(asdict(record)) for record in zone.records]
    return _filled({"name": zone.name, "records": records, "defaultIP": zone.default_ip})


def _guest_api(api: GuestApi) -> dict[str, Any]:
    if api == GuestApi():
        return {}
    # Here false says something.
    flags = {"enabled": api.enabled, "unix": api.unix}
    return flags | _filled({"addresses": list(api.addresses), "ports": _port_texts(api.ports)})


def _policy(policy: EgressPolicy) -> dict[str, Any]:
    if policy == EgressPolicy():
        return {}
    rules = [
        _filled(
            {
                "action": rule.action,
                "guests": list(rule.guests),
                "networks": list(rule.networks),
                "names": list(rule.names),
                "ports": _port_texts(rule.ports),
                "protocols": list(rule.protocols),
            }
        )
        for rule in policy.rules
    ]
    return {"default": policy.default, "rules": rules}


def _port_texts(ranges: tuple[PortRange, ...]) -> list[str]:
    return [f"{low}-{high}" for low, high in ranges]


def _filled(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if value}
