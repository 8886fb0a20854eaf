"""The source of the host sockets that carry guests' traffic: an address of this host, an interface, or both.

Without an Outbound the system chooses by its routes. With one, each socket is bound before it is connected.
The system still chooses the port. For TCP it does so when it connects (IP_BIND_ADDRESS_NO_PORT, Linux 4.2):
a port is then in use only towards one destination, as without bind(). Sockets to the host's loopback are not
bound, since loopback cannot be reached through another interface.

SO_BINDTODEVICE is Linux's. Since Linux 5.7 every process may use it. Before, it needed CAP_NET_RAW.
"""

import errno
import socket
import sys
from typing import Final

from pipeline.system import inet

_BIND_ADDRESS_NO_PORT: Final = 24 if sys.platform == "linux" else -1
"""linux/in.h. Python 3.11 has no name for it."""
_BIND_TO_DEVICE: Final[int] = getattr(socket, "SO_BINDTODEVICE", -1)
_NOT_THERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV})


class OutboundError(Exception):
    """This host cannot send with this address or interface. The text names the key, and what is allowed."""


class Outbound:
    """An IPv4 address, an interface, or both; "" for none."""

    def __init__(self, address: str, interface: str, *, ipv6: bool = True) -> None:
        """ipv6: whether IPv6 sockets may send at all."""
        self._ipv6 = ipv6
        self.address = address
        self._interface = interface.encode()

    def is_for(self, destination: str) -> bool:
        """Whether a socket to this address is bound. The text is a numeric address of either family."""
        return not inet.is_loopback(destination.partition("%")[0])

    def bind(self, sock: socket.socket, destination: str) -> None:
        """Bind a new socket that will send to this address. An IPv6 socket is bound to the interface only.

        Raises OSError. ENETDOWN means that the host has lost the address or the interface.
        """
        if not self.is_for(destination):
            return
        if sock.family == socket.AF_INET6 and not self._ipv6:
            raise OSError(errno.ENETUNREACH, "the outbound address is of IPv4")
        try:
            if self._interface:
                sock.setsockopt(socket.SOL_SOCKET, _BIND_TO_DEVICE, self._interface)
            if self.address and sock.family == socket.AF_INET:
                if _BIND_ADDRESS_NO_PORT >= 0 and sock.type == socket.SOCK_STREAM:
                    sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                sock.bind((self.address, 0))
        except OSError as error:
            if error.errno in _NOT_THERE:
                raise OSError(errno.ENETDOWN, "the outbound address or interface is gone") from error
            raise


def of(address: str, interface: str) -> Outbound | None:
    """The Outbound of these settings; None if both are empty."""
    return Outbound(address, interface) if address or interface else None


def for_guests(address: str, interface: str) -> Outbound | None:
    """The same for guests' flows. With an IPv4 address alone, no IPv6 flow leaves the host.

    A user who names an address wants guests' traffic to have this source, such as that of a VPN.
    """
    return Outbound(address, interface, ipv6=not address or bool(interface)) if address or interface else None


def check(address: str, interface: str) -> None:
    """Raise OutboundError if no socket can be bound to these now."""
    if interface:
        _check_interface(interface)
    if address:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.bind((address, 0))
            except OSError as error:
                raise OutboundError(
                    f"outbound-address {address}: {_reason(error)} (allowed: an address of this host)"
                ) from error


def _check_interface(name: str) -> None:
    if _BIND_TO_DEVICE < 0:
        raise OutboundError(
            f"outbound-interface {name}: this system cannot bind a socket to an interface (allowed: on Linux)"
        )
    known = [interface for _, interface in socket.if_nameindex()]
    if name not in known:
        raise OutboundError(
            f"outbound-interface {name}: there is no such interface (allowed: {', '.join(known)})"
        )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _BIND_TO_DEVICE, name.encode())
        except PermissionError as error:
            raise OutboundError(
                f"outbound-interface {name}: this process may not bind a socket to an interface "
                "(allowed: with CAP_NET_RAW, or for all from Linux 5.7 on)"
            ) from error
        except OSError as error:
            raise OutboundError(f"outbound-interface {name}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
