"""The one frozen Config that every process of the program is given: seven groups of settings.

Addresses are ints (32-bit value) and MAC addresses are 6 bytes, as the workers use them. keys.py has the
layout of the same settings in a file. merge.py makes a Config from flags and a file.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Final, get_type_hints
from urllib.parse import urlsplit

from pipeline.config.byte_words import ByteCount
from pipeline.config.choices import (
    ALLOW,
    ASK,
    ASK_SECONDS,
    AUTO,
    CUT,
    DENY,
    GROUPS,
    GUARDED,
    LIFE,
    LOCKED,
    OFF,
    ON,
    OPEN_FLOWS,
    PERIODS,
    PRESETS,
    PROXY,
    PUBLIC,
    QUESTIONS,
    REMOVE,
    SYMMETRIC,
)
from pipeline.config.limits import Limits
from pipeline.config.scalars import (
    AbsolutePath,
    AnyNetwork,
    Duid,
    Flag,
    GuestWord,
    NamePattern,
    OptionalAnyIp,
    Pattern,
    Ports,
    ProxyUrl,
    Text,
    number,
    one_of,
    word_or_none,
)
from pipeline.engines.proxy import via
from pipeline.system import inet
from pipeline.wire import ip

LINKS: Final = ("vpnkit", "qemu", "bess", "stdio", "vfkit", "vhost_user")
"""Fields of Links that name where guests attach, beside /connect and ``further``. A flag has dashes."""

WORKERS: Final = (1, 64)
"""The fewest and the most workers of one kind."""
SLOTS: Final = (64, 1 << 16)
BUSY_POLL: Final = (0, 50)
"""Microseconds that a worker looks for more work before it sleeps (pipeline.stages.loop)."""

FLEET_TTL: Final = (3, 86400)
"""Seconds after which a host of a fleet that is silent is not a member any more."""

MAX_COUNT: Final = 2**53
"""The most connections or questions of a quota."""
MAX_QUOTAS: Final = 100

Settings = dict[str, object]
"""Settings by name. A group of Config has a field of this name, and so has one of the maps of keys.py."""


@dataclass(frozen=True, slots=True)
class Record:
    """One name of a zone, or a pattern of names, and its address as text."""

    name: Text = ""
    ip: OptionalAnyIp = ""
    regexp: Pattern = ""


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone of the built-in name server. ``default_ip``: of names without a record, "" for none."""

    name: Text = ""
    records: tuple[Record, ...] = ()
    default_ip: OptionalAnyIp = field(default="", metadata={"alias": "defaultIP"})


@dataclass(frozen=True, slots=True)
class PortForward:
    """A host address and the guest's address that it leads to, ``host:port`` each.

    ``protocol`` is "tcp" or "udp", or one of these with "4" or "6" for a single address family.

    ``proxy_protocol``: version of the PROXY header that is sent to the guest first, 0 for none.
    """

    protocol: str
    local: str
    remote: str
    proxy_protocol: int = 0


@dataclass(frozen=True, slots=True)
class SocketForward:
    """A unix socket on the host that leads to one in the guest over ssh."""

    socket: Text = ""
    dest: Text = ""
    user: Text = ""
    identity: Text = ""


@dataclass(frozen=True, slots=True)
class GuestApi:
    """What guests may do through the gateway's port 80. Empty ``addresses`` or ``ports`` mean every one."""

    enabled: Flag = True
    unix: Flag = False
    """Forwards of unix sockets of the host."""
    addresses: tuple[AnyNetwork, ...] = ()
    """Networks of host addresses on which a guest may open and close forwards."""
    ports: tuple[Ports, ...] = ()
    ssh: Flag = False
    """Forwards of unix sockets over ssh, with a key of the host. They need ``unix`` too."""
    others: Flag = False
    """Closing forwards that others opened, and opening forwards that lead to other guests."""


Verdict = Annotated[str, one_of(ALLOW, DENY)]
Action = Annotated[str, one_of(ALLOW, DENY, ASK, PROXY)]


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule of the egress policy. An empty field means "any". The destination is one condition.

    It has ``networks``, ``groups`` and ``names``. Names of files are in Access.name_lists.
    """

    action: Action
    guests: tuple[GuestWord, ...] = ()
    networks: tuple[AnyNetwork, ...] = ()
    names: tuple[NamePattern, ...] = ()
    ports: tuple[Ports, ...] = ()
    protocols: tuple[Annotated[str, one_of("tcp", "udp", "icmp")], ...] = ()
    groups: tuple[Annotated[str, one_of(*GROUPS)], ...] = ()
    name_files: tuple[AbsolutePath, ...] = field(default=(), metadata={"alias": "name-files"})
    stated: Annotated[str, one_of("check", "ignore")] = "check"
    """Whether a connection must not state another name than the rule's."""
    stated_ports: tuple[Ports, ...] = field(default=(), metadata={"alias": "stated-ports"})
    """Where it must state one; none: pipeline.engines.rules.WEB_PORTS."""
    via: ProxyUrl = ""
    """The proxy, for the action PROXY alone (pipeline.engines.proxy.via)."""

    @property
    def has_names(self) -> bool:
        """Whether the rule is about names."""
        return bool(self.names or self.name_files)


@dataclass(frozen=True, slots=True)
class Quota:
    """How much each guest may use, for its life or in a period. 0: any number (pipeline.engines.quotas)."""

    guests: tuple[GuestWord, ...] = ()
    per: Annotated[str, one_of(*PERIODS)] = LIFE
    total_bytes: ByteCount = field(default=0, metadata={"alias": "bytes"})
    bytes_from_guest: ByteCount = field(default=0, metadata={"alias": "bytes-from-guest"})
    bytes_to_guest: ByteCount = field(default=0, metadata={"alias": "bytes-to-guest"})
    connections: Annotated[int, number(0, MAX_COUNT)] = 0
    dns_questions: Annotated[int, number(0, MAX_COUNT)] = field(
        default=0, metadata={"alias": "dns-questions"}
    )
    open_flows: Annotated[str, one_of(*OPEN_FLOWS)] = field(default=CUT, metadata={"alias": "open-flows"})


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """Where guests may connect to. The first rule that fits decides. If none fits, ``default`` does.

    An empty ``rebinding``, ``quic``, ``ech`` or ``h3`` has the value of the preset. The properties have it.
    """

    default: Verdict = "allow"
    rules: tuple[PolicyRule, ...] = ()
    preset: Annotated[str, word_or_none(*PRESETS)] = ""
    """Takes the place of ``default``."""
    questions: Annotated[str, one_of(*QUESTIONS)] = QUESTIONS[0]
    rebinding: Annotated[str, word_or_none(ALLOW, DENY)] = ""
    inner_names: tuple[NamePattern, ...] = field(default=(), metadata={"alias": "inner-names"})
    quic: Annotated[str, word_or_none("read", DENY)] = ""
    ech: Annotated[str, word_or_none(ALLOW, REMOVE, DENY)] = ""
    h3: Annotated[str, word_or_none(ALLOW, REMOVE)] = ""
    ask_seconds: Annotated[int, number(*ASK_SECONDS)] = field(default=30, metadata={"alias": "ask-seconds"})
    """For which a flow waits for an answer, if a rule asks for one."""
    quotas: tuple[Quota, ...] = ()

    @property
    def denies_rebinding(self) -> bool:
        """Whether no name of the Internet may have an address inside."""
        return self.rebinding == DENY if self.rebinding else self.preset in (PUBLIC, LOCKED)

    @property
    def denies_quic(self) -> bool:
        """Whether no name is read from QUIC, so that clients use TCP."""
        return self.quic == DENY if self.quic else self.preset == LOCKED

    @property
    def denies_ech(self) -> bool:
        """Whether a hello must not have an encrypted one inside."""
        return self.ech == DENY

    @property
    def removed(self) -> frozenset[str]:
        """What is removed from HTTPS and SVCB answers: "ech", "h3"."""
        ech = self.ech != ALLOW if self.ech else self.preset == LOCKED
        h3 = self.h3 == REMOVE if self.h3 else self.denies_quic
        return frozenset(word for word, removes in (("ech", ech), ("h3", h3)) if removes)

    def with_names(self, lists: Mapping[str, tuple[str, ...]]) -> "EgressPolicy":
        """The policy with the names of files. lists: those of each file."""
        if not any(rule.name_files for rule in self.rules):
            return self
        rules = [
            replace(rule, names=(*rule.names, *(name for path in rule.name_files for name in lists[path])))
            for rule in self.rules
        ]
        return replace(self, rules=tuple(rules))

    def with_proxies(self, addresses: Mapping[str, str]) -> "EgressPolicy":
        """The policy with the addresses of proxies that have names."""
        if not addresses:
            return self
        return replace(self, rules=tuple(_with_address(rule, addresses) for rule in self.rules))


def _with_address(rule: PolicyRule, addresses: Mapping[str, str]) -> PolicyRule:
    name = via.name_of(rule.via) if rule.via else ""
    return replace(rule, via=via.with_address(rule.via, addresses[name])) if name else rule


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
    dns_address: int = 0  # of the network's name server; 0: the gateway's
    dhcp_range: tuple[int, int] = (0, 0)  # first and last dynamic address; zeros: all of the subnet
    dns_servers: tuple[str, ...] = ()  # "address:port" each; none: those of resolv.conf
    guest_names: str = ""  # the zone that has guests' host names
    outbound_address: str = ""  # the source of sockets for guests; none: as routes have it
    outbound_interface: str = ""
    ipv6_enabled: str = OFF  # one of IPV6
    ipv6_prefix: str = ""  # a /64; not empty while IPv6 is on
    ipv6_gateway: int = 0  # 0 while IPv6 is off
    ipv6_host: int = 0  # means the host's ::1; 0 while IPv6 is off
    ipv6_dns: int = 0  # as dns_address
    ipv6_nat64: str = AUTO  # one of NAT64
    ipv6_static_leases: Mapping[int, bytes | Duid] = field(default_factory=dict)

    @property
    def reserved(self) -> frozenset[int]:
        """Addresses that do not mean a guest, since the gateway answers for them."""
        return frozenset({self.host_ip, self.name_server, *self.gateway_virtual_ips, *self.nat})

    @property
    def name_server(self) -> int:
        """The address at which guests find the network's name server."""
        return self.dns_address or self.gateway_ip

    @property
    def name_server6(self) -> int:
        """The same over IPv6; 0 while IPv6 is off."""
        return self.ipv6_dns or self.ipv6_gateway

    @property
    def ipv6_first(self) -> int:
        """The first address of the /64 of guests; 0 while IPv6 is off."""
        return ip.network(self.ipv6_prefix)[0] if self.ipv6_enabled != OFF else 0

    @property
    def ipv6_mac_leases(self) -> dict[int, bytes]:
        """The static leases of IPv6 that belong to a MAC: address -> MAC."""
        leases = self.ipv6_static_leases.items()
        return {addr: owner for addr, owner in leases if not isinstance(owner, Duid)}

    @property
    def ipv6_duid_leases(self) -> dict[int, bytes]:
        """The static leases of IPv6 that belong to a DUID: address -> DUID."""
        leases = self.ipv6_static_leases.items()
        return {addr: owner.value for addr, owner in leases if isinstance(owner, Duid)}

    @property
    def has_nat64(self) -> bool:
        """Whether guests are told how to reach IPv4 hosts over IPv6: by DNS64 and PREF64."""
        return self.ipv6_first != 0 and self.ipv6_nat64 != OFF


@dataclass(frozen=True, slots=True)
class Links:
    """The sockets: where clients of the API and guests come, and where notifications go."""

    listen: tuple[str, ...]
    services: str
    metrics: str  # URL
    web: str  # URL of a loopback address
    notification: str  # path of the socket
    vpnkit: str
    qemu: str
    bess: str
    stdio: str
    vfkit: str
    vhost_user: str
    further: tuple[tuple[str, str], ...]  # (protocol, URL)
    listen_connect: tuple[str, ...] = ()  # /connect without the API

    @property
    def loopback_ports(self) -> frozenset[int]:
        """The ports of all TCP sockets on loopback. They are for the host, and guests must not reach them."""
        api = (*self.listen, *self.listen_connect, self.services, self.metrics, self.web)
        urls = (*api, self.vpnkit, self.qemu, *(url for _, url in self.further))
        parts = [urlsplit(url) for url in urls if url.startswith("tcp")]
        return frozenset(each.port for each in parts if each.port and inet.is_loopback(each.hostname or ""))


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes and the memory that they share."""

    placement: str  # one of PLACEMENTS
    tcp_workers: int
    egress_workers: int
    slots: int
    busy_poll: int  # microseconds
    sandbox: str = ON  # one of SANDBOXES
    user: str = ""  # whom the daemon becomes, by name or number


@dataclass(frozen=True, slots=True)
class Access:
    """Who may reach what: clients of the API, guests, and the host's side of forwarded ports."""

    forwards: tuple[PortForward, ...]
    socket_forwards: tuple[SocketForward, ...]
    ec2_metadata_access: bool
    api_token_file: str = ""
    guest_api: GuestApi = GuestApi()
    quota_file: str = ""  # keeps what guests have used of their quotas
    egress_policy: EgressPolicy = EgressPolicy()
    name_lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names of name-files, by path
    proxy_hosts: Mapping[str, str] = field(default_factory=dict)  # addresses of proxies, by name
    guests: str = GUARDED  # one of GUESTS
    disable: tuple[str, ...] = ()  # of DISABLED

    @property
    def policy(self) -> EgressPolicy:
        """The egress policy with the names of its files and the addresses of its proxies, for workers."""
        return self.egress_policy.with_names(self.name_lists).with_proxies(self.proxy_hosts)


@dataclass(frozen=True, slots=True)
class Logging:
    """The files that the program writes for its user: log, process id and capture."""

    log_level: str  # one of critical, error, warning, info, debug
    log_file: str
    flow_log: str
    pid_file: str
    capture_file: str
    stack_debug: bool


@dataclass(frozen=True, slots=True)
class Fleet:
    """Other hosts whose guests are in this network, and the NATS servers by which they find each other."""

    fleet_servers: str  # as in -fleet; empty: this host is alone
    fleet_host: str
    fleet_network: str
    fleet_credentials: str
    fleet_nkey: str
    fleet_ca: str
    fleet_certificate: str
    fleet_key: str
    fleet_ttl: int  # seconds


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. Empty texts mean "none"."""

    network: Network
    links: Links
    workers: Workers
    limits: Limits
    access: Access
    logging: Logging
    fleet: Fleet

    @classmethod
    def of(cls, settings: Settings) -> "Config":
        """A Config made of settings by name. Each goes to the group that has it. Others are ignored."""
        groups = {
            name: group(**{each.name: settings[each.name] for each in fields(group)})
            for name, group in get_type_hints(cls).items()
        }
        return cls(**groups)

    def settings(self) -> Settings:
        """The settings of all groups by name."""
        groups = (getattr(self, each.name) for each in fields(self))
        return {each.name: getattr(group, each.name) for group in groups for each in fields(group)}


def forward_key(forward: PortForward) -> str:
    """The key of stack.forwards that means this one."""
    return ("" if forward.protocol == "tcp" else f"{forward.protocol}:") + forward.local
