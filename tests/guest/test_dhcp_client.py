"""The packets of the built-in DHCP client and its command line."""

import resource
import socket
from collections.abc import Iterator
from fcntl import F_DUPFD_CLOEXEC, fcntl

import pytest

from guest import dhcp_client
from guest.dhcp_client import _message_of, _packet
from guest.resolv_conf import NONE, ResolvConf
from pipeline.wire import dhcp, ip, ipv4, udp
from pipeline.wire.dhcp import Message
from pipeline.wire.errors import WireError

MAC = bytes.fromhex("5a94efe40cee")
PAYLOAD = dhcp.build(Message(dhcp.BOOT_REQUEST, 7, MAC, {dhcp.MESSAGE_TYPE: b"\1"}))


def to_client(packet: bytes) -> bytes:
    """The packet with its UDP ports exchanged and no UDP checksum, as if a server had sent it."""
    return packet[:20] + udp.build(67, 68, len(packet) - 20) + packet[28:]


def test_a_request_is_a_valid_packet_from_no_address_to_everybody() -> None:
    packet = _packet(PAYLOAD, ip.BROADCAST)
    network = ipv4.parse(packet, 0, len(packet))
    assert (network.src, network.dst, network.proto, network.total_len) == (
        0,
        ip.BROADCAST,
        ipv4.PROTO_UDP,
        len(packet),
    )
    header = udp.parse(packet, 20, len(packet))
    udp.verify(memoryview(packet), 20, header, network.src, network.dst)
    assert (header.src_port, header.dst_port) == (68, 67)


def test_a_packet_for_the_client_port_is_read() -> None:
    message = _message_of(to_client(_packet(PAYLOAD, ip.BROADCAST)))
    assert message is not None
    assert message.xid == 7


def test_packets_for_other_ports_are_passed_over() -> None:
    assert _message_of(_packet(PAYLOAD, ip.BROADCAST)) is None


def test_a_broken_packet_is_a_wire_error() -> None:
    packet = bytearray(_packet(PAYLOAD, ip.BROADCAST))
    packet[10] ^= 1
    with pytest.raises(WireError):
        _message_of(bytes(packet))


def test_a_wrong_udp_checksum_is_a_wire_error() -> None:
    packet = bytearray(to_client(_packet(PAYLOAD, ip.BROADCAST)))
    packet[26] = 1
    with pytest.raises(WireError):
        _message_of(bytes(packet))


def test_a_bad_command_line_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert dhcp_client.main(["-nosuch"]) == 2
    assert "flag provided but not defined: -nosuch" in capsys.readouterr().err


def test_an_interface_that_is_not_there_ends_it_with_status_1() -> None:
    assert dhcp_client.main(["-i", "nosuch0"]) == 1


FAR = 1024
"""The first descriptor that select() refuses."""


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * FAR:
        pytest.skip(f"this system allows {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * FAR), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def far(sock: socket.socket) -> socket.socket:
    """The same socket with a descriptor above those of select()."""
    with sock:
        return socket.socket(fileno=fcntl(sock.fileno(), F_DUPFD_CLOEXEC, FAR))


@pytest.mark.usefixtures("_many_descriptors")
def test_the_client_works_with_descriptors_above_1023(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    parent, child = socket.socketpair()
    received: list[bytes] = []

    class Port:
        def __init__(self, _interface: str) -> None:
            self.sock = far(theirs)

        def fileno(self) -> int:
            return self.sock.fileno()

        def send(self, _message: Message, _server: int) -> None:
            ours.send(b"an answer")

        def receive(self) -> None:
            received.append(self.sock.recv(100))
            parent.close()  # with it the client's standard input ends

    monkeypatch.setattr(dhcp_client, "Port", Port)
    monkeypatch.setattr(dhcp_client, "mac_of", lambda _interface: MAC)
    with ours, far(child) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        dhcp_client.run("tap0", ResolvConf(NONE, "tap0"), with_parent=True)
    assert received == [b"an answer"]
