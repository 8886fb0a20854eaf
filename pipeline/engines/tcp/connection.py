"""One TCP connection with a guest, without I/O: segments and time in, actions and ranges out.

The guest is the TCP peer. A host socket is the user of the connection; the stage works on it as the actions
say. The entry points are those of RFC 9293 section 3.10: user calls (on_host_*, on_taken), SEGMENT ARRIVES
(on_segment) and time-outs (on_timer). Each takes ``now``, monotonic seconds.

After any of them the stage calls ``take_actions()`` and ``deadline()``. If ``wants_transmit`` is set and its
ring has room, it calls ``transmit()``, once for a whole burst of segments. transmit() may add actions.
Nothing that a guest can send raises an exception here.

Life of a connection:

    passive(): the guest's SYN arrived. Connect. No answer yet.
        on_connected()       SYN-ACK; Established(active=False) when the guest acknowledges it
        on_connect_failed()  reset (or silence), Gone
    active(): the host wants to reach the guest. SYN; Established(active=True), or
        HostReset, Gone. Data may be queued from the start.
    then Deliver, Release, Discard until both FINs have passed (HostShutdown reports the
    guest's) or HostReset; always Gone at the end. In TIME-WAIT the connection holds no
    handle, so the stage may delete it early when it needs room. When the last ACK has left,
    a TimeWait (time_wait.py) may take its place.
"""

from typing import Self

from pipeline.engines.tcp import arrival, closing, handshake, icmp_errors, transmit
from pipeline.engines.tcp.actions import CONNECT, Action, Deliver, Discard, Outgoing, Release
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.ending import CONNECT_FAILED, GUEST_GONE, HOST_RESET, TIMED_OUT
from pipeline.engines.tcp.reassembly import Reassembly
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.snapshot import snapshot
from pipeline.engines.tcp.state import CLOSED, ESTABLISHED, SYN_RECEIVED, SYN_SENT, TIME_WAIT
from pipeline.engines.tcp.tcb import Tcb
from pipeline.engines.tcp.timers import DELAYED_ACK, KEEPALIVE, LINGER, NEVER, PERSIST, PTO, REORDER, RTO

reset_for = closing.reset_for
opens = closing.opens


class Connection(Tcb):
    """See the module's docstring. ``state`` is one of state.py's numbers."""

    __slots__ = ()

    @classmethod
    def passive(cls, cfg: TcpConfig, syn: Segment, iss: int, now: float) -> Self:
        """A connection in SYN-RECEIVED from a guest's SYN (opens(syn.flags)). Adds Connect."""
        c = cls(cfg, SYN_RECEIVED, False, iss, now)
        if syn.buf is not None:
            c.agenda.actions.append(Discard(syn.buf))
        handshake.accept_syn(c, syn, now)
        c.agenda.timers[LINGER] = now + cfg.connect_timeout
        c.agenda.actions.append(CONNECT)
        return c

    @classmethod
    def active(cls, cfg: TcpConfig, iss: int, now: float) -> Self:
        """A connection to the guest in SYN-SENT. The next transmit() sends the SYN."""
        c = cls(cfg, SYN_SENT, True, iss, now)
        c.send_syn()
        return c

    # --- what the stage reads (STATUS, RFC 9293 3.10.6) --------------------------------

    @property
    def wants_transmit(self) -> bool:
        """Whether transmit() may have something to send."""
        return self.agenda.wants_transmit

    @property
    def irs(self) -> int:
        """The guest's initial sequence number."""
        return self.rcv.irs

    @property
    def rcv_nxt(self) -> int:
        """Position of the next byte expected from the guest."""
        return self.rcv.rcv_nxt

    @property
    def rcv_untaken(self) -> int:
        """Bytes delivered in order that the host has not taken yet."""
        return self.rcv.untaken

    @property
    def reassembly(self) -> Reassembly:
        """Out-of-order ranges, which hold handles."""
        return self.rcv.reassembly

    @property
    def snd_una(self) -> int:
        """Position of the oldest byte that the guest has not acknowledged."""
        return self.snd.snd_una

    @property
    def snd_nxt(self) -> int:
        """Position of the next byte to be sent for the first time."""
        return self.snd.snd_nxt

    @property
    def snd_wnd(self) -> int:
        """Bytes from snd_una on for which the guest has room."""
        return self.snd.snd_wnd

    @property
    def snd_mss(self) -> int:
        """Payload of a full segment to the guest."""
        return self.snd.snd_mss

    @property
    def last_received_at(self) -> float:
        """When the guest sent the last segment."""
        return self.probing.last_received_at

    @property
    def last_active_at(self) -> float:
        """When either side sent the last segment."""
        return max(self.probing.last_received_at, self.snd.last_sent_at)

    @property
    def bytes_from_guest(self) -> int:
        """Bytes received in order. The sequence numbers tell, so nothing is counted."""
        rcv = self.rcv
        return max(rcv.rcv_nxt - rcv.irs - (2 if rcv.fin_received else 1), 0)

    @property
    def bytes_to_guest(self) -> int:
        """Bytes that the guest has acknowledged."""
        snd = self.snd
        return max(min(snd.snd_una, snd.queue_end) - snd.iss - 1, 0)

    @property
    def min_rtt(self) -> float:
        """The shortest round trip in seconds; 0.0 if none was measured."""
        return self.rtt.min_rtt

    @property
    def retransmissions(self) -> int:
        """Segments that were sent again, SYNs among them."""
        return self.snd.resent + self.opening.syn_retransmits

    def holds_bytes(self) -> bool:
        """Whether the connection holds handles, of unacknowledged or out-of-order bytes."""
        return bool(self.snd.chunks or self.rcv.reassembly.ranges)

    def handles(self) -> list[object]:
        """Every handle that the connection holds, also those in actions that nobody has taken yet."""
        found = [chunk.buf for chunk in self.snd.chunks]
        found += [buf for _, _, buf, _ in self.rcv.reassembly.ranges]
        for action in self.agenda.actions:
            if isinstance(action, Deliver | Discard | Release):
                found.append(action.buf)
        return found

    def snapshot(self) -> dict[str, object]:
        """The state as plain values, for debugging. Sequence numbers are as on the wire."""
        return snapshot(self)

    # --- the host side ------------------------------------------------------------

    def on_connected(self, now: float) -> None:
        """The host socket is connected: answer the guest's SYN."""
        if self.state == SYN_RECEIVED and not self.host_connected:
            self.host_connected = True
            self.agenda.timers[LINGER] = NEVER
            self.send_syn()

    def on_connect_failed(self, now: float, reset: bool = True) -> None:
        """The host socket could not connect. reset: reset the guest. Else the stage may send ICMP."""
        if self.state == SYN_RECEIVED and not self.host_connected:
            self.finish(CONNECT_FAILED, tell_host=False, tell_guest=reset)

    def on_host_data(self, buf: object, off: int, length: int, now: float) -> None:
        """Queue bytes [off, off + length) of buf for the guest. A Release returns buf."""
        snd = self.snd
        if length <= 0 or snd.fin_queued or self.state in (CLOSED, TIME_WAIT):
            self.agenda.actions.append(Release(buf))
            return
        snd.enqueue(buf, off, length)
        if self.state >= ESTABLISHED:
            self.agenda.transmit_soon()

    def on_host_eof(self, now: float) -> None:
        """The host will send no more (CLOSE, RFC 9293 3.10.4): our FIN follows the queued data."""
        closing.host_ended(self)

    def on_host_closed(self, now: float) -> None:
        """The host socket was closed in both directions, without a reset: send a FIN.

        New data of the guest are answered with a reset. FIN-WAIT-2 is limited in time.
        """
        closing.host_ended(self)
        self.host_closed = True
        closing.limit_fin_wait_2(self, now)

    def on_guest_gone(self, now: float, end: int = GUEST_GONE) -> None:
        """The guest has gone: reset the host socket. Nothing is sent to the guest. end: see ending.py."""
        self.finish(end, tell_host=True, tell_guest=False)

    def on_host_reset(self, now: float, end: int = HOST_RESET) -> None:
        """The host socket was reset, or the stage gives up (ABORT, RFC 9293 3.10.5): reset the guest.

        end: why (ending.py).
        """
        self.finish(end, tell_host=False, tell_guest=True)

    def on_taken(self, n: int, now: float) -> None:
        """The host took n more of the delivered bytes."""
        if self.state >= ESTABLISHED:
            self.rcv.taken(n)

    def set_receive_capacity(self, n: int, now: float) -> None:
        """Limit the bytes that this connection may hold for the host to n.

        The window shown to the guest is not taken back: a smaller limit takes effect as data arrive.
        """
        rcv = self.rcv
        largest = self.cfg.max_receive_window
        if self.state >= SYN_RECEIVED:
            largest = min(largest, 65535 << rcv.rcv_wind_shift)
        rcv.set_limit(max(0, min(n, largest)))
        if self.state >= ESTABLISHED:
            rcv.taken(0)

    def forget_out_of_order(self) -> None:
        """Free all out-of-order data (reneging, RFC 2018 section 8). The guest sends them again."""
        self.rcv.drop_out_of_order()

    # --- the guest's side -----------------------------------------------------------

    def on_segment(self, seg: Segment, now: float) -> str | None:
        """A segment or range of the guest arrived. Its handle ends in Deliver or Discard.

        Returns the name of a drop counter if the segment, or its data, were not used.
        """
        state = self.state
        if state >= SYN_RECEIVED:
            return arrival.segment_arrives(self, seg, now)
        if seg.buf is not None:
            self.agenda.actions.append(Discard(seg.buf))
        if state == SYN_SENT:
            return handshake.syn_arrived_in_syn_sent(self, seg, now)
        return "tcp_segment_dropped_closed"

    def on_fragmentation_needed(self, seq: int, mtu: int, now: float) -> str | None:
        """A router dropped our segment with sequence number seq, since it takes only mtu bytes (RFC 1191).

        Returns the name of a counter if the message was not believed, or changed nothing.
        """
        return icmp_errors.fragmentation_needed(self, seq, mtu)

    def on_unreachable(self, seq: int, hard: bool, now: float) -> str | None:
        """An ICMP error says that our segment with sequence number seq cannot be delivered.

        hard: the error is final, not temporary. Returns the name of a counter, or None if the error ended the
        connection (only in SYN-SENT).
        """
        return icmp_errors.unreachable(self, seq, hard)

    def accepts_reuse(self, seg: Segment) -> bool:
        """Whether seg may open a new connection with this 4-tuple (in TIME-WAIT or CLOSED)."""
        return closing.accepts_reuse(self, seg)

    def transmit(self, now: float, max_ranges: int) -> list[Outgoing]:
        """The ranges to send now, at most max_ranges. wants_transmit stays set if there are more."""
        out: list[Outgoing] = []
        if max_ranges <= 0:
            return out
        if self.resets:
            out.append(self.take_reset())
        elif self.state >= ESTABLISHED:
            transmit.transmit(self, now, max_ranges, out)
        elif self.opening.syn_due:
            self.agenda.transmit_begins()
            out.append(handshake.syn_segment(self, now))
        elif self.rcv.ack_now and self.snd.snd_nxt > self.snd.iss:
            # A challenge ACK in SYN-RECEIVED.
            transmit.transmit(self, now, max_ranges, out)
        else:
            self.agenda.transmit_begins()
        return out

    def take_actions(self) -> list[Action]:
        """The actions since the last call, in order."""
        return self.agenda.take_actions()

    # --- time -------------------------------------------------------------------------

    def deadline(self) -> float:
        """When to call on_timer next; infinity if no timer runs."""
        # min() of a list costs five times as much when this is compiled.
        nearest = NEVER
        for at in self.agenda.timers:
            if at < nearest:
                nearest = at
        return nearest

    def on_timer(self, now: float) -> None:
        """Handle the timers that have expired, if any."""
        agenda = self.agenda
        if agenda.timers[DELAYED_ACK] <= now:
            self.rcv.delayed_ack_expired()
        if agenda.timers[REORDER] <= now:
            self.recovery.reorder_expired(now)
        if agenda.timers[PTO] <= now:
            self.recovery.probe_expired(now)
        if agenda.timers[RTO] <= now and not self._retransmit(now):
            self._time_out()
        if agenda.timers[PERSIST] <= now and not self.probing.persist_expired(now):
            self._time_out()
        if agenda.timers[KEEPALIVE] <= now and not self.probing.keepalive_expired(now):
            self._time_out()
        if agenda.timers[LINGER] <= now:
            # In SYN-RECEIVED the host's connect() has not answered.
            self.finish(TIMED_OUT, tell_host=self.state == SYN_RECEIVED, tell_guest=False)

    def _retransmit(self, now: float) -> bool:
        """The RTO timer expired. Returns False if the guest counts as dead and must be reset."""
        if self.state >= ESTABLISHED:
            return self.recovery.retransmission_timeout(self.probing.last_received_at, now)
        limit = self.cfg.syn_retries if self.is_active else self.cfg.synack_retries
        if self.opening.syn_retransmits >= limit:
            self.finish(TIMED_OUT, tell_host=True, tell_guest=False)
            return True
        self.opening.syn_timed_out()
        self.rtt.back_off()
        self.agenda.timers[RTO] = now + self.rtt.rto
        self.agenda.transmit_soon()
        return True

    def _time_out(self) -> None:
        """The guest is dead or unreachable: reset both sides."""
        self.finish(TIMED_OUT, tell_host=True, tell_guest=True)
