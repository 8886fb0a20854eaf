"""How a worker reports events: to the log, and to the supervisor's subscribers.

Ask ``wants()`` before you gather the fields of a frequent event. While nobody wants a kind, that look-up is
all that it costs. The supervisor says with the request Watch what its subscribers want. Events wait here and
travel in batches: when BATCH have gathered, before the worker sleeps, or after a second. Events above
RATE are lost, and so are all while the supervisor reads too slowly. The next batch has the count.
"""

from collections.abc import Iterable
from time import time
from typing import Final

import structlog

from pipeline.events.flows import COMPLETED
from pipeline.events.table import KINDS, PUBLISHED
from pipeline.ipc import messages
from pipeline.stages.control_sockets import ControlSockets

BATCH: Final = 64
RATE: Final = 2000
"""Events in a second of each worker."""
MAX_BACKLOG: Final = 4
"""Batches that may wait until the supervisor reads."""


class Reporter:
    """The events of one worker."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger, control: ControlSockets) -> None:
        self._log = log
        self._control = control
        self._watched: frozenset[str] = frozenset()
        self.check_levels()
        self._events: list[list[object]] = []
        self._room = RATE
        self._lost = 0
        self.waiting = False
        """Whether flush() has something to send."""

    def wants(self, kind: str) -> bool:
        """Whether anyone wants events of this kind now."""
        return kind in self._wanted

    def watch(self, kinds: Iterable[str]) -> None:
        """From now on, subscribers want these kinds. Kinds that are unknown here are ignored."""
        self._watched = PUBLISHED & frozenset(kinds)
        self._wanted = self._logged | self._watched
        if not self._watched:
            self._events = []
            self._lost = 0
            self.waiting = False

    def check_levels(self) -> None:
        """Look again at which levels the log writes: they may have changed."""
        written = frozenset(kind.name for kind in KINDS.values() if self._log.is_enabled_for(kind.level))
        # The supervisor completes the others, and writes them.
        self._logged: frozenset[str] = written - COMPLETED
        self._wanted = self._logged | self._watched

    def report(self, kind: str, **fields: object) -> None:
        """Report an event that has happened now. fields: plain values (see pipeline.events)."""
        if kind in self._logged:
            row = KINDS[kind]
            self._log.log(row.level, row.text, kind=kind, **fields)
        if kind in self._watched:
            self._add([kind, time(), fields])

    def flush(self) -> None:
        """Send the events that wait."""
        if not self.waiting:
            return
        events, self._events = self._events, []
        self.waiting = False
        if self._control.backlog >= MAX_BACKLOG or not self._send(events):
            self._lost += len(events)
        else:
            self._lost = 0

    def _send(self, events: list[list[object]]) -> bool:
        try:
            self._control.send_event(messages.HappenedEvent(events, self._lost).encode())
        except (OSError, ValueError):
            # A long message needs a descriptor, and none is left. Or a field has lone surrogates.
            return False
        return True

    def keep_house(self) -> None:
        """A second has passed: send what waits, and allow RATE further events."""
        self.flush()
        self._room = RATE

    def _add(self, event: list[object]) -> None:
        if not self._room:
            self._lost += 1
            return
        self._room -= 1
        self.waiting = True
        self._events.append(event)
        if len(self._events) >= BATCH:
            self.flush()
