"""Guests whose socket another program passes to the running daemon (SCM_RIGHTS), as Lima does for VZ.

A client connects to the listener's unix socket and sends one message with one descriptor. Then it may leave.
The descriptor is the guest's link. Its kind says how frames stand on it:

============== =====================================================
kind           frames
============== =====================================================
SOCK_STREAM    QEMU's: a length of 4 bytes before each
SOCK_SEQPACKET one packet each
SOCK_DGRAM     one datagram each
a tap          one frame each, after a virtio-net header if it has IFF_VNET_HDR
============== =====================================================

With the option of pipeline.links.vnet, a virtio-net header stands before each frame of all three.

Everything else is closed and counted: another kind of file, a socket without a peer, no descriptor or
several, a client that is silent for HANDSHAKE_TIMEOUT. The bytes of the message mean nothing. The system
needs at least one to carry the descriptor.

The guest belongs to the process that has connected, as on other unix sockets. The end of a datagram socket is
found by pipeline.links.probes.
"""

import os
import socket
from collections.abc import Sequence
from time import monotonic
from typing import Final

from pipeline.links.accepting import AcceptingListener, peer_text
from pipeline.links.addresses import words_of
from pipeline.links.base import Buffer, Link
from pipeline.links.datagram import DatagramLink
from pipeline.links.datagram import tune as tune_datagrams
from pipeline.links.listener import READABLE, Arrival, has_peer
from pipeline.links.probes import Probes
from pipeline.links.seqpacket import SeqpacketLink
from pipeline.links.stream import StreamLink, tune
from pipeline.system import peer
from pipeline.wire import framing

PROTOCOL: Final = "fd"
HANDSHAKE_TIMEOUT: Final = 10.0
MAX_CLIENTS: Final = 64
"""Clients that may be connected without having sent their descriptor. A further one is refused."""

_FAILED: Final = "link_handshake_failed"
_STREAMS: Final = frozenset(
    family
    for name in ("AF_UNIX", "AF_INET", "AF_INET6", "AF_VSOCK")
    if (family := getattr(socket, name, None)) is not None
)
"""Families of stream sockets that may be a link. Packets come on unix sockets only."""


class PassedSocket:
    """A socket that another process has too. That one may clear O_NONBLOCK, so no call here relies on it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def setblocking(self, flag: bool) -> None:
        """Set the mode that both processes share."""
        self._sock.setblocking(flag)

    def recv_into(self, buffer: memoryview) -> int:
        """Read some bytes, or a packet. Raises OSError."""
        return self._sock.recv_into(buffer, 0, socket.MSG_DONTWAIT)

    def recvmsg_into(self, buffers: Sequence[memoryview]) -> tuple[int, object, int, object]:
        """Read a packet into several buffers. Raises OSError."""
        return self._sock.recvmsg_into(buffers, 0, socket.MSG_DONTWAIT)

    def send(self, data: Buffer) -> int:
        """Write as much as fits, or a packet. Raises OSError."""
        return self._sock.send(data, socket.MSG_DONTWAIT)

    def sendmsg(self, buffers: Sequence[Buffer]) -> int:
        """Write as much as fits of all buffers. Raises OSError."""
        return self._sock.sendmsg(buffers, (), socket.MSG_DONTWAIT)

    def fileno(self) -> int:
        """The descriptor, -1 if closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close it. May be called twice."""
        self._sock.close()


class PassedListener(AcceptingListener):
    """A listening unix socket on which clients pass their guests' sockets."""

    def __init__(self, sock: socket.socket, once: bool = False, vnet: int | None = None) -> None:
        """vnet: what guests take (pipeline.links.vnet), None without virtio-net headers."""
        super().__init__(PROTOCOL, sock, once)
        self._vnet = vnet
        self._clients: dict[socket.socket, float] = {}
        """Clients that have sent nothing yet, and until when they may wait. The oldest comes first."""
        self._probes = Probes()

    def deadline(self) -> float:
        """See Listener.deadline."""
        overdue = next(iter(self._clients.values()), float("inf"))
        return min(super().deadline(), overdue, self._probes.deadline())

    def on_timer(self, now: float) -> None:
        """See Listener.on_timer."""
        super().on_timer(now)
        for client in [client for client, until in self._clients.items() if until <= now]:
            self._refuse(client, "the client was silent")
        self._probes.on_timer(now, self._owner)

    def on_left(self, link: Link) -> None:
        """See Listener.on_left."""
        self._probes.remove(link)

    def close(self) -> None:
        """See Listener.close."""
        for client in list(self._clients):
            self._forget(client)
        super().close()

    # --- a client ---------------------------------------------------------------------------

    def _accepted(self, sock: socket.socket) -> None:
        assert self._poller is not None
        if len(self._clients) >= MAX_CLIENTS:
            sock.close()
            self._owner.refuse(self, "too many clients wait", _FAILED)
            return
        sock.setblocking(False)
        self._clients[sock] = monotonic() + HANDSHAKE_TIMEOUT
        self._poller.register(sock.fileno(), READABLE, lambda _events: self._on_message(sock))

    def _on_message(self, client: socket.socket) -> None:
        try:
            part, fds, flags, _ = socket.recv_fds(client, 1, 1)
        except BlockingIOError:
            return
        except OSError as error:
            self._refuse(client, words_of(error))
            return
        if not fds:
            # Descriptors that do not fit, or that this process may not have, are closed by the system.
            lost = "no descriptor is left" if flags & socket.MSG_CTRUNC else "the message has no descriptor"
            self._refuse(client, lost if part else "the client left")
            return
        identity = peer.identity(client)
        try:
            sock = socket.socket(fileno=fds[0])
        except OSError:
            several = bool(flags & socket.MSG_CTRUNC)
            self._on_tap(client, fds[0], identity, "the message has several descriptors" if several else "")
            return
        os.set_inheritable(sock.fileno(), False)
        if flags & socket.MSG_CTRUNC:
            fault = "the message has several descriptors"
        else:
            fault = _fault(sock)
        if fault:
            sock.close()
            self._refuse(client, fault)
            return
        self._forget(client)
        self._attach_guest(sock, identity)

    def _on_tap(self, client: socket.socket, fd: int, identity: str, fault: str) -> None:
        """A client has passed what is not a socket. fault: why it is refused in any case."""
        # Few daemons have a tap, and on some systems there is none.
        try:
            from pipeline.links.tap import TapError, passed_link  # noqa: PLC0415
        except ImportError:
            os.close(fd)
            self._refuse(client, "the descriptor is not a socket")
            return
        try:
            if fault:
                raise TapError(fault)
            link, name = passed_link(fd, self._resources)
        except TapError as error:
            os.close(fd)
            self._refuse(client, str(error))
            return
        os.set_inheritable(fd, False)
        self._forget(client)
        self._owner.attach(Arrival(link, PROTOCOL, name, identity), self)

    def _attach_guest(self, sock: socket.socket, identity: str) -> None:
        pool, slots, mtu = self._resources
        passed = PassedSocket(sock)
        link: Link
        if sock.type == socket.SOCK_STREAM:
            tune(sock)
            link = StreamLink(passed, framing.QEMU, pool, slots)
        elif sock.type == socket.SOCK_SEQPACKET:
            link = SeqpacketLink(passed, pool, slots, mtu)
        else:
            tune_datagrams(sock)
            datagrams = DatagramLink(passed, pool, slots, mtu)
            self._probes.add(datagrams)
            link = datagrams
        if self._vnet is not None:
            link.begin_vnet(self._vnet)
        self._owner.attach(Arrival(link, PROTOCOL, peer_text(sock), identity), self)

    def _forget(self, client: socket.socket) -> None:
        assert self._poller is not None
        self._poller.unregister(client.fileno())
        del self._clients[client]
        client.close()

    def _refuse(self, client: socket.socket, why: str) -> None:
        self._forget(client)
        self._owner.refuse(self, f"passed descriptor: {why}", _FAILED)


def _fault(sock: socket.socket) -> str:
    """Why a passed socket cannot be a guest's link, "" if it can."""
    if sock.type == socket.SOCK_STREAM:
        if sock.family not in _STREAMS:
            return f"a stream socket of family {sock.family} is not allowed"
    elif sock.type not in (socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        return "the socket is neither stream nor packet nor datagram socket"
    elif sock.family != socket.AF_UNIX:
        return "a packet or datagram socket must be a unix socket"
    return "" if has_peer(sock) else "the socket is not connected"
