"""Reports of dropped frames, and who is read when slots or patience run out: with a pool and no links."""

from pipeline.counter_block import CounterBlock
from pipeline.counters import INDEX
from pipeline.ipc.arena import Pool
from pipeline.ipc.ring import Producer, ring_bytes
from pipeline.records.flows import flow_key
from pipeline.records.frames import Frame
from pipeline.records.kinds import MISBEHAVED, RECORD_BYTES
from pipeline.records.tcp import TcpRange
from pipeline.stages.bad_frames import BadFrames
from pipeline.stages.ingress.fairness import GRACE_S, Fairness
from pipeline.wire import tcp
from tests.support.layouts import decode

KEY = flow_key(11, 13, 12, 14)


class Ring(Producer):
    """To ingress."""

    def __init__(self) -> None:
        super().__init__(memoryview(bytearray(ring_bytes(16, RECORD_BYTES))), 16)
        self.free = 10

    def room(self) -> int:
        return self.free

    def take(self) -> list[tuple[int, int]]:
        """(link, frames) of what was pushed."""
        assert all(record[0] == MISBEHAVED for record in self.queue)
        found = [decode(record) for record in self.queue]
        self.queue.clear()
        return [(report.link, report.frames) for report in found]


def made(slots: int = 64, rate: int = 1000) -> tuple[Fairness, Pool, CounterBlock]:
    pool = Pool(0, slots)
    block = CounterBlock(memoryview(bytearray(CounterBlock.BYTES)))
    return Fairness(pool, block.counts, rate), pool, block


def test_while_slots_are_short_nothing_is_read_for_a_moment_and_then_without_data() -> None:
    fairness, pool, _ = made()
    assert fairness.may_read(10.0)
    taken = [pool.alloc() for _ in range(60)]
    assert not fairness.may_read(10.001)
    assert fairness.deadline([1], many=False) == 10.0 + GRACE_S
    assert fairness.may_read(10.0 + GRACE_S)
    assert fairness.scarce
    for slot in taken:
        pool.unref(slot)
    assert fairness.may_read(11.0)
    assert not fairness.scarce
    assert fairness.deadline([1], many=True) == float("inf")


def test_a_run_with_data_becomes_its_acknowledgment_and_everything_else_stays() -> None:
    fairness, _, block = made()
    fields = {
        "slot": 7, "off": 400, "length": 5000, "stride": 1514, "piece_size": 1448, "link": 3, "key": KEY,
        "flags": tcp.ACK | tcp.PSH | tcp.FIN, "segments": 4, "seq": 100, "ack": 200, "window": 300,
        "ts_val": 1, "ts_ecr": 2, "header_len": 66, "has_timestamps": True, "has_other_options": False,
        "vnet": False,
    }  # fmt: skip
    without = {"length": 0, "stride": 0, "piece_size": 0}
    run = TcpRange(**fields)
    ack = TcpRange(**{**fields, **without})
    frame = Frame(3, 7, 400, 60, False)
    others = ack.pack(), frame.pack()
    fairness.drop_data([run, ack, frame])
    assert (ack.pack(), frame.pack()) == others
    assert vars(run) == {**fields, **without, "skip": 0, "flags": tcp.ACK | tcp.PSH}
    assert block.snapshot()["link_data_dropped_no_slot"] == 4
    assert vars(decode(run.pack())) == vars(run)


def test_a_guest_whose_frames_are_dropped_pauses_until_its_debt_is_paid() -> None:
    fairness, _, block = made(rate=1000)
    fairness.charge(1, 200, 5.0)
    assert fairness.may_read_guest(1, 5.0)
    fairness.charge(1, 100, 5.0)
    assert not fairness.may_read_guest(1, 5.0)
    assert fairness.may_read_guest(2, 5.0)
    assert 5.0 < (until := fairness.deadline([1, 2], many=True)) < 5.2
    assert fairness.deadline([2], many=True) == float("inf")
    assert fairness.deadline([1], many=False) == float("inf")
    fairness.charge(1, 500, 5.01)  # was still on its way
    assert not fairness.may_read_guest(1, until)
    assert fairness.may_read_guest(1, 6.0)
    assert block.counts[INDEX["link_reads_paused_misbehaving"]] == 1


def test_a_link_that_is_gone_leaves_nothing() -> None:
    fairness, _, _ = made(rate=100)
    fairness.charge(1, 10000, 0.0)
    fairness.forget(1)
    assert fairness.deadline([1], many=True) == float("inf")
    assert fairness.may_read_guest(1, 0.0)


def test_dropped_frames_are_reported_in_lots() -> None:
    ring = Ring()
    bad = BadFrames(ring)
    for _ in range(100):
        bad.note(7)
    assert ring.take() == [(7, BadFrames.REPORT)] * (100 // BadFrames.REPORT)
    bad.note(8, 1000)
    assert ring.take() == [(8, 1000)]


def test_reports_add_up_while_ingress_takes_none() -> None:
    ring = Ring()
    bad = BadFrames(ring)
    ring.free = 0
    for _ in range(10):
        bad.note(7, 1000)
    bad.note(8, 1 << 40)
    assert ring.take() == []
    ring.free = 10
    bad.note(7)
    bad.note(8)
    assert ring.take() == [(7, 10001), (8, BadFrames.MOST)]
