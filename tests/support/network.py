"""Tests with the real demux, tcp and egress, with played guests, and with hosts on loopback."""

import socket
from collections.abc import Callable
from typing import Any

from pipeline.records.addresses import addr_bytes
from tests.support.one_process import OneProcess
from tests.support.played_guests import Card, Guest, GuestStream


class Network(OneProcess):
    """All data workers are real except ingress, which is played with its guests. The host has a server."""

    def __init__(self, **changed: Any) -> None:
        super().__init__(played={"ingress": Card}, **changed)
        card = self.neighbours["ingress"]
        assert isinstance(card, Card)
        self.card = card
        self.listener = self.keep(socket.create_server(("127.0.0.1", 0), backlog=64))
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]

    def die(self, *names: str) -> None:
        """These real workers die, and have successors. The guests stay where they are."""
        self.kill(*names, links=self.card.links())

    def accepted(self) -> socket.socket:
        """The server's end of the next connection, which must exist already."""
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        return self.keep(sock)

    def open(self, guest: Guest, own_port: int = 0) -> tuple[GuestStream, socket.socket]:
        """Open a connection from a guest to the server. Returns both ends."""
        stream = guest.connect(self.port, own_port=own_port)
        self.until(lambda: stream.established, "handshake")
        return stream, self.accepted()

    def forwarded_port(self, egress: str, addr: int, key: str = "k") -> socket.socket:
        """A host client of a forwarded UDP port. ``egress`` sends its datagrams to addr:53000."""
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("127.0.0.1", 0))
        client = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.setblocking(False)
        client.connect(bound.getsockname())
        request = {"op": "udp_forward", "key": key, "addr": addr_bytes(addr), "port": 53000}
        self.stages[egress].on_control(request, [bound.detach()])
        return client

    def nothing_open(self) -> None:
        """Assert that no connection is left, not even in TIME-WAIT."""
        for name in self.stages:
            if not name.startswith("demux"):
                assert not self.held_by(name).get("flows", 0), (name, self.held_by(name))

    def everybody_leaves(self) -> None:
        """Assert that no connection is left. Let all guests leave. Assert that nothing of them is left."""
        self.advance(100.0)
        self.nothing_open()
        for guest in self.card.guests.values():
            if guest.up:
                guest.leave()
        self.at_home()


Make = Callable[..., Network]
"""The type of a fixture that makes networks. Its arguments are those of Network."""


def receive(sock: socket.socket, into: bytearray) -> bool:
    """Read what is there. Returns whether the stream has ended. A reset appends b"!"."""
    try:
        while data := sock.recv(1 << 20):
            into += data
    except BlockingIOError:
        return False
    except ConnectionResetError:
        into += b"!"
    return True


def pattern(number: int, length: int) -> bytes:
    """length bytes that differ for each number."""
    return (number.to_bytes(2, "big") + bytes(range(251))) * (length // 253 + 1)
