"""The place of a VXLAN link, as -link has it: ``vxlan+udp://LOCAL[:PORT]?vni=NUMBER&remote=ADDRESS[,...]``.

::

    vxlan+udp://192.0.2.1:4789?vni=7&remote=192.0.2.2,192.0.2.3
    vxlan+udp://[2001:db8::1]?vni=7&remote=2001:db8::2              port 4789 if none is named
    vxlan+udp://0.0.0.0?vni=7&remote=192.0.2.2,[192.0.2.3]:8472     a host with another port
    vxlan+udp://192.0.2.1?vni=7                                     a fleet knows the hosts (-fleet)

All hosts are numeric addresses of one family: frames are accepted from these alone, so their addresses must
not depend on a name server. This module opens nothing. pipeline.links.vxlan does.
"""

import ipaddress
import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from pipeline.wire import vxlan
from pipeline.wire.vxlan import MAX_VNI, PORT

PROTOCOL: Final = "vxlan"
SCHEME: Final = "udp"
FORM: Final = f"{PROTOCOL}+{SCHEME}://LOCAL[:PORT]?vni=NUMBER&remote=ADDRESS[,ADDRESS...]"

MAX_REMOTES: Final = 256
"""Each frame to a group is sent once to each remote."""
MAX_PORT: Final = 0xFFFF
MIN_MTU: Final = 68
MAX_MTU: Final = 65521
"""The bounds of the network's MTU (pipeline.config.subnet)."""

_KEYS: Final = ("vni", "remote")
_NUMBER: Final = re.compile(r"[0-9]{1,8}", re.ASCII)
_BRACKETS: Final = re.compile(r"\[([^\[\]]*)\](?::(.*))?", re.DOTALL)


class End(NamedTuple):
    """A numeric address and a port."""

    address: str
    port: int


class VxlanPlace(NamedTuple):
    """Where the socket is bound, the number of the network, and the hosts that are known from the start."""

    local: End
    vni: int
    remotes: tuple[End, ...]

    @property
    def is_ipv6(self) -> bool:
        """Whether the datagrams between hosts are those of IPv6."""
        return ":" in self.local.address


def inner_mtu(place: VxlanPlace, path_mtu: int) -> int:
    """The longest packet of a guest that fits a path of this MTU."""
    overhead = vxlan.OVERHEAD_V6 if place.is_ipv6 else vxlan.OVERHEAD_V4
    return min(max(path_mtu - overhead, MIN_MTU), MAX_MTU)


def parse(url: str) -> VxlanPlace:
    """The place that a URL means, which follows ``vxlan+``. Raises ValueError with what is wrong."""
    parts = urlsplit(url)
    if parts.scheme != SCHEME:
        raise ValueError(f"unexpected scheme in {url!r}")
    if parts.path or parts.fragment:
        raise ValueError(f"{(parts.path or parts.fragment)!r} has no meaning after the address")
    local = _end("the local address", parts.netloc)
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError:
        raise ValueError(f"{parts.query!r} is not a list of settings") from None
    given = dict(pairs)
    if len(given) < len(pairs):
        raise ValueError(f"a setting stands twice in {parts.query!r}")
    for key in given:
        if key not in _KEYS:
            raise ValueError(f"unknown setting {key!r}")
    if not given.get("vni"):
        raise ValueError("vni is missing")
    remotes = _remotes(given["remote"], local) if "remote" in given else ()
    return VxlanPlace(local, _vni(given["vni"]), remotes)


def _vni(text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > MAX_VNI:
        raise ValueError(f"vni {text!r} must be a whole number from 0 to {MAX_VNI}")
    return int(text)


def _remotes(text: str, local: End) -> tuple[End, ...]:
    remotes = tuple(_end("remote", each) for each in text.split(","))
    if len(remotes) > MAX_REMOTES:
        raise ValueError(f"remote names {len(remotes)} hosts, and at most {MAX_REMOTES} are possible")
    seen: set[str] = set()
    for remote in remotes:
        found = ipaddress.ip_address(remote.address)
        if found.is_unspecified or found.is_multicast:
            raise ValueError(f"remote {remote.address} is not the address of one host")
        if (":" in remote.address) != (":" in local.address):
            raise ValueError(f"remote {remote.address} and local {local.address} are of different families")
        if remote.address == local.address:
            raise ValueError(f"remote {remote.address} is the local address")
        if remote.address in seen:
            raise ValueError(f"remote {remote.address} stands twice")
        seen.add(remote.address)
    return remotes


def _end(what: str, text: str) -> End:
    """An address with or without a port. An IPv6 address with a port stands in brackets."""
    host, port = text, ""
    if bracketed := _BRACKETS.fullmatch(text):
        host, port = bracketed[1], bracketed[2] or ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{what} {text!r} is not a numeric address") from None
    number = int(port) if _NUMBER.fullmatch(port) else 0
    if (port or text.endswith(":")) and not 0 < number <= MAX_PORT:
        raise ValueError(f"{what} {text!r}: the port must be a whole number from 1 to {MAX_PORT}")
    return End(str(address), number or PORT)
