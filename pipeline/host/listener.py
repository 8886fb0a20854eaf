"""Binds the host sockets of port forwards: TCP, UDP and unix paths.

Errors have the words that clients of gvproxy's API know:
``listen tcp 127.0.0.1:80: bind: address already in use``.
"""

import errno
import os
import socket
from collections.abc import Sequence
from typing import Final

from pipeline.host import udp_local
from pipeline.system import inet, socket_file

BACKLOG: Final = 4096
SOCKET_MODE: Final = 0o600


class ListenError(Exception):
    """A local address cannot be bound. The text names the address and the reason."""


def split(local: str) -> tuple[str, int]:
    """``host:port`` -> (host, port). The host may be empty or in brackets. Raises ListenError."""
    host, colon, port = local.rpartition(":")
    if not colon:
        raise ListenError(f"address {local}: missing port in address")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ListenError(f"address {local}: too many colons in address")
    if not port.isascii() or not port.isdigit():
        raise ListenError(f"address {local}: unknown port {port!r}")
    # int() refuses thousands of digits.
    if len(port) > 100 or int(port) > 65535:
        raise ListenError(f"address {port}: invalid port")
    return host, int(port)


def bind_inet(network: str, local: str, found: Sequence[str] | None = None) -> socket.socket:
    """A bound non-blocking socket: TCP listening, UDP ready to receive.

    network: one of pipeline.system.inet.TCP or UDP. found: the addresses of the host in ``local``, if that is
    a name. This function does not look up names, since that would block every other forward.
    """
    is_tcp = network in inet.TCP
    try:
        host, port = split(local)
        where = inet.places(network, host, port, found)
        if not where:
            raise ListenError(f"lookup {host}: no such host")
    except (ListenError, inet.AddressError) as error:
        # As in gvproxy: it parses a UDP address before it listens, so that error has no "listen udp".
        raise ListenError(f"listen {network}: {error}" if is_tcp else str(error)) from None
    try:
        if is_tcp:
            return inet.bind(socket.SOCK_STREAM, where, BACKLOG)
        # ask() runs before bind(), so that every datagram comes with its local address.
        return inet.bind(socket.SOCK_DGRAM, where, prepare=udp_local.ask)
    except OSError as error:
        words = os.strerror(error.errno or 0).lower()
        raise ListenError(f"listen {network} {local}: bind: {words}") from error


def bind_unix(path: str) -> socket.socket:
    """A listening unix socket at path with mode 0600.

    A socket file without a process that serves it is replaced. Anything else at path is an error and stays.
    """
    if fault := socket_file.fault(path):
        raise ListenError(f"listen unix {path}: bind: {fault}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        socket_file.bind(sock, path, SOCKET_MODE)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        words = os.strerror(error.errno).lower() if error.errno else str(error)
        if error.errno == errno.EADDRINUSE and socket_file.is_other_file(path):
            words = "the path exists and is not a socket"
        raise ListenError(f"listen unix {path}: bind: {words}") from error
    return sock
