"""The state of a connection as plain values, for debugging (the control request ``flows``)."""

from pipeline.engines.tcp.seq import MASK
from pipeline.engines.tcp.state import PHASE_NAMES, STATE_NAMES
from pipeline.engines.tcp.tcb import Tcb
from pipeline.engines.tcp.timers import NAMES, NEVER


def snapshot(c: Tcb) -> dict[str, object]:
    """The connection's state. Sequence numbers are as on the wire."""
    timers = {name: at for name, at in zip(NAMES, c.agenda.timers, strict=True) if at != NEVER}
    return {
        "state": STATE_NAMES[c.state],
        "active": c.is_active,
        "host_connected": c.host_connected,
        "host_closed": c.host_closed,
        **_sending(c),
        **_receiving(c),
        "sack": c.options.sack_ok,
        "timestamps": c.options.ts_ok,
        **_recovering(c),
        "timers": timers,
    }


def _sending(c: Tcb) -> dict[str, object]:
    snd = c.snd
    return {
        "iss": snd.iss,
        "snd_una": snd.snd_una & MASK,
        "snd_nxt": snd.snd_nxt & MASK,
        "snd_wnd": snd.snd_wnd,
        "snd_wind_shift": snd.snd_wind_shift,
        "snd_mss": snd.snd_mss,
        "queued_bytes": sum(chunk.end - chunk.start for chunk in snd.chunks),
        "queued_handles": len(snd.chunks),
        "fin_queued": snd.fin_queued,
    }


def _receiving(c: Tcb) -> dict[str, object]:
    rcv = c.rcv
    return {
        "irs": rcv.irs & MASK,
        "rcv_nxt": rcv.rcv_nxt & MASK,
        "rcv_wnd": rcv.rcv_adv - rcv.rcv_nxt,
        "rcv_wind_shift": rcv.rcv_wind_shift,
        "rcv_capacity": rcv.capacity,
        "rcv_untaken": rcv.untaken,
        "fin_received": rcv.fin_received,
        "reassembly_bytes": rcv.reassembly.held_bytes,
        "reassembly_ranges": len(rcv.reassembly.ranges),
    }


def _recovering(c: Tcb) -> dict[str, object]:
    board = c.snd.board
    return {
        "srtt": c.rtt.srtt,
        "rttvar": c.rtt.rttvar,
        "rto": c.rtt.rto,
        "congestion": c.cc.name,
        "cwnd": c.cc.cwnd,
        "ssthresh": c.cc.ssthresh,
        "pipe": c.recovery.pipe(),
        "recovery": PHASE_NAMES[c.recovery.phase],
        "sent_ranges": len(board.ranges),
        "sacked_bytes": board.sacked_bytes,
        "lost_bytes": board.lost_bytes,
        "retransmitted_bytes": board.retransmitted_bytes,
        "timeouts": c.recovery.timeouts,
    }
