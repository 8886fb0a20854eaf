"""The one frozen Config that every process of the program is given.

Addresses are ints (32-bit value) and MAC addresses are 6 bytes, as the workers use them.
Only says what a configuration is and how it looks as a file; config/merge.py makes one from
flags and a YAML file.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from pipeline.config import limits

LINKS: Final = ("vpnkit", "qemu", "bess", "stdio", "vfkit")
"""Fields of Config that name where guests attach, beside /connect and ``links``."""
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
GUARDED: Final = "guarded"
ISOLATED: Final = "isolated"
OPEN: Final = "open"
GUESTS: Final = (GUARDED, ISOLATED, OPEN)
"""What guests may send to each other: honest frames, nothing, or anything (pipeline.stages.demux.guard)."""
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
class Config:
    """Everything the program was told. Empty texts mean "none"."""

    listen: tuple[str, ...]
    services: str
    notification: str  # path of the socket
    log_level: str  # one of critical, error, warning, info, debug
    log_file: str
    pid_file: str
    vpnkit: str
    qemu: str
    bess: str
    stdio: str
    vfkit: str
    links: tuple[tuple[str, str], ...]  # (protocol, URL) of further ones
    socket_forwards: tuple[SocketForward, ...]
    ec2_metadata_access: bool
    capture_file: str
    stack_debug: bool
    mtu: int
    subnet: ipaddress.IPv4Network
    gateway_ip: int
    device_ip: int
    host_ip: int
    gateway_mac: bytes
    dns_zones: tuple[Zone, ...]
    dns_search_domains: tuple[str, ...]
    forwards: tuple[PortForward, ...]
    nat: Mapping[int, int]
    gateway_virtual_ips: tuple[int, ...]
    dhcp_static_leases: Mapping[int, bytes]
    vpnkit_macs: Mapping[str, bytes]
    placement: str  # one of PLACEMENTS
    tcp_workers: int
    egress_workers: int
    slots: int
    busy_poll: int  # microseconds
    max_tcp_flows: int
    max_tcp_flows_per_guest: int
    max_half_open_per_guest: int
    max_syns_per_second: int
    max_receive_memory: int
    max_receive_memory_per_guest: int
    max_reassembly_bytes: int
    max_reassembly_ranges: int
    max_out_of_order_slots: int
    max_slots_per_flow: int
    max_closing_bytes: int
    max_udp_flows: int
    max_udp_flows_per_second: int
    max_udp_flows_per_guest: int
    max_udp_clients_per_forward: int
    max_macs: int
    max_macs_per_guest: int
    max_neighbors: int
    max_neighbors_per_guest: int
    max_fragmented: int
    max_fragmented_per_guest: int
    max_fragment_bytes: int
    max_fragment_bytes_per_guest: int
    max_answers_per_second: int
    max_icmp_errors_per_second: int
    max_forwards: int
    max_bad_frames_per_second: int
    api_token_file: str = ""
    state_file: str = ""
    guest_api: GuestApi = GuestApi()
    egress_policy: EgressPolicy = EgressPolicy()
    udp_nat: str = SYMMETRIC  # one of UDP_NATS
    guests: str = GUARDED  # one of GUESTS


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


def as_file(config: Config) -> dict[str, Any]:
    """The keys of a file that gives this Config again, without empty ones."""
    stack = {
        "debug": config.stack_debug,
        "capture-file": config.capture_file,
        "mtu": config.mtu,
        "subnet": str(config.subnet),
        "gatewayIP": address_text(config.gateway_ip),
        "deviceIP": address_text(config.device_ip),
        "hostIP": address_text(config.host_ip),
        "gatewayMacAddress": mac_text(config.gateway_mac),
        "dns": [
            _filled(
                {
                    "name": z.name,
                    "records": [_filled(asdict(r)) for r in z.records],
                    "defaultIP": z.default_ip,
                }
            )
            for z in config.dns_zones
        ],
        "dnsSearchDomains": list(config.dns_search_domains),
        "forwards": {forward_key(f): f.remote for f in config.forwards},
        "nat": {address_text(ip): address_text(to) for ip, to in config.nat.items()},
        "gatewayVirtualIPs": [address_text(ip) for ip in config.gateway_virtual_ips],
        "dhcpStaticLeases": {address_text(ip): mac_text(m) for ip, m in config.dhcp_static_leases.items()},
        "vpnKitUUIDMacAddresses": {uuid: mac_text(m) for uuid, m in config.vpnkit_macs.items()},
    }
    # Zero means something for it, so it is never left out.
    return {"busy-poll": config.busy_poll} | _filled(
        {
            "listen": list(config.listen),
            "services": config.services,
            "notification": config.notification,
            "log-level": config.log_level,
            "log-file": config.log_file,
            "pid-file": config.pid_file,
            "ec2-metadata-access": config.ec2_metadata_access,
            "interfaces": _filled({name: getattr(config, name) for name in LINKS}),
            "links": [f"{protocol}+{url}" for protocol, url in config.links],
            "forwards": [asdict(forward) for forward in config.socket_forwards],
            "stack": _filled(stack),
            "placement": config.placement,
            "tcp-workers": config.tcp_workers,
            "egress-workers": config.egress_workers,
            "slots": config.slots,
            "limits": {limit.key: getattr(config, limit.name) for limit in limits.TABLE},
            "api-token-file": config.api_token_file,
            "state-file": config.state_file,
            "guest-api": _guest_api(config.guest_api),
            "egress-policy": _policy(config.egress_policy),
            "udp-nat": config.udp_nat,
            "guests": config.guests,
            "proxy-protocol": {
                forward_key(f): f"v{f.proxy_protocol}" for f in config.forwards if f.proxy_protocol
            },
        }
    )


def forward_key(forward: PortForward) -> str:
    """The key of stack.forwards that means this one."""
    return ("" if forward.protocol == "tcp" else f"{forward.protocol}:") + forward.local


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
