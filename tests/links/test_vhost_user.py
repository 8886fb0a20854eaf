"""Guests on vhost-user: a frontend written from the specification against the listener and its links."""

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from perf import vhost_frontend as driver
from perf.vhost_frontend import HEADER, Frontend
from pipeline.links.base import LinkClosed
from pipeline.links.vhost_user_link import VhostUserLink
from pipeline.wire import offload
from tests.support.owner import Owner
from tests.support.vhost import Rig, is_closed

NO_HEADER = bytes(HEADER)


@pytest.fixture
def rig(owner: Owner, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(owner, tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    yield made
    made.listener.close()
    made.close()
    assert len(os.listdir("/proc/self/fd")) <= before, "descriptors were left open"


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def link_of(rig: Rig) -> VhostUserLink:
    link = rig.owner.guest().link
    assert isinstance(link, VhostUserLink)
    return link


def framed(frame: bytes, header: bytes = NO_HEADER) -> bytes:
    return struct.pack("<I", len(header) + len(frame)) + header + frame


def frames_of(card: Frontend) -> list[bytes]:
    """The frames that have arrived, with their headers."""
    found = [b"".join(parts) for parts in card.received()]
    card.refill()
    return found


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


# --- the life of a link ------------------------------------------------------------------


def test_stopped_rings_end_the_link_and_started_ones_attach_a_new_one(rig: Rig) -> None:
    card = rig.opened()
    first = link_of(rig)
    card.send_frame(b"1" * 60)
    assert rig.owner.frames(1) == [b"1" * 60]
    first.send([framed(b"x" * 60)])
    assert rig.call(card.stop) == (1, 1)
    assert rig.owner.hung_up == ["the guest has stopped its card"]
    rig.call(card.start)
    rig.owner.wait(lambda: rig.owner.guests)
    assert link_of(rig) is not first
    card.send_frame(b"2" * 60)
    assert rig.owner.frames(1) == [b"2" * 60]


def test_a_new_connection_goes_on_at_the_used_index(rig: Rig) -> None:
    card = rig.opened()
    card.send_frame(b"1" * 60)
    assert rig.owner.frames(1) == [b"1" * 60]
    # The frontend is not told what the backend has read since: it asks for too small an index.
    card.send_frame(b"2" * 60)
    card.sock.close()
    rig.owner.wait(lambda: rig.owner.hung_up)
    card.send_frame(b"3" * 60)
    rig.call(lambda: card.reopen(rig.path))
    rig.owner.wait(lambda: rig.owner.guests)
    assert rig.owner.frames(2) == [b"2" * 60, b"3" * 60]


def test_disabled_rings_have_no_link(rig: Rig) -> None:
    card = rig.opened()
    rig.call(lambda: card.tell(driver.ENABLE, struct.pack("<II", 1, 0)))
    assert rig.owner.hung_up == ["the guest has stopped its card"]
    rig.call(lambda: card.tell(driver.ENABLE, struct.pack("<II", 1, 1)))
    assert link_of(rig)


@pytest.mark.parametrize("request_number", [4, 34], ids=["RESET_OWNER", "RESET_DEVICE"])
def test_a_reset_ends_the_link(rig: Rig, request_number: int) -> None:
    card = rig.opened()
    card.send(request_number)
    rig.owner.wait(lambda: rig.owner.hung_up)
    rig.call(card.start)
    assert link_of(rig)


def test_a_link_that_the_owner_refuses_ends_its_connection(rig: Rig) -> None:
    card = rig.opened()
    rig.owner.leave(link_of(rig))
    assert is_closed(card.sock)


def test_memory_may_change_while_rings_run(rig: Rig) -> None:
    card = rig.opened()
    link = link_of(rig)
    rig.call(card.share)
    card.send_frame(b"1" * 60)
    assert rig.owner.frames(1) == [b"1" * 60]
    assert link_of(rig) is link


def test_memory_is_added_and_removed_by_regions(rig: Rig) -> None:
    card = rig.frontend()

    def regions() -> None:
        card.connect(rig.path)
        card.negotiate()
        assert struct.unpack("<Q", card.ask(36)) == (32,)
        region = struct.pack("<QQQQQ", 0, driver.GUEST_BASE, card.memory.size, driver.USER_BASE, 0)
        card.tell(38, region)
        card.tell(37, region, (card.memory.fd,))
        card.make_rings()
        card.start()

    rig.call(regions)
    card.send_frame(b"1" * 60)
    assert rig.owner.frames(1) == [b"1" * 60]


def test_several_pairs_of_queues_send(rig: Rig) -> None:
    card = rig.opened()
    assert struct.unpack("<Q", rig.call(lambda: card.ask(driver.GET_QUEUE_NUM))) == (8,)
    second = driver.DriverRing(card.memory, 16, 0x8000, True)
    at = card.transmit_at
    card.memory.view[at : at + 72] = NO_HEADER + b"2" * 60

    def start_second() -> None:
        for index in (2, 3):
            places = [driver.USER_BASE + place for place in (second.table, second.used, second.avail)]
            card.tell(driver.SET_NUM, struct.pack("<II", index, 16))
            card.tell(driver.SET_ADDR, struct.pack("<IIQQQQ", index, 0, *places, 0))
            card.tell(driver.SET_KICK, struct.pack("<Q", index), (second.kick,))
            card.tell(driver.ENABLE, struct.pack("<II", index, 1))

    rig.call(start_second)
    link = link_of(rig)
    assert link.read_burst() is None
    second.describe(0, at, 72, 0)
    second.add(0)
    second.publish()
    rig.owner.wait(lambda: link in rig.owner.woken)
    assert rig.owner.frames(1) == [b"2" * 60]
    assert second.completed() == [(0, 0)]
    second.close()


def test_inflight_has_a_file_of_the_right_size(rig: Rig) -> None:
    card = rig.frontend()

    def ask() -> tuple[bytes, list[int]]:
        card.connect(rig.path)
        card.negotiate()
        card.send(31, struct.pack("<QQHH", 0, 0, 2, 256))
        return card.answer_with_fds(31)

    payload, [fd] = rig.call(ask)
    size, offset, queues, entries = struct.unpack("<QQHH", payload)
    assert (size, offset, queues, entries) == (2 * (16 + 256 * 16 + 48), 0, 2, 256)
    content = os.pread(fd, size, 0)
    assert struct.unpack_from("<QHHHH", content) == (0, 1, 256, 0, 0)
    assert struct.unpack_from("<QHHHH", content, size // 2) == (0, 1, 256, 0, 0)
    rig.call(lambda: card.tell(32, payload, (fd,)))
    os.close(fd)


def test_the_configuration_space_has_pairs_and_mtu(rig: Rig) -> None:
    card = rig.frontend()

    def ask() -> bytes:
        card.connect(rig.path)
        card.negotiate()
        return card.ask(24, struct.pack("<III", 0, 12, 0) + bytes(12))

    answer = rig.call(ask)
    assert struct.unpack("<III6sHHH", answer) == (0, 12, 0, bytes(6), 1, 8, 1500)


# --- lies ---------------------------------------------------------------------------------


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


@pytest.mark.parametrize("request_number", [driver.SET_KICK, driver.SET_CALL])
def test_a_kick_or_call_must_be_an_eventfd(rig: Rig, request_number: int) -> None:
    card = rig.opened()
    readable, writable = os.pipe()
    card.send(request_number, struct.pack("<Q", 1), (writable,))
    rig.owner.wait(lambda: rig.owner.refused)
    assert is_closed(card.sock)
    assert rig.owner.refused == [
        (
            "vhost-user: a descriptor for kicks or calls is not an eventfd",
            "vhost_user_link_closed_bad_message",
        )
    ]
    os.close(readable)
    os.close(writable)


def ring_message(request: int, *values: int) -> tuple[int, bytes]:
    return request, struct.pack("<II", *values)


@pytest.mark.parametrize(
    ("request_number", "payload"),
    [
        ring_message(driver.SET_NUM, 0, 0),
        ring_message(driver.SET_NUM, 0, 3),
        ring_message(driver.SET_NUM, 0, 65536),
        ring_message(driver.SET_NUM, 16, 256),
        ring_message(driver.SET_BASE, 0, 65536),
        ring_message(driver.ENABLE, 1000, 1),
        (driver.SET_NUM, b"\0\0\0\0"),
        (driver.SET_ADDR, struct.pack("<IIQQQQ", 0, 0, 0, 0, 0, 0)),
        (driver.SET_KICK, struct.pack("<Q", 0x100)),
        (driver.SET_KICK, struct.pack("<Q", 0)),
        (driver.SET_MEM_TABLE, struct.pack("<II", 0, 0)),
        (driver.SET_MEM_TABLE, struct.pack("<II", 9, 0) + bytes(32 * 9)),
        (driver.SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, 0, 4096, 0, 0)),
        (driver.SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, (1 << 64) - 1, 4096, 0, 0)),
        (driver.SET_FEATURES, struct.pack("<Q", 1 << 26)),
        (driver.SET_FEATURES, b""),
        (driver.SET_PROTOCOL, struct.pack("<Q", 1 << 1)),
        (20, struct.pack("<Q", 20)),
        (31, struct.pack("<QQHH", 0, 0, 17, 256)),
        (31, struct.pack("<QQHH", 0, 0, 1, 2048)),
        (38, struct.pack("<QQQQQ", 0, 0, 4096, 0, 0)),
        (6, b""),
        (77, b""),
        (0, b""),
    ],
)
def test_an_impossible_message_ends_the_connection(rig: Rig, request_number: int, payload: bytes) -> None:
    card = rig.frontend()

    def send() -> None:
        card.connect(rig.path)
        card.negotiate()
        card.send(request_number, payload)

    rig.call(send)
    rig.owner.wait(lambda: rig.owner.refused)
    assert rig.owner.refused[0][1] == "vhost_user_link_closed_bad_message"
    assert is_closed(card.sock)
    # The next one is served.
    rig.opened()


@pytest.mark.parametrize(
    "message",
    [
        struct.pack("<III", 1, 2, 0),
        struct.pack("<III", 1, 5, 0),
        struct.pack("<III", 1, 1, 5000),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["version", "reply", "size", "http"],
)
def test_a_bad_header_ends_the_connection(rig: Rig, message: bytes) -> None:
    card = rig.frontend()
    card.connect(rig.path)
    card.sock.sendall(message)
    rig.owner.wait(lambda: rig.owner.refused)
    assert is_closed(card.sock)


def test_messages_may_come_byte_by_byte(rig: Rig) -> None:
    card = rig.frontend()

    def ask() -> bytes:
        card.connect(rig.path)
        for byte in struct.pack("<III", 1, 1, 0) + struct.pack("<IIIQ", 2, 1, 8, 0):
            card.sock.sendall(bytes([byte]))
        return card.answer(1)

    assert len(rig.call(ask)) == 8


def test_descriptors_that_nobody_asked_for_are_closed(rig: Rig) -> None:
    card = rig.frontend()
    zero = os.open("/dev/zero", os.O_RDONLY)
    card.connect(rig.path)
    for _ in range(5):
        card.send(driver.SET_OWNER, b"", (zero,) * 8)
    card.send(driver.SET_OWNER, b"", (zero,) * 20)
    rig.owner.wait(lambda: rig.owner.refused)
    os.close(zero)


def test_regions_that_overlap_are_refused(rig: Rig) -> None:
    card = rig.frontend()

    def send() -> None:
        card.connect(rig.path)
        card.negotiate()
        table = struct.pack("<II", 2, 0) + struct.pack("<QQQQ", 0, 8192, 0, 0)
        table += struct.pack("<QQQQ", 4096, 8192, 1 << 40, 0)
        card.send(driver.SET_MEM_TABLE, table, (card.memory.fd, card.memory.fd))

    rig.call(send)
    rig.owner.wait(lambda: rig.owner.refused)
    assert "same guest address" in rig.owner.refused[0][0]


def test_rings_outside_of_memory_are_refused(rig: Rig) -> None:
    card = rig.frontend()
    rig.call(lambda: (card.connect(rig.path), card.negotiate(), card.make_rings()))
    card.receive.table += 1 << 30
    card.protocol = 0
    card.start()
    rig.owner.wait(lambda: rig.owner.refused)
    assert rig.owner.refused[0][1] == "vhost_user_link_closed_bad_address"
    assert not rig.owner.guests


def test_rings_that_are_not_aligned_are_refused(rig: Rig) -> None:
    card = rig.frontend()
    rig.call(lambda: (card.connect(rig.path), card.negotiate(), card.make_rings()))
    card.transmit.table += 8
    card.protocol = 0
    card.start()
    rig.owner.wait(lambda: rig.owner.refused)
    assert rig.owner.refused[0][1] == "vhost_user_link_closed_bad_ring"


def test_features_cannot_change_while_rings_run(rig: Rig) -> None:
    card = rig.opened()
    card.send(driver.SET_FEATURES, struct.pack("<Q", driver.VERSION_1))
    rig.owner.wait(lambda: rig.owner.refused)
    assert not rig.owner.guests


def test_a_monitor_that_does_not_read_is_disconnected(rig: Rig) -> None:
    card = rig.frontend()
    card.connect(rig.path)
    card.sock.setblocking(False)
    while not rig.owner.refused:
        try:
            card.send(driver.GET_FEATURES)
        except BlockingIOError:
            rig.serve()
    assert rig.owner.refused[0][0] == "vhost-user: the monitor does not read"


# --- memory that cannot be mapped -----------------------------------------------------------


def test_memory_without_seals_is_read_and_written(rig: Rig) -> None:
    card = rig.opened(seals=1)
    link = link_of(rig)
    frames = [noise(60 + 100 * number, number) for number in range(30)]
    for frame in frames:
        card.send_frame(frame)
    assert rig.owner.frames(30) == frames
    assert link.send([framed(frame) for frame in frames])
    assert [frame[12:] for frame in frames_of(card)] == frames


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


def test_memory_that_takes_a_seal_gets_it(rig: Rig) -> None:
    card = rig.opened(seals=0)
    with pytest.raises(PermissionError):
        os.ftruncate(card.memory.fd, 0)


def test_a_file_that_is_not_in_memory_is_refused(rig: Rig, tmp_path: Path) -> None:
    card = rig.frontend()
    card.connect(rig.path)
    fd = os.open("/proc/self/exe", os.O_RDONLY)
    table = struct.pack("<II", 1, 0) + struct.pack("<QQQQ", 0, 4096, 0, 0)
    card.send(driver.SET_MEM_TABLE, table, (fd,))
    rig.owner.wait(lambda: rig.owner.refused)
    assert "does not lie in memory" in rig.owner.refused[0][0]
    os.close(fd)


def test_a_region_longer_than_its_file_is_refused(rig: Rig) -> None:
    for seals in (1, 6):
        card = rig.frontend(seals=seals)
        card.connect(rig.path)
        table = struct.pack("<II", 1, 0) + struct.pack("<QQQQ", 0, card.memory.size + 1, 0, 0)
        card.send(driver.SET_MEM_TABLE, table, (card.memory.fd,))
        rig.owner.wait(lambda: rig.owner.refused)
        assert rig.owner.refused.pop()[1] == "vhost_user_link_closed_bad_message"
