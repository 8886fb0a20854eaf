"""demux and tcp between played guests and a played egress: what comes for a connection that is over."""

from collections.abc import Iterator

import pytest

from pipeline.engines.tcp.state import SYN_RECEIVED
from pipeline.records import kinds
from pipeline.records.dials import Dial
from pipeline.records.flows import FLOW_FROM_EGRESS, FlowNotice
from pipeline.records.streams import ConnectFailed, Shutdown, Taken, ToGuest
from pipeline.stages.tcp import orphans
from pipeline.stages.tcp.connections import Connections
from pipeline.wire.tcp import ACK, RST
from tests.support.one_process import OneProcess
from tests.support.played_guests import Card, Guest, GuestStream
from tests.support.received import Received


class Shard(OneProcess):
    """One guest, one tcp worker, and egress by hand."""

    def __init__(self, **changed: int) -> None:
        super().__init__(("demux", "tcp"), played={"ingress": Card}, **changed)
        card = self.neighbours["ingress"]
        assert isinstance(card, Card)
        self.guest: Guest = card.guest()
        self.egress = self.neighbours["egress0"]
        self.connections: Connections = self.stages["tcp0"].connections

    def ask(self) -> tuple[GuestStream, int]:
        """A connection that the guest asks for, and its number; egress has not answered."""
        stream = self.guest.connect(80)
        self.settle()
        (asked,) = self.egress.take(kinds.CONNECT)
        return stream, asked.flow

    def open(self) -> tuple[GuestStream, int]:
        """One that stands."""
        stream, number = self.ask()
        self.tell(kinds.CONNECTED, number)
        self.settle()
        assert stream.established
        return stream, number

    def tell(self, kind: int, number: int) -> None:
        """Egress reports CONNECTED or ABORT of a connection."""
        self.egress.push("tcp0", FlowNotice.pack(kind, number))

    def taken(self, number: int, count: int) -> None:
        """The host took bytes of a connection."""
        self.egress.push("tcp0", Taken.pack(number, count))

    def shutdown(self, number: int, *, both: bool = False) -> None:
        """The host ended its direction of a connection, or both."""
        self.egress.push("tcp0", Shutdown.pack(number, both))

    def to_guest(self, number: int, payload: bytes) -> None:
        """Bytes of the host, in a slot of egress."""
        slot = self.egress.fill(payload)
        self.egress.push("tcp0", ToGuest.pack(number, slot, 256, len(payload)))

    def take_all(self, number: int, count: int, *, pause: float) -> None:
        """The host takes count bytes of a connection; some come in each pause, in seconds."""
        while count > 0:
            self.advance(pause)
            lengths = [record.length for record in self.egress.take(kinds.TO_HOST) if record.flow == number]
            assert lengths
            for length in lengths:
                self.taken(number, length)
            count -= sum(lengths)

    def kinds(self) -> list[int]:
        """What tcp has told egress since the last call, but for windows."""
        return [record.kind for record in self.told()]

    def told(self) -> list[Received]:
        """The same records. What demux says about links and neighbours is not among them."""
        others = (kinds.WINDOW, kinds.LINK_UP, kinds.LINK_DOWN, kinds.NEIGHBOR, kinds.NEIGHBOR_GONE)
        return [record for record in self.egress.take() if record.kind not in others]

    def out(self) -> int:
        """References to slots of egress that have not come home."""
        return self.egress.worker.pool.refs_out


@pytest.fixture
def shard() -> Iterator[Shard]:
    with Shard() as made:
        yield made
        made.guest.leave()
        made.at_home()


def test_bytes_for_a_connection_that_is_over_go_home(shard: Shard) -> None:
    stream, number = shard.open()
    stream.reset()
    shard.settle()
    assert shard.kinds() == [kinds.ABORT]
    shard.to_guest(number, b"under way")
    shard.shutdown(number)
    shard.tell(kinds.ABORT, number)
    shard.settle()
    assert shard.out() == 0
    assert not shard.connections


def test_a_port_is_used_again_in_the_very_burst_that_resets_its_connection(shard: Shard) -> None:
    stream, number = shard.open()
    stream.reset()
    stream.pump()
    again = shard.guest.connect(80, own_port=stream.port)
    shard.settle()
    told = {record.kind: record.flow for record in shard.told()}
    assert told[kinds.ABORT] == number
    shard.tell(kinds.CONNECTED, told[kinds.CONNECT])
    shard.settle()
    assert again.established
    assert len(shard.connections) == 1
    again.reset()
    shard.settle()
    assert not shard.connections


def test_bytes_that_the_guest_has_not_acknowledged_go_home_with_its_reset(shard: Shard) -> None:
    stream, number = shard.open()
    stream.deaf = True
    for _ in range(3):
        shard.to_guest(number, bytes(60000))
    shard.settle()
    assert shard.out() == 3
    stream.reset()
    shard.settle()
    assert shard.out() == 0
    assert not shard.connections


def test_data_that_come_twice_or_not_in_order_go_home(shard: Shard) -> None:
    stream, number = shard.open()
    ingress = shard.neighbours["ingress"].worker.pool
    stream.send(b"x" * 10000)
    stream.deaf = True
    # It hears no acknowledgement, and sends again.
    shard.advance(3.0)
    taken = sum(record.length for record in shard.egress.take(kinds.TO_HOST))
    assert taken == 10000
    assert shard.counter("tcp0", "tcp_segment_dropped_duplicate") > 0
    assert ingress.refs_out == 0
    shard.tell(kinds.ABORT, number)
    shard.settle()
    assert not shard.connections


@pytest.mark.parametrize("connected", [True, False])
def test_the_guest_has_given_up_before_the_host_answers(shard: Shard, connected: bool) -> None:
    stream, number = shard.ask()
    stream.say(RST | ACK)
    shard.settle()
    assert shard.kinds() == [kinds.ABORT]
    answer = FlowNotice.pack(kinds.CONNECTED, number) if connected else ConnectFailed.pack(number, 0)
    shard.egress.push("tcp0", answer)
    shard.settle()
    assert not stream.established
    assert not shard.connections


@pytest.mark.parametrize("both", [False, True])
def test_both_ends_of_stream_cross(shard: Shard, both: bool) -> None:
    stream, number = shard.open()
    shard.to_guest(number, b"last words")
    shard.shutdown(number, both=both)
    stream.finish()
    # Each is sent before the other is known of.
    shard.breathe("ingress", "egress0", "demux", "tcp0")
    shard.settle()
    assert stream.eof
    assert stream.received == b"last words"
    assert shard.kinds() == [kinds.SHUTDOWN, kinds.CLOSED]
    shard.advance(100.0)
    assert not shard.connections


def test_both_resets_cross(shard: Shard) -> None:
    stream, number = shard.open()
    stream.send(b"x" * 5000)
    shard.settle()
    assert shard.kinds() == [kinds.TO_HOST]
    stream.reset()
    shard.taken(number, 5000)
    shard.tell(kinds.ABORT, number)
    shard.breathe("ingress", "egress0", "demux", "tcp0")
    shard.settle()
    # Egress is told of no connection that it has ended itself, or once.
    assert shard.kinds() in ([], [kinds.ABORT])
    assert not shard.connections


def test_taken_comes_late_for_every_state_behind(shard: Shard) -> None:
    stream, number = shard.open()
    stream.send(b"x" * 5000)
    stream.finish()
    shard.settle()
    assert shard.kinds()[-1] == kinds.SHUTDOWN
    shard.taken(number, 2000)
    shard.shutdown(number)
    shard.settle()
    assert stream.eof
    shard.taken(number, 3000)
    shard.settle()
    assert shard.connections.memory.held_bytes == 0
    shard.advance(100.0)
    shard.taken(number, 1)
    shard.settle()
    assert not shard.connections


def test_a_connection_that_ends_untaken_holds_no_memory(shard: Shard) -> None:
    stream, number = shard.open()
    stream.send(b"x" * 200_000)
    shard.settle()
    assert shard.connections.memory.held_bytes > 0
    shard.tell(kinds.ABORT, number)
    shard.settle()
    assert shard.connections.memory.held_bytes == 0
    assert stream.failed


def test_a_dialled_guest_that_does_not_answer_is_given_up_with_its_client(shard: Shard) -> None:
    number = FLOW_FROM_EGRESS | 5
    shard.guest.listens.add(80)
    shard.guest.mute = True
    shard.egress.push("demux", Dial.pack(number, shard.guest.addr, 80))
    shard.settle()
    assert len(shard.connections) == 1
    shard.tell(kinds.ABORT, number)
    shard.settle()
    assert not shard.connections
    shard.guest.mute = False
    shard.advance(10.0)
    assert not shard.guest.accepted
    assert shard.kinds() == []


def test_hosts_that_read_get_what_is_sent_however_much_waits_for_those_that_do_not() -> None:
    limit = 1 << 20
    with Shard(slots=256, max_receive_memory=limit, max_receive_memory_per_guest=limit) as shard:
        # What each is shown before any has filled its window is more than there is memory, in sum.
        stuck = [shard.open() for _ in range(8)]
        for stream, _ in stuck:
            stream.send(bytes(400_000))
        shard.advance(20.0)
        assert shard.counter("tcp0", "tcp_segment_dropped_no_memory") > 0
        stream, number = shard.open()
        shard.egress.take()
        stream.send(bytes(50_000))
        shard.take_all(number, 50_000, pause=1.0)
        for _, each in [*stuck, (stream, number)]:
            shard.tell(kinds.ABORT, each)
        shard.settle()
        shard.guest.leave()
        shard.at_home()


def test_what_waits_behind_a_hole_goes_home_when_the_hole_is_refused() -> None:
    limit = 1 << 20
    with Shard(slots=256, max_receive_memory=limit, max_receive_memory_per_guest=limit) as shard:
        ingress = shard.neighbours["ingress"].worker.pool
        stream, number = shard.open()
        stream.send(bytes(100_000))
        shard.advance(1.0)
        stream.deaf = True
        stream.losing = 1
        stream.send(bytes(10_000))
        shard.settle()
        stream.losing = 1000
        stuck = [shard.open() for _ in range(8)]
        for each, _ in stuck:
            each.send(bytes(400_000))
        shard.advance(20.0)
        assert ingress.refs_out > 0
        # Its own bytes are not taken either: what it repeats now is refused.
        stream.deaf = False
        stream.losing = 0
        shard.advance(150.0)
        assert ingress.refs_out == 0
        assert shard.counter("tcp0", "tcp_flow_lost_out_of_order") > 0
        for _, each in stuck:
            shard.tell(kinds.ABORT, each)
        shard.take_all(number, 110_000, pause=150.0)
        shard.tell(kinds.ABORT, number)
        shard.settle()
        shard.guest.leave()
        shard.at_home()


def test_the_connections_of_a_guest_that_is_gone_end_and_give_back_what_they_held(shard: Shard) -> None:
    stream, number = shard.open()
    stream.deaf = True
    shard.to_guest(number, bytes(60000))
    shard.settle()
    shard.kinds()
    shard.guest.leave()
    shard.settle()
    assert shard.out() == 1
    shard.advance(orphans.COMES_BACK_S + 1)
    assert shard.out() == 0
    assert not shard.connections
    assert shard.kinds() == [kinds.ORPHANED, kinds.ABORT]


@pytest.mark.parametrize("link", [2, 1], ids=["another number", "the same number, used again"])
def test_a_guest_that_comes_back_on_another_link_keeps_its_connections(shard: Shard, link: int) -> None:
    (stream, number), (idle, _) = shard.open(), shard.open()
    shard.guest.replug(link)
    for _ in range(2):
        stream.send(b"I am back")
        shard.settle()
        assert [record.length for record in shard.egress.take(kinds.TO_HOST)] == [len(b"I am back")]
        shard.taken(number, len(b"I am back"))
        shard.advance(orphans.COMES_BACK_S + 1)
    assert len(shard.connections) == 2
    assert {flow.link.number for flow in shard.connections.by_key.values()} == {link}
    for one in (stream, idle):
        assert not one.failed
        one.reset()
    shard.settle()
    assert not shard.connections


def test_with_guests_apart_connections_wait_for_their_own_guest_alone() -> None:
    with Shard(guests="apart") as shard:
        (stream, _), (idle, _) = shard.open(), shard.open()
        shard.kinds()
        # A clone has the same address, and what it sends could be of the connection.
        shard.guest.replug(2)
        stream.send(b"not of that guest")
        for _ in range(2):
            shard.settle()
            shard.advance(1.0)
        assert sorted(shard.kinds()) == sorted([kinds.ORPHANED, kinds.ABORT] * 2)
        assert not shard.connections
        # It is told so, and may connect anew.
        idle.send(b"no more")
        shard.settle()
        assert idle.failed


def test_with_guests_apart_a_guest_that_comes_back_keeps_its_connections() -> None:
    with Shard(guests="apart") as shard:
        stream, _ = shard.open()
        guest = shard.guest
        guest.card.steering.link_down(guest.link, guest.peer)
        guest.link = 2
        guest.card.by_link[2] = guest
        guest.card.steering.link_up(2, guest.peer)
        stream.send(b"I am back")
        shard.settle()
        assert [record.length for record in shard.egress.take(kinds.TO_HOST)] == [len(b"I am back")]
        assert len(shard.connections) == 1


@pytest.mark.parametrize("steers", [True, False])
def test_a_connection_completed_in_the_burst_in_which_its_link_goes_down_waits_for_its_guest(
    shard: Shard, steers: bool
) -> None:
    shard.guest.card.steers = steers
    stream, number = shard.ask()
    _, unanswered = shard.ask()
    shard.tell(kinds.CONNECTED, number)
    shard.breathe("egress0", "tcp0", "ingress")
    assert stream.established
    shard.guest.replug(2)
    # The last acknowledgment of the handshake and both reports of the link wait for tcp together.
    shard.breathe("ingress", "demux")
    assert shard.connections.by_id[number].conn.state == SYN_RECEIVED
    shard.breathe("tcp0")
    assert shard.connections.held()["orphans"] == 1
    shard.settle()
    told = [(record.kind, record.flow) for record in shard.told()]
    assert told == [(kinds.ORPHANED, number), (kinds.ABORT, unanswered)], "egress has not answered that one"
    assert shard.counter("tcp0", "tcp_flow_ended_guest_gone") == 1
    stream.send(b"I am back")
    shard.settle()
    assert [record.length for record in shard.egress.take(kinds.TO_HOST)] == [len(b"I am back")]
    assert not stream.failed
    stream.reset()
    shard.settle()


def test_the_idle_connections_of_a_guest_that_is_gone_wait_until_their_place_is_needed() -> None:
    with Shard(max_tcp_flows=2) as shard:
        shard.open()
        shard.open()
        card = shard.guest.card
        shard.guest.leave()
        shard.settle()
        shard.advance(3 * orphans.COMES_BACK_S)
        assert len(shard.connections) == 2
        shard.kinds()
        shard.guest = card.guest(2)
        shard.open()
        assert len(shard.connections) == 2
        assert shard.counter("tcp0", "tcp_flow_ended_guest_gone") == 1
        shard.guest.leave()


def test_the_connections_of_a_guest_that_does_not_come_back_end_by_age() -> None:
    with Shard(max_orphan_seconds=60) as shard:
        shard.open()
        shard.guest.leave()
        shard.advance(59.0)
        assert len(shard.connections) == 1
        shard.advance(2.0)
        shard.kinds()
        shard.at_home()


def test_an_orphan_makes_place_before_a_half_open_connection_of_a_living_guest() -> None:
    with Shard(max_tcp_flows=3) as shard:
        shard.open()
        card = shard.guest.card
        shard.guest.leave()
        shard.guest = card.guest(2)
        shard.ask()
        shard.ask()
        shard.open()
        assert shard.counter("tcp0", "tcp_flow_ended_guest_gone") == 1
        assert shard.counter("tcp0", "tcp_flow_evicted_half_open") == 0
        shard.guest.leave()
        shard.advance(orphans.COMES_BACK_S)


def test_a_guest_below_its_share_takes_the_place_of_the_most_silent_connection_of_another() -> None:
    with Shard(max_tcp_flows=4) as shard:
        hog = shard.guest
        (busy, _), (silent, _), *_ = [shard.open() for _ in range(4)]
        shard.advance(5.0)
        for stream in hog.streams.values():
            if stream is not silent:
                stream.send(b"I am here")
        shard.settle()
        shard.kinds()
        shard.guest = hog.card.guest(2)
        shard.open()
        assert silent.failed, "both ends are told"
        assert not busy.failed
        assert shard.counter("tcp0", "tcp_flow_evicted_over_share") == 1
        shard.open()
        assert len(shard.connections) == 4
        third = shard.guest.connect(80)
        shard.settle()
        assert shard.counter("tcp0", "tcp_syn_dropped_too_many_flows") == 1, "each has its share now"
        assert not third.established
        hog.leave()
        shard.guest.leave()


def test_orphans_whose_hosts_do_not_read_end_when_memory_is_short() -> None:
    mib = 1 << 20
    with Shard(max_receive_memory=mib, max_receive_memory_per_guest=mib) as shard:
        unread, _ = shard.open()
        shard.open()
        unread.send(bytes(100_000))
        shard.advance(2.0)
        card = shard.guest.card
        shard.guest.leave()
        shard.settle()
        shard.guest = card.guest(2)
        streams = [shard.open()[0] for _ in range(8)]
        assert shard.counter("tcp0", "tcp_flow_ended_guest_gone") == 0
        for stream in streams:
            stream.send(bytes(60_000))
        shard.advance(2.0)
        assert shard.counter("tcp0", "tcp_flow_ended_guest_gone") == 1, "the idle one waits"
        shard.egress.take()
        shard.guest.leave()
        shard.at_home()


def test_one_gone_guest_may_keep_slots_and_not_two() -> None:
    """Each that is gone keeps a share of all slots; who replugs for ever must not keep one for each time."""
    with Shard() as shard:
        card = shard.guest.card
        for link in range(1, 6):
            shard.guest = card.guest(link)
            stream, number = shard.open()
            shard.open()
            stream.deaf = True
            shard.to_guest(number, bytes(60000))
            shard.settle()
            shard.guest.leave()
            shard.settle()
            assert shard.out() == 1
            assert len(shard.connections) == link + 1, "the idle ones wait"
        shard.advance(orphans.COMES_BACK_S + 1)
        shard.at_home()
