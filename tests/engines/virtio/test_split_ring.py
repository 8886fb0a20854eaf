"""The device's side of a virtqueue: what is taken and given back, when each side is told, and lies."""

import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.virtio.memory import RingError
from pipeline.engines.virtio.split_ring import RingPlace, SplitRing
from pipeline.wire import virtio
from tests.support.vhost_memory import AVAIL, BUFFERS, GUEST, TABLE, USED, USER, Guest

EVENT_IDX = virtio.F_EVENT_IDX


def word(guest: Guest, at: int) -> int:
    number: int = struct.unpack_from("<H", guest.bytes, at)[0]
    return number


@given(st.lists(st.integers(1, 16), max_size=30), st.integers(0, 0xFFFF), st.randoms(use_true_random=False))
def test_chains_are_taken_in_order_and_given_back(counts: list[int], begin: int, rng: random.Random) -> None:
    guest = Guest(16, ring=False)
    struct.pack_into("<H", guest.bytes, USED + 2, begin)
    guest.added = begin
    ring = guest.start()
    assert ring.index == begin
    for number in range(16):
        guest.describe(number, BUFFERS + number, 100 + number)
    for count in counts:
        heads = [rng.randrange(16) for _ in range(count)]
        guest.add(*heads)
        assert ring.pending() == count
        skip = rng.randrange(count)
        assert ring.fetch(skip, count - skip).heads == heads[skip:]
        fetched = ring.fetch(0, count)
        assert fetched.heads == heads
        assert fetched.lengths == [100 + head for head in heads]
        assert fetched.addrs == [GUEST + BUFFERS + head for head in heads]
        ring.give_back(fetched.heads, fetched.lengths)
        before = word(guest, USED + 2)
        ring.publish()
        assert word(guest, USED + 2) == before + count & 0xFFFF
        for number, head in enumerate(heads):
            place = USED + 4 + 8 * ((before + number) % 16)
            assert struct.unpack_from("<II", guest.bytes, place) == (head, 100 + head)
        assert ring.pending() == 0


@pytest.mark.parametrize(
    ("event", "given", "called"),
    [(0, 1, True), (1, 1, False), (4, 5, True), (5, 5, False), (0xFFFF, 3, False)],
)
def test_with_event_idx_the_driver_is_called_when_its_index_is_passed(
    event: int, given: int, called: bool
) -> None:
    guest = Guest(features=EVENT_IDX)
    guest.add(*range(given))
    struct.pack_into("<H", guest.bytes, AVAIL + 4 + 2 * 16, event)
    guest.ring.give_back(list(range(given)))
    assert guest.ring.publish() == called
    assert not guest.ring.publish(), "nothing is new"


@pytest.mark.parametrize("flag", [0, 1])
def test_without_event_idx_a_flag_says_whether_to_call(flag: int) -> None:
    guest = Guest()
    guest.add(0)
    struct.pack_into("<H", guest.bytes, AVAIL, flag)
    guest.ring.give_back([0])
    assert guest.ring.publish() == (not flag)


def test_a_kick_is_asked_for_by_index_or_by_flag() -> None:
    guest = Guest(features=EVENT_IDX)
    fences = guest.fences
    assert not guest.ring.want_kick()
    assert word(guest, USED + 4 + 8 * 16) == 0
    assert guest.fences == fences + 1, "the question must be visible before the index is read"
    assert not guest.ring.want_kick(3)
    assert word(guest, USED + 4 + 8 * 16) == 3
    guest.add(0, 1)
    assert guest.ring.want_kick()
    assert not guest.ring.want_kick(2)

    guest = Guest()
    guest.ring.refuse_kicks()
    assert word(guest, USED) == virtio.NO_NOTIFY
    assert not guest.ring.want_kick()
    assert word(guest, USED) == 0


def test_a_new_device_takes_again_what_was_not_given_back() -> None:
    guest = Guest()
    guest.add(3, 4, 5)
    guest.ring.give_back([3])
    guest.ring.publish()
    assert guest.start().fetch(0, 2).heads == [4, 5]


def chain_of(guest: Guest, head: int, write: int = 0) -> list[tuple[int, int]]:
    guest.add(head)
    return guest.ring.chain(guest.ring.fetch(guest.ring.pending() - 1, 1), 0, write)


def test_a_chain_has_the_segments_of_its_descriptors() -> None:
    guest = Guest()
    guest.describe(2, BUFFERS, 10, virtio.NEXT, 7)
    guest.describe(7, BUFFERS + 50, 0, virtio.NEXT, 1)
    guest.describe(1, BUFFERS + 90, 5)
    assert chain_of(guest, 2) == [
        (GUEST + BUFFERS, 10),
        (GUEST + BUFFERS + 50, 0),
        (GUEST + BUFFERS + 90, 5),
    ]


def test_an_indirect_table_may_be_in_any_order() -> None:
    guest = Guest(features=virtio.F_INDIRECT_DESC)
    rows = [(GUEST + 1, 1, 3, 2), (GUEST + 3, 3, 2, 0), (GUEST + 2, 2, 3, 1)]
    for number, row in enumerate(rows):
        struct.pack_into("<QIHH", guest.bytes, BUFFERS + 16 * number, *row)
    guest.describe(0, BUFFERS, 48, virtio.INDIRECT)
    assert chain_of(guest, 0, virtio.WRITE) == [(GUEST + 1, 1), (GUEST + 2, 2), (GUEST + 3, 3)]


def test_a_chain_may_be_as_long_as_its_ring() -> None:
    guest = Guest()
    for number in range(16):
        guest.describe(number, BUFFERS, 1, virtio.NEXT if number < 15 else 0, number + 1)
    assert len(chain_of(guest, 0)) == 16
    guest.describe(15, BUFFERS, 1, virtio.NEXT, 0)
    with pytest.raises(RingError, match="no end"):
        chain_of(guest, 0)


@pytest.mark.parametrize(
    ("size", "moved"),
    [
        (0, {}),
        (3, {}),
        (65536, {}),
        (16, {"table": 8}),
        (16, {"avail": 1}),
        (16, {"used": 2}),
        (16, {"used": -4}),
    ],
)
def test_a_ring_of_an_impossible_size_or_place_is_refused(size: int, moved: dict[str, int]) -> None:
    guest = Guest()
    places: dict[str, Any] = {"table": USER + TABLE, "avail": USER + AVAIL, "used": USER + USED}
    for name, by in moved.items():
        places[name] = places[name] + by if by > 0 else by
    with pytest.raises(RingError):
        SplitRing(guest.memory, RingPlace(size, **places), 0, lambda: None, True)


def test_a_machine_without_order_gets_fences() -> None:
    guest = Guest()
    fences = []
    ring = SplitRing(guest.memory, guest.place, 0, lambda: fences.append(1), False)
    guest.add(0)
    ring.pending()
    assert fences == [1], "before descriptors are read"
    ring.give_back([0])
    ring.publish()
    assert fences == [1, 1, 1], "before and after the index is written"
