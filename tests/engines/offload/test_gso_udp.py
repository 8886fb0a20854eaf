"""Datagrams for guests are the bytes that a plain writer makes, one frame at a time."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.offload import gro, tso
from pipeline.engines.offload.gso_udp import UdpSegmenter
from pipeline.records.flows import Ends
from pipeline.records.run import Run
from pipeline.records.udp import UdpRange
from pipeline.wire import framing, virtio_net
from tests.support.frames import FAMILIES, Family

DATA = memoryview(bytearray(random.Random(7).randbytes(80000)))
IPV4 = FAMILIES["IPv4"]
BOTH = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
FORMS = [framing.QEMU, framing.LE16, None]


def ends(family: Family) -> Ends:
    """The flow of all datagrams."""
    return Ends(family.guest, 40000, family.remote, 53)


def plain(off: int, stride: int, size: int, length: int, ident: int, family: Family = IPV4) -> list[bytes]:
    """The frames, written one by one."""
    frames = []
    for number in range(-(-length // size) if size else 1):
        part = min(size, length - number * size)
        payload = bytes(DATA[off + number * stride : off + number * stride + part])
        numbered = {"ident": (ident + number) & 0xFFFF, "ip_flags": 0} if family is IPV4 else {}
        frames.append(
            family.udp_frame(
                payload, sport=53, dport=40000, src=family.remote, dst=family.guest,
                eth_header=family.to_guest, **numbered,
            )
        )  # fmt: skip
    return frames


def made(
    segmenter: UdpSegmenter, off: int, stride: int, size: int, length: int, ident: int, family: Family = IPV4
) -> list[bytes]:
    """The buffers of the segmenter."""
    run = Run(0, off, length, stride, size)
    buffers = segmenter.datagrams(family.to_guest, ends(family), DATA, run, ident)
    return [bytes(buffer) for buffer in buffers]


RUNS = st.tuples(
    st.integers(0, 9), st.sampled_from([0, 1, 7, 100]), st.integers(1, 1472), st.integers(1, 30),
    st.integers(0, 1471), st.integers(0, 0xFFFF),
)  # fmt: skip


@given(RUNS, st.sampled_from(FORMS), st.sampled_from([*FAMILIES.values()]))
@settings(max_examples=300, deadline=None)
def test_a_run_gets_the_plain_writers_bytes(
    run: tuple[int, int, int, int, int, int], form: framing.Framing | None, family: Family
) -> None:
    off, gap, size, count, shorter, ident = run
    length = max(count * size - shorter % size, 1)
    frames = plain(off, size + gap, size, length, ident, family)
    segmenter = UdpSegmenter(form, scratch_bytes=1 << 14)
    buffers = made(segmenter, off, size + gap, size, length, ident, family)
    if form is None:
        assert buffers == frames
    else:
        assert b"".join(buffers) == b"".join(form.prefix.pack(len(frame)) + frame for frame in frames)
    assert segmenter.frame_count == len(frames)
    assert segmenter.frame_bytes == sum(map(len, frames))


@BOTH
@pytest.mark.parametrize("size", [0, 1, 511, 513, 1472, 20001, 65507 - 16, 65507])
def test_one_datagram_of_any_length(size: int, family: Family) -> None:
    segmenter = UdpSegmenter(framing.QEMU)
    frame = plain(3, 0, size, size, 9, family)[0]
    assert (
        b"".join(made(segmenter, 3, 0, size, size, 9, family)) == framing.QEMU.prefix.pack(len(frame)) + frame
    )


def test_the_longest_datagram_of_ipv6_is_sent() -> None:
    family = FAMILIES["IPv6"]
    (frame,) = plain(0, 0, 65527, 65527, 0, family)
    assert made(UdpSegmenter(None), 0, 0, 65527, 65527, 0, family) == [frame]


@BOTH
def test_a_checksum_that_comes_out_as_zero_is_sent_as_ones(family: Family) -> None:
    """Zero would mean that there is none (RFC 768)."""
    view = memoryview(bytearray(800))
    check_off = family.l4_off + 6
    # The two bytes that make one's sum come out as zero: its checksum before they were there.
    seed = family.udp_frame(bytes(100), sport=53, dport=40000, src=family.remote, dst=family.guest)
    for index in range(8):
        view[index * 100 : index * 100 + 2] = seed[check_off : check_off + 2]
    for count in (1, 8):
        run = Run(0, 0, 100 * count, 100, 100)
        buffers = UdpSegmenter(None).datagrams(family.to_guest, ends(family), view, run, 0)
        assert [bytes(buffer[check_off : check_off + 2]) for buffer in buffers] == [b"\xff\xff"] * count


@BOTH
@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize("vnet_len", [virtio_net.SHORT_LEN, virtio_net.LONG_LEN])
def test_a_guest_that_offloads_finishes_each_checksum(count: int, vnet_len: int, family: Family) -> None:
    segmenter = UdpSegmenter(framing.QEMU, vnet_len)
    sent = memoryview(b"".join(made(segmenter, 5, 120, 100, 100 * count, 65535, family)))
    places, _ = framing.split(sent, 0, len(sent), framing.QEMU)
    frames = []
    for off, length in places:
        flags, gso_type = sent[off], sent[off + 1]
        assert (flags, gso_type) == (virtio_net.NEEDS_CSUM, virtio_net.GSO_NONE)
        frame = bytearray(sent[off + vnet_len : off + length])
        header = virtio_net.parse(bytes(sent), off, off + length, vnet_len)
        assert (header.csum_start, header.csum_offset) == (family.l4_off, 6)
        tso.complete(frame, header.csum_start, header.csum_offset)
        frames.append(bytes(frame))
    assert frames == plain(5, 120, 100, 100 * count, 65535, family)
    assert segmenter.frame_bytes == sum(map(len, frames))


@BOTH
@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_virtio_peer_that_takes_nothing_gets_whole_checksums(count: int, family: Family) -> None:
    segmenter = UdpSegmenter(framing.QEMU, virtio_net.LONG_LEN, 0)
    sent = memoryview(b"".join(made(segmenter, 5, 120, 100, 100 * count, 65535, family)))
    places, _ = framing.split(sent, 0, len(sent), framing.QEMU)
    assert all(sent[off : off + 12] == bytes(12) for off, _ in places)
    frames = [bytes(sent[off + 12 : off + length]) for off, length in places]
    assert frames == plain(5, 120, 100, 100 * count, 65535, family)


def test_what_does_not_fit_the_framing_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        UdpSegmenter(framing.QEMU._replace(max=100)).datagrams(
            IPV4.to_guest, ends(IPV4), DATA, Run(0, 0, 500, 100, 100), 0
        )


def test_gro_takes_apart_what_was_put_together() -> None:
    sent = memoryview(b"".join(made(UdpSegmenter(framing.QEMU), 0, 200, 200, 200 * 30 - 150, 0)))
    places, _ = framing.split(sent, 0, len(sent), framing.QEMU)
    items, drops = gro.coalesce(sent, places)
    assert not drops
    (run,) = items
    assert isinstance(run, UdpRange)
    assert (run.piece_size, run.length, run.piece_count()) == (200, 200 * 30 - 150, 30)
    for index in range(29):
        assert sent[run.off + index * run.stride :][:200] == DATA[index * 200 : index * 200 + 200]
