"""Length prefixes and what is said before the first frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import framing
from pipeline.wire.errors import WireError
from pipeline.wire.framing import LE16, QEMU, Framing
from tests.support.fuzz import parsed

framings = st.sampled_from([QEMU, LE16])
frame_lists = st.lists(st.binary(max_size=60), max_size=12)


def stream(frames: list[bytes], kind: Framing) -> bytes:
    return b"".join(framing.prefix(len(frame), kind) + frame for frame in frames)


@given(frame_lists, framings, st.integers(0, 3))
def test_split_finds_the_frames_that_were_sent(frames: list[bytes], kind: Framing, begin: int) -> None:
    data = bytes(begin) + stream(frames, kind)
    found, after = framing.split(memoryview(data), begin, len(data), kind)
    assert [data[off : off + length] for off, length in found] == frames
    assert after == len(data)


@given(frame_lists, framings, st.integers(0, 13))
def test_a_limit_is_where_the_next_split_goes_on(frames: list[bytes], kind: Framing, most: int) -> None:
    data = stream(frames, kind)
    found, after = framing.split(data, 0, len(data), kind, most)
    assert [data[off : off + length] for off, length in found] == frames[:most]
    rest, end = framing.split(data, after, len(data), kind)
    assert [data[off : off + length] for off, length in rest] == frames[most:]
    assert end == len(data)


@given(frame_lists, framings, st.integers(0, 2000))
def test_a_stream_cut_anywhere_yields_whole_frames_and_says_what_it_wants(
    frames: list[bytes], kind: Framing, cut: int
) -> None:
    data = stream(frames, kind)
    cut = min(cut, len(data))
    found, after = framing.split(data, 0, cut, kind)
    assert [data[off : off + length] for off, length in found] == frames[: len(found)]
    want = framing.need(data, after, cut, kind)
    if cut == after:
        assert want == 0
        return
    # Reading what is wanted, at most twice (prefix, then frame), gives exactly one more frame.
    for _ in range(2):
        cut += framing.need(data, after, cut, kind)
    found, rest = framing.split(data, after, cut, kind)
    assert (len(found), rest) == (1, cut)
    assert framing.need(data, rest, cut, kind) == 0


@given(st.binary(max_size=200), framings)
def test_any_bytes_are_split_within_their_bounds_or_refused_by_name(data: bytes, kind: Framing) -> None:
    got = parsed(framing.split, data, 0, len(data), kind)
    if got is not None:
        found, after = got
        position = 0
        for off, length in found:
            assert off == position + kind.prefix_len
            position = off + length
        assert position == after <= len(data)
        assert parsed(framing.need, data, after, len(data), kind) != 0 or after == len(data)


@pytest.mark.parametrize("announced", [framing.MAX_FRAME + 1, 0xFFFFFFFF])
def test_a_length_above_the_limit_ends_the_stream(announced: int) -> None:
    data = QEMU.prefix.pack(announced) + bytes(20)
    for judge in (framing.split, framing.need):
        with pytest.raises(WireError, match="link_frame_dropped_oversized"):
            judge(data, 0, len(data), QEMU)


def test_a_whole_frame_above_the_limit_ends_the_stream_too() -> None:
    data = QEMU.prefix.pack(framing.MAX_FRAME + 1) + bytes(framing.MAX_FRAME + 1)
    with pytest.raises(WireError, match="link_frame_dropped_oversized"):
        framing.split(data, 0, len(data), QEMU)


def test_the_longest_frame_passes() -> None:
    data = framing.prefix(framing.MAX_FRAME, QEMU) + bytes(framing.MAX_FRAME)
    assert framing.split(data, 0, len(data), QEMU) == ([(4, framing.MAX_FRAME)], len(data))
    assert framing.prefix(0xFFFF, LE16) == b"\xff\xff"


@pytest.mark.parametrize("kind, length", [(LE16, 0x10000), (QEMU, framing.MAX_FRAME + 1)])
def test_no_prefix_for_what_the_framing_cannot_say(kind: Framing, length: int) -> None:
    with pytest.raises(WireError, match="link_frame_dropped_oversized"):
        framing.prefix(length, kind)


def test_the_byte_order_of_the_prefixes() -> None:
    assert framing.prefix(0x5EA, QEMU) == bytes.fromhex("000005ea")
    assert framing.prefix(0x5EA, LE16) == bytes.fromhex("ea05")


def test_the_request_that_opens_a_connection() -> None:
    assert framing.connect_request() == b"POST /connect HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n"
    assert framing.connect_request(headers={"X-Offload": "tso4"}) == (
        b"POST /connect HTTP/1.1\r\nHost: \r\nX-Offload: tso4\r\nContent-Length: 0\r\n\r\n"
    )


@pytest.mark.parametrize(
    "path, host, headers",
    [
        ("connect", "", {}),
        ("/a b", "", {}),
        ("/a\r\nX: y", "", {}),
        ("/connect", "a\r\nX: y", {}),
        ("/connect", "", {"a": "b\nc"}),
        ("/connect", "", {"a b": "c"}),
        ("/connect", "", {"": "c"}),
    ],
)
def test_text_that_leaves_its_line_is_refused(path: str, host: str, headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="invalid"):
        framing.connect_request(path, host, headers)


UUID = "c3d68012-0208-11ea-9fd7-f2189899ab08"


def test_the_vpnkit_records_have_their_fixed_lengths() -> None:
    assert len(framing.vpnkit_hello()) == framing.VPNKIT_HELLO_LEN
    assert len(framing.vpnkit_command(UUID)) == framing.VPNKIT_COMMAND_LEN
    assert len(framing.vpnkit_reply(1500, bytes(6))) == framing.VPNKIT_REPLY_LEN


def test_the_vpnkit_reply_of_the_default_network() -> None:
    reply = framing.vpnkit_reply(1500, bytes.fromhex("5a94efe40cee"))
    assert reply.rstrip(b"\0").hex() == "01dc05ea055a94efe40cee"


@given(st.binary(max_size=40))
def test_a_hello_is_answered_with_itself(commit: bytes) -> None:
    hello = framing.vpnkit_hello(22, commit)
    assert hello[:9] == b"VMN3T\x16\0\0\0"
    assert framing.parse_vpnkit_hello(hello) == hello


def test_the_uuid_comes_back_from_a_command() -> None:
    assert framing.parse_vpnkit_command(framing.vpnkit_command(UUID)) == UUID


@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_refused_by_name(data: bytes) -> None:
    parsed(framing.parse_vpnkit_hello, data)
    parsed(framing.parse_vpnkit_command, data)
    parsed(framing.parse_vpnkit_hello, b"VMN3T" + data)
    parsed(framing.parse_vpnkit_command, b"\x01" + data)


def test_another_command_is_refused() -> None:
    with pytest.raises(WireError, match="link_handshake_failed"):
        framing.parse_vpnkit_command(b"\x02" + framing.vpnkit_command(UUID)[1:])
