"""Writes tables: aligned columns with titles, on a terminal as wide as it is.

Where a table does not fit, columns that may shrink become narrower, and then columns that may be missing are
left out. If the output is not a terminal, nothing is shortened, so that scripts get whole fields.
"""

import shutil
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

GAP: Final = "  "
MORE: Final = "…"
"""Stands for the end of a text that is cut."""


class Column(NamedTuple):
    """``shrinks_to``: fewest characters on a narrow terminal, 0 if it is never cut.

    ``keeps_end``: it is cut at the beginning. ``optional``: it is left out where the table does not fit
    otherwise. The highest number goes first, all columns of one number together. 0 for never. ``least``: it
    has this number of characters whatever is in it, so that it stands still while its texts change.
    """

    title: str
    right: bool = False
    shrinks_to: int = 0
    keeps_end: bool = False
    optional: int = 0
    least: int = 0


class Fitted(NamedTuple):
    """A table whose texts have the width of their column. ``shown``: the numbers of the columns it has."""

    shown: list[int]
    titles: list[str]
    rows: list[list[str]]


def terminal_width() -> int:
    """Characters of a line of the terminal on standard output, 0 if that is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int = 0) -> str:
    """The lines of a table. width: of the terminal; 0 for as wide as need be."""
    found = fit(columns, rows, width)
    return "".join(GAP.join(line).rstrip() + "\n" for line in (found.titles, *found.rows))


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int = 0) -> Fitted:
    """Make a table fit, with GAP between columns. width: as table() has it."""
    clean = [[printable(cell) for cell in row] for row in rows]
    sizes = [
        max(column.least, len(column.title), *(len(row[at]) for row in clean))
        if clean
        else max(column.least, len(column.title))
        for at, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    if width:
        shown = _shrink(columns, sizes, width)
    titles, *cells = (
        [_cell(line[at], sizes[at], columns[at]) for at in shown]
        for line in ([column.title for column in columns], *clean)
    )
    return Fitted(shown, titles, cells)


def printable(text: str) -> str:
    """Text whose control characters are escaped: a name of a guest must not command the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _shrink(columns: Sequence[Column], sizes: list[int], width: int) -> list[int]:
    """Shrink sizes. Returns the columns that are shown."""
    shown = list(range(len(columns)))
    wanted = list(sizes)
    while True:
        sizes[:] = wanted
        excess = sum(sizes[at] for at in shown) + len(GAP) * (len(shown) - 1) - width
        while excess > 0:
            able = [at for at in shown if columns[at].shrinks_to and sizes[at] > columns[at].shrinks_to]
            if not able:
                break
            sizes[max(able, key=lambda at: sizes[at] - columns[at].shrinks_to)] -= 1
            excess -= 1
        optional = [at for at in shown if columns[at].optional]
        if excess <= 0 or not optional:
            return shown
        number = max(columns[at].optional for at in optional)
        shown = [at for at in shown if columns[at].optional != number]


def _cell(text: str, size: int, column: Column) -> str:
    if len(text) > size:
        kept = size - len(MORE)
        text = f"{MORE}{text[-kept:]}" if column.keeps_end else f"{text[:kept]}{MORE}"
    return text.rjust(size) if column.right else text.ljust(size)
