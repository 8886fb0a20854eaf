"""Replaces workers that died, while all others go on.

A death is noticed by the end of the process. A worker that does not breathe for HANGS_AFTER seconds is
killed, and so counts as dead. Then:

========= ==========================================================================================
step      what happens
========= ==========================================================================================
pause     Every living worker stops between two breaths. So nothing moves.
lost      Each empties its rings with the dead workers, and reports which slots it holds.
settle    Each home corrects its counts: what nobody holds is free. Each worker ends what lived in the
          dead ones. Flows between living workers stay.
fork      The nursery forks successors. The slots that others hold of them are not free there.
prepare   The resolver gets its leases and zones back.
resume    All go on.
introduce Listen opens the forwards again, ingress the listeners.
========= ==========================================================================================

If another worker dies meanwhile, all begins again with both. Workers that share a process die together, and
are replaced together. MAX_DEATHS deaths of one process within DEATHS_WITHIN seconds end the daemon.
"""

import asyncio
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Final, NamedTuple

import structlog

from pipeline.control.plane import ControlPlane
from pipeline.control.workers import RequestError
from pipeline.daemon.nursery import Birth, Ends, Nursery, NurseryError
from pipeline.daemon.processes import Running
from pipeline.ipc import healing_messages, messages
from pipeline.ipc.fabric import Fabric, by_home
from pipeline.ipc.socket_pair import socket_pair
from pipeline.system.process_state import RUNNABLE, state_of
from pipeline.system.wall_clock import WallClock
from pipeline.topology import INGRESS

MAX_DEATHS: Final = 5
DEATHS_WITHIN: Final = 60.0
HANGS_AFTER: Final = 10
"""Seconds without a breath. A sleep lasts one second at most (pipeline.ipc.wake)."""
LOOPS_AFTER: Final = 5.0
"""Seconds of processor time without a breath. A process that got less is starved by others, and lives."""
LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the breaths. Only looks count: after a suspension nobody is late."""
STEP_TIMEOUT: Final = 3.0
"""Seconds that a living worker has for each step. One that takes longer is killed too."""
PREPARE_TIMEOUT: Final = 2.0
"""Seconds that all successors have to take over what they need before the others go on."""
_BREATHS: Final = "worker_breaths"


class Dead(Exception):  # noqa: N818  no error of the caller
    """Another worker has died, or must die, before the others could go on."""


class _Look(NamedTuple):
    """breaths: of the worker. looks: how many looks have seen no more of them. used: processor time of the
    process in seconds, at the first of these."""

    breaths: int
    looks: int
    used: float


class Healer:
    """Watches the worker processes, and replaces those that die."""

    def __init__(
        self,
        fabric: Fabric,
        running: list[Running],
        nursery: Nursery,
        plane: ControlPlane,
        give_up: Callable[[str], None],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """running: the processes, which this object replaces in the list.

        give_up: called if a worker cannot be replaced, with the reason. Needs a running event loop.
        """
        self._fabric = fabric
        self._running = running
        self._nursery = nursery
        self._plane = plane
        self._give_up = give_up
        self._log = log
        self._deaths: dict[str, deque[float]] = {}
        self._incarnations: dict[str, int] = {}
        self._dead: dict[str, Running] = {}
        """Processes without a successor, by name."""
        self._killed: set[str] = set()
        """Processes that are about to end, by name."""
        self._ended = asyncio.Event()
        """Whether a process has ended since this was cleared."""
        self._healing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._strangers: dict[str, None] = {}
        """Successors that have not been introduced yet. One that dies before that has the same name."""
        self._preparing: dict[str, asyncio.Task[None]] = {}
        """By worker: what still tells a successor what it has to know."""
        self._turn = asyncio.Lock()
        """Of those who let workers pause: this object, and the one that hands over (pause_all)."""
        self._pausing: asyncio.Task[object] | None = None
        """Who is in pause_all() now."""
        self._interrupted = False
        self._left = False
        self._clock = WallClock()
        self._seen: dict[str, _Look] = {}
        """By process: the last look at its first worker."""

    def start(self) -> None:
        """Begin to replace workers, and to look whether they breathe."""
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Replace no worker any more."""
        tasks = [task for task in (self._watching, self._healing) if task is not None]
        tasks += self._preparing.values()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def pause_all(self) -> AsyncIterator[None]:
        """All workers pause in the block, unless leave_paused() is called. Raises RequestError.

        Also if a worker dies meanwhile. That ends the block, and then the worker is replaced.
        """
        async with self._turn:
            if self._dead or self._killed:
                raise RequestError("a worker has died just now")
            self._interrupted = False
            self._pausing = asyncio.current_task()
            try:
                everyone = [(running, name) for running in self._running for name in running.controls]
                await self._ask_all(everyone, lambda _name: healing_messages.Pause())
                yield
            except Dead:
                raise RequestError("a worker does not answer") from None
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self._interrupted or task is None:
                    raise
                task.uncancel()
                raise RequestError("a worker has died") from None
            finally:
                self._pausing = None
                if not self._left:
                    self._plane.channels.send_all(healing_messages.Resume())

    def leave_paused(self) -> None:
        """Others do the work from now on: let the workers pause until they are ended."""
        self._left = True

    # --- deaths -----------------------------------------------------------------------------

    def died(self, dead: Running) -> None:
        """A process has ended. Its workers get successors, unless too many have died."""
        name = dead.name
        exitcode = dead.process.exitcode
        self._killed.discard(name)
        self._dead[name] = dead
        self._ended.set()
        if self._pausing is not None and not self._left:
            self._interrupted = True
            self._pausing.cancel()
        now = monotonic()
        deaths = self._deaths.setdefault(name, deque(maxlen=MAX_DEATHS))
        deaths.append(now)
        counted = {member: self._last_words(member) for member in dead.controls}
        self._log.error(
            "worker died",
            worker=name,
            pid=dead.process.pid,
            exitcode=exitcode,
            signal=_signal_name(exitcode),
            restarts=len(deaths) - 1,
            counted=counted,
        )
        if self._watching is None:
            # The daemon still starts.
            self._give_up(f"worker {name} died")
        elif len(deaths) == MAX_DEATHS and deaths[0] > now - DEATHS_WITHIN:
            self._give_up(f"worker {name} died {MAX_DEATHS} times within {DEATHS_WITHIN:.0f} s")
        elif self._healing is None or self._healing.done():
            self._healing = asyncio.get_running_loop().create_task(self._heal())

    def _last_words(self, worker: str) -> dict[str, int]:
        """What a worker had counted last: how often it breathed, and what it held."""
        counters = self._fabric.counters(worker).snapshot()
        names = (_BREATHS, "worker_slots_free", "worker_slot_refs_out", "worker_busy_share")
        return {name.removeprefix("worker_"): counters[name] for name in names if counters[name]}

    def nursery_died(self) -> None:
        """The nursery has ended, and with it all successors."""
        self._fail("the nursery has died")

    def _fail(self, error: str) -> None:
        self._log.error("worker cannot be replaced", error=error)
        self._give_up(error)

    def _kill(self, running: Running) -> None:
        if running.name not in self._killed and running.name not in self._dead:
            self._killed.add(running.name)
            running.process.kill()

    # --- breaths ----------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._clock.was_set_back():
                self._fabric.wake_all()
            if self._turn.locked():
                self._seen.clear()
                continue
            for running in self._running:
                self._look(running)

    def _look(self, running: Running) -> None:
        """Kill a process if its workers have not breathed for too long."""
        breaths = self._fabric.counters(next(iter(running.controls))).get(_BREATHS)
        seen = self._seen.get(running.name)
        if seen is None or seen.breaths != breaths:
            self._seen[running.name] = _Look(breaths, 0, 0.0)
            return
        if not seen.looks:
            # Only now, since it costs a file.
            state = state_of(running.process.pid)
            seen = seen._replace(used=state.seconds if state is not None else 0.0)
        seen = seen._replace(looks=seen.looks + 1)
        self._seen[running.name] = seen
        if seen.looks >= HANGS_AFTER and not _is_starved(running.process.pid, seen.used):
            del self._seen[running.name]
            self._log.error("worker does not breathe", worker=running.name, pid=running.process.pid)
            self._kill(running)

    # --- the steps --------------------------------------------------------------------------

    async def _heal(self) -> None:
        try:
            async with self._turn:
                await self._replace_all()
        except Exception as error:  # all others pause: they must not do so for ever
            if not isinstance(error, NurseryError | RequestError | OSError):
                self._log.exception("healing failed", error=str(error))
            self._fail(str(error) or type(error).__name__)

    async def _replace_all(self) -> None:
        while self._dead or self._killed:
            self._ended.clear()
            try:
                if not self._killed:
                    await self._replace(dict(self._dead))
                    continue
            except Dead:
                pass
            # Somebody else is dead, or about to be. Its end will be noticed.
            await asyncio.wait_for(self._ended.wait(), STEP_TIMEOUT)

    async def _replace(self, dead: Mapping[str, Running]) -> None:
        """Replace these processes. Raises Dead if it has to be done again, with others."""
        began = monotonic()
        names = [name for running in dead.values() for name in running.controls]
        for name in names:
            self._plane.forget_worker(name)
        living = [
            (running, name)
            for running in self._running
            if running.name not in dead
            for name in running.controls
        ]
        await self._ask_all(living, lambda _name: healing_messages.Pause())
        found = await self._ask_all(living, lambda _name: healing_messages.Lost(names))
        answers = {name: healing_messages.LostAnswer.decode(answer) for name, answer in found.items()}
        if INGRESS in answers:
            links = answers[INGRESS].links or {}
        else:
            links = self._plane.links_that_go_on()
        held = by_home(self._fabric.layout, [answer.slots for answer in answers.values()])
        self._fabric.bury(names)
        handoffs = self._fabric.renew_handoffs(names)
        try:
            settled = await self._ask_all(
                living,
                lambda name: healing_messages.Settle(
                    names, links, [_peer(pair, name) for pair in handoffs if name in pair], held.get(name)
                ),
                lambda name: [ends[name] for pair, ends in handoffs.items() if name in pair],
            )
            for running in dead.values():
                await self._fork(running, handoffs, held)
        finally:
            for ends in handoffs.values():
                for end in ends.values():
                    end.close()
        await self._prepare(names)
        await self._ask_all(living, lambda _name: healing_messages.Resume())
        lost = sum(healing_messages.SettleAnswer.decode(answer).returned for answer in settled.values())
        self._log.info(
            "worker replaced",
            workers=names,
            seconds=round(monotonic() - began, 4),
            references=lost,
        )
        while self._strangers:
            name = next(iter(self._strangers))
            del self._strangers[name]
            await self._introduce(name)

    async def _ask_all(
        self,
        workers: Sequence[tuple[Running, str]],
        ask: Callable[[str], messages.Request],
        fds: Callable[[str], list[Any]] = lambda _name: [],
    ) -> dict[str, Mapping[str, object]]:
        """Ask these workers at the same time. Kills those that do not answer, and raises Dead."""
        found = await asyncio.gather(
            *(
                self._plane.channels.request(name, ask(name), fds(name), timeout=STEP_TIMEOUT)
                for _, name in workers
            ),
            return_exceptions=True,
        )
        answers: dict[str, Mapping[str, object]] = {}
        for (running, name), answer in zip(workers, found, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, RequestError):
                    raise answer
                self._log.warning("a worker does not help to replace another", of=name, error=str(answer))
                self._kill(running)
            else:
                answers[name] = answer
        if len(answers) < len(workers):
            raise Dead
        return answers

    async def _fork(
        self,
        dead: Running,
        handoffs: Mapping[tuple[str, str], Mapping[str, Any]],
        held: Mapping[str, Mapping[int, int]],
    ) -> None:
        """Fork successors of the workers of a process."""
        pairs = {name: socket_pair() for name in dead.controls}
        births = {}
        for name in dead.controls:
            self._incarnations[name] = self._incarnations.get(name, 0) + 1
            births[name] = Birth(self._incarnations[name], held.get(name))
        ends = Ends(
            {name: theirs for name, (_, theirs) in pairs.items()},
            {
                (name, _peer(pair, name)): handoffs[pair][name]
                for name in dead.controls
                for pair in handoffs
                if name in pair
            },
        )
        config = self._plane.config
        try:
            process = await self._nursery.fork(dead.name, config, ends, births)
        except BaseException:
            for ours, _ in pairs.values():
                ours.close()
            raise
        finally:
            for _, theirs in pairs.values():
                theirs.close()
        for name, (ours, _) in pairs.items():
            self._plane.adopt_worker(name, ours, config)
        successor = Running(dead.name, process, {name: ours for name, (ours, _) in pairs.items()})
        self._running[self._running.index(dead)] = successor
        del self._dead[dead.name]
        self._strangers.update(dict.fromkeys(dead.controls))
        self._plane.on_restart(dead.name, process.pid)
        if not process.is_alive():
            # Its end was reported before anybody knew it.
            self.died(successor)

    async def _prepare(self, names: Sequence[str]) -> None:
        """Tell successors what they have to know. Slow ones read it while the others go on already."""
        for name in names:
            if (before := self._preparing.get(name)) is not None:
                # The predecessor has died, so this ends at once.
                await before
            self._preparing[name] = asyncio.get_running_loop().create_task(self._tell(name))
        await asyncio.wait([self._preparing[name] for name in names], timeout=PREPARE_TIMEOUT)

    async def _tell(self, name: str) -> None:
        try:
            await self._plane.prepare_worker(name)
        except RequestError as error:
            self._log.warning("a successor is not prepared", of=name, error=str(error))

    async def _introduce(self, name: str) -> None:
        await self._preparing.pop(name)
        try:
            await self._plane.introduce_worker(name)
        except RequestError as error:
            self._log.error("a successor lacks its sockets", of=name, error=str(error))


def _is_starved(pid: int, used: float) -> bool:
    """Whether a process would work if it got a core. used: its processor time when it last breathed."""
    state = state_of(pid)
    return state is not None and state.letter == RUNNABLE and state.seconds < used + LOOPS_AFTER


def _peer(pair: tuple[str, str], name: str) -> str:
    return pair[0] if pair[1] == name else pair[1]


def _signal_name(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return ""
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return str(-exitcode)
