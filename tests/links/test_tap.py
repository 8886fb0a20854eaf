"""The link on a tap, over datagram sockets that stand for the kernel's end. tests/e2e has real taps."""

import errno
import os
import socket
from collections.abc import Sequence
from itertools import pairwise

import pytest

from pipeline.ipc.arena import Pool
from pipeline.links import tap
from pipeline.links.base import LinkClosed
from pipeline.links.packet import LONGEST_PACKET
from pipeline.links.tap import TapLink
from pipeline.wire import offload
from tests.support.packet_guests import SLOTS, read

HEADER = bytes(offload.VNET_LEN)


class Kernel:
    """The other end of a link."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, has_headers: bool = True, slots: int = 6) -> None:
        monkeypatch.setattr(tap.tap, "offload", lambda _fd, features: features & ~offload.USO6)
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.pool = Pool(0, slots)
        self.link = TapLink(ours.detach(), self.pool, SLOTS, 1500, has_headers=has_headers)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.sock.send(HEADER + frame)
            self.link.on_readable(True)

    def received(self) -> list[bytes]:
        self.sock.setblocking(False)
        found = []
        while True:
            try:
                found.append(self.sock.recv(1 << 17))
            except BlockingIOError:
                return found

    def read_all(self) -> list[bytes]:
        found: list[bytes] = []
        while (burst := read(self.link)) is not None:
            found += burst
        return found


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def framed(*frames: bytes) -> bytes:
    return b"".join(
        offload.FRAMING.prefix.pack(len(HEADER) + len(frame)) + HEADER + frame for frame in frames
    )


def test_frames_come_with_their_headers_before_them(kernel: Kernel) -> None:
    kernel.sock.send(b"\1" * 12 + b"a" * 60)
    burst = kernel.link.read_burst()
    assert burst is not None
    slot, ((off, length),) = burst
    assert bytes(SLOTS[slot][off - 12 : off + length]) == b"\1" * 12 + b"a" * 60
    assert kernel.link.vnet_len == 12
    assert kernel.link.features == offload.FEATURES & ~offload.USO6


def test_super_segments_are_taken_however_little_of_the_slot_is_left(kernel: Kernel) -> None:
    sizes = (60000, 20000, 100, 65549, 1514, 65549, 8, LONGEST_PACKET)
    frames = [bytes([number]) * size for number, size in enumerate(sizes)]
    found: list[bytes] = []
    for begin in range(0, len(frames), 2):
        kernel.send(*frames[begin : begin + 2])
        found += kernel.read_all()
    assert found == frames
    assert kernel.link.drops == {}
    assert kernel.pool.refs_out == 1
    kernel.link.close()
    assert kernel.pool.refs_out == 0


def test_after_a_super_segment_the_next_one_gets_a_slot_that_can_hold_it(kernel: Kernel) -> None:
    kernel.send(b"a" * 20000, b"b" * 60000, b"c" * 60000)
    slots = []
    while (burst := kernel.link.read_burst()) is not None:
        slots.append(burst[0])
    assert all(one != other for one, other in pairwise(slots)), "a freed slot may come again"
    assert len(slots) == 3


def test_a_frame_that_found_no_slot_waits_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, slots=1)
    kernel.send(b"a" * 50000, b"b" * 30000)
    assert read(kernel.link) == [b"a" * 50000]
    assert read(kernel.link) is None
    assert kernel.link.starved
    kernel.link.release_idle()
    assert kernel.read_all() == [b"b" * 30000]


def test_a_read_that_emptied_the_tap_saves_the_next_one(kernel: Kernel) -> None:
    kernel.send(b"a" * 60)
    assert read(kernel.link) == [b"a" * 60]
    kernel.sock.send(HEADER + b"b" * 60)
    assert read(kernel.link) is None, "there was no event"
    kernel.link.on_readable(True)
    assert read(kernel.link) == [b"b" * 60]


def test_what_is_no_longer_than_a_header_is_dropped(kernel: Kernel) -> None:
    kernel.sock.send(b"short")
    kernel.send(b"a" * 60)
    assert kernel.read_all() == [b"a" * 60]
    assert kernel.link.drops == {"link_frame_dropped_runt": 1}


@pytest.mark.parametrize(
    "buffers",
    [
        [framed(b"a" * 60, b"b" * 70), framed(b"c" * 80)],
        [framed(b"a" * 60)[:-6], b"a" * 6, framed(b"b" * 70, b"c" * 80)],
        [framed(b"a" * 60, b"b" * 70) + framed(b"c" * 80)[:-80], memoryview(b"c" * 80)],
    ],
    ids=["whole", "payload apart", "both"],
)
def test_each_frame_is_written_with_one_call(kernel: Kernel, buffers: Sequence[bytes]) -> None:
    assert kernel.link.send(buffers)
    assert kernel.received() == [HEADER + frame for frame in (b"a" * 60, b"b" * 70, b"c" * 80)]


def test_what_a_full_queue_refuses_is_sent_later(kernel: Kernel) -> None:
    sent = 0
    while not kernel.link.blocked:
        frames = [(sent + number).to_bytes(4, "big") * 300 for number in range(3)]
        assert kernel.link.send([framed(*frames)])
        sent += 3
    assert kernel.link.backlog_bytes > 0
    assert kernel.link.send([framed(b"last")])
    found: list[bytes] = []
    while kernel.link.blocked:
        found += kernel.received()
        kernel.link.flush()
    found += kernel.received()
    assert [frame[12:16] for frame in found] == [number.to_bytes(4, "big") for number in range(sent)] + [
        b"last"
    ]


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.ENOBUFS])
def test_a_frame_that_the_tap_refuses_is_lost_and_counted(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_fd: int, _parts: object) -> int:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "writev", fail)
    assert kernel.link.send([framed(b"a" * 60, b"b" * 60)])
    assert kernel.link.drops == {"link_frame_dropped_refused": 2}
    assert not kernel.link.blocked


def test_the_end_of_the_interface_ends_the_link(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int, _parts: object) -> int:
        raise OSError(errno.EBADFD, "gone")

    monkeypatch.setattr(os, "writev", fail)
    with pytest.raises(LinkClosed, match="the tap is gone"):
        kernel.link.send([framed(b"a" * 60)])


def test_a_tap_without_headers_is_a_packet_link(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, has_headers=False)
    assert (kernel.link.vnet_len, kernel.link.features, kernel.link.framing) == (0, 0, None)
    kernel.sock.send(b"a" * 60)
    assert read(kernel.link) == [b"a" * 60]
    assert kernel.link.send([b"b" * 60, memoryview(b"c" * 70)])
    assert kernel.received() == [b"b" * 60, b"c" * 70]
