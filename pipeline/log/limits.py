"""How often the log may report the same kind of event. No guest can make the log grow faster.

A *kind* is one of pipeline.events, or the first words of a line of a library. A *subject* is the guest or
client that a line is about. Two token buckets judge a line: that of its kind and subject, then that of its
kind alone. The bucket of the kind bounds the log, since a guest can appear as many subjects. The bucket of
the subject leaves lines to other guests.

Half of a kind's tokens are for *first lines*: the first FIRST_LINES lines about a subject, also after QUIET
seconds without an event. So these lines are written while any number of other guests never stop. A guest that
appears as ten subjects or more can use up this half too. What the operator asks for has buckets of its own,
with higher rates.

A line that finds no token is left out and counted. The count comes with the next line of the same kind and
subject, or in a summary. This module has no clock, and writes nothing.
"""

from collections import OrderedDict
from typing import Final, NamedTuple


class Rate(NamedTuple):
    """A token bucket: ``burst`` lines at once, then one line in ``seconds``."""

    burst: int
    seconds: float


SUBJECT: Final = Rate(10, 10.0)
"""Lines of one kind about one guest or client."""
KIND: Final = Rate(100, 5.0)
"""Lines of one kind, whatever they are about."""
FIRST_LINES: Final = 5
QUIET: Final = 60.0
"""Seconds."""
OPERATOR: Final = Rate(1000, 0.1)
"""Lines of one kind about what came through the API on the host."""
DEBUG_SUBJECT: Final = Rate(10_000, 0.1)
DEBUG_KIND: Final = Rate(20_000, 0.05)
"""The rates at level debug, for a user who examines what a guest does."""
MAX_KINDS: Final = 128
"""Further kinds share one bucket: a text may have parts that a guest chooses."""
MAX_SUBJECTS: Final = 1024
"""Buckets of subjects. A new one takes the place of the one unused for longest."""
OTHERS: Final = "other events"
NAMED: Final = 5
"""Subjects that a summary names."""


class LeftOut(NamedTuple):
    """Lines of one kind that were left out: their number, and that of the subjects with most of them."""

    lines: int
    subjects: dict[str, int]


class _Bucket:
    __slots__ = ("at", "first_lines", "left_out", "tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self.tokens = float(rate.burst)
        self.at = now
        self.left_out = 0
        self.first_lines = FIRST_LINES

    def refill(self, rate: Rate, now: float) -> None:
        self.tokens = min(self.tokens + (now - self.at) / rate.seconds, float(rate.burst))
        self.at = now


class Limiter:
    """The buckets of one process."""

    def __init__(self, subject: Rate = SUBJECT, kind: Rate = KIND, operator: Rate = OPERATOR) -> None:
        self._subject = subject
        self._kind = kind
        self._operator = operator
        self._kinds: dict[tuple[str, bool], _Bucket] = {}
        self._subjects: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()
        self._pending: dict[str, int] = {}
        """The number of lines of each kind that were left out and not reported yet."""

    def admit(self, kind: str, subject: str, now: float, *, operator: bool = False) -> int:
        """Decide whether a line may be written. Returns -1 if it is left out.

        Otherwise returns the number of lines of the same kind and subject that were left out before it.
        subject: "" for none. now: seconds, monotonic.
        """
        if len(self._kinds) >= MAX_KINDS and (kind, operator) not in self._kinds:
            kind = OTHERS
        whole = self._bucket_of_kind(kind, now, operator)
        own = self._bucket_of_subject(kind, subject, now) if subject and not operator else whole
        whole.refill(self._operator if operator else self._kind, now)
        needed = 1.0
        if own is not whole:
            if now - own.at >= QUIET:
                own.first_lines = FIRST_LINES
            own.refill(self._subject, now)
            if own.first_lines:
                own.first_lines -= 1
            else:
                needed += self._kind.burst // 2
        if own.tokens < 1.0 or whole.tokens < needed:
            return self._leave_out(kind, own)
        whole.tokens -= 1.0
        if own is not whole:
            own.tokens -= 1.0
        count, own.left_out = own.left_out, 0
        if count:
            self._reported(kind, count)
        return count

    def anew(self) -> "Limiter":
        """A limiter with the same rates and full buckets, for a forked process."""
        return Limiter(self._subject, self._kind, self._operator)

    def take_pending(self) -> dict[str, LeftOut]:
        """What was left out since it was last reported, by kind. It counts as reported from now on."""
        pending, self._pending = self._pending, {}
        found = {kind: LeftOut(count, {}) for kind, count in pending.items()}
        most = sorted(self._subjects.items(), key=lambda row: row[1].left_out, reverse=True)
        for (kind, subject), bucket in most:
            if bucket.left_out and kind in found and len(found[kind].subjects) < NAMED:
                found[kind].subjects[subject] = bucket.left_out
        for bucket in (*self._kinds.values(), *self._subjects.values()):
            bucket.left_out = 0
        return found

    def _bucket_of_kind(self, kind: str, now: float, operator: bool) -> _Bucket:
        bucket = self._kinds.get((kind, operator))
        if bucket is None:
            rate = self._operator if operator else self._kind
            bucket = self._kinds[kind, operator] = _Bucket(rate, now)
        return bucket

    def _bucket_of_subject(self, kind: str, subject: str, now: float) -> _Bucket:
        key = (kind, subject)
        bucket = self._subjects.get(key)
        if bucket is not None:
            self._subjects.move_to_end(key)
            return bucket
        if len(self._subjects) >= MAX_SUBJECTS:
            self._subjects.popitem(last=False)
        bucket = self._subjects[key] = _Bucket(self._subject, now)
        return bucket

    def _leave_out(self, kind: str, bucket: _Bucket) -> int:
        bucket.left_out += 1
        self._pending[kind] = self._pending.get(kind, 0) + 1
        return -1

    def _reported(self, kind: str, count: int) -> None:
        left = self._pending.get(kind, 0) - count
        if left > 0:
            self._pending[kind] = left
        else:
            self._pending.pop(kind, None)
