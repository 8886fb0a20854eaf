"""The settings of IPv6: whether guests have it, the /64 of their addresses, and the gateway's in it."""

import ipaddress
from collections.abc import Collection, Iterable
from typing import Final

from pipeline.blake2 import blake2b
from pipeline.config.choices import IPV6, OFF
from pipeline.config.errors import ConfigError
from pipeline.config.keys import Ipv6Keys
from pipeline.config.model import Settings
from pipeline.wire import ip, ipv6

GATEWAY: Final = 1
HOST: Final = 0xFE
"""The last bits of the gateway's address, and of the one that means the host. 0xfe is 254, as over IPv4."""
_LOCAL: Final = 0xFD << 120
_GLOBAL_ID_BYTES: Final = 5


def settings(
    flag: str, keys: Ipv6Keys, default: str, mac: bytes, subnet: ipaddress.IPv4Network, mtu: int
) -> Settings:
    """The settings by name. flag: wins over the key ``enabled``. Raises ConfigError.

    default: counts if neither is there. It means "off" if the MTU is too small for IPv6.
    """
    named = flag or (keys.ipv6_enabled if "ipv6_enabled" in keys.named else "")
    enabled = named or (default if mtu >= ipv6.MIN_MTU else OFF)
    if enabled not in IPV6:
        raise ConfigError(f"ipv6 must be one of {', '.join(IPV6)}, not {enabled!r}")
    found = {"ipv6_enabled": enabled, "ipv6_prefix": keys.ipv6_prefix}
    if enabled == OFF:
        return {**found, "ipv6_gateway": 0, "ipv6_host": 0, "ipv6_dns": 0}
    if mtu < ipv6.MIN_MTU:
        raise ConfigError(f"ipv6 needs an MTU of at least {ipv6.MIN_MTU}, not {mtu}")
    prefix = keys.ipv6_prefix or str(derived_prefix(mac, subnet))
    first, last = ip.network(prefix)
    gateway, host = keys.ipv6_gateway or first | GATEWAY, keys.ipv6_host or first | HOST
    dns = keys.ipv6_dns or gateway
    for key, addr in (("gateway", gateway), ("host", host), ("dns", dns)):
        if not first < addr <= last:
            raise ConfigError(f"ipv6.{key}: {ip.text(addr)} must be in {prefix}, and not its first address")
    if gateway == host:
        raise ConfigError(f"ipv6.host: {ip.text(host)} is the gateway's address (allowed: another one)")
    if dns == host:
        raise ConfigError(f"ipv6.dns: {ip.text(dns)} means the host already (allowed: another address)")
    _check_static_leases(prefix, keys.ipv6_static_leases, (gateway, host, dns))
    own = {"ipv6_gateway": gateway, "ipv6_host": host, "ipv6_dns": keys.ipv6_dns}
    return {**found, "ipv6_prefix": prefix, **own}


def _check_static_leases(prefix: str, addresses: Iterable[int], own: Collection[int]) -> None:
    """Raises ConfigError for an address that no guest of this /64 may have. own: the gateway's."""
    first, last = ip.network(prefix)
    for each in addresses:
        if not first < each <= last or each in own:
            words = "is not an address of a guest"
            allowed = f"of {prefix}, and not the gateway's"
            raise ConfigError(f"ipv6.static-leases: {ip.text(each)} {words} (allowed: {allowed})")


def derived_prefix(mac: bytes, subnet: ipaddress.IPv4Network) -> ipaddress.IPv6Network:
    """The first /64 of a unique local network (RFC 4193 section 3.2), the same at every start.

    Its global ID of 40 bits is a hash, as the RFC has it. But the time is not part of it, so that guests keep
    their addresses. Two networks with the same gateway MAC and subnet have the same prefix.
    """
    found = blake2b(mac + str(subnet).encode(), digest_size=_GLOBAL_ID_BYTES).digest()
    return ipaddress.IPv6Network((_LOCAL | int.from_bytes(found, "big") << 80, 64))
