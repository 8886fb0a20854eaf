"""What each subject of a quota has used, by all workers together, now and before.

A worker counts from zero since its process began. The ledger keeps its last report as a *part* of an entry,
and adds the parts up. What nobody counts any more is in ``settled``: the parts of workers that have died, and
what a predecessor or a file has known. At the beginning of a period, ``settled`` takes the parts away again.

A worker knows a guest by its number: ``guest 7``. The ledger knows it by what opened its links, such as
``process 12`` (pipeline.system.peer), if the system says that. So a guest gains nothing by coming back.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from pipeline.config.choices import LIFE
from pipeline.config.model import Quota
from pipeline.engines import quota_limits
from pipeline.engines.guest_set import LINK_MARK
from pipeline.engines.quota_limits import GUEST_MARK, NUMBERS
from pipeline.ipc.policy_messages import UseRow
from pipeline.system.peer import LOOPBACK, PROCESS_MARK

MAX_ENTRIES: Final = 4096
"""Subjects that are remembered. Beyond, those that no worker counts are forgotten, the oldest first."""
_ZEROS: Final = (0,) * NUMBERS
_FORMS: Final[Mapping[str, str]] = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}

Key = tuple[str, str]
"""Period and subject."""
Place = tuple[str, str]
"""A worker, and the subject as this worker knows it."""


class Bound(NamedTuple):
    """A quota of an entry. limit: its key in the configuration. used: of ``most``."""

    rule: str
    limit: str
    most: int
    used: int

    @property
    def is_used_up(self) -> bool:
        """Whether nothing is left."""
        return self.used >= self.most


class Saved(NamedTuple):
    """An entry for a successor of this program, or for a file. mark: see Entry.mark."""

    per: str
    subject: str
    period: str
    mark: int
    sums: list[int]


def known_rows(rows: Iterable[list[object]]) -> list[Saved]:
    """What a predecessor has saved. It may be of another version: what is not understood is left out."""
    found = []
    for row in rows:
        match row:
            case [str() as per, str() as subject, str() as period, int() as mark, list() as sums] if (
                len(sums) == NUMBERS
            ):
                found.append(Saved(per, subject, period, mark, sums))
    return found


class Entry:
    """What one subject has used in the present period."""

    def __init__(self, per: str, subject: str, period: str) -> None:
        self.per = per
        self.subject = subject
        self.period = period
        """The period's name, such as 2026-01 for a month."""
        self.mark = 0
        """When the process that is the subject was started, 0 for other subjects."""
        self.settled = list(_ZEROS)
        self.parts: dict[Place, list[int]] = {}
        self.bound_by: dict[Place, list[int]] = {}
        """The numbers of the quotas that bound it, as each worker knows them."""
        self.noticed: set[tuple[str, str]] = set()
        """Rules and limits that were reported as used up."""

    @property
    def totals(self) -> list[int]:
        """The sums, before anything less than nothing is left out."""
        return [sum(numbers) for numbers in zip(self.settled, *self.parts.values(), strict=True)]

    @property
    def sums(self) -> list[int]:
        """What was used in all."""
        return [max(0, total) for total in self.totals]

    def settle(self, place: Place) -> None:
        """Nobody counts there any more."""
        self.bound_by.pop(place, None)
        part = self.parts.pop(place, None)
        if part is not None:
            self.settled = [a + b for a, b in zip(self.settled, part, strict=True)]

    def begin_again(self) -> None:
        """Nothing is used from now on."""
        parts = self.parts.values()
        self.settled = [-sum(numbers) for numbers in zip(_ZEROS, *parts, strict=True)]
        self.noticed.clear()

    def elsewhere(self, places: Iterable[Place]) -> Iterator[list[int]]:
        """What all others have counted, for each of these places."""
        totals = self.totals
        for place in places:
            part = self.parts.get(place, _ZEROS)
            yield [total - own for total, own in zip(totals, part, strict=True)]

    def bounds(self, quotas: Sequence[Quota]) -> Iterator[Bound]:
        """How much of each of its quotas is used."""
        sums = self.sums
        for index in sorted(set().union(*self.bound_by.values())):
            if index >= len(quotas):
                continue
            for kind, most in quota_limits.limits(quotas[index]).items():
                used = quota_limits.used(sums, kind)
                yield Bound(quota_limits.rule(index), quota_limits.KEYS[kind], most, used)


class Ledger:
    """All entries."""

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}
        self._incarnations: dict[str, int] = {}
        self._dead: dict[str, int] = {}
        """By worker: the incarnation that is over. Its last report may be read later than its death."""
        self._told: dict[str, dict[Key, list[int]]] = {}
        """By worker: what it was told last, by the keys that it knows."""
        self._identities: dict[str, str] = {}
        """What opened the links of each guest that is there, by the guest as workers know it."""
        self._places: dict[str, list[str]] = {}
        """The same the other way: the guests that are there, by their subject."""
        self._strange: dict[str, set[Key]] = {}
        """By worker: accounts of guests that were not there at the worker's last report."""

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """All entries, by subject and period."""
        return [self._entries[key] for key in sorted(self._entries, key=lambda key: (key[1], key[0]))]

    # --- workers ------------------------------------------------------------------------------

    def set_guests(self, identities: Mapping[int, str]) -> None:
        """The guests that are there: what opened their links by number, "" if that is not known."""
        self._identities = {f"{GUEST_MARK}{number}": name for number, name in identities.items()}
        self._places = {}
        for there, name in self._identities.items():
            self._places.setdefault(name or there, []).append(there)

    def numbers_of(self, subject: str) -> list[int]:
        """The numbers of the guests that are there and have this subject's account."""
        return sorted(int(there.removeprefix(GUEST_MARK)) for there in self._places_of(subject))

    def restarted(self, worker: str) -> None:
        """A worker begins at zero, and knows nothing."""
        for entry in self._entries.values():
            for place in [place for place in entry.parts if place[0] == worker]:
                entry.settle(place)
        self._told.pop(worker, None)
        if worker in self._incarnations:
            self._dead[worker] = self._incarnations.pop(worker)

    def news(self, worker: str) -> list[list[object]]:
        """What a worker has to be told, as in Count.elsewhere. It counts as told."""
        told = self._told.setdefault(worker, {})
        found: list[list[object]] = []
        for (per, subject), entry in self._entries.items():
            known_as = self._places_of(subject) if _is_guest(subject) else [subject]
            numbers = entry.elsewhere((worker, there) for there in known_as)
            for there, now in zip(known_as, numbers, strict=True):
                if told.get((per, there), list(_ZEROS)) != now:
                    told[per, there] = now
                    found.append([per, there, now])
        return found

    def gone(self, worker: str) -> list[list[str]]:
        """The accounts of a worker whose guests are gone, as in Count.gone."""
        found = {
            (per, there)
            for (per, _), entry in self._entries.items()
            for name, there in entry.parts
            if name == worker and there.startswith(GUEST_MARK)
        }
        found |= self._strange.get(worker, set())
        return [[per, there] for per, there in sorted(found) if there not in self._identities]

    def on_report(self, worker: str, incarnation: int, rows: Iterable[UseRow], now: float) -> bool:
        """A worker reports what it has counted. False if it has begun anew: it has to be told everything."""
        if self._dead.get(worker) == incarnation:
            return True
        known = self._incarnations.setdefault(worker, incarnation)
        if known != incarnation:
            self.restarted(worker)
            self._incarnations[worker] = incarnation
        strange = self._strange[worker] = set()
        for row in rows:
            place = (worker, row.subject)
            entry = self._entry_of(row, place, now)
            if entry is None:
                strange.add((row.per, row.subject))
                continue
            entry.parts[place] = list(row.sums)
            entry.bound_by[place] = list(row.quotas)
        return known == incarnation

    def _entry_of(self, row: UseRow, place: Place, now: float) -> Entry | None:
        """The entry of an account; None if its guest has just come, or has gone."""
        if not row.subject.startswith(GUEST_MARK):
            return self._entry(row.per, row.subject, now)
        identity = self._identities.get(row.subject)
        if identity is not None:
            return self._entry(row.per, identity or row.subject, now)
        known = (each for each in self._entries.values() if each.per == row.per and place in each.parts)
        return next(known, None)

    def settle(self, worker: str, gone: Iterable[Sequence[str]]) -> None:
        """A worker has forgotten these accounts."""
        told = self._told.get(worker, {})
        keys = {(per, there) for per, there in gone}
        for key in keys:
            told.pop(key, None)
        for entry in self._entries.values() if keys else ():
            for place in [place for place in entry.parts if place[0] == worker]:
                if (entry.per, place[1]) in keys:
                    entry.settle(place)
        for key in [key for key, entry in self._entries.items() if _is_over(entry, self._identities)]:
            del self._entries[key]

    def _places_of(self, subject: str) -> list[str]:
        """How workers know the guests that are there and have this subject's account."""
        return self._places.get(subject, [])

    def _entry(self, per: str, subject: str, now: float) -> Entry:
        entry = self._entries.get((per, subject))
        if entry is None:
            if len(self._entries) >= MAX_ENTRIES:
                unused = next((key for key, each in self._entries.items() if not each.parts), None)
                if unused is not None:
                    del self._entries[unused]
            entry = self._entries[per, subject] = Entry(per, subject, period_of(per, now))
        return entry

    # --- periods and resets -------------------------------------------------------------------

    def turn(self, now: float) -> None:
        """Begin the periods that are due. now: seconds since 1970. A clock that is set back begins none."""
        for entry in self._entries.values():
            period = period_of(entry.per, now)
            # The names of periods sort as the periods do.
            if period > entry.period:
                entry.begin_again()
            entry.period = period

    def forget_quotas(self) -> None:
        """There are other quotas: the next reports say which accounts they bound."""
        for entry in self._entries.values():
            entry.bound_by.clear()
            entry.noticed.clear()

    def reset(self, subjects: Collection[str], per: str) -> int:
        """Begin accounts again. subjects: none for all. per: "" for every period. Returns how many."""
        found = [
            entry
            for entry in self._entries.values()
            if (not subjects or entry.subject in subjects) and per in ("", entry.per)
        ]
        for entry in found:
            entry.begin_again()
        return len(found)

    def mark(self, started: Mapping[str, int]) -> None:
        """Processes were started at these times, 0 for one that is gone. By subject."""
        for key in [key for key in self._entries if key[1] in started]:
            entry, since = self._entries[key], started[key[1]]
            if entry.mark and not since:
                # Nobody else may use what the process has left.
                if not entry.parts:
                    del self._entries[key]
            elif entry.mark and since != entry.mark:
                # Another process has this number now.
                entry.begin_again()
                entry.mark = since
            else:
                entry.mark = since

    def processes(self) -> list[str]:
        """The subjects that are processes."""
        return sorted({subject for _, subject in self._entries if subject.startswith(PROCESS_MARK)})

    # --- successors and files -----------------------------------------------------------------

    def saved(self, *, numbers: bool) -> list[Saved]:
        """All that was used. numbers: also of guests and links that have nothing but a number."""
        return [
            Saved(entry.per, entry.subject, entry.period, entry.mark, entry.sums)
            for entry in self._entries.values()
            if any(entry.sums) and (numbers or not entry.subject.startswith((GUEST_MARK, LINK_MARK)))
        ]

    def restore(self, rows: Iterable[Saved], now: float) -> None:
        """Know what somebody has saved. Periods that are over are left out."""
        for row in rows:
            if row.period >= period_of(row.per, now):
                entry = self._entry(row.per, row.subject, now)
                entry.mark = row.mark
                entry.settled = list(row.sums)


def _is_guest(subject: str) -> bool:
    """Whether a subject is a guest (pipeline.system.peer), not a word of a quota: these have no space."""
    return " " in subject or subject == LOOPBACK


def _is_over(entry: Entry, identities: Mapping[str, str]) -> bool:
    """Whether the subject was a guest of which nothing but a number was known, and which is gone."""
    return not entry.parts and entry.subject.startswith(GUEST_MARK) and entry.subject not in identities


def period_of(per: str, now: float) -> str:
    """The name of the period in which a time is; "" for the life of a guest. In UTC."""
    form = _FORMS.get(per)
    return "" if form is None or per == LIFE else datetime.fromtimestamp(now, UTC).strftime(form)


def period_end(per: str, now: float) -> str:
    """When the present period ends, in ISO 8601; "" for the life of a guest."""
    at = datetime.fromtimestamp(now, UTC).replace(minute=0, second=0, microsecond=0)
    if per == "hour":
        end = datetime.fromtimestamp(at.timestamp() + 3600, UTC)
    elif per == "day":
        end = datetime.fromtimestamp(at.replace(hour=0).timestamp() + 86400, UTC)
    elif per == "month":
        year, month = (at.year + 1, 1) if at.month == 12 else (at.year, at.month + 1)
        end = datetime(year, month, 1, tzinfo=UTC)
    else:
        return ""
    return end.isoformat().replace("+00:00", "Z")
