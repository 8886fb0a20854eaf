"""The protocols of guest links, by name: which sockets each uses, and which listener serves it.

The supervisor binds the sockets with ``bind``. It hands them to ingress, which makes the listener with
``make``. ``connect`` is not one of these protocols: its guests arrive through the HTTP API.
"""

import socket
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

from pipeline.links import addresses, datagram, passed, seqpacket, stdio, tap_url, vpnkit, vxlan_url
from pipeline.links.accepting import StreamListener
from pipeline.links.addresses import AddressError
from pipeline.links.datagram import VfkitListener
from pipeline.links.inherited import SCHEME as FD
from pipeline.links.inherited import Inherited
from pipeline.links.listener import GatewayAddresses, Listener
from pipeline.links.passed import PassedListener
from pipeline.links.stdio import StdioListener
from pipeline.links.vpnkit import VpnkitListener
from pipeline.system import inet
from pipeline.wire import framing

QEMU: Final = "qemu"
LE16: Final = "le16"
"""A stream of frames with a 2-byte length before each, without a request or a handshake."""
BESS: Final = seqpacket.PROTOCOL
VFKIT: Final = datagram.PROTOCOL
VPNKIT: Final = vpnkit.PROTOCOL
STDIO: Final = stdio.PROTOCOL
TAP: Final = tap_url.PROTOCOL
VXLAN: Final = vxlan_url.PROTOCOL
"""Its guests are on other hosts."""
PASSED: Final = passed.PROTOCOL
"""Other programs pass the guests' sockets on this one."""
VHOST_USER: Final = "vhost-user"
"""The guest's frames are in its memory. The monitor shares it over this socket."""


class Form(NamedTuple):
    """The sockets of a protocol: their kind, and the URL schemes that it accepts besides fd://."""

    kind: socket.SocketKind
    schemes: tuple[str, ...]


_STREAM: Final = Form(socket.SOCK_STREAM, ("unix", *inet.TCP, "vsock"))
FORMS: Final[Mapping[str, Form]] = {
    QEMU: _STREAM,
    LE16: _STREAM,
    VPNKIT: _STREAM,
    BESS: Form(socket.SOCK_SEQPACKET, ("unixpacket",)),
    VFKIT: Form(socket.SOCK_DGRAM, ("unixgram",)),
    PASSED: Form(socket.SOCK_STREAM, ("unix",)),
    VHOST_USER: Form(socket.SOCK_STREAM, ("unix",)),
}

_KIND_NAMES: Final = {
    socket.SOCK_STREAM: "stream",
    socket.SOCK_SEQPACKET: "packet",
    socket.SOCK_DGRAM: "datagram",
}


def bind(protocol: str, url: str, inherited: Inherited) -> socket.socket:
    """The socket for guests of a protocol (not stdio). Raises AddressError.

    An fd:// URL must have been claimed (Inherited.claim).
    """
    if protocol == VXLAN:
        # Few daemons have one.
        from pipeline.links import vxlan_socket  # noqa: PLC0415

        return vxlan_socket.bind(vxlan_url.parse(url))
    form = FORMS[protocol]
    if protocol == VHOST_USER and sys.platform != "linux":
        raise AddressError(f"cannot listen: {url}: {protocol} needs eventfds and memfds (allowed: on Linux)")
    if url.startswith(FD):
        sock = inherited.take(url)
        check_kind(sock, form.kind, f"{url} for {protocol}")
        return sock
    if url.partition("://")[0] not in form.schemes:
        allowed = ", ".join(f"{scheme}://" for scheme in form.schemes)
        raise AddressError(f"cannot listen: unexpected scheme in {url!r} for {protocol} (allowed: {allowed})")
    return addresses.bind_datagram(url) if form.kind == socket.SOCK_DGRAM else addresses.listen(url)


def check_kind(sock: socket.socket, kind: socket.SocketKind, what: str) -> None:
    """Close the socket and raise AddressError if it is of another kind. what: names it in the error."""
    found = sock.type
    if found != kind:
        sock.close()
        words = f"{_KIND_NAMES.get(found, found.name)} socket, not a {_KIND_NAMES[kind]} socket"
        raise AddressError(f"{what}: the descriptor is a {words}")


def companions(protocol: str) -> list[socket.socket]:
    """Further sockets that a listener of this protocol needs: the process that has it can make none."""
    return [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)] if protocol == "vfkit" else []


def make(
    protocol: str,
    fds: list[int],
    *,
    once: bool = False,
    macs: Mapping[str, bytes] | None = None,
    vnet: int | None = None,
    shared: bool = False,
    place: str = "",
    gateway: GatewayAddresses | None = None,
) -> Listener:
    """The listener for these descriptors, which it owns from now on. ValueError for an unknown protocol.

    fds: of a bound socket, and of its companions().

    once: serve only the first guest. macs: the MAC addresses of vpnkit clients, by UUID. vnet: what guests
    take (pipeline.links.vnet), None without virtio-net headers. vpnkit has none. shared: another program may
    have the open file of a tap too. place, gateway: for vxlan, its URL and what must not leave this host.
    """
    if protocol == STDIO:
        return StdioListener(*fds)
    if protocol == TAP:
        # Few daemons have a tap, and on some systems there is none.
        from pipeline.links.tap import TapListener  # noqa: PLC0415

        return TapListener(fds[0], shared=shared)
    if protocol == VXLAN and gateway is not None:
        # The same for other hosts.
        from pipeline.links.vxlan import VxlanListener  # noqa: PLC0415

        return VxlanListener(socket.socket(fileno=fds[0]), vxlan_url.parse(place), gateway)
    if protocol not in FORMS:
        raise ValueError(f"unknown protocol {protocol!r}")
    sock = socket.socket(fileno=fds[0])
    match protocol:
        case "bess":
            return seqpacket.bess_listener(sock, once, vnet)
        case "vfkit":
            return VfkitListener(sock, socket.socket(fileno=fds[1]), once, vnet)
        case "vpnkit":
            return VpnkitListener(sock, macs, once)
        case "fd":
            return PassedListener(sock, once, vnet)
        case "vhost-user":
            # Few daemons need it, and it is large.
            from pipeline.links.vhost_user import VhostUserListener  # noqa: PLC0415

            return VhostUserListener(sock, once)
    return StreamListener(protocol, sock, framing.QEMU if protocol == QEMU else framing.LE16, once, vnet)
