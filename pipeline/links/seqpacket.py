"""bess and User Mode Linux: an accepted SOCK_SEQPACKET connection, one packet is one frame.

Unlike datagrams it has an end, which is a read of nothing: no guest sends an empty frame.
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


def bess_listener(sock: socket.socket, once: bool = False) -> PacketListener:
    """The listener for guests that connect to a listening SOCK_SEQPACKET socket."""
    return PacketListener(PROTOCOL, sock, SeqpacketLink, once)
