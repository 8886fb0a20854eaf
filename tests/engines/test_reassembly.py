"""Reassembly of IPv4 fragments, in good faith and in bad."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.counters import INDEX
from pipeline.engines.reassembly import FRAGMENT_OVERHEAD, REASSEMBLY_TIMEOUT, Expired, Reassembler
from pipeline.wire import checksum, ip, ipv4
from pipeline.wire.errors import WireError
from tests.support.fuzz import parsed

SRC, DST = ip.from_ipv4(0xC0A87F02), ip.from_ipv4(0x08080808)
LINK = 0
INF = float("inf")


def fragment(payload: bytes, frag_off: int, more: bool, ident: int = 7, options: bytes = b"") -> bytes:
    flags = ipv4.FLAG_MF if more else 0
    total = 20 + len(options) + len(payload)
    head = bytearray(ipv4.build(total, ident, 64, 17, SRC, DST, flags=flags, frag_off=frag_off))
    if options:
        head[0] = 0x45 + len(options) // 4
        head[10:12] = b"\0\0"
        head += options
        head[10:12] = checksum.checksum(head).to_bytes(2, "big")
    return bytes(head) + payload


def cut(payload: bytes, sizes: list[int], ident: int = 7) -> list[bytes]:
    pieces = []
    off = 0
    for size in sizes:
        if off + size * 8 >= len(payload):
            break
        pieces.append(fragment(payload[off : off + size * 8], off, True, ident))
        off += size * 8
    return [*pieces, fragment(payload[off:], off, False, ident)]


def put(target: Reassembler, data: bytes, now: float = 0.0, source: int = LINK) -> bytes | None:
    view = memoryview(b"frame" + data)
    return target.on_fragment(view, 5, ipv4.parse(view, 5, len(view)), source, now)


def refused(target: Reassembler, data: bytes, now: float = 0.0, source: int = LINK) -> str:
    with pytest.raises(WireError) as caught:
        put(target, data, now, source)
    assert caught.value.reason in INDEX
    return caught.value.reason.removeprefix("ipv4_fragment_dropped_")


def is_empty(target: Reassembler) -> bool:
    return len(target) == 0 and target.held_bytes == 0 and target.deadline() == INF


@given(
    st.binary(min_size=9, max_size=400),
    st.lists(st.integers(1, 8), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_fragments_in_any_order_become_the_packet(payload: bytes, sizes: list[int], random: object) -> None:
    target = Reassembler()
    pieces = cut(payload, sizes)
    random.shuffle(pieces)  # type: ignore[attr-defined]
    assert all(put(target, piece) is None for piece in pieces[:-1])
    whole = put(target, pieces[-1])
    assert whole is not None
    header = ipv4.parse(whole, 0, len(whole))
    assert (header.total_len, header.flags, header.frag_off) == (20 + len(payload), 0, 0)
    assert (header.src, header.dst, header.proto, header.ident) == (SRC, DST, 17, 7)
    assert whole[20:] == payload
    assert is_empty(target)


def test_the_first_fragments_header_with_its_options_is_the_packets() -> None:
    target = Reassembler()
    assert put(target, fragment(b"B" * 4, 8, False)) is None
    whole = put(target, fragment(b"A" * 8, 0, True, options=b"\x94\x04\0\0"))
    assert whole is not None
    header = ipv4.parse(whole, 0, len(whole))
    assert (header.ihl, header.total_len) == (24, 36)
    assert whole[20:] == b"\x94\x04\0\0" + b"A" * 8 + b"B" * 4


def test_the_longest_datagram_passes() -> None:
    payload = bytes(65515)
    target = Reassembler()
    pieces = cut(payload, [185] * 60)
    assert len(pieces) == 45
    got = [put(target, piece) for piece in pieces]
    assert got[:-1] == [None] * 44
    assert got[-1] is not None
    assert len(got[-1]) == 65535


def test_datagrams_that_differ_in_identifier_or_link_do_not_mix() -> None:
    target = Reassembler()
    assert put(target, fragment(b"A" * 8, 0, True, ident=1)) is None
    assert put(target, fragment(b"B" * 8, 8, False, ident=2)) is None
    assert put(target, fragment(b"B" * 8, 8, False, ident=1), source=1) is None
    assert len(target) == 3
    whole = put(target, fragment(b"C" * 8, 8, False, ident=1))
    assert whole is not None
    assert whole[20:] == b"A" * 8 + b"C" * 8


def test_an_exact_repetition_is_ignored() -> None:
    target = Reassembler()
    first = fragment(b"A" * 8, 0, True)
    put(target, first)
    assert refused(target, first) == "duplicate"
    assert put(target, fragment(b"B" * 8, 8, False)) is not None


@pytest.mark.parametrize(
    "bad",
    [
        fragment(b"X" * 8, 16, True),  # the same place with other bytes
        fragment(b"X" * 16, 16, True),  # longer at the same place
        fragment(b"X" * 16, 8, True),  # into the next
        fragment(b"X" * 16, 24, True),  # out of the one before
        fragment(b"X" * 48, 0, True),  # around it
        fragment(b"X" * 8, 8, False),  # an end before what is there
        fragment(b"X" * 8, 24, False),  # an end within what is there
    ],
)
def test_overlaps_condemn_the_datagram_and_all_that_still_comes(bad: bytes) -> None:
    target = Reassembler()
    put(target, fragment(b"M" * 16, 16, True))
    assert refused(target, bad) == "overlap"
    assert target.held_bytes == 0
    assert refused(target, fragment(b"A" * 16, 0, True)) == "overlap"
    assert refused(target, fragment(b"M" * 16, 16, True)) == "overlap"
    assert refused(target, fragment(b"E" * 16, 32, False)) == "overlap"
    assert target.expire(REASSEMBLY_TIMEOUT) == [Expired(b"", LINK)]
    assert is_empty(target)


@pytest.mark.parametrize("bad", [fragment(b"X" * 8, 40, False), fragment(b"X" * 8, 40, True)])
def test_a_second_end_or_bytes_behind_the_end_condemn_it_too(bad: bytes) -> None:
    target = Reassembler()
    put(target, fragment(b"E" * 8, 16, False))
    assert refused(target, bad) == "overlap"


@pytest.mark.parametrize(
    "bad, reason",
    [
        (fragment(b"", 8, True), "bad_length"),
        (fragment(b"", 8, False), "bad_length"),
        (fragment(b"X" * 7, 0, True), "bad_length"),
        (fragment(b"X" * 9, 8, True), "bad_length"),
        (fragment(b"X" * 24, 65496, False), "too_long"),
        (fragment(b"X" * 1480, 65528, False), "too_long"),
    ],
)
def test_impossible_fragments_have_a_reason_and_start_nothing(bad: bytes, reason: str) -> None:
    target = Reassembler()
    assert refused(target, bad) == reason
    assert is_empty(target)


def test_options_of_the_first_fragment_cannot_make_the_packet_too_long() -> None:
    target = Reassembler(max_fragments=200)
    pieces = cut(bytes(65515), [800] * 20)
    for piece in pieces[1:]:
        put(target, piece)
    assert refused(target, fragment(bytes(6400), 0, True, options=b"\x01" * 4)) == "too_long"
    assert is_empty(target)


def test_a_datagram_not_whole_in_time_is_given_up_with_its_first_fragment() -> None:
    target = Reassembler()
    first = fragment(b"A" * 8, 0, True, ident=1)
    put(target, first, 100.0)
    put(target, fragment(b"B" * 8, 8, True, ident=1), 110.0)
    put(target, fragment(b"B" * 8, 8, True, ident=2), 120.0)
    assert target.deadline() == 100.0 + REASSEMBLY_TIMEOUT
    assert target.expire(129.9) == []
    assert target.expire(130.0) == [Expired(first, LINK)]
    assert target.expire(150.0) == [Expired(b"", LINK)]
    assert is_empty(target)


def test_a_datagram_in_too_many_pieces_is_condemned() -> None:
    target = Reassembler(max_fragments=4)
    for n in range(4):
        put(target, fragment(b"A" * 8, n * 8, True))
    assert refused(target, fragment(b"A" * 8, 32, False)) == "too_many"
    assert target.held_bytes == 0


def test_a_source_at_its_bound_loses_its_oldest_datagram_and_nobody_elses() -> None:
    target = Reassembler(max_datagrams_per_source=3)
    put(target, fragment(b"A" * 8, 0, True, ident=1), 0.0, source=1)
    for ident in range(10):
        put(target, fragment(b"A" * 8, 0, True, ident=ident), 1.0)
    assert (len(target), target.evicted) == (4, 7)
    assert put(target, fragment(b"B" * 8, 8, False, ident=1), 2.0, source=1) is not None
    assert put(target, fragment(b"B" * 8, 8, False, ident=9), 2.0) is not None
    assert put(target, fragment(b"B" * 8, 8, False, ident=0), 2.0) is None


def test_a_full_table_takes_from_the_newcomer_first() -> None:
    target = Reassembler(max_datagrams=3)
    put(target, fragment(b"A" * 8, 0, True, ident=1), 0.0, source=1)
    for ident in (1, 2, 3):
        put(target, fragment(b"A" * 8, 0, True, ident=ident), 1.0)
    assert (len(target), target.evicted) == (3, 1)
    assert put(target, fragment(b"B" * 8, 8, False, ident=1), 2.0, source=1) is not None
    put(target, fragment(b"A" * 8, 0, True, ident=4), 3.0, source=2)
    put(target, fragment(b"A" * 8, 0, True, ident=5), 3.0, source=3)
    assert len(target) == 3


def test_bytes_are_bounded_for_each_source_and_overall() -> None:
    piece = 1000 + FRAGMENT_OVERHEAD
    target = Reassembler(max_bytes_per_source=3 * piece, max_bytes=4 * piece)
    for ident in range(10):
        put(target, fragment(b"A" * 1000, 0, True, ident=ident))
        assert target.held_bytes <= 3 * piece
    put(target, fragment(b"A" * 1000, 0, True, ident=1), source=1)
    put(target, fragment(b"A" * 1000, 0, True, ident=2), source=1)
    assert target.held_bytes == 4 * piece
    assert target.evicted == 8


def test_sources_that_fill_the_table_leave_datagrams_to_the_next_one() -> None:
    target = Reassembler(max_datagrams=8, max_datagrams_per_source=4)
    for source in (1, 2):
        for ident in range(4):
            put(target, fragment(b"A" * 8, 0, True, ident=ident), 0.0, source=source)
    for ident in range(3):
        put(target, fragment(b"A" * 8, 0, True, ident=ident), 1.0, source=3)
    assert (len(target), target.evicted) == (8, 3)
    wholes = [put(target, fragment(b"B" * 8, 8, False, ident=ident), 2.0, source=3) for ident in range(3)]
    assert None not in wholes


def test_sources_that_fill_the_memory_leave_bytes_to_the_next_one() -> None:
    piece = 1000 + FRAGMENT_OVERHEAD
    target = Reassembler(max_bytes_per_source=4 * piece, max_bytes=8 * piece)
    for source in (1, 2):
        for ident in range(4):
            put(target, fragment(b"A" * 1000, 0, True, ident=ident), 0.0, source=source)
    for ident in range(3):
        put(target, fragment(b"A" * 1000, 0, True, ident=ident), 1.0, source=3)
    assert (target.held_bytes, target.evicted) == (8 * piece, 3)
    wholes = [put(target, fragment(b"B" * 1000, 1000, False, ident=n), 2.0, source=3) for n in range(3)]
    assert None not in wholes


def test_a_source_that_goes_takes_what_it_began_along() -> None:
    target = Reassembler()
    put(target, fragment(b"A" * 8, 0, True, ident=1))
    put(target, fragment(b"A" * 8, 0, True, ident=2))
    put(target, fragment(b"A" * 8, 0, True, ident=1), source=1)
    target.forget(LINK)
    target.forget(LINK)
    assert len(target) == 1
    target.forget(1)
    assert is_empty(target)


PIECES = st.lists(
    st.tuples(
        st.integers(0, 8),
        st.integers(0, 24),
        st.booleans(),
        st.integers(0, 3),
        st.integers(0, 1),
        st.floats(0, 9),
    ),
    max_size=50,
)


@settings(max_examples=150)
@given(PIECES)
def test_hostile_fragments_never_cross_a_bound_and_what_becomes_whole_is_sound(
    pieces: list[tuple[int, int, bool, int, int, float]],
) -> None:
    target = Reassembler(20.0, 5, 3, 1200, 800, 6)
    now = 0.0
    for slot, length, more, ident, source, wait in pieces:
        now += wait
        data = fragment(bytes((slot,)) * length, slot * 8, more, ident)
        whole = parsed(put, target, data, now, source)
        if whole is not None:
            assert ipv4.parse(whole, 0, len(whole)).total_len == len(whole)
            # Every byte says in which slot its fragment began: they must not go backwards.
            assert list(whole[20:]) == sorted(whole[20:])
        if target.deadline() <= now:
            target.expire(now)
        assert target.deadline() > now
        assert len(target) <= 5
        assert 0 <= target.held_bytes <= 1200
    target.expire(now + 20.0)
    assert is_empty(target)
