"""One TCP connection in egress: its host socket, its states and their transitions."""

import errno
from contextlib import suppress
from time import monotonic
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines.policy import Verdict
from pipeline.histograms import BY_NAME
from pipeline.host import tcp as host_tcp
from pipeline.host.credit import ReadCredit
from pipeline.host.stream import HostStream
from pipeline.ipc import events as ev
from pipeline.ipc.ring import Producer
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends, FlowKey, FlowNotice
from pipeline.records.kinds import ABORT, CONNECTED, EVICTED, FORBIDDEN
from pipeline.records.run import Run
from pipeline.records.streams import MAKE_WAY_NO, Connect, ConnectFailed, Decided, Shutdown, Stray
from pipeline.stages.egress.asks import Answer
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.policy_filter import REFUSED
from pipeline.stages.egress.sockets import GuestSocket
from pipeline.stages.egress.tcp.closing import ClosingFlows
from pipeline.stages.egress.tcp.dials import PendingDials
from pipeline.stages.egress.tcp.holds import Hold, Holds
from pipeline.stages.egress.tcp.share import Share
from pipeline.stages.egress.tcp.turns import ReadTurns
from pipeline.wire.stated import Stated

MAX_READ: Final = 65536

CONNECTING: Final = "CONNECTING"
DIALLING: Final = "DIALLING"
HELD: Final = "HELD"
OPEN: Final = "OPEN"
CLOSING: Final = "CLOSING"
DEAD: Final = "DEAD"

_ESTABLISHED: Final = frozenset((OPEN, HELD))
_EVENTS: Final = ev.READ | ev.URGENT | ev.WRITE | ev.READ_HANGUP | ev.EDGE
_CONNECT_EVENTS: Final = ev.WRITE | ev.HANGUP | ev.ERROR
_END_EVENTS: Final = ev.HANGUP | ev.ERROR
_READ_EVENTS: Final = ev.READ | ev.READ_HANGUP | ev.HANGUP | ev.ERROR
_MORE_EVENTS: Final = ev.URGENT | ev.READ_HANGUP | ev.HANGUP | ev.ERROR
"""After these, there may be more to read although a read has returned fewer bytes than it could."""

_OPENED: Final = INDEX["egress_connection_opened"]
_FAILED: Final = INDEX["egress_connection_failed"]
_RESET: Final = INDEX["egress_connection_reset_by_host"]
_TO_HOST: Final = INDEX["egress_bytes_to_host"]
_CONNECT_TIME: Final = BY_NAME["tcp_connect"]


class Flow(GuestSocket):
    """One TCP connection and its host socket. Its methods make all its transitions.

    ========== ====================================================================
    state      meaning
    ========== ====================================================================
    CONNECTING a guest asked; the host connection is under way
    DIALLING   accepted from the host; the guest has not answered, nothing is read
    HELD       both sides are established; the guest's bytes wait until they state a name (holds.py)
    OPEN       both sides are established
    CLOSING    the guest's connection is over; queued bytes still go to the host
    DEAD       closed; in no table
    ========== ====================================================================
    """

    def __init__(
        self,
        flows: "FlowTable",
        number: int,
        shard: int,
        stream: HostStream,
        share: Share,
        request: Connect | None = None,
        *,
        hold: bool = False,
        approval: Answer | None = None,
    ) -> None:
        """request: the guest's CONNECT. None for a dialled flow, whose shard is not known yet.

        hold: the name that the guest's bytes state decides whether the host may get them.
        """
        super().__init__(share.guest)
        self.key = number if number & FLOW_FROM_EGRESS else shard << 32 | number
        self.number = number
        self.shard = shard
        self.stream = stream
        self.share = share
        self.credit = ReadCredit()
        self.state = DIALLING if request is None else CONNECTING
        self.chunk = MAX_READ if request is None else read_chunk(request.mss)
        """The most bytes of one read."""
        self.read_finished = False
        self.ends_key: FlowKey = b"" if request is None else request.key
        """The key of both ends in tcp; empty until a guest that was dialled has answered."""
        self._request = request
        self._began_at = monotonic()
        self._flows = flows
        self.used_at = flows.now
        self._hung_up = False
        """The host closed both directions in order, so it will not read what the guest sends."""
        self._hold = Hold() if hold else None
        self.approval = approval
        """What somebody has said about it, if the policy asks."""
        self.stated: Stated | None = None
        """What the guest's bytes stated, if the flow was held for it."""
        share.join()
        flows.add(self)
        if request is not None:
            self._register()

    @property
    def ends(self) -> Ends | None:
        """Both ends of a connection that the guest asked for; None if a host client did."""
        return None if self._request is None else Ends.of(self._request.key)

    # --- the connection is established, or not ------------------------------------------

    def connected(self) -> None:
        """The host has accepted the connection that the guest asked for."""
        flows = self._flows
        flows.bound.keep(self)
        self.state = OPEN if self._hold is None else HELD
        flows.counts[_OPENED] += 1
        _CONNECT_TIME.observe_seconds(flows.counts, monotonic() - self._began_at)
        self._notify(CONNECTED)
        flows.prewake()

    def guest_answered(self, shard: int, share: Share, key: FlowKey, mss: int) -> None:
        """The guest has accepted the connection that egress dialled."""
        flows = self._flows
        flows.dials.remove(self.number)
        self.ends_key = key
        self.shard = shard
        self.guest_moved(share)
        self.chunk = read_chunk(mss)
        self.state = OPEN
        if self.stream.head:
            self.readable()
        self._register()

    def orphaned(self) -> None:
        """The link of the guest is gone. Any other flow may have the socket until the guest is back."""
        self._flows.bound.orphaned(self)

    def guest_moved(self, share: Share) -> None:
        """The connection belongs to the guest with this share now, which may be back on another link."""
        turns = self._flows.turns
        turns.remove(self)
        self.share.leave()
        self.share = share
        share.join()
        self._flows.bound.moved(self, share.guest)
        if self.stream.readable and self.state in _ESTABLISHED:
            turns.add(self)

    def evict(self) -> None:
        """Another flow needs the socket.

        The guest of a connection that its host has not answered is told nothing, as if its SYN were lost.
        """
        self._cut(EVICTED, errno.ETIMEDOUT)

    def forbid(self) -> None:
        """A new egress policy forbids the connection. Both its ends are reset."""
        self._cut(FORBIDDEN, REFUSED)

    def _cut(self, kind: int, error: int) -> None:
        """Reset both ends. kind: the record for tcp. error: for a guest whose host has not answered yet."""
        if self.state == CONNECTING:
            self._fail(error)
            return
        if self.state in _ESTABLISHED:
            self._notify(kind)
        self.close(reset=True)

    def _fail(self, error: int) -> None:
        if self._request is not None:
            self._flows.notify_connect_failed(self.shard, self._request, error)
        self.close(reset=False)

    def _register(self) -> None:
        self._flows.worker.register(self.stream.sock.fileno(), _EVENTS, self.on_event)

    # --- what the host socket reports -----------------------------------------------------

    def on_event(self, events: int) -> None:
        """The poller has events of the host socket."""
        stream = self.stream
        if self.state == CONNECTING:
            if not events & _CONNECT_EVENTS:
                return
            error = host_tcp.finish(stream.sock)
            if error:
                self._fail(error)
                return
            self.connected()
        if events & _END_EVENTS and self._host_ended():
            return
        if events & ev.WRITE:
            stream.on_writable()
            self._flows.needs_flush[self] = None
        if events & _READ_EVENTS and not self.read_finished:
            self.readable(short_is_all=not events & _MORE_EVENTS)
            self._flows.prewake()

    def _host_ended(self) -> bool:
        """The socket reports an end of both directions, or an error. Returns whether that broke the flow.

        Bytes that the host sent before are read first. An error after them is left to that read.
        """
        if self.read_finished and host_tcp.finish(self.stream.sock):
            self.broken()
            return True
        if not self._hung_up and not self.stream.write_finished:
            self._hung_up = True
            if self.read_finished:
                self._notify_shutdown()
        return False

    def readable(self, *, short_is_all: bool = False) -> None:
        """The host socket has something to read. short_is_all: see HostStream.on_readable()."""
        self.stream.on_readable(short_is_all)
        self._flows.turns.add(self)

    def on_read_end(self) -> None:
        """The host sends nothing more."""
        self.read_finished = True
        self.stream.on_read_end()
        self._notify_shutdown()

    def broken(self) -> None:
        """The host has reset the connection."""
        self._flows.counts[_RESET] += 1
        self._notify(ABORT)
        self.close(reset=True)

    # --- what tcp reports -------------------------------------------------------------------

    def enqueue(self, run: Run) -> None:
        """Queue bytes of the guest for the host. Takes over their reference."""
        self.stream.enqueue(run)
        self.used_at = self._flows.now
        self._flows.needs_flush[self] = None

    def finish_writing(self) -> None:
        """The guest sends nothing more."""
        self.stream.finish_writing()
        self._flows.needs_flush[self] = None

    def on_window(self, window: int) -> None:
        """Tcp reports the guest's window, which has changed by much."""
        self.credit.on_window(window)
        if self.stream.readable:
            self._flows.turns.add(self)

    def returned(self) -> None:
        """A reference of the flow was returned."""
        self.credit.returned()
        if self.stream.readable:
            self._flows.turns.returned(self)

    def guest_closed(self) -> None:
        """The guest's connection is over. Bytes that it sent may still wait for the host socket."""
        if self.state == HELD:
            self.finish_writing()
            self.examine()
            if self.state == DEAD:
                return
        if self.state == OPEN:
            self.state = CLOSING
            if self.read_finished:
                self.stream.close_sends_fin()
        self.finish_writing()

    def tcp_lost(self, successor: Producer) -> None:
        """The tcp worker of the connection has died. Its successor lets the guest find that out."""
        if self.ends_key:
            successor.push(Stray.pack(self.ends_key))
        if self.state != CLOSING:
            self.close(reset=True)

    def guest_aborted(self) -> None:
        """The guest's connection was reset. Of the queued bytes, the host gets what its socket takes now."""
        if self.state != HELD:
            with suppress(OSError):
                self._flows.counts[_TO_HOST] += self.stream.flush(self._flows.worker.free)
        self.close(reset=self.state != DIALLING)

    # --- the name that the guest's bytes state ----------------------------------------------

    def examine(self, *, last: bool = False) -> bool:
        """The flow is held, and bytes of the guest or its FIN have come. Returns whether it is open now.

        last: there is no more time for further bytes.
        """
        flows = self._flows
        hold, ends = self._hold, self.ends
        if hold is None or ends is None:
            return False
        if not hold.is_silent(self.stream):
            stated = hold.read(self.stream, flows.worker.free, last=last)
            if stated is None:
                flows.holds.wait(self, hold.size, flows.now)
                return False
            self.stated = stated
            verdict = flows.policy.decide(ends, "tcp", stated, self.approval)
            flows.report_decision(self, verdict)
            if not verdict.allow:
                self.forbid()
                return False
            hold.release(self.stream)
        self._hold = None
        flows.holds.remove(self)
        self.state = OPEN
        return True

    # --- the end ----------------------------------------------------------------------------

    def close(self, *, reset: bool) -> None:
        """Forget the flow and close its socket, with RST or FIN. Nothing is reported to tcp."""
        sock = self.stream.sock
        worker = self._flows.worker
        self.stream.discard(worker.free)
        if self.state != DIALLING:
            worker.unregister(sock.fileno())
        self.state = DEAD
        self.share.leave()
        self._flows.remove(self)
        if reset:
            host_tcp.reset(sock)
        else:
            host_tcp.close(sock)

    def _notify(self, kind: int) -> None:
        self._flows.tcp_out[self.shard].push(FlowNotice.pack(kind, self.number))

    def _notify_shutdown(self) -> None:
        self._flows.tcp_out[self.shard].push(Shutdown.pack(self.number, self._hung_up))


class FlowTable:
    """All connections of one egress worker, their pending work, and what they have in common.

    A flow puts itself into the queues of pending work. HostReads and HostWrites take it out.
    """

    def __init__(
        self,
        context: EgressContext,
        dials: PendingDials,
        closing: ClosingFlows[Flow],
        prewakes: str,
    ) -> None:
        """prewakes: the worker to wake early when a host has answered, or ""."""
        self.worker = context.worker
        self.counts = context.counts
        self.tcp_out = context.tcp_out
        """By shard."""
        self.bound = context.bound
        self.dials = dials
        self.closing = closing
        self.now = 0.0
        """The time of this step."""
        self.by_key: dict[int, Flow] = {}
        self.turns: ReadTurns[Flow] = ReadTurns()
        self.needs_flush: dict[Flow, None] = {}
        """Flows with bytes or a FIN for the host that HostWrites has not tried to write yet."""
        self.stalled: dict[Flow, float] = {}
        """Flows whose host socket left bytes in slots, and since when. The oldest comes first."""
        self.holds: Holds[Flow] = Holds()
        """Flows that have sent some bytes which state no name yet."""
        self.policy = context.policy
        self._reports = context.reports
        self._notices = context.notices
        self._prewakes = prewakes

    def __len__(self) -> int:
        return len(self.by_key)

    def add(self, flow: Flow) -> None:
        """Enter a new flow. In state CONNECTING it may be closed for another flow."""
        self.by_key[flow.key] = flow
        self.bound.opened(flow, evictable=flow.state == CONNECTING)

    def remove(self, flow: Flow) -> None:
        """The flow is over. It stays in needs_flush until HostWrites clears that: it may be iterating now."""
        self.turns.remove(flow)
        self.stalled.pop(flow, None)
        self.closing.remove(flow)
        self.holds.remove(flow)
        self.dials.remove(flow.number)
        self.bound.closed(flow)
        del self.by_key[flow.key]

    def report_decision(self, flow: Flow, verdict: Verdict) -> None:
        """The policy has decided on a flow. Tcp, which reports its end, is told, if anyone wants that."""
        if self._reports.wants_ended():
            name = flow.stated.name if flow.stated is not None else ""
            for record in Decided.pack_all(flow.number, verdict.allow, verdict.rule, name):
                self.tcp_out[flow.shard].push(record)

    def prewake(self) -> None:
        """A host has answered: wake ingress now, so that it is awake when tcp is done."""
        self.worker.prewake(self._prewakes)

    def notify_connect_failed(
        self, shard: int, request: Connect, error: int, make_way: int = MAKE_WAY_NO, refused: bool = False
    ) -> None:
        """Report the failure to tcp, and to demux if the guest gets an ICMP message for it.

        refused: a rule forbids the connection.
        """
        self.counts[_FAILED] += 1
        self.tcp_out[shard].push(ConnectFailed.pack(request.flow, error, make_way, refused))
        self._notices.notify_syn_failed(request, error)


def read_chunk(mss: int) -> int:
    """The most bytes of one read: as many whole segments of mss bytes as fit into 64 KiB."""
    if not 0 < mss < MAX_READ:
        return MAX_READ
    return MAX_READ // mss * mss
