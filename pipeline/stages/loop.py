"""The loop of a worker process. It usually has one worker, and several where a placement fuses them.

In one turn the loop delivers socket events, and every worker takes one *breath*: it takes back freed slots,
its stage steps, and it publishes what the stage pushed. After a turn without work the process sleeps: it
announces that on every bell, looks at every input again, and then waits until the nearest deadline or
MAX_SLEEP. It waits for sockets, or on a semaphore if it has one worker without sockets. A sleeping process
costs one wake-up a second. A busy process makes no system calls but those of its sockets.

Busy-polling: after work that followed other work closely, the process looks for more for a short time
before it sleeps. A wake-up costs more than that: the ringer makes a system call, the sleeper waits for the
scheduler, and a virtual core often exits to its host. Between two looks the process gives its core away, so
with fewer cores than workers it takes only time that no other process wants. Traffic with long gaps does
not start it, and an idle daemon never polls.

Workers of one process share only the poller. They meet in their rings like all others, but they wake each
other without bells. The process ends on SIGTERM, on the request ``stop`` to a worker, and when the
supervisor is gone. It ignores SIGINT: the supervisor gets it too, and decides. Only the request is certain
to end a sleep: the process handles a signal that comes right before a sleep only after it.
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
"""Seconds within which work must follow other work to start busy-polling."""
_PR_SET_PDEATHSIG: Final = 1
give_way: Final[Callable[[], None]] = getattr(os, "sched_yield", partial(sleep, 0))
"""Give the core away if another process wants it."""
look_for_signals: Final[Callable[[], int]] = ctypes.pythonapi.PyErr_CheckSignals
"""Run the handlers of signals that came. The interpreter does so between two of its instructions, but a
compiled turn may have none of these. Without this call a process would sleep or work on despite a signal."""


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
        """Sleep is next: a peer that has something for the worker rings from now on."""
        ...

    def inputs_ready(self) -> bool:
        """The second look, after the announcement: whether anything came for which no peer rings any more."""
        ...

    def prewoken(self) -> bool:
        """Whether a peer has announced since the last call that something will come soon."""
        ...

    def awake(self) -> None:
        """The sleep is over, or did not come about."""
        ...

    def check_parent(self) -> None:
        """Stop if the supervisor is gone."""
        ...

    def end(self) -> None:
        """The process ends in order: give back everything."""
        ...


class Loop:
    """Breathes its workers until one of them is told to stop."""

    def __init__(
        self, waiter: Waiter, workers: Sequence[Member], back: Sequence[Member] = (), busy_poll: float = 0.0
    ) -> None:
        """workers: in the order in which they breathe. waiter: that of all their bells.

        back: workers that breathe once more in a turn with work, so that answers get through in it.
        busy_poll: seconds to look for more after work, at most; 0 for never.
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
        """Run until the end. An exception of a stage ends the process with status 1."""
        self._take_signals()
        # What the stages hold now stays: garbage collections need not look at it again.
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
            # Under load, or just after it: look without an announcement of sleep.
            found = self._poll() if busy > 1 else self._look(look_until) if look_until else None
            if found is not None:
                events = found
                look_for_signals()
                continue
            look_until = 0.0
            # Usually one turn did everything. sleep() looks before it sleeps.
            events = self.sleep()
            if self.slept:
                busy = 0

    def _look(self, until: float) -> Events | None:
        """Look at the inputs until that time. Returns socket events, or None if nothing came."""
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
        """The socket events that are ready now."""
        return self._poller.poll(0, MAX_EVENTS) if self._poller is not None else []

    def _prewoken(self) -> bool:
        """Whether a peer expects to have something for a worker of this process in a moment."""
        prewoken = False
        for worker in self._outsiders:
            prewoken = worker.prewoken() or prewoken
        return prewoken

    def turn(self, events: Events, everyone: bool = True) -> int:
        """Deliver socket events and let workers breathe. Returns how much was done.

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
        """Wait for an input, at most until a deadline. Returns the socket events that ended the wait."""
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
        """Set the signal handlers of a worker process, whatever its parent had set or blocked."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        # Prints the stack to standard error and goes on: the supervisor ends the process.
        faulthandler.register(signal.SIGQUIT, chain=False)
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT)
        )
        if sys.platform == "linux":
            # The kernel sends SIGTERM when the thread that forked this process ends, for whatever reason.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        for worker in self._workers:
            worker.check_parent()

    def _on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        self.running = False
        self._waiter.post()  # else the wait that the signal interrupted goes on
