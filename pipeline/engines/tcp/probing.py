"""Window probes and keep-alives: segments that are sent only to make the peer answer.

RFC 9293 section 3.8.6.1 (a window that is closed, or too small to use), RFC 1122 section 4.2.3.6
(keep-alive). A probe has a sequence number before the peer's window, so that the peer must answer (RFC 9293
section 3.8.4).
"""

from pipeline.engines.tcp.agenda import Agenda
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.rto import RttEstimator
from pipeline.engines.tcp.sender import Sender
from pipeline.engines.tcp.timers import KEEPALIVE, NEVER, PERSIST


class Probing:
    """Keeps the time of the peer's last segment, and the number of unanswered probes since then."""

    __slots__ = (
        "_agenda",
        "_cfg",
        "_keepalive_at",
        "_keepalive_count",
        "_rtt",
        "_snd",
        "_unanswered",
        "force_send",
        "last_received_at",
        "persist_backoff",
        "probe_due",
    )

    def __init__(self, cfg: TcpConfig, agenda: Agenda, snd: Sender, rtt: RttEstimator, now: float) -> None:
        self._cfg = cfg
        self._agenda = agenda
        self._snd = snd
        self._rtt = rtt
        self.last_received_at = now
        self.probe_due = False
        """The next transmit() sends a segment outside the peer's window."""
        self.force_send = False
        """The next transmit() sends data even if the window is small (override of silly-window avoidance)."""
        self.persist_backoff = 0
        self._unanswered = 0
        """Window probes since the peer's last segment."""
        self._keepalive_at = 0.0
        self._keepalive_count = 0

    def heard(self, now: float) -> None:
        """An acceptable segment arrived: the peer lives."""
        self.last_received_at = now
        self._unanswered = 0

    def start_keepalive(self, now: float) -> None:
        """The connection is established."""
        self.last_received_at = now
        if self._cfg.keepalive:
            self._agenda.timers[KEEPALIVE] = now + self._cfg.keepalive_idle

    def data_sent(self) -> None:
        """New data have left, so the window is open."""
        self.force_send = False
        self.persist_backoff = 0
        self._agenda.timers[PERSIST] = NEVER

    def data_wait(self, now: float) -> None:
        """Data wait for the window, and no ACK that could open it will come: start the persist timer."""
        timers = self._agenda.timers
        if timers[PERSIST] == NEVER:
            timers[PERSIST] = now + self._rtt.backed_off(self.persist_backoff)

    def probe_sent(self) -> None:
        """transmit() sends the probe, or data in its place."""
        self.probe_due = False

    def stop(self) -> None:
        """The connection is over: send nothing."""
        self.probe_due = False

    def persist_expired(self, now: float) -> bool:
        """Probe at growing intervals, as long as the peer answers. Returns False if it counts as dead."""
        self._unanswered += 1
        if self._unanswered > self._cfg.retries:
            return False
        self.persist_backoff += 1
        self._agenda.timers[PERSIST] = now + self._rtt.backed_off(self.persist_backoff)
        snd = self._snd
        if snd.snd_una + snd.snd_wnd > snd.snd_nxt:
            self.force_send = True
        else:
            self.probe_due = True
        self._agenda.transmit_soon()
        return True

    def keepalive_expired(self, now: float) -> bool:
        """Probe, but only while idle: data in flight and window probes have their own limits.

        Returns False if the peer counts as dead.
        """
        cfg = self._cfg
        timers = self._agenda.timers
        if self.last_received_at >= self._keepalive_at:
            # Equal times count as an answer: the clock may not have moved since the probe.
            self._keepalive_count = 0
        idle_at = self.last_received_at + cfg.keepalive_idle
        if self._snd.snd_nxt > self._snd.snd_una or timers[PERSIST] != NEVER:
            timers[KEEPALIVE] = now + cfg.keepalive_idle
            return True
        if self._keepalive_count == 0 and now < idle_at:
            timers[KEEPALIVE] = idle_at
            return True
        if self._keepalive_count >= cfg.keepalive_probes:
            return False
        self._keepalive_count += 1
        self._keepalive_at = now
        timers[KEEPALIVE] = now + cfg.keepalive_interval
        self.probe_due = True
        self._agenda.transmit_soon()
        return True
