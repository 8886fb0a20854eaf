"""Connections in TIME-WAIT in the tcp worker: small, without a timer, and answered like any other."""

from collections.abc import Iterator

import pytest

from pipeline.engines.tcp import ending
from pipeline.engines.tcp.actions import Outgoing
from pipeline.engines.tcp.time_wait import TimeWait
from pipeline.records import kinds
from pipeline.records.icmp import GuestError
from pipeline.records.streams import Taken
from pipeline.stages.tcp import rows
from pipeline.stages.tcp.flow import Flow
from pipeline.stages.tcp.time_waits import LOOK_EVERY_S
from pipeline.wire import icmp
from pipeline.wire.tcp import ACK, FIN, RST
from tests.stages.tcp.test_alone import Shard
from tests.support.played_guests import GuestStream

TIME_WAIT_S = 60.0
"""Twice an MSL of half a minute (RFC 9293 section 3.4.2 has two minutes, Linux has this)."""


@pytest.fixture
def shard() -> Iterator[Shard]:
    with Shard() as made:
        yield made
        made.guest.leave()
        made.at_home()


def over(shard: Shard, sent: bytes = b"") -> tuple[GuestStream, Flow]:
    """A connection whose host ended first. sent: bytes of the guest, which the host has not taken."""
    stream, number = shard.open()
    flow = shard.connections.by_id[number]
    shard.shutdown(number)
    shard.settle()
    stream.send(sent)
    stream.finish()
    shard.settle()
    assert stream.gone
    assert isinstance(flow.conn, TimeWait)
    return stream, flow


def test_a_connection_in_time_wait_has_no_timer_and_ends_after_its_time(shard: Shard) -> None:
    _, flow = over(shard)
    assert len(shard.connections.timers) == 0
    assert shard.connections.held()["time_wait"] == 1
    shard.advance(TIME_WAIT_S - 0.1)
    assert shard.connections.by_key[flow.key] is flow
    shard.advance(0.2)
    assert not shard.connections
    assert shard.counter("tcp0", "tcp_flows") == 0


def test_a_fin_that_comes_again_restarts_the_wait_of_its_connection_alone(shard: Shard) -> None:
    first, again = over(shard)
    over(shard)
    shard.advance(50.0)
    shard.guest.mute = True  # it has forgotten the connection, and would answer the ACK with a reset
    first.say(FIN | ACK, back=1)
    shard.settle()
    shard.advance(20.0)
    assert list(shard.connections.by_id.values()) == [again], "the other one has ended in its time"
    shard.advance(39.0)
    assert shard.connections.by_id
    shard.advance(2.0)
    assert not shard.connections.by_id


def test_waits_that_end_one_after_the_other_do_not_wake_the_worker_each(shard: Shard) -> None:
    for _ in range(20):
        over(shard)
        shard.advance(0.01)
    connections = shard.connections
    began = connections.time_waits.due_at
    shard.advance(began - shard.now - 0.001)
    assert len(connections) == 20
    looks = 0
    while connections:
        shard.advance(max(connections.deadline() - shard.now, 0.0))
        looks += 1
    assert looks <= 4
    assert shard.now < began + 0.2 + 2 * LOOK_EVERY_S


def test_a_burst_of_segments_gets_one_ack(shard: Shard) -> None:
    stream, _ = over(shard)
    sent = shard.counter("tcp0", "tcp_segments_sent")
    for _ in range(5):
        stream.say(FIN | ACK, back=1)
    shard.settle()
    assert shard.counter("tcp0", "tcp_segments_sent") == sent + 1
    assert shard.counter("tcp0", "tcp_segment_dropped_duplicate") == 5


def test_a_reset_ends_it(shard: Shard) -> None:
    stream, _ = over(shard)
    stream.say(RST | ACK)
    shard.settle()
    assert not shard.connections
    assert shard.connections.held()["time_wait"] == 0


def test_bytes_of_the_host_that_come_late_go_home(shard: Shard) -> None:
    _, flow = over(shard)
    shard.to_guest(flow.host.number, b"too late")
    shard.shutdown(flow.host.number, both=True)
    shard.settle()
    assert shard.out() == 0
    assert len(shard.connections) == 1


@pytest.mark.parametrize("kind", [kinds.ABORT, kinds.EVICTED, kinds.FORBIDDEN])
def test_an_abort_of_egress_ends_it_without_a_word_to_the_guest(shard: Shard, kind: int) -> None:
    _, flow = over(shard)
    sent = shard.counter("tcp0", "tcp_segments_sent")
    shard.tell(kind, flow.host.number)
    shard.settle()
    assert not shard.connections
    assert shard.counter("tcp0", "tcp_segments_sent") == sent
    assert flow.conn.end == ending.HOST_FIN, "that is why it had ended before"


def test_memory_is_counted_until_the_host_takes_the_bytes(shard: Shard) -> None:
    _, flow = over(shard, bytes(1000))
    memory = shard.connections.memory
    assert memory.held_bytes == flow.guest.held_bytes == 1000
    shard.egress.push("tcp0", Taken.pack(flow.host.number, 400))
    shard.settle()
    assert memory.held_bytes == flow.guest.held_bytes == 600
    shard.advance(TIME_WAIT_S + 1.0)
    assert memory.held_bytes == flow.guest.held_bytes == 0


def test_data_that_come_late_give_their_slot_back(shard: Shard) -> None:
    stream, flow = over(shard)
    before = shard.neighbours["ingress"].worker.pool.refs_out
    conn, late = stream.conn, b"after the FIN"
    header = (conn.rcv_nxt & 0xFFFFFFFF, 500, 0, 0, False, (), 1460)
    stream.guest.transmit(stream.key, Outgoing(conn.snd_nxt & 0xFFFFFFFF, ACK, header, late, 0, len(late)))
    shard.settle()
    assert shard.neighbours["ingress"].worker.pool.refs_out == before
    assert shard.counter("tcp0", "tcp_segment_dropped_after_fin") == 1
    assert isinstance(flow.conn, TimeWait)


def test_an_error_of_a_router_is_not_about_anything_in_flight(shard: Shard) -> None:
    _, flow = over(shard)
    seq = flow.conn.snd_nxt - 1 & 0xFFFFFFFF
    for code in (icmp.FRAGMENTATION_NEEDED, icmp.HOST_UNREACHABLE):
        error = GuestError.pack(1, flow.key, seq, icmp.UNREACHABLE, code, 576)
        shard.neighbours["ingress"].push("tcp0", error)
    shard.settle()
    assert shard.counter("tcp0", "tcp_error_dropped_bad_sequence") == 2
    assert len(shard.connections) == 1


def test_it_is_listed_as_before_and_an_operator_can_end_it(shard: Shard) -> None:
    stream, number = shard.open()
    flow = shard.connections.by_id[number]
    stream.send(bytes(300))
    shard.settle()
    shard.taken(number, 300)
    shard.shutdown(number)
    shard.settle()
    before = rows.of_flow(flow, shard.now)
    stream.finish()
    shard.settle()
    assert isinstance(flow.conn, TimeWait)
    assert rows.of_flow(flow, shard.now) == before._replace(
        state="time-wait",
        packets_from_guest=before.packets_from_guest + 1,
        packets_to_guest=before.packets_to_guest + 1,
    )
    assert before.state == "fin-wait-2"
    assert before.bytes_from_guest == 300
    assert shard.connections.end(number, shard.now)
    shard.settle()
    assert not shard.connections
