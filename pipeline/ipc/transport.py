"""How the packets of a control channel cross a unix socket, with their descriptors.

On SOCK_SEQPACKET a packet is sent as it is. On SOCK_STREAM its length comes first. Neither blocks. channel.py
says what is in a packet.
"""

import errno
import os
import socket
from collections.abc import Sequence
from struct import Struct
from typing import Final, Protocol

MAX_FDS: Final = 16
"""The most descriptors with one packet."""
PACKET_BYTES: Final = 64 * 1024
"""The most bytes of one packet."""

# Not every system has these flags. Without the first, _marked() marks descriptors one by one. Without the
# second, Python ignores SIGPIPE anyway.
_CLOSE_ON_EXEC: Final[int] = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_NO_SIGNAL: Final[int] = getattr(socket, "MSG_NOSIGNAL", 0)
_NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.EMSGSIZE})
"""Errors of a read that cannot receive its descriptors. (Linux drops them and sets MSG_CTRUNC instead.)"""


class Transport(Protocol):
    """Sends and receives packets over a socket."""

    @property
    def unsent(self) -> bool:
        """Whether a part of the last packet waits for room. If so, call flush()."""
        ...

    def send(self, packet: bytes, fds: Sequence[int]) -> None:
        """Send a packet, or its beginning (see unsent). Raises OSError.

        After BlockingIOError nothing of it is sent.
        """
        ...

    def flush(self) -> None:
        """Send what remains of the last packet. Raises BlockingIOError when some of it still remains."""
        ...

    def receive(self) -> tuple[bytes, list[int], int]:
        """One packet: content, descriptors, flags of recvmsg. At the end of the stream the content is empty.

        Raises BlockingIOError when no complete packet has arrived, or another OSError.
        """
        ...


class PacketTransport:
    """SOCK_SEQPACKET: the system keeps packets apart."""

    unsent = False

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, packet: bytes, fds: Sequence[int]) -> None:
        """See Transport."""
        socket.send_fds(self._sock, [packet], fds, _NO_SIGNAL)

    def flush(self) -> None:
        """See Transport."""

    def receive(self) -> tuple[bytes, list[int], int]:
        """See Transport."""
        packet, fds, flags, _ = socket.recv_fds(
            self._sock, PACKET_BYTES, MAX_FDS + 1, socket.MSG_DONTWAIT | _CLOSE_ON_EXEC
        )
        return packet, _marked(fds), flags


class StreamTransport:
    """SOCK_STREAM: each packet follows its length.

    The descriptors are sent with the first byte of the length. The receiver reads the length and the packet
    with separate calls, and never more than it needs. So no read crosses from one packet to the next, and
    descriptors that come with a length belong to the packet after it.
    """

    HEAD: Final = Struct("=I")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._remaining = b""
        """The part of the last sent packet that waits for room."""
        self._head = b""
        self._body = bytearray()
        self._fds: list[int] = []
        self._flags = 0

    @property
    def unsent(self) -> bool:
        """See Transport."""
        return bool(self._remaining)

    def send(self, packet: bytes, fds: Sequence[int]) -> None:
        """See Transport."""
        self.flush()
        head = self.HEAD.pack(len(packet))
        sent = socket.send_fds(self._sock, [head, packet], fds, _NO_SIGNAL)
        self._remaining = (head + packet)[sent:]

    def flush(self) -> None:
        """See Transport."""
        try:
            while self._remaining:
                sent = self._sock.send(self._remaining, _NO_SIGNAL)
                self._remaining = self._remaining[sent:]
        except (BrokenPipeError, ConnectionResetError):
            self._remaining = b""
            raise

    def receive(self) -> tuple[bytes, list[int], int]:
        """See Transport."""
        size = self.HEAD.size
        while len(self._head) < size:
            part = self._read_head(size - len(self._head))
            if not part:
                return self._pop(b"")
            self._head += part
        (length,) = self.HEAD.unpack(self._head)
        while len(self._body) < length:
            part = self._sock.recv(length - len(self._body), socket.MSG_DONTWAIT)
            if not part:
                return self._pop(b"")
            self._body += part
        return self._pop(bytes(self._body))

    def _read_head(self, count: int) -> bytes:
        try:
            part, fds, flags, _ = socket.recv_fds(
                self._sock, count, MAX_FDS + 1, socket.MSG_DONTWAIT | _CLOSE_ON_EXEC
            )
        except OSError as error:
            if error.errno not in _NO_DESCRIPTOR:
                raise
            # The system has dropped the descriptors. Receive the packet without them.
            self._flags |= socket.MSG_CTRUNC
            return self._sock.recv(count, socket.MSG_DONTWAIT)
        self._fds += _marked(fds)
        self._flags |= flags & socket.MSG_CTRUNC
        return part

    def _pop(self, packet: bytes) -> tuple[bytes, list[int], int]:
        popped = packet, self._fds, self._flags
        self._head, self._body, self._fds, self._flags = b"", bytearray(), [], 0
        return popped


def transport_of(sock: socket.socket) -> Transport:
    """The Transport for the type of a connected unix socket."""
    return StreamTransport(sock) if sock.type == socket.SOCK_STREAM else PacketTransport(sock)


def _marked(fds: list[int]) -> list[int]:
    """Mark the descriptors close-on-exec, on systems where recvmsg() has no flag for it. Returns them."""
    if not _CLOSE_ON_EXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    return fds
