"""The main loop of a worker process. A process has one worker, or several if the placement says so.

In one turn the loop delivers socket events. Then each worker takes one *breath*: it takes back freed slots,
calls the step of its stage, and publishes the records that the stage pushed to its rings.

After a turn without work the process sleeps. It first announces this on the bell of each worker, so that
other workers ring. Then it checks every input again, so that it misses nothing. Then it waits until the
nearest deadline, at most MAX_SLEEP. It waits with a poller, or on a semaphore if its only worker has no
sockets. A sleeping process wakes once a second. A busy process makes system calls only for its sockets.

Busy-polling: if work follows other work closely, the process looks for more work for a short time before it
sleeps. A wake-up would cost more: a system call of the worker that rings, the delay of the scheduler, and
often an exit of a virtual core to its host. Between two looks the process yields its core. So with fewer
cores than workers, polling uses only time that no other process wants. Traffic with long gaps does not start
it, and an idle daemon never polls.

Workers of one process share only the poller. They exchange records over rings like all others, but they wake
each other without bells. The process ends after SIGTERM, after the request ``stop`` to a worker, or when the
supervisor is gone. It ignores SIGINT: the supervisor also gets that signal, and decides. Only ``stop`` surely
ends a sleep. If a signal comes right before a sleep, the process handles it after the sleep.
"""

import ctypes
import faulthandler
import gc
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic, sleep
from types import FrameType
from typing import Final

import structlog

from pipeline.ipc import wake
from pipeline.ipc.poller import Events, Poller
from pipeline.ipc.wake import Waiter
from pipeline.system import parent_death

MAX_EVENTS: Final = 256
"""The most socket events of one turn."""
BUSY_GAP: Final = 0.001
"""Seconds within which work must follow other work to start busy-polling."""
HOLD_S: Final = 0.005
"""Seconds that a worker waits for the next request while it pauses, if several share its process."""
COLLECT_AFTER: Final = (10_000, 50, 10)
"""When Python looks for reference cycles, as in gc.set_threshold(). Connections and records form none, so
these searches find nothing, but they visit every connection that was opened since the last one. Python's own
thresholds cost tcp 8 µs for each connection, and pauses of 46 ms once it had opened 10 000."""
yield_core: Final[Callable[[], None]] = getattr(os, "sched_yield", partial(sleep, 0))
"""Yield the core to another process, if one wants it."""
check_signals: Final[Callable[[], int]] = ctypes.pythonapi.PyErr_CheckSignals
"""Run the handlers of signals that came. The interpreter does so between two of its instructions, but a
compiled turn may have none of these. Without this call a process could go on in spite of a signal."""


class Idle:
    """How long a process had nothing to do: all its workers share one."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0
        """In which it slept, or looked for work before it slept."""


class Member:
    """What the loop needs from a worker (pipeline.stages.worker.Worker has it).

    This is a class and not a Protocol, since compiled code then calls a worker without a look-up by name.
    """

    name: str
    log: structlog.typing.FilteringBoundLogger
    running: bool
    paused: bool
    """Whether the supervisor has asked for a pause. The loop then stops, and calls hold()."""
    poller: Poller | None
    sleeps: int
    idle: "Idle"
    woken: bool
    """Whether an event or a worker of the same process has woken this worker since its last breath."""
    has_peers_outside: bool

    def breathe(self, now: float) -> int:
        """Take one breath. Returns how much was done."""
        raise NotImplementedError

    def may_sleep(self) -> float:
        """Seconds until it must breathe again without an event. Zero or less: at once."""
        raise NotImplementedError

    def announce(self) -> None:
        """Announce a sleep: from now on a peer that has something for this worker rings its bell."""
        raise NotImplementedError

    def inputs_ready(self) -> bool:
        """Check the inputs again after announce(): whether something came before, so that no peer rings."""
        raise NotImplementedError

    def prewoken(self) -> bool:
        """Whether a peer has reported since the last call that something will come soon."""
        raise NotImplementedError

    def awake(self) -> None:
        """End what announce() began: the sleep is over, or was not needed."""
        raise NotImplementedError

    def hold(self, seconds: float) -> None:
        """Pause: serve the supervisor's requests, for at most that long."""
        raise NotImplementedError

    def check_parent(self) -> None:
        """Stop if the supervisor is gone."""
        raise NotImplementedError

    def end(self) -> None:
        """Give back everything at an orderly end of the process."""
        raise NotImplementedError


class Loop:
    """Runs its workers until one of them has to stop."""

    def __init__(
        self, waiter: Waiter, workers: Sequence[Member], back: Sequence[Member] = (), busy_poll: float = 0.0
    ) -> None:
        """workers: in the order in which they breathe. waiter: all their bells wake this one.

        back: workers that breathe once more in a turn with work, so that answers pass them in the same turn.
        busy_poll: the most seconds to look for more work before a sleep; 0 for none.
        """
        self._waiter = waiter
        self._workers = list(workers)
        self._back = list(back)
        self._busy_poll = busy_poll
        self._alone = len(workers) == 1
        self._idle = Idle()
        for worker in workers:
            worker.idle = self._idle
        self._outsiders = [worker for worker in workers if worker.has_peers_outside]
        self._due_at = 0.0
        """The time at which all workers must breathe again, even if nothing woke them."""
        self._poller = workers[0].poller
        self.running = True
        self._events: Events = []
        """Socket events that a pause has kept back. Sockets are edge-triggered, so none may be lost."""
        self._terminated = False
        """Whether SIGTERM has come."""
        self.slept = False
        """Whether the last sleep() blocked."""

    def run(self) -> None:
        """Run until the end. An exception of a stage ends the process with status 1."""
        self._take_signals()
        # The stages keep their present objects for good. Garbage collections need not visit these.
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        for worker in self._workers:
            worker.log.debug("worker started")
        try:
            self.run_turns()
            while self._hold():
                self.run_turns()
            for worker in self._workers:
                worker.end()
        except Exception as error:
            names = "+".join(worker.name for worker in self._workers)
            self._workers[0].log.exception("worker failed", process=names, error=str(error))
            raise SystemExit(1) from error

    def _hold(self) -> bool:
        """If the supervisor asked for a pause, let all workers pause. Returns whether they go on.

        All have ended their breaths. None takes another before the supervisor has let all of them go on.
        """
        self.running = not self._terminated and any(worker.paused for worker in self._workers)
        if not self.running:
            return False
        while self.running and any(worker.paused for worker in self._workers):
            for worker in self._workers:
                worker.hold(HOLD_S / len(self._workers))
            check_signals()
        self._due_at = 0.0
        return self.running and all(worker.running for worker in self._workers)

    def run_turns(self) -> None:
        """Run turns, busy-poll and sleep until ``running`` is cleared."""
        events = self._events
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
            # Under load, or just after it, look for work without announcing a sleep.
            found = self._poll() if busy > 1 else self._look(look_until) if look_until else None
            if found is not None:
                events = found
                check_signals()
                continue
            look_until = 0.0
            # One turn has usually done everything. sleep() checks the inputs again before it sleeps.
            events = self.sleep()
            if self.slept:
                busy = 0
        self._events = events

    def _look(self, until: float) -> Events | None:
        """Look for work until that time. Returns socket events (maybe none), or None if nothing came."""
        began = monotonic()
        found = self._look_until(until)
        self._idle.seconds += monotonic() - began
        return found

    def _look_until(self, until: float) -> Events | None:
        longest = until + BUSY_GAP
        while (now := monotonic()) < until:
            for worker in self._outsiders:
                if worker.inputs_ready():
                    # inputs_ready() reports an input only once, and does not set worker.woken.
                    self._due_at = 0.0
                    return self._poll()
            if events := self._poll():
                return events
            if self._prewoken():
                until = min(now + self._busy_poll, longest)
            yield_core()
        return None

    def _poll(self) -> Events:
        """The socket events that are ready now."""
        return self._poller.poll(0, MAX_EVENTS) if self._poller is not None else []

    def _prewoken(self) -> bool:
        """Whether a peer has prewoken a worker of this process since the last call."""
        prewoken = False
        for worker in self._outsiders:
            prewoken = worker.prewoken() or prewoken
        return prewoken

    def turn(self, events: Events, everyone: bool = True) -> int:
        """Deliver socket events and let workers breathe. Returns how much was done.

        everyone: all workers breathe. Otherwise only those that something has woken since their last breath.
        """
        now = monotonic()
        poller = self._poller
        if poller is not None:
            if events:
                poller.dispatch(events)
            if poller.rung:
                poller.rung = False
                everyone = True
        everyone = everyone or self._alone or now >= self._due_at
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
        """Wait for an input, at most until the next deadline. Returns the socket events that ended it."""
        poller = self._poller
        timeout = wake.MAX_SLEEP
        self.slept = False
        for worker in self._workers:
            timeout = min(timeout, worker.may_sleep())
        began = monotonic()
        self._due_at = began + timeout
        if timeout <= 0:
            return self._poll()
        outsiders = self._outsiders
        for worker in outsiders:
            worker.announce()
        check_signals()
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
            self._idle.seconds += monotonic() - began
            for worker in self._workers:
                worker.sleeps += 1
        return events

    def _take_signals(self) -> None:
        """Install the signal handlers of a worker process, and unblock these signals."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        # SIGQUIT prints the stack to standard error. The process goes on until the supervisor ends it.
        faulthandler.register(signal.SIGQUIT, chain=False)
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT)
        )
        parent_death.request(int(signal.SIGTERM))
        for worker in self._workers:
            worker.check_parent()

    def _on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        self.running = False
        self._terminated = True
        self._waiter.post()  # otherwise the wait that the signal interrupted would go on
