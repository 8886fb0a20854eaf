"""Messages of vhost-user: what is read is what was built, and nothing impossible passes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import vhost_user as vu
from pipeline.wire.errors import WireError

U64 = st.integers(0, (1 << 64) - 1)
REGIONS = st.builds(
    vu.Region,
    st.integers(0, 1 << 62),
    st.integers(1, 1 << 62),
    st.integers(0, 1 << 62),
    st.integers(0, 1 << 62),
)
PARSERS = [
    vu.parse_u64,
    vu.parse_vring_state,
    vu.parse_vring_addr,
    vu.parse_memory_table,
    vu.parse_region,
    vu.parse_inflight,
]


def test_a_message_has_the_layout_of_the_specification() -> None:
    assert vu.build(2, struct.pack("<Q", 7)).hex() == "0200000001000000080000000700000000000000"
    assert vu.reply(1, b"")[4] == 5


@given(st.integers(0, 0xFFFFFFFF), st.binary(max_size=64), st.sampled_from([1, 9]))
def test_a_header_comes_back(request: int, payload: bytes, flags: int) -> None:
    data = vu.build(request, payload, flags)
    assert vu.parse_header(data[:12]) == (request, flags, len(payload))
    assert data[12:] == payload


@pytest.mark.parametrize("flags", [0, 2, 3, 5, 13])
def test_another_version_or_a_reply_is_refused(flags: int) -> None:
    with pytest.raises(WireError):
        vu.parse_header(vu.build(1, b"", flags)[:12])


def test_a_payload_may_have_no_more_than_its_limit() -> None:
    assert vu.parse_header(struct.pack("<III", 1, 1, vu.MAX_PAYLOAD)).size == vu.MAX_PAYLOAD
    with pytest.raises(WireError):
        vu.parse_header(struct.pack("<III", 1, 1, vu.MAX_PAYLOAD + 1))


@given(st.lists(REGIONS, min_size=1, max_size=8))
def test_a_table_of_memory_comes_back(regions: list[vu.Region]) -> None:
    assert vu.parse_memory_table(vu.build_memory_table(tuple(regions))) == tuple(regions)


@given(REGIONS)
def test_a_region_comes_back(region: vu.Region) -> None:
    assert vu.parse_region(vu.build_region(region)) == region


@pytest.mark.parametrize(
    "region",
    [(0, 0, 0, 0), ((1 << 64) - 1, 2, 0, 0), (0, 2, (1 << 64) - 1, 0), (0, (1 << 64) - 1, 0, 2)],
    ids=["empty", "guest address", "user address", "file"],
)
def test_a_region_that_is_empty_or_wraps_is_refused(region: tuple[int, int, int, int]) -> None:
    made = vu.Region(*region)
    with pytest.raises(WireError):
        vu.parse_region(vu.build_region(made))
    with pytest.raises(WireError):
        vu.parse_memory_table(vu.build_memory_table((made,)))


def test_a_region_may_end_where_addresses_end() -> None:
    region = vu.Region((1 << 64) - 4096, 4096, 0, 0)
    assert vu.parse_region(vu.build_region(region)) == region


@pytest.mark.parametrize("parse", PARSERS)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_a_payload_or_refused(parse: object, data: bytes) -> None:
    assert callable(parse)
    try:
        parse(data)
    except WireError as error:
        reason = error.reason
    else:
        return
    assert reason == "link_handshake_failed"
