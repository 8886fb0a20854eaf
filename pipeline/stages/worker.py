"""The loop that every worker process runs around its stage.

One turn of it is a *breath*: take slots home, deliver socket events, ``stage.step``,
publish what was pushed and ring one bell for each peer that sleeps. A breath without
work ends in sleep: announce, look at every input again, then wait in epoll (workers with
sockets) or on a semaphore, until the stage's deadline or MAX_SLEEP. A sleeping worker
costs one wake a second; a busy one makes no system call but those of its sockets.

Beside the stage the loop serves the control socket, keeps the gauges of the pool, and
ends: on SIGTERM, on the request ``stop``, and when the supervisor is gone (its end of the
control socket closed, the parent's death signal, or another parent process). SIGINT is
ignored: the supervisor gets it too and decides.

What it does not do: fork, configure logging, or know any protocol.
"""

import ctypes
import faulthandler
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence, Sized
from time import monotonic
from types import FrameType
from typing import Any, Final, Protocol

import structlog

from pipeline.counters import INDEX
from pipeline.shm.arena import Pool
from pipeline.shm.ring import Producer, SlotProducer
from pipeline.shm.wake import MAX_SLEEP, EventfdWaiter
from pipeline.stages.channel import ControlChannel, HasFileno
from pipeline.topology import WorkerPorts

HOUSEKEEPING: Final = 1.0
"""Seconds between two looks at gauges, parent and control socket."""
OUTBOX_RETRY: Final = 0.01
"""Seconds until a control message that the socket did not take is tried again."""
MAX_EVENTS: Final = 256
"""Socket events of one breath."""
TAG_SHIFT: Final = 32
"""In an entry of a free ring: slot number in the low bits, tag in the high ones."""

_SLOT_MASK: Final = (1 << TAG_SHIFT) - 1
_PR_SET_PDEATHSIG: Final = 1

_BREATHS: Final = INDEX["worker_breaths"]
_SLEEPS: Final = INDEX["worker_sleeps"]
_SLOTS_FREE: Final = INDEX["worker_slots_free"]
_SLOT_REFS_OUT: Final = INDEX["worker_slot_refs_out"]

Message = dict[str, Any]
AnyProducer = Producer | SlotProducer


class Stage(Protocol):
    """What the loop needs of a stage.

    Two more methods are used if the stage has them: ``on_released(source, tags)`` hears the
    non-zero tags with which peers freed this worker's slots, and ``close()`` is called at an
    orderly end, to give back what the stage holds.
    """

    def step(self, now: float) -> int:
        """Do what there is to do; how much was done. 0 lets the worker sleep.

        Ring entries may be left where they are (their way out is blocked) with a result of 0: the
        next event, descriptor or deadline ends the sleep, those entries do not.
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
    """One worker process: ports, sockets, control and the loop. Made after the fork."""

    def __init__(
        self, ports: WorkerPorts, control: socket.socket | None, supervisor_pid: int | None = None
    ) -> None:
        """control: this worker's end of the control socket; supervisor_pid: the parent, default getppid()."""
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
        self._supervisor_pid = os.getppid() if supervisor_pid is None else supervisor_pid
        self._waiter = ports.bell.waiter
        self._epoll: select.epoll | None = None
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._control_poll = select.poll()
        if control is not None:
            self._control_poll.register(control, select.POLLIN)
        self._housekeeping_at = 0.0
        self._breaths = self._sleeps = 0
        self._free_pushes = [self._free_push(home) for home in ports.homes]
        self._on_released: Callable[[str, list[int]], object] | None = None
        bells = ports.bells
        self._publishes: list[tuple[Sized, Callable[[], bool], Callable[[], None]]] = [
            *((ring.queue, ring.publish, bells[peer].ring) for peer, ring in ports.rings_out.items()),
            *(
                (ring.queue, ring.publish, bells[home].ring_for_slots)
                for home, ring in ports.free_out.items()
            ),
        ]
        self._producers: list[AnyProducer] = [*ports.rings_out.values(), *ports.free_out.values()]
        self._releases = [
            *((ring.wake_due, bells[peer].ring) for peer, ring in ports.rings_in.items()),
            *((ring.wake_due, bells[peer].ring) for peer, ring in ports.free_in.items()),
        ]
        if isinstance(self._waiter, EventfdWaiter):
            self._epoll = select.epoll()
            clear = self._waiter.clear
            self.register(self._waiter.fileno(), select.EPOLLIN, lambda _events: clear())
            for channel in (self._control, *self._peers.values()):
                if channel is not None:
                    self.register(channel.fileno(), select.EPOLLIN, self._server(channel))

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

    def register(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Call callback(events) in each breath in which fd is ready; EPOLLET in events as in epoll.

        Only in workers that wait in epoll (LookupError in others). Unregister before closing fd.
        An event of this breath may still be delivered to a descriptor that took over the number.
        """
        self._poll().register(fd, events)
        self._callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events of a registered descriptor."""
        self._poll().modify(fd, events)

    def unregister(self, fd: int) -> None:
        """Forget a registered descriptor, which must still be open."""
        del self._callbacks[fd]
        self._poll().unregister(fd)

    def send_event(self, message: Message, fds: Sequence[int | HasFileno] = ()) -> None:
        """Tell the supervisor something it did not ask for. The descriptors stay the caller's to close."""
        if self._control is not None:
            self._control.send(message, fds)

    def reply(self, request: Message, result: Message) -> None:
        """Answer a request for which on_control returned None."""
        answer = {"id": request["id"], **result}
        if "error" not in answer:
            answer["ok"] = True
        self.send_event(answer)

    def send_peer(self, name: str, message: Message, fds: Sequence[int | HasFileno] = ()) -> None:
        """Hand descriptors to another worker; its on_control gets the message. KeyError without hand-off."""
        self._peers[name].send(message, fds)

    def stop(self) -> None:
        """End the loop after this breath."""
        self.running = False

    # --- the loop -----------------------------------------------------------------------

    def run(self, stage: Stage) -> None:
        """Breathe until told to stop. Exceptions of the stage end the worker with status 1."""
        self._stage = stage
        self._on_released = getattr(stage, "on_released", None)
        self._take_signals()
        gc.collect()
        gc.freeze()
        self.log.debug("worker started")
        try:
            self._loop(stage)
            self._end(stage)
        except Exception as error:
            self.log.exception("worker failed", error=str(error))
            raise SystemExit(1) from error

    def _loop(self, stage: Stage) -> None:
        step = stage.step
        callbacks = self._callbacks
        epoll = self._epoll
        releases = self._releases
        publishes = self._publishes
        take_control = self.ports.bell.take_control
        free_in = list(self.ports.free_in.items())
        events: list[tuple[int, int]] = []
        while self.running:
            self._breaths += 1
            now = monotonic()
            for source, ring in free_in:
                if entries := ring.drain():
                    self._take_home(source, entries)
            for fd, mask in events:
                # A callback before may have unregistered it.
                if (callback := callbacks.get(fd)) is not None:
                    callback(mask)
            if take_control() and self._control is not None:
                self._serve(self._control)
            if now >= self._housekeeping_at:
                self._keep_house(now)
            # Everything that may push stands before the step; what was pushed is published after it.
            work = step(now)
            for queue, publish, ring_bell in publishes:
                if queue and publish():
                    ring_bell()
            for wake_due, ring_bell in releases:
                if wake_due():
                    ring_bell()
            if work:
                events = epoll.poll(0, MAX_EVENTS) if epoll is not None else []
            else:
                events = self._sleep(stage.deadline())

    def _sleep(self, deadline: float) -> list[tuple[int, int]]:
        """Wait for an input, at most until deadline; the socket events that ended the wait."""
        epoll = self._epoll
        timeout = min(deadline - monotonic(), MAX_SLEEP)
        if not self._flush():
            timeout = min(timeout, OUTBOX_RETRY)
        if timeout <= 0:
            return epoll.poll(0, MAX_EVENTS) if epoll is not None else []
        pool = self.ports.pool
        slots_wanted = pool is not None and (self.slots_wanted or pool.free_count * 2 < pool.count)
        armed = [ring for ring in self._producers if ring.arm()]
        bell = self.ports.bell
        bell.announce(slots_wanted)
        if not self.running or self._inputs_ready(slots_wanted, armed):
            timeout = 0.0
        else:
            self._sleeps += 1
        events: list[tuple[int, int]] = []
        if epoll is not None:
            events = epoll.poll(timeout, MAX_EVENTS)
        elif timeout:
            self._waiter.wait(timeout)
        bell.awake()
        for ring in armed:
            ring.disarm()
        return events

    def _inputs_ready(self, slots_wanted: bool, armed: list[AnyProducer]) -> bool:
        """The second look, after the announcement: whether anything came that nobody rings for any more."""
        for consumer in self.ports.rings_in.values():
            if consumer.fresh():
                return True
        for producer in armed:
            if producer.released():
                return True
        if slots_wanted:
            for frees in self.ports.free_in.values():
                if frees.pending():
                    return True
        return False

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

    def _poll(self) -> select.epoll:
        if self._epoll is None:
            raise LookupError(f"worker {self.name} waits on a semaphore and can hold no descriptors")
        return self._epoll

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
        if channel.ended:
            if channel is self._control:
                self.log.info("supervisor closed the control socket")
                self.stop()
            if channel.fileno() in self._callbacks:
                self.unregister(channel.fileno())

    def _dispatch(self, message: Message, fds: list[int]) -> Message | None:
        match message.get("op"):
            case "stop":
                self.stop()
                return {}
            case "ping":
                return {}
            case "audit":
                pool = self.ports.pool
                if pool is None:
                    return {"slots": 0, "free": 0, "refs_out": 0, "wrong": None}
                return {
                    "slots": pool.count,
                    "free": pool.free_count,
                    "refs_out": pool.refs_out,
                    "wrong": pool.audit(),
                }
        try:
            return self._stage.on_control(message, fds)
        except Exception as error:  # one bad request must not end the worker and all its flows
            self.log.exception("control request failed", op=message.get("op"), error=str(error))
            return {"error": str(error) or type(error).__name__}

    # --- life ---------------------------------------------------------------------------

    def _take_signals(self) -> None:
        """Set the signals of a worker, whatever the supervisor had set before it forked."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        # Says where it is, on standard error, and goes on: the supervisor ends it.
        faulthandler.register(signal.SIGQUIT, file=2, chain=False)
        if sys.platform == "linux":
            # Sent when the thread that forked this process ends, by whatever cause.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        self._check_parent()

    def _on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        self.running = False
        self._waiter.post()  # the wait that the signal interrupted goes on otherwise

    def _check_parent(self) -> None:
        if os.getppid() != self._supervisor_pid:
            self.log.info("supervisor is gone")
            self.stop()

    def _keep_house(self, now: float) -> None:
        self._housekeeping_at = now + HOUSEKEEPING
        self._write_gauges()
        self._check_parent()
        self._flush()
        # Also finds a closed socket, and a message whose bell was not rung. (Asked first: a read that
        # finds nothing costs an exception and a buffer, every second in every idle worker.)
        if self._epoll is None and self._control is not None and self._control_poll.poll(0):
            self._serve(self._control)

    def _write_gauges(self) -> None:
        counts = self.counts
        counts[_BREATHS] = self._breaths
        counts[_SLEEPS] = self._sleeps
        pool = self.ports.pool
        if pool is not None:
            counts[_SLOTS_FREE] = pool.free_count
            counts[_SLOT_REFS_OUT] = pool.refs_out

    def _end(self, stage: Stage) -> None:
        """Let the stage give back what it holds, and look whether the pool is sound."""
        close = getattr(stage, "close", None)
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
