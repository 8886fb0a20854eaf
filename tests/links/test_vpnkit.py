"""The handshake of hyperkit and vpnkit clients over real sockets: in pieces, wrong, slow, many."""

import socket
from pathlib import Path
from time import monotonic

import pytest

from pipeline.links.vpnkit import HANDSHAKE_TIMEOUT, MAX_HANDSHAKES, VpnkitListener
from pipeline.wire import framing
from tests.support.owner import Owner

UUID = "c3d68012-0208-11ea-9fd7-f2189899ab08"
OTHER_UUID = "00000000-0208-11ea-9fd7-f2189899ab08"
MAC = bytes.fromhex("5a94efe40cee")
HELLO = framing.vpnkit_hello(22, b"0123456789" * 4)


class Client:
    """A vpnkit client."""

    def __init__(self, folder: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5.0)
        self.sock.connect(str(folder / "vpnkit.sock"))

    def take(self, owner: Owner, count: int) -> bytes:
        """The next bytes of the server, whose events are delivered meanwhile."""
        self.sock.setblocking(False)
        found = b""

        def read() -> bool:
            nonlocal found
            try:
                found += self.sock.recv(count - len(found))
            except BlockingIOError:
                return False
            return len(found) == count

        owner.wait(read)
        self.sock.settimeout(5.0)
        return found

    def join(self, owner: Owner, uuid: str = UUID) -> bytes:
        """The whole handshake; the server's last record."""
        self.sock.sendall(HELLO)
        assert self.take(owner, framing.VPNKIT_HELLO_LEN) == HELLO
        self.sock.sendall(framing.vpnkit_command(uuid))
        return self.take(owner, framing.VPNKIT_REPLY_LEN)


@pytest.fixture
def door(owner: Owner, tmp_path: Path) -> VpnkitListener:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "vpnkit.sock"))
    sock.listen(MAX_HANDSHAKES * 2)
    made = VpnkitListener(sock, {UUID: MAC})
    owner.open(made)
    return made


def test_the_reply_tells_mtu_frame_size_and_the_mac_of_the_uuid(
    owner: Owner, door: VpnkitListener, tmp_path: Path
) -> None:
    reply = Client(tmp_path).join(owner)
    assert reply.hex().startswith("01dc05ea055a94efe40cee00")
    assert not any(reply[11:])


def test_frames_follow_the_handshake_also_in_the_same_packet(
    owner: Owner, door: VpnkitListener, tmp_path: Path
) -> None:
    client = Client(tmp_path)
    client.sock.sendall(HELLO + framing.vpnkit_command(UUID) + b"\5\0hello")
    assert owner.frames(1) == [b"hello"]
    client.sock.sendall(b"\3\0you")
    assert owner.frames(1) == [b"you"]
    assert owner.guest().link.framing is framing.LE16
    assert owner.guest().link.send([b"\2\0ok"])
    assert client.take(owner, 49 + 258 + 4)[-4:] == b"\2\0ok"


def test_a_handshake_may_come_byte_by_byte(owner: Owner, door: VpnkitListener, tmp_path: Path) -> None:
    client = Client(tmp_path)
    for byte in HELLO + framing.vpnkit_command(UUID):
        client.sock.sendall(bytes([byte]))
        owner.poller.run(0.01)
    owner.guest()


def test_a_client_that_is_in_no_table_gets_a_private_address_and_keeps_it(
    owner: Owner, door: VpnkitListener, tmp_path: Path
) -> None:
    macs = [Client(tmp_path).join(owner, OTHER_UUID)[5:11] for _ in range(2)]
    assert macs[0] == macs[1] != MAC
    assert macs[0][0] & 3 == 2
    assert Client(tmp_path).join(owner, "x" * 36)[5:11] != macs[0]


def test_silent_clients_hold_up_nobody_and_go_after_a_while(
    owner: Owner, door: VpnkitListener, tmp_path: Path
) -> None:
    silent = [Client(tmp_path) for _ in range(3)]
    silent[1].sock.sendall(HELLO[:10])
    Client(tmp_path).join(owner)
    assert monotonic() < door.deadline() <= monotonic() + HANDSHAKE_TIMEOUT
    door.on_timer(monotonic() + HANDSHAKE_TIMEOUT)
    assert owner.refused == [("vpnkit handshake: the client was silent", "link_handshake_failed")] * 3
    assert door.deadline() == float("inf")
    assert [client.sock.recv(1) for client in silent if client is not silent[1]] == [b"", b""]
    assert len(owner.guests) == 1


@pytest.mark.parametrize(
    "words",
    [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".ljust(60), HELLO + bytes(41), HELLO + b"\1" + b"\xff" * 40],
    ids=["no vpnkit client", "another command", "no text"],
)
def test_who_says_something_else_is_refused(
    owner: Owner, door: VpnkitListener, tmp_path: Path, words: bytes
) -> None:
    client = Client(tmp_path)
    client.sock.sendall(words)
    owner.wait(lambda: owner.refused)
    assert owner.refused == [("vpnkit handshake: not a vpnkit client", "link_handshake_failed")]
    assert owner.guests == []


def test_who_leaves_in_the_middle_is_forgotten(owner: Owner, door: VpnkitListener, tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.sock.sendall(HELLO)
    client.take(owner, len(HELLO))
    client.sock.close()
    owner.wait(lambda: owner.refused)
    assert owner.refused[0][0] == "vpnkit handshake: the client left"


def test_there_is_a_bound_on_clients_in_the_middle(
    owner: Owner, door: VpnkitListener, tmp_path: Path
) -> None:
    clients = [Client(tmp_path) for _ in range(MAX_HANDSHAKES + 1)]
    owner.wait(lambda: owner.refused)
    assert owner.refused[0][0] == "vpnkit handshake: too many clients at once"
    assert clients[-1].sock.recv(1) == b""
