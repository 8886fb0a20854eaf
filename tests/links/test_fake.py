"""The fake link behaves as a link, and its impairments are those asked for, again and again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.links.base import LinkClosed
from pipeline.links.fake import FakeLink, Impairment
from pipeline.shm.arena import SLOT_BYTES, Pool

SLOTS = [memoryview(bytearray(SLOT_BYTES)) for _ in range(4)]


def make(**keys: object) -> tuple[FakeLink, Pool]:
    pool = Pool(0, 4)
    return FakeLink(pool, SLOTS, **keys), pool


def read(link: FakeLink) -> list[bytes] | None:
    burst = link.read_burst()
    return burst if burst is None else [bytes(SLOTS[burst[0]][o : o + n]) for o, n in burst[1]]


def test_frames_pass_both_ways() -> None:
    link, pool = make()
    assert read(link) is None
    link.inject(b"one", b"two")
    assert read(link) == [b"one", b"two"]
    link.send([b"three", memoryview(b"four")])
    assert link.taken() == [b"three", b"four"]
    assert link.taken() == []
    link.close()
    assert pool.refs_out == 0


def test_bursts_keep_to_one_slot() -> None:
    link, pool = make()
    frames = [bytes([i]) * 9000 for i in range(20)]
    link.inject(*frames)
    found = []
    while (burst := read(link)) is not None:
        found += burst
    assert found == frames
    assert pool.refs_out == 1


def test_a_guest_that_does_not_read_blocks() -> None:
    link, _ = make(capacity=10)
    link.send([b"0123456789", b"x"])
    assert link.blocked
    assert link.taken() == [b"0123456789"]
    link.flush()
    assert not link.blocked
    assert link.taken() == [b"x"]


def test_hanging_up_ends_the_link_behind_its_last_frame() -> None:
    link, _ = make()
    link.inject(b"bye")
    link.hang_up()
    assert read(link) == [b"bye"]
    with pytest.raises(LinkClosed):
        link.read_burst()
    with pytest.raises(LinkClosed):
        link.send([b"x"])


@given(
    seed=st.integers(0, 1000), loss=st.floats(0, 0.3), duplicate=st.floats(0, 0.3), reorder=st.floats(0, 0.3)
)
def test_an_impairment_accounts_for_every_frame(
    seed: int, loss: float, duplicate: float, reorder: float
) -> None:
    bad, again = (Impairment(seed, loss, duplicate, reorder) for _ in range(2))
    frames = [i.to_bytes(2, "big") for i in range(300)]
    out = [frame for frame in frames for frame in bad.apply(frame)] + bad.drain()
    assert len(out) == 300 - bad.lost + bad.duplicated
    assert set(out) <= set(frames)
    assert len(set(out)) == 300 - bad.lost
    assert out == [frame for frame in frames for frame in again.apply(frame)] + again.drain()


def test_a_reordered_frame_is_passed_by_later_ones() -> None:
    bad = Impairment(3, reorder=0.2)
    out = [frame for i in range(200) for frame in bad.apply(bytes([i]))] + bad.drain()
    assert bad.reordered > 10
    assert out != sorted(out)
    assert sorted(out) == [bytes([i]) for i in range(200)]


def test_impairments_work_in_both_directions_of_a_link() -> None:
    link, _ = make(from_guest=Impairment(1, loss=0.5), to_guest=Impairment(2, reorder=1.0))
    link.inject(*[bytes([i]) for i in range(100)])
    frames = read(link)
    assert frames is not None
    assert 20 < len(frames) < 80
    link.send([b"held"])
    assert link.taken() == []
    link.settle()
    assert link.taken() == [b"held"]
