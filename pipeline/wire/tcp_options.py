"""TCP options: MSS (RFC 9293 3.2), window scale and timestamps (RFC 7323), SACK (RFC 2018).

Unknown options are skipped. If an option has an impossible length, the segment is malformed: the bytes
after it cannot be parsed. RFC 9293 (MUST-7) requires that illegal lengths are handled.
"""

from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire.errors import WireError

END: Final = 0
NOP: Final = 1
MSS: Final = 2
WINDOW_SCALE: Final = 3
SACK_PERMITTED: Final = 4
SACK: Final = 5
TIMESTAMPS: Final = 8

MAX_WINDOW_SCALE: Final = 14
"""A larger shift is treated as this one (RFC 7323 section 2.3)."""
MAX_SACK_BLOCKS: Final = 4
MAX_SACK_BLOCKS_WITH_TIMESTAMPS: Final = 3
TIMESTAMPS_LEN: Final = 12
"""Bytes of the timestamps option with two NOPs before it, as every stack sends it (RFC 7323 appendix A)."""
TIMESTAMPS_WORD: Final = 0x0101080A
"""The first four of these bytes: NOP, NOP, kind, length."""

_MSS: Final = Struct("!BBH")
_WINDOW_SCALE: Final = Struct("!BBBB")
_TIMESTAMPS: Final = Struct("!III")
_PAIR: Final = Struct("!II")


class Options(NamedTuple):
    """The options of one segment. mss 0 and wscale -1 mean that the option is absent.

    sack: the (left, right) edges of the blocks, in the order of the segment: the most recent first.
    """

    mss: int = 0
    wscale: int = -1
    sack_permitted: bool = False
    sack: tuple[tuple[int, int], ...] = ()
    ts_val: int = 0
    ts_ecr: int = 0
    has_ts: bool = False


NONE: Final = Options()


def parse(view: memoryview | bytes, off: int, end: int) -> Options:
    """Read the options in view[off:end], up to the header's data offset.

    Raises WireError for an impossible length.
    """
    if off >= end:
        return NONE
    if end > len(view) or off < 0:
        raise WireError("tcp_segment_dropped_bad_options")
    if end - off == TIMESTAMPS_LEN:
        word, ts_val, ts_ecr = _TIMESTAMPS.unpack_from(view, off)
        if word == TIMESTAMPS_WORD:
            return Options(0, -1, False, (), ts_val, ts_ecr, True)
    return _walk(view if isinstance(view, memoryview) else memoryview(view), off, end)


def _walk(view: memoryview, off: int, end: int) -> Options:
    mss, wscale, sack_permitted, ts_val, ts_ecr, has_ts = 0, -1, False, 0, 0, False
    sack: tuple[tuple[int, int], ...] = ()
    while off < end:
        kind = view[off]
        if kind == END:
            break
        if kind == NOP:
            off += 1
            continue
        if off + 1 >= end:
            raise WireError("tcp_segment_dropped_bad_options")
        length = view[off + 1]
        if length < 2 or off + length > end:
            raise WireError("tcp_segment_dropped_bad_options")
        if kind == MSS:
            _expect(length, 4)
            mss = view[off + 2] << 8 | view[off + 3]
        elif kind == WINDOW_SCALE:
            _expect(length, 3)
            wscale = min(view[off + 2], MAX_WINDOW_SCALE)
        elif kind == SACK_PERMITTED:
            _expect(length, 2)
            sack_permitted = True
        elif kind == TIMESTAMPS:
            _expect(length, 10)
            ts_val, ts_ecr = _PAIR.unpack_from(view, off + 2)
            has_ts = True
        elif kind == SACK:
            if length < 10 or (length - 2) % 8:
                raise WireError("tcp_segment_dropped_bad_options")
            sack = tuple((left, right) for left, right in _PAIR.iter_unpack(view[off + 2 : off + length]))
        off += length
    return Options(mss, wscale, sack_permitted, sack, ts_val, ts_ecr, has_ts)


def _expect(length: int, wanted: int) -> None:
    if length != wanted:
        raise WireError("tcp_segment_dropped_bad_options")


def build_syn(
    mss: int,
    wscale: int = -1,
    sack_permitted: bool = False,
    has_ts: bool = False,
    ts_val: int = 0,
    ts_ecr: int = 0,
) -> bytes:
    """Options of a SYN or SYN-ACK, padded to a multiple of 4 (at most 20 bytes).

    mss 0 leaves the MSS option out, wscale -1 the window scale option.
    """
    parts = []
    if mss:
        parts.append(_MSS.pack(MSS, 4, mss))
    if has_ts:
        # Where SACK-permitted is sent too, its two bytes replace the two NOPs.
        lead = bytes((SACK_PERMITTED, 2)) if sack_permitted else bytes((NOP, NOP))
        parts.append(lead + bytes((TIMESTAMPS, 10)) + _PAIR.pack(ts_val, ts_ecr))
    elif sack_permitted:
        parts.append(bytes((NOP, NOP, SACK_PERMITTED, 2)))
    if wscale >= 0:
        parts.append(_WINDOW_SCALE.pack(NOP, WINDOW_SCALE, 3, wscale))
    return b"".join(parts)


def build(
    has_ts: bool = False,
    ts_val: int = 0,
    ts_ecr: int = 0,
    sack: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """Options of a segment without SYN, padded to a multiple of 4 (at most 40 bytes).

    SACK blocks that do not fit are left out: there is room for four, or three with timestamps.
    """
    options = _TIMESTAMPS.pack(TIMESTAMPS_WORD, ts_val, ts_ecr) if has_ts else b""
    if not sack:
        return options
    blocks = sack[: MAX_SACK_BLOCKS_WITH_TIMESTAMPS if has_ts else MAX_SACK_BLOCKS]
    body = b"".join(_PAIR.pack(left, right) for left, right in blocks)
    return options + bytes((NOP, NOP, SACK, 2 + len(body))) + body
