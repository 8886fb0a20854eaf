"""The states and variables of a connection under their RFC names (RFC 9293 section 3.3).

This is data only; who changes what:

    connection  entry points: user calls, timers          arrival   SEGMENT ARRIVES
    handshake   SYN, SYN-ACK and their options            closing   FIN, RST, TIME-WAIT, the end
    receive     rcv_*, reassembly, ack_*, taken_*          send      snd_nxt, what leaves
    recovery    snd_una, scoreboard, loss and undo         rack      rack_*, tlp_*
    icmp_errors path_mtu_*, snd_mss

Sequence variables are positions (see seq.py). The bytes to send are ``chunks``, a queue of
(start, end, handle, offset in the slot) from snd_una to queue_end: the retransmission queue is
its part before snd_nxt, so nothing is ever copied or requeued.
"""

from collections import deque
from typing import Final

from pipeline.engines.tcp.actions import Action, Outgoing
from pipeline.engines.tcp.config import DEFAULT_MSS, TcpConfig
from pipeline.engines.tcp.congestion import Congestion
from pipeline.engines.tcp.cubic import Cubic
from pipeline.engines.tcp.newreno import NewReno
from pipeline.engines.tcp.reassembly import Reassembly
from pipeline.engines.tcp.rto import RttEstimator
from pipeline.engines.tcp.sack import Scoreboard
from pipeline.engines.tcp.seq import MASK
from pipeline.engines.tcp.timers import NAMES, NEVER, all_off

CLOSED: Final = 0
LISTEN: Final = 1
"""Never the state of a connection: the stage listens for every address."""
SYN_SENT: Final = 2
SYN_RECEIVED: Final = 3
ESTABLISHED: Final = 4
FIN_WAIT_1: Final = 5
FIN_WAIT_2: Final = 6
CLOSE_WAIT: Final = 7
CLOSING: Final = 8
LAST_ACK: Final = 9
TIME_WAIT: Final = 10

STATE_NAMES: Final = (
    "CLOSED",
    "LISTEN",
    "SYN-SENT",
    "SYN-RECEIVED",
    "ESTABLISHED",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "CLOSE-WAIT",
    "CLOSING",
    "LAST-ACK",
    "TIME-WAIT",
)

OPEN: Final = 0
"""recovery: no loss known."""
RECOVERY: Final = 1
"""recovery: fast recovery, until snd_una reaches recover (RFC 6675, 6582)."""
LOSS: Final = 2
"""recovery: after a retransmission time-out, until snd_una reaches recover."""

NO_POSITION: Final = -1
"""A sequence variable that is not set; positions are never negative."""

Chunk = tuple[int, int, object, int]
"""start, end (positions), handle, offset of start's byte in the slot."""

CONGESTION: Final[dict[str, type[Congestion]]] = {"cubic": Cubic, "newreno": NewReno}


class Tcb:
    """Transmission control block: everything one connection knows."""

    __slots__ = (
        "ack_now",
        "ack_owed",
        "actions",
        "board",
        "cc",
        "cfg",
        "challenge_count",
        "challenge_until",
        "chunks",
        "cwnd_limited",
        "data_received_at",
        "dsack",
        "dsacked_bytes",
        "dup_acks",
        "dup_acks_owed",
        "edge_reached",
        "fast_retransmit",
        "fin_queued",
        "fin_received",
        "force_send",
        "host_closed",
        "host_connected",
        "interactive",
        "invalid_ack_at",
        "irs",
        "is_active",
        "iss",
        "keepalive_at",
        "keepalive_count",
        "last_ack_sent",
        "last_received_at",
        "last_sent_at",
        "max_snd_wnd",
        "path_mtu_mark",
        "path_mtu_timeouts",
        "persist_backoff",
        "probe_due",
        "probes_unanswered",
        "queue_end",
        "rack_end_seq",
        "rack_fack",
        "rack_rtt",
        "rack_xmit_ts",
        "rcv_adv",
        "rcv_capacity",
        "rcv_fin",
        "rcv_limit",
        "rcv_mss",
        "rcv_nxt",
        "rcv_untaken",
        "rcv_wind_shift",
        "reassembly",
        "recover",
        "recovery",
        "recovery_probed",
        "reo_wnd_mult",
        "reo_wnd_persist",
        "reo_wnd_round",
        "reordering_seen",
        "resets",
        "retransmits",
        "retransmitted_bytes",
        "rtt",
        "rtt_mark",
        "sack_ok",
        "scaling",
        "send_end",
        "send_index",
        "shortest_turn",
        "snd_mss",
        "snd_nxt",
        "snd_una",
        "snd_wind_shift",
        "snd_wl1",
        "snd_wl2",
        "snd_wnd",
        "state",
        "syn_due",
        "syn_retransmits",
        "syn_sent_at",
        "taken_bytes",
        "timeouts",
        "timers",
        "tlp_due",
        "tlp_end_seq",
        "tlp_is_retrans",
        "trouble",
        "ts_ok",
        "ts_recent",
        "ts_recent_at",
        "turn_began",
        "turn_edge",
        "turn_rate",
        "turn_start",
        "undo_cwnd",
        "undo_ssthresh",
        "undo_ts",
        "wants_transmit",
    )

    def __init__(self, cfg: TcpConfig, state: int, active: bool, iss: int, now: float) -> None:
        self.cfg = cfg
        self.state = state
        self.is_active = active
        self.actions: list[Action] = []
        self.wants_transmit = False
        self.timers = all_off()

        # Send sequence space.
        self.iss = iss & MASK
        self.snd_una = self.iss
        self.snd_nxt = self.iss
        self.snd_wnd = 0
        self.snd_wl1 = 0
        self.snd_wl2 = 0
        self.max_snd_wnd = 0
        self.snd_wind_shift = 0
        self.snd_mss = DEFAULT_MSS
        """Eff.snd.MSS: payload of a full segment with the options every segment has."""
        self.chunks: deque[Chunk] = deque()
        self.send_index = 0
        """Index of the chunk that holds snd_nxt."""
        self.queue_end = self.iss + 1
        self.send_end = self.iss + 1
        """queue_end, and one more when our FIN is queued: nothing to send when snd_nxt is here."""
        self.fin_queued = False
        self.board = Scoreboard(self.iss + 1, cfg.max_sent_ranges)
        self.last_sent_at = now

        # Receive sequence space.
        self.irs = 0
        self.rcv_nxt = 0
        self.rcv_adv = 0
        """Right edge of the window as advertised: RCV.NXT + RCV.WND; never moves left."""
        self.rcv_wind_shift = 0
        self.rcv_mss = min(DEFAULT_MSS, cfg.rcv_mss)
        """Estimate of the size of the peer's full segments."""
        self.rcv_capacity = cfg.initial_receive_window
        self.rcv_limit = cfg.max_receive_window
        self.rcv_untaken = 0
        """Bytes delivered in order that the host has not taken yet."""
        self.rcv_fin = NO_POSITION
        self.fin_received = False
        self.reassembly = Reassembly(cfg.max_reassembly_bytes, cfg.max_reassembly_ranges)
        self.edge_reached = False
        self.turn_edge = NO_POSITION
        """Right edge that was shown when the turn under measurement began (receive.edge_shown)."""
        self.turn_start = 0
        self.turn_began = 0.0
        self.turn_rate = float("inf")
        """Bytes a second of the last turn."""
        self.shortest_turn = float("inf")
        self.taken_bytes = 0
        """Taken by the host since the last ACK left."""
        self.ack_now = False
        self.ack_owed = False
        self.dup_acks_owed = 0
        self.dsack: tuple[int, int] | None = None
        self.interactive = False
        self.data_received_at = -1e9
        self.last_ack_sent = 0
        self.last_received_at = now

        # Options.
        self.scaling = cfg.window_scaling
        self.sack_ok = cfg.sack
        self.ts_ok = cfg.timestamps
        self.ts_recent = 0
        self.ts_recent_at = now

        # Handshake and the host side.
        self.syn_due = False
        self.syn_sent_at = 0.0
        self.syn_retransmits = 0
        self.host_connected = active
        self.host_closed = False
        self.resets: list[Outgoing] = []
        """Resets waiting to be sent; a closed connection is gone once they are."""

        # Loss recovery and congestion.
        self.rtt = RttEstimator(cfg)
        self.cc: Congestion = CONGESTION[cfg.congestion](DEFAULT_MSS, cfg.initial_window_segments)
        self.cwnd_limited = False
        self.rtt_mark = self.iss
        self.retransmits = 0
        self.trouble = False
        self.recovery = OPEN
        self.recover = self.iss
        self.dup_acks = 0
        self.fast_retransmit = False
        self.undo_cwnd = 0
        self.undo_ssthresh = 0
        self.undo_ts = NO_POSITION
        self.rack_xmit_ts = 0.0
        self.rack_end_seq = 0
        self.rack_rtt = 0.0
        self.rack_fack = self.iss
        self.reordering_seen = False
        self.dsacked_bytes = 0
        self.reo_wnd_mult = 1
        self.reo_wnd_persist = 0
        self.reo_wnd_round = NO_POSITION
        self.tlp_due = False
        self.tlp_end_seq = NO_POSITION
        self.tlp_is_retrans = False
        self.recovery_probed = False
        """The probe of this silence in recovery has been sent."""
        self.path_mtu_mark = self.iss
        self.path_mtu_timeouts = 0
        """snd_nxt and timeouts when the path's MTU was lowered last."""

        # Probes and limits.
        self.probe_due = False
        self.force_send = False
        self.persist_backoff = 0
        self.probes_unanswered = 0
        self.keepalive_at = 0.0
        self.keepalive_count = 0
        self.challenge_until = 0.0
        self.challenge_count = 0
        self.invalid_ack_at = -1e9
        self.timeouts = 0
        self.retransmitted_bytes = 0

    def pipe(self) -> int:
        """Bytes thought to be in the network (RFC 6675 section 4)."""
        board = self.board
        pipe = self.snd_nxt - self.snd_una - board.sacked_bytes - board.lost_bytes
        if not self.sack_ok and self.dup_acks:
            pipe -= self.dup_acks * self.snd_mss
        return pipe if pipe > 0 else 0

    def snapshot(self) -> dict[str, object]:
        """All that matters for debugging, as plain values; sequence numbers as on the wire."""
        return {
            "state": STATE_NAMES[self.state],
            "active": self.is_active,
            "host_connected": self.host_connected,
            "host_closed": self.host_closed,
            "iss": self.iss,
            "snd_una": self.snd_una & MASK,
            "snd_nxt": self.snd_nxt & MASK,
            "snd_wnd": self.snd_wnd,
            "snd_wind_shift": self.snd_wind_shift,
            "snd_mss": self.snd_mss,
            "queued_bytes": sum(chunk[1] - chunk[0] for chunk in self.chunks),
            "queued_handles": len(self.chunks),
            "fin_queued": self.fin_queued,
            "irs": self.irs & MASK,
            "rcv_nxt": self.rcv_nxt & MASK,
            "rcv_wnd": self.rcv_adv - self.rcv_nxt,
            "rcv_wind_shift": self.rcv_wind_shift,
            "rcv_capacity": self.rcv_capacity,
            "rcv_untaken": self.rcv_untaken,
            "fin_received": self.fin_received,
            "reassembly_bytes": self.reassembly.held_bytes,
            "reassembly_ranges": len(self.reassembly.ranges),
            "sack": self.sack_ok,
            "timestamps": self.ts_ok,
            "srtt": self.rtt.srtt,
            "rttvar": self.rtt.rttvar,
            "rto": self.rtt.rto,
            "congestion": self.cc.name,
            "cwnd": self.cc.cwnd,
            "ssthresh": self.cc.ssthresh,
            "pipe": self.pipe(),
            "recovery": ("open", "recovery", "loss")[self.recovery],
            "sent_ranges": len(self.board.ranges),
            "sacked_bytes": self.board.sacked_bytes,
            "lost_bytes": self.board.lost_bytes,
            "retransmitted_bytes": self.retransmitted_bytes,
            "timeouts": self.timeouts,
            "timers": {name: at for name, at in zip(NAMES, self.timers, strict=True) if at != NEVER},
        }
