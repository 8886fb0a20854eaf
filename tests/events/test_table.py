"""The table of events and the code are equal: each line has a kind, each kind a line, with these fields."""

import ast
import re

import pytest

from pipeline.events.kind import ERROR
from pipeline.events.table import KINDS, NAME_OF, TABLE
from tests.events.calls import ROOT, Call, calls

WRAPPERS = {"pipeline/control/repeated.py", "pipeline/control/hub.py", "pipeline/stages/reporter.py"}
"""They pass on what their callers give."""


def name_of(call: Call) -> str:
    return call.kind or NAME_OF.get(call.text, "")


def test_names_are_unique_and_so_are_texts_of_lines() -> None:
    assert len(KINDS) == len(TABLE)
    texts = [kind.text for kind in TABLE if kind.text and not kind.published]
    assert len(set(texts)) == len(texts)
    assert {kind.text for kind in TABLE if kind.published}.isdisjoint(texts)


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.name)
def test_a_kind_is_well_formed(kind) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", kind.name)
    assert kind.meaning.endswith(".")
    for name, meaning in kind.fields.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert meaning
        assert name not in ("time", "level", "event", "kind", "worker", "pid", "lost", "suppressed") or (
            kind.name in ("log-lines-left-out", "event-lost")
        )


def test_calls_are_found() -> None:
    assert len(calls()) > 80


def problem_of(call: Call) -> str:
    """What a line of the log has that the table has not; "" if nothing."""
    if call.place.partition(":")[0] in WRAPPERS:
        return ""
    if not call.level and not call.kind:
        return ""  # The kind of a report varies. Reporter and Hub look it up, and so do the tests' doubles.
    name = name_of(call)
    if name not in KINDS:
        return f"{call.place} has no kind in the table: {call.text!r}"
    kind = KINDS[name]
    if call.level and kind.level != call.level:
        return f"{call.place} has another level than {name}"
    unknown = call.fields - set(kind.fields)
    return f"{call.place}: {name} has no fields {sorted(unknown)}" if unknown else ""


def test_each_line_of_the_log_is_in_the_table() -> None:
    assert [problem for call in calls() if (problem := problem_of(call))] == []


def test_each_kind_is_used() -> None:
    words = {
        node.value
        for path in (ROOT / "pipeline").rglob("*.py")
        if path.parent.name != "events"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    unused = [kind.name for kind in TABLE if kind.name not in words and kind.text not in words - {""}]
    assert unused == []


@pytest.mark.parametrize("kind", [kind for kind in TABLE if not kind.published], ids=lambda kind: kind.name)
def test_each_field_of_a_line_is_used(kind) -> None:
    found = [call for call in calls() if name_of(call) == kind.name]
    if any(call.open for call in found) or kind.name in ("log-lines-dropped", "log-not-written", "library"):
        return
    used = frozenset().union(*(call.fields for call in found))
    if kind.level == ERROR and "exception" in kind.fields:
        used |= {"exception"}
    assert set(kind.fields) == used
