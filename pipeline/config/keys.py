"""The layout of the YAML file: every key of gvproxy's file and ours, with its kind and default.

The name of a field here is the name of a setting, and one of the groups of Config (model.py) has a field of
the same name. The alias of the field is the key in the file. So most settings go from the file to Config
without further code. merge.py has code for the others, such as those whose default depends on other settings.
shown.py writes a Config with the same fields. file.py reports unknown keys.
"""

from dataclasses import dataclass, field, fields, make_dataclass
from typing import Annotated, ClassVar, Final, Self

from pipeline.config import limits
from pipeline.config.choices import (
    AUTO,
    DISABLED,
    GUARDED,
    GUESTS,
    IPV6,
    NAT64,
    OFF,
    ON,
    SANDBOXES,
    SYMMETRIC,
    UDP_NATS,
)
from pipeline.config.model import (
    BUSY_POLL,
    FLEET_TTL,
    SLOTS,
    WORKERS,
    EgressPolicy,
    GuestApi,
    Settings,
    SocketForward,
    Zone,
)
from pipeline.config.scalars import (
    Flag,
    FleetName,
    FleetServers,
    GuestAddress,
    GuestZone,
    Interface,
    Ip,
    Ip6,
    Ipv6Prefix,
    LocalAddress,
    Mac,
    NameServer,
    OptionalIp,
    OptionalIpRange,
    OptionalIpv6,
    OptionalMac,
    SourceAddress,
    StaticClient,
    Text,
    number,
    one_of,
    switch,
)


def dashed(name: str) -> str:
    """The key of a setting that has no other one."""
    return name.replace("_", "-")


@dataclass(frozen=True)
class Map:
    """A map of the file that holds settings. A key has dashes where its setting has underscores."""

    named: ClassVar[frozenset[str]] = frozenset()
    """The settings of this map that the file names. file.py sets it."""

    # For pydantic, where a file is read (schema.py).
    __pydantic_config__: ClassVar[dict[str, object]] = {"alias_generator": dashed}

    def settings(self) -> Settings:
        """The settings of this map and of the maps in it, by name."""
        found: Settings = {}
        for each in fields(self):
            value = getattr(self, each.name)
            found |= value.settings() if isinstance(value, Map) else {each.name: value}
        return found

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The map that holds these settings. A missing setting has its default."""
        values: Settings = {}
        for each in fields(cls):
            if isinstance(each.default, Map):
                values[each.name] = type(each.default).of(settings)
            elif each.name in settings:
                values[each.name] = settings[each.name]
        return cls(**values)


def _key(name: str) -> dict[str, str]:
    """The metadata of a field that has a key of another name."""
    return {"alias": name}


@dataclass(frozen=True)
class InterfaceKeys(Map):
    """Where guests attach."""

    vpnkit: Text = ""
    qemu: Text = ""
    bess: Text = ""
    stdio: Text = ""
    vfkit: Text = ""
    vhost_user: Text = ""


@dataclass(frozen=True)
class StackKeys(Map):
    """The virtual network."""

    stack_debug: Flag = field(default=False, metadata=_key("debug"))
    capture_file: Text = ""
    mtu: Annotated[int, number(0, 2**31 - 1)] = 0
    subnet: Text = ""
    gateway_ip: Text = field(default="", metadata=_key("gatewayIP"))
    device_ip: Text = field(default="", metadata=_key("deviceIP"))
    host_ip: Text = field(default="", metadata=_key("hostIP"))
    gateway_mac: OptionalMac = field(default=b"", metadata=_key("gatewayMacAddress"))
    dns_zones: tuple[Zone, ...] = field(default=(), metadata=_key("dns"))
    dns_search_domains: tuple[Text, ...] = field(default=(), metadata=_key("dnsSearchDomains"))
    forwards: dict[LocalAddress, GuestAddress] = field(default_factory=dict)
    nat: dict[Ip, Ip] = field(default_factory=dict)
    gateway_virtual_ips: tuple[Ip, ...] = field(default=(), metadata=_key("gatewayVirtualIPs"))
    dhcp_static_leases: dict[Ip, Mac] = field(default_factory=dict, metadata=_key("dhcpStaticLeases"))
    vpnkit_macs: dict[Text, Mac] = field(default_factory=dict, metadata=_key("vpnKitUUIDMacAddresses"))
    stack_ec2_metadata_access: Flag = field(default=False, metadata=_key("ec2MetadataAccess"))


@dataclass(frozen=True)
class Ipv6Keys(Map):
    """IPv6 of guests."""

    ipv6_enabled: Annotated[str, switch(*IPV6)] = field(default=OFF, metadata=_key("enabled"))
    ipv6_prefix: Ipv6Prefix = field(default="", metadata=_key("prefix"))
    ipv6_gateway: OptionalIpv6 = field(default=0, metadata=_key("gateway"))
    ipv6_host: OptionalIpv6 = field(default=0, metadata=_key("host"))
    ipv6_dns: OptionalIpv6 = field(default=0, metadata=_key("dns"))
    ipv6_nat64: Annotated[str, switch(*NAT64)] = field(default=AUTO, metadata=_key("nat64"))
    ipv6_static_leases: dict[Ip6, StaticClient] = field(default_factory=dict, metadata=_key("static-leases"))


@dataclass(frozen=True)
class FleetKeys(Map):
    """Other hosts whose guests are in the same network."""

    fleet_servers: FleetServers = field(default="", metadata=_key("servers"))
    fleet_host: FleetName = field(default="", metadata=_key("host"))
    fleet_network: FleetName = field(default="", metadata=_key("network"))
    fleet_credentials: Text = field(default="", metadata=_key("credentials"))
    fleet_nkey: Text = field(default="", metadata=_key("nkey"))
    fleet_ca: Text = field(default="", metadata=_key("ca"))
    fleet_certificate: Text = field(default="", metadata=_key("certificate"))
    fleet_key: Text = field(default="", metadata=_key("key"))
    fleet_ttl: Annotated[int, number(*FLEET_TTL)] = field(default=90, metadata=_key("ttl"))


LimitKeys: Final[type[Map]] = make_dataclass(
    "LimitKeys",
    [
        (limit.name, Annotated[int, number(limit.low, limit.high)], field(default=limit.default))
        for limit in limits.TABLE
    ],
    bases=(Map,),
    frozen=True,
)
NO_POLICY: Final = EgressPolicy()
NO_GUEST_API: Final = GuestApi()
"""What a file without the key has. gvproxy's clients then have other rights (merge.py)."""


@dataclass(frozen=True)
class FileKeys(Map):
    """The whole file."""

    listen: tuple[Text, ...] = ()
    listen_connect: tuple[Text, ...] = ()
    services: Text = ""
    metrics: Text = ""
    web: Text = ""
    notification: Text = ""
    log_level: Text = ""
    log_file: Text = ""
    flow_log: Text = ""
    pid_file: Text = ""
    ec2_metadata_access: Flag = False
    interfaces: InterfaceKeys = InterfaceKeys()
    further: tuple[Text, ...] = field(default=(), metadata=_key("links"))
    socket_forwards: tuple[SocketForward, ...] = field(default=(), metadata=_key("forwards"))
    stack: StackKeys = StackKeys()
    placement: Text = ""
    tcp_workers: Annotated[int, number(*WORKERS)] = 1
    egress_workers: Annotated[int, number(*WORKERS)] = 1
    slots: Annotated[int, number(*SLOTS)] = 512
    busy_poll: Annotated[int, number(*BUSY_POLL)] = 50
    sandbox: Annotated[str, switch(*SANDBOXES)] = ON
    user: Text = ""
    limits: LimitKeys = LimitKeys()  # type: ignore[valid-type]  # noqa: RUF009
    api_token_file: Text = ""
    state_file: Text = ""
    quota_file: Text = ""
    guest_api: GuestApi = NO_GUEST_API
    egress_policy: EgressPolicy = NO_POLICY
    ipv6: Ipv6Keys = Ipv6Keys()
    fleet: FleetKeys = FleetKeys()
    udp_nat: Annotated[str, one_of(*UDP_NATS)] = SYMMETRIC
    guests: Annotated[str, one_of(*GUESTS)] = GUARDED
    disable: tuple[Annotated[str, one_of(*DISABLED)], ...] = ()
    dns_address: OptionalIp = 0
    dns_servers: tuple[NameServer, ...] = ()
    dhcp_range: OptionalIpRange = (0, 0)
    guest_names: GuestZone = ""
    outbound_address: SourceAddress = ""
    outbound_interface: Interface = ""
    proxy_protocol: dict[LocalAddress, Annotated[str, one_of("v1", "v2")]] = field(default_factory=dict)
