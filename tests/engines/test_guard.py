"""What no guest may send to others, as bytes: the reader never fails, and never reads beyond the frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines import guard
from pipeline.wire import ethernet, ipv4, ipv6
from pipeline.wire.errors import WireError
from tests.support.attempts import GATEWAY, Station, attempts, evasions, honest
from tests.support.fuzz import mutations, parsed

A, B, C = (Station(bytes((2, 0, 0, 0, 0, number)), GATEWAY + number) for number in (1, 2, 3))
FRAMES = [attempt.frame for attempt in (*attempts(A, B, C), *evasions(A, B))] + [*honest(A, B).values()]


def judge(frame: bytes, before: int = 0) -> int | None:
    """What the guard says of a frame that lies between bytes of others: its IPv4 source, if it has one."""
    view = memoryview(bytes(before) + frame + b"\xff" * 64)
    end = before + len(frame)
    dst, _, ethertype = ethernet.parse_header(view, before, end)
    guard.refuse_group(dst)
    kind, at = guard.network_of(view, before, end, ethertype)
    assert before < at
    if kind == ethernet.TYPE_IPV4:
        return guard.refuse_ipv4(view, at, end)
    if kind == ethernet.TYPE_IPV6:
        guard.refuse_ipv6(view, at, end)
    return None


@given(st.sampled_from(FRAMES).flatmap(mutations), st.integers(0, 40))
def test_any_frame_is_judged_or_refused_wherever_it_lies(frame: bytes, before: int) -> None:
    if len(frame) >= ethernet.HEADER_LEN:
        assert parsed(judge, frame, before) == parsed(judge, frame)


@given(st.sampled_from([ethernet.TYPE_IPV4, ethernet.TYPE_IPV6, 0x8100, 0x88A8]), st.binary(max_size=120))
def test_noise_is_judged_or_refused(kind: int, noise: bytes) -> None:
    parsed(judge, ethernet.header(B.mac, A.mac, kind) + noise)


@pytest.mark.parametrize("name", honest(A, B))
def test_ordinary_frames_are_not_refused(name: str) -> None:
    source = judge(honest(A, B)[name])
    assert source in (None, 0, A.addr)


def test_the_source_is_read_after_tags() -> None:
    frame = honest(A, B)["ping"]
    for tags in (b"\x81\x00\x00\x00", b"\x88\xa8\xe0\x01\x81\x00\x00\x00"):
        assert judge(frame[:12] + tags + frame[12:]) == A.addr


@pytest.mark.parametrize("offset", (8, 16, 1480))
def test_later_fragments_pass_whatever_they_look_like(offset: int) -> None:
    header = ipv4.build(28, 1, 64, ipv4.PROTO_UDP, A.addr, B.addr, frag_off=offset)
    assert judge(ethernet.header(B.mac, A.mac, ethernet.TYPE_IPV4) + header + b"\0\x43\0\x44" * 2) == A.addr


@pytest.mark.parametrize("last", range(256))
def test_groups_that_bridges_keep_to_themselves_are_refused(last: int) -> None:
    refuses = parsed(lambda: guard.refuse_group(bytes((1, 0x80, 0xC2, 0, 0, last))) or True)
    assert refuses is (None if last < 16 else True)


def test_the_broadcast_address_is_not_one_of_them() -> None:
    guard.refuse_group(ethernet.BROADCAST)


@pytest.mark.parametrize("length", range(14, 14 + 28))
def test_a_datagram_without_its_ports_is_refused(length: int) -> None:
    frame = honest(A, B)["datagram"][:length]
    if length < 14 + 24:
        with pytest.raises(WireError, match="switch_frame_dropped_unreadable_headers"):
            judge(frame)
    else:
        assert judge(frame) == A.addr


def test_a_fragment_in_a_first_fragment_is_unreadable() -> None:
    """Its receiver would see the message behind both headers. The later header has an offset to hide it."""
    headers = ipv6.build_fragment(ipv6.PROTO_FRAGMENT, 0, True, 7) + ipv6.build_fragment(58, 8, True, 8)
    packet = ipv6.build(len(headers) + 8, ipv6.PROTO_FRAGMENT, 64, 0xFE80 << 112 | 1, ipv6.ALL_NODES)
    frame = ethernet.header(B.mac, A.mac, ethernet.TYPE_IPV6) + packet + headers + bytes(8)
    with pytest.raises(WireError, match="switch_frame_dropped_unreadable_headers"):
        judge(frame)
