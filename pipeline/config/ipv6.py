"""The settings of IPv6: whether guests have it, and the /64 of their addresses."""

import hashlib
import ipaddress
from typing import Final

from pipeline.config.choices import IPV6, ON
from pipeline.config.errors import ConfigError
from pipeline.config.model import Settings
from pipeline.wire import ipv6

_LOCAL: Final = 0xFD << 120
_GLOBAL_ID_BYTES: Final = 5


def settings(
    flag: str, key: str, prefix: str, mac: bytes, subnet: ipaddress.IPv4Network, mtu: int
) -> Settings:
    """The settings by name. flag: wins over ``key``. prefix: of the file, or empty. Raises ConfigError."""
    enabled = flag or key
    if enabled not in IPV6:
        raise ConfigError(f"ipv6 must be one of {', '.join(IPV6)}, not {enabled!r}")
    if enabled == ON and mtu < ipv6.MIN_MTU:
        raise ConfigError(f"ipv6 needs an MTU of at least {ipv6.MIN_MTU}, not {mtu}")
    if enabled == ON and not prefix:
        prefix = str(derived_prefix(mac, subnet))
    return {"ipv6_enabled": enabled, "ipv6_prefix": prefix}


def derived_prefix(mac: bytes, subnet: ipaddress.IPv4Network) -> ipaddress.IPv6Network:
    """The first /64 of a unique local network (RFC 4193 section 3.2), the same at every start.

    Its global ID of 40 bits is a hash, as the RFC has it. But the time is not part of it, so that guests keep
    their addresses. Two networks with the same gateway MAC and subnet have the same prefix.
    """
    found = hashlib.sha256(mac + str(subnet).encode()).digest()[-_GLOBAL_ID_BYTES:]
    return ipaddress.IPv6Network((_LOCAL | int.from_bytes(found, "big") << 80, 64))
