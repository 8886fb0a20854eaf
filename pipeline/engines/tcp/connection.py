"""One TCP connection with a guest, without IO: segments and time in, actions and ranges out.

The guest is the peer; the other side of the connection is a host socket that the stage works
through actions. Entry points are RFC 9293 section 3.10's: the user calls (on_host_*, on_taken),
SEGMENT ARRIVES (on_segment) and the time-outs (on_timer); each takes ``now``, monotonic
seconds. After any of them the stage looks at three things: ``take_actions()``, ``deadline()``,
and, while ``wants_transmit`` and its ring has room, ``transmit()`` (once for a whole burst of
segments; it may add actions). Nothing here raises for anything a guest can send.

Life of a connection:

    passive(): the guest's SYN arrived. Connect. No answer yet.
        on_connected()       SYN-ACK; Established(active=False) when the guest acknowledges it
        on_connect_failed()  reset (or silence), Gone
    active(): the host wants to reach the guest. SYN; Established(active=True), or
        HostReset, Gone. Data may be queued from the start.
    then Deliver, Release, Discard until both FINs have passed (HostShutdown tells of the
    guest's) or HostReset; always Gone at the end. In TIME-WAIT no handle is held, so the
    stage may delete the connection early when it needs room.
"""

from typing import Self

from pipeline.engines.tcp import arrival, closing, handshake, icmp_errors, rack, receive, recovery, send
from pipeline.engines.tcp.actions import CONNECT, GONE, Action, Discard, Outgoing, Release
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.state import (
    CLOSE_WAIT,
    CLOSED,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    LAST_ACK,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
    Tcb,
)
from pipeline.engines.tcp.timers import DELAYED_ACK, KEEPALIVE, LINGER, NEVER, PERSIST, PTO, REORDER, RTO

reset_for = closing.reset_for
opens = closing.opens


class Connection(Tcb):
    """See the module's docstring. ``state`` is one of state.py's numbers."""

    __slots__ = ()

    @classmethod
    def passive(cls, cfg: TcpConfig, syn: Segment, iss: int, now: float) -> Self:
        """A guest's SYN (opens(syn.flags)) becomes a connection in SYN-RECEIVED; adds Connect."""
        c = cls(cfg, SYN_RECEIVED, False, iss, now)
        if syn.buf is not None:
            c.actions.append(Discard(syn.buf))
        handshake.accept_syn(c, syn, now)
        c.timers[LINGER] = now + cfg.connect_timeout
        c.actions.append(CONNECT)
        return c

    @classmethod
    def active(cls, cfg: TcpConfig, iss: int, now: float) -> Self:
        """Open towards the guest: SYN-SENT, the SYN leaves with the next transmit()."""
        c = cls(cfg, SYN_SENT, True, iss, now)
        c.syn_due = c.wants_transmit = True
        return c

    # --- the host side ------------------------------------------------------------

    def on_connected(self, now: float) -> None:
        """The host connection stands: answer the guest's SYN."""
        if self.state == SYN_RECEIVED and not self.host_connected:
            self.host_connected = True
            self.timers[LINGER] = NEVER
            self.syn_due = self.wants_transmit = True

    def on_connect_failed(self, now: float, reset: bool = True) -> None:
        """The host connection failed. reset: tell the guest (refused); otherwise the stage may (ICMP)."""
        if self.state == SYN_RECEIVED and not self.host_connected:
            closing.finish(self, tell_host=False, tell_guest=reset)

    def on_host_data(self, buf: object, off: int, length: int, now: float) -> None:
        """Queue bytes [off, off + length) of buf for the guest; buf comes back in a Release."""
        if length <= 0 or self.fin_queued or self.state in (CLOSED, TIME_WAIT):
            self.actions.append(Release(buf))
            return
        end = self.queue_end + length
        self.chunks.append((self.queue_end, end, buf, off))
        self.queue_end = self.send_end = end
        if self.state >= ESTABLISHED:
            self.wants_transmit = True

    def on_host_eof(self, now: float) -> None:
        """The host will send no more (CLOSE, RFC 9293 3.10.4): FIN behind the queued data."""
        if self.fin_queued or self.state in (CLOSED, TIME_WAIT):
            return
        self.fin_queued = True
        self.send_end = self.queue_end + 1
        if self.state == ESTABLISHED:
            self.state = FIN_WAIT_1
        elif self.state == CLOSE_WAIT:
            self.state = LAST_ACK
        else:
            return
        self.wants_transmit = True

    def on_host_closed(self, now: float) -> None:
        """The host side is gone in both directions, in order: FIN, and nobody reads from the guest.

        Data that arrive from now on are answered with a reset; FIN-WAIT-2 is limited in time.
        """
        self.on_host_eof(now)
        self.host_closed = True
        if self.state == FIN_WAIT_2:
            self.timers[LINGER] = now + self.cfg.fin_wait_2

    def forget_out_of_order(self) -> None:
        """Give back what waits for missing bytes (RFC 2018 section 8: reneging); the guest sends it again."""
        self.actions.extend(Discard(buf) for buf in self.reassembly.clear())

    def holds_bytes(self) -> bool:
        """Whether it keeps handles: of bytes that are not acknowledged, or that came out of order."""
        return bool(self.chunks or self.reassembly.ranges)

    def on_guest_gone(self, now: float) -> None:
        """Nobody is where the guest was: reset the host. Nothing is sent."""
        closing.finish(self, tell_host=True, tell_guest=False)

    def on_host_reset(self, now: float) -> None:
        """The host connection was reset, or the stage gives up (ABORT, RFC 9293 3.10.5): reset the guest."""
        closing.finish(self, tell_host=False, tell_guest=True)

    def on_taken(self, n: int, now: float) -> None:
        """The host took n more of the delivered bytes."""
        if self.state < ESTABLISHED:
            return
        receive.taken(self, n)

    def set_receive_capacity(self, n: int, now: float) -> None:
        """Bound the bytes this connection may hold for the host to n from now on.

        What was shown to the guest stays promised: a smaller bound takes effect as data arrive.
        """
        ceiling = 65535 << self.rcv_wind_shift if self.state >= SYN_RECEIVED else self.cfg.max_receive_window
        self.rcv_limit = max(0, min(n, ceiling, self.cfg.max_receive_window))
        if self.rcv_capacity > self.rcv_limit:
            self.rcv_capacity = self.rcv_limit
        elif self.rcv_capacity < self.cfg.initial_receive_window:
            self.rcv_capacity = min(self.cfg.initial_receive_window, self.rcv_limit)
        if self.state >= ESTABLISHED:
            receive.taken(self, 0)

    # --- the guest's side -----------------------------------------------------------

    def on_segment(self, seg: Segment, now: float) -> str | None:
        """A range or segment of the guest arrived; its handle ends in Deliver or Discard.

        Returns the name of a drop counter when the segment, or its data, were not used.
        """
        state = self.state
        if state >= SYN_RECEIVED:
            return arrival.segment_arrives(self, seg, now)
        if seg.buf is not None:
            self.actions.append(Discard(seg.buf))
        if state == SYN_SENT:
            return handshake.syn_arrived_in_syn_sent(self, seg, now)
        return "tcp_segment_dropped_closed"

    def on_fragmentation_needed(self, seq: int, mtu: int, now: float) -> str | None:
        """A router dropped a segment of ours that began with the number seq: it takes mtu bytes (RFC 1191).

        Returns the name of a counter when that was not believed, or told nothing new.
        """
        return icmp_errors.fragmentation_needed(self, seq, mtu)

    def on_unreachable(self, seq: int, hard: bool, now: float) -> str | None:
        """A segment of ours that began with seq did not arrive. hard: nor will it ever; else that may pass.

        Returns the name of a counter, or None when it ended the connection (only in SYN-SENT).
        """
        return icmp_errors.unreachable(self, seq, hard)

    def accepts_reuse(self, seg: Segment) -> bool:
        """Whether a SYN for this 4-tuple may open a new connection here (TIME-WAIT, or this one is over)."""
        return closing.accepts_reuse(self, seg)

    def transmit(self, now: float, max_ranges: int) -> list[Outgoing]:
        """What may leave now, at most max_ranges entries; wants_transmit stays set if there is more."""
        out: list[Outgoing] = []
        if max_ranges <= 0:
            return out
        if self.resets:
            out.append(self.resets.pop())
            if self.state == CLOSED:
                self.actions.append(GONE)
                self.wants_transmit = False
            return out
        if self.state >= ESTABLISHED:
            send.transmit(self, now, max_ranges, out)
            return out
        self.wants_transmit = False
        if self.syn_due:
            out.append(handshake.syn_segment(self, now))
        elif self.ack_now and self.snd_nxt > self.iss:
            # A challenge ACK in SYN-RECEIVED.
            send.transmit(self, now, max_ranges, out)
        return out

    def take_actions(self) -> list[Action]:
        """The actions since the last call, in order."""
        actions = self.actions
        if actions:
            self.actions = []
        return actions

    # --- time -------------------------------------------------------------------------

    def deadline(self) -> float:
        """When on_timer wants to be called next; infinity when nothing is pending."""
        return min(self.timers)

    def on_timer(self, now: float) -> None:
        """Do what is due at now; harmless when nothing is."""
        timers = self.timers
        if timers[DELAYED_ACK] <= now:
            receive.delayed_ack_expired(self)
        if timers[REORDER] <= now:
            recovery.reorder_expired(self, now)
        if timers[PTO] <= now:
            rack.probe_expired(self, now)
        if timers[RTO] <= now:
            self._retransmission_expired(now)
        if self.timers[PERSIST] <= now:
            self._persist_expired(now)
        if self.timers[KEEPALIVE] <= now:
            self._keepalive_expired(now)
        if self.timers[LINGER] <= now:
            self._linger_expired()

    def _retransmission_expired(self, now: float) -> None:
        if self.state >= ESTABLISHED:
            if not recovery.retransmission_timeout(self, now):
                self._time_out()
            return
        limit = self.cfg.syn_retries if self.is_active else self.cfg.synack_retries
        if self.syn_retransmits >= limit:
            closing.finish(self, tell_host=True, tell_guest=False)
            return
        self.syn_retransmits += 1
        self.rtt.back_off()
        self.timers[RTO] = now + self.rtt.rto
        self.syn_due = self.wants_transmit = True

    def _persist_expired(self, now: float) -> None:
        """RFC 9293 3.8.6.1: probe at growing intervals, for ever while the guest answers."""
        self.probes_unanswered += 1
        if self.probes_unanswered > self.cfg.retries:
            self._time_out()
            return
        self.persist_backoff += 1
        self.timers[PERSIST] = now + self.rtt.backed_off(self.persist_backoff)
        if self.snd_una + self.snd_wnd > self.snd_nxt:
            self.force_send = True
        else:
            self.probe_due = True
        self.wants_transmit = True

    def _keepalive_expired(self, now: float) -> None:
        """RFC 1122 4.2.3.6: only while idle; data in flight and window probes have their own limits."""
        cfg = self.cfg
        if self.last_received_at >= self.keepalive_at:
            # Also at the very time of the probe: an answer may come in the same turn of the clock.
            self.keepalive_count = 0
        idle_at = self.last_received_at + cfg.keepalive_idle
        if self.snd_nxt > self.snd_una or self.timers[PERSIST] != NEVER:
            self.timers[KEEPALIVE] = now + cfg.keepalive_idle
            return
        if self.keepalive_count == 0 and now < idle_at:
            self.timers[KEEPALIVE] = idle_at
            return
        if self.keepalive_count >= cfg.keepalive_probes:
            self._time_out()
            return
        self.keepalive_count += 1
        self.keepalive_at = now
        self.timers[KEEPALIVE] = now + cfg.keepalive_interval
        self.probe_due = self.wants_transmit = True

    def _linger_expired(self) -> None:
        if self.state == SYN_RECEIVED:
            # The host side never answered at all.
            closing.finish(self, tell_host=True, tell_guest=False)
        else:
            closing.finish(self, tell_host=False, tell_guest=False)

    def _time_out(self) -> None:
        """The guest is dead or unreachable; tell both sides."""
        closing.finish(self, tell_host=True, tell_guest=True)
