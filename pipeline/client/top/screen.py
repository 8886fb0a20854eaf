"""The screen of ``top``: keys change the state, polls fill it, and the table shows it."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import ClassVar, Final

from rich.text import Text
from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable, Footer, Input, Static

from pipeline.client.tables import printable
from pipeline.client.top import polls
from pipeline.client.top.dialogs import Help, Question
from pipeline.client.top.grid import Grid
from pipeline.client.top.state import State, View

LOOK: Final = 0.5
"""Seconds from one look at the clock to the next: does the daemon answer?"""
_SCROLL_BAR: Final = 1


class Polled(Message):
    """A poll is over."""

    def __init__(self, poll: polls.Poll) -> None:
        super().__init__()
        self.poll = poll


class Ended(Message):
    """The daemon has answered to a DELETE. error: why the flow was not ended, "" if it was."""

    def __init__(self, flow: str, error: str) -> None:
        super().__init__()
        self.flow = flow
        self.error = error


class Top(App[None]):
    """The screen of one daemon."""

    TITLE = "gvtap-pipeline top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    .line { height: 1; padding: 0 1; }
    #views { background: $panel; }
    #silence { background: $error; color: $text; text-style: bold; display: none; }
    #silence, #notes { height: auto; max-height: 3; }
    #silence.silent { display: block; }
    Grid { height: 1fr; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
    Grid.silent { opacity: 50%; }
    Grid:nocolor > .datatable--cursor { text-style: reverse; }
    #filter { height: 1; border: none; display: none; padding: 0 1; }
    #filter.open { display: block; }
    #notes { color: $text-muted; }
    Help, Question { align: center middle; }
    .box { width: auto; height: auto; max-width: 100%; border: round $primary; padding: 0 1; }
    .box Static { width: auto; height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(at), f"view({view.value!r})", show=False) for at, view in enumerate(View, 1)),
        Binding("tab", "next_view(1)", show=False, priority=True),
        Binding("shift+tab", "next_view(-1)", show=False, priority=True),
        Binding("less_than_sign", "sort(-1)", "Sort", key_display="<"),
        Binding("greater_than_sign", "sort(1)", "Sort", key_display=">"),
        Binding("r", "reverse", "Reverse"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("escape", "all", "All", key_display="Esc"),
        Binding("d,delete", "end", "End flow", key_display="d"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(
        self, source: polls.Source, interval: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """interval: seconds between two polls of the source. clock: that of their times."""
        # Only of the terminal's own colours textual leaves none. Of others it leaves shades of grey.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        self.state = State(interval, clock())
        self._source = source
        self._clock = clock
        self._daemon, self._sums, self._silence, self._notes = (
            Static(id=name, classes="line", markup=False) for name in ("daemon", "sums", "silence", "notes")
        )
        self._views = Static(id="views", classes="line")
        self._grid = Grid()
        self._filter = Input(id="filter", placeholder="words that a row must have", compact=True)

    # --- the screen -----------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield from (self._daemon, self._sums, self._silence, self._views)
        yield from (self._grid, self._notes, self._filter)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin to poll."""
        self._grid.focus()
        self._refresh()
        self._source.start(self.state.asks(), lambda poll: self.post_message(Polled(poll)))
        self.set_interval(LOOK, self._refresh_silence)
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Without this the terminal would keep its state.
            asyncio.get_running_loop().add_signal_handler(number, self.exit)

    def on_unmount(self) -> None:
        """End the polls."""
        self._source.stop()

    @on(Polled)
    def _polled(self, message: Polled) -> None:
        self.state.take(message.poll)
        self._refresh()

    @on(events.Resize)
    def _resized(self) -> None:
        # The event comes before the widgets have their new size.
        self.call_after_refresh(self._refresh)

    def _refresh(self) -> None:
        """Show the state."""
        for widget, line in zip((self._daemon, self._sums), self.state.head(), strict=True):
            widget.update(printable(line))
        self._views.update(_line_of_views(self.state.view))
        self._grid.fill(self.state.shown(), self.size.width - _SCROLL_BAR)
        self._notes.update(printable(self.state.notes(self._grid.shown_columns)))
        self._refresh_silence()

    def _refresh_silence(self) -> None:
        text = self.state.silence(self._clock())
        self._silence.update(printable(text))
        for widget in (self._silence, self._grid):
            widget.set_class(bool(text), "silent")

    # --- keys ---------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only flows can be ended, and keys of the screen do nothing while a dialog is open."""
        if action in ("quit", "answer", "dismiss"):
            return True
        if len(self.screen_stack) > 1 and action in OWN_ACTIONS:
            return False
        return self.state.view is View.FLOWS if action == "end" else True

    def action_view(self, name: str) -> None:
        """Change to a view."""
        self._show(View(name))

    def action_next_view(self, step: int) -> None:
        """Change to the view at the right, or with -1 at the left."""
        views = list(View)
        self._show(views[(views.index(self.state.view) + step) % len(views)])

    def _show(self, view: View) -> None:
        self.state.show(view)
        self._changed()

    def _changed(self) -> None:
        """Show another view, and ask for what it needs."""
        self._close_filter()
        self._source.ask(self.state.asks())
        self.refresh_bindings()
        self._refresh()

    @on(DataTable.RowSelected)
    def _row_selected(self) -> None:
        if self.state.view is View.GUESTS and (guest := self._grid.key):
            self.state.show_flows_of(guest)
            self._changed()

    @on(DataTable.HeaderSelected)
    def _header_selected(self, message: DataTable.HeaderSelected) -> None:
        self.state.sort_by(self._grid.shown_columns[message.column_index])
        self._refresh()

    def action_sort(self, step: int) -> None:
        """Sort by the next column."""
        self.state.sort_by_next(step)
        self._refresh()

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self.state.reverse()
        self._refresh()

    def action_help(self) -> None:
        """Show all keys."""
        self.push_screen(Help())

    # --- the filter -----------------------------------------------------------------------

    def action_filter(self) -> None:
        """Open the line for the filter."""
        self._filter.value = self.state.filter
        self._filter.add_class("open")
        self._filter.focus()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, message: Input.Changed) -> None:
        if message.input.has_class("open"):
            self.state.filter = message.value
            self._refresh()

    @on(Input.Submitted, "#filter")
    def _close_filter(self) -> None:
        self._filter.remove_class("open")
        self._grid.focus()

    def action_all(self) -> None:
        """Show all rows again."""
        self._close_filter()
        self.state.filter = ""
        if self.state.view is View.FLOWS and self.state.guest:
            self.state.show_flows_of("")
            self._changed()
        self._refresh()

    # --- ending a flow ----------------------------------------------------------------------

    def action_end(self) -> None:
        """Ask whether the flow under the cursor shall end."""
        flow = self._grid.key
        row = next((row for row in self.state.shown().rows if row.key == flow), None)
        if row is None:
            return
        _, protocol, guest, arrow, peer, *_ = row.cells

        def answered(yes: bool | None) -> None:
            if yes:
                self._source.end(flow, lambda error: self.post_message(Ended(flow, error)))

        self.push_screen(Question(printable(f"End {protocol} {guest} {arrow} {peer} ({flow})?")), answered)

    @on(Ended)
    def _ended(self, message: Ended) -> None:
        if message.error:
            self.notify(printable(message.error), severity="error", markup=False)
        else:
            self.notify(f"{printable(message.flow)} is ended", markup=False)
            self._source.ask(self.state.asks())


OWN_ACTIONS: Final = ("view", "next_view", "sort", "reverse", "filter", "all", "end", "help")
"""Actions of keys that do nothing while a dialog is open."""


def _line_of_views(current: View) -> Text:
    """The line that names the views and their keys."""
    line = Text()
    for at, view in enumerate(View, 1):
        line.append(f" {at} {view.value} ", "reverse" if view is current else "")
        line.append(" ")
    return line
