"""docs/events.md has the tables that the table of events gives."""

from pipeline.events import reference
from pipeline.events.table import TABLE
from tests.events.calls import ROOT


def test_the_page_is_as_generated() -> None:
    text = (ROOT / "docs" / "events.md").read_text()
    assert reference.tables() in text, "run python -m pipeline.events.reference, and paste its tables"


def test_every_kind_is_in_one_chapter() -> None:
    found = [kind.name for _, kinds in reference.CHAPTERS for kind in kinds]
    assert sorted(found) == sorted(kind.name for kind in TABLE)
