"""bess links over real sockets: packets both ways, and the end of the connection."""

import pytest

from pipeline.links.base import LinkClosed
from tests.support.packet_guests import BessGuest, read


def test_the_end_of_a_packet_connection_comes_after_its_last_frame() -> None:
    guest = BessGuest()
    guest.send(b"one", b"two")
    guest.sock.close()
    assert read(guest.link) == [b"one", b"two"]
    for _ in range(2):
        with pytest.raises(LinkClosed, match=r"^cannot read size from socket: EOF$"):
            guest.link.read_burst()


def test_a_reset_of_a_packet_connection_has_the_originals_words() -> None:
    guest = BessGuest()
    assert guest.link.send([b"never read"])
    guest.sock.close()
    with pytest.raises(LinkClosed, match=r"^cannot read size from socket: connection reset by peer$"):
        guest.link.read_burst()


def test_frames_pass_both_ways() -> None:
    guest = BessGuest()
    guest.send(b"one", b"two")
    assert read(guest.link) == [b"one", b"two"]
    assert read(guest.link) is None
    assert guest.link.send([b"three", b"four"])
    assert (guest.sock.recv(9), guest.sock.recv(9)) == (b"three", b"four")
