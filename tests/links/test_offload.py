"""The host's end of the offload extension: what the first record of the guest decides."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ipc.arena import SLOT_BYTES, Pool
from pipeline.links.base import LinkClosed
from pipeline.links.offload import OffloadLink
from pipeline.wire import framing, offload
from pipeline.wire.framing import LE16, Framing

SLOTS = [memoryview(bytearray(SLOT_BYTES)) for _ in range(6)]
OFFER = offload.build(offload.OFFER, offload.FEATURES)
ACCEPT = offload.build(offload.ACCEPT, offload.CSUM | offload.TSO4)
START = offload.build(offload.START, offload.CSUM | offload.TSO4)
HEADER = bytes(range(offload.VNET_LEN))
FRAMES = [bytes((n,)) * size for n, size in enumerate((60, 65549, 14, 1514, 40000))]


def framed(frames: list[bytes], form: Framing) -> bytes:
    return b"".join(framing.prefix(len(frame), form) + frame for frame in frames)


class Guest:
    """The other end of the link."""

    def __init__(self, head: bytes = b"") -> None:
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.pool = Pool(0, len(SLOTS))
        self.link = OffloadLink(ours, self.pool, SLOTS, head)
        self.link.offer()

    def read_all(self) -> list[tuple[bytes, bytes]]:
        """(header, frame) of everything that can be read."""
        found = []
        while (burst := self.link.read_burst()) is not None:
            slot, places = burst
            length = self.link.vnet_len
            found += [
                (bytes(SLOTS[slot][off - length : off]), bytes(SLOTS[slot][off : off + size]))
                for off, size in places
            ]
        return found

    def close(self) -> None:
        self.link.close()
        self.sock.close()
        assert self.pool.refs_out == 0


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.close()


@given(cuts=st.lists(st.integers(1, 70000), min_size=1, max_size=20), head=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_behind_accept_frames_lie_behind_a_header_however_the_stream_is_cut(
    cuts: list[int], head: int
) -> None:
    stream = ACCEPT + framed([HEADER + frame for frame in FRAMES], offload.FRAMING)
    guest = Guest(stream[:head])
    stream = stream[head:]
    found = guest.read_all()
    turn = 0
    while stream:
        sent = guest.sock.send(stream[: cuts[turn % len(cuts)]])
        turn += 1
        stream = stream[sent:]
        found += guest.read_all()
    assert found == [(HEADER, frame) for frame in FRAMES]
    assert guest.sock.recv(4096) == OFFER + START
    assert guest.link.features == offload.CSUM | offload.TSO4
    guest.close()


@pytest.mark.parametrize(
    "packet_len", [66 + 45 * 1448, 86 + 45 * 1428, 86 + 46 * 1408], ids=["IPv4", "IPv6", "aligned"]
)
def test_packets_that_come_one_by_one_take_one_read_each(guest: Guest, packet_len: int) -> None:
    guest.sock.send(ACCEPT)
    assert guest.read_all() == []
    packet = framed([HEADER + bytes(packet_len)], offload.FRAMING)
    for _ in range(4):
        assert guest.sock.send(packet) == len(packet)
        burst = guest.link.read_burst()
        assert burst is not None
        assert [length for _, length in burst[1]] == [packet_len]


@pytest.mark.parametrize(
    "first",
    [
        b"",
        framed([bytes(60)], LE16),
        framed([b"GVTO"], LE16),
        framed([b"x" * offload.RECORD_LEN], LE16),
        offload.build(offload.OFFER, 0),
        offload.build(offload.ACCEPT, 0, version=9),
        b"\0\0",
    ],
    ids=[
        "a frame",
        "a short frame",
        "a runt",
        "a runt as long as a record",
        "an offer",
        "a version",
        "nothing",
    ],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "byte by byte"])
def test_any_other_first_record_leaves_the_link_plain_for_good(
    guest: Guest, first: bytes, at_once: bool
) -> None:
    stream = first + framed([*FRAMES[2:4]], LE16) + ACCEPT + framed([FRAMES[0]], LE16)
    step = len(stream) if at_once else 1
    found = []
    for begin in range(0, len(stream), step):
        guest.sock.send(stream[begin : begin + step])
        found += guest.read_all()
    records = [frame for _, frame in found]
    assert records[-4:] == [*FRAMES[2:4], ACCEPT[2:], FRAMES[0]]
    assert guest.link.vnet_len == 0
    assert guest.sock.recv(4096) == OFFER


def test_a_record_without_room_for_a_header_is_dropped_and_counted(guest: Guest) -> None:
    guest.sock.send(ACCEPT + framed([b"short", HEADER + FRAMES[0], HEADER], offload.FRAMING))
    assert guest.read_all() == [(HEADER, FRAMES[0]), (HEADER, b"")]
    assert guest.link.drops == {"link_frame_dropped_bad_vnet_header": 1}


def test_a_length_that_no_frame_has_ends_the_link(guest: Guest) -> None:
    guest.sock.send(ACCEPT + (offload.FRAMING.max + 1).to_bytes(4, "little"))
    with pytest.raises(LinkClosed) as ended:
        guest.read_all()
    assert ended.value.reason == "link_frame_dropped_oversized"
