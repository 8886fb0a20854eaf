"""Addresses of a guest: bounds, regions side by side, and regions that come and go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.virtio.memory import GuestMemory, RingError
from pipeline.wire.vhost_user import Region
from tests.support.vhost_memory import Plain


def two_regions() -> tuple[GuestMemory, Plain, Plain]:
    """Guest addresses 1000 to 1100 and 1100 to 1200, which lie apart in the monitor."""
    memory, one, two = GuestMemory(), Plain(100), Plain(100)
    memory.add(Region(1000, 100, 50_000, 0), one)
    memory.add(Region(1100, 100, 90_000, 0), two)
    return memory, one, two


@given(st.integers(1000, 1199), st.binary(max_size=200))
def test_bytes_may_lie_in_several_regions(addr: int, data: bytes) -> None:
    memory, one, two = two_regions()
    data = data[: 1200 - addr]
    memory.write(addr, data)
    whole = bytes(one.bytes + two.bytes)
    assert whole == bytes(addr - 1000) + data + bytes(1200 - addr - len(data))
    assert bytes(memory.read(addr, len(data))) == data
    target = memoryview(bytearray(len(data)))
    memory.read_into(addr, target)
    assert bytes(target) == data


@pytest.mark.parametrize(
    ("addr", "length"), [(999, 1), (999, 2), (1200, 1), (1199, 2), (1000, 201), (0, 10), ((1 << 64) - 1, 100)]
)
def test_nothing_outside_is_read_or_written(addr: int, length: int) -> None:
    memory, one, two = two_regions()
    for warm in (1000, 1150):
        memory.read(warm, 1)
        with pytest.raises(RingError):
            memory.read(addr, length)
        with pytest.raises(RingError):
            memory.read_into(addr, memoryview(bytearray(length)))
        with pytest.raises(RingError):
            memory.write(addr, b"x" * length)
    assert len(one.bytes) == len(two.bytes) == 100


@pytest.mark.parametrize(("addr", "length"), [(49_999, 2), (50_000, 101), (50_100, 1), (50_001, 2), (0, 1)])
def test_an_area_lies_in_one_region_at_an_even_place(addr: int, length: int) -> None:
    with pytest.raises(RingError):
        two_regions()[0].area(addr, length)


def test_an_area_counts_from_its_start() -> None:
    memory, one, _ = two_regions()
    area = memory.area(50_010, 90)
    area.store16(2, 0x0201)
    assert one.bytes[12:14] == b"\1\2"
    assert area.load16(2) == 0x0201
    area.write(4, b"abc")
    assert bytes(area.read(4, 3)) == b"abc"


@pytest.mark.parametrize(
    ("region", "word"),
    [
        (Region(1050, 10, 0, 0), "guest"),
        (Region(900, 1000, 0, 0), "guest"),
        (Region(5000, 10, 50_099, 0), "user"),
        (Region(5000, 10, 49_991, 0), "user"),
        (Region(1200, 10, 50_100, 0), ""),
        (Region(990, 10, 49_990, 0), ""),
    ],
)
def test_regions_may_touch_and_not_overlap(region: Region, word: str) -> None:
    text = two_regions()[0].refusal(region)
    assert word in text
    assert bool(text) == bool(word)


def test_a_region_that_is_removed_is_closed_and_not_found_any_more() -> None:
    memory, one, two = two_regions()
    memory.read(1000, 1)
    assert not memory.remove(Region(1000, 99, 50_000, 0))
    assert memory.remove(Region(1000, 100, 50_000, 77))
    assert (one.closed, two.closed) == (True, False)
    with pytest.raises(RingError):
        memory.read(1000, 1)
    memory.clear()
    assert two.closed
    assert len(memory) == 0
