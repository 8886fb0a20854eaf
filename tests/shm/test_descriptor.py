"""The record: its size, and kinds that cannot be taken for each other."""

from pipeline.shm import descriptor
from pipeline.shm.descriptor import DESCRIPTOR, DESCRIPTOR_BYTES, NO_SLOT

NOT_KINDS = {"DESCRIPTOR_BYTES", "NO_SLOT", "FLOW_FROM_EGRESS"}


def test_a_record_is_one_cache_line() -> None:
    assert DESCRIPTOR_BYTES == 64


def test_kinds_are_distinct_and_fit_their_byte() -> None:
    numbers = [
        value
        for name, value in vars(descriptor).items()
        if name.isupper() and isinstance(value, int) and name not in NOT_KINDS and not name.startswith("OUT_")
    ]
    assert len(numbers) > 20
    assert len(set(numbers)) == len(numbers)
    assert all(0 < number < 256 for number in numbers)


def test_every_field_holds_its_largest_value() -> None:
    largest = (0xFF, 0xFF, 0xFFFF, 0xFFFF, 0xFFFF, NO_SLOT, *[0xFFFFFFFF] * 13)
    assert DESCRIPTOR.unpack(DESCRIPTOR.pack(*largest)) == largest


def test_fields_lie_where_the_drawing_says() -> None:
    fields = DESCRIPTOR.unpack(bytes(range(64)))
    offsets = [0, 1, 2, 4, 6, *range(8, 64, 4)]
    assert [value & 0xFF for value in fields] == offsets
