"""Cutting super-segments: byte for byte the frames that a sender without offload would have sent."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.offload import tso
from pipeline.wire import checksum, ethernet, ipv4, tcp, udp
from pipeline.wire.virtio_net import GSO_TCPV4
from tests.support.frames import tcp_frame, timestamps
from tests.support.offload import super_datagram, super_segment, super_segment_v6

FLAGS = st.sampled_from(
    [tcp.ACK, tcp.ACK | tcp.PSH, tcp.ACK | tcp.FIN | tcp.PSH, tcp.ACK | tcp.CWR | tcp.ECE]
)


@given(
    length=st.integers(1, 20000),
    gso_size=st.integers(48, 9000),
    flags=FLAGS,
    options=st.sampled_from([b"", timestamps()]),
    seq=st.integers(0xFFFFFFFF - 9000, 0xFFFFFFFF) | st.integers(0, 9000),
    ident=st.integers(0, 0xFFFF),
)
@settings(deadline=None, max_examples=80)
def test_segments_are_what_a_plain_sender_makes(
    length: int, gso_size: int, flags: int, options: bytes, seq: int, ident: int
) -> None:
    payload = bytes(range(251)) * (length // 251 + 1)
    payload = payload[:length]
    header, frame = super_segment(seq, payload, gso_size, flags=flags, options=options, ident=ident)
    header = header._replace(gso_type=GSO_TCPV4, gso_size=gso_size)
    count = -(-length // gso_size)
    expected = []
    for number in range(count):
        drop = (tcp.PSH | tcp.FIN if number < count - 1 else 0) | (tcp.CWR if number else 0)
        expected.append(
            tcp_frame(
                seq + number * gso_size & 0xFFFFFFFF,
                payload[number * gso_size : (number + 1) * gso_size],
                flags=flags & ~drop,
                options=options,
                ident=ident + number & 0xFFFF,
            )
        )
    assert tso.cut(memoryview(frame), header) == expected


@given(length=st.integers(1, 9000), gso_size=st.integers(1, 3000))
@settings(deadline=None, max_examples=50)
def test_datagrams_have_their_own_lengths_and_checksums(length: int, gso_size: int) -> None:
    payload = bytes(range(256)) * (length // 256 + 1)
    payload = payload[:length]
    header, frame = super_datagram(payload, gso_size)
    found = b""
    for made in tso.cut(memoryview(frame), header):
        view = memoryview(made)
        packet = ipv4.parse(view, ethernet.HEADER_LEN, len(view))
        assert packet.total_len == len(view) - ethernet.HEADER_LEN
        begin = ethernet.HEADER_LEN + packet.ihl
        datagram = udp.parse(view, begin, len(view))
        udp.verify(view, begin, datagram, packet.src, packet.dst)
        assert datagram.length == len(view) - begin
        found += bytes(view[begin + udp.HEADER_LEN :])
        assert len(view) - begin - udp.HEADER_LEN <= gso_size
    assert found == payload


@pytest.mark.parametrize(
    "extension", [b"", bytes([6, 0, 1, 4, 0, 0, 0, 0])], ids=["plain", "extension header"]
)
def test_segments_over_ipv6_have_right_lengths_numbers_and_checksums(extension: bytes) -> None:
    payload = bytes(range(200)) * 31
    header, frame = super_segment_v6(77, payload, 1000, extension)
    frames = tso.cut(memoryview(frame), header)
    assert len(frames) == 7
    start = header.csum_start
    found = b""
    for number, made in enumerate(frames):
        assert int.from_bytes(made[18:20], "big") == len(made) - 54
        assert int.from_bytes(made[start + 4 : start + 8], "big") == 77 + number * 1000
        segment = bytes(made[start:])
        pseudo = bytes(made[22:54]) + len(segment).to_bytes(4, "big") + bytes((0, 0, 0, 6))
        assert checksum.checksum(pseudo + segment) in (0, 0xFFFF)
        found += segment[20:]
    assert found == payload


@pytest.mark.parametrize("size", [0, 1, 2, 5, 511, 1448, 65000])
def test_a_completed_checksum_is_that_of_a_whole_frame(size: int) -> None:
    payload = bytes(range(1, 252)) * (size // 251 + 1)
    whole = tcp_frame(5, payload[:size])
    frame = bytearray(super_segment(5, payload[:size], 1)[1])
    tso.complete(frame, 34, 16)
    assert frame == whole


def test_a_sum_of_zero_is_written_as_all_ones() -> None:
    frame = bytearray(60)
    frame[40:42] = b"\xff\xff"
    tso.complete(frame, 34, 6)
    assert frame[40:42] == b"\xff\xff"
