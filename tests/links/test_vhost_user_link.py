"""Frames in the rings of a guest, and rings that lie: each lie costs a counter or the link."""

import fcntl
import os
import struct

import pytest

from perf import vhost_frontend as driver
from perf.vhost_frontend import Frontend
from pipeline.links.base import LinkClosed
from pipeline.wire import offload
from tests.support.vhost import Rig, framed, frames_of, is_closed, link_of, noise

NO_HEADER = bytes(driver.HEADER)


def test_frames_go_both_ways(rig: Rig) -> None:
    card = rig.opened()
    link = link_of(rig)
    frames = [noise(60 + number, number) for number in range(20)]
    for frame in frames:
        card.send_frame(frame)
    assert rig.owner.frames(20) == frames
    assert link.send([framed(frame) for frame in frames])
    with_one_buffer = NO_HEADER[:10] + b"\1\0"
    assert frames_of(card) == [with_one_buffer + frame for frame in frames]


def test_what_was_agreed_on_is_what_the_link_says(rig: Rig) -> None:
    rig.opened()
    link = link_of(rig)
    assert link.vnet_len == 12
    assert link.framing == offload.FRAMING
    assert link.features == offload.CSUM | offload.TSO4 | offload.TSO6 | offload.USO4 | offload.USO6
    assert link.guest_features == offload.CSUM | offload.TSO4 | offload.TSO6


def test_a_guest_that_accepts_nothing_gets_whole_frames(rig: Rig) -> None:
    rig.opened(wanted=driver.PROTOCOL | driver.VERSION_1)
    link = link_of(rig)
    assert (link.features, link.guest_features) == (0, 0)


def test_a_frame_of_64_kib_comes_in_one_piece(rig: Rig) -> None:
    card = rig.opened()
    frame = noise(65549)
    header = struct.pack("<BBHHHHH", 1, 1, 54, 1448, 34, 16, 0)
    card.send_frame(frame, header)
    link = link_of(rig)
    burst = link.read_burst()
    assert burst is not None
    slot, [(off, length)] = burst
    view = rig.owner.slots[slot]
    assert bytes(view[off : off + length]) == frame
    assert bytes(view[off - 12 : off]) == header


def test_a_frame_of_64_kib_fills_many_buffers(rig: Rig) -> None:
    card = rig.opened()
    head, payload = noise(66, 1), noise(65483, 2)
    header = struct.pack("<BBHHHHH", 1, 1, 66, 1448, 34, 16, 0)
    data = framed(head + payload, header)
    split = 4 + 12 + len(head)
    assert link_of(rig).send([data[:split], memoryview(data)[split:]])
    [parts] = card.received()
    assert len(parts) == -(-(12 + 66 + 65483) // 1536)
    whole = b"".join(parts)
    assert whole[:10] == header[:10]
    assert int.from_bytes(whole[10:12], "little") == len(parts)
    assert whole[12:] == head + payload


def test_frames_that_find_no_buffer_wait_in_order(rig: Rig) -> None:
    card = rig.opened(ring_size=8)
    link = link_of(rig)
    frames = [noise(1000, number) for number in range(30)]
    for frame in frames:
        assert link.send([framed(frame)])
    assert link.blocked
    assert link.backlog_bytes == 22 * (4 + 12 + 1000)
    assert link.take_drops() == {"vhost_user_send_paused_no_buffer": 1}
    found: list[bytes] = []
    while len(found) < 30:
        found += frames_of(card)
        link.flush()
    assert [frame[12:] for frame in found] == frames
    assert not link.blocked
    assert link.backlog_bytes == 0


def test_the_backlog_is_bounded(rig: Rig) -> None:
    rig.opened(ring_size=64)
    link = link_of(rig)
    sent = 0
    while link.send([framed(noise(60000))]):
        sent += 1
        assert sent < 1000
    assert link.backlog_bytes <= 4 * 1024 * 1024


def test_a_kick_of_the_receive_queue_says_that_there_is_room(rig: Rig) -> None:
    card = rig.opened(ring_size=4)
    link = link_of(rig)
    for number in range(6):
        link.send([framed(noise(100, number))])
    assert link.blocked
    assert len(card.received()) == 4
    os.eventfd_write(card.receive.kick, 1)
    os.eventfd_read(card.receive.kick)
    card.refill()
    assert os.eventfd_read(card.receive.kick) == 1, "the driver saw that a kick is wanted"
    link.flush()
    assert len(card.received()) == 2


def test_a_frame_that_no_ring_can_hold_is_dropped(rig: Rig) -> None:
    card = rig.opened(ring_size=4)
    link = link_of(rig)
    assert link.send([framed(noise(7000)), framed(b"x" * 60)])
    assert [frame[12:] for frame in frames_of(card)] == [b"x" * 60]
    assert link.take_drops() == {"link_frame_dropped_oversized": 1}


@pytest.mark.parametrize("event_idx", [True, False])
def test_kicks_and_calls_are_suppressed(rig: Rig, event_idx: bool) -> None:
    wanted = driver.WANTED if event_idx else driver.WANTED & ~driver.EVENT_IDX
    card = rig.opened(wanted=wanted)
    link = link_of(rig)
    assert link.read_burst() is None
    card.send_frame(b"a" * 60)
    assert os.eventfd_read(card.transmit.kick) == 1
    assert link.read_burst() is not None
    # It has not asked for a kick since.
    card.send_frame(b"b" * 60)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(card.transmit.kick)
    assert link.read_burst() is not None
    assert link.read_burst() is None
    card.send_frame(b"c" * 60)
    assert os.eventfd_read(card.transmit.kick) == 1

    card.receive.want_call()
    link.send([framed(b"d" * 60)])
    assert os.eventfd_read(card.receive.call) == 1
    if not event_idx:
        card.memory.words[card.receive.avail >> 1] = 1
    link.send([framed(b"e" * 60)])
    with pytest.raises(BlockingIOError):
        os.eventfd_read(card.receive.call)


def test_a_legacy_driver_has_a_header_of_ten_bytes(rig: Rig) -> None:
    card = rig.opened(wanted=driver.CSUM | driver.GUEST_CSUM)
    link = link_of(rig)
    header = struct.pack("<BBHHHH", 1, 0, 0, 0, 34, 16)
    card.send_frame(b"from the guest".ljust(60), header)
    burst = link.read_burst()
    assert burst is not None
    view = rig.owner.slots[burst[0]]
    [(off, length)] = burst[1]
    assert bytes(view[off : off + length]) == b"from the guest".ljust(60)
    assert bytes(view[off - 12 : off]) == header + b"\0\0"
    link.send([framed(b"to the guest".ljust(60), header + b"\0\0")])
    [(head, length)] = card.receive.completed()
    at = card.receive_at + head * card.buffer_bytes
    assert bytes(card.memory.view[at : at + length]) == header + b"to the guest".ljust(60)


def test_indices_wrap(rig: Rig) -> None:
    card = rig.opened(ring_size=4)
    link = link_of(rig)
    for number in range(0x10000 // 2 + 10):
        card.send_frame(number.to_bytes(60, "big"))
        card.send_frame(number.to_bytes(60, "little"))
        burst = link.read_burst()
        assert burst is not None
        assert len(burst[1]) == 2
    assert card.transmit.seen < 100


def break_and_read(rig: Rig, card: Frontend) -> LinkClosed:
    """Read until the link ends. Its connection must end too."""
    link = link_of(rig)
    with pytest.raises(LinkClosed) as caught:
        list(iter(link.read_burst, ()))
    rig.owner.leave(link)
    assert is_closed(card.sock)
    return caught.value


@pytest.mark.parametrize("ahead", [257, 0x8000, 0xFFFF])
def test_an_index_that_jumps_ends_the_link(rig: Rig, ahead: int) -> None:
    card = rig.opened()
    card.memory.words[(card.transmit.avail + 2) >> 1] = ahead
    assert break_and_read(rig, card).reason == "vhost_user_link_closed_bad_index"


@pytest.mark.parametrize("count", [1, 20])
def test_a_head_outside_of_the_ring_ends_the_link(rig: Rig, count: int) -> None:
    card = rig.opened()
    for _ in range(count):
        card.transmit.add(256)
    card.transmit.publish()
    assert break_and_read(rig, card).reason == "vhost_user_link_closed_bad_index"


def lie(card: Frontend, addr: int, length: int, flags: int, following: int = 0) -> None:
    """Send a chain whose first descriptor is this one."""
    at = card.transmit.table
    struct.pack_into("<QIHH", card.memory.view, at, addr, length, flags, following)
    card.transmit.add(0)
    card.transmit.publish()


@pytest.mark.parametrize(
    "addr", [0, driver.GUEST_BASE - 1, driver.GUEST_BASE + (1 << 30), (1 << 64) - 1, (1 << 64) - 60]
)
def test_an_address_outside_of_memory_ends_the_link(rig: Rig, addr: int) -> None:
    card = rig.opened()
    lie(card, addr, 100, 0)
    assert break_and_read(rig, card).reason == "vhost_user_link_closed_bad_address"


def test_a_descriptor_that_leaves_the_memory_ends_the_link(rig: Rig) -> None:
    card = rig.opened()
    lie(card, driver.GUEST_BASE + card.memory.size - 50, 100, 0)
    assert break_and_read(rig, card).reason == "vhost_user_link_closed_bad_address"


@pytest.mark.parametrize(
    ("flags", "following"),
    [(2, 0), (1, 0), (1, 1), (1, 256), (1, 0xFFFF), (5, 0), (4, 0)],
    ids=["writable", "loop", "loop of others", "outside", "far outside", "indirect next", "zero table"],
)
def test_a_bad_chain_ends_the_link(rig: Rig, flags: int, following: int) -> None:
    card = rig.opened()
    card.transmit.describe(1, card.transmit_at, 0, 1, 1)
    length = 0 if flags == 4 else 10
    lie(card, driver.GUEST_BASE + card.transmit_at, length, flags, following)
    assert break_and_read(rig, card).reason == "vhost_user_link_closed_bad_chain"


@pytest.mark.parametrize(
    "rows",
    [
        [(0, 10, 4, 0)],
        [(0, 10, 2, 0)],
        [(0, 0, 1, 0)],
        [(0, 0, 1, 1), (0, 0, 1, 0)],
        [(0, 10, 1, 2), (0, 10, 0, 0)],
        [(0, 10, 1, 0xFFFF), (0, 10, 0, 0)],
    ],
    ids=["nested", "writable", "loop", "long loop", "outside", "far outside"],
)
def test_a_bad_indirect_table_ends_the_link(rig: Rig, rows: list[tuple[int, int, int, int]]) -> None:
    card = rig.opened()
    at = card.transmit_at + driver.LONGEST
    for number, (addr, length, flags, following) in enumerate(rows):
        struct.pack_into(
            "<QIHH",
            card.memory.view,
            at + 16 * number,
            driver.GUEST_BASE + card.transmit_at + addr,
            length,
            flags,
            following,
        )
    lie(card, driver.GUEST_BASE + at, 16 * len(rows), 4)
    assert break_and_read(rig, card).reason == "vhost_user_link_closed_bad_chain"


@pytest.mark.parametrize("length", [8, 17, 1025 * 16])
def test_an_indirect_table_of_an_impossible_length_ends_the_link(rig: Rig, length: int) -> None:
    card = rig.opened()
    lie(card, driver.GUEST_BASE + card.transmit_at, length, 4)
    assert break_and_read(rig, card).reason == "vhost_user_link_closed_bad_chain"


def test_an_indirect_table_needs_to_be_agreed_on(rig: Rig) -> None:
    card = rig.opened(wanted=driver.WANTED & ~driver.INDIRECT)
    lie(card, driver.GUEST_BASE + card.transmit_at, 16, 4)
    assert break_and_read(rig, card).reason == "vhost_user_link_closed_bad_chain"


def test_a_buffer_for_frames_must_be_writable(rig: Rig) -> None:
    card = rig.opened()
    card.receive.describe(0, card.receive_at, 1536, 0)
    with pytest.raises(LinkClosed) as caught:
        link_of(rig).send([framed(b"x" * 60)])
    assert caught.value.reason == "vhost_user_link_closed_bad_chain"
    rig.owner.leave(link_of(rig))


def test_a_receive_index_that_jumps_ends_the_link(rig: Rig) -> None:
    card = rig.opened()
    card.memory.words[(card.receive.avail + 2) >> 1] = 1000
    with pytest.raises(LinkClosed) as caught:
        link_of(rig).send([framed(b"x" * 60)])
    assert caught.value.reason == "vhost_user_link_closed_bad_index"
    rig.owner.leave(link_of(rig))


def test_frames_without_bytes_and_too_long_ones_cost_a_counter(rig: Rig) -> None:
    card = rig.opened()
    for length in (0, 5, 12):
        number = card.free_buffer()
        card.queue(number, length)
    chain = [card.free_buffer(), card.free_buffer()]
    card.transmit.describe(chain[0], card.transmit_at, 40000, 1, chain[1])
    card.transmit.describe(chain[1], card.transmit_at, 40000, 0)
    card.transmit.add(chain[0])
    card.transmit.publish()
    card.send_frame(b"good".ljust(60))
    assert rig.owner.frames(1) == [b"good".ljust(60)]
    assert link_of(rig).take_drops() == {
        "link_frame_dropped_bad_vnet_header": 3,
        "link_frame_dropped_oversized": 1,
    }
    assert len(card.transmit.completed()) == 5


def test_a_chain_may_have_descriptors_without_bytes(rig: Rig) -> None:
    card = rig.opened()
    at = card.transmit_at
    card.memory.view[at : at + 72] = NO_HEADER + b"z" * 60
    for number, (off, length, flags, following) in enumerate(
        [(0, 12, 1, 1), (0, 0, 1, 2), (12, 50, 1, 3), (0, 0, 1, 4), (62, 10, 0, 0)]
    ):
        card.transmit.describe(number, at + off, length, flags, following)
    card.transmit.add(0)
    card.transmit.publish()
    assert rig.owner.frames(1) == [b"z" * 60]


def test_a_call_that_nobody_reads_never_blocks(rig: Rig) -> None:
    card = rig.opened()
    os.set_blocking(card.receive.call, True)
    os.eventfd_write(card.receive.call, (1 << 64) - 2)
    for number in range(3):
        card.receive.want_call()
        link_of(rig).send([framed(noise(60, number))])
        os.set_blocking(card.receive.call, True)
    assert len(frames_of(card)) == 3


def test_memory_without_seals_is_read_and_written(rig: Rig) -> None:
    card = rig.opened(seals=1)
    link = link_of(rig)
    frames = [noise(60 + 100 * number, number) for number in range(30)]
    for frame in frames:
        card.send_frame(frame)
    assert rig.owner.frames(30) == frames
    assert link.send([framed(frame) for frame in frames])
    assert [frame[12:] for frame in frames_of(card)] == frames


def test_memory_that_appends_ends_the_link_and_does_not_grow(rig: Rig) -> None:
    card = rig.opened(seals=1)
    link = link_of(rig)
    fcntl.fcntl(card.memory.fd, fcntl.F_SETFL, os.O_APPEND)
    size = os.fstat(card.memory.fd).st_size
    with pytest.raises(LinkClosed) as caught:
        link.send([framed(noise(60, 1))])
    assert caught.value.reason == "vhost_user_link_closed_memory_lost"
    assert os.fstat(card.memory.fd).st_size == size


def test_memory_that_disappears_ends_the_link(rig: Rig) -> None:
    card = rig.opened(seals=1)
    os.ftruncate(card.memory.fd, 0)
    link = link_of(rig)
    with pytest.raises(LinkClosed) as caught:
        link.read_burst()
    assert caught.value.reason == "vhost_user_link_closed_memory_lost"
    rig.owner.leave(link)
    assert is_closed(card.sock)
    # The frontend's own mapping is gone too. It must not be touched any more.
