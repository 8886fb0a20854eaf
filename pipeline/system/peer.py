"""Finds out which process, virtual machine or host is at the other end of a socket: the *peer*.

A peer is a process (unix sockets), a virtual machine (vsock) or an address (TCP). All links of one peer
belong to one guest. One peer can open any number of links, so limits that protect guests from each other
count peers.

Over TCP the system does not say more than the address. A program may use any address of 127.0.0.0/8, and an
IPv4 address in two forms. So all loopback addresses are one peer, and both forms of an address are one.
"""

import ipaddress
import os
import socket
from struct import Struct
from typing import Final

PROCESS_MARK: Final = "process "
"""Before the number of a process."""
LOOPBACK: Final = "loopback"
"""Every peer that comes over TCP from this host."""

_UCRED: Final = Struct("iII")  # pid, uid, gid
_LOCAL_PEERPID: Final = 2
_SOL_LOCAL: Final = 0
_PID: Final = Struct("i")


def identity(sock: socket.socket) -> str:
    """The peer of a connected socket; "" if unknown.

    It is ``process 12``, ``machine 3``, ``address 10.0.0.7`` or ``loopback``. The peer of a socket that this
    process or its parent has made is unknown.
    """
    try:
        if sock.family == socket.AF_UNIX:
            pid = _peer_process(sock)
            return f"{PROCESS_MARK}{pid}" if pid > 0 and pid not in (os.getpid(), os.getppid()) else ""
        peer = sock.getpeername()
    except OSError:
        return ""
    if not isinstance(peer, tuple):
        return ""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return _host(peer[0])
    if sock.family == getattr(socket, "AF_VSOCK", None):
        return f"machine {peer[0]}"
    return ""


def _host(text: str) -> str:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return LOOPBACK if address.is_loopback else f"address {address}"


def _peer_process(sock: socket.socket) -> int:
    """The process that connected the socket, or made the socket pair; 0 if the system does not say."""
    if hasattr(socket, "SO_PEERCRED"):
        pid, _, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return int(pid)
    # macOS
    (pid,) = _PID.unpack(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, _PID.size))
    return int(pid)
