"""What leaves, and how it is cut."""

import pytest

from pipeline.engines.tcp.actions import Release
from pipeline.engines.tcp.config import TcpConfig
from pipeline.wire.tcp import ACK, FIN, PSH
from tests.engines.tcp.builders import EFF_MSS, MASK, NO_OPTIONS, Rig, close_wait, established


def wide(cfg: TcpConfig | None = None, **fields: object) -> Rig:
    """Established with a congestion window that is never the limit."""
    rig = established(cfg, **fields)
    rig.conn.cc.cwnd = 1 << 24
    return rig


def test_a_handle_of_64_kib_leaves_as_one_range() -> None:
    rig = wide()
    buf = rig.host_data(65536, off=256)
    out = rig.one()
    assert (out.buf, out.off, out.length, out.mss) == (buf, 256, 65536, EFF_MSS)
    assert out.flags == ACK | PSH
    assert rig.rel(out.seq) == 1


def test_ranges_never_cross_handles_and_each_end_pushes() -> None:
    rig = wide()
    for size in (100, 3000, 1):
        rig.host_data(size)
    sent = rig.send()
    assert [(out.length, out.flags) for out in sent] == [(100, ACK | PSH), (3000, ACK | PSH), (1, ACK | PSH)]
    assert [rig.rel(out.seq) for out in sent] == [1, 101, 3101]


def test_a_range_cut_by_the_window_ends_at_a_multiple_of_the_mss_without_push() -> None:
    rig = established()
    rig.host_data(65536)
    out = rig.one()
    assert out.length == 10 * EFF_MSS
    assert out.flags == ACK
    rig.acknowledge_all()
    more = rig.one()
    assert more.off == 256 + 10 * EFF_MSS
    assert more.length % EFF_MSS == 0


def test_the_offset_follows_the_handle_after_a_partial_range() -> None:
    rig = established()
    rig.host_data(20 * EFF_MSS + 7, off=1000)
    total = 0
    while rig.conn.snd_una < rig.conn.snd.queue_end:
        for out in rig.send():
            assert out.off == 1000 + total
            total += out.length
        rig.acknowledge_all()
    assert total == 20 * EFF_MSS + 7
    assert rig.seen(Release)


def test_max_ranges_is_kept_and_the_rest_waits() -> None:
    rig = wide()
    for _ in range(5):
        rig.host_data(1000)
    assert rig.conn.transmit(rig.now, 0) == []
    assert rig.conn.wants_transmit
    assert len(rig.conn.transmit(rig.now, 2)) == 2
    assert rig.conn.wants_transmit
    assert len(rig.conn.transmit(rig.now, 2)) == 2
    assert len(rig.conn.transmit(rig.now, 2)) == 1
    assert not rig.conn.wants_transmit


def test_the_configured_range_limit_is_kept() -> None:
    rig = wide(TcpConfig(max_range_bytes=16000))
    rig.host_data(40000)
    assert [out.length for out in rig.send()] == [15928, 15928, 40000 - 2 * 15928]


def test_small_writes_are_not_delayed() -> None:
    rig = established()
    for _ in range(3):
        rig.host_data(10)
        assert rig.one().length == 10


def test_nagle_holds_a_small_segment_while_data_are_in_flight() -> None:
    rig = established(TcpConfig(nagle=True))
    rig.host_data(10)
    rig.host_data(10)
    assert rig.one().length == 10
    rig.acknowledge_all()
    assert rig.one().length == 10


def test_nagle_does_not_hold_the_end_of_the_stream() -> None:
    rig = established(TcpConfig(nagle=True))
    rig.host_data(10)
    rig.host_data(10)
    rig.conn.on_host_eof(rig.now)
    assert [out.flags for out in rig.send()] == [ACK | PSH, ACK | PSH | FIN]


def test_the_ack_rides_on_data() -> None:
    rig = established()
    rig.guest(length=3000)
    rig.host_data(10)
    out = rig.one()
    assert out.ack == rig.seq
    assert rig.run(0.1) == []


def test_each_handle_is_released_when_its_last_byte_is_acknowledged() -> None:
    rig = wide()
    first, second = rig.host_data(1000), rig.host_data(1000)
    rig.send()
    rig.ack += 999
    rig.guest()
    assert rig.released() == []
    rig.ack += 1
    rig.guest()
    assert rig.released() == [first]
    rig.acknowledge_all()
    assert rig.released() == [first, second]


# --- FIN ----------------------------------------------------------------------------------------


def test_fin_rides_on_the_last_data() -> None:
    rig = wide()
    rig.host_data(500)
    rig.host_data(500)
    rig.conn.on_host_eof(rig.now)
    assert [out.flags for out in rig.send()] == [ACK | PSH, ACK | PSH | FIN]
    assert rig.conn.snd_nxt == rig.conn.snd.send_end


def test_fin_alone_when_all_data_have_left() -> None:
    rig = wide()
    rig.host_data(500)
    rig.send()
    rig.conn.on_host_eof(rig.now)
    out = rig.one()
    assert (out.flags, out.length, rig.rel(out.seq)) == (ACK | FIN, 0, 501)


def test_fin_waits_behind_data_that_the_window_holds_back() -> None:
    rig = wide()
    rig.guest(wnd=12)
    rig.host_data(3000)
    rig.conn.on_host_eof(rig.now)
    sent = rig.send()
    assert sum(out.length for out in sent) == EFF_MSS
    assert not any(out.flags & FIN for out in sent)
    rig.acknowledge_all(wnd=1000)
    assert rig.send()[-1].flags & FIN


def test_fin_that_does_not_fit_the_window_follows_alone() -> None:
    rig = wide(wscale=0)
    rig.guest(wnd=500)
    rig.host_data(500)
    rig.conn.on_host_eof(rig.now)
    assert rig.one().flags == ACK | PSH
    rig.acknowledge_all(wnd=500)
    assert rig.one().flags == ACK | FIN


def test_data_after_the_hosts_eof_are_given_back() -> None:
    rig = established()
    rig.conn.on_host_eof(rig.now)
    buf = rig.host_data(10)
    assert rig.released() == [buf]


def test_data_flow_to_a_guest_that_has_closed_its_side() -> None:
    rig = close_wait()
    rig.host_data(2000)
    assert rig.one().length == 2000
    rig.acknowledge_all()
    assert rig.state == "CLOSE-WAIT"


# --- the peer's window ------------------------------------------------------------------------------


def test_the_send_window_is_scaled_and_limits() -> None:
    rig = wide()
    rig.guest(wnd=100)
    rig.host_data(65536)
    assert sum(out.length for out in rig.send()) == 100 * 128 // EFF_MSS * EFF_MSS


def test_a_silly_window_is_not_used_until_the_override() -> None:
    rig = wide(wscale=0)
    rig.guest(wnd=100)
    rig.host_data(5000)
    assert rig.silent(), "100 bytes are neither a segment nor half of the largest window"
    sent = rig.run(1.2)
    assert sent[0][1].length == 100
    assert 0.1 <= sent[0][0] <= 1.1


def test_half_of_the_largest_window_is_used_when_the_peer_never_offers_more() -> None:
    rig = wide(**NO_OPTIONS, mss=1460)
    rig.conn.snd.max_snd_wnd = 200
    rig.guest(wnd=100)
    rig.host_data(5000)
    assert rig.one().length == 100


def test_a_zero_window_is_probed_with_growing_intervals_until_it_opens() -> None:
    rig = wide()
    rig.guest(wnd=0)
    rig.host_data(5000)
    rto = rig.conn.rtt.rto
    sent = rig.run(rto * (1 + 2 + 4 + 8) + 0.01)
    times = [time for time, _ in sent]
    assert times == pytest.approx([rto, 3 * rto, 7 * rto, 15 * rto])
    for _, probe in sent:
        assert (probe.length, probe.seq) == (0, (rig.conn.snd_una - 1) & MASK)
    rig.guest(wnd=1000)
    assert sum(out.length for out in rig.send()) == 5000
    assert rig.conn.probing.persist_backoff == 0


def test_probes_never_give_up_while_the_guest_answers() -> None:
    rig = wide()
    rig.guest(wnd=0)
    rig.host_data(5000)
    for _ in range(200):
        assert [out.length for _, out in rig.run(120)][:1] in ([0], [])
        rig.guest(wnd=0)
    assert rig.state == "ESTABLISHED"


def test_probes_give_up_when_nothing_comes_back() -> None:
    rig = wide()
    rig.guest(wnd=0)
    rig.host_data(5000)
    rig.run(3600)
    assert rig.state == "CLOSED"
    assert rig.gone()


def test_a_zero_window_holds_the_fin_too() -> None:
    rig = wide()
    rig.guest(wnd=0)
    rig.conn.on_host_eof(rig.now)
    assert rig.silent()
    assert rig.run(0.3)[0][1].flags == ACK
    rig.guest(wnd=10)
    assert rig.one().flags == ACK | FIN


def test_a_window_shrunk_below_what_is_in_flight_is_survived() -> None:
    rig = wide()
    rig.host_data(10 * EFF_MSS)
    rig.send()
    rig.ack = (rig.ack + EFF_MSS) & MASK
    rig.guest(wnd=0)
    assert rig.silent()
    sent = rig.run(3.0)
    assert sent, "retransmissions act as probes"
    assert all(out.length == EFF_MSS and rig.rel(out.seq) == 1 + EFF_MSS for _, out in sent)
    rig.guest(wnd=1000)
    rig.run(30)
    assert rig.conn.snd_nxt > rig.conn.snd_una
    rig.acknowledge_all(wnd=1000)
    assert not rig.given


def test_sack_blocks_take_their_room_from_the_segments() -> None:
    rig = wide()
    rig.guest(length=10, seq=rig.seq + 100)
    rig.host_data(65536)
    out = rig.one()
    assert len(out.sack) == 1
    assert out.mss == EFF_MSS - 12
