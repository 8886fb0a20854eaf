"""The loop of a worker process: one worker as a rule, several where a placement fuses them.

One turn is a *breath* of every worker: slots come home, socket events are delivered, the stage
steps, what it pushed is published. A turn without work ends in sleep: announce on every
bell, look at every input again, then wait for sockets (or on a semaphore, for a lone worker without
sockets) until the nearest deadline or MAX_SLEEP. A sleeping process costs one wake a second; a
busy one makes no system call but those of its sockets.

Busy-polling: work that came soon after other work is followed by a short look for more before the
sleep. To be woken costs more than that: the one who rings needs a system call, the sleeper a turn of the
scheduler, a virtual core often an exit. Between two looks the core is given away, so where there are
fewer cores than workers this takes only what nobody else wants. Traffic with long gaps does not earn it,
and an idle daemon never polls.

Workers of one process share nothing but the poller; they meet in their rings as always, and their
bells are silent because everybody is awake. The process ends on SIGTERM, on the request ``stop`` of a
worker, and when the supervisor is gone. SIGINT is ignored: the supervisor gets it too and decides.
Only the request is certain to end a sleep: a signal that comes right before one is seen behind it.
"""

import ctypes
import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic, sleep
from types import FrameType
from typing import Final, Protocol

import structlog

from pipeline.ipc import wake
from pipeline.ipc.poller import Events, Poller
from pipeline.ipc.wake import Waiter

MAX_EVENTS: Final = 256
"""Socket events of one turn."""
BUSY_GAP: Final = 0.001
"""Seconds within which work must follow work for a look to be worth it."""
_PR_SET_PDEATHSIG: Final = 1
give_way: Final[Callable[[], None]] = getattr(os, "sched_yield", partial(sleep, 0))
"""Give the core away, if somebody wants it."""
look_for_signals: Final[Callable[[], int]] = ctypes.pythonapi.PyErr_CheckSignals
"""Run the handlers of signals that came. The interpreter does so between two instructions, which a
compiled turn may not have one of: its process would sleep, or go on working, beside a signal."""


class Member(Protocol):
    """What the loop needs of a worker (pipeline.stages.worker.Worker)."""

    name: str
    log: structlog.typing.FilteringBoundLogger
    running: bool
    poller: Poller | None
    sleeps: int
    woken: bool
    has_peers_outside: bool

    def breathe(self, now: float) -> int:
        """One breath; how much was done."""
        ...

    def may_sleep(self) -> float:
        """Seconds until it must breathe again without any event; not above zero if at once."""
        ...

    def announce(self) -> None:
        """Sleep is next: whoever has something for the worker rings from now on."""
        ...

    def inputs_ready(self) -> bool:
        """The second look, after the announcement: whether anything came that nobody rings for any more."""
        ...

    def prewoken(self) -> bool:
        """Whether a peer has said since the last call that something is about to come."""
        ...

    def awake(self) -> None:
        """The sleep is over, or did not come about."""
        ...

    def check_parent(self) -> None:
        """Stop if the supervisor is gone."""
        ...

    def end(self) -> None:
        """The process ends in order: give everything back."""
        ...


class Loop:
    """Breathes its workers until one of them is told to stop."""

    def __init__(
        self, waiter: Waiter, workers: Sequence[Member], back: Sequence[Member] = (), busy_poll: float = 0.0
    ) -> None:
        """workers in the order in which they breathe; the waiter is behind all their bells.

        back: those that breathe once more in a turn with work, so that what goes the other way gets through.
        busy_poll: seconds to look for more after work, at most; 0 if never.
        """
        self._waiter = waiter
        self._workers = list(workers)
        self._back = list(back)
        self._busy_poll = busy_poll
        self._lone = len(workers) == 1
        self._outsiders = [worker for worker in workers if worker.has_peers_outside]
        self._due_at = 0.0
        """When every worker must breathe again, woken or not."""
        self._poller = workers[0].poller
        self.running = True
        self.slept = False
        """Whether the last sleep() blocked."""

    def run(self) -> None:
        """Until the end. Exceptions of a stage end the process with status 1."""
        self._take_signals()
        # What the stages hold now they hold for good: collections need not look at it again.
        gc.freeze()
        for worker in self._workers:
            worker.log.debug("worker started")
        try:
            self._turn_on()
            for worker in self._workers:
                worker.end()
        except Exception as error:
            names = "+".join(worker.name for worker in self._workers)
            self._workers[0].log.exception("worker failed", process=names, error=str(error))
            raise SystemExit(1) from error

    def _turn_on(self) -> None:
        events: Events = []
        busy = 0
        worked_at = look_until = 0.0
        while self.running:
            if self.turn(events, busy > 1):
                busy += 1
                if self._busy_poll:
                    now = monotonic()
                    look_until = now + self._busy_poll if now - worked_at < BUSY_GAP else 0.0
                    worked_at = now
            elif busy > 1:
                busy = 0
            elif self._busy_poll and self._prewoken():
                look_until = monotonic() + self._busy_poll
            # Under load, or just after: look without getting ready for sleep.
            found = self._poll() if busy > 1 else self._look(look_until) if look_until else None
            if found is not None:
                events = found
                look_for_signals()
                continue
            look_until = 0.0
            # Most often one turn was all there was to do; sleep() looks before it sleeps.
            events = self.sleep()
            if self.slept:
                busy = 0

    def _look(self, until: float) -> Events | None:
        """Look at the inputs until then (monotonic), without sleeping: socket events, None without input."""
        longest = until + BUSY_GAP
        while (now := monotonic()) < until:
            for worker in self._outsiders:
                if worker.inputs_ready():
                    # No worker is woken for what came from outside, and it is found only once.
                    self._due_at = 0.0
                    return self._poll()
            if events := self._poll():
                return events
            if self._prewoken():
                until = min(now + self._busy_poll, longest)
            give_way()
        return None

    def _poll(self) -> Events:
        """The socket events that there are now."""
        return self._poller.poll(0, MAX_EVENTS) if self._poller is not None else []

    def _prewoken(self) -> bool:
        """Whether somebody expects to have something for a worker of this process in a moment."""
        prewoken = False
        for worker in self._outsiders:
            prewoken = worker.prewoken() or prewoken
        return prewoken

    def turn(self, events: Events, everyone: bool = True) -> int:
        """Deliver socket events and let workers breathe; how much was done.

        everyone: also those that nothing has woken since their last breath.
        """
        now = monotonic()
        poller = self._poller
        if poller is not None:
            if events:
                poller.dispatch(events)
            if poller.rung:
                poller.rung = False
                everyone = True
        everyone = everyone or self._lone or now >= self._due_at
        work = 0
        for worker in self._workers:
            if everyone or worker.woken:
                work += worker.breathe(now)
                if not worker.running:
                    self.running = False
        if work:
            for worker in self._back:
                if everyone or worker.woken:
                    work += worker.breathe(now)
        return work

    def sleep(self) -> Events:
        """Wait for an input, at most until a deadline; the socket events that ended the wait."""
        poller = self._poller
        timeout = wake.MAX_SLEEP
        self.slept = False
        for worker in self._workers:
            timeout = min(timeout, worker.may_sleep())
        self._due_at = monotonic() + timeout
        if timeout <= 0:
            return self._poll()
        outsiders = self._outsiders
        for worker in outsiders:
            worker.announce()
        look_for_signals()
        if not self.running or any(worker.inputs_ready() for worker in outsiders):
            timeout = 0.0
            self._due_at = 0.0
        events: Events = []
        if poller is not None:
            events = poller.poll(timeout, MAX_EVENTS)
        elif timeout:
            self._waiter.wait(timeout)
        for worker in outsiders:
            worker.awake()
        if timeout > 0:
            self.slept = True
            for worker in self._workers:
                worker.sleeps += 1
        return events

    def _take_signals(self) -> None:
        """Set the signals of a worker process, whatever was set or blocked before it was forked."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        # Says where it is, on standard error, and goes on: the supervisor ends it.
        faulthandler.register(signal.SIGQUIT, chain=False)
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT)
        )
        if sys.platform == "linux":
            # Sent when the thread that forked this process ends, by whatever cause.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        for worker in self._workers:
            worker.check_parent()

    def _on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        self.running = False
        self._waiter.post()  # the wait that the signal interrupted goes on otherwise
