"""Tells addresses and parts of keys in words of the configuration apart."""

import ipaddress
from typing import Final

_NETWORKS: Final = ("udp", "udp4", "udp6", "tcp", "tcp4", "tcp6")


def split_network(text: str) -> tuple[str, str]:
    """(network, ``host:port``) of a key of stack.forwards. ``tcp4:80`` is port 80 of a host of that name."""
    network, _, local = text.partition(":")
    return (network, local) if network in _NETWORKS and ":" in local else ("tcp", text)


def is_bracketed_ipv6(text: str) -> bool:
    """Whether text is an IPv6 address in brackets, without a zone, and no IPv4-mapped one."""
    return text.startswith("[") and text.endswith("]") and ipv6_number(text[1:-1]) is not None


def ipv6_number(text: str) -> int | None:
    """The number of an IPv6 address without a zone that is no IPv4-mapped one; None for any other text."""
    try:
        found = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return int(found) if found.scope_id is None and found.ipv4_mapped is None else None


def is_ipv4(text: str) -> bool:
    """Whether text is an IPv4 address in dotted form."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
