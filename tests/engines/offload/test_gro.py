"""GRO says of every frame what a plain walk says of it, in fewer records.

The plain walk (``judge``) parses one frame at a time with the readable wire modules. Whatever
a burst looks like, expanding the records gives back exactly the walk's result.
"""

import random
from collections import Counter
from typing import Any, NamedTuple

import pytest

from pipeline.counters import INDEX
from pipeline.engines.offload import gro, headers
from pipeline.records.flows import Ends
from pipeline.records.frames import Frame
from pipeline.records.tcp import TcpRange
from pipeline.wire import ethernet, ip, ipv4, tcp, tcp_options
from pipeline.wire.errors import WireError
from tests.support.frames import (
    FAMILIES,
    FROM_GUEST6,
    GUEST,
    REMOTE,
    Family,
    slot_of,
    tcp_frame,
    tcp_frame6,
    timestamps,
)
from tests.support.gro_bursts import Flow
from tests.support.layouts import decode
from tests.support.offload import left_out

BOTH = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
BAD_CHECKSUMS = (headers.DROP_IPV4_CHECKSUM, headers.DROP_TCP_CHECKSUM)


class Segment(NamedTuple):
    """One TCP segment as the plain walk sees it."""

    flow: tuple[bytes, int, int, int]  # Ethernet header, addresses, ports
    flags: int
    seq: int
    ack: int
    wnd: int
    options: bytes
    payload: bytes


def judge(view: memoryview, off: int, length: int, verify: bool = True) -> Segment | str | None:
    """The plain walk: a segment, None for a frame that demux shall see, or the name of a drop."""
    end = off + length
    if length < ethernet.HEADER_LEN:
        return headers.DROP_RUNT
    found = (
        plain_ipv6(view, off, length)
        if view[off + 12 : off + 14] == b"\x86\xdd"
        else plain(view, off, length)
    )
    if found is None:
        return None
    segment_off, end, src, dst = found
    if end - segment_off < 20 or not 20 <= (view[segment_off + 12] >> 4) * 4 <= end - segment_off:
        return None
    try:
        if view[off + 12 : off + 14] == b"\x08\x00":
            ipv4.parse(view, off + 14, off + length)
        header = tcp.parse(view, segment_off, end)
        if verify:
            tcp.verify(view, segment_off, end, src, dst)
    except WireError as error:
        return error.reason
    data = segment_off + header.header_len
    return Segment(
        (bytes(view[off : off + 14]), src, dst, header.src_port << 16 | header.dst_port),
        header.flags,
        header.seq,
        header.ack,
        header.wnd,
        bytes(view[segment_off + tcp.HEADER_LEN : data]),
        bytes(view[data:end]),
    )


Place = tuple[int, int, int, int]
"""Where the segment begins and ends, and the addresses."""


def plain(view: memoryview, off: int, length: int) -> Place | None:
    """The segment of an IPv4 packet that GRO may merge; None for any other."""
    if length < 54 or view[off + 12 : off + 15] != b"\x08\x00\x45":
        return None
    start = off + 14
    proto_frag = (view[start + 9], int.from_bytes(view[start + 6 : start + 8], "big") & 0xBFFF)
    total = int.from_bytes(view[start + 2 : start + 4], "big")
    # With no hop left, demux answers.
    if proto_frag != (ipv4.PROTO_TCP, 0) or total > length - 14 or view[start + 8] <= 1:
        return None
    src, dst = (ip.from_ipv4(int.from_bytes(view[at : at + 4], "big")) for at in (start + 12, start + 16))
    return start + 20, start + total, src, dst


def plain_ipv6(view: memoryview, off: int, length: int) -> Place | None:
    """The same for IPv6. Demux judges packets to groups, and of addresses that are not routed."""
    if length < 74 or view[off + 14] >> 4 != 6 or view[off] & 1:
        return None
    size = int.from_bytes(view[off + 18 : off + 20], "big")
    if view[off + 20] != ipv4.PROTO_TCP or view[off + 21] <= 1 or size > length - 54:
        return None
    src, dst = (int.from_bytes(view[at : at + 16], "big") for at in (off + 22, off + 38))
    if any(ip.is_ipv4(addr) or addr >> 32 == 0 or addr >> 118 == 0xFE80 >> 6 for addr in (src, dst)):
        return None
    return off + 54, off + 54 + size, src, dst


def expand(view: memoryview, record: TcpRange) -> dict[int, Segment]:
    """The segments a TCP_RANGE describes in the slot, by the offset of their frames."""
    header_len = record.header_len
    frame_off = record.off - header_len
    assert record.skip == 0
    fixed = 74 if view[frame_off + 12] == 0x86 else 54
    options = bytes(view[frame_off + fixed : record.off])
    parsed = tcp_options.NONE
    if record.has_timestamps:
        assert not record.has_other_options
        parsed = tcp_options.parse(options, 0, len(options))
    assert (record.ts_val, record.ts_ecr) == (parsed.ts_val, parsed.ts_ecr)
    assert bool(options) == (record.has_timestamps or record.has_other_options)
    ends = Ends.of(record.key)
    flow = (
        bytes(view[frame_off : frame_off + 14]),
        ends.guest_addr,
        ends.remote_addr,
        ends.guest_port << 16 | ends.remote_port,
    )
    segments = {}
    pieces = record.segments if record.length else 1
    for piece in range(pieces):
        begin = piece * record.piece_size
        size = min(record.piece_size, record.length - begin)
        off = record.off + piece * record.stride
        last = piece == pieces - 1
        segments[off - header_len] = Segment(
            flow,
            record.flags if last else record.flags & ~tcp.PSH,
            record.seq + begin & 0xFFFFFFFF,
            record.ack,
            record.window,
            options,
            bytes(view[off : off + size]),
        )
    assert sum(len(segment.payload) for segment in segments.values()) == record.length
    return segments


def check(view: memoryview, frames: list[tuple[int, int]], verify: bool = True) -> list[Any]:
    """Coalesce, compare with the plain walk, return the records."""
    items, drops = gro.coalesce(view, frames, 3, 7, verify, ipv6=True)
    records: list[Any] = [*items]
    assert all(vars(decode(item.pack())) == vars(item) for item in items)
    truth = {off: judge(view, off, length, verify) for off, length in frames}
    assert drops == Counter(verdict for verdict in truth.values() if isinstance(verdict, str))
    assert drops.keys() <= INDEX.keys()
    lengths = dict(frames)
    said: dict[int, Segment | None] = {}
    absorbing = []
    for record in records:
        assert (record.link, record.slot) == (3, 7)
        if isinstance(record, Frame):
            assert record.length == lengths[record.off]
            found: dict[int, Segment | None] = {record.off: None}
        else:
            assert isinstance(record, TcpRange)
            found = dict(expand(view, record))
            if not record.length:
                absorbing.append((next(iter(found)), record.segments - 1))
        assert min(found) > max(said, default=-1), "records are in order of arrival"
        said.update(found)
    for off, segment in said.items():
        assert segment == truth[off]
    kept = {off: verdict for off, verdict in truth.items() if not isinstance(verdict, str)}
    check_collapsed(kept, said, absorbing)
    return records


def check_collapsed(
    truth: dict[int, Segment | None], said: dict[int, Segment | None], absorbing: list[tuple[int, int]]
) -> None:
    """Frames without a record are pure ACKs that a later one of the flow makes needless."""
    missing = truth.keys() - said.keys()
    for off, count in absorbing:
        latest = truth[off]
        assert latest is not None
        earlier = [o for o, s in truth.items() if o < off and s is not None and s.flow == latest.flow]
        for before in reversed(earlier[len(earlier) - count :]):
            segment = truth[before]
            assert segment is not None
            assert before in missing
            missing -= {before}
            for one in (segment, latest):
                assert one.flags == tcp.ACK
                assert not one.payload
                assert one.options[:4] in (b"", b"\1\1\x08\x0a")
                assert len(one.options) in (0, 12)
            assert segment.seq == latest.seq
            assert 0 < (latest.ack - segment.ack) % 2**32 < 2**31
            latest = segment
    assert not missing


# --- what must merge, and what must not ---------------------------------------------------


def full_burst(
    count: int = 44,
    size: int = 1448,
    last_flags: int = tcp.ACK,
    last: int = 1448,
    family: Family = FAMILIES["IPv4"],
) -> list[bytes]:
    return [
        family.tcp_frame(
            i * size + 0xFFFFF000 & 0xFFFFFFFF,
            bytes([i]) * (last if i == count - 1 else size),
            options=timestamps(),
            flags=last_flags if i == count - 1 else tcp.ACK,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 9, 10, 44])
@pytest.mark.parametrize("last", [1448, 1, 1447])
@pytest.mark.parametrize("last_flags", [tcp.ACK, tcp.ACK | tcp.PSH])
@pytest.mark.parametrize("gap", [0, 2, 4])
@BOTH
def test_a_burst_of_one_flow_is_one_record(
    count: int, last: int, last_flags: int, gap: int, family: Family
) -> None:
    view, places = slot_of(full_burst(count, 1448, last_flags, last, family), gaps=gap)
    (record,) = check(view, places)
    assert record.segments == count
    assert record.length == (count - 1) * 1448 + last
    assert record.flags == last_flags
    assert record.stride == (0 if count == 1 else family.tcp_len + 12 + 1448 + gap)
    assert record.header_len == family.tcp_len + 12
    assert Ends.of(record.key).guest_addr == family.guest


def test_a_push_ends_a_run_and_the_next_begins_one() -> None:
    frames = []
    for i in range(40):
        flags = tcp.ACK | tcp.PSH if i % 10 == 9 else tcp.ACK
        frames.append(tcp_frame(i * 1000, b"x" * 1000, flags=flags, ident=i))
    assert [record.segments for record in check(*slot_of(frames))] == [10, 10, 10, 10]


def test_a_largest_frame_is_one_record() -> None:
    view, places = slot_of([tcp_frame(5, random.Random(1).randbytes(65483), options=timestamps())])
    (record,) = check(view, places)
    assert (record.length, record.piece_size) == (65483, 65483)


@pytest.mark.parametrize("what", ["gap", "time", "ttl", "last-hop", "tos", "mac", "no-df", "ece"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_never_crosses(what: str, family: str) -> None:
    flow = Flow(0, True, family)
    frames = [flow.make("data", 100) for _ in range(12)]
    frames.append(flow.make(what, 100))
    frames += [flow.make("data", 100) for _ in range(12)]
    records = check(*slot_of(frames))
    assert records[0].segments == 12
    assert len(records) >= 2


@pytest.mark.parametrize("field", ["wnd", "ack", "dport"])
def test_a_run_never_crosses_a_change_of(field: str) -> None:
    frames = [tcp_frame(i * 100, b"x" * 100, **{field: 80 + i // 15}) for i in range(30)]
    assert [record.segments for record in check(*slot_of(frames))] == [15, 15]


def test_unequal_strides_do_not_merge() -> None:
    frames = [tcp_frame(i * 100, b"x" * 100) for i in range(3)]
    view, places = slot_of(frames, gaps=[4, 4, 8])
    assert [record.segments for record in check(view, places)] == [2, 1]


@pytest.mark.parametrize("count", [1, 3, 9, 44])
@pytest.mark.parametrize("size", [1448, 99, 1])
def test_ipv6_segments_without_checksum_are_completed_and_merge(count: int, size: int) -> None:
    frames = full_burst(count, size, last=size, family=FAMILIES["IPv6"])
    view, places = slot_of([left_out(frame) for frame in frames])
    (record,) = check(view, places)
    assert record.segments == count
    assert [bytes(view[off : off + length]) for off, length in places] == frames


def test_only_ipv6_segments_of_a_stretch_are_completed() -> None:
    good = [tcp_frame6(5 + 99 * i, b"x" * 99) for i in range(4)]
    others = []
    for at, value in ((20, 17), (12, 0x08), (14, 0x50), (19, 200)):
        other = bytearray(left_out(good[0]))
        other[at] = value
        others.append(bytes(other))
    view, places = slot_of([*good, *others])
    gro.coalesce(view, places, ipv6=True)
    assert [bytes(view[off : off + length]) for off, length in places] == [*good, *others]


def test_frames_of_both_families_in_turns_keep_their_order() -> None:
    frames = [family.tcp_frame(i * 100, b"x" * 100) for i in range(9) for family in FAMILIES.values()]
    assert [record.header_len for record in check(*slot_of(frames))] == [54, 74] * 9


def test_pure_acks_of_both_families_collapse_each() -> None:
    frames = [family.tcp_frame(9, ack=1000 * i) for i in range(5) for family in FAMILIES.values()]
    found = [(record.segments, record.header_len) for record in check(*slot_of(frames))]
    assert found == [(5, 54), (5, 74)]


@pytest.mark.parametrize(
    "field",
    [
        {"eth_header": b"\x33\x33" + FROM_GUEST6[2:]},
        {"src": ip.parse("fe80::2")},
        {"dst": ip.parse("febf::1")},
        {"src": ip.parse("::")},
        {"dst": ip.parse("::1")},
        {"dst": ip.parse("::ffff:127.0.0.1")},
        {"src": ip.parse("192.168.127.2")},
    ],
    ids=[
        "to a group",
        "from link-local",
        "to link-local",
        "from no address",
        "to loopback",
        "to mapped",
        "from mapped",
    ],
)
def test_ipv6_packets_that_are_not_routed_are_frames_for_demux(field: dict[str, Any]) -> None:
    frames = [tcp_frame6(i * 100, b"x" * 100, **field) for i in range(9)]
    assert [type(record) for record in check(*slot_of(frames))] == [Frame] * 9


def test_with_ipv6_off_its_packets_are_frames_for_demux() -> None:
    frames = full_burst(9, family=FAMILIES["IPv6"])
    items, drops = gro.coalesce(*slot_of(frames))
    assert ([type(item) for item in items], drops) == ([Frame] * 9, {})


def test_interleaved_flows_keep_their_order() -> None:
    frames = [tcp_frame(i // 2 * 100, b"x" * 100, sport=40000 + i % 2) for i in range(20)]
    ports = [Ends.of(record.key).guest_port for record in check(*slot_of(frames))]
    assert ports == [40000 + i % 2 for i in range(20)]


def test_a_run_goes_on_behind_a_uniform_stretch() -> None:
    frames = [tcp_frame(i * 100, b"x" * 100) for i in range(20)]
    frames += [tcp_frame(2000, b"y" * 100, pad_to=170)]
    assert [record.segments for record in check(*slot_of(frames))] == [21]


def test_pure_acks_collapse_into_the_last() -> None:
    frames = [tcp_frame(9, ack=1000 * i, wnd=500 + i, options=timestamps(i, i)) for i in range(10)]
    (record,) = check(*slot_of(frames))
    assert (record.segments, record.ack, record.window, record.ts_val) == (10, 9000, 509, 9)


def test_pure_acks_of_two_flows_collapse_each() -> None:
    frames = [tcp_frame(9, ack=1000 * i, sport=40000 + i % 2) for i in range(10)]
    assert [(record.segments, record.ack) for record in check(*slot_of(frames))] == [(5, 8000), (5, 9000)]


def test_duplicate_acks_all_arrive() -> None:
    frames = [tcp_frame(9, ack=ack) for ack in (1, 2, 2, 2, 2, 3, 4)]
    assert [(r.segments, r.ack) for r in check(*slot_of(frames))] == [(2, 2), (1, 2), (1, 2), (1, 2), (2, 4)]


def test_acks_with_sack_blocks_all_arrive() -> None:
    frames = [tcp_frame(9, ack=i, options=tcp_options.build(True, 1, 2, ((9, 10),))) for i in range(3)]
    records = check(*slot_of(frames))
    assert [record.segments for record in records] == [1, 1, 1]
    for record in records:
        assert record.has_other_options


def test_data_between_two_acks_keeps_them_apart() -> None:
    frames = [tcp_frame(9, ack=1), tcp_frame(9, b"data", ack=1), tcp_frame(13, ack=2)]
    assert [(record.segments, record.length) for record in check(*slot_of(frames))] == [
        (1, 0),
        (1, 4),
        (1, 0),
    ]


def test_a_segment_with_a_flag_stands_alone() -> None:
    for flags in (tcp.SYN, tcp.RST | tcp.ACK, tcp.FIN | tcp.ACK, tcp.ACK | tcp.URG, 0, tcp.PSH | tcp.ACK):
        frames = [tcp_frame(5, b"abc", flags=flags), tcp_frame(8, b"abc", flags=flags)]
        assert [record.segments for record in check(*slot_of(frames))] == [1, 1]


def test_syn_options_are_left_to_the_reader() -> None:
    options = tcp_options.build_syn(1460, 7, True, True, 11, 0)
    (record,) = check(*slot_of([tcp_frame(5, flags=tcp.SYN, options=options)]))
    assert (record.header_len, record.has_other_options) == (54 + len(options), True)
    assert not record.has_timestamps
    assert (record.off, record.length, record.piece_size, record.stride) == (260 + 54 + len(options), 0, 0, 0)


def test_a_vouched_for_checksum_is_not_verified_but_the_ipv4_header_is() -> None:
    frames = [bytearray(tcp_frame(i * 100, b"x" * 100)) for i in range(3)]
    frames[0][50:52] = b"\0\0"
    frames[2][24] ^= 1
    view, places = slot_of([bytes(frame) for frame in frames])
    items, drops = gro.coalesce(view, places, verify=False)
    assert [item.segments for item in items if isinstance(item, TcpRange)] == [2]
    assert drops == {headers.DROP_IPV4_CHECKSUM: 1}


@pytest.mark.parametrize("ttl, records", [(0, 12), (1, 12), (2, 1), (255, 1)])
@pytest.mark.parametrize("ip_flags", [0, ipv4.FLAG_DF])
def test_segments_without_a_hop_left_are_frames_for_demux(ttl: int, records: int, ip_flags: int) -> None:
    frames = [tcp_frame(i * 100, b"x" * 100, ttl=ttl, ip_flags=ip_flags) for i in range(12)]
    found = check(*slot_of(frames))
    assert len(found) == records
    assert {type(record) for record in found} == {Frame if ttl < 2 else TcpRange}


def test_swapped_words_of_two_frames_are_noticed() -> None:
    """The sum over the whole slot stays the same: each frame must be summed by itself."""
    first, second = tcp_frame(0, b"a" * 100), tcp_frame(100, b"b" * 100)
    frames = [first[:-2] + second[-2:], second[:-2] + first[-2:]] * 4
    view, places = slot_of(frames)
    items, drops = gro.coalesce(view, places)
    assert not items
    assert drops == {headers.DROP_TCP_CHECKSUM: 8}


def test_the_guest_is_the_sender_of_a_run() -> None:
    assert {headers.DROP_RUNT, *BAD_CHECKSUMS} <= set(INDEX)
    ((record,), _) = gro.coalesce(*slot_of([tcp_frame(1)]))
    assert isinstance(record, TcpRange)
    ends = Ends.of(record.key)
    assert (ends.guest_addr, ends.guest_port) == (GUEST, 40000)
    assert (ends.remote_addr, ends.remote_port) == (REMOTE, 80)
