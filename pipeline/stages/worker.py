"""A worker is one unit of the pipeline. It has rings, control sockets, and a stage that does the real work.

A *breath* of a worker has these steps: take back freed slots, serve the control sockets, call ``stage.step``,
publish what the stage pushed, and ring the bell of each peer that sleeps. The process decides when workers
breathe and sleep, and it handles socket events and signals: see pipeline.stages.loop.

A worker ends after the request ``stop``, or when the supervisor is gone: the control socket ends, or the
process has another parent. This module does not fork, does not configure logging, and knows no network
protocol.
"""

import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from time import monotonic
from typing import Final, TypeAlias

import structlog

from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.ipc import events
from pipeline.ipc.arena import Pool
from pipeline.ipc.channel import ControlChannel, HasFileno
from pipeline.ipc.fabric import WorkerPorts
from pipeline.ipc.poller import Poller, open_poller
from pipeline.ipc.wake import EventfdWaiter
from pipeline.stages import control_sockets, holdings
from pipeline.stages.busy import BusyGauge
from pipeline.stages.control_sockets import ControlSockets
from pipeline.stages.holdings import SLOT_MASK, Holdings
from pipeline.stages.loop import Idle, Loop, Member
from pipeline.stages.losses import Losses
from pipeline.stages.protocol import Stage
from pipeline.stages.reporter import Reporter
from pipeline.stages.requests import Requests
from pipeline.stages.rings import WorkerRings

HOUSEKEEPING: Final = 1.0
"""Seconds between two updates of the gauges and checks of parent and control socket."""
TAG_SHIFT: Final = 32
"""An entry of a free ring has the slot number in the low 32 bits, and a tag in the high ones."""

_BREATHS: Final = INDEX["worker_breaths"]
_SLEEPS: Final = INDEX["worker_sleeps"]
_SLOTS_FREE: Final = INDEX["worker_slots_free"]
_SLOT_REFS_OUT: Final = INDEX["worker_slot_refs_out"]
_MESSAGES_LOST: Final = INDEX["worker_messages_lost"]

Message: TypeAlias = control_sockets.Message


class Worker(Member):
    """One worker with its rings and sockets. It is made after the fork, in its own process."""

    def __init__(
        self,
        ports: WorkerPorts,
        control: socket.socket | None,
        poller: Poller | None = None,
        on_reload: Callable[[Config], object] = lambda _config: None,
        on_log_file: Callable[[int], object] = os.close,
    ) -> None:
        """control: this worker's end of its control socket. The present parent is the supervisor.

        poller: the poller of the process, if it has one. Otherwise the worker makes one, if its waiter is a
        descriptor. on_reload: called with settings that the stage uses from now on. on_log_file: called with
        the descriptor of a log that was opened again, which the function owns.
        """
        self.ports = ports
        self._requests = Requests(self, on_reload, on_log_file)
        self.name = ports.name
        self.index = ports.index
        self.counts = ports.counters.counts
        self.log = structlog.get_logger().bind(worker=ports.name, pid=os.getpid())
        self.running = True
        self.paused = False
        self.slots_wanted = True
        """Whether every freed slot wakes this worker. If not, one does only while less than half are free.
        The stage clears it when it does not wait for slots, and may change it at any time."""
        self.woken = True
        self.sleeps = 0
        self.idle = Idle()  # that of the process: Loop sets it
        self._busy = BusyGauge(self.counts)
        self.control = ControlSockets(ports.name, control, ports.handoffs, self.log, self._requests.serve)
        self.events = Reporter(self.log, self.control)
        self._supervisor_pid = os.getppid()
        self._waiter = ports.bell.waiter
        if poller is None and isinstance(self._waiter, EventfdWaiter):
            poller = open_poller(self._waiter)
        self.poller = poller
        self._rings = WorkerRings(ports)
        self.has_peers_outside = self._rings.has_peers_outside
        """Whether workers of other processes may ring this worker's bell."""
        self._housekeeping_at = 0.0
        self._breaths = 0
        self._free_pushes = [self._free_push(home) for home in ports.homes]
        self._free_in = list(ports.free_in.items())
        if poller is not None:
            for channel in self.control.channels:
                self.register(channel.fileno(), events.READ, self._server(channel))

    def share(self, workers: Mapping[str, "Worker"]) -> None:
        """Set which workers breathe in this process, by name. They wake each other without bells."""
        self._rings.share({name: worker for name, worker in workers.items() if worker is not self})
        self.has_peers_outside = self._rings.has_peers_outside

    def wake(self) -> None:
        """A worker of this process has published records for this worker."""
        self.woken = True

    def wake_for_slots(self) -> None:
        """A worker of this process has freed slots of this worker, which breathes if it wants slots."""
        if self._slots_matter():
            self.woken = True

    # --- for the stage ------------------------------------------------------------------

    @property
    def pool(self) -> Pool:
        """The pool from which this worker allocates slots. LookupError if it has none."""
        if self.ports.pool is None:
            raise LookupError(f"worker {self.name} owns no slots")
        return self.ports.pool

    def free(self, slot: int, tag: int = 0) -> None:
        """Give one reference back to the worker that owns the slot. This may be this worker itself.

        tag: 32 bits, 0 = none. The owner's stage gets it in on_released(), so that it can count references by
        purpose. For slots of this worker it is ignored.
        """
        self._free_pushes[slot](slot | tag << TAG_SHIFT)

    def register(self, fd: int, mask: int, callback: Callable[[int], object]) -> None:
        """Call callback(events) when fd is ready. The bits of events are those of pipeline.ipc.events.

        Works only in workers with a poller. Others raise LookupError. Unregister fd before closing it. If a
        new descriptor gets the same number in this turn, it may still get an event of the old one.
        """
        self._sockets().register(fd, mask, self._waking(callback))

    def modify(self, fd: int, mask: int) -> None:
        """Change the events for which a registered descriptor is polled."""
        self._sockets().modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """Stop watching a registered descriptor, which must still be open."""
        self._sockets().unregister(fd)

    def forget(self, fd: int) -> None:
        """See Poller.forget()."""
        self._sockets().forget(fd)

    def prewake(self, peer: str) -> None:
        """Wake peer now, because something will reach it soon, from this worker or over others."""
        self._rings.prewake(peer)

    def prewoken(self) -> bool:
        """Whether a peer has prewoken this worker since the last call."""
        return self.ports.bell.take_prewake()

    def send_event(self, message: Message, fds: Sequence[int | HasFileno] = ()) -> None:
        """Send the supervisor a message that is not an answer. See ControlSockets.send_event."""
        self.control.send_event(message, fds)

    def reply(self, request: Message, result: Message) -> None:
        """Answer a request for which on_control returned None."""
        self.control.reply(request, result)

    def send_peer(self, name: str, message: Message, fds: Sequence[int | HasFileno] = ()) -> None:
        """Pass descriptors to another worker, whose on_control gets the message.

        KeyError if there is no hand-off to that worker. OSError as in send_event().
        """
        self.control.send_peer(name, message, fds)

    def peer_backlog(self, name: str) -> int:
        """The number of messages that wait until that worker reads earlier ones."""
        return self.control.peer_backlog(name)

    def stop(self) -> None:
        """Have the loop end after this breath, also one that pauses."""
        self.running = False
        self.paused = False

    # --- the breath ---------------------------------------------------------------------

    def run(self, stage: Stage) -> None:
        """Run as the only worker of this process until it has to stop."""
        self.adopt(stage)
        Loop(self._waiter, [self]).run()

    def adopt(self, stage: Stage) -> None:
        """Set the stage of this worker."""
        self.stage = stage
        self._step = stage.step

    def breathe(self, now: float) -> int:
        """Take one breath. Everything that may push records comes before publish()."""
        self._breaths += 1
        self.woken = False
        for source, ring in self._free_in:
            if entries := ring.drain():
                self._on_returned(source, entries)
        # If there is a poller, it watches the control socket.
        if self.poller is None and self.ports.bell.take_control():
            self.control.serve_supervisor()
            self._after_control()
        if now >= self._housekeeping_at:
            self._keep_house(now)
        work = self._step(now)
        self._rings.publish()
        self._rings.report_room()
        return work

    def publish(self) -> None:
        """Publish within a step. For a stage that acts only after its records are visible to others."""
        self._rings.publish()

    def may_sleep(self) -> float:
        """Seconds until the stage's deadline, or until a waiting control message must be sent again."""
        if self.events.waiting:
            self.events.flush()
        rings = self._rings
        if rings.outputs_here:
            if not self.woken and rings.has_room_again():
                self.woken = True
            if self.woken:
                return 0.0
        timeout = self.stage.deadline() - monotonic()
        return timeout if self.control.flush() else min(timeout, control_sockets.OUTBOX_RETRY)

    def announce(self) -> None:
        """See Member.announce."""
        self._rings.announce(self._slots_matter())

    def awake(self) -> None:
        """See Member.awake."""
        self._rings.awake()

    def inputs_ready(self) -> bool:
        """See Member.inputs_ready."""
        return self._rings.inputs_ready()

    def _slots_matter(self) -> bool:
        """Whether a freed slot must wake this worker."""
        pool = self.ports.pool
        return pool is not None and (self.slots_wanted or pool.free_count * 2 < pool.count)

    def _on_returned(self, source: str, entries: list[int]) -> None:
        """The worker ``source`` has freed slots of this one."""
        pool = self.pool
        for entry in entries:
            pool.unref(entry & SLOT_MASK)
        if tags := [entry >> TAG_SHIFT for entry in entries if entry > SLOT_MASK]:
            self.stage.on_released(source, tags)

    def _free_push(self, home: str) -> Callable[[int], None]:
        """The function that frees slots of the worker ``home``. Its argument is an entry of a free ring."""
        if home == self.name:
            unref = self.pool.unref
            return lambda entry: unref(entry & SLOT_MASK)
        ring = self.ports.free_out.get(home)
        return ring.push if ring is not None else self._no_way_home

    def _no_way_home(self, entry: int) -> None:
        slot = entry & SLOT_MASK
        raise LookupError(
            f"slot {slot} of {self.ports.home_of(slot)} cannot be with {self.name}: no free ring"
        )

    # --- sockets and control ------------------------------------------------------------

    def _waking(self, callback: Callable[[int], object]) -> Callable[[int], object]:
        def wake(found: int) -> None:
            self.woken = True
            callback(found)

        return wake

    def _sockets(self) -> Poller:
        if self.poller is None:
            raise LookupError(f"worker {self.name} waits on a semaphore and can hold no descriptors")
        return self.poller

    def _server(self, channel: ControlChannel) -> Callable[[int], object]:
        def serve(_found: int) -> None:
            self.control.serve(channel)
            self._after_control()
            if channel.ended and self.poller is not None and self.poller.registered(channel.fileno()):
                self.unregister(channel.fileno())

        return serve

    def _after_control(self) -> None:
        """Count lost messages, and stop if the supervisor has closed its socket."""
        self.counts[_MESSAGES_LOST] = self.control.lost
        if self.control.ended and self.running:
            self.log.info("supervisor closed the control socket")
            self.stop()

    # --- other workers that die ---------------------------------------------------------

    def pause(self) -> None:
        """End the turn, and hold until resume()."""
        self.paused, self.running = True, False

    def resume(self) -> None:
        """End the pause."""
        self.paused, self.running = False, True
        self.woken = True

    def hold(self, seconds: float) -> None:
        """Pause: serve the supervisor's requests, for at most that long. The stage is between two breaths."""
        self._requests.confirm_pause()
        self.control.flush()
        self.control.wait(seconds)
        self.control.poll_supervisor()
        self._after_control()
        self.check_parent()

    def slots_held(self) -> Holdings:
        """The references to slots that this worker holds or counts (see holdings.py), between two breaths."""
        found = self.stage.slots_held()
        holdings.in_rings(found, self.ports)
        return found

    def lose(self, workers: Collection[str]) -> Holdings:
        """These workers are dead: drop what is in the rings with them. Returns what this worker holds."""
        self._rings.forget(workers)
        return self.slots_held()

    def settle(self, losses: Losses, slots: Mapping[int, int] | None, now: float) -> int:
        """After lose(): correct the pool, and let the stage end what lived in the dead workers.

        slots: see Settle. Returns how many references were lost.
        """
        lost = 0
        if slots is not None:
            before = self.pool.held()
            lost = self.pool.restore(slots)
            if wrong := [slot for slot, number in slots.items() if number > before.get(slot, 0)]:
                # They are never freed, which is the lesser evil.
                self.log.error("more references are held than were given", slots=wrong)
        self.stage.on_workers_lost(losses, now)
        # All pause. So when they go on, each finds what all others have to say, whoever breathes first.
        self._rings.publish()
        return lost

    def renew_peer(self, name: str, sock: socket.socket) -> None:
        """The worker ``name`` has a successor, at the other end of this socket."""
        before, after = self.control.renew_peer(name, sock)
        if self.poller is not None:
            if self.poller.registered(before.fileno()):
                self.unregister(before.fileno())
            self.register(after.fileno(), events.READ, self._server(after))
        before.close()

    # --- life ---------------------------------------------------------------------------

    def check_parent(self) -> None:
        """Stop if the supervisor is gone."""
        if os.getppid() != self._supervisor_pid:
            self.log.info("supervisor is gone")
            self.stop()

    def _keep_house(self, now: float) -> None:
        self._housekeeping_at = now + HOUSEKEEPING
        self._write_gauges()
        self._busy.write(now, self.idle.seconds)
        self.control.log_lost()
        self.events.keep_house()
        self.check_parent()
        self.control.flush()
        if self.poller is None:
            # This also finds a closed socket, and a message without a ring of the bell.
            self.control.poll_supervisor()
            self._after_control()

    def _write_gauges(self) -> None:
        counts = self.counts
        counts[_BREATHS] = self._breaths
        counts[_SLEEPS] = self.sleeps
        pool = self.ports.pool
        if pool is not None:
            counts[_SLOTS_FREE] = pool.free_count
            counts[_SLOT_REFS_OUT] = pool.refs_out

    def end(self) -> None:
        """Let the stage give back what it holds, and check the pool."""
        self.stage.close()
        self._rings.publish_for_good()
        for source, ring in self.ports.free_in.items():
            self._on_returned(source, ring.drain())
        self._write_gauges()
        pool = self.ports.pool
        if pool is not None and (wrong := pool.audit()) is not None:
            self.log.error("pool is inconsistent", error=wrong)
        self.events.flush()
        self.control.close()
        self.log.debug("worker stopped")
