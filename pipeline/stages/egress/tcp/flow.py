"""One TCP connection in egress: its host socket, its states and their transitions."""

import errno
from contextlib import suppress
from time import monotonic
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines.policy import is_same_way
from pipeline.engines.proxy.handshake import Failure
from pipeline.engines.proxy.via import Via
from pipeline.engines.quotas import Meter
from pipeline.histograms import BY_NAME
from pipeline.host import tcp as host_tcp
from pipeline.host.credit import ReadCredit
from pipeline.host.stream import MAY_BE_MORE, HostStream
from pipeline.ipc import events as ev
from pipeline.ipc.ring import Producer
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends, FlowKey, FlowNotice
from pipeline.records.kinds import ABORT, CONNECTED, EVICTED, FORBIDDEN, PROXY_FAILED
from pipeline.records.run import Run
from pipeline.records.streams import Connect, Shutdown, Stray
from pipeline.stages.egress.asks import Answer
from pipeline.stages.egress.policy_filter import REFUSED
from pipeline.stages.egress.tcp import ways
from pipeline.stages.egress.tcp.chunks import MAX_READ, read_chunk
from pipeline.stages.egress.tcp.holds import Hold
from pipeline.stages.egress.tcp.requests import RequestGuard
from pipeline.stages.egress.tcp.share import Share
from pipeline.stages.egress.tcp.states import (
    CLOSING,
    CONNECTING,
    DEAD,
    DIALLING,
    HELD,
    OPEN,
    REROUTING,
    TUNNELLING,
    UNDER_WAY,
)
from pipeline.stages.egress.tcp.table import FlowTable, TableEntry
from pipeline.stages.egress.tcp.watching import Watch, short_read
from pipeline.stages.egress.tcp.ways import DIRECT, Tunnel, Way
from pipeline.wire.stated import HTTP, Stated

_ESTABLISHED: Final = frozenset((OPEN, HELD))
_CONNECT_EVENTS: Final = ev.WRITE | ev.HANGUP | ev.ERROR
_END_EVENTS: Final = ev.HANGUP | ev.ERROR
_READ_EVENTS: Final = ev.READ | ev.READ_HANGUP | ev.HANGUP | ev.ERROR

_OPENED: Final = INDEX["egress_connection_opened"]
_RESET: Final = INDEX["egress_connection_reset_by_host"]
_TUNNELS: Final = INDEX["egress_proxy_tunnels_opened"]
_CONNECT_TIME: Final = BY_NAME["tcp_connect"]


class Flow(TableEntry):
    """One TCP connection and its host socket. Its methods make all its transitions.

    ========== ====================================================================
    state      meaning
    ========== ====================================================================
    CONNECTING a guest asked; the host connection is under way
    DIALLING   accepted from the host; the guest has not answered, nothing is read
    HELD       both sides are established; the guest's bytes wait until they state a name (holds.py)
    TUNNELLING the proxy is asked for a tunnel; the guest may wait for an answer to its SYN (ways.py)
    REROUTING  the guest has an answer, but its name leads elsewhere: another host connection is under way
    OPEN       both sides are established
    CLOSING    the guest's connection is over; queued bytes still go to the host
    DEAD       closed; in no table
    ========== ====================================================================
    """

    def __init__(
        self,
        flows: "FlowTable[Flow]",
        number: int,
        shard: int,
        stream: HostStream,
        share: Share,
        request: Connect | None = None,
        *,
        way: Way = DIRECT,
        approval: Answer | None = None,
        meter: Meter | None = None,
        connected: bool = False,
    ) -> None:
        """request: the guest's CONNECT. None for a dialled flow, whose shard is not known yet.

        connected: the host connection is established already. The caller then calls connected().
        """
        super().__init__(share.guest)
        self.key = number if number & FLOW_FROM_EGRESS else shard << 32 | number
        self.number = number
        self.shard = shard
        self.stream = stream
        self.watch = Watch(flows.worker, stream)
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
        self.way = way
        self._tunnel: Tunnel | None = None
        self._answered = False
        """The guest that has opened the connection knows that it is open."""
        self._guest_gone = False
        """The guest's connection was over before the tunnel was there."""
        self._hold = Hold() if way.reads_name else None
        self.approval = approval
        """What somebody has said about it, if the policy asks."""
        self.stated: Stated | None = None
        """What the guest's bytes stated, if the flow was held for it."""
        self.requests: RequestGuard | None = None  # judges further requests of HTTP/1
        self.meter = meter  # counts the bytes for the quotas of the guest, if there are any
        share.join()
        flows.add(self, evictable=self.state == CONNECTING)
        if request is not None:
            self.watch.begin(self.on_event, connected=connected)

    @property
    def ends(self) -> Ends | None:
        """Both ends of a connection that the guest asked for; None if a host client did."""
        return None if self._request is None else Ends.of(self._request.key)

    # --- the connection is established, or not ------------------------------------------

    def connected(self) -> None:
        """The host, or the proxy, has accepted the connection that the guest asked for."""
        if self.way.via is not None and not self.way.awaited:
            self._begin_tunnel(self.way.via)
        else:
            self._answer()

    def _answer(self) -> None:
        """The guest's SYN can be answered."""
        flows = self._flows
        flows.bound.keep(self)
        self._answered = True
        if self.way.awaited and not self.way.hold:
            flows.silent.wait(self, flows.now)
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
        self.watch.begin(self.on_event, connected=True)

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
        self.renew_meter()
        if self.stream.readable and self.state in _ESTABLISHED:
            turns.add(self)

    def renew_meter(self) -> None:
        """The guest has another number, or there are other quotas."""
        self.meter = self._flows.meter_of(self)

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
        if self._request is not None and not self._answered:
            self._fail(error)
            return
        if self.state in _ESTABLISHED or self.state in UNDER_WAY:
            self._notify(kind)
        self.close(reset=True)

    def _fail(self, error: int) -> None:
        if self._request is not None:
            self._flows.notify_connect_failed(self.shard, self._request, error)
        self.close(reset=False)

    # --- what the host socket reports -----------------------------------------------------

    def on_event(self, events: int) -> None:
        """The poller has events of the host socket."""
        stream = self.stream
        if (self.state == CONNECTING or self.state == REROUTING) and not self._connects(events):
            return
        if self.state == TUNNELLING:
            self._step_tunnel()
            return
        if self.state == DEAD or (events & _END_EVENTS and self._host_ended()):
            return
        if events & ev.WRITE:
            stream.on_writable()
            self._flows.needs_flush[self] = None
        if events & _READ_EVENTS and not self.read_finished and not (self.way.awaited and self.state == HELD):
            self.readable(short_read(events))
            self._flows.prewake()

    def _connects(self, events: int) -> bool:
        """The host connection is under way. Returns whether it is established now."""
        if not events & _CONNECT_EVENTS:
            return False
        error = host_tcp.finish(self.stream.sock)
        if error:
            self._not_connected(error)
        elif self.state == CONNECTING:
            self.connected()
        elif self.way.via is not None:
            self._begin_tunnel(self.way.via)
        else:
            self._open()
        return not error

    def _not_connected(self, error: int) -> None:
        if self.way.via is not None:
            self.proxy_failed(ways.broken(ways.NO_CONNECTION, error))
        elif self._answered:
            self.broken()
        else:
            self._fail(error)

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

    def readable(self, after_short_read: int = MAY_BE_MORE) -> None:
        """The host socket has something to read. See HostStream.on_readable()."""
        self.stream.on_readable(after_short_read)
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
        if self.requests is not None:
            self.requests.queued(run.length)
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
        if self.state in UNDER_WAY:
            if not self._answered:
                self.close(reset=True)
                return
            self._guest_gone = True
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
        if (self.state == OPEN or self.state == CLOSING) and self.requests is None:
            with suppress(OSError):
                self._flows.sent(self, self.stream.flush(self._flows.worker.free))
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
        silent = hold.is_silent(self.stream)
        if silent and self.way.awaited and self.way.hold:
            # It could state no name any more. That is no fault of the guest.
            self._cut(ABORT, REFUSED)
            return False
        via: Via | None = None
        if self.way.awaited or not silent:
            stated = hold.read(self.stream, flows.worker.free, last=last)
            if stated is None:
                flows.holds.wait(self, hold.size, flows.now)
                if hold.size:
                    # From now on the table of holds bounds the time.
                    flows.silent.remove(self)
                return False
            self.stated = stated
            verdict = flows.policy.decide(ends, "tcp", stated, self.approval)
            via = verdict.via
            if verdict.allow and not (self.way.awaited or is_same_way(via, self.way.via)):
                verdict = flows.policy.refuse_way(ends, verdict)
            flows.report_decision(self, verdict)
            if not verdict.allow:
                self.forbid()
                return False
            hold.release(self.stream)
            if stated.protocol == HTTP and hold.whole:
                self.requests = RequestGuard(self.stream.queued_bytes, flows.looks)
        self._hold = None
        flows.holds.remove(self)
        flows.silent.remove(self)
        if self.way.awaited:
            self._go(via)
        else:
            self._open()
        return self.state == OPEN or self.state == CLOSING

    def judge_requests(self, *, last: bool = False) -> bool:
        """Whether the requests that the guest has sent may go to the host. If not, the connection is reset.

        last: the rest of a head has not come in time.
        """
        guard, flows = self.requests, self._flows
        if guard is None:
            return True
        judge = lambda stated: flows.judge(self, stated, self.way.via)  # noqa: E731
        if not guard.examine(self.stream, flows.worker.free, judge, last=last):
            self.forbid()
            return False
        flows.holds.keep(self, guard.size, flows.now, anew=guard.moved)
        return True

    # --- the way to the host ----------------------------------------------------------------

    def _go(self, via: Via | None) -> None:
        """The name is known, and with it the way. The socket may lead elsewhere."""
        before, self.way = self.way.via, self.way._replace(via=via, awaited=False)
        if not is_same_way(via, before):
            self._reroute()
        elif via is not None:
            self._begin_tunnel(via)
        else:
            self._open()
            self.readable()

    def _reroute(self) -> None:
        flows, ends = self._flows, self.ends
        assert ends is not None
        sock, error = ways.connect(flows.targets, flows.outbound, ends, self.way.via)
        if sock is None:
            self._not_connected(error)
            return
        self.state = REROUTING
        before = self.stream.change(sock)
        flows.worker.unregister(before.fileno())
        host_tcp.reset(before)
        host_tcp.tune(sock)
        self._hung_up = False
        self.watch.begin(self.on_event, connected=False)
        flows.is_young(self)

    def _begin_tunnel(self, via: Via) -> None:
        flows, ends = self._flows, self.ends
        assert ends is not None
        name = flows.policy.name_for_proxy(ends, self.stated)
        self._tunnel = Tunnel(via, ways.destination(ends, name))
        host_tcp.send_at_once(self.stream.sock)
        self.state = TUNNELLING
        flows.tunnels.wait(self, flows.now)
        self._step_tunnel()

    def _step_tunnel(self) -> None:
        flows, tunnel = self._flows, self._tunnel
        assert tunnel is not None
        tunnel.step(self.stream.sock)
        if tunnel.failure is not None:
            self.proxy_failed(tunnel.failure)
        elif tunnel.is_open:
            flows.tunnels.remove(self)
            flows.counts[_TUNNELS] += 1
            self.stream.head = tunnel.rest
            self.stream.on_writable()
            if self._answered:
                self._open()
            else:
                self._answer()
            if self.state in _ESTABLISHED:
                self.readable()

    def proxy_failed(self, failure: Failure) -> None:
        """The proxy does not lead to the host. The guest gets a reset."""
        assert self._request is not None
        name = self._tunnel.name if self._tunnel is not None else ""
        self._flows.report_proxy_failure(self._request, self.way, name, failure)
        self._cut(PROXY_FAILED, failure.error)

    def _open(self) -> None:
        """Both sides are established, and bytes may go either way."""
        self.state = OPEN
        self._flows.needs_flush[self] = None
        if self._guest_gone:
            self.guest_closed()

    # --- the end ----------------------------------------------------------------------------

    def close(self, *, reset: bool) -> None:
        """Forget the flow and close its socket, with RST or FIN. Nothing is reported to tcp."""
        sock = self.stream.sock
        worker = self._flows.worker
        self.stream.discard(worker.free)
        if self.state != DIALLING:
            self.watch.end(alone=self._request is not None)
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
