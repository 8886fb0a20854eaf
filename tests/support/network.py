"""demux, tcp and egress for real, guests that are played, and hosts on the loopback interface."""

import socket
from collections.abc import Callable
from typing import Any

from tests.support.one_process import OneProcess
from tests.support.played_guests import Card, Guest, GuestStream


class Network(OneProcess):
    """All real but ingress, which guests are played at; and a server on the host."""

    def __init__(self, **changed: Any) -> None:
        super().__init__(played={"ingress": Card}, **changed)
        card = self.neighbours["ingress"]
        assert isinstance(card, Card)
        self.card = card
        self.listener = self.keep(socket.create_server(("127.0.0.1", 0), backlog=64))
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]

    def accepted(self) -> socket.socket:
        """The server's end of the next connection, which must be there."""
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        return self.keep(sock)

    def open(self, guest: Guest, own_port: int = 0) -> tuple[GuestStream, socket.socket]:
        """A connection of a guest to the server, both ends."""
        stream = guest.connect(self.port, own_port=own_port)
        self.until(lambda: stream.established, "handshake")
        return stream, self.accepted()

    def forwarded_port(self, egress: str, addr: int, key: str = "k") -> socket.socket:
        """A client of a forwarded UDP port: its datagrams go through that egress worker to addr:53000."""
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("127.0.0.1", 0))
        client = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.setblocking(False)
        client.connect(bound.getsockname())
        request = {"op": "udp_forward", "key": key, "addr": addr, "port": 53000}
        self.stages[egress].on_control(request, [bound.detach()])
        return client

    def nothing_open(self) -> None:
        """No connection is left, not even one in TIME-WAIT."""
        for name in self.stages:
            if not name.startswith("demux"):
                assert not self.held_by(name)["flows"], (name, self.held_by(name))

    def everybody_leaves(self) -> None:
        """Nothing of any connection may be left, and then nothing of any guest."""
        self.advance(100.0)
        self.nothing_open()
        for guest in self.card.guests.values():
            if guest.up:
                guest.leave()
        self.at_home()


Make = Callable[..., Network]
"""The fixture that makes networks: its arguments are those of Network."""


def receive(sock: socket.socket, into: bytearray) -> bool:
    """Take what is there; whether that was the end (b"!" is appended at a reset)."""
    try:
        while data := sock.recv(1 << 20):
            into += data
    except BlockingIOError:
        return False
    except ConnectionResetError:
        into += b"!"
    return True


def pattern(number: int, length: int) -> bytes:
    """Bytes that no other number has."""
    return (number.to_bytes(2, "big") + bytes(range(251))) * (length // 253 + 1)
