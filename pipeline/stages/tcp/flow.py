"""A connection of the tcp worker, and the guest that it belongs to.

A guest is a link here: a machine that makes up addresses is still one guest. A connection that the host
dials belongs to the guest that is dialled, from the start and also if that guest never answers.
"""

from typing import Final

from pipeline.engines.tcp.connection import Connection
from pipeline.engines.timing_wheel import TimingWheel
from pipeline.records.flows import FlowKey
from pipeline.stages.tcp.host_end import HostEnd

LINK_DOWN_REPORTERS: Final = 2
"""LINK_DOWN arrives once from ingress and once from demux, each after the link's last frame on that ring. The
guest is gone when both have arrived."""


class Guest:
    """What one guest has in this worker."""

    def __init__(self, link: int) -> None:
        self.link = link
        self.flows = 0
        self.gone = False
        """Whether no more frames of it come."""
        self.half_open: dict[Flow, None] = {}
        """Connections that the guest began and whose handshake it has not completed, the oldest first."""
        self.held_bytes = 0
        """Received in order and not yet taken by the host."""
        self.pressed = False
        """Whether held_bytes are so many that windows must shrink."""
        self._link_downs = 0
        self._syn_tokens = 0.0
        self._filled_at = float("-inf")

    def take_syn_token(self, rate: float, now: float) -> bool:
        """Whether the guest may begin a connection now, if it may begin ``rate`` a second."""
        tokens = min(rate, self._syn_tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if tokens < 1.0:
            self._syn_tokens = tokens
            return False
        self._syn_tokens = tokens - 1.0
        return True

    def link_down(self) -> bool:
        """Ingress or demux reports that the link is down. Returns whether both have."""
        self._link_downs += 1
        self.gone = self._link_downs >= LINK_DOWN_REPORTERS
        return self.gone

    def hold(self, count: int, pressed_at: int, all_pressed: bool) -> None:
        """count more bytes wait for hosts; fewer, if it is negative.

        pressed_at: with more bytes than this the guest is pressed. all_pressed: every guest is.
        """
        self.held_bytes += count
        self.pressed = all_pressed or self.held_bytes > pressed_at

    def join(self, flow: "Flow") -> None:
        """A connection of the guest begins, or comes here from a link that is gone."""
        self.flows += 1
        if flow.half_open:
            self.half_open[flow] = None

    def leave(self, flow: "Flow") -> None:
        """The connection is over, or goes to another link."""
        self.flows -= 1
        self.opened(flow)

    def opened(self, flow: "Flow") -> None:
        """The handshake of the connection is complete, or its end has come."""
        self.half_open.pop(flow, None)


class Flow:
    """A connection with what this worker keeps beside the engine's state."""

    def __init__(self, conn: Connection, key: FlowKey, guest: Guest, host: HostEnd) -> None:
        """The flow belongs to the guest when begin() is called."""
        self.conn = conn
        self.key = key
        self.guest = guest
        self.host = host
        self.half_open = not conn.is_active
        """Whether the guest began it and has not completed the handshake."""
        self.squeezed = False
        """Whether the receive window is limited because memory is short."""
        self.timer_at = float("inf")
        """When its timer is set for: at its deadline or before. Never armed again once it is negative."""

    # --- its guest --------------------------------------------------------------------------

    def begin(self) -> None:
        """The connection begins: it counts as one of its guest."""
        self.guest.join(self)

    def opened(self) -> None:
        """The handshake is complete."""
        self.half_open = False
        self.guest.opened(self)

    def move(self, guest: Guest) -> None:
        """The guest has come back on another link."""
        self.guest.leave(self)
        self.guest = guest
        guest.join(self)

    def end(self) -> None:
        """The connection is over: its guest has one less."""
        self.guest.leave(self)
        self.half_open = False

    # --- its receive window -----------------------------------------------------------------

    def squeeze(self, window: int, now: float) -> None:
        """Memory is short: the guest may not send more than ``window`` bytes ahead."""
        self.squeezed = True
        self.conn.set_receive_capacity(window, now)

    def unsqueeze(self, now: float) -> None:
        """Memory is there again."""
        self.squeezed = False
        self.conn.set_receive_capacity(self.conn.cfg.max_receive_window, now)

    # --- its timer --------------------------------------------------------------------------

    def arm(self, timers: "TimingWheel[Flow]") -> None:
        """Keep a timer at or before the engine's deadline. One that fires too early is set again."""
        at = self.conn.deadline()
        if at < self.timer_at:
            self.timer_at = at
            timers.schedule(self, at)

    def timer_fired(self) -> None:
        """The timer is not in the wheel any more."""
        self.timer_at = float("inf")

    def disarm(self, timers: "TimingWheel[Flow]") -> None:
        """Take the timer away for good, also if the connection is flushed once more in this step."""
        timers.cancel(self)
        self.timer_at = -1.0
