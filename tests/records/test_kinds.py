"""Every kind has one number, one class and one row in the table."""

import importlib
import re
from pathlib import Path

import pipeline.records
from pipeline.records import frames, kinds
from pipeline.records.flows import FLOW_FROM_EGRESS
from pipeline.topology import DEMUX, EGRESS, INGRESS, RESOLVER, TCP
from tests.support.layouts import CLASSES

CONSTANTS = {"RECORD_BYTES", "SLOT_ENTRY_BYTES", "NO_SLOT"}
ROLES = {INGRESS, DEMUX, TCP, EGRESS, RESOLVER}
NUMBERS = {
    name: value
    for name, value in vars(kinds).items()
    if name.isupper() and isinstance(value, int) and name not in CONSTANTS
}


def rows() -> list[tuple[str, str, str, str]]:
    """The table at the top of kinds.py: kind, class, edges, reference."""
    _, _, body, _ = re.split(r"^=+ =+ =+ =+$", str(kinds.__doc__), flags=re.M)
    found: list[tuple[str, str, str, str]] = []
    for line in body.strip("\n").splitlines():
        kind, cls, edges, reference = (
            line[a:b].strip() for a, b in ((0, 17), (17, 33), (33, 77), (77, None))
        )
        if kind:
            found.append((kind, cls, edges, reference))
        else:
            kind, cls, first, reference = found.pop()
            found.append((kind, cls, f"{first} {edges}", reference))
    return found


def test_a_record_has_room_for_two_addresses_of_either_family() -> None:
    assert kinds.RECORD_BYTES == 96


def test_numbers_that_mean_something_else_are_the_largest_of_their_field() -> None:
    assert kinds.NO_SLOT == 0xFFFFFFFF
    assert frames.ALL_LINKS == 0xFFFF
    assert FLOW_FROM_EGRESS == 1 << 31, "the upper half of all flow numbers is of egress"


def test_one_flow_or_guest_is_reported_once_a_second() -> None:
    assert kinds.REPORT_EVERY_S == 1.0


def test_numbers_are_distinct_and_fit_a_byte() -> None:
    assert len(NUMBERS) > 40
    assert len(set(NUMBERS.values())) == len(NUMBERS)
    assert all(0 < number < 256 for number in NUMBERS.values())


def test_every_kind_has_exactly_one_class_and_row() -> None:
    assert sorted(NUMBERS.values()) == sorted(CLASSES)
    table = {kind: cls for kind, cls, _, _ in rows()}
    assert len(table) == len(rows())
    assert table == {name: CLASSES[number].__name__ for name, number in NUMBERS.items()}


def test_every_class_with_a_layout_is_of_some_kind() -> None:
    made = {
        value
        for path in Path(pipeline.records.__path__[0]).glob("*.py")
        for value in vars(importlib.import_module(f"pipeline.records.{path.stem}")).values()
        if isinstance(value, type) and hasattr(value, "unpack") and value.__module__.startswith("pipeline.")
    }
    assert made == set(CLASSES.values())


def test_rows_name_edges_and_say_who_has_the_reference() -> None:
    for kind, cls, edges, reference in rows():
        for edge in edges.split(", "):
            writer, reader = edge.split(" -> ")
            assert {writer, reader} <= ROLES, (kind, edge)
        has_slot = "slot" in CLASSES[NUMBERS[kind]].__init__.__annotations__
        assert reference in (("moves", "stays", "last") if has_slot else ("-",)), (kind, cls)
