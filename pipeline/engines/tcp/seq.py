"""Sequence numbers, and the *positions* that the engine uses instead of them (RFC 9293 section 3.4).

On the wire a sequence number has 32 bits and wraps. A position is a plain int that starts at the initial
sequence number and never wraps. So snd_una, snd_nxt, rcv_nxt and all ranges compare with ``<``.

When a segment arrives, its 32-bit number becomes the nearest position to one that is known. This is right
because every acceptable number is within 2**30 (the largest window) of the known position. ``& MASK`` turns a
position into the number on the wire.
"""

from typing import Final

MASK: Final = 0xFFFFFFFF
HALF: Final = 0x80000000
NO_POSITION: Final = -1
"""The value of a sequence variable that is not set. Positions are never negative."""


def diff(a: int, b: int) -> int:
    """Signed distance a - b modulo 2**32, in [-2**31, 2**31). Positive if a is after b.

    >>> diff(5, 0xFFFFFFFF)
    6
    """
    return ((a - b + HALF) & MASK) - HALF


def unwrap(number: int, near: int) -> int:
    """The position nearest to ``near`` whose number on the wire is ``number``."""
    return near + ((number - near + HALF) & MASK) - HALF


def lt(a: int, b: int) -> bool:
    """Whether the 32-bit number a comes before b (also for timestamps, RFC 7323 section 5.2)."""
    return ((a - b) & MASK) >= HALF
