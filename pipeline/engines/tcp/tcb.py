"""The transmission control block (TCB) of one connection: its state and its parts.

Each part owns some of the variables of RFC 9293 section 3.3.1. Only the part itself changes them:

    rcv         the receive sequence space, the receive window, ACKs due      receiver.py
    snd         the send sequence space, the send window, the queue           sender.py
    recovery    losses, and what they do to cwnd and to the timers            recovery.py
    rack        RACK-TLP                                                      rack.py
    rtt, cc     the round-trip time; the congestion window                    rto.py, congestion.py
    probing     window probes and keep-alives                                 probing.py
    opening     our SYN                                                       opening.py
    challenges  limits on answers to segments that are not accepted           challenges.py
    options     the options that both sides use                               options.py
    agenda      requests to the stage: actions, timers, transmit()            agenda.py

The events of section 3.10 are procedures over these parts: arrival.py, handshake.py, closing.py, transmit.py,
icmp_errors.py. Connection (connection.py) is the Tcb with an entry point for each event.
"""

from typing import Final

from pipeline.engines.tcp.actions import GONE, HOST_RESET, Outgoing
from pipeline.engines.tcp.agenda import Agenda
from pipeline.engines.tcp.challenges import Challenges
from pipeline.engines.tcp.config import DEFAULT_MSS, MIN_MSS, TcpConfig
from pipeline.engines.tcp.congestion import Congestion
from pipeline.engines.tcp.cubic import Cubic
from pipeline.engines.tcp.ending import NOT_ENDED
from pipeline.engines.tcp.newreno import NewReno
from pipeline.engines.tcp.opening import Opening
from pipeline.engines.tcp.options import Options
from pipeline.engines.tcp.probing import Probing
from pipeline.engines.tcp.rack import Rack
from pipeline.engines.tcp.receiver import Receiver
from pipeline.engines.tcp.recovery import Recovery
from pipeline.engines.tcp.rto import RttEstimator
from pipeline.engines.tcp.sender import Sender
from pipeline.engines.tcp.seq import MASK
from pipeline.engines.tcp.state import CLOSED, CLOSING, LAST_ACK, SYN_RECEIVED, SYN_SENT, TIME_WAIT
from pipeline.wire.tcp import ACK, RST
from pipeline.wire.tcp_options import TIMESTAMPS_LEN

CONGESTION: Final[dict[str, type[Congestion]]] = {"cubic": Cubic, "newreno": NewReno}


class Tcb:
    """``state`` is one of state.py's numbers."""

    __slots__ = (
        "agenda",
        "cc",
        "cfg",
        "challenges",
        "end",
        "host_closed",
        "host_connected",
        "is_active",
        "opening",
        "options",
        "probing",
        "rack",
        "rcv",
        "recovery",
        "resets",
        "rtt",
        "snd",
        "state",
    )

    def __init__(self, cfg: TcpConfig, state: int, active: bool, iss: int, now: float) -> None:
        self.cfg = cfg
        self.state = state
        self.end = NOT_ENDED
        """Why the connection ended, or which side sent its FIN first (ending.py)."""
        self.is_active = active
        self.host_connected = active
        self.host_closed = False
        """The host socket is closed in both directions, so data of the guest are not read."""
        self.resets: list[Outgoing] = []
        """Resets that wait to be sent. A closed connection is gone after them."""

        self.agenda = Agenda()
        self.options = Options(cfg)
        self.opening = Opening()
        self.challenges = Challenges(cfg)
        self.rcv = Receiver(cfg, self.agenda, now)
        self.snd = Sender(cfg, self.agenda, iss, now)
        self.rtt = RttEstimator(cfg)
        self.cc: Congestion = CONGESTION[cfg.congestion](DEFAULT_MSS, cfg.initial_window_segments)
        self.rack = Rack(self.agenda, self.options, self.snd, self.rtt)
        self.recovery = Recovery(cfg, self.agenda, self.options, self.snd, self.rack, self.rtt, self.cc)
        self.probing = Probing(cfg, self.agenda, self.snd, self.rtt, now)

    def enter(self, state: int) -> None:
        """The connection changes its state."""
        self.state = state

    def fin_first(self, end: int) -> None:
        """A side has ended its direction: GUEST_FIN or HOST_FIN. Only the first one is kept."""
        if self.end == NOT_ENDED:
            self.end = end

    def set_mss(self, mss: int) -> None:
        """Set the MSS for sending, within MIN_MSS and what our own link takes (RFC 9293 3.7.1)."""
        mss = min(max(mss, MIN_MSS), self.cfg.mtu - self.cfg.header_bytes)
        self.snd.set_mss(mss - TIMESTAMPS_LEN if self.options.ts_ok else mss)
        self.cc.set_mss(self.snd.snd_mss)

    def send_syn(self) -> None:
        """The next transmit() sends our SYN or SYN-ACK."""
        self.opening.send_syn()
        self.agenda.transmit_soon()

    def queue_reset(self, seq: int) -> None:
        """Send <SEQ=SEG.ACK><CTL=RST> for an unacceptable ACK. The state stays. At most one reset waits."""
        if not self.resets:
            self.resets.append(reset(seq & MASK, 0, RST))
        self.agenda.transmit_soon()

    def take_reset(self) -> Outgoing:
        """The reset that waits. The caller sends it. After it a closed connection is gone."""
        out = self.resets.pop()
        if self.state == CLOSED:
            self.agenda.actions.append(GONE)
            self.agenda.transmit_begins()
        return out

    def finish(self, end: int, tell_host: bool, tell_guest: bool) -> None:
        """End the connection now, in any state: free all handles and stop the timers.

        end: why (ending.py). If both directions had ended with FINs, the first of these stays the reason.
        tell_host: add HostReset. tell_guest: queue a reset, and add Gone when transmit() has returned it.
        Without a reset, add Gone at once.
        """
        state = self.state
        if state == CLOSED:
            return
        if state not in (CLOSING, LAST_ACK, TIME_WAIT):
            self.end = end
        self.give_back()
        self.state = CLOSED
        agenda = self.agenda
        agenda.stop_timers()
        self.rcv.stop()
        self.probing.stop()
        self.rack.forget_probe()
        self.opening.stop()
        if tell_host and state not in (CLOSING, LAST_ACK, TIME_WAIT):
            # In these three states both directions have ended with FINs, so the host needs no reset.
            agenda.actions.append(HOST_RESET)
        # RFC 9293 3.10.5: no reset in SYN-SENT, and none if both sides have sent a FIN.
        if tell_guest and state not in (SYN_SENT, CLOSING, LAST_ACK, TIME_WAIT):
            snd = self.snd
            seq = 0 if state == SYN_RECEIVED and snd.snd_nxt == snd.iss else snd.snd_nxt & MASK
            self.resets = [reset(seq, self.rcv.rcv_nxt & MASK, RST | ACK)]
            agenda.transmit_soon()
        else:
            self.resets = []
            agenda.transmit_begins()
            agenda.actions.append(GONE)

    def give_back(self) -> None:
        """Release and discard every handle that the connection holds."""
        self.snd.clear()
        self.rcv.drop_out_of_order()


def reset(seq: int, ack: int, flags: int) -> Outgoing:
    """A segment with RST."""
    return Outgoing(seq, flags, (ack, 0, 0, 0, False, (), 0))
