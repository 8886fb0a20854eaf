"""Timers of the tcp worker: in time, one for each connection, none for those that are over."""

import os
from collections.abc import Callable, Iterator

import pytest

from pipeline.config import merge, options
from pipeline.engines.tcp.state import TIME_WAIT
from pipeline.engines.timing_wheel import TICKS_A_SECOND, TimingWheel
from pipeline.go import flags
from pipeline.ipc.fabric import Fabric
from pipeline.ipc.ring import Consumer
from pipeline.records.flows import Ends, FlowNotice, flow_key
from pipeline.records.kinds import CONNECTED, RECORD_BYTES
from pipeline.records.streams import Shutdown
from pipeline.records.tcp import TcpRange
from pipeline.stages.tcp.flow import FIRST_TIMER_S, Flow
from pipeline.stages.tcp.stage import TcpStage
from pipeline.stages.worker import Worker
from pipeline.topology import Layout
from pipeline.wire.tcp import ACK, FIN, RST, SYN
from tests.support.configured import changed
from tests.support.received import Received

GUEST, REMOTE = 1, 2
TICK = 1 / TICKS_A_SECOND
HOURS = 3600.0
START = 1e6 + 0.0123
"""Not a whole number of ticks."""


class Rig:
    """The stage in its worker, between the ring ends of its neighbours, with a clock that is set."""

    def __init__(self, **settings: int) -> None:
        config, _ = merge.build(flags.parse(options.START, []), [], resolv_conf=os.devnull)
        config = changed(config, **settings)
        self.fabric = Fabric.create(Layout(64, 1, 1))
        self.worker = Worker(self.fabric.ports("tcp0"), None)
        self.stage = TcpStage(self.worker, config)
        self.worker.adopt(self.stage)
        self.connections = self.stage.connections
        self.demux = self.fabric.ports("demux").rings_out["tcp0"]
        egress = self.fabric.ports("egress0")
        self.egress, self.from_tcp = egress.rings_out["tcp0"], egress.rings_in["tcp0"]
        self.ingress = self.fabric.ports("ingress").rings_in["tcp0"]
        self.now = START

    def step(self, after: float = 0.0) -> list[Received]:
        """Let time pass and the stage step; what it told ingress."""
        self.now += after
        self.demux.publish()
        self.egress.publish()
        self.worker.breathe(self.now)
        read(self.from_tcp)
        return read(self.ingress)

    def segment(self, port: int, flags: int, seq: int, ack: int = 0) -> None:
        """A segment without data from the guest's port."""
        self.demux.push(
            TcpRange(
                slot=0,
                off=54,
                length=0,
                stride=0,
                piece_size=0,
                link=1,
                key=flow_key(GUEST, port, REMOTE, 80),
                flags=flags,
                segments=1,
                seq=seq,
                ack=ack,
                window=65535,
                ts_val=0,
                ts_ecr=0,
                header_len=54,
                has_timestamps=False,
                has_other_options=False,
                vnet=False,
            ).pack()
        )

    def flow(self, port: int) -> Flow:
        return self.connections.by_key[flow_key(GUEST, port, REMOTE, 80)]

    def open(self, port: int) -> Flow:
        """A connection whose guest began with sequence number 100."""
        self.segment(port, SYN, 100)
        self.step()
        flow = self.flow(port)
        self.egress.push(FlowNotice.pack(CONNECTED, flow.host.number))
        self.step()
        self.segment(port, ACK, 101, flow.conn.snd_nxt)
        self.step()
        return flow

    def armed(self) -> int:
        return len(self.connections.timers)


def read(ring: Consumer) -> list[Received]:
    burst = ring.peek()
    records = [Received(bytes(burst[at : at + RECORD_BYTES])) for at in range(0, len(burst), RECORD_BYTES)]
    ring.release(len(records))
    return records


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**changed: int) -> Rig:
        """changed: limits of the configuration."""
        made.append(Rig(**changed))
        return made[-1]

    yield make
    for rig in made:
        rig.worker.end()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()


def test_a_lost_syn_ack_is_repeated_in_time_by_who_sleeps_until_the_deadline(rig: Rig) -> None:
    rig.segment(1, SYN, 100)
    rig.step()
    rig.egress.push(FlowNotice.pack(CONNECTED, rig.flow(1).host.number))
    assert [record.flags for record in rig.step()] == [SYN | ACK]
    due = rig.flow(1).conn.deadline()
    wakes = 0
    while not (sent := rig.step(max(rig.stage.deadline() - rig.now, 0.0))):
        wakes += 1
        assert rig.now < due
    assert [record.flags for record in sent] == [SYN | ACK]
    assert due <= rig.now <= due + TICK
    assert wakes <= 4


def test_a_deadline_that_moves_later_costs_no_entry_and_the_early_timer_is_set_anew(rig: Rig) -> None:
    flow = rig.open(1)
    first = flow.timer_at
    while flow.conn.deadline() <= first:
        rig.segment(1, ACK, 101, flow.conn.snd_nxt)
        rig.step(1.0)
    assert flow.timer_at == first
    assert rig.step(first - rig.now + TICK) == []
    assert flow.timer_at == flow.conn.deadline() > first
    assert rig.armed() == 1


def test_a_short_connection_sets_its_timer_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []
    schedule = TimingWheel.schedule

    def watched(wheel: TimingWheel[Flow], flow: Flow, at: float) -> None:
        times.append(at)
        schedule(wheel, flow, at)

    monkeypatch.setattr(TimingWheel, "schedule", watched)
    flow = rig.open(1)
    rig.step(FIRST_TIMER_S / 2)
    rig.segment(1, ACK | FIN, 101, flow.conn.snd_nxt)
    rig.step()
    assert times == [START + FIRST_TIMER_S]
    rig.step(FIRST_TIMER_S)
    assert times == [START + FIRST_TIMER_S, flow.conn.deadline()], "it lives longer, so the engine decides"


def test_connections_that_ended_leave_no_timer(rig: Rig) -> None:
    flows = [rig.open(port) for port in range(1, 21)]
    assert rig.armed() == 20
    for flow in flows:
        rig.segment(Ends.of(flow.key).guest_port, RST, 101)
    rig.step()
    assert not rig.connections.by_id
    assert rig.armed() == 0
    assert rig.connections.timers.deadline() == float("inf")


def test_one_that_made_room_in_the_burst_that_woke_it_gets_no_timer(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(max_tcp_flows=1)
    old = rig.open(1)
    rig.egress.push(Shutdown.pack(old.host.number))
    rig.step()
    rig.segment(1, ACK | FIN, 101, old.conn.snd_nxt)
    rig.step()
    assert old.conn.state == TIME_WAIT
    rig.segment(1, ACK | FIN, 101, old.conn.snd_nxt)
    rig.segment(2, SYN, 100)
    rig.step()
    assert list(rig.connections.by_id.values()) == [rig.flow(2)]
    assert old not in rig.connections.timers
    assert rig.armed() == 1


def test_one_whose_ports_are_used_again_in_the_burst_that_ended_it_gets_no_timer(rig: Rig) -> None:
    old = rig.open(1)
    rig.egress.push(Shutdown.pack(old.host.number))
    rig.step()
    rig.segment(1, ACK, 101, old.conn.snd_nxt)
    rig.step()
    rig.step(1.0)
    assert old.timer_at > rig.now + HOURS, "the guest may go on sending: nothing but its keep-alive"
    rig.segment(1, ACK | FIN, 101, old.conn.snd_nxt)
    rig.segment(1, SYN, 5000)
    rig.step()
    assert old.conn.state == TIME_WAIT
    assert old.conn.deadline() < rig.now + HOURS
    assert list(rig.connections.by_id.values()) == [rig.flow(1)] != [old]
    assert old not in rig.connections.timers
    assert rig.armed() == 1


def test_a_machine_that_slept_for_ten_hours_goes_on(rig: Rig) -> None:
    flow = rig.open(1)
    sent = rig.step(10 * HOURS)
    assert len(sent) == 1, "the keep-alive's first probe"
    assert rig.now < rig.stage.deadline() == rig.connections.timers.deadline() < float("inf")
    assert rig.armed() == 1
    assert flow.timer_at > rig.now
