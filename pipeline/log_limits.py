"""How often the log may say the same: a bound on its growth that no guest can lift.

A *kind* is the first words of an event. A *subject* is the guest or client that a line is about. Two token
buckets judge a line: that of its kind and subject, then that of its kind alone. A guest can appear as many
subjects, so the bucket of the kind is what bounds the log. The bucket of the subject keeps one guest from
using up what the others need. What the operator asks for has buckets of its own, with wider bounds.

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
"""Lines of one kind, whoever they are about."""
OPERATOR: Final = Rate(1000, 0.1)
"""Lines of one kind about what came through the API on the host."""
DEBUG_SUBJECT: Final = Rate(10_000, 0.1)
DEBUG_KIND: Final = Rate(20_000, 0.05)
"""At level debug: for a user who looks at what a guest does."""
MAX_KINDS: Final = 128
"""Further kinds share one bucket: a text may have parts that a guest chooses."""
MAX_SUBJECTS: Final = 1024
"""Buckets of subjects. A new one takes the place of the one unused for longest."""
OTHERS: Final = "other events"


class _Bucket:
    __slots__ = ("at", "left_out", "tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self.tokens = float(rate.burst)
        self.at = now
        self.left_out = 0

    def has_token(self, rate: Rate, now: float) -> bool:
        self.tokens = min(self.tokens + (now - self.at) / rate.seconds, float(rate.burst))
        self.at = now
        return self.tokens >= 1.0


class Limiter:
    """The buckets of one process."""

    def __init__(self, subject: Rate = SUBJECT, kind: Rate = KIND, operator: Rate = OPERATOR) -> None:
        self._subject = subject
        self._kind = kind
        self._operator = operator
        self._kinds: dict[tuple[str, bool], _Bucket] = {}
        self._subjects: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()
        self._pending: dict[str, int] = {}
        """Lines of each kind that were left out and have not been reported."""

    def admit(self, kind: str, subject: str, now: float, *, operator: bool = False) -> int:
        """Whether a line may be written: how many like it were left out before, -1 if it is left out too.

        subject: "" for none.
        """
        if len(self._kinds) >= MAX_KINDS and (kind, operator) not in self._kinds:
            kind = OTHERS
        whole = self._bucket_of_kind(kind, now, operator)
        own = self._bucket_of_subject(kind, subject, now) if subject and not operator else whole
        if own is not whole and not own.has_token(self._subject, now):
            return self._leave_out(kind, own)
        if not whole.has_token(self._operator if operator else self._kind, now):
            return self._leave_out(kind, own)
        whole.tokens -= 1.0
        if own is not whole:
            own.tokens -= 1.0
        count, own.left_out = own.left_out, 0
        if count:
            self._reported(kind, count)
        return count

    def anew(self) -> "Limiter":
        """An unused one with the same rates, for a forked process."""
        return Limiter(self._subject, self._kind, self._operator)

    def take_pending(self) -> dict[str, int]:
        """The numbers of lines that were left out since they were last reported, by kind."""
        pending, self._pending = self._pending, {}
        for bucket in (*self._kinds.values(), *self._subjects.values()):
            bucket.left_out = 0
        return pending

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
