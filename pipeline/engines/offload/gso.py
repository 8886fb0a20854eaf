"""Segmentation offload in software: a range of TCP payload becomes frames, ready for one system call.

A range of one segment costs no copy of its payload: headers, then the caller's view. The equal
segments of a longer one are laid out whole in scratch memory, length prefixes included, with
numpy making all headers and checksums (RFC 9293, RFC 791) in a few operations. Where the peer
takes big frames (a virtio-net header, see pipeline.wire.virtio_net) cutting and checksum are left to it.

::

    stream     prefix | Ethernet 14 | IPv4 20 | TCP 20 + options | payload     repeated
    virtio     prefix | virtio-net 10/12 | the same headers      | payload up to 64 KiB
    datagrams           Ethernet 14 | IPv4 20 | TCP 20 + options | payload     one buffer a frame

All segments of a range carry the same acknowledgment, window and options; PSH and FIN go on the
last only. DF is set and the IPv4 identification counts up (RFC 6864 would allow any). What
may be sent, and how large a segment may be, is decided by the TCP engine.
"""

from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from pipeline.engines.offload import checksum as inet
from pipeline.wire import framing, tcp, virtio_net

SCRATCH_BYTES: Final = 512 * 1024
"""Room for the frames of several ranges; what does not fit gets memory of its own."""

Buffer = bytes | memoryview

_COPY_BYTES: Final = 512
"""A payload up to this length is joined to its headers: one more buffer in a system call costs more."""
_MIN_ROWS: Final = 4
"""From as many equal segments on numpy is faster than making them one by one."""
_MAX_ROWS: Final = 4096

# Ethernet | version, TOS, length, ident, fragment, TTL and protocol, checksum, src, dst |
# ports, seq, ack, offset and flags, window, checksum, urgent
_HEADERS: Final = Struct("!14sHHHHHHIIHHIIHHHH")
_HEADERS_LEN: Final = _HEADERS.size
_IPV4_OFF: Final = 14
_IDENT_OFF: Final = 18
_IPV4_CHECK_OFF: Final = 24
_ADDRESSES_OFF: Final = 26
_TCP_OFF: Final = 34
_SEQ_OFF: Final = 38
_FLAGS_OFF: Final = 47
_TCP_CHECK_OFF: Final = _TCP_OFF + tcp.CHECKSUM_OFFSET
_IPV4_TCP_LEN: Final = 40
_MAX_PACKET: Final = 0xFFFF
_VERSION: Final = 0x4500
_DF: Final = 0x4000
_TTL_TCP: Final = 64 << 8 | 6
_LAST_ONLY: Final = tcp.PSH | tcp.FIN
_MODULUS: Final = inet.MODULUS
_MASK: Final = 0xFFFFFFFF
# Not less than any sum of the words of a packet, and zero in ones' complement.
_ZERO: Final = _MODULUS << 16

_U1: Final = np.dtype("u1")
_U4: Final = np.dtype("u4")
_BIG2: Final = np.dtype(">u2")
_BIG4: Final = np.dtype(">u4")
_NUMBERS: Final = np.arange(_MAX_ROWS, dtype=_U4)

_ndarray = np.ndarray
_pack = _HEADERS.pack


class _Fields(NamedTuple):
    """What is equal in all segments of a range."""

    eth_header: bytes
    src: int
    dst: int
    sport: int
    dport: int
    ack: int
    window: int
    options: bytes


class Segmenter:
    """Makes the buffers for one link, in one of the three forms above.

    Buffers returned are valid until reset(), which the caller calls when all of them are sent
    or copied; those which are views of a payload or frame given by the caller, as long as that
    memory is. ``frame_count`` and ``frame_bytes`` only grow: frames made so far, and their bytes
    from the Ethernet header on (a virtio-net frame counts once however large it is).
    """

    __slots__ = (
        "_at",
        "_datagrams",
        "_max_frame",
        "_prefix",
        "_prefix_len",
        "_scratch",
        "_vnet_len",
        "frame_bytes",
        "frame_count",
    )

    def __init__(
        self, stream: framing.Framing | None, vnet_len: int = 0, scratch_bytes: int = SCRATCH_BYTES
    ) -> None:
        """stream None: a datagram link. vnet_len: 0, or bytes of the virtio-net header that the peer reads.

        The length prefix counts the virtio-net header as part of the frame.
        """
        if vnet_len not in (0, virtio_net.SHORT_LEN, virtio_net.LONG_LEN):
            raise ValueError(f"no virtio-net header has {vnet_len} bytes")
        self._datagrams = stream is None
        self._prefix: Callable[[int], bytes] = _no_prefix if stream is None else stream.prefix.pack
        self._prefix_len = 0 if stream is None else stream.prefix_len
        self._max_frame = (framing.MAX_FRAME if stream is None else stream.max) - vnet_len
        self._vnet_len = vnet_len
        self._scratch = memoryview(bytearray(scratch_bytes))
        self._at = 0
        self.frame_count = 0
        self.frame_bytes = 0

    def reset(self) -> None:
        """All buffers returned so far are done with: the scratch memory is used from its start again."""
        self._at = 0

    def frame(self, frame: memoryview | bytes, vnet: bytes = b"") -> list[Buffer]:
        """The buffers for one frame that is whole already. ValueError if the framing cannot carry it.

        vnet: the frame's own virtio-net header, on a link that has one; by default it is all zero.
        """
        if len(frame) > self._max_frame:
            raise ValueError(f"a frame of {len(frame)} bytes does not fit this framing")
        return self._join(vnet or bytes(self._vnet_len), frame)

    def frames(
        self,
        eth_header: bytes,
        src: int,
        dst: int,
        sport: int,
        dport: int,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        options: bytes,
        payload: memoryview | bytes,
        mss: int,
        ident: int,
    ) -> list[Buffer]:
        """The buffers for payload (may be empty) in segments of mss bytes; on a datagram link, one a frame.

        eth_header is 14 bytes, options are padded to a multiple of 4, ident is the IPv4 identification
        of the first frame (the others count up). A larger mss than IPv4 and the framing can
        carry is clamped.
        """
        length = len(payload)
        fields = _Fields(eth_header, src, dst, sport, dport, ack, window, options)
        room = min(_MAX_PACKET - _IPV4_TCP_LEN, self._max_frame - _HEADERS_LEN) - len(options)
        mss = min(mss, room)
        if length <= mss:
            return self._segment(fields, seq, flags, payload, ident, 0)
        early = flags & ~_LAST_ONLY
        buffers: list[Buffer] = []
        begin = 0
        if self._vnet_len:
            step = room // mss * mss
        else:
            step = mss
            while (count := min((length - begin) // mss, _MAX_ROWS)) >= _MIN_ROWS:
                end = begin + count * mss
                buffers += self._rows(
                    fields,
                    seq,
                    early,
                    flags if end == length else early,
                    payload[begin:end],
                    mss,
                    ident,
                    count,
                )
                seq = seq + count * mss & _MASK
                ident = ident + count & 0xFFFF
                begin = end
        while begin < length:
            end = begin + step
            buffers += self._segment(
                fields, seq, flags if end >= length else early, payload[begin:end], ident, mss
            )
            seq = seq + step & _MASK
            ident = ident + 1 & 0xFFFF
            begin = end
        return buffers

    def _segment(
        self, fields: _Fields, seq: int, flags: int, payload: memoryview | bytes, ident: int, mss: int
    ) -> list[Buffer]:
        """One frame. On a virtio-net link the peer cuts it if it is longer than mss (0: it is not)."""
        length = len(payload)
        if self._vnet_len:
            header_len = _HEADERS_LEN + len(fields.options)
            gso = length > mss > 0
            vnet = virtio_net.build(
                virtio_net.Header(
                    flags=virtio_net.NEEDS_CSUM,
                    gso_type=virtio_net.GSO_TCPV4 if gso else virtio_net.GSO_NONE,
                    hdr_len=header_len,
                    gso_size=mss if gso else 0,
                    csum_start=_TCP_OFF,
                    csum_offset=tcp.CHECKSUM_OFFSET,
                ),
                self._vnet_len,
            )
            return self._join(vnet + _headers(fields, seq, flags, length, ident, -1), payload)
        payload_sum = inet.word_sum(payload, 0, length) * inet.SWAP if length else 0
        return self._join(_headers(fields, seq, flags, length, ident, payload_sum), payload)

    def _join(self, head: bytes, rest: memoryview | bytes) -> list[Buffer]:
        """Buffers for one frame of which head (begun by the virtio-net header, if any) and rest are given."""
        length = len(head) + len(rest)
        self.frame_count += 1
        self.frame_bytes += length - self._vnet_len
        if self._datagrams:
            return [head + rest] if head else [rest]
        head = self._prefix(length) + head
        if len(rest) <= _COPY_BYTES:
            return [head + rest]
        return [head, rest]

    def _room(self, size: int) -> tuple[memoryview, int]:
        """Scratch memory for size bytes, and where in it they begin."""
        at = self._at
        scratch = self._scratch
        if at + size > len(scratch):
            return memoryview(bytearray(size)), 0
        # Even, so that the words which are summed are aligned.
        self._at = at + size + (size & 1)
        return scratch, at

    def _rows(
        self,
        fields: _Fields,
        seq: int,
        flags: int,
        last_flags: int,
        payload: memoryview | bytes,
        mss: int,
        ident: int,
        count: int,
    ) -> list[Buffer]:
        """count frames of mss bytes of payload each, as rows of one array in scratch memory."""
        options = fields.options
        prefix_len = self._prefix_len
        header_len = _HEADERS_LEN + len(options)
        frame_len = header_len + mss
        total = frame_len - _IPV4_OFF
        head_len = prefix_len + header_len
        pitch = prefix_len + frame_len
        size = count * pitch
        scratch, at = self._room(size)

        # What is equal in all rows, with both checksums zero; then what is not.
        eth_header, src, dst, sport, dport, ack, window, _ = fields
        head = self._prefix(frame_len) + _pack(
            eth_header, _VERSION, total, 0, _DF, _TTL_TCP, 0, src, dst,
            sport, dport, 0, ack, (header_len - _TCP_OFF) << 10 | flags, window, 0, 0,
        ) + options  # fmt: skip
        rows = _ndarray((count, pitch), _U1, scratch, at)
        rows[:, :head_len] = _ndarray((head_len,), _U1, head)
        rows[:, head_len:] = _ndarray((count, mss), _U1, payload)
        frame = at + prefix_len
        strides = (pitch,)
        numbers = _NUMBERS[:count]
        if last_flags != flags:
            scratch[frame + (count - 1) * pitch + _FLAGS_OFF] = last_flags
        column = numbers * mss
        column += seq
        _ndarray((count,), _BIG4, scratch, frame + _SEQ_OFF, strides)[:] = column
        column = numbers + ident
        column &= 0xFFFF
        _ndarray((count,), _BIG2, scratch, frame + _IDENT_OFF, strides)[:] = column
        covered = _VERSION + total + _DF + _TTL_TCP + src + dst
        column = (_MODULUS + -covered % _MODULUS) - column
        column %= _MODULUS
        _ndarray((count,), _BIG2, scratch, frame + _IPV4_CHECK_OFF, strides)[:] = column
        # From the addresses to the end, plus protocol and length: header and pseudo-header.
        column = inet.row_sums(scratch, frame + _ADDRESSES_OFF, pitch, count, frame_len - _ADDRESSES_OFF)
        column = (_ZERO - (6 + total - 20) * inet.SWAP % _MODULUS) - column
        column %= _MODULUS
        _ndarray((count,), inet.WORD, scratch, frame + _TCP_CHECK_OFF, strides)[:] = column

        self.frame_count += count
        self.frame_bytes += count * frame_len
        if self._datagrams:
            return [scratch[begin : begin + pitch] for begin in range(at, at + size, pitch)]
        return [scratch[at : at + size]]


def _no_prefix(_length: int) -> bytes:
    return b""


def _headers(fields: _Fields, seq: int, flags: int, length: int, ident: int, payload_sum: int) -> bytes:
    """All headers and options of one segment with length bytes of payload.

    payload_sum: sum of its words, or -1: leave the TCP checksum to the peer, with only the
    sum of the pseudo-header in the field. Whole 32-bit fields can be added up: 2**16 is 1 modulo 0xffff.
    """
    eth_header, src, dst, sport, dport, ack, window, options = fields
    total = _IPV4_TCP_LEN + len(options) + length
    offset_flags = (20 + len(options)) << 10 | flags
    addresses = src + dst
    check = addresses + 6 + total - 20
    if payload_sum < 0:
        check = check % _MODULUS or _MODULUS
    else:
        check += sport + dport + seq + ack + offset_flags + window + payload_sum
        if options:
            check += int.from_bytes(options, "big")
        check = -check % _MODULUS
    return (
        _pack(
            eth_header, _VERSION, total, ident, _DF, _TTL_TCP,
            -(_VERSION + total + ident + _DF + _TTL_TCP + addresses) % _MODULUS, src, dst,
            sport, dport, seq, ack, offset_flags, window, check, 0,
        )
        + options
    )  # fmt: skip
