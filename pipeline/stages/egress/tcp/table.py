"""The connections of one egress worker in a table, with the queues in which they wait."""

import errno
from typing import Final, Generic, TypeVar

from pipeline.counters import INDEX
from pipeline.engines.policy import Verdict, is_same_way
from pipeline.engines.proxy.handshake import Failure
from pipeline.engines.proxy.via import Via
from pipeline.engines.quotas import Meter
from pipeline.records.flows import Ends
from pipeline.records.streams import MAKE_WAY_NO, Connect, ConnectFailed, Decided
from pipeline.stages.egress.asks import Answer
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.sockets import GuestSocket
from pipeline.stages.egress.tcp.closing import ClosingFlows
from pipeline.stages.egress.tcp.dials import PendingDials
from pipeline.stages.egress.tcp.holds import Holds
from pipeline.stages.egress.tcp.requests import Looks
from pipeline.stages.egress.tcp.turns import ReadTurns
from pipeline.stages.egress.tcp.ways import HANDSHAKE_S, SILENT_S, Waits, Way
from pipeline.wire import ip
from pipeline.wire.stated import Stated

_TO_HOST: Final = INDEX["egress_bytes_to_host"]
_FAILED: Final = INDEX["egress_connection_failed"]
_NO_TUNNEL: Final = INDEX["egress_proxy_tunnels_failed"]


class TableEntry(GuestSocket):
    """What the table knows of a connection."""

    key: int
    number: int
    shard: int
    stated: Stated | None
    approval: Answer | None
    meter: Meter | None

    @property
    def ends(self) -> Ends | None:
        """Both ends of a connection that the guest asked for."""
        raise NotImplementedError


F = TypeVar("F", bound=TableEntry)


class FlowTable(Generic[F]):
    """All connections of one egress worker, their pending work, and what they have in common.

    A flow puts itself into the queues of pending work. HostReads and HostWrites take it out.
    """

    def __init__(
        self,
        context: EgressContext,
        dials: PendingDials,
        closing: ClosingFlows[F],
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
        self.by_key: dict[int, F] = {}
        self.turns: ReadTurns[F] = ReadTurns()
        self.needs_flush: dict[F, None] = {}
        """Flows with bytes or a FIN for the host that HostWrites has not tried to write yet."""
        self.stalled: dict[F, float] = {}
        """Flows whose host socket left bytes in slots, and since when. The oldest comes first."""
        self.young: dict[F, float] = {}
        """Flows whose sockets have no keep-alive yet, and since when they exist, the oldest first."""
        self.tunnels: Waits[F] = Waits(HANDSHAKE_S)
        """Flows whose proxies have not answered."""
        self.silent: Waits[F] = Waits(SILENT_S)
        """Flows that wait for a name to tell to a proxy."""
        self.targets = context.targets
        self.outbound = context.outbound
        self.holds: Holds[F] = Holds()
        """Flows that have sent some bytes which state no name yet."""
        self.looks = Looks()
        """What a step looks at in further requests of HTTP/1."""
        self.policy = context.policy
        self._reports = context.reports
        self._notices = context.notices
        self._prewakes = prewakes

    def __len__(self) -> int:
        return len(self.by_key)

    def add(self, flow: F, *, evictable: bool) -> None:
        """Enter a new flow. evictable: it may be closed for another flow."""
        self.by_key[flow.key] = flow
        self.young[flow] = self.now
        self.bound.opened(flow, evictable=evictable)

    def is_young(self, flow: F) -> None:
        """The flow has another socket."""
        self.young.pop(flow, None)
        self.young[flow] = self.now

    def remove(self, flow: F) -> None:
        """The flow is over. It stays in needs_flush until HostWrites clears that: it may be iterating now."""
        self.turns.remove(flow)
        self.stalled.pop(flow, None)
        self.young.pop(flow, None)
        self.closing.remove(flow)
        self.holds.remove(flow)
        self.tunnels.remove(flow)
        self.silent.remove(flow)
        self.dials.remove(flow.number)
        self.bound.closed(flow)
        del self.by_key[flow.key]

    def judge(self, flow: F, stated: Stated, via: Via | None) -> bool:
        """Whether an open flow may state this in a further request. via: the proxy through which it goes."""
        ends = flow.ends
        assert ends is not None
        if stated == flow.stated:
            return True
        verdict = self.policy.decide(ends, "tcp", stated, flow.approval)
        if verdict.allow and not is_same_way(verdict.via, via):
            verdict = self.policy.refuse_way(ends, verdict)
        flow.stated = stated
        if not verdict.allow:
            # The flow was open, so its end is what is reported, with the rule that has ended it.
            self.report_decision(flow, verdict._replace(allow=True))
        return verdict.allow

    def sent(self, flow: F, count: int) -> None:
        """A host socket has taken the last bytes of a flow."""
        self.counts[_TO_HOST] += count
        if flow.meter is not None:
            flow.meter.carried(count, 0)

    def meter_of(self, flow: F) -> Meter | None:
        """What counts the bytes of an open flow. Nothing does that host clients or services have."""
        ends, quotas = flow.ends, self.policy.quotas
        if not quotas.on or ends is None:
            return None
        if self.targets.tcp_target(ends.remote_addr, ends.remote_port).service:
            return None
        return quotas.meter(flow.guest, ends.guest_addr)

    def report_decision(self, flow: F, verdict: Verdict) -> None:
        """The policy has decided on a flow. Tcp, which reports its end, is told, if anyone wants that."""
        if self._reports.wants_ended():
            name = flow.stated.name if flow.stated is not None else ""
            for record in Decided.pack_all(flow.number, verdict.allow, verdict.rule, name):
                self.tcp_out[flow.shard].push(record)

    def report_proxy_failure(self, request: Connect, way: Way, name: str, failure: Failure) -> None:
        """A proxy has not led a connection on. name: what it was asked for, "" for the address."""
        self.counts[_NO_TUNNEL] += 1
        ends = Ends.of(request.key)
        self.worker.events.report(
            "proxy-failed",
            guest=request.guest,
            guest_address=ip.text(ends.guest_addr),
            address=ip.text(ends.remote_addr),
            port=ends.remote_port,
            name=name or None,
            rule=way.rule,
            proxy=way.via.text if way.via is not None else "",
            reason=failure.reason,
            errno=errno.errorcode.get(failure.error, str(failure.error)),
        )

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
