"""What an ACK says about the round-trip time.

RFC 6298 section 3 (Karn: not from data sent twice, unless a timestamp tells the copies apart), RFC 7323
section 4.1 (timestamps), RFC 2883 (a duplicate tells them apart, too).
"""

from typing import Final

from pipeline.engines.tcp.sack import SentRange
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.seq import MASK, unwrap

MAX_TIMESTAMP_RTT: Final = 120_000
"""Milliseconds; an older echo says nothing."""


def measured(newly: list[SentRange], seg: Segment, una: int, ts_ok: bool, now: float) -> float:
    """Seconds between a transmission and its ACK, seg; negative where seg says nothing about that.

    newly: the ranges that seg has acknowledged. una: snd_una, after seg has moved it.
    """
    if newly and not any(sent.retransmitted for sent in newly):
        # Had any been sent twice, an earlier ACK may have been lost, and the oldest waited for that.
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
    """The range, among those just acknowledged, whose last copy caused this ACK, as a DSACK says.

    The ACK of its first copy was lost. The timestamp echo belongs to that first copy, and would make a round
    trip of our own time-out.
    """
    if seg.sack:
        left = unwrap(seg.sack[0][0], una)
        if left < unwrap(seg.sack[0][1], una) <= una:
            for sent in newly:
                if sent.start <= left < sent.end and sent.retransmitted:
                    return sent
    return None
