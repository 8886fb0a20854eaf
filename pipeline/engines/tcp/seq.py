"""Sequence numbers: 32 bits on the wire, positions inside the engine (RFC 9293 section 3.4).

On the wire a sequence number has 32 bits and wraps. Inside the engine it is a position: a plain int that
starts at the initial sequence number and never wraps. So snd_una, snd_nxt, rcv_nxt and all ranges compare
with ``<``.

Where a segment arrives, a 32-bit number becomes a position once: the one nearest to a position already
known. ``& MASK`` turns a position back into the number on the wire. This is right because everything
acceptable lies within 2**30 (the largest window) of the known position.
"""

from typing import Final

MASK: Final = 0xFFFFFFFF
HALF: Final = 0x80000000
NO_POSITION: Final = -1
"""A sequence variable that is not set; positions are never negative."""


def diff(a: int, b: int) -> int:
    """Signed distance a - b modulo 2**32, in [-2**31, 2**31): positive when a is after b.

    >>> diff(5, 0xFFFFFFFF)
    6
    """
    return ((a - b + HALF) & MASK) - HALF


def unwrap(number: int, near: int) -> int:
    """The position nearest to ``near`` that is written ``number`` on the wire."""
    return near + ((number - near + HALF) & MASK) - HALF


def lt(a: int, b: int) -> bool:
    """Whether the 32-bit number a comes before b (also for timestamps, RFC 7323 section 5.2)."""
    return ((a - b) & MASK) >= HALF
