"""Reads from the host sockets of connections: which flow reads when, and how much.

A flow reads while its guest's share of the pool allows it (share.py). Once its guest holds a quarter of the
pool, a flow reads no more than the guest's window takes (pipeline.host.credit).

If there are fewer cores than processes, a bulk flow keeps all cores busy. The bytes of a small flow then wait
at every process on their way. So while there are small flows, a step reads little, and egress yields its core
before the next step.
"""

from typing import Final

from pipeline.counter_block import add
from pipeline.counters import INDEX
from pipeline.records.streams import ToGuest
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.tcp.chunks import MAX_READ
from pipeline.stages.egress.tcp.flow import Flow
from pipeline.stages.egress.tcp.share import TIGHT_READ
from pipeline.stages.egress.tcp.states import HELD, OPEN
from pipeline.stages.egress.tcp.table import FlowTable
from pipeline.stages.loop import yield_core

READS_A_STEP: Final = 8
"""Reads in one step, of all flows together, before the results are published."""
READS_A_FLOW: Final = 2
"""Reads of one flow in a row, while other flows have something to read."""
SMALL_READ: Final = 4096
"""A read of at most this many bytes is small."""
SHORT_STEP: Final = 2 * SMALL_READ
"""Bytes after which a step ends while there are small flows. One read of a bulk flow exceeds them."""
SMALL_FLOW_S: Final = 0.2
"""Seconds. While small reads are no further apart, there are small flows."""
SMALL_FLOW_AGE_S: Final = 0.05
"""Seconds for which there must be small reads before they count. A bulk flow also begins with some."""
NO_FLOW: Final = -1

_NEVER: Final = float("inf")
_FROM_HOST: Final = INDEX["egress_bytes_from_host"]
_PAUSED: Final = INDEX["egress_reads_paused_no_slot"]


class HostReads:
    """Reads from the host sockets that have something, and passes it on to tcp."""

    def __init__(self, context: EgressContext, flows: FlowTable[Flow]) -> None:
        self._counts = context.counts
        self._slots = context.slots
        self._pool = context.worker.pool
        self._flows = flows
        self._turns = flows.turns
        self._rates = context.rates
        self._tcp_out = context.tcp_out
        self._big_key = NO_FLOW
        """The last flow that read more than SMALL_READ. One short read does not make it a small flow."""
        self._small_since = self._small_at = float("-inf")
        self._free_seen = 0

    def on_small_read(self, now: float) -> None:
        """A small flow read something. Its bytes wait for all that was read before."""
        if now - self._small_at > SMALL_FLOW_S:
            self._small_since = now
        self._small_at = now

    def _step_bytes(self, now: float) -> int:
        """About how many bytes one step may read."""
        small_at = self._small_at
        if now - small_at > SMALL_FLOW_S or small_at - self._small_since < SMALL_FLOW_AGE_S:
            return READS_A_STEP * MAX_READ
        if self._turns.more:
            # The reads of the last step are published. The next stages handle them before there is more.
            yield_core()
        return SHORT_STEP

    def read_ready(self, now: float) -> int:
        """Read from flows with something to read, a bounded number of times. Returns how often."""
        left = self._step_bytes(now)
        turns = self._turns
        turns.more = False
        free = self._pool.free_count
        if free > self._free_seen:
            # Slots were returned, perhaps without a flow's tag: those of datagrams have none.
            turns.wake()
        if not turns.ready:
            self._free_seen = free
            return 0
        reads = 0
        rates = self._rates
        for flow in list(turns.ready):
            if not self._tcp_out[flow.shard].has_room():
                continue
            if rates.on and not rates.may_pass(flow.guest, now):
                continue
            if reads >= READS_A_STEP or left <= 0:
                turns.more = True
                break
            # Each flow goes to the end of the queue, so that all get their turn.
            del turns.ready[flow]
            if flow.state != OPEN and flow.state != HELD:
                turns.pass_on(flow)
                continue
            # A flow that is alone may use the whole step. Tcp then gets more at once.
            most = min(left, rates.room(flow.guest, now)) if rates.on else left
            count, size = self._take_turn(flow, READS_A_FLOW if turns.ready else READS_A_STEP, most, now)
            if rates.on:
                rates.charge(flow.guest, size, now)
            reads += count
            left -= size
        self._free_seen = self._pool.free_count
        return reads

    def deadline(self) -> float:
        """When a flow may be read that waits for its guest's rate; inf if none waits."""
        rates = self._rates
        return rates.deadline([flow.guest for flow in self._turns.ready]) if rates.on else _NEVER

    def _take_turn(self, flow: Flow, max_reads: int, max_bytes: int, now: float) -> tuple[int, int]:
        """Read from one flow, then queue it as ready or waiting. Returns the number of reads and of bytes."""
        turns = self._turns
        reads = size = 0
        chunk = self._may_read(flow)
        while chunk and reads < max_reads and size < max_bytes and (count := self._read(flow, chunk)):
            reads += 1
            size += count
            if count > SMALL_READ:
                self._big_key = flow.key
            elif flow.key != self._big_key:
                self.on_small_read(now)
            if not flow.stream.readable:
                break
            chunk = self._may_read(flow)
        if not turns.waits(flow):
            turns.pass_on(flow)
            if chunk and flow.stream.readable and (flow.state == OPEN or flow.state == HELD):
                turns.add(flow)
                turns.more = True
        return reads, size

    def _may_read(self, flow: Flow) -> int:
        """The most bytes of a flow's next read; 0 if the flow must wait until references are returned."""
        share = flow.share
        max_refs = share.may_hold()
        if not max_refs:
            if flow.credit.out_refs:
                self._turns.wait(flow)
                return 0
            return TIGHT_READ
        if share.plenty():
            return flow.chunk if flow.credit.out_refs < max_refs else 0
        return flow.credit.room(flow.chunk, max_refs)

    def _read(self, flow: Flow, chunk: int) -> int:
        """Read at most chunk bytes and pass them on to tcp. Returns how many there were."""
        if not flow.share.place(chunk):
            self._counts[_PAUSED] += 1
            self._turns.wait(flow)
            return 0
        try:
            count = self._pass_to_tcp(flow, chunk)
        except OSError:
            flow.broken()
            return 0
        if count == 0 or flow.stream.read_ended:
            flow.on_read_end()
        return max(count, 0)

    def _pass_to_tcp(self, flow: Flow, chunk: int) -> int:
        """Read to where the share found room, and give the bytes to tcp. Returns as HostStream.read()."""
        filler = flow.share.placed
        slot, off = filler.slot, filler.off
        count = flow.stream.read(self._slots[slot][off : off + chunk])
        if count > 0:
            filler.commit(count)
            flow.credit.sent(count)
            flow.used_at = self._flows.now
            add(self._counts, _FROM_HOST, count)
            if flow.meter is not None:
                flow.meter.carried(0, count)
            self._tcp_out[flow.shard].push(ToGuest.pack(flow.number, slot, off, count))
        return count

    def read_remaining(self, flow: Flow) -> None:
        """A write found the connection reset. Read what the host sent before that, as far as there is room.

        An end of file after those bytes does not mean FIN: the write has taken the socket's error.
        """
        while not flow.read_finished and (chunk := self._may_read(flow)) and flow.share.place(chunk):
            try:
                if self._pass_to_tcp(flow, chunk) <= 0:
                    return
            except OSError:
                return
