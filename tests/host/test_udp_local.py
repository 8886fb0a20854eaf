"""The address that a datagram came to, and answers from there. 127.0.0.0/8 has many of them."""

import socket
from collections.abc import Iterator

import pytest

from pipeline.host import listener, udp_local
from pipeline.host.udp import Sender, can_segment

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.9.9.9")


@pytest.fixture(params=["udp", "udp4"])
def server(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with listener.bind_inet(request.param, ":0") as sock:
        sock.setblocking(True)
        sock.settimeout(10)
        assert udp_local.ask_if_wildcard(sock)
        yield sock


def ask(server: socket.socket, address: str) -> tuple[socket.socket, int, object, udp_local.Control]:
    """A connected client that has sent its address, and what the server read."""
    client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(10)
    client.connect((address, server.getsockname()[1]))
    client.send(address.encode())
    view = memoryview(bytearray(100))
    length, where, control = udp_local.receive(server, view)
    assert bytes(view[:length]) == address.encode()
    return client, length, where, control


@pytest.mark.parametrize("segments", [True, False])
def test_answers_come_from_the_address_that_was_asked(server: socket.socket, segments: bool) -> None:
    sender = Sender(segments and can_segment())
    addresses = (*ADDRESSES, "::1") if server.family == socket.AF_INET6 else ADDRESSES
    for address in addresses:
        client, _, where, control = ask(server, address)
        pieces = [memoryview(b"abcd"), memoryview(b"efgh"), memoryview(b"i")]
        assert sender.send(server, pieces, 4, where, control) == 3  # type: ignore[arg-type]
        assert [client.recv(10) for _ in pieces] == pieces
        client.close()


def test_the_interface_is_left_to_the_routing_table(server: socket.socket) -> None:
    client, _, _, control = ask(server, "127.0.0.2")
    client.close()
    ((_, _, value),) = control
    assert value == bytes(4) + socket.inet_aton("127.0.0.2") + bytes(4)


def test_a_socket_with_one_address_is_read_as_ever() -> None:
    with listener.bind_inet("udp", "127.0.0.1:0") as sock:
        assert not udp_local.ask_if_wildcard(sock)


def test_a_system_that_does_not_tell_is_answered_for_by_its_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_local, "_IP_PKTINFO", -1)
    monkeypatch.setattr(udp_local, "_RECV6", -1)
    with listener.bind_inet("udp", ":0") as sock:
        assert not udp_local.ask_if_wildcard(sock)


def test_multicast_and_link_local_keep_their_interface() -> None:
    group, own, far = (socket.inet_pton(socket.AF_INET6, text) for text in ("ff02::1", "fe80::1", "fd00::1"))
    interface = (7).to_bytes(4, "little")
    answers = [udp_local._answer6(address + interface)[0][2] for address in (group, own, far)]
    assert answers == [bytes(16) + interface, own + interface, far + bytes(4)]
