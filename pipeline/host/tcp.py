"""Calls on the host's TCP sockets: non-blocking connect, close with FIN, close with RST.

This module does not know flows. The egress stage knows which flow a socket belongs to. No function blocks.
"""

import errno
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final

from pipeline.records.dials import NO_CLIENT, Client
from pipeline.system import inet, socket_calls
from pipeline.system.outbound import Outbound
from pipeline.wire import ip

KEEPALIVE_IDLE_S: Final = 60
IOV_MAX: Final = 512
"""The most pieces of one sendmsg call. Linux accepts up to 1024."""

_KEEPALIVE_IDLE: Final[int] = getattr(socket, "TCP_KEEPIDLE", 0) or getattr(socket, "TCP_KEEPALIVE", 0)
"""The socket option for the idle time. macOS calls it TCP_KEEPALIVE."""
_NON_BLOCKING: Final[int] = getattr(socket, "SOCK_NONBLOCK", 0)
"""Makes a socket non-blocking without a further call. 0 on systems that lack it."""
_Options = list[tuple[int, int, int]]
"""Level, option and value of each."""
_NO_NAGLE: Final[_Options] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
_FIRST_WRITE_GOES: Final = sys.platform == "linux"
"""Whether the system sends the end of a first write at once, in spite of Nagle: Linux waits only for the
acknowledgment of an earlier segment that was not full (Minshall)."""
_TUNED: Final[_Options] = [
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
    *([] if _FIRST_WRITE_GOES else _NO_NAGLE),
]
_KEEP_ALIVE: Final[_Options] = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *([(socket.IPPROTO_TCP, _KEEPALIVE_IDLE, KEEPALIVE_IDLE_S)] if _KEEPALIVE_IDLE else []),
]
_close_fd: Final[Callable[[socket.socket], None]] = socket.SocketType.close
"""close() of a socket without files. The method of socket.socket looks for some, at five times the cost."""
_PORT: Final = struct.Struct("!H")
_INET: Final[frozenset[int]] = frozenset({int(socket.AF_INET), int(socket.AF_INET6)})
_family: Final[Callable[[socket.socket], int]] = socket.SocketType.__dict__["family"].__get__
"""The family of a socket as a number. ``sock.family`` makes a member of an enumeration, at seven times the
cost, and each connection needs it twice."""
_IN_PROGRESS: Final = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN})


def connect(address: str, port: int, outbound: Outbound | None = None) -> tuple[socket.socket | None, int]:
    """Begin a connection to address:port, without blocking. address: numeric, of either family.

    outbound: what to bind the socket to.

    Returns (socket, 0) if the connection is in progress or established. The caller then calls tune(), waits
    until the socket is writable, and calls finish(). Returns (None, errno) if the connection failed at once.
    """
    try:
        sock = socket.socket(inet.family_of(address), socket.SOCK_STREAM | _NON_BLOCKING)
    except OSError as error:
        return None, error.errno or errno.EIO
    if not _NON_BLOCKING:
        sock.setblocking(False)
    if outbound is not None:
        try:
            outbound.bind(sock, address)
        except OSError as error:
            sock.close()
            return None, error.errno or errno.EIO
    result = sock.connect_ex((address, port))
    if result and result not in _IN_PROGRESS:
        sock.close()
        return None, result
    return sock, 0


def tune(sock: socket.socket) -> None:
    """Set the options that a connection needs from its start. Each one costs every connection a system call.

    Urgent data stay in the stream (RFC 6093), so that reads return them. SO_LINGER is set so that a socket
    closed in any way but close() sends a RST. That includes the death of this process: its peer must not take
    an incomplete transfer for a complete one.
    """
    if sock.gettimeout() != 0.0:
        sock.setblocking(False)
    _set(sock, _TUNED, linger=True)


def send_at_once(sock: socket.socket) -> None:
    """Before the second write: send small segments without waiting for acknowledgments (no Nagle)."""
    if _FIRST_WRITE_GOES:
        _set(sock, _NO_NAGLE)


def keep_alive(sock: socket.socket) -> None:
    """Probe the peer of a connection that is silent for KEEPALIVE_IDLE_S. It may have been silent before."""
    _set(sock, _KEEP_ALIVE)


def _set(sock: socket.socket, options: _Options, *, linger: bool = False) -> None:
    if is_tcp(sock):
        try:
            if linger:
                socket_calls.set_linger(sock, 1)
            for level, option, value in options:
                socket_calls.set_option(sock, level, option, value)
        except OSError as error:
            # macOS reports this when the peer has reset the connection. The next read reports the reset.
            if error.errno != errno.EINVAL:
                raise


def is_tcp(sock: socket.socket) -> bool:
    """Whether it is a TCP socket. Otherwise it is a unix socket."""
    return _family(sock) in _INET


def client_of(sock: socket.socket) -> Client:
    """The peer of an accepted connection. NO_CLIENT without an address, or if the peer is gone already."""
    try:
        if is_tcp(sock):
            host, port = sock.getpeername()[:2]
            return ip.parse(host).to_bytes(16, "big") + _PORT.pack(port)
    except OSError:
        return NO_CLIENT
    return NO_CLIENT


def client_text(client: Client) -> tuple[str, int]:
    """The address and the port of a client as texts show them. The address of NO_CLIENT is empty."""
    if client == NO_CLIENT:
        return "", 0
    return ip.text(int.from_bytes(client[:16], "big")), _PORT.unpack_from(client, 16)[0]


def is_connected(sock: socket.socket) -> bool:
    """Whether the connection is established. One to this machine's loopback is established at once."""
    return socket_calls.has_peer(sock)


def finish(sock: socket.socket) -> int:
    """The result of connect(), when the socket is writable: 0 or an errno. Reads and clears SO_ERROR."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def close(sock: socket.socket) -> None:
    """Close with a FIN after all bytes that were written."""
    _close(sock, 0)


def reset(sock: socket.socket) -> None:
    """Close with a RST (SO_LINGER with time 0)."""
    _close(sock, 1)


def _close(sock: socket.socket, linger: int) -> None:
    if is_tcp(sock):
        try:
            socket_calls.set_linger(sock, linger)
        except OSError as error:
            # The connection may have ended already. The socket still has to be closed.
            if error.errno not in (errno.EINVAL, errno.ENOTCONN):
                raise
    _close_fd(sock)


def shutdown_write(sock: socket.socket) -> int:
    """Send the FIN. Returns 0, or an errno if the peer is already gone."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        return error.errno or errno.EIO
    return 0
