"""The VXLAN header: what is sent, and what any bytes are read as."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import vxlan
from pipeline.wire.errors import WireError

VNIS = st.integers(0, vxlan.MAX_VNI)


def test_the_header_is_that_of_the_rfc() -> None:
    assert vxlan.build(7) == bytes.fromhex("0800000000000700")
    assert vxlan.build(0xABCDEF) == bytes.fromhex("08000000abcdef00")


@given(VNIS, st.binary(max_size=40), st.integers(0, 9))
def test_what_is_built_is_read(vni: int, frame: bytes, before: int) -> None:
    datagram = bytes(before) + vxlan.build(vni) + frame
    assert vxlan.parse(datagram, before, len(datagram)) == vni


@given(VNIS, st.binary(min_size=8, max_size=8))
def test_reserved_bits_are_ignored(vni: int, noise: bytes) -> None:
    reserved = bytes.fromhex("f7ffffff000000ff")
    header = bytes(a | (b & c) for a, b, c in zip(vxlan.build(vni), noise, reserved, strict=True))
    assert vxlan.parse(header, 0, 8) == vni


@given(st.binary(max_size=20), st.integers(-3, 30), st.integers(-3, 30))
def test_any_bytes_are_a_number_or_an_error(data: bytes, off: int, end: int) -> None:
    if off < 0 or end > len(data) or end - off < vxlan.HEADER_LEN:
        with pytest.raises(WireError, match="truncated"):
            vxlan.parse(data, off, end)
    elif not data[off] & 8:
        with pytest.raises(WireError, match="no_vni"):
            vxlan.parse(data, off, end)
    else:
        assert vxlan.parse(data, off, end) == int.from_bytes(data[off + 4 : off + 7], "big")


@pytest.mark.parametrize("vni", [-1, 1 << 24])
def test_a_number_of_more_than_24_bits_is_refused(vni: int) -> None:
    with pytest.raises(ValueError, match="no VNI"):
        vxlan.build(vni)
