"""TCP segments that guests sent, and segments for guests."""

from struct import Struct
from typing import Final, TypeAlias

from pipeline.records.flows import FlowKey
from pipeline.records.kinds import NO_SLOT, TCP_OUT, TCP_RANGE
from pipeline.records.run import Run

Sack: TypeAlias = tuple[tuple[int, int], ...]
"""SACK blocks as (left, right) edges, the most recent first (RFC 2018)."""

_TIMESTAMPS: Final = 1
_OTHER_OPTIONS: Final = 2
_VNET: Final = 4
# kind, flags, link, stride, piece_size, slot, off, length, segments, seq, ack, window, ts_val, ts_ecr, key,
# header_len, bits
_RANGE: Final = Struct("<BBHHHIII4xIIIIII36sBB10x")

_OUT_TIMESTAMPS: Final = 0x01
_OUT_SACK_SHIFT: Final = 1
_OUT_SACK_PERMITTED: Final = 0x08
_OUT_WINDOW_SCALE: Final = 0x10
_OUT_WINDOW_SCALE_SHIFT: Final = 8
# kind, flags, window, bits, mss, slot, off, length, first SACK block, seq, ack, second block's left edge,
# ts_val, ts_ecr, key, second block's right edge. Without data, slot and off may hold a third block.
_OUT: Final = Struct("<BBHHHIIIIIIIIII36sI8x")
MAX_SACK_WITH_DATA: Final = 2
MAX_SACK: Final = 3
"""SACK blocks that a TCP_OUT without payload has room for."""


class TcpRange(Run):
    """TCP_RANGE: consecutive segments of one flow of a guest.

    The run is their payload. A single segment has stride 0 and piece_size = length. Without payload (a pure
    ACK, a SYN, an RST) length, stride and piece_size are 0, and off is the end of the headers. Where GRO has
    collapsed several pure ACKs into one, the record describes the frame of the last.

    link, key: the link of the guest that sent them, and their flow.
    flags: TCP flags, OR over all segments.
    segments: number of segments on the wire.
    seq: of the first byte. ack, window: of the last segment. window: as in the header, not scaled.
    ts_val, ts_ecr: of the timestamps option if has_timestamps; else 0.
    header_len: bytes of the Ethernet, IP (20 or 40) and TCP headers, 54 to 114, equal in all segments. Frame
    i of a run with payload begins at off - header_len + i * stride.
    has_timestamps: the options are exactly NOP, NOP, timestamps.
    has_other_options: there are other options, such as a SYN's or SACK blocks. They lie in the slot, right
    before off.
    vnet: right before each frame lies a virtio-net header, as in Frame. If a frame is a super-segment, its
    payload is one piece, and segments is the number of segments that it stands for.
    """

    def __init__(
        self,
        slot: int,
        off: int,
        length: int,
        stride: int,
        piece_size: int,
        link: int,
        key: FlowKey,
        flags: int,
        segments: int,
        seq: int,
        ack: int,
        window: int,
        ts_val: int,
        ts_ecr: int,
        header_len: int,
        has_timestamps: bool,
        has_other_options: bool,
        vnet: bool,
    ) -> None:
        super().__init__(slot, off, length, stride, piece_size)
        self.link = link
        self.key = key
        self.flags = flags
        self.segments = segments
        self.seq = seq
        self.ack = ack
        self.window = window
        self.ts_val = ts_val
        self.ts_ecr = ts_ecr
        self.header_len = header_len
        self.has_timestamps = has_timestamps
        self.has_other_options = has_other_options
        self.vnet = vnet

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "TcpRange":
        """The record at burst[at:]."""
        bits: int
        (
            _,
            flags,
            link,
            stride,
            piece_size,
            slot,
            off,
            length,
            segments,
            seq,
            ack,
            window,
            ts_val,
            ts_ecr,
            key,
            header_len,
            bits,
        ) = _RANGE.unpack_from(burst, at)
        return TcpRange(
            slot,
            off,
            length,
            stride,
            piece_size,
            link,
            key,
            flags,
            segments,
            seq,
            ack,
            window,
            ts_val,
            ts_ecr,
            header_len,
            bits & _TIMESTAMPS != 0,
            bits & _OTHER_OPTIONS != 0,
            bits & _VNET != 0,
        )

    def pack(self) -> bytes:
        """The record of these segments."""
        bits = _TIMESTAMPS if self.has_timestamps else 0
        if self.has_other_options:
            bits |= _OTHER_OPTIONS
        if self.vnet:
            bits |= _VNET
        return _RANGE.pack(
            TCP_RANGE,
            self.flags,
            self.link,
            self.stride,
            self.piece_size,
            self.slot,
            self.off,
            self.length,
            self.segments,
            self.seq,
            self.ack,
            self.window,
            self.ts_val,
            self.ts_ecr,
            self.key,
            self.header_len,
            bits,
        )


class TcpOut:
    """TCP_OUT: one range of bytes for a guest, or one segment without data. Ingress makes the headers.

    slot, off, length: the payload, in one piece. Without payload slot is NO_SLOT.
    mss: payload bytes of a segment, above 0 if there is payload. In a SYN: the value of its MSS option.
    flags: PSH and FIN are for the last segment only.
    window: as in the header, scaled.
    has_timestamps: send the timestamps option, with ts_val and ts_ecr.
    sack: up to MAX_SACK_WITH_DATA blocks with payload, up to MAX_SACK without.
    window_scale, sack_permitted: options of a SYN. A window_scale of -1 leaves the option out.
    """

    def __init__(
        self,
        key: FlowKey,
        flags: int,
        seq: int,
        ack: int,
        window: int,
        mss: int,
        slot: int,
        off: int,
        length: int,
        has_timestamps: bool,
        ts_val: int,
        ts_ecr: int,
        sack: Sack,
        sack_permitted: bool,
        window_scale: int,
    ) -> None:
        self.key = key
        self.flags = flags
        self.seq = seq
        self.ack = ack
        self.window = window
        self.mss = mss
        self.slot = slot
        self.off = off
        self.length = length
        self.has_timestamps = has_timestamps
        self.ts_val = ts_val
        self.ts_ecr = ts_ecr
        self.sack = sack
        self.sack_permitted = sack_permitted
        self.window_scale = window_scale

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "TcpOut":
        """The record at burst[at:]."""
        bits: int
        slot: int
        off: int
        (
            _,
            flags,
            window,
            bits,
            mss,
            slot,
            off,
            length,
            left,
            right,
            seq,
            ack,
            second_left,
            ts_val,
            ts_ecr,
            key,
            second_right,
        ) = _OUT.unpack_from(burst, at)
        sack: Sack = ()
        sack_permitted, window_scale = False, -1
        if bits > _OUT_TIMESTAMPS:
            blocks = bits >> _OUT_SACK_SHIFT & 3
            if blocks:
                sack = ((left, right), (second_left, second_right), (slot, off))[:blocks]
                if blocks == MAX_SACK:
                    slot, off = NO_SLOT, 0
            sack_permitted = bits & _OUT_SACK_PERMITTED != 0
            if bits & _OUT_WINDOW_SCALE:
                window_scale = bits >> _OUT_WINDOW_SCALE_SHIFT & 15
        return TcpOut(
            key,
            flags,
            seq,
            ack,
            window,
            mss,
            slot,
            off,
            length,
            bits & _OUT_TIMESTAMPS != 0,
            ts_val,
            ts_ecr,
            sack,
            sack_permitted,
            window_scale,
        )

    @staticmethod
    def pack(
        *,
        key: FlowKey,
        flags: int,
        seq: int,
        ack: int,
        window: int,
        mss: int,
        slot: int = NO_SLOT,
        off: int = 0,
        length: int = 0,
        has_timestamps: bool = False,
        ts_val: int = 0,
        ts_ecr: int = 0,
        sack: Sack = (),
        sack_permitted: bool = False,
        window_scale: int = -1,
    ) -> bytes:
        """A record with these fields. SACK blocks that do not fit are left out."""
        bits = _OUT_TIMESTAMPS if has_timestamps else 0
        left = right = second_left = second_right = 0
        if sack:
            count = min(len(sack), MAX_SACK_WITH_DATA if length else MAX_SACK)
            bits |= count << _OUT_SACK_SHIFT
            left, right = sack[0]
            if count > 1:
                second_left, second_right = sack[1]
            if count == MAX_SACK:
                slot, off = sack[2]
        if sack_permitted:
            bits |= _OUT_SACK_PERMITTED
        if window_scale >= 0:
            bits |= _OUT_WINDOW_SCALE | window_scale << _OUT_WINDOW_SCALE_SHIFT
        return _OUT.pack(
            TCP_OUT,
            flags,
            window,
            bits,
            mss,
            slot,
            off,
            length,
            left,
            right,
            seq,
            ack,
            second_left,
            ts_val,
            ts_ecr,
            key,
            second_right,
        )
