"""The record: its size, and kinds that cannot be taken for each other."""

import re

from pipeline.records import descriptor
from pipeline.records.descriptor import DESCRIPTOR, DESCRIPTOR_BYTES, NO_SLOT

MODIFIERS = re.compile(
    r"RUN_\w+|OUT_\w+|UDP_BEHIND|MAKE_WAY_\w+|DIAL_FINAL|FRAME_(BORROWED|VNET)|SHUTDOWN_BOTH|DESCRIPTOR_BYTES"
)
"""Bits and constants of records; every other small number is a kind."""


def kinds() -> dict[str, int]:
    numbers = {
        name: value for name, value in vars(descriptor).items() if name.isupper() and isinstance(value, int)
    }
    return {name: value for name, value in numbers.items() if value < 256 and not MODIFIERS.fullmatch(name)}


def test_a_record_is_one_cache_line() -> None:
    assert DESCRIPTOR_BYTES == 64


def test_kinds_are_distinct_and_fit_their_byte() -> None:
    numbers = kinds()
    assert len(numbers) > 25
    assert len(set(numbers.values())) == len(numbers), sorted(numbers.items(), key=lambda item: item[1])
    assert all(0 < number < 256 for number in numbers.values())


def test_every_field_holds_its_largest_value() -> None:
    largest = (0xFF, 0xFF, 0xFFFF, 0xFFFF, 0xFFFF, NO_SLOT, *[0xFFFFFFFF] * 13)
    assert DESCRIPTOR.unpack(DESCRIPTOR.pack(*largest)) == largest


def test_fields_lie_where_the_drawing_says() -> None:
    fields = DESCRIPTOR.unpack(bytes(range(64)))
    offsets = [0, 1, 2, 4, 6, *range(8, 64, 4)]
    assert [value & 0xFF for value in fields] == offsets


def test_a_record_by_names_is_the_same_as_one_packed_directly() -> None:
    fields = (descriptor.TAKEN, 0, 0, 0, 0, NO_SLOT, 0, 77, 0, 5, *[0] * 9)
    assert descriptor.record(descriptor.TAKEN, flow=5, length=77) == DESCRIPTOR.pack(*fields)
