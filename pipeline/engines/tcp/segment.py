"""The input of a connection: one segment from the guest, or a run of segments that GRO has merged.

Fields are as on the wire: sequence numbers have 32 bits, and the window is not scaled. The engine never reads
payload: ``buf`` is an opaque handle (0 is a valid one, None means no data). The flags of a run are the OR
over its segments. Its ack and window are those of the last segment.
"""

from typing import TypeAlias

from pipeline.wire.tcp import FIN, SYN

Handle: TypeAlias = object
"""The stage's name for a run of bytes. Only the stage knows its type."""


class Segment:
    """One segment or run, which nobody changes. mss 0 and wscale -1 mean that the option is absent.

    length: bytes of data. sack: (left, right) edges, the most recent block first. seg_count: number of
    segments on the wire.
    """

    __slots__ = (
        "ack",
        "buf",
        "flags",
        "has_ts",
        "length",
        "mss",
        "sack",
        "sack_permitted",
        "seg_count",
        "seq",
        "ts_ecr",
        "ts_val",
        "wnd",
        "wscale",
    )

    def __init__(
        self,
        seq: int,
        ack: int,
        flags: int,
        wnd: int,
        length: int = 0,
        buf: Handle = None,
        ts_val: int = 0,
        ts_ecr: int = 0,
        has_ts: bool = False,
        sack: tuple[tuple[int, int], ...] = (),
        mss: int = 0,
        wscale: int = -1,
        sack_permitted: bool = False,
        seg_count: int = 1,
    ) -> None:
        self.seq = seq
        self.ack = ack
        self.flags = flags
        self.wnd = wnd
        self.length = length
        self.buf = buf
        self.ts_val = ts_val
        self.ts_ecr = ts_ecr
        self.has_ts = has_ts
        self.sack = sack
        self.mss = mss
        self.wscale = wscale
        self.sack_permitted = sack_permitted
        self.seg_count = seg_count

    def cut(self, length: int, buf: Handle) -> "Segment":
        """The segment with only the first length bytes of its data, so without a FIN. buf: their handle."""
        return Segment(
            self.seq,
            self.ack,
            self.flags & ~FIN,
            self.wnd,
            length,
            buf,
            self.ts_val,
            self.ts_ecr,
            self.has_ts,
            self.sack,
            self.mss,
            self.wscale,
            self.sack_permitted,
            self.seg_count,
        )


def seg_len(seg: Segment) -> int:
    """SEG.LEN: octets of sequence space, counting SYN and FIN (RFC 9293 section 3.4)."""
    flags = seg.flags
    return seg.length + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
