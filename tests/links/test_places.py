"""The place of a link in its stream: whoever continues from there gets the same frames."""

import contextlib
import random
import socket

import pytest

from pipeline.ipc.arena import SLOT_BYTES, Arena, Pool
from pipeline.links.base import LinkClosed
from pipeline.links.places import BEGIN, BYTES, END, READING, ROWS, SENDING, SLOT, Places
from pipeline.links.stream import StreamLink
from pipeline.wire import framing

SLOTS = 8


class Rig:
    """A link whose place is kept, and its guest."""

    def __init__(self, form: framing.Framing) -> None:
        self.form = form
        self.arena = Arena(memoryview(bytearray(SLOTS * SLOT_BYTES)), SLOTS)
        self.places = Places(memoryview(bytearray(BYTES)))
        self.guest, self.sock = socket.socketpair()
        self.guest.setblocking(False)
        self.frames: list[bytes] = []
        self.begin(b"", 0)

    def begin(self, head: bytes, skip: int) -> None:
        """A worker begins, or begins again."""
        self.pool = Pool(0, SLOTS)
        self.link = StreamLink(self.sock.dup(), self.form, self.pool, self.arena.slots, head)
        self.row = self.places.take(1)
        self.link.keep_place(self.row, skip)

    def read(self) -> None:
        """Read what is there."""
        self.link.on_readable(False)
        while (burst := self.link.read_burst()) is not None:
            slot, found = burst
            self.frames += [bytes(self.arena.slots[slot][off : off + size]) for off, size in found]

    def die(self) -> bool:
        """The worker dies. Returns whether its successor may go on, which it then has done."""
        place = self.places.place(1, self.arena.slots)
        if place is None:
            return False
        self.places.free(1)
        self.begin(place.head, place.skip)
        return True


@pytest.mark.parametrize("form", [framing.QEMU, framing.LE16], ids=["QEMU", "LE16"])
@pytest.mark.parametrize("seed", range(5))
def test_a_successor_reads_on_at_the_same_byte(form: framing.Framing, seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig(form)
    sent: list[bytes] = []
    unsent = b""
    for _ in range(400):
        if rng.random() < 0.4:
            frame = rng.randbytes(rng.choice((14, 60, 1500, 20_000, 65_000)))
            sent.append(frame)
            unsent += (
                len(frame).to_bytes(form.prefix_len, "big" if form is framing.QEMU else "little") + frame
            )
        part = rng.choice((1, 2, 3, 100, 1500, 70_000))
        with contextlib.suppress(BlockingIOError):
            unsent = unsent[rig.guest.send(unsent[:part]) :] if unsent else b""
        if rng.random() < 0.7:
            rig.read()
        if rng.random() < 0.2:
            # Bytes that a successor holds in its own memory would be lost with it.
            assert rig.die() or rig.row[READING]
    while unsent:
        rig.read()
        try:
            unsent = unsent[rig.guest.send(unsent) :]
        except BlockingIOError:
            continue
    rig.read()
    assert rig.frames == sent


def test_the_place_is_uncertain_while_the_guest_has_got_a_part_of_a_frame() -> None:
    rig = Rig(framing.QEMU)
    assert rig.places.place(1, rig.arena.slots) is not None
    while not rig.link.blocked:
        rig.link.send([bytes(100_000)])
    assert rig.row[SENDING]
    assert rig.places.place(1, rig.arena.slots) is None
    while rig.link.blocked:
        rig.guest.recv(1 << 20)
        rig.link.flush()
    assert rig.places.place(1, rig.arena.slots) is not None


def test_the_place_is_uncertain_after_a_read_that_failed() -> None:
    rig = Rig(framing.QEMU)
    rig.guest.close()
    with pytest.raises(LinkClosed):
        rig.read()
    assert rig.places.place(1, rig.arena.slots) is None


def test_a_link_without_a_row_has_no_place() -> None:
    places = Places(memoryview(bytearray(BYTES)))
    rows = [places.take(number) for number in range(1, ROWS + 2)]
    rows[-1][READING] = 0
    assert places.place(ROWS + 1, []) is None
    assert places.place(ROWS, []) is not None
    places.keep({3})
    assert [number for number in range(1, ROWS + 1) if places.place(number, []) is not None] == [3]


@pytest.mark.parametrize("words", [(SLOTS, 0, 10), (2**63, 0, 10), (0, 0, 2**40), (0, 2**40, 2**41)])
def test_a_place_outside_of_the_slots_is_not_certain(words: tuple[int, int, int]) -> None:
    rig = Rig(framing.QEMU)
    rig.row[SLOT], rig.row[BEGIN], rig.row[END] = words
    assert not rig.die()
