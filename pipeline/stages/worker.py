"""What every worker has around its stage: its rings, its control sockets, its part of a breath.

A *breath*: take back slots that were freed, serve the control sockets, ``stage.step``, publish what was
pushed, and ring one bell for each peer that sleeps. Breaths and sleep, socket events and signals are the
business of the process: pipeline.stages.loop.

A worker ends when it is told so (request ``stop``), and when the supervisor is gone: the control socket
ends, or the parent process is another one. It does not fork, does not configure logging, and knows no
protocol.
"""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Final, TypeAlias

import structlog

from pipeline.counters import INDEX
from pipeline.ipc import events, messages
from pipeline.ipc.arena import Pool
from pipeline.ipc.channel import ControlChannel, HasFileno
from pipeline.ipc.fabric import WorkerPorts
from pipeline.ipc.poller import Poller, open_poller
from pipeline.ipc.wake import EventfdWaiter
from pipeline.stages import control_sockets
from pipeline.stages.control_sockets import ControlSockets
from pipeline.stages.loop import Loop
from pipeline.stages.protocol import Stage
from pipeline.stages.rings import WorkerRings

HOUSEKEEPING: Final = 1.0
"""Seconds between two looks at gauges, parent and control socket."""
TAG_SHIFT: Final = 32
"""In an entry of a free ring: slot number in the low bits, tag in the high ones."""

_SLOT_MASK: Final = (1 << TAG_SHIFT) - 1

_BREATHS: Final = INDEX["worker_breaths"]
_SLEEPS: Final = INDEX["worker_sleeps"]
_SLOTS_FREE: Final = INDEX["worker_slots_free"]
_SLOT_REFS_OUT: Final = INDEX["worker_slot_refs_out"]
_MESSAGES_LOST: Final = INDEX["worker_messages_lost"]

Message: TypeAlias = control_sockets.Message


class Worker:
    """One worker: rings, sockets and control. Made after the fork, in its process."""

    def __init__(
        self,
        ports: WorkerPorts,
        control: socket.socket | None,
        poller: Poller | None = None,
    ) -> None:
        """control: this worker's end of the control socket. The present parent is taken for the supervisor.

        poller: that of the process, if it has one already. Else one is made if the waiter is a descriptor.
        """
        self.ports = ports
        self.name = ports.name
        self.index = ports.index
        self.counts = ports.counters.counts
        self.log = structlog.get_logger().bind(worker=ports.name, pid=os.getpid())
        self.running = True
        self.slots_wanted = True
        """Whether each slot that is freed wakes this worker; else only while less than half are free.
        A stage that waits for no slot now may say so here, and change it at any time."""
        self.woken = True
        """Whether something came since the last breath from an event or from a worker of the same process."""
        self.sleeps = 0
        self.control = ControlSockets(ports.name, control, ports.handoffs, self.log, self._dispatch)
        self._supervisor_pid = os.getppid()
        self._waiter = ports.bell.waiter
        if poller is None and isinstance(self._waiter, EventfdWaiter):
            poller = open_poller(self._waiter)
        self.poller = poller
        self._rings = WorkerRings(ports)
        self.has_peers_outside = self._rings.has_peers_outside
        """Whether a worker of another process may have to ring for this one."""
        self._housekeeping_at = 0.0
        self._breaths = 0
        self._free_pushes = [self._free_push(home) for home in ports.homes]
        self._free_in = list(ports.free_in.items())
        if poller is not None:
            for channel in self.control.channels:
                self.register(channel.fileno(), events.READ, self._server(channel))

    def share(self, workers: Mapping[str, "Worker"]) -> None:
        """Set which workers, by name, breathe in this process: they are woken where others are rung for."""
        self._rings.share({name: worker for name, worker in workers.items() if worker is not self})
        self.has_peers_outside = self._rings.has_peers_outside

    def wake(self) -> None:
        """A worker of this process has published something for this one."""
        self.woken = True

    def wake_for_slots(self) -> None:
        """A worker of this process has freed slots of this one: a reason to breathe if slots are wanted."""
        if self._slots_matter():
            self.woken = True

    # --- for the stage ------------------------------------------------------------------

    @property
    def pool(self) -> Pool:
        """The pool that this worker allocates from. LookupError if the topology gives it none."""
        if self.ports.pool is None:
            raise LookupError(f"worker {self.name} owns no slots")
        return self.ports.pool

    def free(self, slot: int, tag: int = 0) -> None:
        """Give one reference back, to the own pool or to the worker that owns the slot.

        tag: 32 bits, 0 = none. The owner's stage gets it in on_released(), so that it can count references by
        purpose. For slots of the own pool it is ignored.
        """
        self._free_pushes[slot](slot | tag << TAG_SHIFT)

    def register(self, fd: int, mask: int, callback: Callable[[int], object]) -> None:
        """Call callback(events) in each breath in which fd is ready; events are those of pipeline.ipc.events.

        Only in workers with a poller (LookupError in others). Unregister before closing fd.
        An event of this breath may still be delivered to a descriptor that took over the number.
        """
        self._sockets().register(fd, mask, self._waking(callback))

    def modify(self, fd: int, mask: int) -> None:
        """Wait for other events of a registered descriptor."""
        self._sockets().modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """Forget a registered descriptor, which must still be open."""
        self._sockets().unregister(fd)

    def prewake(self, peer: str) -> None:
        """Something will come to peer soon, from here or by way of others: let it wake up meanwhile."""
        self._rings.prewake(peer)

    def prewoken(self) -> bool:
        """Whether a peer has prewoken this worker since the last call."""
        return self.ports.bell.take_prewake()

    def send_event(self, message: Message, fds: Sequence[int | HasFileno] = ()) -> None:
        """Send the supervisor a message that is not an answer. The descriptors stay the caller's to close.

        OSError if there are descriptors and none is left to keep them until the socket takes the message.
        """
        self.control.send_event(message, fds)

    def reply(self, request: Message, result: Message) -> None:
        """Answer a request for which on_control returned None."""
        self.control.reply(request, result)

    def send_peer(self, name: str, message: Message, fds: Sequence[int | HasFileno] = ()) -> None:
        """Hand descriptors to another worker; its on_control gets the message. KeyError without hand-off.

        OSError as of send_event().
        """
        self.control.send_peer(name, message, fds)

    def peer_backlog(self, name: str) -> int:
        """Messages that wait because that worker has not read those before."""
        return self.control.peer_backlog(name)

    def stop(self) -> None:
        """End the loop after this breath."""
        self.running = False

    # --- the breath ---------------------------------------------------------------------

    def run(self, stage: Stage) -> None:
        """Breathe alone in this process until told to stop."""
        self.adopt(stage)
        Loop(self._waiter, [self]).run()

    def adopt(self, stage: Stage) -> None:
        """Take the stage that this worker runs."""
        self.stage = stage
        self._step = stage.step

    def breathe(self, now: float) -> int:
        """One breath. Everything that may push stands before the step; what was pushed is published after."""
        self._breaths += 1
        self.woken = False
        for source, ring in self._free_in:
            if entries := ring.drain():
                self._on_returned(source, entries)
        # Where there is a poller, it watches the control socket.
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
        """Publish within a step, for a stage that has to say more when everybody can see what it pushed."""
        self._rings.publish()

    def may_sleep(self) -> float:
        """Seconds until the stage's deadline, or until a control message is to be tried again."""
        rings = self._rings
        if rings.producers_here:
            if not self.woken and rings.has_room_again():
                self.woken = True
            if self.woken:
                return 0.0
        timeout = self.stage.deadline() - monotonic()
        return timeout if self.control.flush() else min(timeout, control_sockets.OUTBOX_RETRY)

    def announce(self) -> None:
        """Sleep is next: peers ring for records, for room, and for slots if those are wanted."""
        self._rings.announce(self._slots_matter())

    def awake(self) -> None:
        """The sleep is over, or did not come about."""
        self._rings.awake()

    def inputs_ready(self) -> bool:
        """The second look, after the announcement: whether anything came for which no peer rings any more."""
        return self._rings.inputs_ready()

    def _slots_matter(self) -> bool:
        """Whether a freed slot is a reason to wake."""
        pool = self.ports.pool
        return pool is not None and (self.slots_wanted or pool.free_count * 2 < pool.count)

    def _on_returned(self, source: str, entries: list[int]) -> None:
        """The worker ``source`` has freed slots of this one."""
        unref = self.pool.unref
        for entry in entries:
            unref(entry & _SLOT_MASK)
        if tags := [entry >> TAG_SHIFT for entry in entries if entry > _SLOT_MASK]:
            self.stage.on_released(source, tags)

    def _free_push(self, home: str) -> Callable[[int], None]:
        """What frees a slot of the worker ``home``: it takes an entry of a free ring."""
        if home == self.name:
            unref = self.pool.unref
            return lambda entry: unref(entry & _SLOT_MASK)
        ring = self.ports.free_out.get(home)
        return ring.push if ring is not None else self._no_way_home

    def _no_way_home(self, entry: int) -> None:
        slot = entry & _SLOT_MASK
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
        """Count what was lost, and stop when the supervisor has closed its socket."""
        self.counts[_MESSAGES_LOST] = self.control.lost
        if self.control.ended and self.running:
            self.log.info("supervisor closed the control socket")
            self.stop()

    def _dispatch(self, message: Message, fds: list[int]) -> Message | None:
        """Serve one control message; the stage gets those that are not for every worker."""
        match messages.request_of(message):
            case messages.Stop():
                self.stop()
                return {}
            case messages.Ping():
                return {}
            case messages.Audit():
                return self._audit()
        try:
            return self.stage.on_control(message, fds)
        except Exception as error:  # one bad request must not end the worker and all its flows
            self.log.exception("control request failed", op=message.get("op"), error=str(error))
            return {"error": str(error) or type(error).__name__}

    def _audit(self) -> Message:
        """What the stage holds, and whether the pool is sound."""
        pool = self.ports.pool
        held = self.stage.held()
        if pool is None:
            return messages.AuditAnswer(0, 0, 0, None, held).encode()
        return messages.AuditAnswer(pool.count, pool.free_count, pool.refs_out, pool.audit(), held).encode()

    # --- life ---------------------------------------------------------------------------

    def check_parent(self) -> None:
        """Stop if the supervisor is gone."""
        if os.getppid() != self._supervisor_pid:
            self.log.info("supervisor is gone")
            self.stop()

    def _keep_house(self, now: float) -> None:
        self._housekeeping_at = now + HOUSEKEEPING
        self._write_gauges()
        self.control.log_lost()
        self.check_parent()
        self.control.flush()
        if self.poller is None:
            # Also finds a closed socket, and a message for which nobody rang.
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
        """Let the stage give back what it holds, and look whether the pool is sound."""
        self.stage.close()
        self._rings.publish_for_good()
        for source, ring in self.ports.free_in.items():
            self._on_returned(source, ring.drain())
        self._write_gauges()
        pool = self.ports.pool
        if pool is not None and (wrong := pool.audit()) is not None:
            self.log.error("pool is inconsistent", error=wrong)
        self.control.close()
        self.log.debug("worker stopped")
