"""What ``top`` knows and shows, without a screen: polls come in, sorted and filtered rows go out."""

import re
from collections.abc import Sequence
from enum import Enum
from time import localtime, strftime
from typing import Final, NamedTuple

from pipeline.client import units
from pipeline.client.options import PROTOCOLS
from pipeline.client.records import UNKNOWN, Record, records
from pipeline.client.tables import Column
from pipeline.client.top import polls, rows
from pipeline.client.top.polls import Ask, Poll
from pipeline.client.top.rates import Rates
from pipeline.client.top.rows import DIRECTIONS, Row
from pipeline.client.top.samples import Samples

PATIENCE: Final = 2.0
"""Seconds over the interval after which a missing answer is reported."""
AS_ANSWERED: Final = -1
_DIGITS: Final = re.compile(r"\d+")
_STATUS: Final = Ask(polls.STATUS)
_GUESTS: Final = Ask(polls.GUESTS)
_METRICS: Final = Ask(polls.METRICS)


class View(Enum):
    """What fills the screen, one at a time."""

    GUESTS = "guests"
    FLOWS = "flows"
    WORKERS = "workers"
    DROPS = "drops"


class Order(NamedTuple):
    """A column by its number, and its direction. AS_ANSWERED: the rows stand as the daemon lists them."""

    column: int
    descending: bool


class Shown(NamedTuple):
    """A view as a table."""

    columns: tuple[Column, ...]
    rows: list[Row]
    order: Order


COLUMNS: Final[dict[View, tuple[Column, ...]]] = {
    View.GUESTS: rows.GUESTS,
    View.FLOWS: rows.FLOWS,
    View.WORKERS: rows.WORKERS,
    View.DROPS: rows.DROPS,
}


def _by(view: View, title: str, *, descending: bool) -> Order:
    return Order([column.title for column in COLUMNS[view]].index(title), descending)


class State:
    """The polls so far, and the user's choices."""

    def __init__(self, interval: float, began: float) -> None:
        """interval: seconds between two polls. began: when the first was asked, on the clock of polls."""
        self.view = View.FLOWS
        self.guest = ""
        """Only flows of this guest, by its number; "" for all."""
        self.error = ""
        """Why the last poll got no answer."""
        self._interval = interval
        self._began = began
        self._answered: float | None = None
        self._clock = 0.0
        self._filters = dict.fromkeys(View, "")
        self._orders = {
            View.GUESTS: _by(View.GUESTS, "GUEST", descending=False),
            View.FLOWS: _by(View.FLOWS, "BOTH/s", descending=True),
            View.WORKERS: Order(AS_ANSWERED, descending=False),
            View.DROPS: _by(View.DROPS, "DROPPED", descending=True),
        }
        self._status = Record(None)
        self._rows: dict[View, list[Row]] = {view: [] for view in View}
        self._faults: dict[str, str] = {}
        self._total_flows = 0
        self._sum_rates: Rates[str] = Rates()
        # The daemon lists a cause when its count is not 0.
        self._drop_rates: Rates[str] = Rates(missing=0.0)
        self._guest_rates: Rates[rows.Counter] = Rates()
        self._flow_rates: Rates[rows.Counter] = Rates()

    # --- the daemon ---------------------------------------------------------------------

    def asks(self) -> tuple[Ask, ...]:
        """The requests of a poll: what the view needs, and no more."""
        match self.view:
            case View.GUESTS:
                return _STATUS, _GUESTS, _METRICS
            case View.FLOWS:
                return _STATUS, self._ask_flows()
            case View.WORKERS:
                return _STATUS, _METRICS
            case View.DROPS:
                return (_STATUS,)

    def _ask_flows(self) -> Ask:
        guest = (("guest", self.guest),) if self.guest else ()
        return Ask(polls.FLOWS, (*guest, ("limit", str(polls.MOST_FLOWS)), ("sort", "bytes")))

    def take(self, poll: Poll) -> None:
        """Take what a poll has found. Answers to requests that are no longer asked are ignored."""
        self.error = poll.error
        if poll.error:
            return
        self._answered, self._clock = poll.at, poll.clock
        self._faults = {ask.path: fault for ask, fault in poll.faults.items()}
        if _STATUS in poll.answers:
            self._take_status(poll.at, Record(poll.answers[_STATUS]))
        found = poll.answers.get(_METRICS)
        samples = found if isinstance(found, Samples) else None
        if _GUESTS in poll.answers:
            self._take_guests(poll.at, records(poll.answers[_GUESTS]), samples)
        if (ask := self._ask_flows()) in poll.answers:
            self._take_flows(poll.at, Record(poll.answers[ask]))
        if self.view is View.WORKERS:
            workers = _distinct(self._status.records("workers"), "worker")
            self._rows[View.WORKERS] = [rows.worker_row(worker, samples) for worker in workers]

    def _take_status(self, at: float, status: Record) -> None:
        uptime = status.number("uptime_seconds")
        if status.text("pid") != self._status.text("pid") or uptime < self._status.number("uptime_seconds"):
            # Another daemon: its counters have nothing to do with those before.
            self._sum_rates.forget()
            self._drop_rates.forget()
            self._guest_rates.forget()
            self._flow_rates.forget()
        self._status = status
        self._sum_rates.take(at, {name: status.number(f"bytes_{name}s") for name in DIRECTIONS})
        drops = status.record("drops").numbers()
        self._drop_rates.take(at, drops)
        self._rows[View.DROPS] = [
            rows.drop_row(cause, count, self._drop_rates.of(cause)) for cause, count in drops.items()
        ]

    def _take_guests(self, at: float, guests: Sequence[Record], samples: Samples | None) -> None:
        counters = rows.guest_counters(guests, samples) if samples else {}
        self._guest_rates.take(at, counters)
        self._rows[View.GUESTS] = [
            rows.guest_row(guest, counters, self._guest_rates.of) for guest in _distinct(guests, "guest")
        ]

    def _take_flows(self, at: float, answer: Record) -> None:
        flows = _distinct(answer.records("flows"), "id")
        self._flow_rates.take(at, rows.flow_counters(flows))
        self._rows[View.FLOWS] = [rows.flow_row(flow, self._flow_rates.of) for flow in flows]
        self._total_flows = int(answer.number("total"))

    # --- the user's choices ---------------------------------------------------------------

    def show(self, view: View) -> None:
        """Change the view. The rates of a view begin again: nobody polled for them meanwhile."""
        if view is not self.view:
            self.view = view
            self._guest_rates.forget()
            self._flow_rates.forget()

    def show_flows_of(self, guest: str) -> None:
        """Change to the flows of one guest, or of all with ""."""
        if guest != self.guest:
            self.guest = guest
            self._rows[View.FLOWS], self._total_flows = [], 0
        self.show(View.FLOWS)

    @property
    def filter(self) -> str:
        """Words that each row of the view must have."""
        return self._filters[self.view]

    @filter.setter
    def filter(self, words: str) -> None:
        self._filters[self.view] = words

    def sort_by(self, column: int) -> None:
        """Sort by this column of the view; the other way round if it is that already."""
        order = self._orders[self.view]
        if column == order.column:
            self.reverse()
        elif 0 <= column < len(COLUMNS[self.view]):
            # Of numbers the largest, of texts the first of the alphabet is interesting.
            self._orders[self.view] = Order(column, COLUMNS[self.view][column].right)

    def sort_by_next(self, step: int) -> None:
        """Sort by the next column, or with -1 by the one before."""
        columns = COLUMNS[self.view]
        at = self._orders[self.view].column
        while True:
            at = (at + step) % len(columns)
            if columns[at].title:
                self.sort_by(at)
                return

    def reverse(self) -> None:
        """Sort the other way round."""
        order = self._orders[self.view]
        self._orders[self.view] = order._replace(descending=not order.descending)

    # --- what is shown ----------------------------------------------------------------------

    def shown(self) -> Shown:
        """The rows of the view that the filter lets through, sorted."""
        words = self.filter.lower().split()
        found = [
            row
            for row in self._rows[self.view]
            if all(any(word in cell.lower() for cell in row.cells) for word in words)
        ]
        order = self._orders[self.view]
        # The sort is stable: rows that are equal stand by weight.
        found.sort(key=lambda row: row.weight, reverse=True)
        if order.column != AS_ANSWERED:
            found.sort(key=lambda row: _natural(row.order[order.column]), reverse=order.descending)
        elif order.descending:
            found.reverse()
        return Shown(COLUMNS[self.view], found, order)

    def head(self) -> tuple[str, str]:
        """Two lines about the whole daemon."""
        status = self._status
        flows = status.record("flows")
        counts = " ".join(f"{flows.text(name) or 0} {name}" for name in PROTOCOLS)
        up, down = (rows.rate_text(self._sum_rates.of(name)) for name in DIRECTIONS)
        sent, received = (units.size(status.number(f"bytes_{name}s")) for name in DIRECTIONS)
        return (
            f"gvtap-pipeline {status.text('version')}  up {units.time(status.number('uptime_seconds'))}  "
            f"guests {status.text('guests') or UNKNOWN}  flows {counts}",
            f"from guests {up:>6}/s ({sent})  to guests {down:>6}/s ({received})",
        )

    def silence(self, now: float) -> str:
        """Since when the daemon does not answer, and why; "" while it answers. now: time.monotonic()."""
        before = self._began if self._answered is None else self._answered
        late = now - before > self._interval + PATIENCE
        if not self.error and not late:
            return ""
        since = strftime("%H:%M:%S", localtime(self._clock)) if self._answered is not None else "the start"
        return f"no answer since {since}" + (f": {self.error}" if self.error else "")

    def notes(self, visible: Sequence[int]) -> str:
        """What the view leaves out, and what the daemon refused. visible: the columns that the screen has."""
        found = [f"{path}: {fault}" for path, fault in self._faults.items()]
        if self.view is View.FLOWS:
            if self.guest:
                found.append(f"only guest {self.guest}")
            count = len(self._rows[View.FLOWS])
            if self._total_flows > count:
                found.append(f"{count} of {self._total_flows} flows, those with most bytes")
        if (column := self._orders[self.view].column) not in (AS_ANSWERED, *visible):
            found.append(f"sorted by {COLUMNS[self.view][column].title}")
        if self.filter:
            found.append(f"only rows with {self.filter!r}")
        return "; ".join(found)


def _natural(value: float | str) -> float | str:
    """A value to sort by: numbers in a text count as numbers, so that tcp0-9 is before tcp0-10."""
    return value if isinstance(value, float | int) else _DIGITS.sub(lambda found: found[0].zfill(5), value)


def _distinct(found: Sequence[Record], name: str) -> list[Record]:
    """Records by the text of a field that tells them apart. One without it, or a second one, is left out."""
    distinct: dict[str, Record] = {}
    for each in found:
        if key := each.text(name):
            distinct.setdefault(key, each)
    return list(distinct.values())
