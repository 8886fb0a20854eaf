"""TSO and LRO of perf.nic: cuts a TCP/IPv4 super-segment into frames, and merges frames, with numpy.

It shares no code with pipeline.engines, so that it can check what those produce. It handles only TCP over
IPv4 without options. LRO does not verify the checksums of the frames that it merges. The guest's kernel
verifies only frames that are not merged. In a measurement with `--plain` it verifies all.

Before each frame there is a 4-byte big-endian length (QEMU's stream framing).
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

PREFIX = 4
ETHER = 14
IP = 20
VNET_HDR = 10  # struct virtio_net_hdr without num_buffers: what a tap has by default
NEEDS_CSUM = 1
GSO_NONE = 0
GSO_TCPV4 = 1
VNET = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset: native order
MAX_MERGED = 65535 - 120  # payload of one merged segment: an IPv4 packet ends at 65535

_FIN_PSH = 0x09
_CWR = 0x80
_ACK = 0x10
_PSH = 0x08
_TCP = ETHER + IP
_SEQ = _TCP + 4
_FLAGS = _TCP + 13
_CSUM = _TCP + 16


def _fold(value: int) -> int:
    value %= 0xFFFF
    return value or 0xFFFF


def complete_checksum(frame: memoryview, csum_start: int, csum_offset: int) -> None:
    """Complete a checksum. The kernel has left the sum of the pseudo-header in the field."""
    part = frame[csum_start:]
    if len(part) > 400:
        words = np.frombuffer(part, np.uint8)
        even = len(part) & ~3
        total = int(words[:even].view(np.uint32).sum(dtype=np.uint64))
        total = _fold(total)
        total = (total >> 8 | total << 8) & 0xFFFF  # summed in the machine's order
        rest = part[even:]
        total += int.from_bytes(rest, "big") << (8 * (-len(rest) % 2))
    else:
        total = int.from_bytes(part, "big") << (8 * (len(part) % 2))
    value = 0xFFFF - _fold(total)
    struct.pack_into("!H", frame, csum_start + csum_offset, value or 0xFFFF)


def cut(source: Bytes, length: int, gso_size: int, out: Bytes, at: int) -> tuple[int, int]:
    """Write the frames of the super-segment source[:length] to `out`, from the offset `at` on.

    Returns the offset after the last frame, and the size of each frame but the last, prefix included.

    After the segment, `source` needs room for padding to a multiple of gso_size. `out` needs the same.
    """
    tcp_len = (int(source[_TCP + 12]) >> 4) * 4
    hdr = _TCP + tcp_len
    payload = length - hdr
    count = -(-payload // gso_size)
    tail = payload - (count - 1) * gso_size
    stride = PREFIX + hdr + gso_size
    source[length : hdr + count * gso_size] = 0
    body = source[hdr : hdr + count * gso_size].reshape(count, gso_size)
    rows = out[at : at + count * stride].reshape(count, stride)

    head = source[:hdr].copy()
    head[ETHER + 10 : ETHER + 12] = 0
    head[_CSUM : _CSUM + 2] = 0
    ident, seq = struct.unpack_from("!H", head, ETHER + 4)[0], struct.unpack_from("!I", head, _SEQ)[0]
    flags = int(head[_FLAGS])
    head[ETHER + 2 : ETHER + 6] = 0
    head[_SEQ : _SEQ + 4] = 0
    head[_FLAGS] = flags & ~(_FIN_PSH | _CWR)

    index = np.arange(count, dtype=np.uint32)
    lengths = np.full(count, gso_size, np.uint32)
    lengths[-1] = tail
    idents = (index + ident) & 0xFFFF
    seqs = index * np.uint32(gso_size) + np.uint32(seq)  # wraps modulo 2**32 as it should
    totals = lengths + (IP + tcp_len)
    flag_column = np.full(count, head[_FLAGS], np.uint8)
    flag_column[0] |= flags & _CWR
    flag_column[-1] |= flags & _FIN_PSH

    if gso_size % 4 == 0:
        sums = body.view(np.uint32).sum(axis=1, dtype=np.uint64)
    elif gso_size % 2 == 0:
        sums = body.view(np.uint16).sum(axis=1, dtype=np.uint64)
    else:
        padded = np.zeros((count, gso_size + 1), np.uint8)
        padded[:, :gso_size] = body
        sums = padded.view(np.uint16).sum(axis=1, dtype=np.uint64)
    sums %= 0xFFFF
    sums = ((sums & 0xFF) << 8) | (sums >> 8)  # to network order
    head_bytes = head.tobytes()
    ip_sum = sum(struct.unpack_from("!10H", head_bytes, ETHER))
    # The flags are not in this sum, because they differ between frames.
    tcp_sum = sum(struct.unpack_from(f"!{tcp_len // 2}H", head_bytes, _TCP)) - int(head[_FLAGS])
    addresses = sum(struct.unpack_from("!4H", head_bytes, ETHER + 12))
    sums += (seqs >> 16) + (seqs & 0xFFFF) + flag_column + lengths + (tcp_sum + addresses + 6 + tcp_len)
    sums %= 0xFFFF

    rows[:, PREFIX : PREFIX + hdr] = head
    rows[:, PREFIX + hdr :] = body
    _put(rows, 0, totals + ETHER, ">u4")
    _put(rows, PREFIX + ETHER + 2, totals, ">u2")
    _put(rows, PREFIX + ETHER + 4, idents, ">u2")
    _put(rows, PREFIX + ETHER + 10, 0xFFFF - (idents + totals + ip_sum) % 0xFFFF, ">u2")
    _put(rows, PREFIX + _SEQ, seqs, ">u4")
    rows[:, PREFIX + _FLAGS] = flag_column
    _put(rows, PREFIX + _CSUM, 0xFFFF - sums, ">u2")
    return at + (count - 1) * stride + PREFIX + hdr + tail, stride


def _put(rows: Bytes, column: int, values: npt.NDArray[np.unsignedinteger], dtype: str) -> None:
    size = int(dtype[-1])
    rows[:, column : column + size] = values.astype(dtype).view(np.uint8).reshape(-1, size)


_equal_columns: dict[int, npt.NDArray[np.intp]] = {}


def _columns(hdr: int) -> npt.NDArray[np.intp]:
    """The header offsets whose bytes are equal in a run: all but lengths, ident, checksums, seq and flags."""
    found = _equal_columns.get(hdr)
    if found is None:
        skip = {16, 17, 18, 19, 24, 25, *range(_SEQ, _SEQ + 4), _FLAGS, _CSUM, _CSUM + 1}
        found = np.array([i for i in range(hdr) if i not in skip], np.intp)
        _equal_columns[hdr] = found
    return found


def merge(data: Bytes, at: int, end: int, size: int) -> tuple[list[bytes | Bytes], int] | None:
    """Merge the run of TCP segments that begins with the frame of `size` bytes whose prefix is at `at`.

    Returns the buffers for one write to the tap (with a virtio-net header), and the offset of the next
    prefix. Returns None if the frame must pass alone.
    """
    stride = PREFIX + size
    frame = at + PREFIX
    if end - at <= stride + PREFIX + _TCP + 20:
        return None
    if size < _TCP + 20 or data[frame + 12] != 8 or data[frame + 13] or data[frame + 14] != 0x45:
        return None
    if data[frame + 23] != 6 or data[frame + 20] & 0x3F or data[frame + 21] or data[frame + _FLAGS] != _ACK:
        return None
    hdr = _TCP + (int(data[frame + _TCP + 12]) >> 4) * 4
    payload = size - hdr
    if (
        not 64 <= payload <= MAX_MERGED // 2
        or ETHER + int.from_bytes(data[frame + 16 : frame + 18].tobytes(), "big") != size
    ):
        return None
    columns = _columns(hdr)
    model = data[frame : frame + hdr][columns]
    seq = int.from_bytes(data[frame + _SEQ : frame + _SEQ + 4].tobytes(), "big")
    possible = min((end - at) // stride, MAX_MERGED // payload)
    rows = data[at : at + possible * stride].reshape(possible, stride)
    good = (rows[:, PREFIX + columns] == model).all(axis=1)
    good &= (rows[:, PREFIX + 16 : PREFIX + 18] == rows[0, PREFIX + 16 : PREFIX + 18]).all(axis=1)
    good &= (rows[:, :PREFIX] == rows[0, :PREFIX]).all(axis=1)
    want = np.arange(possible, dtype=np.uint32) * np.uint32(payload) + np.uint32(seq)
    good &= rows[:, PREFIX + _SEQ : PREFIX + _SEQ + 4].view(">u4")[:, 0] == want
    flags = rows[:, PREFIX + _FLAGS]
    plain = good & (flags == _ACK)
    count = possible if plain.all() else int(plain.argmin())
    pushed = count < possible and bool(good[count]) and flags[count] == _ACK | _PSH
    count += pushed
    after = at + count * stride
    parts: list[bytes | Bytes] = [b"", np.ascontiguousarray(rows[:count, PREFIX + hdr :])]
    total = count * payload
    if not pushed:
        extra = _shorter_last(
            data, after, end, hdr, model, (seq + total) & 0xFFFFFFFF, payload, MAX_MERGED - total
        )
        if extra:
            parts.append(data[after + PREFIX + hdr : after + PREFIX + hdr + extra])
            pushed = bool(data[after + PREFIX + _FLAGS] & _PSH)
            after += PREFIX + hdr + extra
            total += extra
            count += 1
    if count < 2:
        return None
    head = bytearray(data[frame : frame + hdr].tobytes())
    struct.pack_into("!H", head, ETHER + 2, hdr - ETHER + total)
    struct.pack_into("!H", head, ETHER + 10, 0)
    struct.pack_into("!H", head, ETHER + 10, 0xFFFF - _fold(sum(struct.unpack_from("!10H", head, ETHER))))
    head[_FLAGS] |= _PSH if pushed else 0
    pseudo = sum(struct.unpack_from("!4H", head, ETHER + 12)) + 6 + hdr - _TCP + total
    struct.pack_into("!H", head, _CSUM, _fold(pseudo))
    parts[0] = VNET.pack(NEEDS_CSUM, GSO_TCPV4, hdr, payload, _TCP, 16) + head
    return parts, after


def _shorter_last(
    data: Bytes, at: int, end: int, hdr: int, model: Bytes, seq: int, below: int, room: int
) -> int:
    """Payload bytes of the frame at `at` if it ends the run (shorter, in order, same headers), else 0."""
    if end - at < PREFIX + hdr:
        return 0
    head = data[at : at + PREFIX + hdr].tobytes()
    size = int.from_bytes(head[:PREFIX], "big")
    extra = size - hdr
    if not 0 < extra < below or extra > room or end - at < PREFIX + size:
        return 0
    if int.from_bytes(head[PREFIX + 16 : PREFIX + 18], "big") != size - ETHER:
        return 0
    if int.from_bytes(head[PREFIX + _SEQ : PREFIX + _SEQ + 4], "big") != seq:
        return 0
    if head[PREFIX + _FLAGS] not in (_ACK, _ACK | _PSH):
        return 0
    same = data[at + PREFIX : at + PREFIX + hdr][_columns(hdr)] == model
    return extra if bool(same.all()) else 0
