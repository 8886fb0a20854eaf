"""SACK as the receiver sends it (RFC 2018), duplicates included (RFC 2883)."""

from pipeline.engines.tcp.config import TcpConfig
from tests.engines.tcp.builders import MASK, NO_OPTIONS, Rig, established


def blocks(rig: Rig) -> list[tuple[int, int]]:
    """Blocks of the one segment that leaves, counted from the guest's first byte."""
    base = rig.guest_isn + 1
    return [((left - base) & MASK, (right - base) & MASK) for left, right in rig.one().sack]


def test_the_first_block_holds_the_segment_that_caused_the_ack() -> None:
    rig = established()
    base = rig.seq
    for start in (100, 300, 500):
        rig.guest(length=50, seq=base + start)
    assert blocks(rig) == [(500, 550), (300, 350), (100, 150)]
    rig.guest(length=50, seq=base + 150)
    assert blocks(rig) == [(100, 200), (500, 550), (300, 350)]


def test_at_most_three_blocks() -> None:
    rig = established()
    base = rig.seq
    for start in range(100, 1000, 100):
        rig.guest(length=50, seq=base + start)
    assert blocks(rig) == [(900, 950), (800, 850), (700, 750)]


def test_blocks_end_when_their_hole_is_filled() -> None:
    rig = established()
    base = rig.seq
    rig.guest(length=100, seq=base + 100)
    rig.guest(length=100, seq=base + 400)
    assert len(blocks(rig)) == 2
    rig.guest(length=100, seq=base)
    assert blocks(rig) == [(400, 500)]
    rig.guest(length=200, seq=base + 200)
    assert blocks(rig) == []


def test_blocks_ride_on_data_too() -> None:
    rig = established()
    rig.guest(length=100, seq=rig.seq + 100)
    rig.host_data(10)
    out = rig.one()
    assert out.length == 10
    assert len(out.sack) == 1


def test_a_whole_duplicate_is_reported_first() -> None:
    rig = established()
    rig.guest(length=500)
    rig.send()
    rig.guest(length=200, seq=rig.seq - 500)
    assert blocks(rig) == [(0, 200)]


def test_the_old_front_of_a_segment_is_reported_as_duplicate() -> None:
    rig = established()
    rig.guest(length=500)
    rig.guest(length=300, seq=rig.seq - 100)
    assert blocks(rig) == [(400, 500)]


def test_a_duplicate_above_a_hole_is_followed_by_its_block() -> None:
    rig = established()
    base = rig.seq
    rig.guest(length=300, seq=base + 100)
    rig.send()
    rig.guest(length=100, seq=base + 200)
    assert blocks(rig) == [(200, 300), (100, 400)]


def test_a_duplicate_is_reported_once() -> None:
    rig = established()
    rig.guest(length=500)
    rig.guest(length=500, seq=rig.seq - 500)
    rig.send()
    rig.guest(length=10)
    rig.advance(0.05)
    assert blocks(rig) == []


def test_what_was_refused_for_want_of_room_is_not_reported() -> None:
    rig = established(TcpConfig(max_reassembly_ranges=1))
    base = rig.seq
    rig.guest(length=10, seq=base + 100)
    rig.guest(length=10, seq=base + 200)
    assert blocks(rig) == [(100, 110)]


def test_without_agreement_there_are_no_blocks() -> None:
    rig = established(**NO_OPTIONS)
    rig.guest(length=10, seq=rig.seq + 100)
    rig.guest(length=10, seq=rig.seq + 100)
    assert all(out.sack == () for out in rig.send())
