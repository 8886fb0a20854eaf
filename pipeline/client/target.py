"""The command line of ``attach``, checked. Each error names its flag and says what is allowed."""

import ipaddress
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from pipeline.client.show import PROGRAM
from pipeline.config.subnet import MAX_MTU, MIN_MTU
from pipeline.go import flags
from pipeline.links import tap_url
from pipeline.links.addresses import unix_path
from pipeline.links.tap_url import TapPlace
from pipeline.wire import ethernet, ip

MAX_PREFIX: Final = 30
"""A longer one has no room for an address and a gateway beside the network's own two addresses."""

_ADDRESS: Final = "an IPv4 address with prefix length, such as 192.168.127.9/24"


class Target(NamedTuple):
    """What to attach. pid: 0 for a namespace that a path names. address: 0 for DHCP."""

    place: TapPlace
    pid: int
    path: str
    mtu: int
    address: int
    prefix: int
    gateway: int
    resolv_conf: str


def checked(parsed: flags.Parsed) -> Target:
    """The values of the flags. Raises FlagError."""
    word = parsed.arguments[0]
    is_pid = word.isascii() and word.isdigit()
    if not word or (is_pid and int(word) < 1):
        raise flags.FlagError(f"PID|PATH: {word!r} is not the number of a process, or a namespace")
    path = _socket(parsed.text("socket"))
    try:
        netns = tap_url.path_of("netns", f"/proc/{word}/ns/net" if is_pid else word)
    except ValueError as error:
        raise flags.FlagError(f"PID|PATH: {error}") from None
    try:
        userns = tap_url.path_of("userns", parsed.text("userns"))
    except ValueError as error:
        raise flags.FlagError(f"-userns: {error}") from None
    if "\0" in netns + userns:
        raise flags.FlagError("PID|PATH and -userns: a path has no zero bytes")
    place = TapPlace(_interface(parsed.text("iface")), netns, userns, _mac(parsed.text("mac")))
    mtu = parsed.number("mtu")
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise flags.FlagError(f"-mtu is out of range: {mtu} (allowed: {MIN_MTU} to {MAX_MTU})")
    address, prefix, gateway = _static(parsed.text("address"), parsed.text("gateway"))
    pid = int(word) if is_pid else 0
    return Target(place, pid, path, mtu, address, prefix, gateway, parsed.text("resolv-conf"))


def _socket(text: str) -> str:
    """The path of the daemon's socket."""
    if not text:
        raise flags.FlagError(
            "-socket is missing: it names the socket on which the daemon takes taps, such as "
            f"unix:///run/taps of '{PROGRAM} start -link fd+unix:///run/taps'"
        )
    try:
        path = unix_path(text) if urlsplit(text).scheme in ("", "unix") else ""
    except ValueError:
        path = ""
    if not path:
        raise flags.FlagError(f"-socket: {text!r} is not a unix socket, such as unix:///run/taps")
    return path


def _interface(text: str) -> str:
    try:
        place = tap_url.parse(text)
    except ValueError as error:
        raise flags.FlagError(f"-iface: {error}, such as tap0 (at most 15 characters)") from None
    if place.name != text:
        raise flags.FlagError(f"-iface: {text!r} is not a name of an interface, such as tap0")
    return text


def _mac(text: str) -> bytes:
    try:
        return ethernet.machine_mac_parse(text) if text else b""
    except ValueError:
        words = "is not the MAC address of a machine, such as 5a:94:ef:e4:0c:ee"
        raise flags.FlagError(f"-mac: {text!r} {words}") from None


def _static(address: str, gateway: str) -> tuple[int, int, int]:
    """Address, prefix length and gateway; zeros for DHCP."""
    if not address:
        if gateway:
            raise flags.FlagError(f"-gateway needs -address, {_ADDRESS}: DHCP sets the default route itself")
        return 0, 0, 0
    own = _own(address)
    network = own.network
    if not gateway:
        first = network[1]
        if own.ip == first:
            raise flags.FlagError(
                f"-address: {own.ip} is the first address of {network}, which is the gateway "
                "unless -gateway names another one"
            )
        return ip.of(own.ip), network.prefixlen, ip.of(first)
    hosts = f"{network[1]} to {network[-2]}"
    try:
        router = ipaddress.IPv4Address(gateway)
    except ValueError:
        raise flags.FlagError(
            f"-gateway: {gateway!r} is not an IPv4 address (allowed with -address {own}: {hosts})"
        ) from None
    if not network[1] <= router <= network[-2]:
        raise flags.FlagError(f"-gateway: {router} is not a machine of {network} (allowed: {hosts})")
    if router == own.ip:
        raise flags.FlagError(f"-gateway: {router} is the -address itself (allowed: another of {hosts})")
    return ip.of(own.ip), network.prefixlen, ip.of(router)


def _own(text: str) -> ipaddress.IPv4Interface:
    """The address that the tap gets, with its network."""
    host, slash, length = text.partition("/")
    try:
        found = ipaddress.IPv4Address(host)
    except ValueError:
        raise flags.FlagError(f"-address: {text!r} is not {_ADDRESS}") from None
    if not slash:
        raise flags.FlagError(f"-address: {text!r} has no prefix length: it must be {_ADDRESS}")
    good = length.isascii() and length.isdigit() and len(length) <= 2
    if not good or not 1 <= int(length) <= MAX_PREFIX:
        raise flags.FlagError(f"-address: the prefix length of {text!r} must be 1 to {MAX_PREFIX}")
    own = ipaddress.IPv4Interface((found, int(length)))
    if not own.network[0] < found < own.network[-1]:
        raise flags.FlagError(
            f"-address: {found} is not the address of a machine in {own.network} "
            f"(allowed: {own.network[1]} to {own.network[-2]})"
        )
    if found.is_multicast or found.is_loopback or found.is_reserved or int(found) >> 24 == 0:
        raise flags.FlagError(f"-address: {found} is not the address of a machine: it must be {_ADDRESS}")
    return own
