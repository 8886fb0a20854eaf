"""Frames behind virtio-net headers: true headers become ranges and frames, all others are counted."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.counters import INDEX
from pipeline.engines.offload import gro, vnet
from pipeline.engines.offload.burst import Item
from pipeline.engines.offload.headers import DROP_TCP_CHECKSUM
from pipeline.records.flows import Ends
from pipeline.records.frames import Frame
from pipeline.records.tcp import TcpRange
from pipeline.records.udp import UdpRange
from pipeline.wire import checksum, ethernet, ipv4, offload, tcp, udp
from pipeline.wire.virtio_net import (
    DATA_VALID,
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    GSO_UDP_L4,
    LONG,
    NEEDS_CSUM,
    RSC_INFO,
    Header,
)
from tests.support.frames import (
    GATEWAY_MAC,
    GUEST,
    GUEST_MAC,
    REMOTE,
    TO_GUEST,
    tcp_frame,
    timestamps,
    udp_frame,
)
from tests.support.fuzz import u8, u16
from tests.support.layouts import decode
from tests.support.offload import (
    slot_with_headers,
    super_datagram,
    super_segment,
    super_segment_v6,
)

TO_GROUP = ethernet.header(bytes.fromhex("01005e0000fb"), GUEST_MAC, ethernet.TYPE_IPV4)
PAYLOAD = bytes(range(256)) * 40
PLAIN = Header()


class Nic:
    """receive() with a second slot for frames that are cut."""

    def __init__(
        self, frames: list[tuple[Header, bytes]], room: int = 1 << 17, features: int = offload.FEATURES
    ):
        self.view, self.places = slot_with_headers(frames)
        self.other = bytearray()
        self.room = room
        items, self.drops = vnet.receive(self.view, self.places, 7, 3, features, self.place)
        self.items: list[Any] = [*items]
        assert all(vars(decode(item.pack())) == vars(item) for item in items)

    def place(self, frame: bytes | bytearray) -> tuple[int, int] | None:
        if len(self.other) + len(frame) > self.room:
            return None
        self.other += frame
        return 9, len(self.other) - len(frame)

    def frame(self, item: Item) -> bytes:
        """The bytes of a FRAME, or of the frame of a datagram by itself."""
        source = self.view if item.slot == 3 else self.other
        head = 42 if isinstance(item, UdpRange) else 0
        return bytes(source[item.off - head : item.off + item.length])

    def header(self, number: int) -> Header:
        """The header before a frame as it is now."""
        return Header(*LONG.unpack_from(self.view, self.places[number][0] - 12))


def test_a_super_segment_is_one_range_of_as_many_segments_as_it_stands_for() -> None:
    header, frame = super_segment(1000, PAYLOAD, 1448, options=timestamps(5, 6))
    nic = Nic([(header, frame)])
    (run,) = nic.items
    assert isinstance(run, TcpRange)
    assert (run.flags, run.link, run.slot, run.skip, run.seq) == (tcp.ACK, 7, 3, 0, 1000)
    assert (run.piece_size, run.stride, run.length, run.segments) == (len(PAYLOAD), 0, len(PAYLOAD), 8)
    assert (run.header_len, run.has_timestamps, run.has_other_options, run.vnet) == (66, True, False, True)
    assert bytes(nic.view[run.off : run.off + run.length]) == PAYLOAD
    assert nic.drops == {}
    assert nic.header(0) == header


def test_the_largest_super_segment_is_one_range() -> None:
    payload = bytes(65535 - 40)
    nic = Nic([super_segment(1, payload, 1460)])
    (run,) = nic.items
    assert isinstance(run, TcpRange)
    assert (run.piece_size, run.length, run.segments) == (65495, 65495, 45)


def test_super_segments_that_follow_each_other_are_one_run_of_big_pieces() -> None:
    frames = [super_segment(1 + n * len(PAYLOAD), PAYLOAD, 1448, ident=n * 9) for n in range(4)]
    nic = Nic(frames)
    (run,) = nic.items
    assert (run.piece_size, run.length, run.segments) == (len(PAYLOAD), 4 * len(PAYLOAD), 29)
    assert run.stride == len(frames[0][1]) + 16
    assert run.vnet
    assert bytes(nic.view[run.off : run.off + run.piece_size]) == PAYLOAD


def test_a_partial_checksum_of_plain_tcp_is_left_as_it_is() -> None:
    header, frame = super_segment(1, b"hello", 1448)
    nic = Nic([(header, frame), super_segment(6, b"", 1448)])
    assert [type(item) for item in nic.items] == [TcpRange] * 2
    assert [item.segments for item in nic.items] == [1, 1]
    assert nic.header(0) == header
    assert nic.frame(Frame(7, 3, nic.places[0][0], len(frame), True)) == frame


def test_without_a_header_checksums_are_verified() -> None:
    good, bad = tcp_frame(1, b"good"), bytearray(tcp_frame(5, b"bad!"))
    bad[-1] ^= 1
    nic = Nic([(PLAIN, good), (PLAIN, bytes(bad)), (PLAIN, tcp_frame(9, b"good"))])
    assert [item.seq for item in nic.items] == [1, 9]
    assert nic.drops == {DROP_TCP_CHECKSUM: 1}


@pytest.mark.parametrize("whole", [tcp_frame(5, b"data"), udp_frame(b"data")], ids=["tcp", "udp"])
def test_a_checksum_that_the_guest_vouches_for_is_not_verified(whole: bytes) -> None:
    frame = bytearray(whole)
    frame[-1] ^= 1
    assert Nic([(PLAIN, bytes(frame))]).drops
    nic = Nic([(Header(flags=DATA_VALID), bytes(frame))])
    assert len(nic.items) == 1
    assert nic.drops == {}


def test_verified_and_vouched_frames_of_one_burst_keep_their_order() -> None:
    frames = [(PLAIN, tcp_frame(1, b"a")), super_segment(2, b"b", 9), (PLAIN, tcp_frame(3, b"c"))]
    assert [item.seq for item in Nic(frames).items] == [1, 2, 3]


def test_pure_acks_collapse_as_without_headers() -> None:
    nic = Nic([super_segment(1, b"", 9, ack=ack) for ack in (100, 200, 300)])
    (run,) = nic.items
    assert (run.length, run.segments, run.ack) == (0, 3, 300)


def test_a_datagram_keeps_its_partial_checksum_and_its_header() -> None:
    header, frame = super_datagram(b"question", 0)
    nic = Nic([(header, frame)])
    (run,) = nic.items
    assert isinstance(run, UdpRange)
    assert (run.piece_size, run.piece_count(), run.vnet) == (run.length, 1, True)
    assert nic.view[run.off - 42 : run.off + run.length] == frame
    assert nic.header(0) == header


def test_partial_datagrams_merge_and_each_keeps_its_header() -> None:
    frames = [super_datagram(bytes([number]) * 100, 0) for number in range(9)]
    nic = Nic(frames)
    (run,) = nic.items
    assert isinstance(run, UdpRange)
    assert (run.piece_size, run.length, run.piece_count(), run.vnet) == (100, 900, 9, True)
    for number, (header, frame) in enumerate(frames):
        begin = run.off + number * run.stride
        assert nic.view[begin - 42 : begin + 100] == frame
        assert nic.header(number) == header


def test_a_datagram_to_a_group_is_completed() -> None:
    nic = Nic([super_datagram(b"question", 0, eth_header=TO_GROUP)])
    frame = memoryview(nic.frame(nic.items[0]))
    assert nic.header(0) == PLAIN
    check_datagram(frame)


def check_datagram(frame: memoryview) -> bytes:
    """Raises WireError for a datagram that a receiver would refuse; its payload."""
    packet = ipv4.parse(frame, 14, len(frame))
    header = udp.parse(frame, 34, 14 + packet.total_len)
    udp.verify(frame, 34, header, packet.src, packet.dst)
    return bytes(frame[42:])


def test_a_checksum_of_another_protocol_is_completed_in_place() -> None:
    # ICMP: no pseudo-header, so the field begins as zero.
    header, frame = super_datagram(b"ping", 0)
    raw = bytearray(frame)
    raw[23] = 1
    raw[36:38] = b"\0\0"
    nic = Nic([(header._replace(csum_offset=2), bytes(raw))])
    done = nic.frame(nic.items[0])
    assert checksum.verify(done[34:])
    assert nic.header(0) == PLAIN


@pytest.mark.parametrize("gso_size, count", [(1000, 11), (len(PAYLOAD), 1), (20000, 1), (5120, 2)])
def test_datagrams_in_one_piece_are_one_run(gso_size: int, count: int) -> None:
    frames = [
        super_datagram(PAYLOAD, gso_size),
        super_datagram(PAYLOAD, gso_size),
        (PLAIN, tcp_frame(1, b"x")),
    ]
    nic = Nic(frames)
    assert [type(item) for item in nic.items] == [UdpRange] * 2 + [TcpRange]
    for item, (off, length) in zip(nic.items[:2], nic.places, strict=False):
        assert (item.link, item.slot, item.vnet) == (7, 3, True)
        assert (item.off, item.length, item.piece_count()) == (off + 42, length - 42, count)
        assert item.piece_size == min(gso_size, len(PAYLOAD))
        assert item.stride == (gso_size if count > 1 else 0)
        ends = Ends.of(item.key)
        assert (ends.guest_addr, ends.guest_port) == (GUEST, 40000)
        assert (ends.remote_addr, ends.remote_port) == (REMOTE, 53)
    assert nic.drops == {}


@pytest.mark.parametrize(
    "at, value",
    [(38, b"\0\x09"), (22, b"\0"), (22, b"\x01")],
    ids=["its length", "no hop left", "the last hop"],
)
def test_datagrams_in_one_piece_with_an_odd_header_are_cut(at: int, value: bytes) -> None:
    header, frame = super_datagram(PAYLOAD, 1000)
    odd = frame[:at] + value + frame[at + len(value) :]
    assert [type(item) for item in Nic([(header, odd)]).items] == [Frame] * 11


def test_datagrams_in_one_piece_to_a_group_are_cut_at_once() -> None:
    nic = Nic([super_datagram(PAYLOAD, 1000, eth_header=TO_GROUP), (PLAIN, tcp_frame(1, b"x"))])
    assert [type(item) for item in nic.items] == [Frame] * 11 + [TcpRange]
    found = b"".join(check_datagram(memoryview(nic.frame(item))) for item in nic.items[:11])
    assert found == PAYLOAD
    assert {item.vnet for item in nic.items[:11]} == {False}
    assert [item.slot for item in nic.items] == [9] * 11 + [3]


def test_frames_that_find_no_slot_are_counted() -> None:
    nic = Nic([super_datagram(PAYLOAD, 1000, eth_header=TO_GROUP)], room=3000)
    # The last is shorter and fits again.
    assert len(nic.items) == 3
    assert nic.drops == {"link_frame_dropped_no_slot": 8}


def test_a_super_segment_behind_ip_options_is_cut_at_once() -> None:
    nic = Nic([super_segment(1, PAYLOAD, 1000, ip_options=b"\x01\x01\x01\x00")])
    assert len(nic.items) == 11
    again = gro.coalesce(memoryview(nic.other), [(item.off, item.length) for item in nic.items])
    assert again[1] == {}
    assert {item.vnet for item in nic.items} == {False}


@pytest.mark.parametrize("ttl", [0, 1])
def test_segments_without_a_hop_left_are_whole_frames_for_demux(ttl: int) -> None:
    nic = Nic([super_segment(1, PAYLOAD, 1000, ttl=ttl), super_segment(1, b"hello", 1448, ttl=ttl)])
    assert [type(item) for item in nic.items] == [Frame] * 12
    frames = [nic.frame(item) for item in nic.items]
    for frame in frames:
        packet = ipv4.parse(frame, 14, len(frame))
        tcp.verify(frame, 34, 14 + packet.total_len, packet.src, packet.dst)
    assert b"".join(frame[54:] for frame in frames) == PAYLOAD + b"hello"
    # Nobody behind takes it for one whose checksum is still to be made.
    assert nic.header(1) == PLAIN


@pytest.mark.parametrize(
    "extension", [b"", bytes([6, 0, 1, 4, 0, 0, 0, 0])], ids=["plain", "extension header"]
)
def test_a_super_segment_over_ipv6_is_a_frame_for_other_guests(extension: bytes) -> None:
    header, frame = super_segment_v6(1, PAYLOAD, 1000, extension)
    nic = Nic([(header, frame)])
    assert [(type(item), item.vnet, item.length) for item in nic.items] == [(Frame, True, len(frame))]
    assert nic.header(0) == header


SUPER = super_segment(1, PAYLOAD, 1000)
SUPER6 = super_segment_v6(1, PAYLOAD, 1000)
DATAGRAMS = super_datagram(PAYLOAD, 1000)
SMALL = super_segment(1, b"hello", 1000)
QUESTION = super_datagram(b"question", 0)


def edited(made: tuple[Header, bytes], at: int, value: int) -> tuple[Header, bytes]:
    """The frame with one byte changed."""
    frame = bytearray(made[1])
    frame[at] = value
    return made[0], bytes(frame)


@pytest.mark.parametrize(
    "made",
    [
        (SUPER[0]._replace(flags=0), SUPER[1]),
        (SUPER[0]._replace(flags=NEEDS_CSUM | RSC_INFO), SUPER[1]),
        (SUPER[0]._replace(flags=0x81), SUPER[1]),
        (SUPER[0]._replace(gso_size=0), SUPER[1]),
        (SUPER[0]._replace(gso_size=47), SUPER[1]),
        (SUPER[0]._replace(gso_type=GSO_TCPV6), SUPER[1]),
        (SUPER[0]._replace(gso_type=GSO_UDP), SUPER[1]),
        (SUPER[0]._replace(gso_type=GSO_UDP_L4), SUPER[1]),
        (SUPER[0]._replace(gso_type=GSO_TCPV4 | GSO_ECN), SUPER[1]),
        (SUPER[0]._replace(gso_type=2), SUPER[1]),
        (SUPER[0]._replace(hdr_len=len(SUPER[1]) + 1), SUPER[1]),
        (SUPER[0]._replace(csum_start=33), SUPER[1]),
        (SUPER[0]._replace(csum_start=0), SUPER[1]),
        (SUPER[0]._replace(csum_start=0xFFFF), SUPER[1]),
        (SUPER[0]._replace(csum_offset=6), SUPER[1]),
        (SUPER[0]._replace(csum_offset=0xFFFF), SUPER[1]),
        (SUPER[0], SUPER[1] + b"\0"),
        (SUPER[0], SUPER[1][:-1]),
        (SUPER[0], TO_GROUP + SUPER[1][14:]),
        (SUPER[0], SUPER[1][:12] + b"\x81\x00" + SUPER[1][14:]),
        edited(SUPER, 14, 0x44),
        edited(SUPER, 14, 0x65),
        edited(SUPER, 20, 0x20),
        edited(SUPER, 23, 17),
        edited(SUPER, 46, 0x40),
        (SUPER[0], SUPER[1][:40]),
        (SUPER[0]._replace(hdr_len=0), super_segment(1, b"", 0)[1]),
        (SUPER6[0]._replace(gso_type=GSO_TCPV4), SUPER6[1]),
        (SUPER6[0]._replace(csum_start=34), SUPER6[1]),
        (SUPER6[0], SUPER6[1][:-1]),
        (SUPER6[0], SUPER6[1][:60]),
        edited(SUPER6, 20, 17),
        edited(SUPER6, 14, 0x40),
        (DATAGRAMS[0]._replace(gso_size=0), DATAGRAMS[1]),
        (DATAGRAMS[0]._replace(gso_size=len(PAYLOAD) // 128 - 1), DATAGRAMS[1]),
        (DATAGRAMS[0]._replace(csum_offset=16), DATAGRAMS[1]),
        edited(DATAGRAMS, 23, 6),
        (SMALL[0]._replace(csum_start=35), SMALL[1]),
        (SMALL[0]._replace(csum_offset=6), SMALL[1]),
        (QUESTION[0]._replace(csum_offset=16), QUESTION[1]),
        (QUESTION[0]._replace(csum_start=20), QUESTION[1]),
        (Header(flags=NEEDS_CSUM, csum_start=0, csum_offset=2), bytes(60)),
        (Header(flags=NEEDS_CSUM, csum_start=14, csum_offset=0), bytes(15)),
        (Header(flags=NEEDS_CSUM, csum_start=14, csum_offset=0), b""),
        (Header(hdr_len=100, flags=DATA_VALID), bytes(60)),
    ],
)  # fmt: skip
def test_a_header_that_denies_its_frame_is_dropped_and_counted(made: tuple[Header, bytes]) -> None:
    nic = Nic([made])
    assert nic.items == []
    assert nic.drops == {"link_frame_dropped_bad_vnet_header": 1}


@pytest.mark.parametrize(
    "made, feature",
    [
        (SUPER, offload.TSO4),
        (SUPER6, offload.TSO6),
        (DATAGRAMS, offload.USO4),
    ],
    ids=["tso4", "tso6", "uso4"],
)
def test_what_was_not_agreed_on_is_dropped_and_counted(made: tuple[Header, bytes], feature: int) -> None:
    assert Nic([made], features=feature | offload.CSUM).items
    nic = Nic([made], features=offload.FEATURES & ~feature)
    assert nic.drops == {"link_frame_dropped_bad_vnet_header": 1}


headers = st.builds(
    Header,
    st.sampled_from([0, 0, NEEDS_CSUM, NEEDS_CSUM, DATA_VALID, 3]) | u8,
    st.sampled_from([0, 0, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_UDP]) | u8,
    st.sampled_from([0, 54]) | u16,
    st.sampled_from([0, 48, 100, 1448]) | u16,
    st.sampled_from([34, 34, 54]) | u16,
    st.sampled_from([16, 6]) | u16,
    u16,
)


@given(
    st.lists(
        st.tuples(
            headers,
            st.sampled_from(
                [SUPER[1], SUPER6[1], DATAGRAMS[1], SMALL[1], QUESTION[1], tcp_frame(1, b"x" * 99), b""]
            ),
            st.lists(st.tuples(st.integers(0, 80), u8), max_size=2),
            st.integers(0, 120) | st.just(None),
        ),
        max_size=4,
    )
)
@settings(deadline=None, max_examples=300)
def test_any_header_on_any_frame_is_a_record_in_bounds_or_counted(
    made: list[tuple[Header, bytes, list[tuple[int, int]], int | None]],
) -> None:
    frames = []
    for header, frame, edits, length in made:
        data = bytearray(frame)
        for at, value in edits:
            if at < len(data):
                data[at] = value
        frames.append((header, bytes(data[:length])))
    nic = Nic(frames, features=offload.FEATURES | offload.UFO)
    assert set(nic.drops) <= set(INDEX)
    for item in nic.items:
        view = nic.view if item.slot == 3 else nic.other
        assert item.off >= 0
        if not isinstance(item, Frame):
            assert item.piece_bounds()[-1][1] <= len(view)
            assert (item.segments if isinstance(item, TcpRange) else item.piece_count()) <= 65535
            continue
        assert item.off + item.length <= len(view)
        if item.vnet:
            where = next(number for number, (off, _) in enumerate(nic.places) if off == item.off)
            true = nic.header(where)
            if true.flags & NEEDS_CSUM:
                assert true.csum_start + true.csum_offset + 2 <= item.length


def tagged(made: tuple[Header, bytes], tags: bytes, before: bool = True) -> tuple[Header, bytes]:
    """The frame with tags; before: its header counts from the start that it has then."""
    header, frame = made
    if before and header.flags & NEEDS_CSUM:
        hdr_len = header.hdr_len + len(tags) if header.hdr_len else 0
        header = header._replace(csum_start=header.csum_start + len(tags), hdr_len=hdr_len)
    return header, frame[:12] + tags + frame[12:]


TAG = bytes.fromhex("8100a000")


@pytest.mark.parametrize("tags", [TAG, b"\x88\xa8\0\0" + TAG], ids=["one", "two"])
def test_priority_tags_are_removed_and_the_header_counts_from_the_new_start(tags: bytes) -> None:
    made = [
        super_segment(1, PAYLOAD, 1448),
        super_datagram(PAYLOAD[:5000], 1000),
        super_datagram(b"x" * 100, 0),
        super_segment(1 + len(PAYLOAD), b"y" * 500, 1448, options=timestamps()),
        (PLAIN, tcp_frame(9, b"z")),
        super_segment_v6(7, PAYLOAD, 1428),
    ]
    view, places = slot_with_headers([tagged(one, tags) for one in made])
    vnet.untag(view, places)
    assert [bytes(view[off : off + length]) for off, length in places] == [frame for _, frame in made]
    assert [Header(*LONG.unpack_from(view, off - 12)) for off, _ in places] == [header for header, _ in made]
    items, drops = vnet.receive(view, places, 7, 3, offload.FEATURES, lambda frame: None)
    assert not drops
    assert [type(item) for item in items] == [TcpRange, UdpRange, UdpRange, TcpRange, TcpRange, Frame]


def test_a_header_that_counts_from_before_the_tag_is_a_lie() -> None:
    lies = [
        (Header(NEEDS_CSUM, csum_start=start, csum_offset=16), super_segment(1, b"x" * 99, 1448)[1])
        for start in (0, 2, 17)
    ]
    view, places = slot_with_headers([tagged(lie, TAG, before=False) for lie in lies])
    vnet.untag(view, places)
    items, drops = vnet.receive(view, places, 7, 3, offload.FEATURES, lambda frame: None)
    assert (items, drops) == ([], {vnet.DROP_BAD: 3})


def test_other_vlans_and_truncated_tags_stay_in_frames_behind_headers() -> None:
    frames = [tagged((PLAIN, tcp_frame(9, b"z")), bytes.fromhex("81000005"))[1]]
    frames += [(GATEWAY_MAC + GUEST_MAC + TAG + b"\x08")[:length] for length in (12, 13, 14, 16, 17)]
    view, places = slot_with_headers([(PLAIN, frame) for frame in frames])
    vnet.untag(view, places)
    assert [bytes(view[off : off + length]) for off, length in places] == frames


def test_tags_without_end_cost_their_frame_and_no_header() -> None:
    frame = GATEWAY_MAC + GUEST_MAC + TAG * 5 + b"\x08\0" + bytes(60)
    view, places = slot_with_headers([(PLAIN, frame)])
    vnet.untag(view, places)
    ((off, length),) = places
    assert bytes(view[off - 12 : off]) == bytes(12)
    assert bytes(view[off : off + length]) == frame[:12] + frame[20:]
    (item,), _ = vnet.receive(view, places, 7, 3, offload.FEATURES, lambda frame: None)
    assert isinstance(item, Frame)


def test_each_drop_has_a_counter() -> None:
    assert {vnet.DROP_BAD, vnet.DROP_NO_SLOT} <= set(INDEX)


def test_a_frame_for_another_guest_keeps_the_header_right_before_it() -> None:
    eth = ethernet.header(GUEST_MAC, GATEWAY_MAC, ethernet.TYPE_IPV4)
    assert eth == TO_GUEST
    header, frame = super_segment(1, PAYLOAD, 1000, eth_header=eth)
    nic = Nic([(header, frame)])
    (item,) = nic.items
    begin = item.off - item.header_len
    assert bytes(nic.view[begin - 12 : begin]) == LONG.pack(*header)
