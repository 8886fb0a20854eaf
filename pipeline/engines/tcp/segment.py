"""What the stage hands to a connection: one range of the guest's bytes, or one segment without data.

Fields are as on the wire: sequence numbers have 32 bits, and the window is the raw field. The engine never
looks at bytes: ``buf`` is an opaque handle (0 is a valid one, None means no data). A segment may stand for
a run of wire segments that GRO has merged. Then its flags are the OR over the run, and its ack and window
are those of the last segment.
"""

from typing import NamedTuple, TypeAlias

from pipeline.wire.tcp import FIN, SYN

Handle: TypeAlias = object
"""What the stage calls a run of bytes. Only the stage knows its type."""


class Segment(NamedTuple):
    """One arriving range. length in bytes of data; mss 0 and wscale -1 mean "option absent".

    sack holds (left, right) edges, most recent first. seg_count is the number of wire
    segments in the run.
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
