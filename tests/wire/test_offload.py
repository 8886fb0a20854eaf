"""Records of the offload extension, and the choice of a version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import framing, offload
from pipeline.wire.ethernet import HEADER_LEN
from pipeline.wire.framing import LE16


@given(st.integers(0, 255), st.integers(0, 0xFFFFFFFF), st.integers(0, 255), st.integers(0, 255))
def test_parse_gives_back_what_was_built(kind: int, features: int, version: int, vnet_len: int) -> None:
    data = b"-" + offload.build(kind, features, version, vnet_len)
    (where,), end = framing.split(data, 1, len(data), LE16)
    assert end == len(data)
    assert offload.parse(data, *where) == offload.Record(kind, version, vnet_len, features)


def test_a_record_on_the_stream_is_what_the_documentation_shows() -> None:
    data = offload.build(offload.OFFER, offload.CSUM | offload.TSO4)
    assert data.hex() == "0c00" + b"GVTO".hex() + "01010c00" + "03000000"


def test_a_record_is_too_short_to_be_an_ethernet_frame() -> None:
    assert offload.RECORD_LEN < HEADER_LEN


@given(st.binary(max_size=40), st.integers(0, 40), st.integers(0, 20))
def test_any_other_bytes_are_no_record(data: bytes, off: int, length: int) -> None:
    record = offload.parse(data, off, length)
    assert record is None or data[off : off + 4] == b"GVTO"


@pytest.mark.parametrize(
    "value, version",
    [
        ("1", 1),
        (" 1 ", 1),
        ("2, 1", 1),
        ("1;later=yes", 1),
        ("2", 0),
        ("", 0),
        ("one", 0),
        ("11", 0),
        ("-1", 0),
        (",,;", 0),
    ],
)
def test_the_version_both_know_is_chosen(value: str, version: int) -> None:
    assert offload.choose(value) == version


def test_the_largest_packet_fits_the_framing() -> None:
    assert offload.FRAMING.max >= offload.VNET_LEN + HEADER_LEN + 0xFFFF
