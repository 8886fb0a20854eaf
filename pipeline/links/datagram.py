"""Links of vfkit and krunkit: each frame is one datagram on a unix socket.

The source address of the first datagram names the peer. Older programs first send the four bytes ``VFKT``,
which are not a frame. The listener then connects its socket to the peer. From then on it receives from this
peer only, and sending to a full queue fails.

The system does not report that a peer is gone until something is sent to it. So the listener checks the
peer's address every LOOK_INTERVAL. When the peer has gone, the listener waits for the next one. That may be
the same machine, started again.

A socket that a parent passed may be connected already, such as one of a socketpair(). Its peer is then the
only guest (pipeline.links.probes).
"""

import ctypes
import errno
import os
import socket
from contextlib import suppress
from time import monotonic
from typing import Final

from pipeline.links.accepting import peer_text
from pipeline.links.addresses import unix_text, words_of
from pipeline.links.base import Link, LinkClosed
from pipeline.links.listener import READABLE, Arrival, LinkResources, Listener, Owner, Poller, has_peer
from pipeline.links.packet import PacketLink
from pipeline.links.probes import RETRY_INTERVAL, Probes

PROTOCOL: Final = "vfkit"
HANDSHAKE: Final = b"VFKT"
SEND_BUFFER_BYTES: Final = 1024 * 1024
RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024
LOOK_INTERVAL: Final = 0.25
"""Seconds between two checks of the peer's address, and from a peer's end until the next is accepted."""

Address = str | bytes


class DatagramLink(PacketLink):
    """A guest on a connected SOCK_DGRAM unix socket."""

    def _is_frame(self, view: memoryview, off: int, length: int) -> bool:
        return length != len(HANDSHAKE) or bytes(view[off : off + length]) != HANDSHAKE


class VfkitListener(Listener):
    """A bound SOCK_DGRAM unix socket: one guest after another, or with ``once`` only the first."""

    protocol = PROTOCOL

    def __init__(
        self, sock: socket.socket, probe: socket.socket, once: bool = False, vnet: int | None = None
    ) -> None:
        """The listener owns both sockets from now on.

        probe: a datagram socket without a name, to look whether a peer is there. This process can make none.
        vnet: what guests take (links.vnet), None without headers.
        """
        sock.setblocking(False)
        self._sock = sock
        self._probe = probe
        self._once = once
        self._vnet = vnet
        self._probes = Probes()
        self._poller: Poller | None = None
        self._waiting = False
        self._link: DatagramLink | None = None
        self._peer: Address = ""
        self._inode: tuple[int, int] | None = None
        self._look_at = float("inf")
        self._retry_at = float("inf")

    def open(self, poller: Poller, resources: LinkResources, owner: Owner) -> None:
        """See Listener.open."""
        self._poller, self._resources, self._owner = poller, resources, owner
        if not has_peer(self._sock):
            self._wait()
            return
        link = self._make_link()
        self._probes.add(link)
        if self._sock.getsockname():
            # A predecessor of this listener has connected it. When this guest leaves, another one may come.
            self._peer = self._sock.getpeername()
            self._attach(link)
        else:
            owner.attach(Arrival(link, PROTOCOL, peer_text(self._sock)), self)

    def deadline(self) -> float:
        """See Listener.deadline."""
        link = self._link
        if link is not None and link.blocked and link.room_unreported and self._retry_at == float("inf"):
            self._retry_at = monotonic() + RETRY_INTERVAL
        return min(self._look_at, self._retry_at, self._probes.deadline())

    def on_timer(self, now: float) -> None:
        """See Listener.on_timer."""
        self._probes.on_timer(now, self._owner)
        if now >= self._retry_at:
            self._retry_at = float("inf")
            self._retry()
        if now < self._look_at:
            return
        if self._link is None:
            self._look_at = float("inf")
            self._wait()
            return
        self._look_at = now + LOOK_INTERVAL
        if _inode(self._peer) != self._inode or not _is_bound(self._peer, self._probe):
            self._owner.hang_up(self._link, "the socket of the peer is gone")

    def _retry(self) -> None:
        link = self._link
        if link is None:
            return
        try:
            link.flush()
        except LinkClosed as error:
            self._owner.hang_up(link, str(error))

    def on_left(self, link: Link) -> None:
        """See Listener.on_left."""
        self._probes.remove(link)
        if link is not self._link:
            return
        self._link = None
        self._look_at = float("inf")
        if self._once:
            return
        if _disconnect(self._sock):
            # A refused peer keeps sending frames. This delay keeps the listener from refusing each of them.
            self._look_at = monotonic() + LOOK_INTERVAL
        else:
            self._owner.fail(self, "vfkit: the socket cannot be used for another machine on this system")

    def close(self) -> None:
        """See Listener.close."""
        self._stop_waiting()
        self._look_at = float("inf")
        self._sock.close()
        self._probe.close()

    def _wait(self) -> None:
        assert self._poller is not None
        self._poller.register(self._sock.fileno(), READABLE, self._on_first)
        self._waiting = True

    def _stop_waiting(self) -> None:
        if self._waiting and self._poller is not None:
            self._poller.unregister(self._sock.fileno())
        self._waiting = False

    def _on_first(self, _events: int) -> None:
        """Look at the first datagram. It stays in the queue, where the link reads it."""
        sock = self._sock
        try:
            _, peer = sock.recvfrom(len(HANDSHAKE) + 1, socket.MSG_PEEK)
            if not peer:
                sock.recv(len(HANDSHAKE))
                # The sender's socket was never bound, so it cannot get an answer.
                self._owner.refuse(self, "vfkit socket address is empty", "link_handshake_failed")
                return
            self._peer = peer
            sock.connect(peer)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.EACCES:
                # The file of the peer's socket is its user's alone.
                self._stop_waiting()
                self._owner.connect(self, sock)
                return
            with suppress(OSError):
                sock.recv(1)
            self._owner.refuse(self, f"vfkit accept error: {words_of(error)}", "link_handshake_failed")
            return
        self._stop_waiting()
        self._look_at = monotonic() + LOOK_INTERVAL
        self._attach(self._make_link())

    def on_connected(self, error: str) -> None:
        """See Listener.on_connected. This process cannot look at the peer's file. So it probes the guest."""
        if error:
            with suppress(OSError):
                self._sock.recv(1)
            self._owner.refuse(self, f"vfkit accept error: {error}", "link_handshake_failed")
            self._wait()
            return
        link = self._make_link()
        self._probes.add(link)
        self._attach(link)

    def _attach(self, link: DatagramLink) -> None:
        self._link, self._inode = link, _inode(self._peer)
        self._owner.attach(Arrival(link, PROTOCOL, unix_text(self._peer)), self)

    def _make_link(self) -> DatagramLink:
        tune(self._sock)
        # The link closes its own descriptor. This one stays for the next guest.
        link = DatagramLink(self._sock.dup(), *self._resources)
        if self._vnet is not None:
            link.begin_vnet(self._vnet)
        return link


def tune(sock: socket.socket) -> None:
    """Ask for larger buffers. A system with a lower limit refuses, and the link works with smaller ones."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


def _inode(peer: Address) -> tuple[int, int] | None:
    """The device and inode of a socket's file now; None for an abstract name, or if there is no file."""
    if unix_text(peer).startswith("@"):
        return None
    try:
        found = os.stat(peer)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_bound(peer: Address, probe: socket.socket) -> bool:
    """Whether a socket is bound to the address, whatever peer it has."""
    try:
        probe.connect(peer)
    except PermissionError:
        return True  # it is bound, and connected to another socket (ours)
    except OSError:
        return False
    _disconnect(probe)
    return True


def _disconnect(sock: socket.socket) -> bool:
    """Disconnect, so that the socket receives from any sender: connect() to an AF_UNSPEC address.

    The return value of connect() does not help: macOS disconnects, and then reports an error.
    """
    ctypes.CDLL(None).connect(sock.fileno(), bytes(16), 16)
    return not has_peer(sock)
