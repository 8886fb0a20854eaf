"""Frames of guests without a card: checksums are completed, and what is too long is cut as a card does it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.offload import stripped
from pipeline.engines.reassembly import Reassembler
from pipeline.wire import checksum, ethernet, fragment, ipv4, tcp, udp
from tests.support import tcp_segments
from tests.support.frames import FROM_GUEST, GUEST, REMOTE, tcp_frame, timestamps, udp_frame
from tests.support.offload import folded, ipv4_header, left_out

DATA = random.Random(14).randbytes(65000)
MTU = 1500
VLAN = bytes.fromhex("81000005")
SERVICE_AND_VLAN = bytes.fromhex("88a80007") + VLAN
ADDRESSES_V6 = bytes.fromhex("fd00" + "00" * 13 + "02" + "fd00" + "00" * 13 + "03")
OPTIONS = bytes.fromhex("94040000")
"""Router alert."""


def in_vlan(frame: bytes, tags: bytes = VLAN) -> bytes:
    """The frame with tags."""
    return frame[:12] + tags + frame[12:]


def frame_v6(proto: int, payload: bytes) -> bytes:
    """TCP or UDP over IPv6, with a right checksum."""
    if proto == ipv4.PROTO_TCP:
        head = bytearray(tcp_segments.header(40000, 80, 7, 1, tcp.ACK | tcp.PSH, 500))
        at = 16
    else:
        head = bytearray(udp.build(40000, 7000, udp.HEADER_LEN + len(payload)))
        at = 6
    length = len(head) + len(payload)
    pseudo = ADDRESSES_V6 + length.to_bytes(4, "big") + bytes((0, 0, 0, proto))
    head[at : at + 2] = (0xFFFF - folded(pseudo + head + payload + b"\0" * (length & 1))).to_bytes(2, "big")
    ip = bytes((0x60, 0, 0, 0)) + length.to_bytes(2, "big") + bytes((proto, 64)) + ADDRESSES_V6
    return FROM_GUEST[:12] + bytes.fromhex("86dd") + ip + head + payload


def with_options(proto: int, payload: bytes, options: bytes = OPTIONS) -> bytes:
    """The same over IPv4 behind IP options."""
    whole = tcp_frame(7, payload) if proto == ipv4.PROTO_TCP else udp_frame(payload)
    return FROM_GUEST + ipv4_header(len(whole) - 34, 9, proto, GUEST, REMOTE, options) + whole[34:]


def completed(frame: bytes) -> bytes:
    """What complete() makes of it, somewhere in a slot."""
    view = memoryview(bytearray(b"\xff" * 3 + frame + b"\xff" * 3))
    stripped.complete(view, 3, len(frame))
    assert bytes(view[:3]) == bytes(view[-3:]) == b"\xff" * 3
    return bytes(view[3:-3])


WHOLE = {
    "tcp": tcp_frame(7, DATA[:1001], options=timestamps()),
    "tcp, padded": tcp_frame(7, pad_to=60),
    "tcp of 64 KiB": tcp_frame(7, DATA[:64001]),
    "udp": udp_frame(DATA[:333]),
    "udp of 20 kB": udp_frame(DATA[:20000], ip_flags=0),
    "tcp, options": with_options(ipv4.PROTO_TCP, DATA[:100]),
    "udp, options": with_options(ipv4.PROTO_UDP, DATA[:100]),
    "tcp, IPv6": frame_v6(ipv4.PROTO_TCP, DATA[:64001]),
    "udp, IPv6": frame_v6(ipv4.PROTO_UDP, DATA[:777]),
    "tcp in a VLAN": in_vlan(tcp_frame(7, DATA[:100])),
    "udp in two": in_vlan(udp_frame(DATA[:100]), SERVICE_AND_VLAN),
}


def without(frame: bytes) -> bytes:
    """left_out() of a frame that may have tags."""
    bare = frame
    while bare[12:14] in (VLAN[:2], SERVICE_AND_VLAN[:2]):
        bare = bare[:12] + bare[16:]
    tags = frame[12 : 12 + len(frame) - len(bare)]
    made = left_out(bare)
    return made[:12] + tags + made[12:]


@pytest.mark.parametrize("frame", WHOLE.values(), ids=WHOLE.keys())
def test_a_checksum_that_was_left_out_is_put_in_place(frame: bytes) -> None:
    assert without(frame) != frame
    assert completed(without(frame)) == frame


@pytest.mark.parametrize("frame", WHOLE.values(), ids=WHOLE.keys())
def test_a_whole_frame_stays_as_it_is(frame: bytes) -> None:
    assert completed(frame) == frame


def test_any_other_checksum_stays_as_it_is() -> None:
    for frame in (left_out(tcp_frame(7, b"abc")), left_out(udp_frame(b"abc"))):
        at = 50 if frame[23] == ipv4.PROTO_TCP else 40
        for change in (1, 0x100, 0x8000):
            value = int.from_bytes(frame[at : at + 2], "big") ^ change
            wrong = frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]
            assert completed(wrong) == wrong


def test_a_datagram_without_a_checksum_a_fragment_and_other_protocols_stay_as_they_are() -> None:
    fragment = bytearray(left_out(udp_frame(b"abc" * 8)))
    fragment[20] = 0x20
    echo = bytearray(left_out(udp_frame(b"abc" * 8)))
    echo[23] = ipv4.PROTO_ICMP
    for frame in (udp_frame(b"abc", summed=False), bytes(fragment), bytes(echo)):
        assert completed(frame) == frame


def test_a_datagram_whose_checksum_is_zero_gets_all_ones() -> None:
    # The last two bytes are so chosen that the sum of the others has nothing left.
    payload = bytearray(b"x" * 10)
    payload[8:] = bytes(2)
    total = int.from_bytes(udp_frame(bytes(payload))[40:42], "big")
    payload[8:] = total.to_bytes(2, "big")
    frame = udp_frame(bytes(payload))
    assert frame[40:42] == b"\xff\xff"
    assert completed(left_out(frame)) == frame


# --- cutting ------------------------------------------------------------------------------


def cut(frame: bytes, mtu: int = MTU) -> list[bytes]:
    return [bytes(part) for part in stripped.cut(memoryview(frame), mtu, 77)]


@pytest.mark.parametrize("length", [1461, 2920, 2921, 65000])
def test_a_segment_longer_than_the_mtu_becomes_segments(length: int) -> None:
    begins = range(0, length, 1460)
    expected = [
        tcp_frame(
            7 + begin, DATA[begin : min(begin + 1460, length)], ident=9 + number,
            flags=tcp.ACK | (tcp.PSH | tcp.FIN if begin == begins[-1] else 0),
        )
        for number, begin in enumerate(begins)
    ]  # fmt: skip
    assert cut(tcp_frame(7, DATA[:length], ident=9, flags=tcp.ACK | tcp.PSH | tcp.FIN)) == expected


@pytest.mark.parametrize("tags", [b"", VLAN, SERVICE_AND_VLAN], ids=["plain", "VLAN", "two"])
@pytest.mark.parametrize("kind", ["v4", "options", "v6"])
@pytest.mark.parametrize("mtu", [576, 1500])
def test_segments_of_any_kind_fit_the_mtu_and_have_right_checksums(kind: str, tags: bytes, mtu: int) -> None:
    data = DATA[:60001]
    frame = {
        "v4": tcp_frame(7, data, options=timestamps()),
        "options": with_options(ipv4.PROTO_TCP, data),
        "v6": frame_v6(ipv4.PROTO_TCP, data),
    }[kind]
    parts = cut(in_vlan(frame, tags), mtu)
    found = b""
    for part in parts:
        assert part[12 : 12 + len(tags)] == tags
        bare = part[:12] + part[12 + len(tags) :]
        assert len(bare) <= mtu + 14
        start = 54 if kind == "v6" else 14 + (bare[14] & 15) * 4
        header = tcp.parse(bare, start, len(bare))
        assert header.seq == 7 + len(found)
        assert completed(left_out(bare)) == bare
        if kind != "v6":
            assert checksum.verify(bare[14:start])
        found += bare[start + header.header_len :]
    assert found == data


def test_a_segment_with_a_wrong_checksum_is_not_cut() -> None:
    for frame in (tcp_frame(7, DATA[:5000]), frame_v6(ipv4.PROTO_TCP, DATA[:5000])):
        wrong = frame[:-1] + bytes((frame[-1] ^ 1,))
        assert cut(wrong) == [wrong]


@pytest.mark.parametrize("summed", [True, False], ids=["summed", "without checksum"])
@pytest.mark.parametrize("options", [False, True], ids=["plain", "options"])
def test_a_datagram_longer_than_the_mtu_becomes_fragments(summed: bool, options: bool) -> None:
    if options:
        frame = with_options(ipv4.PROTO_UDP, DATA[:20000])
    else:
        frame = udp_frame(DATA[:20000], ident=9, ip_flags=0, summed=summed)
    parts = cut(frame)
    assert len(parts) == 14
    fragments = Reassembler()
    packet = None
    for part in parts:
        assert packet is None
        assert len(part) <= 1514
        assert part[:14] == FROM_GUEST
        piece = fragment.from_ipv4(14, ipv4.parse(part, 14, len(part)))
        packet = fragments.on_fragment(part, 14, piece, 0, 0.0)
    expected = bytearray(frame[14:])
    end = (frame[14] & 15) * 4
    # Fragments of a card have no DF.
    expected[6] = 0
    expected[10:12] = b"\0\0"
    expected[10:12] = checksum.checksum(bytes(expected[:end])).to_bytes(2, "big")
    assert packet == bytes(expected)


RECORD_ROUTE = bytes.fromhex("070704") + bytes(4)
SECURITY = bytes.fromhex("820b") + bytes(range(9))


@pytest.mark.parametrize(
    "options, copied",
    [
        (RECORD_ROUTE + b"\1", b""),
        (b"\1" + RECORD_ROUTE + OPTIONS, OPTIONS),
        (SECURITY + RECORD_ROUTE + b"\0\0", SECURITY + b"\0"),
        (OPTIONS + b"\0" + SECURITY, OPTIONS),
        (OPTIONS + b"\x82\x01" + bytes(2), OPTIONS),
        (OPTIONS + b"\1\1\1\x82", OPTIONS),
        (OPTIONS + b"\x82\x05\x00\x00", OPTIONS),
    ],
    ids=["none", "some", "padded", "after the end", "length 1", "no length", "too long"],
)
def test_an_option_without_the_copied_bit_is_in_the_first_fragment_only(
    options: bytes, copied: bytes
) -> None:
    frame = with_options(ipv4.PROTO_UDP, DATA[:5000], options)
    first, *others = cut(frame)
    assert first[34 : 34 + len(options)] == options
    payload = b""
    for part in (first, *others):
        header = ipv4.parse(part, 14, len(part))
        assert checksum.verify(part[14 : 14 + header.ihl])
        assert (header.total_len, header.frag_off) == (len(part) - 14, len(payload))
        assert len(part) <= 1514
        assert part is first or part[34 : 14 + header.ihl] == copied
        payload += part[14 + header.ihl :]
    assert payload == frame[34 + len(options) :]


def test_a_datagram_over_ipv6_becomes_fragments() -> None:
    frame = frame_v6(ipv4.PROTO_UDP, DATA[:20000])
    payload = b""
    parts = cut(frame)
    for part in parts:
        assert len(part) <= 1514
        assert part[:18] == frame[:18]
        assert int.from_bytes(part[18:20], "big") == len(part) - 54
        assert part[20:54] == b"\x2c" + frame[21:54]
        kind, off, ident = part[54], int.from_bytes(part[56:58], "big"), int.from_bytes(part[58:62], "big")
        assert (kind, off & ~7, ident) == (ipv4.PROTO_UDP, len(payload), 77)
        assert (off & 1) == (part is not parts[-1])
        payload += part[62:]
    assert payload == frame[54:]


def test_what_fits_or_cannot_be_cut_stays_as_it_is() -> None:
    padded = tcp_frame(7, DATA[:1400]).ljust(3000, b"\0")
    ping = bytearray(udp_frame(DATA[:5000]))
    ping[23] = ipv4.PROTO_ICMP
    fragment = bytearray(udp_frame(DATA[:5000]))
    fragment[20] = 0x20
    other = tcp_frame(7, DATA[:5000], eth_header=FROM_GUEST[:12] + b"\x88\xb5")
    for frame in (
        tcp_frame(7, DATA[:1460]),
        in_vlan(tcp_frame(7, DATA[:1460])),
        padded,
        ping,
        fragment,
        other,
    ):
        assert cut(bytes(frame)) == [bytes(frame)]


@given(st.data())
def test_whatever_the_bytes_are_nothing_is_raised(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from([left_out(f) if f[12] == 8 else f for f in WHOLE.values()])))
    for _ in range(data.draw(st.integers(0, 4))):
        frame[data.draw(st.integers(0, min(len(frame), 80) - 1))] = data.draw(st.integers(0, 255))
    frame = frame[: data.draw(st.integers(0, len(frame)))]
    after = completed(bytes(frame))
    assert len(after) == len(frame)
    assert sum(a != b for a, b in zip(after, frame, strict=True)) <= 2
    for part in cut(after, data.draw(st.sampled_from([576, 1500]))):
        assert len(part) >= min(len(frame), ethernet.HEADER_LEN)
