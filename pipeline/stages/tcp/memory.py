"""Limits the memory for bytes that guests have sent and no host has taken yet.

Receive windows shrink long before the memory is used up: each connection is offered a share of what is left.
When little is left, this module refuses data of connections that hold more than their share. The stage drops
such data, and with them the data that the connection holds after a hole. It still uses the rest of the
segment (ACK, window). A connection that holds less than FLOOR bytes goes on.
"""

from typing import Final

from pipeline.config.limits import Limits
from pipeline.engines.tcp.seq import diff
from pipeline.stages.tcp.flow import Flow, Guest

MIN_WINDOW: Final = 16384
"""The smallest receive window in bytes, however short memory is. It is two packets if those are more. Linux
sends into a window of less than a segment only when its probe timer fires."""
WINDOW_SHARE: Final = 8
"""A connection may hold 1/8 of the memory that is left."""
NEARLY_FULL_PART: Final = 8
"""When less than 1/8 of the memory is left, even data within the offered window are refused."""
FLOOR: Final = 4096
"""Bytes that a connection may hold even if no memory is left, as with tcp_rmem of Linux. Without it,
connections whose hosts do not read would also stop those whose hosts do."""


class ReceiveMemory:
    """The receive memory of one tcp worker, and each guest's part of it."""

    def __init__(self, limits: Limits, mtu: int) -> None:
        self.held_bytes = 0
        """Bytes of all guests that no host has taken."""
        self._max_bytes = limits.max_receive_memory
        self._max_guest_bytes = min(limits.max_receive_memory_per_guest, limits.max_receive_memory)
        self._min_window = max(MIN_WINDOW, 2 * mtu)
        self._pressed_at = self._max_bytes // 2
        self._guest_pressed_at = self._max_guest_bytes // 4

    def set_limits(self, limits: Limits) -> None:
        """Change the limits. Bytes beyond lower ones stay until their hosts take them."""
        self._max_bytes = limits.max_receive_memory
        self._max_guest_bytes = min(limits.max_receive_memory_per_guest, limits.max_receive_memory)
        self._pressed_at = self._max_bytes // 2
        self._guest_pressed_at = self._max_guest_bytes // 4

    @property
    def all_pressed(self) -> bool:
        """Whether every guest's windows shrink."""
        return self.held_bytes > self._pressed_at

    def charge(self, flow: Flow, count: int, now: float) -> None:
        """count more bytes of the connection wait for the host. Its window shrinks if memory is short."""
        guest = flow.guest
        self._hold(guest, count)
        if guest.pressed:
            flow.squeeze(self._window(guest), now)

    def taken(self, flow: Flow, count: int, now: float) -> None:
        """The host took count bytes of the connection. Its window may grow again."""
        guest = flow.guest
        self._hold(guest, -count)
        if flow.squeezed:
            if guest.pressed:
                flow.squeeze(self._window(guest), now)
            else:
                flow.unsqueeze(now)

    def release(self, flow: Flow) -> None:
        """The connection has ended, and its bytes do not wait any more."""
        self._hold(flow.guest, -flow.conn.rcv_untaken)

    def move(self, flow: Flow, to: Guest) -> None:
        """Count the bytes that the connection holds for another guest."""
        self._hold(flow.guest, -flow.conn.rcv_untaken)
        self._hold(to, flow.conn.rcv_untaken)

    def fits(self, flow: Flow, seq: int, length: int) -> int:
        """Of length bytes from the sequence number seq on, return how many can be kept."""
        left_to_guest, left = self._left(flow.guest)
        if (
            left_to_guest * NEARLY_FULL_PART > self._max_guest_bytes
            and left * NEARLY_FULL_PART > self._max_bytes
        ):
            return length
        conn = flow.conn
        room = max(min(left_to_guest, left) // WINDOW_SHARE, FLOOR) - conn.rcv_untaken
        # Bytes that were received before need no memory. Their sender waits for an ACK.
        before = diff(conn.rcv_nxt, seq)
        return max(0, min(length, before + max(room, 0)))

    def _hold(self, guest: Guest, count: int) -> None:
        self.held_bytes += count
        guest.hold(count, self._guest_pressed_at, self.held_bytes > self._pressed_at)

    def _window(self, guest: Guest) -> int:
        return max(min(self._left(guest)) // WINDOW_SHARE, self._min_window)

    def _left(self, guest: Guest) -> tuple[int, int]:
        """How many more bytes this guest may hold, and how many more all guests together may hold."""
        return self._max_guest_bytes - guest.held_bytes, self._max_bytes - self.held_bytes
