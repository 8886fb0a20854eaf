"""Reassembly of fragments of both families, in good faith and in bad."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.counters import INDEX
from pipeline.engines.reassembly import FRAGMENT_OVERHEAD, Expired, Reassembler
from pipeline.wire import ipv4
from pipeline.wire.errors import WireError
from tests.support.fragments import (
    ENDS,
    FAMILIES,
    LINK,
    UDP,
    V4,
    V6,
    cut,
    ends_of,
    fragment_of,
    payload_of,
    piece_of,
    put,
)
from tests.support.fuzz import mutations, parsed

INF = float("inf")
Bad = tuple[bytes, int, bool]
LIFETIME = {V4: 30.0, V6: 60.0}
"""RFC 8200 section 4.5 says 60 seconds. RFC 1122 lets IPv4 have less."""
families = st.sampled_from(FAMILIES)
both = pytest.mark.parametrize("family", FAMILIES)


def refused(target: Reassembler, data: bytes, now: float = 0.0, source: int = LINK) -> str:
    with pytest.raises(WireError) as caught:
        put(target, data, now, source)
    assert caught.value.reason in INDEX
    family, _, cause = caught.value.reason.partition("_fragment_dropped_")
    assert family == f"ipv{data[0] >> 4}"
    return cause


def timeout(family: int) -> str:
    return f"ipv{family}_datagram_dropped_reassembly_timeout"


def evicted(target: Reassembler) -> int:
    return sum(target.evicted.values())


def is_empty(target: Reassembler) -> bool:
    return len(target) == 0 and target.held_bytes == 0 and target.deadline() == INF


@given(
    families,
    st.binary(min_size=9, max_size=400),
    st.lists(st.integers(1, 8), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_fragments_in_any_order_become_the_packet(
    family: int, payload: bytes, sizes: list[int], random: Random, repeated: bool
) -> None:
    target = Reassembler()
    pieces = cut(family, payload, sizes)
    random.shuffle(pieces)
    for piece in pieces[:-1]:
        assert put(target, piece) is None
        if repeated:
            assert refused(target, piece) == "duplicate"
    whole = put(target, pieces[-1])
    assert whole is not None
    assert payload_of(whole) == payload
    assert ends_of(whole) == (*ENDS[family], UDP)
    assert is_empty(target)


@given(
    families,
    st.binary(min_size=40, max_size=200),
    st.lists(st.integers(1, 4), min_size=2, max_size=10),
    st.randoms(use_true_random=False),
    st.integers(0, 9),
    st.integers(-1, 1),
)
def test_after_one_overlap_anywhere_the_packet_never_becomes_whole(
    family: int, payload: bytes, sizes: list[int], random: Random, when: int, longer: int
) -> None:
    target = Reassembler()
    pieces = cut(family, payload, sizes)
    random.shuffle(pieces)
    when %= len(pieces) - 1
    victim = piece_of(pieces[when], 0, len(pieces[when]))
    units = max(1, (victim.end - victim.begin) // 8 + longer)
    forged = fragment_of(family, b"\xa5" * 8 * units, victim.frag_off, True)
    if forged in pieces:
        return
    for piece in pieces[: when + 1]:
        assert put(target, piece) is None
    assert refused(target, forged) == "overlap"
    assert target.held_bytes == 0
    for piece in pieces:
        assert refused(target, piece) == "overlap"


def test_the_first_fragments_header_with_its_options_is_the_packets() -> None:
    target = Reassembler()
    assert put(target, fragment_of(V4, b"B" * 4, 8, False)) is None
    whole = put(target, fragment_of(V4, b"A" * 8, 0, True, head=b"\x94\x04\0\0"))
    assert whole is not None
    header = ipv4.parse(whole, 0, len(whole))
    assert (header.ihl, header.total_len) == (24, 36)
    assert whole[20:] == b"\x94\x04\0\0" + b"A" * 8 + b"B" * 4


@pytest.mark.parametrize(("family", "most"), [(V4, 65515), (V6, 65535)])
def test_the_longest_datagram_passes(family: int, most: int) -> None:
    payload = bytes(most)
    target = Reassembler()
    pieces = cut(family, payload, [181] * 60)
    assert len(pieces) == 46
    got = [put(target, piece) for piece in pieces]
    assert got[:-1] == [None] * 45
    assert got[-1] is not None
    assert payload_of(got[-1]) == payload


@both
def test_datagrams_that_differ_in_identifier_or_link_do_not_mix(family: int) -> None:
    target = Reassembler()
    assert put(target, fragment_of(family, b"A" * 8, 0, True, ident=1)) is None
    assert put(target, fragment_of(family, b"B" * 8, 8, False, ident=2)) is None
    assert put(target, fragment_of(family, b"B" * 8, 8, False, ident=1), source=1) is None
    assert len(target) == 3
    whole = put(target, fragment_of(family, b"C" * 8, 8, False, ident=1))
    assert whole is not None
    assert payload_of(whole) == b"A" * 8 + b"C" * 8


@both
def test_an_exact_repetition_is_ignored(family: int) -> None:
    target = Reassembler()
    first = fragment_of(family, b"A" * 8, 0, True)
    put(target, first)
    assert refused(target, first) == "duplicate"
    assert put(target, fragment_of(family, b"B" * 8, 8, False)) is not None


@both
@pytest.mark.parametrize(
    "bad",
    [
        (b"X" * 8, 16, True),  # the same place with other bytes
        (b"X" * 16, 16, True),  # longer at the same place
        (b"X" * 16, 8, True),  # into the next
        (b"X" * 16, 24, True),  # out of the one before
        (b"X" * 48, 0, True),  # around it
        (b"X" * 8, 8, False),  # an end before what is there
        (b"X" * 8, 24, False),  # an end within what is there
    ],
)
def test_overlaps_condemn_the_datagram_and_all_that_still_comes(family: int, bad: Bad) -> None:
    target = Reassembler()
    put(target, fragment_of(family, b"M" * 16, 16, True))
    assert refused(target, fragment_of(family, *bad)) == "overlap"
    assert target.held_bytes == 0
    assert refused(target, fragment_of(family, b"A" * 16, 0, True)) == "overlap"
    assert refused(target, fragment_of(family, b"M" * 16, 16, True)) == "overlap"
    assert refused(target, fragment_of(family, b"E" * 16, 32, False)) == "overlap"
    assert target.expire(LIFETIME[family]) == [Expired(b"", LINK, timeout(family))]
    assert is_empty(target)


@both
@pytest.mark.parametrize("bad", [(b"X" * 8, 40, False), (b"X" * 8, 40, True)])
def test_a_second_end_or_bytes_behind_the_end_condemn_it_too(family: int, bad: Bad) -> None:
    target = Reassembler()
    put(target, fragment_of(family, b"E" * 8, 16, False))
    assert refused(target, fragment_of(family, *bad)) == "overlap"


@both
@pytest.mark.parametrize(
    "bad, reason",
    [
        ((b"", 8, True), "bad_length"),
        ((b"", 8, False), "bad_length"),
        ((b"X" * 7, 0, True), "bad_length"),
        ((b"X" * 9, 8, True), "bad_length"),
        ((b"X" * 24, 65512, False), "too_long"),
        ((b"X" * 1480, 65528, False), "too_long"),
    ],
)
def test_impossible_fragments_have_a_reason_and_start_nothing(family: int, bad: Bad, reason: str) -> None:
    target = Reassembler()
    assert refused(target, fragment_of(family, *bad)) == reason
    assert is_empty(target)


@both
def test_a_longer_head_of_the_first_fragment_cannot_make_the_packet_too_long(family: int) -> None:
    target = Reassembler(max_fragments=200)
    pieces = cut(family, bytes(65515 if family == V4 else 65535), [800] * 20)
    for piece in pieces[1:]:
        put(target, piece)
    head = b"\x01" * 4 if family == V4 else bytes(7)
    assert refused(target, fragment_of(family, bytes(6400), 0, True, head=head)) == "too_long"
    assert is_empty(target)


@both
def test_a_datagram_not_whole_in_time_is_given_up_with_its_first_fragment(family: int) -> None:
    target = Reassembler()
    first = fragment_of(family, b"A" * 8, 0, True, ident=1)
    due = 100.0 + LIFETIME[family]
    put(target, first, 100.0)
    put(target, fragment_of(family, b"B" * 8, 8, True, ident=1), 110.0)
    put(target, fragment_of(family, b"B" * 8, 8, True, ident=2), 120.0)
    assert target.deadline() == due
    assert target.expire(due - 0.1) == []
    assert target.expire(due) == [Expired(first, LINK, timeout(family))]
    assert target.expire(due + 20.0) == [Expired(b"", LINK, timeout(family))]
    assert is_empty(target)


def test_each_family_has_its_time_to_live_and_the_next_deadline_is_the_earlier() -> None:
    target = Reassembler()
    put(target, fragment_of(V6, b"A" * 8, 0, True), 0.0)
    put(target, fragment_of(V4, b"A" * 8, 0, True), 20.0)
    assert target.deadline() == 50.0
    assert [expired.reason for expired in target.expire(50.0)] == [timeout(V4)]
    assert target.deadline() == 60.0
    assert [expired.reason for expired in target.expire(60.0)] == [timeout(V6)]
    assert is_empty(target)


def test_what_was_evicted_counts_for_its_family() -> None:
    target = Reassembler(max_datagrams_per_source=1)
    for family in (V6, V4, V6, V6):
        put(target, fragment_of(family, b"A" * 8, 0, True, ident=family))
        put(target, fragment_of(family, b"A" * 8, 0, True, ident=9))
    assert target.evicted == {
        "ipv4_datagram_dropped_reassembly_full": 2,
        "ipv6_datagram_dropped_reassembly_full": 5,
    }
    assert target.evicted.keys() <= INDEX.keys()


@both
def test_a_datagram_in_too_many_pieces_is_condemned(family: int) -> None:
    target = Reassembler(max_fragments=4)
    for n in range(4):
        put(target, fragment_of(family, b"A" * 8, n * 8, True))
    assert refused(target, fragment_of(family, b"A" * 8, 32, False)) == "too_many"
    assert target.held_bytes == 0


@both
def test_a_source_at_its_bound_loses_its_oldest_datagram_and_nobody_elses(family: int) -> None:
    target = Reassembler(max_datagrams_per_source=3)
    put(target, fragment_of(family, b"A" * 8, 0, True, ident=1), 0.0, source=1)
    for ident in range(10):
        put(target, fragment_of(family, b"A" * 8, 0, True, ident=ident), 1.0)
    assert (len(target), evicted(target)) == (4, 7)
    assert put(target, fragment_of(family, b"B" * 8, 8, False, ident=1), 2.0, source=1) is not None
    assert put(target, fragment_of(family, b"B" * 8, 8, False, ident=9), 2.0) is not None
    assert put(target, fragment_of(family, b"B" * 8, 8, False, ident=0), 2.0) is None


@both
def test_a_full_table_takes_from_the_newcomer_first(family: int) -> None:
    target = Reassembler(max_datagrams=3)
    put(target, fragment_of(family, b"A" * 8, 0, True, ident=1), 0.0, source=1)
    for ident in (1, 2, 3):
        put(target, fragment_of(family, b"A" * 8, 0, True, ident=ident), 1.0)
    assert (len(target), evicted(target)) == (3, 1)
    assert put(target, fragment_of(family, b"B" * 8, 8, False, ident=1), 2.0, source=1) is not None
    put(target, fragment_of(family, b"A" * 8, 0, True, ident=4), 3.0, source=2)
    put(target, fragment_of(family, b"A" * 8, 0, True, ident=5), 3.0, source=3)
    assert len(target) == 3


@both
def test_bytes_are_bounded_for_each_source_and_overall(family: int) -> None:
    piece = 1000 + FRAGMENT_OVERHEAD
    target = Reassembler(max_bytes_per_source=3 * piece, max_bytes=4 * piece)
    for ident in range(10):
        put(target, fragment_of(family, b"A" * 1000, 0, True, ident=ident))
        assert target.held_bytes <= 3 * piece
    put(target, fragment_of(family, b"A" * 1000, 0, True, ident=1), source=1)
    put(target, fragment_of(family, b"A" * 1000, 0, True, ident=2), source=1)
    assert target.held_bytes == 4 * piece
    assert evicted(target) == 8


@both
def test_sources_that_fill_the_table_leave_datagrams_to_the_next_one(family: int) -> None:
    target = Reassembler(max_datagrams=8, max_datagrams_per_source=4)
    for source in (1, 2):
        for ident in range(4):
            put(target, fragment_of(family, b"A" * 8, 0, True, ident=ident), 0.0, source=source)
    for ident in range(3):
        put(target, fragment_of(family, b"A" * 8, 0, True, ident=ident), 1.0, source=3)
    assert (len(target), evicted(target)) == (8, 3)
    wholes = [
        put(target, fragment_of(family, b"B" * 8, 8, False, ident=ident), 2.0, source=3) for ident in range(3)
    ]
    assert None not in wholes


@both
def test_sources_that_fill_the_memory_leave_bytes_to_the_next_one(family: int) -> None:
    piece = 1000 + FRAGMENT_OVERHEAD
    target = Reassembler(max_bytes_per_source=4 * piece, max_bytes=8 * piece)
    for source in (1, 2):
        for ident in range(4):
            put(target, fragment_of(family, b"A" * 1000, 0, True, ident=ident), 0.0, source=source)
    for ident in range(3):
        put(target, fragment_of(family, b"A" * 1000, 0, True, ident=ident), 1.0, source=3)
    assert (target.held_bytes, evicted(target)) == (8 * piece, 3)
    wholes = [
        put(target, fragment_of(family, b"B" * 1000, 1000, False, ident=n), 2.0, source=3) for n in range(3)
    ]
    assert None not in wholes


@both
def test_a_source_that_goes_takes_what_it_began_along(family: int) -> None:
    target = Reassembler()
    put(target, fragment_of(family, b"A" * 8, 0, True, ident=1))
    put(target, fragment_of(family, b"A" * 8, 0, True, ident=2))
    put(target, fragment_of(family, b"A" * 8, 0, True, ident=1), source=1)
    target.forget(LINK)
    target.forget(LINK)
    assert len(target) == 1
    target.forget(1)
    assert is_empty(target)


PIECES = st.lists(
    st.tuples(
        families,
        st.integers(0, 8),
        st.integers(0, 24),
        st.booleans(),
        st.integers(0, 3),
        st.integers(0, 1),
        st.floats(0, 20),
    ),
    max_size=50,
)


@settings(max_examples=150)
@given(PIECES)
def test_hostile_fragments_never_cross_a_bound_and_what_becomes_whole_is_sound(
    pieces: list[tuple[int, int, int, bool, int, int, float]],
) -> None:
    target = Reassembler(5, 3, 1200, 800, 6)
    now = 0.0
    for family, slot, length, more, ident, source, wait in pieces:
        now += wait
        data = fragment_of(family, bytes((slot,)) * length, slot * 8, more, ident)
        whole = parsed(put, target, data, now, source)
        if whole is not None:
            # Every byte says in which slot its fragment began: they must not go backwards.
            payload = payload_of(whole)
            assert list(payload) == sorted(payload)
            assert ends_of(whole) == (*ENDS[family], UDP)
        if target.deadline() <= now:
            target.expire(now)
        assert target.deadline() > now
        assert len(target) <= 5
        assert 0 <= target.held_bytes <= 1200
    target.expire(now + max(LIFETIME.values()))
    assert is_empty(target)


@settings(max_examples=100)
@given(families, st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_damaged_fragments_are_taken_or_refused_by_name(
    family: int, order: list[int], data: st.DataObject
) -> None:
    target = Reassembler()
    pieces = cut(family, bytes(range(48)), [1] * 5)
    for number in order:
        damaged = data.draw(mutations(pieces[number % len(pieces)]))
        if damaged:
            whole = parsed(put, target, damaged)
            assert whole is None or len(whole) <= 65575
    target.forget(LINK)
    assert is_empty(target)
