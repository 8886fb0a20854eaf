"""What all packet links do, over real sockets: one packet, one frame, many in a slot."""

import errno
import socket
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.links.packet import ALIGN, LONGEST_PACKET, MAX_PACKETS
from pipeline.wire import offload
from tests.support.packet_guests import SLOTS, BessGuest, VfkitGuest, read


def test_a_burst_lies_at_equal_strides_in_one_slot(tmp_path: Path) -> None:
    guest = VfkitGuest(tmp_path)
    guest.send(*[bytes([i]) * 1514 for i in range(8)])
    burst = guest.link.read_burst()
    assert burst is not None
    offs = [off for off, _ in burst[1]]
    assert offs[0] % ALIGN == 0
    assert {second - first for first, second in pairwise(offs)} == {1520}


def test_small_packets_share_a_slot_and_full_ones_are_left() -> None:
    guest = BessGuest()
    changes = []
    for i in range(300):
        guest.send(bytes([i & 0xFF]) * 1000)
        burst = guest.link.read_burst()
        assert burst is not None
        slot, ((off, length),) = burst
        assert SLOTS[slot][off : off + length] == bytes([i & 0xFF]) * 1000
        if changes[-1:] != [slot]:
            changes.append(slot)
    assert len(changes) == 5, "some 70 packets a slot"
    assert guest.pool.refs_out == 1
    guest.link.close()
    assert guest.pool.refs_out == 0


def test_a_long_queue_comes_in_several_bursts() -> None:
    guest = BessGuest()
    frames = [i.to_bytes(2, "big") for i in range(150)]
    guest.send(*frames)
    found = []
    while (burst := read(guest.link)) is not None:
        assert len(burst) <= MAX_PACKETS
        found += burst
    assert found == frames


def test_packets_above_the_limit_wait_in_the_socket() -> None:
    guest = BessGuest()
    guest.send(*[bytes([number]) for number in range(7)])
    guest.link.frame_limit = 3
    bursts = []
    while (burst := read(guest.link)) is not None:
        bursts.append(burst)
    assert [len(burst) for burst in bursts] == [3, 3, 1]
    assert b"".join(frame for burst in bursts for frame in burst) == bytes(range(7))


def test_packets_of_64_kib_are_taken_whatever_the_mtu_and_however_little_of_the_slot_is_left(
    tmp_path: Path,
) -> None:
    guest = VfkitGuest(tmp_path)
    sizes = (60000, 20000, 100, 65549, 1514, 65549, 8)
    frames = [bytes([number]) * size for number, size in enumerate(sizes)]
    found: list[bytes] = []
    for begin in range(0, len(frames), 2):
        guest.send(*frames[begin : begin + 2])
        while (burst := read(guest.link)) is not None:
            found += burst
    assert found == frames
    assert guest.link.drops == {}
    assert guest.pool.refs_out == 1


def test_a_packet_that_found_no_slot_waits_for_one(tmp_path: Path) -> None:
    guest = VfkitGuest(tmp_path, slot_count=1)
    guest.send(b"a" * 60000, b"b" * 20000, b"c")
    assert read(guest.link) == [b"a" * 60000]
    assert read(guest.link) is None
    assert guest.link.starved
    guest.link.release_idle()
    assert read(guest.link) == [b"b" * 20000, b"c"]


@pytest.mark.parametrize("before", [0, 20000], ids=["whole slot", "rest of it"])
def test_a_packet_that_no_ip_packet_fills_is_dropped(tmp_path: Path, before: int) -> None:
    guest = VfkitGuest(tmp_path)
    guest.send(b"a" * before, b"b" * (LONGEST_PACKET + 1), b"c")
    assert read(guest.link) == [b"a" * before, b"c"]
    assert guest.link.drops == {"link_frame_dropped_oversized": 1}


def test_an_mtu_of_64_kib_fits_a_slot(tmp_path: Path) -> None:
    guest = VfkitGuest(tmp_path, mtu=65520)
    for i in range(10):
        guest.send(bytes([i]) * 65534)
        assert read(guest.link) == [bytes([i]) * 65534]


def test_without_a_free_slot_packets_wait_in_the_socket(tmp_path: Path) -> None:
    guest = VfkitGuest(tmp_path, slot_count=1)
    taken = guest.pool.alloc()
    guest.send(b"patience")
    assert read(guest.link) is None
    assert guest.link.starved
    guest.pool.unref(taken)
    assert read(guest.link) == [b"patience"]


@pytest.mark.parametrize("kind", ["vfkit", "bess"])
def test_what_a_full_queue_refuses_is_sent_later(kind: str, tmp_path: Path) -> None:
    guest = VfkitGuest(tmp_path) if kind == "vfkit" else BessGuest()
    guest.send(b"hello")
    read(guest.link)
    sent = []
    while not guest.link.blocked:
        batch = [len(sent).to_bytes(4, "big") * 300, b"-"]
        assert guest.link.send([memoryview(bytearray(frame)) for frame in batch])
        sent += batch
    assert guest.link.backlog_bytes > 0
    assert guest.link.send([b"last"])
    found = []
    while True:
        try:
            found.append(guest.sock.recv(4096))
        except BlockingIOError:
            if not guest.link.blocked:
                break
            guest.link.flush()
    assert found == [*sent, b"last"]


def test_a_full_backlog_takes_nothing() -> None:
    guest = BessGuest(max_backlog=5000)
    while not guest.link.blocked:
        guest.link.send([bytes(1000)])
    assert not guest.link.send([bytes(5000)])


def test_a_packet_that_can_never_be_sent_is_dropped() -> None:
    guest = BessGuest()
    guest.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    assert guest.link.send([bytes(100_000), b"small"])
    assert guest.sock.recv(10) == b"small"
    assert guest.link.drops == {"link_frame_dropped_oversized": 1}


class NoBuffers:
    """A socket whose system is short of buffers every other time (as macOS says it)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._refuse = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def send(self, frame: bytes) -> int:
        self._refuse = not self._refuse
        if self._refuse:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return self._sock.send(frame)


def test_no_buffer_space_is_a_full_queue() -> None:
    guest = BessGuest()
    guest.link._sock = NoBuffers(guest.ours)  # a system's mood cannot be arranged
    assert guest.link.send([b"one", b"two"])
    for _ in range(4):
        guest.link.flush()
    assert (guest.sock.recv(9), guest.sock.recv(9)) == (b"one", b"two")


HEADER = bytes(range(12))


def test_with_virtio_net_headers_a_frame_begins_after_its_header(tmp_path: Path) -> None:
    guest = VfkitGuest(tmp_path)
    guest.link.begin_vnet(offload.CSUM)
    guest.send(b"VFKT", HEADER + b"one", bytes(12) + b"two", HEADER)
    burst = guest.link.read_burst()
    assert burst is not None
    slot, frames = burst
    assert [bytes(SLOTS[slot][off - 12 : off + length]) for off, length in frames] == [
        HEADER + b"one",
        bytes(12) + b"two",
        HEADER,
    ]
    assert guest.link.drops == {}


def test_a_packet_shorter_than_its_header_is_dropped(tmp_path: Path) -> None:
    guest = VfkitGuest(tmp_path)
    guest.link.begin_vnet(0)
    guest.send(HEADER[:11], b"", b"VFKTx", HEADER + b"good")
    assert read(guest.link) == [b"good"]
    assert guest.link.take_drops() == {"link_frame_dropped_bad_vnet_header": 3}


def test_packets_of_64_kib_are_whole_with_their_headers(tmp_path: Path) -> None:
    guest = VfkitGuest(tmp_path)
    guest.link.begin_vnet(offload.CSUM | offload.TSO4)
    sizes = (60000, 20000, 100, LONGEST_PACKET, 1514, LONGEST_PACKET, 8)
    frames = [bytes([number]) * size for number, size in enumerate(sizes)]
    found: list[bytes] = []
    for begin in range(0, len(frames), 2):
        guest.send(*[HEADER + frame for frame in frames[begin : begin + 2]])
        while (burst := guest.link.read_burst()) is not None:
            slot, where = burst
            assert all(SLOTS[slot][off - 12 : off] == HEADER for off, _ in where)
            found += [bytes(SLOTS[slot][off : off + length]) for off, length in where]
    assert found == frames
    guest.send(HEADER + bytes(LONGEST_PACKET + 1), HEADER + b"next")
    assert read(guest.link) == [b"next"]
    assert guest.link.drops == {"link_frame_dropped_oversized": 1}


def test_with_virtio_net_headers_each_frame_is_a_packet_without_the_length(tmp_path: Path) -> None:
    guest = VfkitGuest(tmp_path)
    guest.link.begin_vnet(offload.CSUM | offload.TSO4)
    payload = bytes(range(250)) * 200
    pack = offload.FRAMING.prefix.pack
    two = pack(15) + HEADER + b"one" + pack(15) + HEADER + b"two"
    assert guest.link.send([two, pack(12 + 54 + len(payload)) + HEADER + bytes(54), memoryview(payload)])
    assert [guest.sock.recv(1 << 17) for _ in range(3)] == [
        HEADER + b"one",
        HEADER + b"two",
        HEADER + bytes(54) + payload,
    ]


def test_packets_with_headers_wait_for_a_guest_that_does_not_read(tmp_path: Path) -> None:
    guest = VfkitGuest(tmp_path)
    guest.link.begin_vnet(0)
    frames = [bytes([number]) * 1000 for number in range(200)]
    for begin in range(0, len(frames), 10):
        buffers: list[bytes | memoryview] = []
        for frame in frames[begin : begin + 10]:
            buffers += [offload.FRAMING.prefix.pack(12 + len(frame)) + HEADER, memoryview(frame)]
        assert guest.link.send(buffers)
    assert guest.link.blocked
    found = []
    while len(found) < len(frames):
        try:
            found.append(guest.sock.recv(1 << 17))
        except BlockingIOError:
            guest.link.flush()
    assert found == [HEADER + frame for frame in frames]
    assert not guest.link.blocked
    assert guest.link.backlog_bytes == 0
