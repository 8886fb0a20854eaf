"""Links of bess and User Mode Linux: a SOCK_SEQPACKET connection on which each packet is one frame.

Unlike a datagram socket, a connection ends. A read of 0 bytes is its end, since no guest sends empty frames.
"""

import socket
from typing import Final

from pipeline.links.accepting import PacketListener
from pipeline.links.base import LinkClosed
from pipeline.links.packet import PacketLink

PROTOCOL: Final = "bess"


class SeqpacketLink(PacketLink):
    """A guest on a connected SOCK_SEQPACKET socket."""

    def _receive(self, room: memoryview) -> int:
        count = super()._receive(room)
        if not count:
            raise LinkClosed("cannot read size from socket: EOF")
        return count


def bess_listener(sock: socket.socket, once: bool = False, vnet: int | None = None) -> PacketListener:
    """The listener for guests that connect to a listening SOCK_SEQPACKET socket."""
    return PacketListener(PROTOCOL, sock, SeqpacketLink, once, vnet)
