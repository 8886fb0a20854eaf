"""vfkit links over real sockets: who the peer is, and what is no frame."""

import socket
from pathlib import Path

import pytest

from pipeline.links.base import LinkClosed
from tests.support.packet_guests import VfkitGuest, read


@pytest.fixture
def vfkit(tmp_path: Path) -> VfkitGuest:
    return VfkitGuest(tmp_path)


@pytest.mark.parametrize("handshake", [(), (b"VFKT",)])
def test_the_first_datagram_names_the_peer(vfkit: VfkitGuest, handshake: tuple[bytes, ...]) -> None:
    vfkit.send(*handshake, b"frame one", b"frame two")
    assert read(vfkit.link) == [b"frame one", b"frame two"]
    assert read(vfkit.link) is None
    assert vfkit.link.send([b"to the guest"])
    assert vfkit.sock.recv(100) == b"to the guest"


def test_a_handshake_alone_is_no_frame(vfkit: VfkitGuest) -> None:
    vfkit.send(b"VFKT")
    assert read(vfkit.link) is None
    assert vfkit.link.connected
    vfkit.send(b"VFKT", b"VFKTx")
    assert read(vfkit.link) == [b"VFKTx"]


def test_frames_for_a_guest_not_yet_there_are_dropped(vfkit: VfkitGuest) -> None:
    assert vfkit.link.send([b"one", b"two"])
    assert not vfkit.link.blocked
    assert vfkit.link.drops == {"link_frame_dropped_no_neighbor": 2}


def test_only_the_peer_is_heard(vfkit: VfkitGuest, tmp_path: Path) -> None:
    vfkit.send(b"mine")
    assert read(vfkit.link) == [b"mine"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "other.sock"))
        with pytest.raises(PermissionError):
            other.sendto(b"not mine", vfkit.path)


def test_a_sender_without_an_address_is_refused(vfkit: VfkitGuest) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        nameless.sendto(b"frame", vfkit.path)
    with pytest.raises(LinkClosed, match="address is empty"):
        vfkit.link.read_burst()


def test_a_peer_that_is_gone_closes_the_link(vfkit: VfkitGuest) -> None:
    vfkit.send(b"frame")
    read(vfkit.link)
    vfkit.sock.close()
    with pytest.raises(LinkClosed, match="cannot write packet"):
        vfkit.link.send([b"x"])
