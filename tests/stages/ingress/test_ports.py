"""When the poller watches a link's socket for room: only while its guest may be slow to read."""

import socket
from collections.abc import Iterator

import pytest

from pipeline.ipc.healing_messages import Know
from pipeline.links.base import HEADROOM
from pipeline.records.frames import ALL_LINKS, FrameOut
from pipeline.stages.ingress.ports import Port
from tests.support.ingress_rig import IngressRig

FRAME_BYTES = 60_000


class Rig(IngressRig):
    def send(self, port: Port, count: int) -> None:
        """Demux sends frames to a link. They lie in a slot that demux keeps."""
        for _ in range(count):
            self.demux.push(FrameOut.pack(port.number, 0, HEADROOM, FRAME_BYTES, borrowed=True))
        self.demux.publish()
        self.turn()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.end()


def read_all(guest: socket.socket, rig: Rig) -> int:
    """The number of bytes that the guest reads until nothing comes any more."""
    guest.setblocking(False)
    total = 0
    while True:
        try:
            total += len(guest.recv(1 << 16))
        except BlockingIOError:
            if not rig.turn():
                return total


def test_a_guest_that_reads_wakes_nobody(rig: Rig) -> None:
    port, guest = rig.link_of("a")
    with guest:
        rig.turn()
        for _ in range(100):
            rig.send(port, 1)
            assert len(guest.recv(FRAME_BYTES + 2, socket.MSG_WAITALL)) == FRAME_BYTES + 2
            assert rig.turn() == []


def test_a_guest_that_reads_late_gets_everything_and_later_wakes_nobody_again(rig: Rig) -> None:
    port, guest = rig.link_of("a")
    with guest:
        for _ in range(3):
            rig.send(port, 40)
            assert port.link.blocked
            assert read_all(guest, rig) == 40 * (FRAME_BYTES + 2)
            assert not port.link.blocked
            woken = 0
            for _ in range(100):
                rig.send(port, 1)
                assert len(guest.recv(FRAME_BYTES + 2, socket.MSG_WAITALL)) == FRAME_BYTES + 2
                woken += bool(rig.turn())
            assert woken <= 16
            assert not port.watches_room


def test_one_slow_guest_of_several_gets_what_was_copied_for_it(rig: Rig) -> None:
    port, guest = rig.link_of("a")
    _, other = rig.link_of("b")
    with guest, other:
        rig.send(port, 80)
        assert port.link.blocked
        sent = read_all(guest, rig)
        assert sent % (FRAME_BYTES + 2) == 0
        assert sent >= 4 * (FRAME_BYTES + 2)
        assert not port.link.blocked


def test_bytes_that_others_have_sent_wait_a_second_at_most(rig: Rig) -> None:
    port, guest = rig.link_of("a")
    with guest:
        rig.turn()
        assert port.link.send([bytes(1 << 16)] * 64)
        assert port.link.blocked
        rig.stage.deadline()
        rig.turn()
        assert read_all(guest, rig) == 64 << 16
        assert not port.link.blocked


def test_links_and_guests_are_numbered_on_after_those_of_a_former_daemon(rig: Rig) -> None:
    first, one = rig.link_of("a")
    assert (first.number, first.guest_number) == (1, 1)
    assert rig.stage.on_control(Know(last_link=40).encode(), []) == {}
    second, two = rig.link_of("b")
    # The link that was there before counts too.
    assert (second.number, second.guest_number) == (42, 42)
    again, three = rig.link_of("a")
    assert (again.number, again.guest_number) == (43, 1)
    assert rig.stage.ports.last_number == 43
    for end in (one, two, three):
        end.close()


@pytest.mark.parametrize("last", [ALL_LINKS - 2, ALL_LINKS - 1, ALL_LINKS])
def test_numbers_begin_again_after_the_last_one(rig: Rig, last: int) -> None:
    assert rig.stage.on_control(Know(last_link=last).encode(), []) == {}
    numbers = []
    for name in "ab":
        port, end = rig.link_of(name)
        numbers.append(port.number)
        end.close()
    assert all(0 < number < ALL_LINKS for number in numbers)
    assert len(set(numbers)) == 2
