"""Frames of IPv6 after virtio-net headers, while IPv6 is on: ranges like those of IPv4."""

from typing import Any

import pytest

from pipeline.engines.offload import tso, vnet
from pipeline.records.flows import Ends
from pipeline.records.frames import Frame
from pipeline.records.tcp import TcpRange
from pipeline.records.udp import UdpRange
from pipeline.wire import ip, offload
from pipeline.wire.virtio_net import GSO_TCPV6, GSO_UDP_L4, LONG, NEEDS_CSUM, Header
from tests.support.frames import FROM_GUEST6, GUEST6, REMOTE6, tcp_frame6, timestamps, udp_frame6
from tests.support.layouts import decode
from tests.support.offload import left_out, slot_with_headers, super_segment_v6

PAYLOAD = bytes(range(256)) * 40
PLAIN = Header()
L4 = 54


def segments(payload: bytes, gso_size: int = 0, **fields: Any) -> tuple[Header, bytes]:
    """A TCP frame with a partial checksum, and its header. gso_size: of a super-segment."""
    frame = left_out(tcp_frame6(1000, payload, **fields))
    gso_type = GSO_TCPV6 if gso_size else 0
    return Header(NEEDS_CSUM, gso_type, 0, gso_size, L4, 16), frame


def datagrams(payload: bytes, gso_size: int = 0, **fields: Any) -> tuple[Header, bytes]:
    """The same for UDP."""
    frame = left_out(udp_frame6(payload, **fields))
    return Header(NEEDS_CSUM, GSO_UDP_L4 if gso_size else 0, 0, gso_size, L4, 6), frame


class Nic:
    """receive() with IPv6 on, and a second slot for frames that are cut."""

    def __init__(self, *frames: tuple[Header, bytes], ipv6: bool = True) -> None:
        self.view, self.places = slot_with_headers([*frames])
        self.other = bytearray()
        items, self.drops = vnet.receive(self.view, self.places, 7, 3, offload.FEATURES, self.place, ipv6)
        self.items: list[Any] = [*items]
        assert all(vars(decode(item.pack())) == vars(item) for item in items)

    def place(self, frame: bytes | bytearray) -> tuple[int, int]:
        self.other += frame
        return 9, len(self.other) - len(frame)

    def header(self) -> Header:
        """The header before the first frame as it is now."""
        return Header(*LONG.unpack_from(self.view, self.places[0][0] - 12))

    def kinds(self) -> list[type]:
        return [type(item) for item in self.items]


def test_a_super_segment_is_one_range_of_as_many_segments_as_it_stands_for() -> None:
    header, frame = segments(PAYLOAD, 1428, options=timestamps(5, 6))
    nic = Nic((header, frame))
    (run,) = nic.items
    assert isinstance(run, TcpRange)
    assert (run.piece_size, run.length, run.segments) == (len(PAYLOAD), len(PAYLOAD), 8)
    assert (run.header_len, run.has_timestamps, run.vnet) == (86, True, True)
    assert bytes(nic.view[run.off : run.off + run.length]) == PAYLOAD
    ends = Ends.of(run.key)
    assert (ends.guest_addr, ends.remote_addr) == (GUEST6, REMOTE6)
    assert nic.header() == header


def test_while_ipv6_is_off_nothing_is_a_range() -> None:
    nic = Nic(segments(PAYLOAD, 1428), segments(b"x"), (PLAIN, udp_frame6(b"x")), ipv6=False)
    assert nic.kinds() == [Frame] * 3
    assert not nic.drops


def test_partial_checksums_of_plain_packets_are_left_as_they_are() -> None:
    for made in (segments(b"hello"), datagrams(b"hello")):
        nic = Nic(made)
        (item,) = nic.items
        assert not isinstance(item, Frame)
        assert item.vnet
        off, length = nic.places[0]
        assert bytes(nic.view[off : off + length]) == made[1]
        assert nic.header() == made[0]


@pytest.mark.parametrize("gso_size, count", [(1000, 11), (len(PAYLOAD), 1), (5120, 2)])
def test_datagrams_in_one_piece_are_one_run(gso_size: int, count: int) -> None:
    nic = Nic(datagrams(PAYLOAD, gso_size))
    (run,) = nic.items
    assert isinstance(run, UdpRange)
    assert (run.piece_count(), run.piece_size, run.header_len) == (count, gso_size, 62)
    assert run.stride == (gso_size if count > 1 else 0)
    assert run.off - run.header_len == nic.places[0][0]
    assert b"".join(run.views(nic.view)) == PAYLOAD
    assert Ends.of(run.key).guest_addr == GUEST6


def test_datagrams_to_a_group_are_cut_at_once_and_their_checksums_are_right() -> None:
    to_group = b"\x33\x33" + FROM_GUEST6[2:]
    nic = Nic(datagrams(PAYLOAD, 1000, eth_header=to_group, dst=ip.parse("ff02::fb")))
    assert nic.kinds() == [Frame] * 11
    frames = [bytes(nic.other[item.off : item.off + item.length]) for item in nic.items]
    at = [PAYLOAD[begin : begin + 1000] for begin in range(0, len(PAYLOAD), 1000)]
    fields = {"eth_header": to_group, "dst": ip.parse("ff02::fb")}
    assert frames == [udp_frame6(part, **fields) for part in at]  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [segments, datagrams])
def test_super_segments_without_a_hop_left_are_whole_frames_for_demux(make: Any) -> None:
    made = make(PAYLOAD, 1000, hops=1)
    nic = Nic(made)
    assert nic.kinds() == [Frame] * 11
    assert nic.items[0].slot == 9


@pytest.mark.parametrize(
    "fields",
    [
        {"hops": 1},
        {"dst": ip.parse("::ffff:10.0.0.1")},
        {"src": ip.parse("fe80::2")},
        {"eth_header": b"\x33\x33" + FROM_GUEST6[2:]},
    ],
    ids=["last hop", "mapped", "link-local", "to a group"],
)
@pytest.mark.parametrize("make", [segments, datagrams])
def test_packets_that_are_not_routed_are_frames_with_whole_checksums(
    make: Any, fields: dict[str, Any]
) -> None:
    header, frame = make(b"hello", **fields)
    nic = Nic((header, frame))
    assert nic.kinds() == [Frame]
    assert nic.header() == PLAIN
    whole = bytearray(frame)
    tso.complete(whole, header.csum_start, header.csum_offset)
    off, length = nic.places[0]
    assert bytes(nic.view[off : off + length]) == whole


@pytest.mark.parametrize(
    "made",
    [
        (segments(b"x")[0]._replace(csum_offset=6), segments(b"x")[1]),
        (segments(b"x")[0]._replace(csum_start=50), segments(b"x")[1]),
        (datagrams(b"x" * 20)[0]._replace(csum_offset=16), datagrams(b"x" * 20)[1]),
        (datagrams(PAYLOAD, 1000)[0]._replace(gso_type=GSO_TCPV6), datagrams(PAYLOAD, 1000)[1]),
    ],
    ids=["field of UDP", "field before TCP", "field of TCP", "type of TCP"],
)
def test_a_header_that_denies_its_frame_is_dropped_and_counted(made: tuple[Header, bytes]) -> None:
    nic = Nic(made)
    assert (nic.items, nic.drops) == ([], {vnet.DROP_BAD: 1})


def test_a_super_segment_after_an_extension_header_is_a_frame_for_other_guests() -> None:
    made = super_segment_v6(1, PAYLOAD, 1000, bytes([6, 0, 1, 4, 0, 0, 0, 0]))
    nic = Nic(made, super_segment_v6(1, PAYLOAD, 1000))
    assert nic.kinds() == [Frame, TcpRange]
    assert nic.header() == made[0]
