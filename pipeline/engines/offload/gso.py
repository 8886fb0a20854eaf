"""Generic segmentation offload (GSO): cuts a range of TCP payload into frames, ready for one system call.

The payload of a single segment is not copied: its buffers are the headers and the caller's view. The equal
segments of a longer range are copied to scratch memory with their headers and length prefixes. There numpy
makes all headers and checksums (RFC 9293, 791, 8200) in a few operations. On a link with virtio-net headers
(pipeline.wire.virtio_net) the guest's kernel does the cutting and the checksums instead.

::

    stream     prefix | Ethernet 14 | IP 20/40 | TCP 20 + options | payload    repeated
    virtio     prefix | virtio-net 10/12 | the same headers      | payload up to 64 KiB
    datagrams           Ethernet 14 | IP 20/40 | TCP 20 + options | payload    one buffer a frame

All segments of a range have the same acknowledgment number, window and options. Only the last has PSH and
FIN. Of IPv4, DF is set, and the identification counts up (RFC 6864 would allow any). The TCP engine has
decided what may be sent and how large a segment may be.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload.gso_headers import BY_PEER, LATER, MAX_ROWS, NUMBERS, TcpHeaders, TcpHeaders6
from pipeline.engines.offload.headers import TCP_CHECK, TCP_FLAGS, TCP_SEQ
from pipeline.records.flows import Ends
from pipeline.records.tcp import TcpOut
from pipeline.wire import framing, ip, offload, tcp, tcp_options, virtio_net
from pipeline.wire.ipv4 import PROTO_TCP

SCRATCH_BYTES: Final = 512 * 1024
"""Room for the frames of several ranges. For a range that does not fit, new memory is allocated."""
MIN_ROWS: Final = 4
"""From this number of equal frames on, numpy is faster than making them one by one."""

Buffer: TypeAlias = bytes | memoryview

_COPY_BYTES: Final = 512
"""A payload up to this length is copied after its headers: another buffer in a system call costs more."""

_LAST_ONLY: Final = tcp.PSH | tcp.FIN
_NEEDED: Final = {
    virtio_net.GSO_NONE: offload.CSUM,
    virtio_net.GSO_TCPV4: offload.TSO4,
    virtio_net.GSO_TCPV6: offload.TSO6,
}
"""The feature that a frame of a GSO type needs. Super-segments of datagrams are always cut for a guest."""
_MODULUS: Final = inet.MODULUS
ZERO: Final = _MODULUS << 16
"""A zero in ones' complement that is at least as large as any sum of a packet. Subtract sums from it."""

_U1: Final = np.dtype("u1")
_BIG4: Final = np.dtype(">u4")

_ndarray = np.ndarray


class Segmenter:
    """Makes the buffers for one link, in one of the three forms above.

    The buffers are valid until reset(). The caller calls it when all of them are sent or copied. A buffer
    that is a view of the caller's payload is valid as long as that memory is. frame_count, frame_bytes:
    frames made since take_counts(), and their bytes from the Ethernet header on. A virtio-net frame counts
    once, however large it is.
    """

    __slots__ = (
        "_at",
        "_datagrams",
        "_features",
        "_max_frame",
        "_prefix",
        "_prefix_len",
        "_scratch",
        "_vnet_len",
        "frame_bytes",
        "frame_count",
    )

    def __init__(
        self,
        stream: framing.Framing | None,
        vnet_len: int = 0,
        features: int = offload.FEATURES,
        scratch_bytes: int = SCRATCH_BYTES,
    ) -> None:
        """stream: None for a datagram link. vnet_len: bytes of the link's virtio-net header, or 0.

        The length prefix counts the virtio-net header as part of the frame. features: the work that the guest
        does if the link has these headers (pipeline.wire.offload).
        """
        if vnet_len not in (0, virtio_net.SHORT_LEN, virtio_net.LONG_LEN):
            raise ValueError(f"no virtio-net header has {vnet_len} bytes")
        self._datagrams = stream is None
        self._prefix: Callable[[int], bytes] = _no_prefix if stream is None else stream.prefix.pack
        self._prefix_len = 0 if stream is None else stream.prefix_len
        self._max_frame = (framing.MAX_FRAME if stream is None else stream.max) - vnet_len
        self._vnet_len = vnet_len
        self._features = features if vnet_len else 0
        self._scratch = memoryview(bytearray(scratch_bytes))
        self._at = 0
        self.frame_count = 0
        self.frame_bytes = 0

    def takes(self, gso_type: int) -> bool:
        """Whether the guest takes frames of this GSO type (virtio_net.GSO_*) with a partial checksum."""
        return bool(self._features & offload.CSUM and self._features & _NEEDED.get(gso_type, 0))

    def reset(self) -> None:
        """Use the scratch memory from its start again. No buffer returned so far is needed any more."""
        self._at = 0

    def take_counts(self) -> tuple[int, int]:
        """Return frame_count and frame_bytes, and set both to zero."""
        counts = self.frame_count, self.frame_bytes
        self.frame_count = self.frame_bytes = 0
        return counts

    def frame(self, frame: memoryview | bytes, vnet: bytes = b"") -> list[Buffer]:
        """The buffers for one whole frame. Raises ValueError if it is too long for the framing.

        vnet: the frame's virtio-net header on a link that has them; by default it is all zero.
        """
        if len(frame) > self._max_frame:
            raise ValueError(f"a frame of {len(frame)} bytes does not fit this framing")
        return self._join(vnet or bytes(self._vnet_len), frame)

    def segments(
        self, eth_header: bytes, ends: Ends, out: TcpOut, payload: memoryview | bytes, ident: int
    ) -> list[Buffer]:
        """The buffers for a range, from the remote end to the guest. A datagram link gets one for each frame.

        eth_header: 14 bytes. payload: the bytes of ``out``, or empty. ident: the IPv4 identification of the
        first frame. The MSS is limited to what a packet and the framing can carry.
        """
        length = len(payload)
        options = options_of(out)
        if ip.is_ipv4(ends.guest_addr):
            made = TcpHeaders(eth_header, ends, out, options, ident)
        else:
            made = TcpHeaders6(eth_header, ends, out, options, ident)
        room = min(made.room, self._max_frame - made.header_len)
        mss = min(out.mss, room)
        flags = out.flags
        if length <= mss:
            return self._segment(made, flags, payload, 0)
        early = flags & ~_LAST_ONLY
        buffers: list[Buffer] = []
        begin = 0
        if self.takes(made.gso_type):
            step = room // mss * mss
        else:
            step = mss
            while (count := min((length - begin) // mss, MAX_ROWS)) >= MIN_ROWS:
                end = begin + count * mss
                last_flags = flags if end == length else early
                buffers += self._rows(made, early, last_flags, payload[begin:end], mss, count)
                begin = end
        while begin < length:
            end = begin + step
            buffers += self._segment(made, flags if end >= length else early, payload[begin:end], mss)
            begin = end
        return buffers

    def _segment(self, made: TcpHeaders, flags: int, payload: memoryview | bytes, mss: int) -> list[Buffer]:
        """The next frame. On a virtio-net link the guest cuts a payload that is longer than mss."""
        length = len(payload)
        if self._features & offload.CSUM:
            head = self._vnet_header(made, mss if length > mss else 0)
            head += made.headers(flags, length, BY_PEER)
        else:
            payload_sum = inet.word_sum(payload, 0, length) * inet.SWAP if length else 0
            head = bytes(self._vnet_len) + made.headers(flags, length, payload_sum)
        made.advance(1, length)
        return self._join(head, payload)

    def _vnet_header(self, made: TcpHeaders, gso_size: int) -> bytes:
        """The virtio-net header of a segment: complete the checksum, cut at gso_size (0: do not cut)."""
        return virtio_net.build(
            virtio_net.Header(
                flags=virtio_net.NEEDS_CSUM,
                gso_type=made.gso_type if gso_size else virtio_net.GSO_NONE,
                hdr_len=made.header_len,
                gso_size=gso_size,
                csum_start=made.l4_off,
                csum_offset=TCP_CHECK,
            ),
            self._vnet_len,
        )

    def _join(self, head: bytes, body: memoryview | bytes) -> list[Buffer]:
        """The buffers of one frame. head begins with the virtio-net header, if there is one."""
        length = len(head) + len(body)
        self.frame_count += 1
        self.frame_bytes += length - self._vnet_len
        if self._datagrams:
            return [head + body] if head else [body]
        head = self._prefix(length) + head
        if len(body) <= _COPY_BYTES:
            return [head + body]
        return [head, body]

    def _room(self, size: int) -> tuple[memoryview, int]:
        """Scratch memory for size bytes, and where in it they begin."""
        at = self._at
        scratch = self._scratch
        if at + size > len(scratch):
            return memoryview(bytearray(size)), 0
        # An even size keeps the next frames' words aligned for the sums.
        self._at = at + size + (size & 1)
        return scratch, at

    def _rows(
        self, made: TcpHeaders, flags: int, last_flags: int, payload: memoryview | bytes, mss: int, count: int
    ) -> list[Buffer]:
        """The next count frames, each with mss bytes of payload, as rows of one array in scratch memory."""
        before = self._prefix_len + self._vnet_len
        head_len = before + made.header_len
        frame_len = made.header_len + mss
        pitch = head_len + mss
        scratch, at = self._room(count * pitch)
        rows = _ndarray((count, pitch), _U1, scratch, at)
        # Every row gets the headers of the first frame. Then the fields that differ are written.
        head = self._prefix(self._vnet_len + frame_len) + bytes(self._vnet_len)
        head += made.headers(flags, mss, LATER)
        rows[:, :head_len] = _ndarray((head_len,), _U1, head)
        rows[:, head_len:] = _ndarray((count, mss), _U1, payload)
        frame = at + before
        l4_off = made.l4_off
        if last_flags != flags:
            scratch[frame + (count - 1) * pitch + l4_off + TCP_FLAGS] = last_flags
        column = NUMBERS[:count] * mss
        column += made.seq
        _ndarray((count,), _BIG4, scratch, frame + l4_off + TCP_SEQ, (pitch,))[:] = column
        made.number_rows(scratch, frame, pitch, count, mss)
        # The sum of the addresses, the TCP header and the payload. Protocol and length complete it.
        summed = made.addresses_off
        column = inet.row_sums(scratch, frame + summed, pitch, count, frame_len - summed)
        column = (ZERO - (PROTO_TCP + frame_len - l4_off) * inet.SWAP % _MODULUS) - column
        column %= _MODULUS
        _ndarray((count,), inet.WORD, scratch, frame + l4_off + TCP_CHECK, (pitch,))[:] = column
        made.advance(count, count * mss)
        return self._of_rows(scratch, at, pitch, count, frame_len)

    def _of_rows(self, scratch: memoryview, at: int, pitch: int, count: int, frame_len: int) -> list[Buffer]:
        """The buffers for count rows of pitch bytes at ``at``, each with a frame of frame_len bytes."""
        self.frame_count += count
        self.frame_bytes += count * frame_len
        if self._datagrams:
            return [scratch[begin : begin + pitch] for begin in range(at, at + count * pitch, pitch)]
        return [scratch[at : at + count * pitch]]


def options_of(out: TcpOut) -> bytes:
    """The TCP options of a range, padded to a multiple of 4."""
    if out.flags & tcp.SYN:
        return tcp_options.build_syn(
            out.mss, out.window_scale, out.sack_permitted, out.has_timestamps, out.ts_val, out.ts_ecr
        )
    if not out.has_timestamps and not out.sack:
        return b""
    return tcp_options.build(out.has_timestamps, out.ts_val, out.ts_ecr, out.sack)


def _no_prefix(_length: int) -> bytes:
    return b""
