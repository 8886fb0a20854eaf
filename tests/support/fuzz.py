"""Hostile bytes for tests of parsers, and the check that they do no harm."""

from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

from pipeline.counters import INDEX
from pipeline.wire import ip
from pipeline.wire.errors import WireError

T = TypeVar("T")

addrs = st.integers(0, 0xFFFFFFFF).map(ip.from_ipv4)
u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
macs = st.binary(min_size=6, max_size=6)


def parsed(parse: Callable[..., T], *args: object) -> T | None:
    """The parser's result; None if it refuses the bytes with a reason that has a counter."""
    try:
        return parse(*args)
    except WireError as error:
        reason = error.reason
    assert reason in INDEX, reason
    return None


@st.composite
def windows(draw: st.DrawFn, max_size: int = 200) -> tuple[memoryview, int, int]:
    """A buffer and bounds in it. Sometimes the bounds are wrong (end after the buffer, off after end)."""
    data = draw(st.binary(max_size=max_size))
    off = draw(st.integers(0, len(data) + 4))
    end = draw(st.integers(0, len(data) + 4) | st.just(len(data)))
    return memoryview(data), off, end


def mutations(valid: bytes) -> st.SearchStrategy[bytes]:
    """valid with a few bytes changed, and perhaps cut. It gets further into a parser than random bytes."""

    def damage(edits: list[tuple[int, int]], length: int) -> bytes:
        data = bytearray(valid)
        for where, value in edits:
            data[where % len(data)] = value
        return bytes(data[:length])

    edits = st.lists(st.tuples(u16, u8), max_size=4)
    return st.builds(damage, edits, st.integers(0, len(valid)) | st.just(len(valid)))
