"""A name server for tests, on UDP and TCP of one port. The test sees the queries and writes the answers."""

import select
import socket

import dns.message

from pipeline.host.name_files import Server
from tests.support.poller import Poller


def same_port() -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket that are bound to the same port."""
    for _ in range(50):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            # Another TCP socket has this port.
            udp.close()
            tcp.close()
            continue
        return udp, tcp
    raise AssertionError("no port is free for UDP and TCP")


class FakeServer:
    """The server."""

    def __init__(self, poller: Poller) -> None:
        self.udp, self.tcp = same_port()
        self.server = Server(socket.AF_INET, self.udp.getsockname())
        self.queries: list[tuple[dns.message.Message, object]] = []
        self.connections: list[socket.socket] = []
        self.poller = poller
        poller.register(self.udp.fileno(), select.EPOLLIN, lambda _events: self._on_udp())

    def listen(self) -> None:
        self.tcp.listen()
        self.poller.register(self.tcp.fileno(), select.EPOLLIN, lambda _events: self._on_connection())

    def stop(self) -> None:
        """Close the UDP socket. From now on the system answers with ICMP errors."""
        self.poller.unregister(self.udp.fileno())
        self.udp.close()

    def close(self) -> None:
        for sock in (self.udp, self.tcp, *self.connections):
            sock.close()

    def answer(self, message: dns.message.Message | bytes, where: object) -> None:
        wire = message if isinstance(message, bytes) else message.to_wire(max_size=65535)
        if isinstance(where, socket.socket):
            where.sendall(len(wire).to_bytes(2, "big") + wire)
        else:
            self.udp.sendto(wire, where)  # type: ignore[arg-type]

    def _on_udp(self) -> None:
        wire, client = self.udp.recvfrom(65535)
        self.queries.append((dns.message.from_wire(wire), client))

    def _on_connection(self) -> None:
        connection = self.tcp.accept()[0]
        self.connections.append(connection)
        self.poller.register(connection.fileno(), select.EPOLLIN, lambda _events: self._on_stream(connection))

    def _on_stream(self, connection: socket.socket) -> None:
        data = connection.recv(65535)
        if not data:
            self.poller.unregister(connection.fileno())
            return
        self.queries.append((dns.message.from_wire(data[2:]), connection))
