"""Why a connection ended: the first FIN, or what ended it at once."""

from pipeline.engines.tcp import ending
from pipeline.wire.tcp import ACK, FIN, RST
from tests.engines.tcp.builders import Rig, close_wait, closing, established, fin_wait_2, last_ack, time_wait


def test_the_first_fin_counts() -> None:
    rig = established()
    assert rig.conn.end == ending.NOT_ENDED
    rig.guest(FIN | ACK)
    rig.send()
    rig.conn.on_host_eof(rig.now)
    rig.send()
    rig.acknowledge_all()
    assert (rig.state, rig.conn.end) == ("CLOSED", ending.GUEST_FIN)
    for made in (closing, time_wait):
        assert made().conn.end == ending.HOST_FIN


def test_a_reset_counts_more_than_a_fin_of_one_side() -> None:
    rig = fin_wait_2()
    rig.guest(RST | ACK)
    assert rig.conn.end == ending.GUEST_RESET
    rig = close_wait()
    rig.conn.on_host_reset(rig.now)
    assert rig.conn.end == ending.HOST_RESET


def test_a_reset_after_both_fins_changes_nothing() -> None:
    for made, end in ((last_ack, ending.GUEST_FIN), (time_wait, ending.HOST_FIN)):
        rig: Rig = made()
        rig.conn.on_host_reset(rig.now)
        assert (rig.state, rig.conn.end) == ("CLOSED", end)


def test_a_silent_guest_times_out() -> None:
    rig = established()
    rig.host_data(100)
    rig.send()
    rig.run(4000)
    assert (rig.state, rig.conn.end) == ("CLOSED", ending.TIMED_OUT)


def test_the_stage_says_why_it_gives_up() -> None:
    for end in (ending.LIMIT, ending.DELETED):
        rig = established()
        rig.conn.on_host_reset(rig.now, end)
        assert rig.conn.end == end
    rig = established()
    rig.conn.on_guest_gone(rig.now)
    assert rig.conn.end == ending.GUEST_GONE


def test_sequence_numbers_count_bytes_without_syn_and_fin() -> None:
    rig = established()
    assert (rig.conn.bytes_from_guest, rig.conn.bytes_to_guest) == (0, 0)
    rig.guest(length=500)
    rig.guest(FIN | ACK, 10)
    rig.send()
    rig.conn.on_host_eof(rig.now)
    rig.send()
    rig.acknowledge_all()
    assert (rig.conn.bytes_from_guest, rig.conn.bytes_to_guest) == (510, 0)
