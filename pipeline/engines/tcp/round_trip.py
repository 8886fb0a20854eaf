"""Measures the round-trip time from an ACK.

Data that were sent twice give no sample, unless a timestamp tells which copy was acknowledged (Karn's
algorithm, RFC 6298 section 3; RFC 7323 section 4.1). A DSACK tells it, too (RFC 2883).
"""

from typing import Final

from pipeline.engines.tcp.sack import SentRange
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.seq import MASK, unwrap

MAX_TIMESTAMP_RTT: Final = 120_000
"""Milliseconds. An older timestamp echo is ignored."""


def measured(newly: list[SentRange], seg: Segment, una: int, ts_ok: bool, now: float) -> float:
    """Seconds between a transmission and its ACK ``seg``. Negative if seg gives no sample.

    newly: the ranges that seg has acknowledged. una: snd_una, after seg has moved it.
    """
    if newly and not any(sent.retransmitted for sent in newly):
        # If a range was sent twice, an earlier ACK may be lost, and the oldest range waited for that.
        return now - newly[0].xmit_ts
    copy = _received_twice(newly, seg, una)
    if copy is not None:
        return now - copy.xmit_ts
    if ts_ok and seg.has_ts and seg.ts_ecr:
        elapsed = ((int(now * 1000) & MASK) - seg.ts_ecr) & MASK
        if elapsed <= MAX_TIMESTAMP_RTT:
            return max(elapsed, 1) / 1000
    return -1.0


def _received_twice(newly: list[SentRange], seg: Segment, una: int) -> SentRange | None:
    """The newly acknowledged range that a DSACK in this ACK reports as received twice, or None.

    Its last copy caused this ACK; the ACK of its first copy was lost. The timestamp echo is that of the first
    copy, so a sample from it would include our own time-out.
    """
    if seg.sack:
        left = unwrap(seg.sack[0][0], una)
        if left < unwrap(seg.sack[0][1], una) <= una:
            for sent in newly:
                if sent.start <= left < sent.end and sent.retransmitted:
                    return sent
    return None
