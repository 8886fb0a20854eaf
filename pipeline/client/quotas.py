"""The commands ``quotas show`` and ``quotas reset``: what guests of a running daemon have used."""

from collections.abc import Sequence
from typing import Final

from pipeline.client import api, units
from pipeline.client.records import UNKNOWN, Record, records
from pipeline.client.show import OK, ask, print_answer
from pipeline.client.tables import Column, table
from pipeline.go import flags

QUOTAS: Final = "/quotas"
RESET: Final = "/quotas/reset"
ALL: Final = "all"
_COLUMNS: Final = (
    Column("GUEST", shrinks_to=15),
    Column("PER"),
    Column("UP", right=True),
    Column("DOWN", right=True),
    Column("CONNECTIONS", right=True, optional=2),
    Column("QUESTIONS", right=True, optional=1),
    Column("LEAST LEFT", shrinks_to=12),
)


def show(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """List what guests have used."""

    def run(found: api.Api, width: int) -> int:
        answer = found.read(QUOTAS)
        rows = [_row(each, people=bool(width)) for each in records(answer)]
        print_answer(parsed, answer, lambda: table(_COLUMNS, rows, width))
        return OK

    return ask("quotas show", parsed, run)


def reset(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Let what a guest has used begin at zero."""
    (guest,) = parsed.arguments
    asked = {"guest": "" if guest == ALL else guest, "per": parsed.text("per")}

    def run(found: api.Api, _width: int) -> int:
        answer = found.post(RESET, asked)
        count = Record(answer).number("accounts")
        print_answer(parsed, answer, lambda: f"accounts that begin at zero: {count}\n")
        return OK

    return ask("quotas reset", parsed, run)


def _row(use: Record, *, people: bool) -> list[str]:
    numbers = ("connections", "dns_questions")
    sizes = (use.number("bytes_from_guest"), use.number("bytes_to_guest"))
    return [
        use.text("guest"),
        use.text("per"),
        *(units.size(size) if people else str(int(size)) for size in sizes),
        *(str(int(use.number(name))) for name in numbers),
        _least(use.records("quotas"), people=people),
    ]


def _least(bounds: Sequence[Record], *, people: bool) -> str:
    """The bound of which the smallest part is left."""
    if not bounds:
        return UNKNOWN
    bound = min(bounds, key=lambda each: each.number("left") / max(1, each.number("most")))
    limit, left, most = bound.text("limit"), bound.number("left"), bound.number("most")
    if people and limit.startswith("bytes"):
        return f"{units.size(left)} of {units.size(most)}, {limit}"
    return f"{int(left)} of {int(most)}, {limit}"
