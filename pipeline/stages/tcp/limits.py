"""What the connections of one tcp worker may take, in all and for each guest.

A guest is a link here: a machine that makes up addresses is still one guest. A connection that the host
dials belongs to the guest it is dialled to from the start, also to one that never answers.

=====================  =====================================================================
of                     when it is used up
=====================  =====================================================================
SYNs a second          the SYN is dropped; an honest guest sends it again
sockets of egress      the oldest half-open connection makes room (egress closes what is idle first)
half-open connections  the guest's oldest one makes room
connections            the oldest in TIME-WAIT makes room (of the guest, or of anybody), else the oldest that
                       is half-open, else the SYN is dropped; the host's client of a forwarded port is reset
received bytes that    windows shrink long before (a share of what is left); near the end, data of
 no host has taken     connections that hold more than such a share are dropped, while what else
                       the segment says is used, and what they hold behind a hole goes with
                       them. One that holds next to nothing goes on.
out-of-order slots     the guest that holds most of them loses the oldest such data (RFC 2018
 and references        section 8 allows it), and sends them again
=====================  =====================================================================
"""

from typing import Final, Generic, Protocol, TypeVar

from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.seq import diff
from pipeline.engines.tcp.state import SYN_RECEIVED

TOO_MANY_FLOWS: Final = "tcp_syn_dropped_too_many_flows"
TOO_MANY_FLOWS_OF_GUEST: Final = "tcp_syn_dropped_too_many_flows_of_guest"
SYN_RATE: Final = "tcp_syn_dropped_rate_limit"

SAYERS: Final = 2
"""Who says that a link is down, each behind the last frame of it that comes that way: ingress and demux."""
MIN_WINDOW: Final = 16384
"""Bytes that a connection is shown however short memory is, or two packets if those are more: Linux sends
into a window of less than a segment only when its probe timer says so."""
WINDOW_SHARE: Final = 8
"""A connection may hold this part of the memory that is left."""
NEARLY_FULL_PART: Final = 8
"""With less than this part of the memory left, the share holds for bytes promised before too."""
FLOOR: Final = 4096
"""Bytes that a connection may hold even where nothing is left, as tcp_rmem of Linux has it: else those that
hosts do not read, for as long as they like, would stop all others, whose hosts do."""


class Guest:
    """What one guest has."""

    __slots__ = (
        "downs", "filled_at", "flows", "gone", "half_open", "held_bytes", "link", "pressed", "tokens",
    )  # fmt: skip

    def __init__(self, link: int) -> None:
        self.link = link
        self.flows = 0
        self.downs = 0
        """How many of those who see its frames have said that its link is down."""
        self.gone = False
        """Whether all of them have, so that no more frames come."""
        self.half_open: dict[LimitedFlow, None] = {}
        """Connections that the guest began and whose handshake it has not completed, the oldest first."""
        self.held_bytes = 0
        """Received in order and not yet taken by the host."""
        self.pressed = False
        """Whether held_bytes are so many that windows must shrink."""
        self.tokens = 0.0
        self.filled_at = float("-inf")


class LimitedFlow(Protocol):
    """What is kept at a flow of the stage."""

    conn: Connection
    guest: Guest
    half_open: bool
    host_open: bool
    egress: int
    squeezed: bool
    held_ranges: int


F = TypeVar("F", bound=LimitedFlow)


class FlowLimits(Protocol):
    """The rows of pipeline.limits that count here."""

    @property
    def max_tcp_flows(self) -> int: ...
    @property
    def max_tcp_flows_per_guest(self) -> int: ...
    @property
    def max_half_open_per_guest(self) -> int: ...
    @property
    def max_syns_per_second(self) -> int: ...
    @property
    def max_receive_memory(self) -> int: ...
    @property
    def max_receive_memory_per_guest(self) -> int: ...
    @property
    def mtu(self) -> int: ...


class Guests:
    """All guests of one tcp worker."""

    def __init__(self, limits: FlowLimits) -> None:
        self._limits = limits
        self._guests: dict[int, Guest] = {}
        self.flows = 0
        self.held_bytes = 0
        self._max_bytes = limits.max_receive_memory
        self._max_guest_bytes = min(limits.max_receive_memory_per_guest, limits.max_receive_memory)
        self._min_window = max(MIN_WINDOW, 2 * limits.mtu)
        self._pressed_at = self._max_bytes // 2
        self._guest_pressed_at = self._max_guest_bytes // 4

    def get(self, link: int) -> Guest:
        """The guest behind a link."""
        guest = self._guests.get(link)
        if guest is None:
            guest = self._guests[link] = Guest(link)
        return guest

    def known(self, link: int) -> Guest:
        """The same without remembering a guest that has nothing: its link may be gone already."""
        return self._guests.get(link) or Guest(link)

    def __len__(self) -> int:
        return len(self._guests)

    # --- connections ----------------------------------------------------------------------

    def refuses_syn(self, guest: Guest, now: float) -> str:
        """The counter of the limit on SYNs that one of the guest meets, "" if none: then ask full()."""
        limits = self._limits
        rate = limits.max_syns_per_second
        guest.tokens = min(float(rate), guest.tokens + (now - guest.filled_at) * rate)
        guest.filled_at = now
        if guest.tokens < 1.0:
            return SYN_RATE
        guest.tokens -= 1.0
        return ""

    def too_many_half_open(self, guest: Guest) -> bool:
        """Whether the guest's oldest half-open connection has to end before it begins another one."""
        return len(guest.half_open) >= self._limits.max_half_open_per_guest

    def half_open_to_end(
        self, asker: Guest, *, others: bool = True, egress: int = -1, but: LimitedFlow | None = None
    ) -> LimitedFlow | None:
        """The half-open connection that ends so that asker can have one more; None if there is none.

        It is the oldest one of the guest with most of them: asker, unless another guest has at least two
        more. So a flood is paid for by the guest that sends it, and nobody loses an only connection to
        another guest. others: whether another guest may pay at all. egress >= 0: one with a socket of that
        worker. Never ``but``.
        """
        payer = asker
        most = len(asker.half_open) + (0 if but in asker.half_open else 1)
        if others:
            for guest in self._guests.values():
                if len(guest.half_open) > most:
                    payer, most = guest, len(guest.half_open)
        for guest in (payer, asker):
            for flow in guest.half_open:
                if (
                    # What the guest has completed in this very burst is told by opened() behind it.
                    flow.conn.state == SYN_RECEIVED
                    and flow is not but
                    and (egress < 0 or (flow.egress == egress and flow.host_open))
                ):
                    return flow
        return None

    def full(self, guest: Guest) -> str:
        """The counter of the limit that one more connection meets, whoever begins it; "" if none.

        The caller may make room, in the guest's part or in all, and need not ask again.
        """
        if guest.flows >= self._limits.max_tcp_flows_per_guest:
            return TOO_MANY_FLOWS_OF_GUEST
        if self.flows >= self._limits.max_tcp_flows:
            return TOO_MANY_FLOWS
        return ""

    def add(self, flow: LimitedFlow) -> None:
        """A connection of flow.guest begins."""
        self.flows += 1
        self._join(flow)

    def opened(self, flow: LimitedFlow) -> None:
        """Its handshake is over."""
        if flow.half_open:
            flow.half_open = False
            del flow.guest.half_open[flow]

    def adopt(self, flow: LimitedFlow, link: int) -> None:
        """Its guest has come back, on another link."""
        self._leave(flow)
        flow.guest = self.get(link)
        self._join(flow)

    def _join(self, flow: LimitedFlow) -> None:
        """What the connection holds is its guest's."""
        guest = flow.guest
        guest.flows += 1
        if flow.half_open:
            guest.half_open[flow] = None
        guest.held_bytes += flow.conn.rcv_untaken
        self.held_bytes += flow.conn.rcv_untaken

    def _leave(self, flow: LimitedFlow) -> None:
        """What the connection holds is not its guest's any more."""
        guest = flow.guest
        if flow.half_open:
            del guest.half_open[flow]
        self.discharge(guest, flow.conn.rcv_untaken)
        guest.flows -= 1

    def remove(self, flow: LimitedFlow) -> None:
        """The connection is over, and what it held with it."""
        self._leave(flow)
        flow.half_open = False
        self.flows -= 1

    def link_down(self, link: int) -> Guest | None:
        """Ingress or demux says that a guest's link is gone. The guest, when both have said so."""
        guest = self.get(link)
        guest.downs += 1
        if guest.downs < SAYERS:
            return None
        del self._guests[link]
        guest.gone = True
        return guest

    # --- memory -----------------------------------------------------------------------------

    def charge(self, flow: LimitedFlow, count: int, now: float) -> None:
        """count more bytes wait for the host; the window of a connection under pressure shrinks."""
        guest = flow.guest
        guest.held_bytes += count
        self.held_bytes += count
        guest.pressed = guest.held_bytes > self._guest_pressed_at or self.held_bytes > self._pressed_at
        if guest.pressed:
            flow.squeezed = True
            flow.conn.set_receive_capacity(self._window(guest), now)

    def taken(self, flow: LimitedFlow, count: int, now: float) -> None:
        """The host took count bytes of a connection, whose window may grow again."""
        self.discharge(flow.guest, count)
        if flow.squeezed:
            if flow.guest.pressed:
                flow.conn.set_receive_capacity(self._window(flow.guest), now)
            else:
                flow.squeezed = False
                flow.conn.set_receive_capacity(flow.conn.cfg.max_receive_window, now)

    def discharge(self, guest: Guest, count: int) -> None:
        """Bytes no longer wait."""
        guest.held_bytes -= count
        self.held_bytes -= count
        guest.pressed = guest.held_bytes > self._guest_pressed_at or self.held_bytes > self._pressed_at

    def fits(self, flow: LimitedFlow, seq: int, length: int) -> int:
        """How many of length bytes from the sequence number seq on can be kept."""
        guest = flow.guest
        left_to_guest, left = self._left(guest)
        if (
            left_to_guest * NEARLY_FULL_PART > self._max_guest_bytes
            and left * NEARLY_FULL_PART > self._max_bytes
        ):
            return length
        conn = flow.conn
        room = max(min(left_to_guest, left) // WINDOW_SHARE, FLOOR) - conn.rcv_untaken
        # What was received before needs no room, and its sender wants an answer.
        before = diff(conn.rcv_nxt, seq)
        return max(0, min(length, before + max(room, 0)))

    def _window(self, guest: Guest) -> int:
        return max(min(self._left(guest)) // WINDOW_SHARE, self._min_window)

    def _left(self, guest: Guest) -> tuple[int, int]:
        """Bytes that the guest, and that all guests together may still hold."""
        return self._max_guest_bytes - guest.held_bytes, self._max_bytes - self.held_bytes


class OutOfOrder(Generic[F]):
    """Keeps the slots that out-of-order data of all connections hold below a bound, and their references.

    Counting the slots exactly for each segment would be dear: ranges added since the last count
    are what can have gone wrong at most. Each range is a reference, of which a slot of small frames may
    have hundreds: ingress reads nothing while too many are out.
    """

    def __init__(self, max_slots: int, max_ranges: int) -> None:
        self.max_slots = max_slots
        self.max_ranges = max_ranges
        self._ranges = 0
        self._holders: dict[F, None] = {}
        self._until_count = max_slots

    def held(self) -> int:
        """Connections that hold such data."""
        return len(self._holders)

    def note(self, flow: F) -> list[F]:
        """flow's ranges may have changed. Returns the flows that lost theirs: they have actions to take."""
        held = len(flow.conn.reassembly.ranges)
        added = held - flow.held_ranges
        flow.held_ranges = held
        self._ranges += added
        if not held:
            self._holders.pop(flow, None)
            return []
        if added > 0:
            self._holders.setdefault(flow, None)
            self._until_count -= added
            lost = self._thin_out() if self._ranges > self.max_ranges else []
            if self._until_count < 0:
                lost += self._count()
            return lost
        return []

    def lose(self, flow: F) -> None:
        """Take from flow what it holds: it has actions to take."""
        flow.conn.forget_out_of_order()
        self.forget(flow)

    def forget(self, flow: F) -> None:
        """The connection is over."""
        if flow.held_ranges:
            self._ranges -= flow.held_ranges
            flow.held_ranges = 0
            self._holders.pop(flow, None)

    def _thin_out(self) -> list[F]:
        """The guest with most ranges loses its oldest, until a good part of the bound is free again."""
        by_guest: dict[Guest, list[F]] = {}
        ranges: dict[Guest, int] = {}
        for flow in self._holders:
            by_guest.setdefault(flow.guest, []).append(flow)
            ranges[flow.guest] = ranges.get(flow.guest, 0) + flow.held_ranges
        for flows in by_guest.values():
            flows.reverse()
        lost: list[F] = []
        while self._ranges > self.max_ranges * 3 // 4:
            worst = max(ranges, key=lambda guest: ranges[guest])
            oldest = by_guest[worst].pop()
            ranges[worst] -= oldest.held_ranges
            self.lose(oldest)
            lost.append(oldest)
        return lost

    def _count(self) -> list[F]:
        lost: list[F] = []
        slots, by_guest = self._slots()
        while len(slots) > self.max_slots * 3 // 4:
            worst = max(by_guest, key=lambda guest: len(by_guest[guest]))
            oldest = next(flow for flow in self._holders if flow.guest is worst)
            self.lose(oldest)
            lost.append(oldest)
            slots, by_guest = self._slots()
        self._until_count = self.max_slots - len(slots)
        return lost

    def _slots(self) -> tuple[set[object], dict[Guest, set[object]]]:
        by_guest: dict[Guest, set[object]] = {}
        for flow in self._holders:
            slots = by_guest.setdefault(flow.guest, set())
            for _, _, buf, _ in flow.conn.reassembly.ranges:
                assert isinstance(buf, tuple)
                slots.add(buf[0])
        return set().union(*by_guest.values()), by_guest
