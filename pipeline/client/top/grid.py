"""The table of ``top``: it stands still while its texts change, and the cursor stays on its row."""

from typing import ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

from pipeline.client.tables import Column, fit
from pipeline.client.top.state import Shown

DOWN: Final = "▼"
UP: Final = "▲"
_GAP: Final = 2
"""Characters between two columns: the padding of their cells."""


class Grid(DataTable[Text]):
    """Rows by key."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top", show=False),
        Binding("end", "scroll_bottom", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(cursor_type="row", cell_padding=1)
        self.shown_columns: list[int] = []
        """The columns that fit, by their numbers."""
        self._titles: list[str] = []
        self._keys: list[str] = []
        self._cells: list[list[str]] = []

    @property
    def key(self) -> str:
        """The key of the row under the cursor, "" if there is none."""
        return self._keys[self.cursor_row] if 0 <= self.cursor_row < len(self._keys) else ""

    def fill(self, shown: Shown, width: int) -> None:
        """Show this table. width: characters for it."""
        columns = [_marked(column, at, shown) for at, column in enumerate(shown.columns)]
        fitted = fit(columns, [row.cells for row in shown.rows], width - _GAP)
        keys = [row.key for row in shown.rows]
        if (fitted.titles, keys) == (self._titles, self._keys):
            self._update(fitted.rows)
        else:
            self._fill_again(fitted.titles, keys, fitted.rows)
        self.shown_columns = fitted.shown

    def _update(self, cells: list[list[str]]) -> None:
        for at, (old, new) in enumerate(zip(self._cells, cells, strict=True)):
            for column, text in enumerate(new):
                if text != old[column]:
                    # A Text, since a guest's name is not markup.
                    self.update_cell(self._keys[at], str(column), Text(text))
        self._cells = cells

    def _fill_again(self, titles: list[str], keys: list[str], cells: list[list[str]]) -> None:
        # Without a move of the user the cursor stays at the top, whatever row is there.
        followed, row, offset = (self.key if self.cursor_row else ""), self.cursor_row, self.scroll_y
        self.clear(columns=titles != self._titles)
        if titles != self._titles:
            for at, title in enumerate(titles):
                self.add_column(Text(title), width=len(title), key=str(at))
        for key, texts in zip(keys, cells, strict=True):
            self.add_row(*map(Text, texts), key=key)
        self._titles, self._keys, self._cells = titles, keys, cells
        if keys:
            self.scroll_to(y=offset, animate=False, immediate=True)
            self.move_cursor(row=keys.index(followed) if followed in keys else min(row, len(keys) - 1))


def _marked(column: Column, at: int, shown: Shown) -> Column:
    """The column with a mark if the table is sorted by it."""
    if at != shown.order.column:
        return column
    return column._replace(title=f"{column.title}{DOWN if shown.order.descending else UP}")
