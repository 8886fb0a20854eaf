"""Sets address, default route and MTU of an interface with rtnetlink, so the ip command is not needed.

This module has only the requests that the built-in DHCP client and a static set-up need: RTM_NEWADDR,
RTM_DELADDR, RTM_NEWROUTE, RTM_NEWLINK and RTM_DELLINK of linux/rtnetlink.h. Each call opens its own socket
and waits for the kernel's acknowledgement. It raises OSError with the kernel's errno.
"""

import os
import socket
from struct import Struct
from typing import Final

from pipeline.wire import ip

_NETLINK_ROUTE: Final = 0
_RTM_NEWLINK: Final = 16
_RTM_DELLINK: Final = 17
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_NEWROUTE: Final = 24
_NLMSG_ERROR: Final = 2

_NLM_F_REQUEST: Final = 0x001
_NLM_F_ACK: Final = 0x004
_NLM_F_REPLACE: Final = 0x100
_NLM_F_CREATE: Final = 0x400

_IFF_UP: Final = 1
_IFLA_MTU: Final = 4
_IFLA_NET_NS_FD: Final = 28
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_BROADCAST: Final = 4
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5

_RT_TABLE_MAIN: Final = 254
_RTPROT_DHCP: Final = 16
_RT_SCOPE_UNIVERSE: Final = 0
_RTN_UNICAST: Final = 1

_HEADER: Final = Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFO: Final = Struct("=BxHiII")  # family, device type, index, flags, change mask
_IFADDR: Final = Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG: Final = Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_ATTRIBUTE: Final = Struct("=HH")
_ERROR: Final = Struct("=i")
_U32: Final = Struct("=I")


def set_address(interface: str, address: int, prefix: int) -> None:
    """Add an IPv4 address (pipeline.wire.ip) to the interface, with prefix length and broadcast address."""
    _address(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_REPLACE, interface, address, prefix)


def remove_address(interface: str, address: int, prefix: int) -> None:
    """Remove the address. The kernel removes the routes through it too."""
    _address(_RTM_DELADDR, 0, interface, address, prefix)


def set_default_route(interface: str, gateway: int) -> None:
    """Set the default route to gateway, on the interface. It replaces a route of the same metric."""
    index = socket.if_nametoindex(interface)
    message = _RTMSG.pack(
        socket.AF_INET, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_DHCP, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0
    )
    message += _attribute(_RTA_GATEWAY, ip.ipv4_bytes(gateway)) + _attribute(_RTA_OIF, _U32.pack(index))
    _request(_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, message)


def set_up(interface: str) -> None:
    """Bring an interface up, such as lo."""
    index = socket.if_nametoindex(interface)
    _request(_RTM_NEWLINK, 0, _IFINFO.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP))


def move(interface: str, netns: int) -> None:
    """Move an interface to the network namespace of this descriptor. It is down there, without addresses.

    EEXIST if that namespace has an interface of this name.
    """
    index = socket.if_nametoindex(interface)
    message = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0)
    _request(_RTM_NEWLINK, 0, message + _attribute(_IFLA_NET_NS_FD, _U32.pack(netns)))


def delete(interface: str) -> None:
    """Delete an interface, such as a tap."""
    index = socket.if_nametoindex(interface)
    _request(_RTM_DELLINK, 0, _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0))


def set_mtu(interface: str, mtu: int) -> None:
    """Set the interface's MTU in bytes."""
    index = socket.if_nametoindex(interface)
    message = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + _attribute(_IFLA_MTU, _U32.pack(mtu))
    _request(_RTM_NEWLINK, 0, message)


def _address(operation: int, flags: int, interface: str, address: int, prefix: int) -> None:
    index = socket.if_nametoindex(interface)
    bits = ip.to_ipv4(address)
    packed = bits.to_bytes(4, "big")
    message = _IFADDR.pack(socket.AF_INET, prefix, 0, _RT_SCOPE_UNIVERSE, index)
    message += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
    if prefix < 31:  # RFC 3021: a /31 has no broadcast address
        broadcast = bits | (0xFFFFFFFF >> prefix)
        message += _attribute(_IFA_BROADCAST, broadcast.to_bytes(4, "big"))
    _request(operation, flags, message)


def _attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to a multiple of 4 bytes. Its length field does not count the padding."""
    body = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
    return body + bytes(-len(body) % 4)


def _request(operation: int, flags: int, message: bytes) -> None:
    header = _HEADER.pack(_HEADER.size + len(message), operation, _NLM_F_REQUEST | _NLM_F_ACK | flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE) as control:
        control.sendto(header + message, (0, 0))
        answer = control.recv(65536)
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != _NLMSG_ERROR:
        raise OSError(f"unexpected netlink answer of type {kind}")
    (negative,) = _ERROR.unpack_from(answer, _HEADER.size)
    if negative:
        raise OSError(-negative, os.strerror(-negative))
