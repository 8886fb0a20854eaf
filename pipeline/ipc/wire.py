"""How packets of a control channel cross a socket: as packets, or on a stream with their lengths in front.

Both keep a packet and its descriptors together, and neither blocks. channel.py says what is in a packet.
"""

import errno
import os
import socket
from collections.abc import Sequence
from struct import Struct
from typing import Final, Protocol

MAX_FDS: Final = 16
"""Descriptors beside one packet."""
PACKET_BYTES: Final = 64 * 1024
"""Bytes of one packet."""

# Systems without these: descriptors are marked one by one, and Python ignores SIGPIPE anyway.
_CLOSE_ON_EXEC: Final[int] = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_NO_SIGNAL: Final[int] = getattr(socket, "MSG_NOSIGNAL", 0)
_NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.EMSGSIZE})
"""Errors of a read that has no room for descriptors. (Linux cuts them off and sets a flag instead.)"""


class Wire(Protocol):
    """Packets over a socket."""

    @property
    def unsent(self) -> bool:
        """Whether a part of a taken packet waits for room. If so, call flush()."""
        ...

    def send(self, packet: bytes, fds: Sequence[int]) -> None:
        """Take a packet for the socket. With BlockingIOError nothing is taken. Raises OSError."""
        ...

    def flush(self) -> None:
        """Send the rest of the last packet. Raises BlockingIOError when some of it is left."""
        ...

    def receive(self) -> tuple[bytes, list[int], int]:
        """One packet: content, descriptors, flags of recvmsg; no content at the end.

        Raises BlockingIOError when there is no complete packet, or another OSError.
        """
        ...


class PacketWire:
    """SOCK_SEQPACKET: the system keeps packets apart."""

    unsent = False

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, packet: bytes, fds: Sequence[int]) -> None:
        """See Wire."""
        socket.send_fds(self._sock, [packet], fds, _NO_SIGNAL)

    def flush(self) -> None:
        """See Wire."""

    def receive(self) -> tuple[bytes, list[int], int]:
        """See Wire."""
        packet, fds, flags, _ = socket.recv_fds(
            self._sock, PACKET_BYTES, MAX_FDS + 1, socket.MSG_DONTWAIT | _CLOSE_ON_EXEC
        )
        return packet, _marked(fds), flags


class StreamWire:
    """SOCK_STREAM: each packet follows its length.

    Descriptors travel with the first byte of a packet's length. The length is read by itself, to the byte. So
    no read crosses from one packet to the next, and descriptors that come with a length belong to its packet.
    """

    HEAD: Final = Struct("=I")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""
        self._head = b""
        self._body = bytearray()
        self._fds: list[int] = []
        self._flags = 0

    @property
    def unsent(self) -> bool:
        """See Wire."""
        return bool(self._rest)

    def send(self, packet: bytes, fds: Sequence[int]) -> None:
        """See Wire."""
        self.flush()
        head = self.HEAD.pack(len(packet))
        sent = socket.send_fds(self._sock, [head, packet], fds, _NO_SIGNAL)
        self._rest = (head + packet)[sent:]

    def flush(self) -> None:
        """See Wire."""
        try:
            while self._rest:
                sent = self._sock.send(self._rest, _NO_SIGNAL)
                self._rest = self._rest[sent:]
        except (BrokenPipeError, ConnectionResetError):
            self._rest = b""
            raise

    def receive(self) -> tuple[bytes, list[int], int]:
        """See Wire."""
        size = self.HEAD.size
        while len(self._head) < size:
            part = self._read_head(size - len(self._head))
            if not part:
                return self._take(b"")
            self._head += part
        (length,) = self.HEAD.unpack(self._head)
        while len(self._body) < length:
            part = self._sock.recv(length - len(self._body), socket.MSG_DONTWAIT)
            if not part:
                return self._take(b"")
            self._body += part
        return self._take(bytes(self._body))

    def _read_head(self, count: int) -> bytes:
        try:
            part, fds, flags, _ = socket.recv_fds(
                self._sock, count, MAX_FDS + 1, socket.MSG_DONTWAIT | _CLOSE_ON_EXEC
            )
        except OSError as error:
            if error.errno not in _NO_DESCRIPTOR:
                raise
            # Without room for descriptors the system drops them, and the packet can go on.
            self._flags |= socket.MSG_CTRUNC
            return self._sock.recv(count, socket.MSG_DONTWAIT)
        self._fds += _marked(fds)
        self._flags |= flags & socket.MSG_CTRUNC
        return part

    def _take(self, packet: bytes) -> tuple[bytes, list[int], int]:
        taken = packet, self._fds, self._flags
        self._head, self._body, self._fds, self._flags = b"", bytearray(), [], 0
        return taken


def wire_of(sock: socket.socket) -> Wire:
    """The wire for the kind of a connected unix socket."""
    return StreamWire(sock) if sock.type == socket.SOCK_STREAM else PacketWire(sock)


def _marked(fds: list[int]) -> list[int]:
    """The descriptors, which started programs will not inherit. Most systems do it themselves."""
    if not _CLOSE_ON_EXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    return fds
