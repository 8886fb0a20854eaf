"""The schema of the YAML file: every key of gvproxy's file and ours, with its kind and default.

A key that is not here is kept aside, for file.py to report. merge.py says what the keys mean together.
"""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, create_model

from pipeline.config import limits
from pipeline.config.model import GUARDED, GUESTS, MAX_BUSY_POLL, SYMMETRIC, UDP_NATS
from pipeline.config.scalars import (
    Flag,
    GuestAddress,
    Ip,
    Ipv4Network,
    LocalAddress,
    Mac,
    NamePattern,
    Network,
    OptionalAnyIp,
    OptionalMac,
    Pattern,
    Ports,
    Text,
    number,
    one_of,
)


class Map(BaseModel):
    """A map of the file. Unknown keys stay in ``model_extra``."""

    model_config = ConfigDict(frozen=True, extra="allow")


class RecordKeys(Map):
    """One name of a zone, or a pattern of names."""

    name: Text = ""
    ip: OptionalAnyIp = ""
    regexp: Pattern = ""


class ZoneKeys(Map):
    """One zone of the built-in name server."""

    name: Text = ""
    records: list[RecordKeys] = []
    default_ip: OptionalAnyIp = Field(default="", validation_alias="defaultIP")


class SocketForwardKeys(Map):
    """A socket on the host that leads to one in the guest over ssh."""

    socket: Text = ""
    dest: Text = ""
    user: Text = ""
    identity: Text = ""


class InterfaceKeys(Map):
    """Where guests attach."""

    vpnkit: Text = ""
    qemu: Text = ""
    bess: Text = ""
    stdio: Text = ""
    vfkit: Text = ""


class StackKeys(Map):
    """The virtual network."""

    debug: Flag = False
    capture_file: Text = Field(default="", validation_alias="capture-file")
    mtu: Annotated[int, number(0, 2**31 - 1)] = 0
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


def _limit_fields() -> dict[str, Any]:
    return {
        limit.name: (
            Annotated[int, number(limit.low, limit.high)],
            Field(limit.default, validation_alias=limit.key),
        )
        for limit in limits.TABLE
    }


LimitKeys: Final[type[Map]] = create_model("LimitKeys", __base__=Map, **_limit_fields())


class GuestApiKeys(Map):
    """What guests may do through the gateway's port 80."""

    enabled: Flag = True
    unix: Flag = True
    addresses: list[Network] = []
    ports: list[Ports] = []


class PolicyRuleKeys(Map):
    """One rule of the egress policy."""

    action: Annotated[str, one_of("allow", "deny")]
    guests: list[Ipv4Network] = []
    networks: list[Ipv4Network] = []
    names: list[NamePattern] = []
    ports: list[Ports] = []
    protocols: list[Annotated[str, one_of("tcp", "udp", "icmp")]] = []


class EgressPolicyKeys(Map):
    """Where guests may connect to."""

    default: Annotated[str, one_of("allow", "deny")] = "allow"
    rules: list[PolicyRuleKeys] = []


class FileKeys(Map):
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
    tcp_workers: Annotated[int, number(1, 64)] = Field(default=1, validation_alias="tcp-workers")
    egress_workers: Annotated[int, number(1, 64)] = Field(default=1, validation_alias="egress-workers")
    slots: Annotated[int, number(64, 1 << 16)] = 512
    busy_poll: Annotated[int, number(0, MAX_BUSY_POLL)] = Field(
        default=MAX_BUSY_POLL, validation_alias="busy-poll"
    )
    limits: LimitKeys = LimitKeys()  # type: ignore[valid-type]
    api_token_file: Text = Field(default="", validation_alias="api-token-file")
    state_file: Text = Field(default="", validation_alias="state-file")
    guest_api: GuestApiKeys = Field(default=GuestApiKeys(), validation_alias="guest-api")
    egress_policy: EgressPolicyKeys = Field(default=EgressPolicyKeys(), validation_alias="egress-policy")
    udp_nat: Annotated[str, one_of(*UDP_NATS)] = Field(default=SYMMETRIC, validation_alias="udp-nat")
    guests: Annotated[str, one_of(*GUESTS)] = GUARDED
    proxy_protocol: dict[LocalAddress, Annotated[str, one_of("v1", "v2")]] = Field(
        default={}, validation_alias="proxy-protocol"
    )
