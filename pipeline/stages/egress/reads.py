"""What egress reads from host sockets, and when: quotas of flows and guests, turns, slots.

A flow reads while its share of the pool allows (pipeline.stages.egress_share) and, once its guest holds a
good part of it, no more than the guest's window takes (pipeline.host.credit).

Where there are fewer cores than processes, a flow that has much to read keeps all of them busy, and
each byte of a small flow waits for its turn at every process on its way. While small flows go on beside it
a step is short, and the core is given away before the next one.
"""

from collections.abc import Callable
from typing import Final, cast

from pipeline.counters import INDEX
from pipeline.ipc.ring import Producer
from pipeline.records import descriptor as d
from pipeline.stages.egress.flow import MAX_READ, Flow
from pipeline.stages.egress.share import TIGHT_READ, Shares
from pipeline.stages.loop import give_way
from pipeline.stages.worker import Worker

READS_A_STEP: Final = 8
"""Reads in one step over all flows, before the results are published."""
READS_A_FLOW: Final = 2
"""Reads of one flow in a row, while others have something to read as well."""
SMALL_READ: Final = 4096
"""Bytes that a flow with little to say has for one read at most."""
SHORT_STEP: Final = 2 * SMALL_READ
"""Bytes that end a step while there are small flows: one read of a big flow does."""
SMALL_FLOW_S: Final = 0.2
"""Such reads that come closer together are of flows that go on."""
SMALL_FLOW_AGE_S: Final = 0.05
"""How long they must have gone on: a few words at the beginning of a big transfer are no flow beside it."""

_FROM_HOST: Final = INDEX["egress_bytes_from_host"]
_PAUSED: Final = INDEX["egress_reads_paused_no_slot"]


class HostReads:
    """Flows whose host sockets have something to read, in the order of their turns."""

    def __init__(
        self,
        worker: Worker,
        tcp_out: list[Producer],
        shares: Shares,
        broken: Callable[[Flow], None],
    ) -> None:
        """tcp_out by shard; broken is called for a flow whose socket fails."""
        ports = worker.ports
        self.counts = worker.counts
        self.slots = ports.arena.slots
        self.pool = worker.pool
        self.shares = shares
        self.tcp_out = tcp_out
        self.ready: dict[Flow, None] = {}
        self.more = False
        """Whether the last call stopped because it had done its share."""
        self._big: Flow | None = None
        """The flow whose last read was no small one; when it has little for once it is no small flow."""
        self._small_since = self._small_at = float("-inf")
        self._broken = broken
        self._free_seen = 0

    def small_flow(self, now: float) -> None:
        """A flow has little to say, and waits behind all that is read from now on."""
        if now - self._small_at > SMALL_FLOW_S:
            self._small_since = now
        self._small_at = now

    def read_ready(self, now: float) -> int:
        """Read from flows with something to read, a bounded number of times. Returns how often."""
        left = READS_A_STEP * MAX_READ
        small_at = self._small_at
        if now - small_at <= SMALL_FLOW_S and small_at - self._small_since >= SMALL_FLOW_AGE_S:
            left = SHORT_STEP
            if self.more:
                # What the last step has read is published; the next stages have it before there is more.
                give_way()
        self.more = False
        ready = self.ready
        free = self.pool.free_count
        if free > self._free_seen:
            # Also slots that came home without a flow's tag, those of datagrams.
            for waiting in self.shares.wake():
                ready[cast(Flow, waiting)] = None
        if not ready:
            self._free_seen = free
            return 0
        reads = 0
        for flow in list(ready):
            out = self.tcp_out[flow.shard]
            if out.room() <= 0:
                continue
            if reads >= READS_A_STEP or left <= 0:
                self.more = True
                break
            # Each flow goes to the end of the queue, so that all get their turn.
            del ready[flow]
            if flow.state != "OPEN":
                self._next_waiting(flow)
                continue
            chunk = self._may_read(flow)
            # Alone it may have the whole step, which then passes more on at once.
            for _ in range(READS_A_FLOW if ready else READS_A_STEP):
                if not chunk or left <= 0 or not (count := self._read(flow, chunk)):
                    break
                reads += 1
                left -= count
                if count > SMALL_READ:
                    self._big = flow
                elif flow is not self._big:
                    self.small_flow(now)
                chunk = self._may_read(flow)
            if flow in flow.share.waiting:
                continue
            self._next_waiting(flow)
            if chunk and flow.stream.readable and flow.state == "OPEN":
                ready[flow] = None
                self.more = True
        self._free_seen = self.pool.free_count
        return reads

    def _next_waiting(self, flow: Flow) -> None:
        """The flow found room, or needs none any more: try the next of its guest that waits."""
        if (other := flow.share.next_waiting()) is not None:
            self.ready[cast(Flow, other)] = None
            # The turn that is on may not come to it, and nothing else need happen.
            self.more = True

    def _may_read(self, flow: Flow) -> int:
        """How many bytes the next read of a flow may bring; 0 when it must wait for what it has out."""
        share = flow.share
        max_refs = share.may_hold()
        if not max_refs:
            if flow.credit.out_refs:
                share.waiting[flow] = None
                return 0
            return TIGHT_READ
        if share.plenty():
            return flow.chunk if flow.credit.out_refs < max_refs else 0
        return flow.credit.room(flow.chunk, max_refs)

    def _read(self, flow: Flow, chunk: int) -> int:
        """One read of at most chunk bytes, passed on to tcp; how many, 0 when nothing came."""
        if not flow.share.place(chunk):
            self.counts[_PAUSED] += 1
            flow.share.waiting[flow] = None
            return 0
        try:
            count = self._pass_on(flow, chunk)
        except OSError:
            self._broken(flow)
            return 0
        if count == 0:
            flow.read_finished = True
            flow.stream.readable = False
            both = d.SHUTDOWN_BOTH if flow.hung_up else 0
            self.tcp_out[flow.shard].push(d.record(d.SHUTDOWN, flow=flow.number, aux=both))
        return max(count, 0)

    def _pass_on(self, flow: Flow, chunk: int) -> int:
        """Read into what is placed (see HostStream.read for what is returned) and tell tcp of bytes."""
        filler = flow.share.placed
        slot, off = filler.slot, filler.off
        count = flow.stream.read(self.slots[slot][off : off + chunk])
        if count > 0:
            filler.commit(count)
            flow.credit.took(count)
            self.counts[_FROM_HOST] += count
            self.tcp_out[flow.shard].push(
                d.record(d.TO_GUEST, flow=flow.number, slot=slot, off=off, length=count)
            )
        return count

    def read_rest(self, flow: Flow) -> None:
        """A write has found the connection reset: what its host sent before that, as far as there is room.

        The end that is found behind it is none, since the write has taken the error.
        """
        while not flow.read_finished and (chunk := self._may_read(flow)) and flow.share.place(chunk):
            try:
                if self._pass_on(flow, chunk) <= 0:
                    return
            except OSError:
                return

    def came_home(self, flow: Flow) -> None:
        """A reference of the flow is home."""
        flow.credit.came_home()
        if flow.stream.readable:
            flow.share.waiting.pop(flow, None)
            self.ready[flow] = None

    def forget(self, flow: Flow) -> None:
        """The flow is over."""
        if flow is self._big:
            self._big = None
        flow.share.waiting.pop(flow, None)
        flow.share.flows -= 1
        if flow in self.ready:
            # It may be the one that was woken when slots came home, and has not had its turn.
            del self.ready[flow]
            self._next_waiting(flow)
