"""The virtio-net header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import virtio_net as vnet
from pipeline.wire.errors import WireError
from tests.support.fuzz import parsed, windows

FRAME = 100

headers = st.builds(
    vnet.Header,
    st.integers(0, 7),
    st.sampled_from([vnet.GSO_NONE, vnet.GSO_TCPV4, vnet.GSO_UDP, vnet.GSO_TCPV6, vnet.GSO_UDP_L4, 0x81]),
    st.integers(0, FRAME),
    st.integers(1, 0xFFFF),
    st.integers(0, 80),
    st.integers(0, 18),
    st.just(0),
)


@given(headers, st.integers(0, 0xFFFF))
def test_parse_gives_back_what_was_built(header: vnet.Header, num_buffers: int) -> None:
    short = b"-" + vnet.build(header) + bytes(FRAME)
    assert vnet.parse(memoryview(short), 1, len(short)) == header
    header = header._replace(num_buffers=num_buffers)
    long = vnet.build(header, vnet.LONG_LEN) + bytes(FRAME)
    assert len(long) == vnet.LONG_LEN + FRAME
    assert vnet.parse(long, 0, len(long), vnet.LONG_LEN) == header


def test_fields_are_little_endian() -> None:
    header = vnet.Header(vnet.NEEDS_CSUM, vnet.GSO_TCPV4, 54, 1460, 34, 16)
    assert vnet.build(header).hex() == "01013600b40522001000"


@given(windows(60), st.sampled_from([vnet.SHORT_LEN, vnet.LONG_LEN]))
def test_any_bytes_are_a_header_or_refused_by_name(window: tuple[memoryview, int, int], length: int) -> None:
    view, off, end = window
    header = parsed(vnet.parse, view, off, end, length)
    if header is not None and header.flags & vnet.NEEDS_CSUM:
        assert header.csum_start + header.csum_offset + 2 <= end - off - length


@pytest.mark.parametrize(
    "header",
    [
        vnet.Header(gso_type=2, gso_size=10),
        vnet.Header(gso_type=6, gso_size=10),
        vnet.Header(gso_type=vnet.GSO_TCPV4, gso_size=0),
        vnet.Header(gso_type=vnet.GSO_TCPV4, gso_size=10, hdr_len=FRAME + 1),
        vnet.Header(flags=vnet.NEEDS_CSUM, csum_start=FRAME - 1),
        vnet.Header(flags=vnet.NEEDS_CSUM, csum_start=0xFFFF, csum_offset=0xFFFF),
    ],
)
def test_headers_that_lie_are_refused(header: vnet.Header) -> None:
    with pytest.raises(WireError, match="link_frame_dropped_bad_vnet_header"):
        vnet.parse(vnet.build(header) + bytes(FRAME), 0, vnet.SHORT_LEN + FRAME)


def test_a_header_cut_short_is_refused() -> None:
    with pytest.raises(WireError):
        vnet.parse(bytes(9), 0, 9)
    with pytest.raises(WireError):
        vnet.parse(bytes(11), 0, 11, vnet.LONG_LEN)
