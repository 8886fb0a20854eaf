"""How the entries of a ring move between a list and the ring's memory, and which part of it is a burst.

Compiled code does not call these functions: the compiler puts those of native/access.h in their place
(native/compiler.py). They do the same, without a slice, a copy or a number for each entry.
"""

from array import array


def put_records(entries: memoryview, at: int, records: list[bytes], n: int, size: int) -> None:
    """Copy the first n records, of size bytes each, to the entries from entry ``at`` on.

    Raises ValueError if they have another length, or do not fit.
    """
    entries[at * size : (at + n) * size] = b"".join(records if n == len(records) else records[:n])


def put_slots(entries: memoryview, at: int, slots: list[int], n: int) -> None:
    """Copy the first n numbers to the 64-bit words from word ``at`` on. ValueError if they do not fit."""
    entries[at : at + n] = memoryview(array("Q", slots[:n]))


def take_slots(entries: memoryview, at: int, n: int) -> list[int]:
    """The n 64-bit words from word ``at`` on."""
    return entries[at : at + n].tolist()


def part(view: memoryview, begin: int, end: int) -> memoryview:
    """view[begin:end], where 0 <= begin <= end <= len(view)."""
    return view[begin:end]
