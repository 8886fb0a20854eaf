"""Which records carry a reference: the code must agree with the layouts and with the table of kinds."""

import random

import pytest

from pipeline.records import kinds
from pipeline.records.frames import FrameOut
from pipeline.records.references import CARRIERS, slot_of
from tests.support.layouts import CLASSES
from tests.support.received import Received


def table_of_kinds() -> dict[str, str]:
    """The last column of the table in kinds.py, by the name of the kind."""
    assert kinds.__doc__ is not None
    lines = [line.split() for line in kinds.__doc__.splitlines()]
    return {words[0]: words[-1] for words in lines if len(words) > 3 and hasattr(kinds, words[0])}


def test_the_table_of_kinds_names_the_same_records() -> None:
    column = table_of_kinds()
    assert len(column) == len(CLASSES)
    assert {getattr(kinds, name) for name, word in column.items() if word in ("moves", "last")} == CARRIERS


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_any_record_names_the_slot_whose_reference_it_carries(kind: int) -> None:
    rng = random.Random(kind)
    for _ in range(50):
        raw = bytes((kind,)) + rng.randbytes(kinds.RECORD_BYTES - 1)
        record = Received(raw)
        assert slot_of(raw) == (record.slot if record.carries() else kinds.NO_SLOT)
        assert slot_of(bytes(kinds.RECORD_BYTES) + raw, kinds.RECORD_BYTES) == slot_of(raw)


def test_a_borrowed_frame_leaves_the_reference_to_a_later_record() -> None:
    assert slot_of(FrameOut.pack(1, 7, 256, 60, borrowed=True)) == kinds.NO_SLOT
    assert slot_of(FrameOut.pack(1, 7, 256, 60, borrowed=False)) == 7
