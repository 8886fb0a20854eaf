"""What every worker has around its stage: its ports, its control socket, its part of a breath.

A *breath*: take slots home, serve the control socket, ``stage.step``, publish what was
pushed and ring one bell for each peer that sleeps. The turn of breath and sleep, socket events and
signals are the process's: pipeline.stages.loop.

A worker ends when it is told so (request ``stop``), and when the supervisor is gone: its end of the
control socket closed, or another parent process. What it does not do: fork, configure
logging, or know any protocol.
"""

import os
import select
import socket
from collections.abc import Callable, Mapping, Sequence, Sized
from time import monotonic
from typing import Any, Final, Protocol

import structlog

from pipeline.counters import INDEX
from pipeline.ipc import events, messages
from pipeline.ipc.arena import Pool
from pipeline.ipc.channel import ControlChannel, HasFileno
from pipeline.ipc.fabric import WorkerPorts
from pipeline.ipc.poller import Poller, open_poller
from pipeline.ipc.ring import Producer, SlotProducer
from pipeline.ipc.wake import EventfdWaiter
from pipeline.stages.loop import Loop

HOUSEKEEPING: Final = 1.0
"""Seconds between two looks at gauges, parent and control socket."""
OUTBOX_RETRY: Final = 0.01
"""Seconds until a control message that the socket did not take is tried again."""
TAG_SHIFT: Final = 32
"""In an entry of a free ring: slot number in the low bits, tag in the high ones."""

_SLOT_MASK: Final = (1 << TAG_SHIFT) - 1

_BREATHS: Final = INDEX["worker_breaths"]
_SLEEPS: Final = INDEX["worker_sleeps"]
_SLOTS_FREE: Final = INDEX["worker_slots_free"]
_SLOT_REFS_OUT: Final = INDEX["worker_slot_refs_out"]
_MESSAGES_LOST: Final = INDEX["worker_messages_lost"]

Message = dict[str, Any]
AnyProducer = Producer | SlotProducer


class Stage(Protocol):
    """What the loop needs of a stage.

    Two more methods are used if the stage has them: ``on_released(source, tags)`` hears the
    non-zero tags with which peers freed this worker's slots, and ``close()`` is called at an
    orderly end, to give back what the stage holds.
    """

    def step(self, now: float) -> int:
        """Do what there is to do; how much was done.

        The worker may sleep after it: a stage with more to do says so in deadline(), and one that
        waits for room in a ring has asked ``room()`` last. Ring entries may be left where they are
        (their way out is blocked): the next event, descriptor or deadline ends the sleep, those
        entries do not.
        """
        ...

    def deadline(self) -> float:
        """Time (monotonic) at which step must be called without any event; inf if never."""
        ...

    def on_control(self, message: Message, fds: list[int]) -> Message | None:
        """Serve one message; the descriptors are the stage's. The result is sent if there was an id.

        None instead of a result means: the stage calls ``Worker.reply`` later. An exception is
        logged and sent back as {"error": text}.
        """
        ...


class Worker:
    """One worker: ports, sockets and control. Made after the fork, in its process."""

    def __init__(
        self,
        ports: WorkerPorts,
        control: socket.socket | None,
        poller: Poller | None = None,
    ) -> None:
        """control: this worker's end of the control socket. The parent now is taken for the supervisor.

        poller: that of the process, if it has one already; else one is made if the waiter is a descriptor.
        """
        self.ports = ports
        self.name = ports.name
        self.index = ports.index
        self.counts = ports.counters.counts
        self.log = structlog.get_logger().bind(worker=ports.name, pid=os.getpid())
        self.running = True
        self.slots_wanted = True
        """Whether each slot that comes home wakes this worker; else only while less than half are free.
        A stage that waits for no slot now may say so here, and change it at any time."""
        self._control = ControlChannel(control) if control is not None else None
        self._peers = {peer: ControlChannel(sock) for peer, sock in ports.handoffs.items()}
        self._supervisor_pid = os.getppid()
        self._waiter = ports.bell.waiter
        if poller is None and isinstance(self._waiter, EventfdWaiter):
            poller = open_poller(self._waiter)
        self.poller = poller
        self._armed: list[AnyProducer] = []
        self._wants_slots = False
        self._control_poll = select.poll()
        if control is not None:
            self._control_poll.register(control, select.POLLIN)
        self._housekeeping_at = 0.0
        self._breaths = 0
        self._lost_told = 0
        self._free_pushes = [self._free_push(home) for home in ports.homes]
        self._on_released: Callable[[str, list[int]], object] | None = None
        self._free_in = list(ports.free_in.items())
        self.stirred = True
        """Whether something came since the last breath from an event or from a worker of the same process."""
        self.sleeps = 0
        self._share({})
        if poller is not None:
            for channel in (self._control, *self._peers.values()):
                if channel is not None:
                    self.register(channel.fileno(), events.READ, self._server(channel))

    def share(self, workers: Mapping[str, "Worker"]) -> None:
        """Say which workers, by name, breathe in this process: they are stirred where others are rung for."""
        self._share({name: worker for name, worker in workers.items() if worker is not self})

    def _share(self, together: Mapping[str, "Worker"]) -> None:
        ports, bells = self.ports, self.ports.bells

        def ring_of(peer: str) -> Callable[[], None]:
            return together[peer].stir if peer in together else bells[peer].ring

        def slot_ring_of(home: str) -> Callable[[], None]:
            return together[home].stir_for_slots if home in together else bells[home].ring_for_slots

        self._nudges = {peer: bell.nudge for peer, bell in bells.items() if peer not in together}
        self._publishes: list[tuple[Sized, Callable[[], bool], Callable[[], None]]] = [
            *((ring.queue, ring.publish, ring_of(peer)) for peer, ring in ports.rings_out.items()),
            *((ring.queue, ring.publish, slot_ring_of(home)) for home, ring in ports.free_out.items()),
        ]
        outputs: list[tuple[str, AnyProducer]] = [*ports.rings_out.items(), *ports.free_out.items()]
        inputs = [*ports.rings_in.items(), *ports.free_in.items()]
        self._producers: list[AnyProducer] = [ring for peer, ring in outputs if peer not in together]
        """Rings whose consumer may run while this worker sleeps."""
        self._producers_here: list[AnyProducer] = [ring for peer, ring in outputs if peer in together]
        self._releases = [(ring.wake_due, bells[peer].ring) for peer, ring in inputs if peer not in together]
        self._inputs = [ring.fresh for peer, ring in ports.rings_in.items() if peer not in together]
        self._frees = [ring.pending for peer, ring in ports.free_in.items() if peer not in together]
        self.has_peers_outside = not together or bool(self._inputs or self._frees or self._producers)
        """Whether a worker of another process may have to ring for this one."""

    def stir(self) -> None:
        """A worker of this process has published something for this one."""
        self.stirred = True

    def stir_for_slots(self) -> None:
        """A worker of this process has sent slots home: a reason to breathe if slots are wanted."""
        if self._slots_matter():
            self.stirred = True

    # --- for the stage ------------------------------------------------------------------

    @property
    def pool(self) -> Pool:
        """The pool that this worker allocates from. LookupError if the topology gives it none."""
        if self.ports.pool is None:
            raise LookupError(f"worker {self.name} owns no slots")
        return self.ports.pool

    def free(self, slot: int, tag: int = 0) -> None:
        """Give one reference back, to the own pool or on the way home.

        A home that counts references by purpose gets the tag (32 bits, 0 = none) with them; it is
        not heard of for slots of the own pool.
        """
        self._free_pushes[slot](slot | tag << TAG_SHIFT)

    def register(self, fd: int, mask: int, callback: Callable[[int], object]) -> None:
        """Call callback(events) in each breath in which fd is ready; events of pipeline.events.

        Only in workers with a poller (LookupError in others). Unregister before closing fd.
        An event of this breath may still be delivered to a descriptor that took over the number.
        """
        self._sockets().register(fd, mask, self._stirring(callback))

    def modify(self, fd: int, mask: int) -> None:
        """Wait for other events of a registered descriptor."""
        self._sockets().modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """Forget a registered descriptor, which must still be open."""
        self._sockets().unregister(fd)

    def nudge(self, peer: str) -> None:
        """Something is about to come to peer, from here or by way of others: let it wake up meanwhile."""
        if (nudge := self._nudges.get(peer)) is not None:
            nudge()

    def nudged(self) -> bool:
        """Whether a peer has said so of this worker since the last call."""
        return self.ports.bell.take_nudge()

    def send_event(self, message: Message, fds: Sequence[int | HasFileno] = ()) -> None:
        """Tell the supervisor something it did not ask for. The descriptors stay the caller's to close.

        OSError if there are descriptors and none is left to keep them until the socket takes the message.
        """
        if self._control is not None:
            self._control.send(message, fds)

    def reply(self, request: Message, result: Message) -> None:
        """Answer a request for which on_control returned None."""
        answer = {"id": request["id"], **result}
        if "error" not in answer:
            answer["ok"] = True
        try:
            self.send_event(answer)
        except OSError as error:
            # An answer too long for any message, or no descriptor for its file: say so instead.
            self.log.warning("answer cannot be sent", op=request.get("op"), error=str(error))
            self.send_event({"id": request["id"], "error": f"answer cannot be sent: {error.strerror}"})

    def send_peer(self, name: str, message: Message, fds: Sequence[int | HasFileno] = ()) -> None:
        """Hand descriptors to another worker; its on_control gets the message. KeyError without hand-off.

        OSError as of send_event().
        """
        self._peers[name].send(message, fds)

    def peer_backlog(self, name: str) -> int:
        """Messages that wait because that worker has not read those before."""
        return self._peers[name].backlog

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
        self._on_released = getattr(stage, "on_released", None)

    def breathe(self, now: float) -> int:
        """One breath. Everything that may push stands before the step; what was pushed is published after."""
        self._breaths += 1
        self.stirred = False
        for source, ring in self._free_in:
            if entries := ring.drain():
                self._take_home(source, entries)
        # Where there is a poller, it watches the control socket.
        if self.poller is None and self.ports.bell.take_control() and self._control is not None:
            self._serve(self._control)
        if now >= self._housekeeping_at:
            self._keep_house(now)
        work = self._step(now)
        self.publish()
        for wake_due, ring_bell in self._releases:
            if wake_due():
                ring_bell()
        return work

    def publish(self) -> None:
        """What a breath does at its end, for a stage that has to say more when everybody can see that."""
        for queue, publish, ring_bell in self._publishes:
            if queue and publish():
                ring_bell()

    def may_sleep(self) -> float:
        """Seconds until the stage's deadline, or until a control message is to be tried again."""
        if self._producers_here and (self.stirred or self._has_room_again()):
            return 0.0
        timeout = self.stage.deadline() - monotonic()
        return timeout if self._flush() else min(timeout, OUTBOX_RETRY)

    def _has_room_again(self) -> bool:
        """Whether a worker of this process has since emptied a ring in which this one found little room."""
        for ring in self._producers_here:
            if ring.scarce:
                ring.room()
                if not ring.scarce:
                    self.stirred = True
        return self.stirred

    def announce(self) -> None:
        """Sleep is next: peers ring for records, for room, and for slots if those are wanted."""
        self._wants_slots = self._slots_matter()
        self._armed = [ring for ring in self._producers if ring.arm()]
        self.ports.bell.announce(self._wants_slots)

    def awake(self) -> None:
        """The sleep is over, or did not come about."""
        self.ports.bell.awake()
        for ring in self._armed:
            ring.disarm()

    def inputs_ready(self) -> bool:
        """The second look, after the announcement: whether anything came that nobody rings for any more."""
        for fresh in self._inputs:
            if fresh():
                return True
        for producer in self._armed:
            if producer.released():
                return True
        if self._wants_slots:
            for pending in self._frees:
                if pending():
                    return True
        return False

    def _slots_matter(self) -> bool:
        """Whether a slot that comes home is a reason to wake."""
        pool = self.ports.pool
        return pool is not None and (self.slots_wanted or pool.free_count * 2 < pool.count)

    def _take_home(self, source: str, entries: list[int]) -> None:
        unref = self.pool.unref
        for entry in entries:
            unref(entry & _SLOT_MASK)
        if self._on_released is not None:
            tags = [entry >> TAG_SHIFT for entry in entries if entry > _SLOT_MASK]
            if tags:
                self._on_released(source, tags)

    def _free_push(self, home: str) -> Callable[[int], None]:
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

    def _stirring(self, callback: Callable[[int], object]) -> Callable[[int], object]:
        def stir(found: int) -> None:
            self.stirred = True
            callback(found)

        return stir

    def _sockets(self) -> Poller:
        if self.poller is None:
            raise LookupError(f"worker {self.name} waits on a semaphore and can hold no descriptors")
        return self.poller

    # --- control ------------------------------------------------------------------------

    def _flush(self) -> bool:
        """Send control messages that waited for their socket; whether none is left."""
        done = self._control is None or not self._control.backlog or self._control.flush()
        for peer in self._peers.values():
            if peer.backlog and not peer.flush():
                done = False
        return done

    def _server(self, channel: ControlChannel) -> Callable[[int], object]:
        return lambda _events: self._serve(channel)

    def _serve(self, channel: ControlChannel) -> None:
        for message, fds in channel.receive():
            result = self._dispatch(message, fds)
            if result is not None and "id" in message and channel is self._control:
                self.reply(message, result)
        for message in channel.take_lost():
            self.counts[_MESSAGES_LOST] += 1
            if "id" in message and channel is self._control:
                self.reply(message, {"error": f"worker {self.name} has no descriptor left"})
        if channel.ended:
            if channel is self._control:
                self.log.info("supervisor closed the control socket")
                self.stop()
            if self.poller is not None and self.poller.registered(channel.fileno()):
                self.unregister(channel.fileno())

    def _dispatch(self, message: Message, fds: list[int]) -> Message | None:
        match messages.request_of(message):
            case messages.Stop():
                self.stop()
                return {}
            case messages.Ping():
                return {}
            case messages.Audit():
                pool = self.ports.pool
                if pool is None:
                    return messages.AuditAnswer(0, 0, 0, None).encode()
                return messages.AuditAnswer(pool.count, pool.free_count, pool.refs_out, pool.audit()).encode()
        try:
            return self.stage.on_control(message, fds)
        except Exception as error:  # one bad request must not end the worker and all its flows
            self.log.exception("control request failed", op=message.get("op"), error=str(error))
            return {"error": str(error) or type(error).__name__}

    # --- life ---------------------------------------------------------------------------

    def check_parent(self) -> None:
        """Stop if the supervisor is gone."""
        if os.getppid() != self._supervisor_pid:
            self.log.info("supervisor is gone")
            self.stop()

    def _keep_house(self, now: float) -> None:
        self._housekeeping_at = now + HOUSEKEEPING
        self._write_gauges()
        lost = self.counts[_MESSAGES_LOST]
        if lost > self._lost_told:
            self.log.warning("no descriptor left for what was handed over", count=lost - self._lost_told)
            self._lost_told = lost
        self.check_parent()
        self._flush()
        # Also finds a closed socket, and a message whose bell was not rung. (Asked first: a read that
        # finds nothing costs an exception and a buffer, every second in every idle worker.)
        if self.poller is None and self._control is not None and self._control_poll.poll(0):
            self._serve(self._control)

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
        close = getattr(self.stage, "close", None)
        if close is not None:
            close()
        for _, publish, _ in self._publishes:
            publish()
        for source, ring in self.ports.free_in.items():
            self._take_home(source, ring.drain())
        self._write_gauges()
        pool = self.ports.pool
        if pool is not None and (wrong := pool.audit()) is not None:
            self.log.error("pool is inconsistent", error=wrong)
        self._flush()
        for channel in (self._control, *self._peers.values()):
            if channel is not None:
                channel.close()
        self.log.debug("worker stopped")
