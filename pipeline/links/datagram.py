"""vfkit and krunkit: frames as datagrams of a unix socket, whose peer is known from its first one.

The socket is bound before and belongs to the link. The first datagram names the peer for good;
older programs open with the four bytes ``VFKT``, which is no frame. From then on the socket
is connected: only the peer is heard, and the system tells when it is gone.
"""

import socket
from contextlib import suppress
from typing import Final

from pipeline.links.base import Buffer, LinkClosed
from pipeline.links.packet import PacketLink

HANDSHAKE: Final = b"VFKT"
SEND_BUFFER_BYTES: Final = 1024 * 1024
RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024


class DatagramLink(PacketLink):
    """A guest behind a bound SOCK_DGRAM unix socket.

    Until its first datagram nothing can be sent to it: frames are dropped, as for a guest
    that is switched off (``connected`` False).
    """

    connected = False

    def _receive(self, room: memoryview) -> int:
        if self.connected:
            return self._sock.recv_into(room)
        count, peer = self._sock.recvfrom_into(room)
        if not peer:
            raise LinkClosed("vfkit socket address is empty")
        try:
            self._sock.connect(peer)
        except OSError as error:
            raise LinkClosed(f"vfkit accept error: {error.strerror}") from error
        self.connected = True
        # Refused where the system's limit is lower; the link works with less.
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        return count

    def _is_frame(self, view: memoryview, off: int, length: int) -> bool:
        return length != len(HANDSHAKE) or bytes(view[off : off + length]) != HANDSHAKE

    def _put(self, frame: Buffer) -> bool:
        if not self.connected:
            self._drop("link_frame_dropped_no_neighbor")
            return True
        return super()._put(frame)
