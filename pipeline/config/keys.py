"""The layout of the YAML file: every key of gvproxy's file and ours, with its kind and default.

The name of a field here is the name of a setting, and one of the groups of Config (model.py) has a field of
the same name. The alias of the field is the key in the file. So most settings go from the file to Config
without further code. merge.py has code for the others, such as those whose default depends on other settings.
shown.py writes a Config with the same fields. file.py reports unknown keys.
"""

from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, create_model

from pipeline.config import limits
from pipeline.config.model import (
    BUSY_POLL,
    GUARDED,
    GUESTS,
    SLOTS,
    SYMMETRIC,
    UDP_NATS,
    WORKERS,
    EgressPolicy,
    GuestApi,
    Settings,
    SocketForward,
    Zone,
)
from pipeline.config.scalars import (
    Flag,
    GuestAddress,
    Ip,
    LocalAddress,
    Mac,
    OptionalMac,
    Text,
    number,
    one_of,
)


class Map(BaseModel):
    """A map of the file that holds settings. A key has dashes where its setting has underscores."""

    model_config = ConfigDict(frozen=True, alias_generator=lambda name: name.replace("_", "-"))

    def settings(self) -> Settings:
        """The settings of this map and of the maps in it, by name."""
        found: Settings = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            found |= value.settings() if isinstance(value, Map) else {name: value}
        return found

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The map that holds these settings. A missing setting has its default."""
        values: Settings = {}
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Map):
                values[name] = type(field.default).of(settings)
            elif name in settings:
                values[name] = settings[name]
        return cls.model_construct(None, **values)


class InterfaceKeys(Map):
    """Where guests attach."""

    vpnkit: Text = ""
    qemu: Text = ""
    bess: Text = ""
    stdio: Text = ""
    vfkit: Text = ""


class StackKeys(Map):
    """The virtual network."""

    stack_debug: Flag = Field(default=False, alias="debug")
    capture_file: Text = ""
    mtu: Annotated[int, number(0, 2**31 - 1)] = 0
    subnet: Text = ""
    gateway_ip: Text = Field(default="", alias="gatewayIP")
    device_ip: Text = Field(default="", alias="deviceIP")
    host_ip: Text = Field(default="", alias="hostIP")
    gateway_mac: OptionalMac = Field(default=b"", alias="gatewayMacAddress")
    dns_zones: tuple[Zone, ...] = Field(default=(), alias="dns")
    dns_search_domains: tuple[Text, ...] = Field(default=(), alias="dnsSearchDomains")
    forwards: dict[LocalAddress, GuestAddress] = {}
    nat: dict[Ip, Ip] = {}
    gateway_virtual_ips: tuple[Ip, ...] = Field(default=(), alias="gatewayVirtualIPs")
    dhcp_static_leases: dict[Ip, Mac] = Field(default={}, alias="dhcpStaticLeases")
    vpnkit_macs: dict[Text, Mac] = Field(default={}, alias="vpnKitUUIDMacAddresses")
    stack_ec2_metadata_access: Flag = Field(default=False, alias="ec2MetadataAccess")


def _limit_fields() -> dict[str, Any]:
    return {
        limit.name: (Annotated[int, number(limit.low, limit.high)], limit.default) for limit in limits.TABLE
    }


LimitKeys: Final[type[Map]] = create_model("LimitKeys", __base__=Map, **_limit_fields())


class FileKeys(Map):
    """The whole file."""

    listen: tuple[Text, ...] = ()
    services: Text = ""
    metrics: Text = ""
    notification: Text = ""
    log_level: Text = ""
    log_file: Text = ""
    pid_file: Text = ""
    ec2_metadata_access: Flag = False
    interfaces: InterfaceKeys = InterfaceKeys()
    further: tuple[Text, ...] = Field(default=(), alias="links")
    socket_forwards: tuple[SocketForward, ...] = Field(default=(), alias="forwards")
    stack: StackKeys = StackKeys()
    placement: Text = ""
    tcp_workers: Annotated[int, number(*WORKERS)] = 1
    egress_workers: Annotated[int, number(*WORKERS)] = 1
    slots: Annotated[int, number(*SLOTS)] = 512
    busy_poll: Annotated[int, number(*BUSY_POLL)] = 50
    limits: LimitKeys = LimitKeys()  # type: ignore[valid-type]
    api_token_file: Text = ""
    state_file: Text = ""
    guest_api: GuestApi = GuestApi()
    egress_policy: EgressPolicy = EgressPolicy()
    udp_nat: Annotated[str, one_of(*UDP_NATS)] = SYMMETRIC
    guests: Annotated[str, one_of(*GUESTS)] = GUARDED
    proxy_protocol: dict[LocalAddress, Annotated[str, one_of("v1", "v2")]] = {}
