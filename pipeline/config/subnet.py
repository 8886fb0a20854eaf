"""The addresses of the virtual network and its MTU. What is set is checked, and the rest is derived.

Texts and the order of checks are gvproxy's.
"""

import ipaddress
import re
from typing import Final, NamedTuple

from pipeline.config.address_words import is_ipv4
from pipeline.config.errors import ConfigError
from pipeline.wire import ip

DEFAULT_MTU: Final = 1500
MIN_MTU: Final = 68
MAX_MTU: Final = 65521
"""A frame of this MTU still fits the 2-byte length of /connect, 14 bytes of header included."""
MIN_HOST_BITS: Final = 3


def parse_subnet(text: str) -> ipaddress.IPv4Network:
    """A CIDR text, host bits allowed. Raises ConfigError, also for IPv6."""
    _, slash, length = text.partition("/")
    try:
        if not slash or not re.fullmatch(r"[0-9]{1,3}", length, re.ASCII):
            raise ValueError
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"failed to parse subnet: invalid CIDR address: {text}") from None
    if not isinstance(network, ipaddress.IPv4Network):
        raise ConfigError(f"failed to parse subnet: only IPv4 subnets are served, not {text}")
    return network


class Addresses(NamedTuple):
    """The settings of these names, on which other settings depend."""

    subnet: ipaddress.IPv4Network
    gateway_ip: int
    device_ip: int
    host_ip: int


def addresses(subnet_text: str, gateway: str, device: str, host: str) -> Addresses:
    """The subnet and three addresses in it. An empty text means the first, second and last usable one.

    Raises ConfigError for a subnet longer than /29 and for addresses that cannot be used.
    """
    subnet = parse_subnet(subnet_text)
    found = []
    usable = {"gateway": (gateway, 1), "device": (device, 2), "host": (host, subnet.num_addresses - 2)}
    if subnet.max_prefixlen - subnet.prefixlen < MIN_HOST_BITS:
        for role, (text, _) in usable.items():
            if not text:
                raise ConfigError(f"failed to identify usable {role} IP address in subnet: subnet too small")
    prefix = "failed to validate configuration IPs: "
    for text, offset in usable.values():
        if text and not is_ipv4(text):
            raise ConfigError(f"{prefix}invalid IP address: {text}")
        address = ipaddress.IPv4Address(text) if text else subnet.network_address + offset
        if address not in subnet:
            raise ConfigError(f"{prefix}IP ({address}) not in subnet ({subnet_text})")
        if address == subnet.network_address:
            raise ConfigError(f"{prefix}IP must not be address of subnet: {address}")
        if address == subnet.broadcast_address:
            raise ConfigError(f"{prefix}IP must not be broadcast address: {address}")
        found.append(ip.of(address))
    if len(set(found)) < len(found):
        raise ConfigError(f"{prefix}IP addresses need to be distinct")
    return Addresses(subnet, *found)


def checked_mtu(mtu: int, warnings: list[str]) -> int:
    """The MTU that is used. Raises ConfigError for one that is too small."""
    if mtu < MIN_MTU:
        raise ConfigError(f"mtu is out of range: {mtu} (allowed: {MIN_MTU} to {MAX_MTU})")
    if mtu > MAX_MTU:
        warnings.append(f"an MTU of {mtu} does not fit the 2-byte length of a frame: {MAX_MTU} is used")
    return min(mtu, MAX_MTU)
