"""Frames of any length, through chains of any form, in both directions."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.virtio.from_guest import LONGEST, MAX_CHAINS, ROOM, FrameReader, header_len
from pipeline.engines.virtio.memory import RingError
from pipeline.engines.virtio.to_guest import FrameWriter
from pipeline.wire import virtio
from tests.support.vhost_memory import BUFFERS, SIZE, Guest

SEEDS = st.integers(0, 2**32)
DROPS: list[str] = []
KINDS = [(12, True), (12, False), (10, False)]
"""Bytes of the header, and whether buffers are mergeable."""


def put(guest: Guest, rng: random.Random, free: list[int], at: int, data: bytes, write: int = 0) -> int:
    """A chain over some descriptors with these bytes at an offset of the memory. Returns its head."""
    guest.bytes[at : at + len(data)] = data
    parts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(3)))
    bounds = [0, *parts, len(data)]
    numbers = [free.pop() for _ in bounds[1:]]
    for number, begin, stop, following in zip(numbers, bounds, bounds[1:], [*numbers[1:], 0], strict=False):
        last = stop == len(data) and number == numbers[-1]
        guest.describe(number, at + begin, stop - begin, write | (0 if last else virtio.NEXT), following)
    return numbers[0]


@given(SEEDS, st.lists(st.integers(1, 3000), min_size=1, max_size=10), st.sampled_from([10, 12]))
def test_frames_arrive_whole_after_a_header_of_twelve_bytes(seed: int, lengths: list[int], head: int) -> None:
    rng = random.Random(seed)
    guest = Guest(64)
    free, at = list(range(64)), BUFFERS
    frames, heads = [], []
    for length in lengths:
        header, frame = rng.randbytes(head), rng.randbytes(length)
        heads.append(put(guest, rng, free, at, header + frame))
        frames.append((header.ljust(12, b"\0"), frame))
        at += head + length
    guest.add(*heads)
    slot = memoryview(bytearray(ROOM + 256))
    reader = FrameReader(guest.ring, guest.memory, head, DROPS.append)
    found, end = reader.read(slot, 256, len(slot))
    assert [(bytes(slot[off - 12 : off]), bytes(slot[off : off + size])) for off, size in found] == frames
    assert all(off % 8 == 0 for off, _ in found)
    assert end == found[-1][0] + found[-1][1]
    guest.ring.publish()
    assert guest.used() == (len(frames), [(head, 0) for head in heads])


def test_a_burst_ends_where_the_slot_does_or_with_enough() -> None:
    guest = Guest(64)
    guest.describe(0, BUFFERS, 1012)
    guest.add(*[0] * 64)
    slot = memoryview(bytearray(5 * 1024))
    reader = FrameReader(guest.ring, guest.memory, 12, DROPS.append)
    assert len(reader.read(slot, 0, 10_000)[0]) == 5
    assert len(reader.read(slot, 0, 1500)[0]) == 2
    assert len(reader.read(slot, 0, 10_000, 1)[0]) == 1
    assert reader.read(slot, 4900, 10_000) == ([], 4900), "the next one does not fit"
    big = memoryview(bytearray(1 << 18))
    assert len(reader.read(big, 0, len(big))[0]) == 56
    guest.add(*[0] * 64)
    assert len(reader.read(big, 0, len(big))[0]) == MAX_CHAINS == 64


def test_any_frame_fits_into_room() -> None:
    guest = Guest()
    guest.describe(0, BUFFERS, LONGEST)
    guest.add(0)
    slot = memoryview(bytearray(ROOM + 256))
    reader = FrameReader(guest.ring, guest.memory, 12, DROPS.append)
    for end in range(256, 256 + 1):
        [(_, length)], _ = reader.read(slot, end, len(slot))
        assert length == LONGEST - 12


@given(SEEDS, st.lists(st.integers(0, 5000), min_size=1, max_size=6), st.sampled_from(KINDS))
def test_frames_fill_buffers_of_any_form(seed: int, lengths: list[int], kind: tuple[int, bool]) -> None:
    head, mergeable = kind
    rng = random.Random(seed)
    guest = Guest(64)
    free, at = list(range(64)), BUFFERS
    rooms: dict[int, tuple[int, int]] = {}
    heads = []
    for _ in range(18):
        size = rng.randrange(40, 3000)
        chain = put(guest, rng, free, at, bytes(size), virtio.WRITE)
        rooms[chain] = at, size
        heads.append(chain)
        at += size
        assert at < SIZE
    guest.add(*heads)
    drops: list[str] = []
    writer = FrameWriter(guest.ring, guest.memory, head, mergeable, drops.append)
    buffers, frames = [], []
    for length in lengths:
        header, frame, payload = rng.randbytes(12), rng.randbytes(14), rng.randbytes(length)
        buffers += [struct.pack("<I", 26 + length) + header + frame] + ([payload] if payload else [])
        frames.append((header[:10], frame + payload))
    number, off = writer.write(buffers)
    assert off == 0
    guest.ring.publish()
    _, used = guest.used()
    assert [chain for chain, _ in used] == heads[: len(used)]
    content = [bytes(guest.bytes[rooms[chain][0] : rooms[chain][0] + size]) for chain, size in used]
    found = []
    while content:
        first = content.pop(0)
        count = int.from_bytes(first[10:12], "little") if head == 12 else 1
        assert mergeable or count == 1
        found.append((first[:10], b"".join([first[head:], *[content.pop(0) for _ in range(count - 1)]])))
    waiting = len([1 for buffer in buffers[number:] if buffer[4:14] in [header for header, _ in frames]])
    assert len(found) + len(drops) + waiting == len(frames)
    # A frame is dropped only if the one buffer that it may have is too short.
    assert not mergeable or not drops
    assert found == [frame for frame in frames if frame in found]


def test_a_frame_waits_until_it_has_all_its_buffers() -> None:
    guest = Guest(16)
    for number in range(16):
        guest.describe(number, BUFFERS + 100 * number, 100, virtio.WRITE)
    writer = FrameWriter(guest.ring, guest.memory, 12, True, DROPS.append)
    data = struct.pack("<I", 262) + bytes(262)
    guest.add(0, 1)
    assert writer.write([data, data]) == (0, 0)
    assert guest.used()[0] == 0
    assert not writer.want_kick()
    guest.add(2, 3)
    assert writer.want_kick()
    assert writer.write([data, data]) == (1, 0)
    guest.ring.publish()
    assert guest.used() == (3, [(0, 100), (1, 100), (2, 62)])


def test_several_frames_in_one_buffer_are_told_apart() -> None:
    guest = Guest(16)
    for number in range(16):
        guest.describe(number, BUFFERS + 100 * number, 100, virtio.WRITE)
    guest.add(0, 1)
    writer = FrameWriter(guest.ring, guest.memory, 12, True, DROPS.append)
    frame = struct.pack("<I", 72) + bytes(72)
    assert writer.write([frame * 3, frame]) == (0, 2 * len(frame))
    guest.add(2, 3)
    assert writer.write([memoryview(frame * 3)[2 * len(frame) :], frame]) == (2, 0)


def test_the_header_has_ten_bytes_before_version_1() -> None:
    assert header_len(0) == 10
    assert header_len(virtio.F_MRG_RXBUF) == 12
    assert header_len(virtio.F_VERSION_1) == 12


def test_a_guest_whose_buffers_have_too_many_descriptors_loses_its_ring() -> None:
    """Each descriptor costs time, for every frame that the network sends to the guest."""
    guest = Guest(256, virtio.F_INDIRECT_DESC)
    for number in range(256):
        # A table of 200 descriptors: the first has a byte, the others none.
        guest.describe(number, BUFFERS, 200 * 16, virtio.INDIRECT)
    for at in range(200):
        last = at == 199
        struct.pack_into(
            "<QIHH",
            guest.bytes,
            BUFFERS + 16 * at,
            0x10000 + BUFFERS,
            1 if at == 0 else 0,
            virtio.WRITE | (0 if last else virtio.NEXT),
            at + 1,
        )
    guest.add(*range(256))
    writer = FrameWriter(guest.ring, guest.memory, 12, True, DROPS.append)
    with pytest.raises(RingError, match="too many descriptors"):
        writer.write([struct.pack("<I", 112) + bytes(112)])
