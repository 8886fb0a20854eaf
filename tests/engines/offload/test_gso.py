"""GSO makes the bytes that a plain writer makes, one frame at a time, with the readable wire modules."""

import random
from struct import Struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.offload.gro import coalesce
from pipeline.engines.offload.gso import Segmenter
from pipeline.records.tcp import TcpRange
from pipeline.wire import checksum, ethernet, framing, offload, tcp, tcp_options, virtio_net
from tests.support.frames import FAMILIES, Family, timestamps
from tests.support.ranges import IPV4, cut

DATA = random.Random(3).randbytes(80000)


def plain(
    payload: bytes,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    options: bytes,
    mss: int,
    ident: int,
    family: Family = IPV4,
) -> list[bytes]:
    """The frames of a range, written one by one."""
    frames = []
    begins = range(0, len(payload), mss) if payload else (0,)
    for number, begin in enumerate(begins):
        last = begin == begins[-1]
        numbered = {"ident": (ident + number) % 65536} if family is IPV4 else {}
        frames.append(
            family.tcp_frame(
                (seq + begin) % 2**32, payload[begin : begin + mss], ack=ack, wnd=window, options=options,
                flags=flags if last else flags & ~(tcp.PSH | tcp.FIN), sport=80, dport=40000,
                src=family.remote, dst=family.guest, eth_header=family.to_guest, **numbered,
            )
        )  # fmt: skip
    return frames


OPTIONS = st.sampled_from([b"", timestamps(), tcp_options.build(True, 5, 6, ((1, 2), (3, 4), (5, 6)))])
RANGES = st.fixed_dictionaries(
    {
        "seq": st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 9000, 2**32 - 1)),
        "ack": st.integers(0, 2**32 - 1),
        "flags": st.sampled_from(
            [tcp.ACK, tcp.ACK | tcp.PSH, tcp.ACK | tcp.FIN, tcp.ACK | tcp.PSH | tcp.FIN]
        ),
        "window": st.integers(0, 65535),
        "options": OPTIONS,
        "mss": st.sampled_from([1, 2, 3, 100, 101, 1448, 1460, 9001, 65480]),
        "ident": st.sampled_from([0, 1, 65500, 65535]),
        "family": st.sampled_from([*FAMILIES.values()]),
    }
)
LENGTHS = st.one_of(st.integers(0, 300), st.integers(0, 20000))


def payload_at(data: bytes, off: int, length: int, mss: int) -> memoryview:
    return memoryview(data)[off : off + min(length, mss * 300)]


@given(
    fields=RANGES, length=LENGTHS, off=st.integers(0, 5), prefix=st.sampled_from([framing.QEMU, framing.LE16])
)
@settings(max_examples=300, deadline=None)
def test_a_stream_gets_the_plain_writers_bytes(
    fields: dict[str, Any], length: int, off: int, prefix: framing.Framing
) -> None:
    payload = payload_at(DATA, off, length, fields["mss"])
    segmenter = Segmenter(prefix, scratch_bytes=1 << 16)
    sent = b"".join(cut(segmenter, payload, **fields))
    frames = plain(bytes(payload), **fields)
    assert sent == b"".join(prefix.prefix.pack(len(frame)) + frame for frame in frames)
    assert segmenter.frame_count == len(frames)
    assert segmenter.frame_bytes == sum(map(len, frames))


@given(fields=RANGES, length=LENGTHS, off=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_a_datagram_link_gets_one_buffer_a_frame(fields: dict[str, Any], length: int, off: int) -> None:
    payload = payload_at(DATA, off, length, fields["mss"])
    buffers = cut(Segmenter(None), payload, **fields)
    assert list(map(bytes, buffers)) == plain(bytes(payload), **fields)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
@pytest.mark.parametrize("mss", [1448, 1447, 65475])
def test_payloads_of_one_value_have_the_right_zero_in_the_checksum(
    fill: bytes, mss: int, family: Family
) -> None:
    for ident in range(0, 65536, 4099):
        fields = (7, 9, tcp.ACK, 1, b"", mss, ident, family)
        payload = fill * 65536
        sent = cut(Segmenter(None), payload, *fields)
        assert list(map(bytes, sent)) == plain(payload, *fields)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_checksum_value_is_the_plain_one(family: Family) -> None:
    """Both zeros of ones' complement included: the window runs through all values."""
    segmenter = Segmenter(None)
    payload = memoryview(DATA)[:400]
    for window in range(0, 65536, 7):
        fields = (7, 9, tcp.ACK, window, b"", 100, window, family)
        assert list(map(bytes, cut(segmenter, payload, *fields))) == plain(bytes(payload), *fields)
        segmenter.reset()


def unpack_virtio(sent: bytes, vnet_len: int, prefix: Struct) -> list[tuple[virtio_net.Header, bytes]]:
    frames = []
    while sent:
        (length,) = prefix.unpack_from(sent)
        begin = prefix.size
        header = virtio_net.parse(sent, begin, begin + length, vnet_len)
        frames.append((header, sent[begin + vnet_len : begin + length]))
        sent = sent[begin + length :]
    return frames


def complete(header: virtio_net.Header, frame: bytes) -> bytes:
    """What a driver does with NEEDS_CSUM: sum from csum_start on, write the field."""
    assert header.flags == virtio_net.NEEDS_CSUM
    field = header.csum_start + header.csum_offset
    value = checksum.checksum(frame[header.csum_start :])
    return frame[:field] + value.to_bytes(2, "big") + frame[field + 2 :]


@given(fields=RANGES, length=st.integers(0, 65600), vnet_len=st.sampled_from([10, 12]))
@settings(max_examples=80, deadline=None)
def test_a_virtio_peer_gets_big_frames_that_it_can_finish(
    fields: dict[str, Any], length: int, vnet_len: int
) -> None:
    fields["mss"] = max(fields["mss"], 100)
    payload = memoryview(DATA)[:length]
    segmenter = Segmenter(framing.QEMU, vnet_len)
    sent = b"".join(cut(segmenter, payload, **fields))
    frames = unpack_virtio(sent, vnet_len, framing.QEMU.prefix)
    mss, options = fields["mss"], fields["options"]
    family = fields["family"]
    most = 65535 + ethernet.HEADER_LEN - family.tcp_len - len(options)
    room = most // mss * mss if mss <= most else most
    gso_type = virtio_net.GSO_TCPV4 if family is IPV4 else virtio_net.GSO_TCPV6
    assert [complete(*frame) for frame in frames] == plain(bytes(payload), **{**fields, "mss": room})
    for header, frame in frames:
        big = len(frame) - header.hdr_len > mss
        assert (header.gso_type, header.gso_size) == ((gso_type, mss) if big else (0, 0))
        assert header.hdr_len == family.tcp_len + len(options)
        assert (header.csum_start, header.csum_offset) == (family.l4_off, 16)


@given(fields=RANGES, length=LENGTHS, vnet_len=st.sampled_from([10, 12]))
@settings(max_examples=80, deadline=None)
def test_a_virtio_peer_that_takes_nothing_gets_the_plain_writers_frames(
    fields: dict[str, Any], length: int, vnet_len: int
) -> None:
    payload = payload_at(DATA, 0, length, fields["mss"])
    sent = b"".join(cut(Segmenter(framing.QEMU, vnet_len, 0), payload, **fields))
    frames = unpack_virtio(sent, vnet_len, framing.QEMU.prefix)
    assert [header for header, _ in frames] == [virtio_net.Header()] * len(frames)
    assert [frame for _, frame in frames] == plain(bytes(payload), **fields)


@given(fields=RANGES, length=LENGTHS)
@settings(max_examples=80, deadline=None)
def test_a_virtio_peer_without_tso_completes_checksums_alone(fields: dict[str, Any], length: int) -> None:
    payload = payload_at(DATA, 0, length, fields["mss"])
    sent = b"".join(cut(Segmenter(framing.QEMU, 12, offload.CSUM), payload, **fields))
    frames = unpack_virtio(sent, 12, framing.QEMU.prefix)
    assert {header.gso_type for header, _ in frames} == {virtio_net.GSO_NONE}
    finished = [complete(*frame) if frame[0].flags else frame[1] for frame in frames]
    assert finished == plain(bytes(payload), **fields)


def test_a_guest_takes_the_types_of_frames_that_were_agreed_on() -> None:
    types = (virtio_net.GSO_NONE, virtio_net.GSO_TCPV4, virtio_net.GSO_TCPV6, virtio_net.GSO_UDP_L4)
    full = Segmenter(framing.QEMU, 12)
    assert [full.takes(kind) for kind in types] == [True, True, True, False]
    only4 = Segmenter(framing.QEMU, 12, offload.CSUM | offload.TSO4)
    assert [only4.takes(kind) for kind in types] == [True, True, False, False]
    for nothing in (Segmenter(framing.QEMU, 12, offload.TSO4), Segmenter(framing.QEMU)):
        assert not any(nothing.takes(kind) for kind in types)


def test_one_segment_is_not_copied() -> None:
    payload = memoryview(bytearray(1448))
    head, body = cut(Segmenter(framing.QEMU), payload, 1, 2, tcp.ACK, 3, b"", 1460, 0)
    assert len(head) == 58
    assert body is payload or body.obj is payload.obj


def test_several_ranges_stand_side_by_side_until_reset() -> None:
    segmenter = Segmenter(framing.LE16, scratch_bytes=100_000)
    made, wanted = [], []
    for number in range(4):
        payload = DATA[number * 1000 :][:43440]
        fields = (number, 9, tcp.ACK, 1, b"", 1448, number)
        made.append(cut(segmenter, payload, *fields))
        wanted.append(plain(payload, *fields))
    for buffers, frames in zip(made, wanted, strict=True):
        assert b"".join(buffers) == b"".join(len(frame).to_bytes(2, "little") + frame for frame in frames)
    segmenter.reset()
    again = cut(segmenter, DATA[:43440], 0, 9, tcp.ACK, 1, b"", 1448, 0)
    assert b"".join(again) == b"".join(len(frame).to_bytes(2, "little") + frame for frame in wanted[0])


def test_a_segment_size_that_the_framing_cannot_carry_is_clamped() -> None:
    sent = b"".join(cut(Segmenter(framing.LE16), DATA[:65495], 0, 9, tcp.ACK, 1, b"", 65495, 0))
    first = int.from_bytes(sent[:2], "little")
    assert first == 65535
    assert 2 + first + 2 + 54 + (65495 - (65535 - 54)) == len(sent)


def test_whole_frames_get_their_prefix() -> None:
    frame = memoryview(DATA)[:1000]
    assert b"".join(Segmenter(framing.QEMU).frame(frame)) == (1000).to_bytes(4, "big") + frame
    assert b"".join(Segmenter(framing.LE16).frame(frame[:42])) == b"\x2a\0" + frame[:42]
    assert Segmenter(None).frame(frame) == [frame]
    assert b"".join(Segmenter(framing.QEMU, 12).frame(frame)) == (1012).to_bytes(4, "big") + bytes(12) + frame
    with pytest.raises(ValueError, match="does not fit"):
        Segmenter(framing.LE16).frame(memoryview(DATA)[:65536])


def test_an_impossible_virtio_header_length_is_refused() -> None:
    with pytest.raises(ValueError, match="11 bytes"):
        Segmenter(framing.QEMU, 11)


def test_what_gso_cuts_gro_joins() -> None:
    segmenter = Segmenter(framing.QEMU)
    payload = memoryview(DATA)[:63712]
    sent = b"".join(cut(segmenter, payload, 2**32 - 5, 9, tcp.ACK | tcp.PSH, 1, timestamps(), 1448, 65530))
    places, _ = framing.split(sent, 0, len(sent), framing.QEMU)
    assert len(places) == 44
    (run,), drops = coalesce(memoryview(sent), places)
    assert not drops
    assert isinstance(run, TcpRange)
    assert (run.flags, run.stride, run.piece_size, run.length) == (0x18, 1518, 1448, 63712)
    assert (run.segments, run.seq) == (44, 2**32 - 5)
    assert run.off == 4 + ethernet.HEADER_LEN + 20 + 32
