"""Memory for bytes of guests that no host has taken yet.

Receive windows shrink long before the memory is used up: each connection is offered a share of what is
left. Near the end, data of connections that hold more than such a share are dropped, and with them what
those connections hold after a hole. The rest of such a segment is used. A connection that holds next to
nothing goes on.
"""

from typing import Final

from pipeline.config.limits import Limits
from pipeline.engines.tcp.seq import diff
from pipeline.stages.tcp.flow import Flow, Guest

MIN_WINDOW: Final = 16384
"""Bytes that a connection is offered however short memory is, or two packets if those are more. Linux sends
into a window of less than a segment only when its probe timer fires."""
WINDOW_SHARE: Final = 8
"""A connection may hold this part of the memory that is left."""
NEARLY_FULL_PART: Final = 8
"""With less than this part of the memory left, the share holds for bytes promised before too."""
FLOOR: Final = 4096
"""Bytes that a connection may hold even where nothing is left, as in tcp_rmem of Linux. Without it,
connections whose hosts do not read would stop all others, whose hosts do."""


class ReceiveMemory:
    """The memory of one tcp worker, and each guest's part of it."""

    def __init__(self, limits: Limits, mtu: int) -> None:
        self.held_bytes = 0
        """Of all guests."""
        self._max_bytes = limits.max_receive_memory
        self._max_guest_bytes = min(limits.max_receive_memory_per_guest, limits.max_receive_memory)
        self._min_window = max(MIN_WINDOW, 2 * mtu)
        self._pressed_at = self._max_bytes // 2
        self._guest_pressed_at = self._max_guest_bytes // 4

    def charge(self, flow: Flow, count: int, now: float) -> None:
        """count more bytes wait for the host. Under pressure the connection's window shrinks."""
        guest = flow.guest
        self._hold(guest, count)
        if guest.pressed:
            flow.squeeze(self._window(guest), now)

    def taken(self, flow: Flow, count: int, now: float) -> None:
        """The host took count bytes of a connection, whose window may grow again."""
        guest = flow.guest
        self._hold(guest, -count)
        if flow.squeezed:
            if guest.pressed:
                flow.squeeze(self._window(guest), now)
            else:
                flow.unsqueeze(now)

    def release(self, flow: Flow) -> None:
        """The connection is over, and with it what it held."""
        self._hold(flow.guest, -flow.conn.rcv_untaken)

    def move(self, flow: Flow, to: Guest) -> None:
        """What the connection holds will count for another guest."""
        self._hold(flow.guest, -flow.conn.rcv_untaken)
        self._hold(to, flow.conn.rcv_untaken)

    def fits(self, flow: Flow, seq: int, length: int) -> int:
        """How many of length bytes from the sequence number seq on can be kept."""
        left_to_guest, left = self._left(flow.guest)
        if (
            left_to_guest * NEARLY_FULL_PART > self._max_guest_bytes
            and left * NEARLY_FULL_PART > self._max_bytes
        ):
            return length
        conn = flow.conn
        room = max(min(left_to_guest, left) // WINDOW_SHARE, FLOOR) - conn.rcv_untaken
        # Bytes that came before need no room, and their sender waits for an answer.
        before = diff(conn.rcv_nxt, seq)
        return max(0, min(length, before + max(room, 0)))

    def _hold(self, guest: Guest, count: int) -> None:
        self.held_bytes += count
        guest.hold(count, self._guest_pressed_at, self.held_bytes > self._pressed_at)

    def _window(self, guest: Guest) -> int:
        return max(min(self._left(guest)) // WINDOW_SHARE, self._min_window)

    def _left(self, guest: Guest) -> tuple[int, int]:
        """Bytes that the guest, and that all guests together may still hold."""
        return self._max_guest_bytes - guest.held_bytes, self._max_bytes - self.held_bytes
