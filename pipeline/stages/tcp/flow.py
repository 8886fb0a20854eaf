"""One TCP connection of the tcp worker (Flow), its link (GuestLink), and its guest (Guest).

A guest is a peer that opened links (pipeline.system.peer): a machine that uses many addresses or links is
still one guest. A connection from the host belongs to the guest that is dialled, even before this guest
answers.
"""

from heapq import nsmallest
from typing import Final

from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.time_wait import TimeWait
from pipeline.engines.timing_wheel import TimingWheel
from pipeline.records.dials import NO_CLIENT, Client
from pipeline.records.flows import FlowKey
from pipeline.records.run import Run
from pipeline.stages.tcp.host_end import HostEnd

FROM_DEMUX: Final = 1
FROM_INGRESS: Final = 2
"""Who reports links. LINK_UP comes from both, before all records about the link on that ring, and LINK_DOWN
after them. The link is gone when each that reported its LINK_UP has reported its LINK_DOWN, or has died."""

NOT_YET: Final = -1.0
FIRST_TIMER_S: Final = 0.04
"""The first timer of a connection fires this many seconds after its start, even if the engine's deadline is
later. The deadlines of a handshake and the delayed ACK of a request come closer step by step, and each step
would set the timer again. Most short connections end before this time."""
CANDIDATES: Final = 32
"""Connections that one look finds. With a look for each, a guest could make another one's loss costly."""


class Guest:
    """The connections and the memory of one guest in this worker."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.links = 0
        """Links that this worker knows. A guest without links is gone."""
        self.flows: dict[Flow, None] = {}
        """All its connections, oldest first."""
        self.half_open: dict[Flow, None] = {}
        """Connections that the guest began and whose handshake is not complete, oldest first."""
        self.held_bytes = 0
        """Bytes received in order that the host has not taken yet."""
        self.pressed = False
        """Whether its receive windows must shrink, because too many bytes are held."""
        self._silent: list[Flow] = []
        """Some of its connections, the one that is silent for longest last. See longest_silent()."""
        self._syn_tokens = 0.0
        self._filled_at = float("-inf")

    def take_syn_token(self, rate: float, now: float) -> bool:
        """Whether the guest may begin a connection now. rate: connections a second (a token bucket)."""
        tokens = min(rate, self._syn_tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if tokens < 1.0:
            self._syn_tokens = tokens
            return False
        self._syn_tokens = tokens - 1.0
        return True

    def hold(self, count: int, pressed_at: int, all_pressed: bool) -> None:
        """count more bytes wait for hosts. A negative count means fewer.

        pressed_at: with more bytes than this the guest is pressed. all_pressed: every guest is pressed.
        """
        self.held_bytes += count
        self.pressed = all_pressed or self.held_bytes > pressed_at

    def join(self, flow: "Flow") -> None:
        """A connection of this guest begins, or moves here from a guest that is gone."""
        self.flows[flow] = None
        if flow.half_open:
            self.half_open[flow] = None

    def leave(self, flow: "Flow") -> None:
        """A connection has ended, or moves to another guest."""
        self.flows.pop(flow, None)
        self.opened(flow)

    def opened(self, flow: "Flow") -> None:
        """A connection is not half-open any more: its handshake is complete, or it has ended."""
        self.half_open.pop(flow, None)

    def longest_silent(self) -> "Flow | None":
        """The connection from which the guest has sent nothing for longest; None if it has none.

        A look at all of them finds CANDIDATES. Later calls use these up, unless they have sent since.
        """
        while self._silent:
            flow = self._silent.pop()
            if flow in self.flows and flow.conn.last_received_at == flow.silent_since:
                return flow
        found = nsmallest(CANDIDATES, self.flows, key=_last_received_at)
        for flow in found:
            flow.silent_since = flow.conn.last_received_at
        self._silent = found[:0:-1]
        return found[0] if found else None


class GuestLink:
    """A link of a guest. A guest that comes back has another one."""

    def __init__(self, number: int, guest: Guest) -> None:
        self.number = number
        self.guest = guest
        self.gone = False
        """Whether the link is down, so that no more frames come."""
        self._reporters = 0
        """Those for whom the link is up."""

    def up(self, reporter: int) -> None:
        """FROM_DEMUX or FROM_INGRESS reports that the link is up."""
        self._reporters |= reporter

    def down(self, reporters: int) -> bool:
        """The link is down for these reporters. Returns whether it is up for none."""
        self._reporters &= ~reporters
        return not self._reporters

    def leave(self) -> None:
        """The link is down, and its guest is gone."""
        self.gone = True


class Flow:
    """A connection: the engine's state, and what this worker keeps for it."""

    def __init__(
        self,
        conn: Connection,
        key: FlowKey,
        link: GuestLink,
        host: HostEnd,
        now: float,
        client: Client = NO_CLIENT,
    ) -> None:
        """The flow counts for its guest from begin() on. client: of a connection that the host opens."""
        self.began_at = now
        self.connected_at = NOT_YET
        """When the end that did not begin the connection had answered."""
        self.packets_from_guest = 0
        self.packets_to_guest = 0
        self.client = client
        self.errno = 0
        """Why the host socket could not connect."""
        self.refused = False
        """Whether egress refused the connection, and has reported that."""
        self.established = False
        """Whether the handshake was ever complete."""
        self.conn: Connection | TimeWait = conn
        """A TimeWait takes the place of the Connection when that has sent its last ACK."""
        self.key = key
        self.link = link
        self.guest = link.guest
        self.host = host
        self.half_open = not conn.is_active
        """Whether the guest began the connection and has not completed the handshake."""
        self.squeezed = False
        """Whether the receive window is limited because memory is short."""
        self.timer_at = float("inf")
        """The time of its entry in the timing wheel, at or before the deadline; negative after disarm()."""
        self._first_timer_at = now + FIRST_TIMER_S
        """No timer is set later than this. Infinite after the first one has fired."""
        self.silent_since = 0.0
        """When the guest had last sent something, at the last look of Guest.longest_silent()."""

    def slots_held(self) -> list[int]:
        """The slots to which the engine holds references, one entry for each reference."""
        conn = self.conn
        found: list[int] = []
        if isinstance(conn, TimeWait):
            return found
        for handle in conn.handles():
            if isinstance(handle, Run):
                found.append(handle.slot)
            elif isinstance(handle, int):
                found.append(handle)
        return found

    # --- its packets -------------------------------------------------------------------------

    def received(self, segments: int) -> None:
        """The guest sent a run of this many segments."""
        self.packets_from_guest += segments

    def sent(self, segments: int) -> None:
        """Ingress will cut what was sent now into this many segments."""
        self.packets_to_guest += segments

    # --- its guest --------------------------------------------------------------------------

    def begin(self) -> None:
        """Count the connection as one of its guest."""
        self.guest.join(self)

    def connected(self, now: float) -> None:
        """The host has answered, of a connection that the guest began."""
        self.connected_at = now

    def connect_failed(self, error: int, refused: bool) -> None:
        """The host socket could not connect, for this errno. refused: egress did not try."""
        self.errno = error
        self.refused = refused

    def opened(self, now: float) -> None:
        """The handshake is complete."""
        self.established = True
        if self.connected_at == NOT_YET:
            self.connected_at = now
        self.half_open = False
        self.guest.opened(self)

    def move(self, link: GuestLink) -> None:
        """The guest has come back on another link, and the connection goes on there."""
        self.guest.leave(self)
        self.link = link
        self.guest = link.guest
        self.guest.join(self)
        self.host.guest_moved(self.guest.number)

    def end(self) -> None:
        """Stop counting the connection for its guest."""
        self.guest.leave(self)
        self.half_open = False

    def reset(self, now: float, end: int) -> None:
        """The host socket was reset, or somebody ends the connection. end: why (engines.tcp.ending)."""
        conn = self.conn
        if isinstance(conn, TimeWait):
            conn.finish()
        else:
            conn.on_host_reset(now, end)

    def guest_gone(self, now: float) -> None:
        """The guest is gone, so the connection ends without a word to it."""
        conn = self.conn
        if isinstance(conn, TimeWait):
            conn.finish()
        else:
            conn.on_guest_gone(now)

    def rest(self, timers: "TimingWheel[Flow]") -> None:
        """See Connections.rest. Does nothing if it was done before."""
        conn = self.conn
        if isinstance(conn, Connection):
            self.conn = TimeWait(conn)
            self.squeezed = False
            self.disarm(timers)

    # --- its receive window -----------------------------------------------------------------

    def squeeze(self, window: int, now: float) -> None:
        """Limit the receive window to ``window`` bytes, because memory is short."""
        conn = self.conn
        if isinstance(conn, Connection):
            self.squeezed = True
            conn.set_receive_capacity(window, now)

    def unsqueeze(self, now: float) -> None:
        """Remove the limit of squeeze()."""
        conn = self.conn
        self.squeezed = False
        if isinstance(conn, Connection):
            conn.set_receive_capacity(conn.cfg.max_receive_window, now)

    # --- its timer --------------------------------------------------------------------------

    def arm(self, timers: "TimingWheel[Flow]") -> None:
        """Keep a timer at or before the engine's deadline. A timer that fires early is set again."""
        at = self.conn.deadline()
        if at < self.timer_at:
            self.timer_at = at = min(at, self._first_timer_at)
            timers.schedule(self, at)

    def timer_fired(self) -> None:
        """The timer has fired, and is not in the wheel any more."""
        self.timer_at = self._first_timer_at = float("inf")

    def disarm(self, timers: "TimingWheel[Flow]") -> None:
        """Remove the timer for good. A later flush in this step does not arm it again."""
        timers.cancel(self)
        self.timer_at = -1.0


def _last_received_at(flow: Flow) -> float:
    return flow.conn.last_received_at
