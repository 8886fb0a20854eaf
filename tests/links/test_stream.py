"""Frames in a byte stream, over socket pairs: whatever the cuts, each frame arrives once and whole."""

import itertools
import random
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ipc.arena import SLOT_BYTES, Pool
from pipeline.links.base import HEADROOM, MIN_READ, LinkClosed
from pipeline.links.places import BEGIN, END, READING, SLOT, private_row
from pipeline.links.stream import StreamLink
from pipeline.wire import framing, offload
from pipeline.wire.framing import EVERY_FRAME, LE16, QEMU, Framing

SLOTS = [memoryview(bytearray(SLOT_BYTES)) for _ in range(6)]
LONGEST = SLOT_BYTES - HEADROOM - QEMU.prefix_len
"""Of the frames that a slot holds."""
FORMS = pytest.mark.parametrize("form", [QEMU, LE16], ids=["qemu", "le16"])


def framed(frames: list[bytes], form: Framing = QEMU) -> bytes:
    return b"".join(framing.prefix(len(frame), form) + frame for frame in frames)


class Guest:
    """The other end of a StreamLink, and the pool behind it."""

    def __init__(self, form: Framing = QEMU, head: bytes = b"", slot_count: int = 6, **keys: int) -> None:
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.pool = Pool(0, slot_count)
        self.link = StreamLink(ours, form, self.pool, SLOTS, head, **keys)

    def read(self) -> list[bytes] | None:
        """One burst, copied out of its slot."""
        burst = self.link.read_burst()
        if burst is None:
            return None
        slot, places = burst
        return [bytes(SLOTS[slot][off : off + length]) for off, length in places]

    def read_all(self) -> list[bytes]:
        frames: list[bytes] = []
        while (burst := self.read()) is not None:
            frames += burst
        return frames

    def close(self) -> None:
        self.link.close()
        self.sock.close()
        assert self.pool.refs_out == 0
        assert self.pool.audit() is None


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


# --- reading ------------------------------------------------------------------------


@given(
    sizes=st.lists(st.sampled_from([0, 1, 60, 66, 1514, 1514, 9000, 30000, 65549]), max_size=12),
    cuts=st.lists(st.integers(1, 70000), min_size=1, max_size=30),
    form=st.sampled_from([QEMU, LE16]),
    head=st.integers(0, 5000),
    short_is_all=st.booleans(),
    most=st.sampled_from([1, 2, 5, EVERY_FRAME]),
)
@settings(max_examples=120, deadline=None)
def test_every_frame_arrives_once_and_in_order_however_the_stream_is_cut(
    sizes: list[int], cuts: list[int], form: Framing, head: int, short_is_all: bool, most: int
) -> None:
    rng = random.Random(1)
    frames = [rng.randbytes(min(size, form.max)) for size in sizes]
    stream = framed(frames, form)
    guest = Guest(form, stream[:head])
    guest.link.on_readable(short_is_all)
    guest.link.frame_limit = most
    stream = stream[head:]
    found = guest.read_all()
    turn = 0
    while stream:
        cut = cuts[turn % len(cuts)]
        turn += 1
        sent = guest.sock.send(stream[:cut])
        stream = stream[sent:]
        found += guest.read_all()
    assert found + guest.read_all() == frames
    guest.close()


def test_small_reads_share_a_slot(guest: Guest) -> None:
    slots = set()
    for _ in range(200):
        guest.sock.send(framed([bytes(60)]))
        burst = guest.link.read_burst()
        assert burst is not None
        slots.add(burst[0])
        assert len(burst[1]) == 1
    assert len(slots) == 1
    assert guest.pool.refs_out == 1


def test_a_full_slot_is_left_for_a_fresh_one(guest: Guest) -> None:
    seen: list[int] = []
    end = 0
    for _ in range(130):
        guest.sock.send(framed([bytes(1514)]))
        burst = guest.link.read_burst()
        assert burst is not None
        slot, places = burst
        assert len(places) == 1
        if slot not in seen:
            assert not seen or SLOT_BYTES - end < MIN_READ + 1518, "the old slot was nearly full"
            assert places[0][0] == HEADROOM + 4
            seen.append(slot)
        end = places[0][0] + places[0][1]
    assert len(seen) >= 2
    assert guest.pool.refs_out == 1


def test_one_read_takes_all_that_a_slot_holds(guest: Guest) -> None:
    guest.sock.send(framed([bytes(1514)] * 60))
    burst = guest.link.read_burst()
    assert burst is not None
    assert len(burst[1]) == (SLOT_BYTES - HEADROOM) // 1518
    second = guest.link.read_burst()
    assert second is not None
    assert second[0] != burst[0]
    assert len(burst[1]) + len(second[1]) == 60


def test_frames_above_the_limit_wait_in_the_slot(guest: Guest) -> None:
    guest.link.frame_limit = 2
    guest.link.on_readable(True)
    guest.sock.send(framed([b"one", b"two", b"three", b"four", b"five"]))
    assert guest.read() == [b"one", b"two"]
    assert guest.link.holds_frames
    guest.sock.send(framed([b"six"]))
    guest.link.on_readable(True)
    assert guest.read() == [b"three", b"four"]
    assert not guest.link.drained
    assert guest.read() == [b"five"], "without a read"
    assert not guest.link.holds_frames
    assert not guest.link.drained, "an event has come since the read"
    assert guest.read() == [b"six"]
    assert guest.link.drained


def test_a_link_that_holds_no_frame_of_a_short_read_is_drained(guest: Guest) -> None:
    guest.link.frame_limit = 2
    guest.link.on_readable(True)
    guest.sock.send(framed([b"one", b"two", b"three", b"four"]) + framed([b"five"])[:3])
    assert guest.read() == [b"one", b"two"]
    assert not guest.link.drained
    assert guest.read() == [b"three", b"four"]
    assert guest.link.drained, "the rest is no whole frame"
    assert guest.read() is None


def test_a_successor_gets_the_frames_that_a_link_holds(guest: Guest) -> None:
    row = private_row()
    guest.link.keep_place(row)
    guest.link.frame_limit = 1
    sent = framed([b"one", b"two", b"three"])
    guest.sock.send(sent)
    assert guest.read() == [b"one"]
    assert not row[READING]
    held = bytes(SLOTS[row[SLOT]][row[BEGIN] : row[END]])
    assert held == framed([b"two", b"three"])
    assert guest.link.carried()[0] == held


def test_an_impossible_length_behind_the_limit_closes_the_link(guest: Guest) -> None:
    guest.link.frame_limit = 1
    guest.sock.send(framed([b"one"]) + b"\xff" * 20)
    with pytest.raises(LinkClosed, match="invalid packet size"):
        guest.link.read_burst()


def test_records_keep_their_slot_while_the_link_goes_on(guest: Guest) -> None:
    guest.sock.send(framed([b"a" * 1514] * 60))
    first = guest.link.read_burst()
    assert first is not None
    slot, places = first
    guest.pool.ref(slot)
    guest.read_all()
    off, length = places[0]
    assert SLOTS[slot][off : off + length] == b"a" * 1514
    guest.pool.unref(slot)


def test_without_a_free_slot_nothing_is_read_and_nothing_is_lost() -> None:
    guest = Guest(slot_count=1)
    guest.sock.send(framed([bytes(1514)] * 60))
    assert guest.read() is not None
    for _ in range(3):
        assert guest.read() is None
        assert guest.link.starved
    guest.close()


def test_without_a_free_slot_the_rest_of_the_old_one_is_used() -> None:
    guest = Guest(slot_count=1)
    frames = [bytes(SLOT_BYTES - HEADROOM - MIN_READ), b"a" * 2000, b"b" * 2000]
    for frame in frames:
        guest.sock.send(framed([frame]))
        assert guest.read() == [frame]
    guest.close()


def test_a_slot_that_came_home_ends_the_starving() -> None:
    guest = Guest(slot_count=2)
    guest.pool.alloc()
    frames = [bytes([i]) * 1514 for i in range(60)]
    guest.sock.send(framed(frames))
    first = guest.read()
    assert guest.read() is None
    assert guest.link.starved
    guest.pool.unref(0 if guest.link._cursor.slot == 1 else 1)
    second = guest.read()
    assert not guest.link.starved
    assert first is not None
    assert second is not None
    assert first + second == frames
    guest.close()


def test_head_bytes_come_before_the_socket() -> None:
    frames = [b"one", b"two", b"three"]
    stream = framed(frames, LE16)
    guest = Guest(LE16, stream[:6])
    guest.sock.send(stream[6:])
    assert guest.read_all() == frames
    guest.close()


def test_the_end_of_the_stream_closes_the_link(guest: Guest) -> None:
    guest.sock.send(framed([b"last"]))
    guest.sock.shutdown(socket.SHUT_WR)
    assert guest.read() == [b"last"]
    with pytest.raises(LinkClosed, match="EOF") as caught:
        guest.read()
    assert caught.value.reason == ""


def test_a_reset_closes_the_link(guest: Guest) -> None:
    guest.link.send([b"x" * 100])
    guest.sock.close()
    with pytest.raises(LinkClosed, match=r"^cannot read size from socket: connection reset by peer$"):
        guest.read_all()
    with pytest.raises(LinkClosed, match=r"^cannot write to socket: broken pipe$"):
        guest.link.send([b"x"])


@pytest.mark.parametrize("length", [131073, 0xFFFFFFFF])
def test_an_impossible_length_closes_the_link(guest: Guest, length: int) -> None:
    guest.sock.send(length.to_bytes(4, "big") + bytes(100))
    with pytest.raises(LinkClosed) as caught:
        guest.read()
    assert str(caught.value) == f"invalid packet size: {length} is negative or exceeds maximum 131072"
    assert caught.value.reason == "link_frame_dropped_oversized"


@given(
    sizes=st.lists(
        st.sampled_from([0, 60, 1514, 9000, LONGEST, LONGEST + 1, 100_000, framing.MAX_FRAME]),
        min_size=1,
        max_size=10,
    ),
    cuts=st.lists(st.integers(1, 80_000), min_size=1, max_size=30),
    head=st.integers(0, 90_000),
    short_is_all=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_frames_that_no_slot_holds_are_passed_over_however_the_stream_is_cut(
    sizes: list[int], cuts: list[int], head: int, short_is_all: bool
) -> None:
    rng = random.Random(2)
    frames = [rng.randbytes(size) for size in sizes]
    stream = framed(frames)
    guest = Guest(QEMU, stream[:head], slot_count=2)
    guest.link.on_readable(short_is_all)
    stream = stream[head:]
    found = guest.read_all()
    for cut in itertools.cycle(cuts):
        if not stream:
            break
        stream = stream[guest.sock.send(stream[:cut]) :]
        found += guest.read_all()
        assert guest.pool.refs_out <= 1
    assert found + guest.read_all() == [frame for frame in frames if len(frame) <= LONGEST]
    oversized = sum(size > LONGEST for size in sizes)
    assert guest.link.drops == ({"link_frame_dropped_oversized": oversized} if oversized else {})
    guest.close()


def test_a_frame_that_no_slot_holds_is_counted_when_all_of_it_has_come(guest: Guest) -> None:
    guest.sock.send(framed([bytes(100_000)])[:60_000])
    assert guest.read_all() == []
    assert guest.link.drops == {}
    guest.link.release_idle()
    assert guest.pool.refs_out == 0, "nothing of it is kept"
    guest.sock.send(framed([bytes(100_000), b"next"])[60_000:])
    assert guest.read_all() == [b"next"]
    assert guest.link.drops == {"link_frame_dropped_oversized": 1}


def test_the_longest_frame_behind_a_carried_part_fits(guest: Guest) -> None:
    frames = [bytes(66000), b"a" * 65549, b"b" * 73000]
    stream = framed(frames)
    found: list[bytes] = []
    while stream:
        with suppress(BlockingIOError):
            stream = stream[guest.sock.send(stream[:40000]) :]
        found += guest.read_all()
    assert found == frames


def test_a_short_read_may_be_taken_for_the_last(guest: Guest) -> None:
    guest.link.on_readable(True)
    guest.sock.send(framed([b"one"]))
    assert guest.read() == [b"one"]
    guest.sock.send(framed([b"two"]))
    assert guest.read() is None
    assert not guest.link.starved
    assert guest.read() == [b"two"]


def test_an_event_after_a_short_read_is_not_forgotten(guest: Guest) -> None:
    """The owner stopped reading right after a short read, and the next event came before it went on."""
    guest.link.on_readable(True)
    guest.sock.send(framed([b"one"]))
    assert guest.read() == [b"one"]
    guest.sock.send(framed([b"two"]))
    guest.link.on_readable(True)  # the owner's event
    assert guest.read() == [b"two"]
    assert guest.read() is None


def test_an_idle_link_can_give_back_its_slot(guest: Guest) -> None:
    guest.sock.send(framed([b"one"]))
    assert guest.read() == [b"one"]
    guest.link.release_idle()
    assert guest.pool.refs_out == 0
    guest.sock.send(framed([b"two"])[:5])
    assert guest.read() == []
    guest.link.release_idle()
    assert guest.pool.refs_out == 1, "a partial frame is in it"
    guest.sock.send(framed([b"two"])[5:])
    assert guest.read() == [b"two"]


# --- writing ------------------------------------------------------------------------


def drain(guest: Guest) -> bytes:
    data = b""
    while True:
        try:
            chunk = guest.sock.recv(1 << 20)
        except BlockingIOError:
            if not guest.link.blocked:
                return data
            guest.link.flush()
            continue
        data += chunk


@pytest.mark.parametrize("count", [1, 2, 1024, 1025, 3000])
def test_all_buffers_are_sent_in_order(guest: Guest, count: int) -> None:
    buffers = [bytes([i & 0xFF]) * (i % 5) for i in range(count)]
    assert guest.link.send(buffers)
    assert drain(guest) == b"".join(buffers)


@pytest.mark.parametrize("size", [100, 70_000, 3_000_000])
def test_what_the_socket_does_not_take_is_copied_and_sent_later(guest: Guest, size: int) -> None:
    rng = random.Random(size)
    wanted = b""
    scratch = bytearray(size)
    while not guest.link.blocked:
        scratch[:] = rng.randbytes(size)
        assert guest.link.send([memoryview(scratch)[:7], memoryview(scratch)[7:]])
        wanted += scratch
        scratch[:] = bytes(size)  # the buffers are the caller's again
    assert guest.link.backlog_bytes > 0
    assert guest.link.send([b"and one more"])
    assert drain(guest) == wanted + b"and one more"
    assert guest.link.backlog_bytes == 0


def test_a_full_backlog_takes_nothing_or_all() -> None:
    guest = Guest(max_backlog=100_000)
    while not guest.link.blocked:
        guest.link.send([bytes(50_000)])
    before = guest.link.backlog_bytes
    assert not guest.link.send([bytes(60_000), bytes(60_000)])
    assert guest.link.backlog_bytes == before
    assert guest.link.send([bytes(1000)])
    guest.close()


def test_the_backlog_does_not_keep_what_is_sent(guest: Guest) -> None:
    while not guest.link.blocked:
        guest.link.send([bytes(100_000)])
    for _ in range(200):
        guest.sock.recv(100_000)
        guest.link.flush()
        if guest.link.backlog_bytes < 1_000_000:
            guest.link.send([bytes(100_000)])
    assert len(guest.link._backlog) < 4_000_000


def test_close_may_be_called_twice(guest: Guest) -> None:
    guest.read()
    guest.link.close()
    guest.link.close()
    assert guest.link.fileno() == -1


@FORMS
def test_tcp_sockets_are_links_too(form: Framing) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    pool = Pool(0, 2)
    link = StreamLink(accepted, form, pool, SLOTS)
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.sendall(framed([b"frame"], form))
    while (burst := link.read_burst()) is None:
        pass
    assert len(burst[1]) == 1
    link.close()
    client.close()


def test_with_virtio_net_headers_the_length_counts_the_header(guest: Guest) -> None:
    guest.link.begin_vnet(offload.CSUM)
    header = bytes(range(12))
    guest.sock.sendall(framed([header + b"one", header[:11], header + b"two"]))
    burst = guest.link.read_burst()
    assert burst is not None
    slot, places = burst
    whole = [bytes(SLOTS[slot][off - 12 : off + length]) for off, length in places]
    assert whole == [header + b"one", header + b"two"]
    assert guest.link.take_drops() == {"link_frame_dropped_bad_vnet_header": 1}


def test_frames_of_64_kib_are_whole_with_their_headers(guest: Guest) -> None:
    guest.link.begin_vnet(0)
    frames = [bytes([number]) * size for number, size in enumerate((65549, 1514, 65549, 60, 65549))]
    sent, found = framed([bytes(12) + frame for frame in frames]), []
    for begin in range(0, len(sent), 50000):
        guest.sock.sendall(sent[begin : begin + 50000])
        found += guest.read_all()
    assert found == frames


def test_a_link_whose_guest_does_not_read_ends_if_no_memory_is_left() -> None:
    guest = Guest(max_backlog=100_000)

    def no_memory(*_: object) -> None:
        raise MemoryError

    guest.link._keep = no_memory  # type: ignore[method-assign]
    with pytest.raises(LinkClosed, match="no memory is left"):
        guest.link.send([bytes(50_000)] * 1000)
    guest.close()
