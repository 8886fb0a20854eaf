"""Guests that arrive as connections to a listening socket (TCP, unix, vsock).

The socket may also be a connection itself, if the program inherited it as a descriptor. Its peer is then
the only guest. With ``once`` the listener accepts only the first connection. Later ones stay in the system's
backlog.
"""

import errno
import socket
from abc import abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import Final

from pipeline.links.addresses import unix_text, words_of
from pipeline.links.base import Link, SlotPool
from pipeline.links.listener import READABLE, Arrival, LinkResources, Listener, Owner, Poller, has_peer
from pipeline.links.stream import StreamLink
from pipeline.system import inet, peer
from pipeline.wire.framing import Framing

ACCEPTS_A_STEP: Final = 16
PAUSE: Final = 0.2
"""Seconds without accepting after accept failed. Usually the process has no descriptor left."""

_BROKEN: Final = frozenset((errno.EBADF, errno.EINVAL, errno.ENOTSOCK))
"""Errors of the socket itself. All others concern the system, or one connection."""


class AcceptingListener(Listener):
    """A listening socket. A subclass decides how a connection becomes a guest."""

    def __init__(self, protocol: str, sock: socket.socket, once: bool = False) -> None:
        """sock listens, or is the connection of the only guest. The listener owns it from now on."""
        self.protocol = protocol
        self._sock = sock
        self._once = once
        self._poller: Poller | None = None
        self._waiting = False
        self._is_guest = False
        self._resume_at = float("inf")

    def open(self, poller: Poller, resources: LinkResources, owner: Owner) -> None:
        """See Listener.open."""
        self._poller, self._resources, self._owner = poller, resources, owner
        if _listens(self._sock):
            self._sock.setblocking(False)
            self._wait()
        else:
            self._is_guest = True
            self._accepted(self._sock)

    def deadline(self) -> float:
        """See Listener.deadline."""
        return self._resume_at

    def on_timer(self, now: float) -> None:
        """See Listener.on_timer."""
        if now >= self._resume_at:
            self._resume_at = float("inf")
            self._wait()

    def close(self) -> None:
        """See Listener.close."""
        self._stop_waiting()
        if not self._is_guest:
            self._sock.close()

    def _wait(self) -> None:
        assert self._poller is not None
        self._poller.register(self._sock.fileno(), READABLE, self._on_ready)
        self._waiting = True

    def _stop_waiting(self) -> None:
        if self._waiting and self._poller is not None:
            self._poller.unregister(self._sock.fileno())
        self._waiting = False

    def _on_ready(self, _events: int) -> None:
        for _ in range(ACCEPTS_A_STEP):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._stop_waiting()
                if error.errno in _BROKEN:
                    self._owner.fail(self, f"{self.protocol} accept error: {words_of(error)}")
                else:
                    # The connection may stay in the backlog, and the socket readable: look again later.
                    self._resume_at = monotonic() + PAUSE
                return
            if self._once:
                self._stop_waiting()
            self._accepted(sock)
            if self._once:
                return

    @abstractmethod
    def _accepted(self, sock: socket.socket) -> None:
        """A connection was accepted. This method owns sock."""

    def _attach(self, link: Link, sock: socket.socket) -> None:
        # The peer of an inherited connection is unknown: the system names the process that made the pair.
        identity = "" if self._is_guest else peer.identity(sock)
        self._owner.attach(Arrival(link, self.protocol, peer_text(sock), identity), self)


class StreamListener(AcceptingListener):
    """Streams of frames with a length before each, without a handshake: QEMU's sockets, and plain LE16."""

    def __init__(
        self,
        protocol: str,
        sock: socket.socket,
        framing: Framing,
        once: bool = False,
        vnet: int | None = None,
    ) -> None:
        """vnet: what guests take (pipeline.links.vnet), None without virtio-net headers."""
        super().__init__(protocol, sock, once)
        self._framing = framing
        self._vnet = vnet

    def _accepted(self, sock: socket.socket) -> None:
        resources = self._resources
        link = StreamLink(sock, self._framing, resources.pool, resources.slots)
        if self._vnet is not None:
            link.begin_vnet(self._vnet)
        self._attach(link, sock)


class PacketListener(AcceptingListener):
    """Connections that preserve packet boundaries. make_link gets (socket, pool, slots, mtu)."""

    def __init__(
        self,
        protocol: str,
        sock: socket.socket,
        make_link: Callable[[socket.socket, SlotPool, list[memoryview], int], Link],
        once: bool = False,
        vnet: int | None = None,
    ) -> None:
        """vnet: as for StreamListener."""
        super().__init__(protocol, sock, once)
        self._make_link = make_link
        self._vnet = vnet

    def _accepted(self, sock: socket.socket) -> None:
        link = self._make_link(sock, *self._resources)
        if self._vnet is not None:
            link.begin_vnet(self._vnet)
        self._attach(link, sock)


def _listens(sock: socket.socket) -> bool:
    """Whether sock is a listening socket. If not, it is a connection."""
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError as error:
        if error.errno not in (errno.ENOPROTOOPT, errno.EINVAL):
            raise
    # macOS does not have this option. Only a connection has a peer.
    return not has_peer(sock)


def peer_text(sock: socket.socket) -> str:
    """The peer's address, for the log: ``host:port``, a path, or "@" for a unix socket without a name."""
    try:
        name = sock.getpeername()
    except OSError:
        return "@"
    if isinstance(name, tuple):
        # A vsock address is a pair of numbers: CID and port.
        return inet.endpoint(name) if isinstance(name[0], str) else ":".join(str(part) for part in name[:2])
    return unix_text(name)
