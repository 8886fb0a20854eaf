"""GRO says of every datagram what a plain walk says of it, in fewer records, and none is split or joined."""

import random
from collections import Counter
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.counters import INDEX
from pipeline.engines.offload import gro, headers
from pipeline.records.flows import Ends
from pipeline.records.frames import Frame
from pipeline.records.tcp import TcpRange
from pipeline.records.udp import UdpRange
from pipeline.wire import ip, ipv4, udp
from pipeline.wire.errors import WireError
from tests.support.frames import (
    FAMILIES,
    FROM_GUEST,
    FROM_GUEST6,
    GUEST,
    GUEST6,
    REMOTE,
    REMOTE6,
    TO_GUEST,
    TO_GUEST6,
    Family,
    slot_of,
    tcp_frame,
    udp_frame,
    udp_frame6,
)
from tests.support.layouts import decode
from tests.support.offload import left_out

DATA = random.Random(5).randbytes(4000)
TAG = bytes.fromhex("8100a000")
BOTH = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
BAD_CHECKSUMS = (headers.DROP_IPV4_CHECKSUM, headers.DROP_UDP_CHECKSUM)


class Datagram(NamedTuple):
    """One datagram as the plain walk sees it."""

    eth_header: bytes
    src: int
    dst: int
    ports: int
    payload: bytes


def whole(view: memoryview, places: list[tuple[int, int]]) -> list[bytes]:
    return [bytes(view[off : off + length]) for off, length in places]


def judge_ipv6(view: memoryview, off: int, length: int, verify: bool) -> Datagram | str | None:
    """The same for IPv6."""
    if length < 62 or view[off + 14] >> 4 != 6 or view[off + 20] != 17 or view[off + 21] < 2 or view[off] & 1:
        return None
    size = int.from_bytes(view[off + 18 : off + 20], "big")
    src, dst = (int.from_bytes(view[at : at + 16], "big") for at in (off + 22, off + 38))
    if size > length - 54 or size < 8 or size != int.from_bytes(view[off + 58 : off + 60], "big"):
        return None
    if any(ip.is_ipv4(addr) or addr >> 32 == 0 or addr >> 118 == 0xFE80 >> 6 for addr in (src, dst)):
        return None
    header = udp.parse(view, off + 54, off + 54 + size)
    if verify:
        if not header.checksum:
            return headers.DROP_UDP_CHECKSUM
        try:
            udp.verify(view, off + 54, header, src, dst)
        except WireError as error:
            return error.reason
    payload = bytes(view[off + 62 : off + 54 + size])
    return Datagram(bytes(view[off : off + 14]), src, dst, header.src_port << 16 | header.dst_port, payload)


def judge(view: memoryview, off: int, length: int, verify: bool = True) -> Datagram | str | None:
    """The plain walk: a datagram, None for a frame that demux shall see, or the name of a drop."""
    if view[off + 12 : off + 14] == b"\x86\xdd":
        return judge_ipv6(view, off, length, verify)
    start, end = off + 14, off + length
    if length < 42 or view[off + 12 : off + 15] != b"\x08\x00\x45" or view[start + 9] != 17:
        return None
    total = int.from_bytes(view[start + 2 : start + 4], "big")
    udp_len = int.from_bytes(view[start + 24 : start + 26], "big")
    fragment = int.from_bytes(view[start + 6 : start + 8], "big") & 0xBFFF
    if fragment or view[start + 8] < 2 or total > length - 14 or udp_len < 8 or udp_len != total - 20:
        return None
    try:
        ip = ipv4.parse(view, start, end)
        header = udp.parse(view, start + 20, start + total)
        if verify:
            udp.verify(view, start + 20, header, ip.src, ip.dst)
    except WireError as error:
        return error.reason
    payload = bytes(view[start + 28 : start + total])
    return Datagram(bytes(view[off:start]), ip.src, ip.dst, header.src_port << 16 | header.dst_port, payload)


def check(view: memoryview, frames: list[tuple[int, int]], verify: bool = True) -> list[tuple[int, UdpRange]]:
    """Coalesce, compare with the plain walk; (number of datagrams, record) of each run."""
    items, drops = gro.coalesce(view, frames, 3, 7, verify, ipv6=True)
    truth = {off: judge(view, off, length, verify) for off, length in frames}
    assert drops == Counter(verdict for verdict in truth.values() if isinstance(verdict, str))
    said: dict[int, Datagram | None] = {}
    runs = []
    for item in items:
        assert vars(decode(item.pack())) == vars(item)
        assert (item.link, item.slot, item.vnet) == (3, 7, False)
        off, length = item.off, item.length
        if isinstance(item, Frame):
            assert off > max(said, default=-1)
            said[off] = None
            continue
        assert isinstance(item, UdpRange)
        assert not item.skip
        size, stride, number = item.piece_size, item.stride, item.piece_count()
        assert number == (-(-length // size) if size else 1)
        assert stride if number > 1 else not stride
        ends = Ends.of(item.key)
        ports = ends.guest_port << 16 | ends.remote_port
        runs.append((number, item))
        left = length
        for index in range(number):
            begin = off + index * stride
            part = min(size, left)
            left -= part
            assert begin - item.header_len > max(said, default=-1), "records are in order of arrival"
            said[begin - item.header_len] = Datagram(
                bytes(view[begin - item.header_len :][:14]),
                ends.guest_addr,
                ends.remote_addr,
                ports,
                bytes(view[begin : begin + part]),
            )
        assert not left
    assert said == {off: verdict for off, verdict in truth.items() if not isinstance(verdict, str)}
    return runs


def numbers(frames: list[bytes], **how: object) -> list[int]:
    """How many datagrams are in each run of a slot with the frames."""
    return [number for number, _ in check(*slot_of(frames, **how))]  # type: ignore[arg-type]


@BOTH
def test_equal_datagrams_are_one_run_and_the_last_may_be_shorter(family: Family) -> None:
    frames = [family.udp_frame(DATA[i : i + 1400]) for i in range(20)]
    assert numbers([*frames, family.udp_frame(b"end")]) == [21]
    assert numbers([*frames, family.udp_frame(DATA[:1401])]) == [20, 1]


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("size", [1, 2, 17, 18, 64, 1472])
@BOTH
def test_any_number_of_any_size_merges(count: int, size: int, family: Family) -> None:
    assert numbers([family.udp_frame(DATA[i : i + size]) for i in range(count)]) == [count]


def test_more_than_one_chunk_of_headers_is_compared() -> None:
    assert numbers([udp_frame(DATA[i : i + 20]) for i in range(700)]) == [700]
    other = udp_frame(DATA[:20], dport=9)
    assert numbers([*[udp_frame(b"x" * 20)] * 400, other, *[udp_frame(b"x" * 20)] * 3]) == [400, 1, 3]


@pytest.mark.parametrize(
    "changed",
    [{"dport": 1}, {"sport": 1}, {"dst": REMOTE + 1}, {"src": GUEST + 1}, {"ttl": 3}, {"tos": 4},
     {"ip_flags": 0}, {"eth_header": TO_GUEST}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("at", [0, 1, 2, 5, 9])
def test_a_datagram_that_differs_is_by_itself(changed: dict[str, int], at: int) -> None:
    frames = [udp_frame(DATA[:100]) for _ in range(10)]
    frames[at] = udp_frame(DATA[:100], **changed)  # type: ignore[arg-type]
    assert numbers(frames) == [number for number in (at, 1, 9 - at) if number]


@pytest.mark.parametrize(
    "changed",
    [{"dport": 1}, {"dst": REMOTE6 + 1}, {"src": GUEST6 + 1}, {"hops": 3}, {"traffic_class": 4}, {"label": 1},
     {"eth_header": TO_GUEST6}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_an_ipv6_datagram_that_differs_is_by_itself(changed: dict[str, Any], at: int) -> None:
    frames = [udp_frame6(DATA[:100]) for _ in range(10)]
    frames[at] = udp_frame6(DATA[:100], **changed)
    assert numbers(frames) == [number for number in (at, 1, 9 - at) if number]


@pytest.mark.parametrize(
    "changed",
    [{"hops": 1}, {"hops": 0}, {"src": ip.parse("fe80::1")}, {"dst": ip.parse("::ffff:10.0.0.1")},
     {"eth_header": b"\x33\x33" + FROM_GUEST6[2:]}],
    ids=["last hop", "no hop", "link-local", "mapped", "to a group"],
)  # fmt: skip
def test_ipv6_datagrams_that_are_not_routed_are_left_to_demux(changed: dict[str, Any]) -> None:
    assert numbers([udp_frame6(b"x"), *[udp_frame6(b"x", **changed)] * 5, udp_frame6(b"x")]) == [1, 1]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_without_a_checksum_an_ipv6_datagram_is_wrong(count: int) -> None:
    """RFC 8200 section 8.1."""
    view, places = slot_of([udp_frame6(DATA[:80], summed=False)] * count)
    assert gro.coalesce(view, places, ipv6=True) == ([], {headers.DROP_UDP_CHECKSUM: count})


def test_with_ipv6_off_its_datagrams_are_left_to_demux() -> None:
    items, drops = gro.coalesce(*slot_of([udp_frame6(b"x")] * 5))
    assert ([type(item) for item in items], drops) == ([Frame] * 5, {})


def test_flows_that_alternate_do_not_merge() -> None:
    assert numbers([udp_frame(DATA[:50], sport=i % 2 + 1) for i in range(12)]) == [1] * 12


def test_an_empty_datagram_is_never_part_of_a_run() -> None:
    full, empty = udp_frame(b"data"), udp_frame()
    assert numbers([full, full, empty, full, empty, empty, full]) == [2, 1, 1, 1, 1, 1]
    assert numbers([udp_frame(pad_to=60)] * 5) == [1] * 5


def test_padding_of_short_frames_is_not_payload() -> None:
    assert numbers([udp_frame(b"ab", pad_to=60), *[udp_frame(b"cd", pad_to=60)] * 8]) == [9]


def test_datagrams_at_unequal_distances_do_not_merge() -> None:
    frames = [udp_frame(DATA[:100])] * 6
    assert numbers(frames, gaps=[4, 4, 4, 9, 4, 4]) == [3, 3]


def test_without_a_checksum_a_datagram_is_right() -> None:
    frames = [udp_frame(DATA[i : i + 80], summed=bool(i % 3)) for i in range(9)]
    assert numbers(frames) == [9]


@pytest.mark.parametrize("bad", [[0], [3], [9], [0, 1], [2, 3, 7], [8, 9], list(range(10))], ids=str)
@pytest.mark.parametrize("where", [24, 60])
@pytest.mark.parametrize("tail", [0, 30])
def test_a_wrong_checksum_costs_its_datagram_and_no_other(bad: list[int], where: int, tail: int) -> None:
    frames = [bytearray(udp_frame(DATA[i : i + 80])) for i in range(10)]
    if tail:
        frames[9] = bytearray(udp_frame(DATA[:tail]))
    for index in bad:
        frames[index][where] ^= 0x40
    view, places = slot_of([bytes(frame) for frame in frames])
    runs = check(view, places)
    assert sum(number for number, _ in runs) == 10 - len(bad)
    assert len(runs) <= len(bad) + 1


@pytest.mark.parametrize("count", [1, 2, 4, 9, 40])
@pytest.mark.parametrize("tail", [0, 7])
@BOTH
def test_datagrams_without_checksum_are_completed_and_merge_as_others_do(
    count: int, tail: int, family: Family
) -> None:
    frames = [family.udp_frame(DATA[i : i + 1400]) for i in range(count)]
    frames += [family.udp_frame(DATA[:tail])] if tail else []
    view, places = slot_of([left_out(frame) for frame in frames])
    assert [number for number, _ in check(view, places)] == [len(frames)]
    assert whole(view, places) == frames


@pytest.mark.parametrize("count", [1, 5])
@BOTH
def test_a_completed_checksum_of_zero_is_written_as_all_ones(count: int, family: Family) -> None:
    field = slice(family.l4_off + 6, family.l4_off + 8)
    first = family.udp_frame(b"x" * 8 + b"\0\0")
    frame = family.udp_frame(b"x" * 8 + first[field])
    assert frame[field] == b"\xff\xff"
    view, places = slot_of([left_out(frame)] * count)
    assert [number for number, _ in check(view, places)] == [count]
    assert whole(view, places) == [frame] * count


def test_a_datagram_of_20_kb_in_one_frame_is_a_run_of_one() -> None:
    frame = udp_frame(DATA * 5, ip_flags=0)
    view, places = slot_of([left_out(frame)] * 3)
    assert [(number, item.piece_size) for number, item in check(view, places)] == [(3, 20000)]
    assert whole(view, places) == [frame] * 3


@pytest.mark.parametrize("count", [1, 6])
def test_a_pseudo_header_of_another_length_is_a_wrong_checksum(count: int) -> None:
    short, long = left_out(udp_frame(b"x" * 99)), udp_frame(b"x" * 100)
    wrong = long[:40] + short[40:42] + long[42:]
    view, places = slot_of([wrong] * count)
    assert gro.coalesce(view, places) == ([], {headers.DROP_UDP_CHECKSUM: count})


@pytest.mark.parametrize("partial", [False, True], ids=["whole", "without checksum"])
def test_priority_tagged_datagrams_merge_as_others_do(partial: bool) -> None:
    frames = [udp_frame(DATA[i : i + 1400], ident=17 << 8 | i) for i in range(20)]
    sent = [left_out(frame) if partial else frame for frame in frames]
    view, places = slot_of([frame[:12] + TAG + frame[12:] for frame in sent])
    assert [number for number, _ in check(view, places)] == [20]
    assert whole(view, places) == frames


def test_a_link_that_vouches_gets_no_checksum_verified_but_those_of_ipv4() -> None:
    frames = [bytearray(udp_frame(DATA[i : i + 80])) for i in range(6)]
    frames[2][70] ^= 1
    view, places = slot_of([bytes(frame) for frame in frames])
    assert [number for number, _ in check(view, places, verify=False)] == [6]
    view[places[4][0] + 24] ^= 1
    assert [number for number, _ in check(view, places, verify=False)] == [4, 1]


def test_lengths_that_contradict_each_other_are_left_to_demux() -> None:
    good = udp_frame(DATA[:100])
    long = bytearray(good)
    long[38:40] = (109).to_bytes(2, "big")
    short = bytearray(good)
    short[38:40] = (7).to_bytes(2, "big")
    view, places = slot_of([good, bytes(long), good, bytes(short), good[:-1], good])
    assert [number for number, _ in check(view, places)] == [1, 1, 1]


def test_fragments_options_and_other_protocols_are_left_to_demux() -> None:
    good = udp_frame(DATA[:100])
    fragment = udp_frame(DATA[:100], ip_flags=ipv4.FLAG_MF)
    options = bytearray(good)
    options[14] = 0x46
    view, places = slot_of([good, fragment, bytes(options), tcp_frame(1, b"x"), good])
    items, _ = gro.coalesce(view, places)
    assert [type(item) for item in items] == [UdpRange, Frame, Frame, TcpRange, UdpRange]


@pytest.mark.parametrize("ttl", [0, 1])
def test_a_datagram_without_a_hop_left_is_left_to_demux(ttl: int) -> None:
    view, places = slot_of([udp_frame(DATA[:100], ttl=2), *[udp_frame(DATA[:100], ttl=ttl)] * 2])
    items, drops = gro.coalesce(view, places)
    assert [type(item) for item in items] == [UdpRange, Frame, Frame]
    assert not drops


def test_a_run_says_that_its_frames_have_virtio_net_headers() -> None:
    items, _ = gro.coalesce(*slot_of([udp_frame(b"x")] * 4), vnet=True)
    assert [item.vnet for item in items] == [True]


STEP = st.tuples(
    st.integers(0, 1),  # flow
    st.sampled_from([0, 1, 20, 21, 100, 600]),  # bytes
    st.integers(1, 9),  # times
    st.sampled_from(["", "", "", "flip", "plain", "pad", "cut", "tcp", "partial", "partial", "tag"]),
    st.sampled_from([*FAMILIES.values()]),
)


@given(st.lists(STEP, min_size=1, max_size=9), st.sampled_from([4, 2, [4, 4, 6]]), st.data())
@settings(max_examples=300, deadline=None)
def test_any_burst_says_what_the_plain_walk_says(
    steps: list[tuple[int, int, int, str, Family]], gaps: list[int] | int, data: st.DataObject
) -> None:
    frames = []
    for flow, size, times, what, family in steps:
        for number in range(times):
            at = len(frames) + number
            frame = bytearray(
                family.udp_frame(
                    DATA[at : at + size],
                    sport=flow + 1,
                    summed=what != "plain",
                    pad_to=family.udp_len + 22 if what == "pad" else 0,
                )
            )
            if what == "flip":
                frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            elif what == "cut":
                del frame[data.draw(st.integers(1, len(frame))) :]
            elif what == "tcp":
                frame = bytearray(family.tcp_frame(at, DATA[:size]))
            elif what == "partial":
                frame = bytearray(left_out(bytes(frame)))
            elif what == "tag":
                frame[12:12] = TAG
            frames.append(bytes(frame))
    view, places = slot_of(frames, gaps=gaps)
    items, _ = gro.coalesce(view, places, ipv6=True)
    if not any(isinstance(item, TcpRange) for item in items) and all(length >= 14 for _, length in places):
        check(view, places)


@given(st.binary(min_size=62, max_size=200), st.booleans(), st.sampled_from([*FAMILIES.values()]))
@settings(max_examples=300, deadline=None)
def test_nothing_is_raised_whatever_the_bytes_are(noise: bytes, verify: bool, family: Family) -> None:
    most = family.l4_off + 4
    head = family.udp_frame(noise[family.udp_len :])[:most]
    frame = head[: noise[0] % (most + 1)] + noise[noise[0] % (most + 1) :]
    view, places = slot_of([frame] * 7, size=256 + 7 * (len(frame) + 4))
    gro.coalesce(view, places, verify=verify, ipv6=True)


def test_the_guest_is_the_sender_of_a_run() -> None:
    assert set(BAD_CHECKSUMS) <= set(INDEX)
    ((run,), _) = gro.coalesce(*slot_of([udp_frame(b"x", eth_header=FROM_GUEST)]))
    assert isinstance(run, UdpRange)
    ends = Ends.of(run.key)
    assert (ends.guest_addr, ends.guest_port) == (GUEST, 40000)
    assert (ends.remote_addr, ends.remote_port) == (REMOTE, 7000)
