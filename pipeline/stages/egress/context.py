"""What the connections, datagrams and pings of one egress worker have in common."""

from pipeline.engines.byte_rates import ByteRates
from pipeline.engines.nat import Nat
from pipeline.host.filler import SlotFiller
from pipeline.ipc.arena import HEADROOM, SLOT_BYTES
from pipeline.records.udp import HEADER_ROOM
from pipeline.stages.egress.notices import DemuxNotices
from pipeline.stages.egress.numbers import FlowNumbers
from pipeline.stages.egress.policy_filter import PolicyFilter
from pipeline.stages.egress.sockets import SocketBound
from pipeline.stages.flow_reports import FlowReports
from pipeline.stages.worker import Worker
from pipeline.system.outbound import Outbound


class EgressContext:
    """The worker with its rings and slots, the rules for flows, and the bound on sockets."""

    def __init__(
        self,
        worker: Worker,
        targets: Nat,
        policy: PolicyFilter,
        tcp_workers: int,
        outbound: Outbound | None = None,
    ) -> None:
        rings_out = worker.ports.rings_out
        self.worker = worker
        self.counts = worker.counts
        self.slots = worker.ports.arena.slots
        self.demux_out = rings_out["demux"]
        self.ingress_out = rings_out["ingress"]
        self.tcp_out = [rings_out[f"tcp{index}"] for index in range(tcp_workers)]
        """By shard."""
        self.targets = targets
        self.policy = policy
        self.outbound = outbound
        """What sockets to other hosts are bound to; None if the system chooses."""
        self.rates = ByteRates()
        """Of the bytes that hosts send to guests."""
        self.filler = SlotFiller(worker.pool, SLOT_BYTES, HEADROOM, HEADER_ROOM)
        """For datagrams and pings. The connections of each guest have fillers of their own."""
        self.bound = SocketBound(worker, self.tcp_out)
        self.notices = DemuxNotices(self.demux_out)
        self.numbers = FlowNumbers(worker.ports.incarnation)
        self.reports = FlowReports(worker.events)
