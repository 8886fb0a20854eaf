"""Bound host sockets of port forwards: TCP, UDP and unix paths.

Errors carry the words that clients of the control API know:
``listen tcp 127.0.0.1:80: bind: address already in use``.
"""

import errno
import os
import socket
import stat
from collections.abc import Sequence
from typing import Final

from pipeline import socket_file

BACKLOG: Final = 4096
SOCKET_MODE: Final = 0o600


class ListenError(Exception):
    """A local address that cannot be bound; the text says which and why."""


def split(local: str) -> tuple[str, int]:
    """``host:port`` -> (host, port); the host may be empty or bracketed. ListenError names what is wrong."""
    host, colon, port = local.rpartition(":")
    if not colon:
        raise ListenError(f"address {local}: missing port in address")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ListenError(f"address {local}: too many colons in address")
    if not port.isascii() or not port.isdigit():
        raise ListenError(f"address {local}: unknown port {port!r}")
    if int(port) > 65535:
        raise ListenError(f"address {port}: invalid port")
    return host, int(port)


def bind_inet(protocol: str, local: str, found: Sequence[str] | None = None) -> socket.socket:
    """A bound non-blocking socket: TCP listening, UDP ready to receive.

    An empty host is the wildcard of both address families where the system has IPv6. A name is not looked
    up here, where it would hold up everybody: found are its addresses.
    """
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    try:
        host, port = split(local)
        if host:
            candidates = _families(host, [host] if found is None else found)
        else:
            candidates = [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")]
    except ListenError as error:
        # As gvproxy: it reads a udp address before it listens, so there the error is about the address alone.
        raise ListenError(f"listen tcp: {error}" if protocol == "tcp" else str(error)) from None
    failure: OSError | None = None
    for family, address in candidates:
        try:
            return _bind(family, kind, address, port, dual_stack=not host)
        except OSError as error:
            failure = error
            if not host and error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                break
    assert failure is not None
    words = os.strerror(failure.errno or 0).lower()
    raise ListenError(f"listen {protocol} {local}: bind: {words}") from failure


def _families(host: str, addresses: Sequence[str]) -> list[tuple[int, str]]:
    rows: list[tuple[int, str]] = []
    for address in addresses:
        try:
            found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):
            continue
        rows += ((family, str(sockaddr[0])) for family, _, _, _, sockaddr in found)
    if not rows:
        raise ListenError(f"lookup {host}: no such host")
    return rows


def _bind(family: int, kind: int, address: str, port: int, *, dual_stack: bool) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual_stack else 1)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def bind_unix(path: str) -> socket.socket:
    """A listening unix socket at path with mode 0600.

    The file of a socket that nobody serves any more is replaced; anything else there is an error and stays.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        socket_file.bind(sock, path, SOCKET_MODE)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        words = os.strerror(error.errno).lower() if error.errno else str(error)
        if error.errno == errno.EADDRINUSE and not stat.S_ISSOCK(os.lstat(path).st_mode):
            words = "the path exists and is not a socket"
        raise ListenError(f"listen unix {path}: bind: {words}") from error
    return sock
