"""The measuring NIC's TSO and LRO against a plain writer which makes one frame after the other."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.segmentation import (
    GSO_TCPV4,
    NEEDS_CSUM,
    PREFIX,
    VNET,
    VNET_HDR,
    complete_checksum,
    cut,
    merge,
)

MACS = bytes.fromhex("5a94efe40cdd5a94efe40cee")
SRC, DST = bytes([192, 168, 127, 2]), bytes([192, 168, 127, 254])
ACK, PSH, FIN, CWR = 0x10, 0x08, 0x01, 0x80


def internet_checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def frame(
    seq: int, payload: bytes, flags: int, options: bytes = b"", ident: int = 0, sum_tcp: bool = True
) -> bytes:
    tcp_len = 20 + len(options)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + tcp_len + len(payload), ident, 0x4000, 64, 6, 0) + SRC + DST
    ip = ip[:10] + struct.pack("!H", internet_checksum(ip)) + ip[12:]
    offset = tcp_len // 4 << 4
    tcp = struct.pack("!HHIIBBHHH", 40000, 5201, seq, 77, offset, flags, 1000, 0, 0) + options + payload
    pseudo = SRC + DST + struct.pack("!HH", 6, len(tcp))
    if sum_tcp:
        value = internet_checksum(pseudo + tcp)
    else:
        value = 0xFFFF - internet_checksum(pseudo)
    return MACS + b"\x08\x00" + ip + tcp[:16] + struct.pack("!H", value) + tcp[18:]


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack("!I", len(each)) + each for each in frames)


def checksums_equal(left: bytes, right: bytes) -> bool:
    """Equal, where the two forms of zero in the TCP checksum (last part of a framed frame) are one."""
    return left == right or left.replace(b"\xff\xff", b"\0\0") == right.replace(b"\xff\xff", b"\0\0")


@settings(max_examples=150, deadline=None)
@given(
    seq=st.integers(0, 2**32 - 1),
    ident=st.integers(0, 65535),
    payload=st.integers(2, 64000),
    gso_size=st.integers(64, 9000),
    flags=st.sampled_from([ACK, ACK | PSH, ACK | PSH | FIN, ACK | CWR, ACK | CWR | PSH]),
    options=st.sampled_from([b"", b"\x01\x01\x08\x0a" + bytes(range(8))]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_cut_super_segment_equals_frames_made_one_by_one(
    seq: int, ident: int, payload: int, gso_size: int, flags: int, options: bytes, seed: int
) -> None:
    body = np.random.default_rng(seed).integers(0, 256, payload, np.uint8).tobytes()
    whole = frame(seq, body, flags, options, ident)
    source = np.full(160_000, 0xEE, np.uint8)
    source[: len(whole)] = np.frombuffer(whole, np.uint8)
    out = np.full(3_000_000, 0xDD, np.uint8)

    end, stride = cut(source, len(whole), gso_size, out, 5)

    expected = b""
    for first in range(0, payload, gso_size):
        part = body[first : first + gso_size]
        part_flags = flags & ~(PSH | FIN | CWR)
        part_flags |= flags & CWR if first == 0 else 0
        part_flags |= flags & (PSH | FIN) if first + gso_size >= payload else 0
        index = first // gso_size
        expected += framed(frame((seq + first) % 2**32, part, part_flags, options, (ident + index) % 65536))
    assert checksums_equal(out[5:end].tobytes(), expected)
    assert stride == PREFIX + 54 + len(options) + gso_size


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 3000), fill=st.integers(0, 255), start=st.sampled_from([0, 14, 34]))
def test_a_completed_checksum_verifies(length: int, fill: int, start: int) -> None:
    data = bytearray((fill * i) & 0xFF for i in range(start + 8 + length))
    data[start + 6 : start + 8] = b"\x12\x34"
    partial = 0x1234
    complete_checksum(memoryview(data), start, 6)
    part = bytearray(data[start:])
    got = struct.unpack_from("!H", part, 6)[0]
    struct.pack_into("!H", part, 6, partial)
    assert got in (internet_checksum(bytes(part)), 0xFFFF)
    assert got == internet_checksum(bytes(part)) or internet_checksum(bytes(part)) == 0


def test_a_run_of_segments_becomes_one_write() -> None:
    body = bytes(i % 251 for i in range(10 * 1000 + 300))
    seq = 2**32 - 2500
    frames = [
        frame((seq + i) % 2**32, body[i : i + 1000], ACK, b"", i // 1000) for i in range(0, 10_000, 1000)
    ]
    frames.append(frame((seq + 10_000) % 2**32, body[10_000:], ACK | PSH))
    data = np.frombuffer(framed(*frames) + framed(b"x" * 60), np.uint8)

    merged = merge(data, 0, len(data), len(frames[0]))

    assert merged is not None
    parts, after = merged
    assert after == len(framed(*frames))
    written = b"".join(bytes(memoryview(part).cast("B")) for part in parts)
    assert VNET.unpack(written[:VNET_HDR]) == (NEEDS_CSUM, GSO_TCPV4, 54, 1000, 34, 16)
    assert checksums_equal(written[VNET_HDR:], frame(seq, body, ACK | PSH, sum_tcp=False))


def flow(change: int) -> list[bytes]:
    """Four segments; the third differs in what `change` names."""
    frames = [frame(100 + 500 * i, bytes([i]) * 500, ACK) for i in range(4)]
    third = bytearray(frames[2])
    third[change] ^= 1
    return [frames[0], frames[1], bytes(third), frames[3]]


@pytest.mark.parametrize("offset", [0, 6, 15, 22, 26, 30, 34, 37, 38, 41, 42, 45, 48, 49, 52])
def test_a_frame_that_differs_ends_the_run(offset: int) -> None:
    data = framed(*flow(offset))
    merged = merge(np.frombuffer(data, np.uint8), 0, len(data), 554)
    assert merged is not None
    assert merged[1] == 2 * (4 + 554)


@pytest.mark.parametrize("flags", [0x02, 0x04, ACK | FIN, ACK | 0x20, ACK | 0x40])
def test_a_flag_is_never_merged(flags: int) -> None:
    data = framed(frame(1, b"a" * 500, flags), frame(501, b"a" * 500, ACK))
    assert merge(np.frombuffer(data, np.uint8), 0, len(data), 554) is None
    data = framed(frame(1, b"a" * 500, ACK), frame(501, b"a" * 500, flags))
    assert merge(np.frombuffer(data, np.uint8), 0, len(data), 554) is None


def test_a_pushed_segment_ends_the_run() -> None:
    data = framed(*(frame(1 + 500 * i, b"a" * 500, ACK | (PSH if i == 2 else 0)) for i in range(5)))
    merged = merge(np.frombuffer(data, np.uint8), 0, len(data), 554)
    assert merged is not None
    assert merged[1] == 3 * (4 + 554)


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 1448)), min_size=1, max_size=12),
    end_cut=st.integers(0, 200),
)
def test_merging_never_reads_behind_the_end(pieces: list[tuple[int, int]], end_cut: int) -> None:
    seq, frames = 5, []
    for kind, size in pieces:
        frames.append(frame(seq, b"z" * (1448 if kind else size), ACK if kind != 2 else ACK | PSH))
        seq += len(frames[-1]) - 54
    data = np.frombuffer(framed(*frames), np.uint8)
    end = max(4 + len(frames[0]), len(data) - end_cut)
    merged = merge(data, 0, end, len(frames[0]))
    if merged is not None:
        parts, after = merged
        assert after <= end
        total = sum(len(memoryview(part).cast("B")) for part in parts) - VNET_HDR - 54
        count, at = 0, 0
        while at < after:
            size = int.from_bytes(data[at : at + 4].tobytes(), "big")
            count += size - 54
            at += 4 + size
        assert at == after
        assert total == count
