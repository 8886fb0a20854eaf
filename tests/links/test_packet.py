"""vfkit and bess links over real sockets: one packet, one frame."""

import errno
import socket
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.links.base import Link, LinkClosed
from pipeline.links.datagram import DatagramLink
from pipeline.links.packet import ALIGN, MAX_PACKETS
from pipeline.links.seqpacket import SeqpacketLink
from pipeline.shm.arena import SLOT_BYTES, Pool

SLOTS = [memoryview(bytearray(SLOT_BYTES)) for _ in range(6)]


class VfkitGuest:
    """A bound datagram socket on either side."""

    def __init__(self, folder: Path, mtu: int = 1500, slot_count: int = 6) -> None:
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.bind(str(folder / "net.sock"))
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(folder / "vm.sock"))
        self.sock.setblocking(False)
        self.path = str(folder / "net.sock")
        self.pool = Pool(0, slot_count)
        self.link = DatagramLink(ours, self.pool, SLOTS, mtu)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.sock.sendto(frame, self.path)


class BessGuest:
    """A pair of packet sockets."""

    def __init__(self) -> None:
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.pool = Pool(0, 6)
        self.link = SeqpacketLink(ours, self.pool, SLOTS)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.sock.send(frame)


def read(link: Link) -> list[bytes] | None:
    burst = link.read_burst()
    if burst is None:
        return None
    return [bytes(SLOTS[burst[0]][off : off + length]) for off, length in burst[1]]


@pytest.fixture
def vfkit(tmp_path: Path) -> VfkitGuest:
    return VfkitGuest(tmp_path)


@pytest.mark.parametrize("handshake", [(), (b"VFKT",)])
def test_the_first_datagram_names_the_peer(vfkit: VfkitGuest, handshake: tuple[bytes, ...]) -> None:
    vfkit.send(*handshake, b"frame one", b"frame two")
    assert read(vfkit.link) == [b"frame one", b"frame two"]
    assert read(vfkit.link) is None
    assert vfkit.link.send([b"to the guest"])
    assert vfkit.sock.recv(100) == b"to the guest"


def test_a_handshake_alone_is_no_frame(vfkit: VfkitGuest) -> None:
    vfkit.send(b"VFKT")
    assert read(vfkit.link) is None
    assert vfkit.link.connected
    vfkit.send(b"VFKT", b"VFKTx")
    assert read(vfkit.link) == [b"VFKTx"]


def test_frames_for_a_guest_not_yet_there_are_dropped(vfkit: VfkitGuest) -> None:
    assert vfkit.link.send([b"one", b"two"])
    assert not vfkit.link.blocked
    assert vfkit.link.drops == {"link_frame_dropped_no_neighbor": 2}


def test_only_the_peer_is_heard(vfkit: VfkitGuest, tmp_path: Path) -> None:
    vfkit.send(b"mine")
    assert read(vfkit.link) == [b"mine"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "other.sock"))
        with pytest.raises(PermissionError):
            other.sendto(b"not mine", vfkit.path)


def test_a_sender_without_an_address_is_refused(vfkit: VfkitGuest) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        nameless.sendto(b"frame", vfkit.path)
    with pytest.raises(LinkClosed, match="address is empty"):
        vfkit.link.read_burst()


def test_a_peer_that_is_gone_closes_the_link(vfkit: VfkitGuest) -> None:
    vfkit.send(b"frame")
    read(vfkit.link)
    vfkit.sock.close()
    with pytest.raises(LinkClosed, match="cannot write packet"):
        vfkit.link.send([b"x"])


def test_a_burst_lies_at_equal_strides_in_one_slot(vfkit: VfkitGuest) -> None:
    vfkit.send(*[bytes([i]) * 1514 for i in range(8)])
    burst = vfkit.link.read_burst()
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


def test_jumbo_packets_are_taken_while_there_is_room_and_dropped_where_cut(tmp_path: Path) -> None:
    guest = VfkitGuest(tmp_path)
    guest.send(b"a" * 60000, b"b" * 20000, b"c" * 100)
    assert read(guest.link) == [b"a" * 60000, b"c" * 100]
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


def test_a_full_backlog_takes_nothing(tmp_path: Path) -> None:
    guest = BessGuest()
    guest.link = SeqpacketLink(guest.link._sock, guest.pool, SLOTS, max_backlog=5000)
    while not guest.link.blocked:
        guest.link.send([bytes(1000)])
    assert not guest.link.send([bytes(5000)])


def test_a_packet_that_can_never_be_sent_is_dropped() -> None:
    guest = BessGuest()
    guest.link._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    assert guest.link.send([bytes(100_000), b"small"])
    assert guest.sock.recv(10) == b"small"
    assert guest.link.drops == {"link_frame_dropped_oversized": 1}


def test_the_end_of_a_packet_connection_comes_after_its_last_frame() -> None:
    guest = BessGuest()
    guest.send(b"one", b"two")
    guest.sock.close()
    assert read(guest.link) == [b"one", b"two"]
    for _ in range(2):
        with pytest.raises(LinkClosed, match="EOF"):
            guest.link.read_burst()


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
    guest.link._sock = NoBuffers(guest.link._sock)  # a system's mood cannot be arranged
    assert guest.link.send([b"one", b"two"])
    for _ in range(4):
        guest.link.flush()
    assert (guest.sock.recv(9), guest.sock.recv(9)) == (b"one", b"two")
