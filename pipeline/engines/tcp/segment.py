"""The input of a connection: one segment from the guest, or a run of segments that GRO has merged.

Fields are as on the wire: sequence numbers have 32 bits, and the window is not scaled. The engine never reads
payload: ``buf`` is an opaque handle (0 is a valid one, None means no data). The flags of a run are the OR
over its segments. Its ack and window are those of the last segment.
"""

from typing import NamedTuple, TypeAlias

from pipeline.wire.tcp import FIN, SYN

Handle: TypeAlias = object
"""The stage's name for a run of bytes. Only the stage knows its type."""


class Segment(NamedTuple):
    """One segment or run. length: bytes of data. mss 0 and wscale -1 mean that the option is absent.

    sack: (left, right) edges, the most recent block first. seg_count: number of segments on the wire.
    """

    seq: int
    ack: int
    flags: int
    wnd: int
    length: int = 0
    buf: Handle = None
    ts_val: int = 0
    ts_ecr: int = 0
    has_ts: bool = False
    sack: tuple[tuple[int, int], ...] = ()
    mss: int = 0
    wscale: int = -1
    sack_permitted: bool = False
    seg_count: int = 1


def seg_len(seg: Segment) -> int:
    """SEG.LEN: octets of sequence space, counting SYN and FIN (RFC 9293 section 3.4)."""
    flags = seg.flags
    return seg.length + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
