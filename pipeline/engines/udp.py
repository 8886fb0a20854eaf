"""The table of UDP flows: which datagrams belong to one host socket, and for how long.

A flow has two ends, guest and remote, which are its key. The egress worker with the flow's host socket is its
*owner*. A flow also has a number, by which the owner knows it. There are two kinds of flow:

- The first datagram of a guest to a remote end makes a flow. FlowNumbers assigns its number (bit 31 clear),
  and the hash of the ends chooses the owner.
- The first datagram from outside to a forwarded port makes a flow, too. Its owner has assigned the number
  (bit 31 set, unique only together with the owner). This table allocates a port of the gateway for it.

on_guest_datagram() and on_dial() make flows. The table closes a flow that is idle, evicted or finished, or
whose guest is gone. take_closed() returns these flows, so that the caller notifies their owners. The owner
closes a flow with close().

A flow is idle after ``idle`` seconds without a datagram in either direction. RFC 4787 REQ-5 asks for 120 s or
more. gvproxy uses 90 s, and so does this table. The idle time is exact to RENEWAL_STEP. When a bound is
reached, a flow of the guest with most flows is evicted, the one that has been idle for longest. A guest that
asks pays itself, unless another guest has more flows.
"""

from collections import OrderedDict
from collections.abc import Container
from typing import Final

from pipeline.engines.flows import PortAllocator, rss_hash
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends, FlowKey, flow_key

IDLE: Final = 90.0
"""Seconds without a datagram after which a flow is closed."""
RENEWAL_STEP: Final = 1.0
"""Seconds. The idle time is renewed at most this often, so most datagrams do not reorder the table."""
MAX_UDP_FLOWS_PER_GUEST: Final = 6144
MAX_UDP_FLOWS: Final = 8192


class FlowNumbers:
    """Assigns numbers to flows that demux makes: from 1 to FLOW_FROM_EGRESS - 1, in turn."""

    def __init__(self, first: int = 0) -> None:
        """first: the numbers begin after this one."""
        self._last = first % FLOW_FROM_EGRESS

    def next(self, taken: Container[int]) -> int:
        """The next number that is not taken."""
        number = self._last
        while True:
            number = number % (FLOW_FROM_EGRESS - 1) + 1
            if number not in taken:
                self._last = number
                return number


class UdpFlow:
    """One flow, and whether its datagrams are steered past demux or questions of it are unanswered."""

    __slots__ = (
        "_after_steered",
        "_unanswered",
        "from_egress",
        "guest",
        "guest_addr",
        "guest_port",
        "key",
        "last_seen",
        "link",
        "number",
        "owner",
        "remote_addr",
        "remote_port",
        "steered",
        "unique",
    )

    def __init__(self, number: int, owner: int, key: FlowKey, link: int, guest: int, now: float) -> None:
        """link, guest: of the guest, with the number of the guest that opened the link."""
        ends = Ends.of(key)
        self.number = number
        self.link = link
        self.guest = guest
        self.owner = owner
        self.unique = _unique(owner, number)
        """A number that is unique in the table. Two owners may have assigned the same number."""
        self.from_egress = number & FLOW_FROM_EGRESS != 0
        """Whether egress made the flow, for a forwarded port."""
        self.key = key
        self.guest_addr = ends.guest_addr
        self.guest_port = ends.guest_port
        self.remote_addr = ends.remote_addr
        self.remote_port = ends.remote_port
        self.last_seen = now
        self.steered = False
        """Whether ingress may send datagrams past demux. Ingress then reports while the flow is in use."""
        self._after_steered = False
        self._unanswered = 0

    def seen(self, now: float) -> None:
        """A datagram belongs to the flow."""
        self.last_seen = now

    def steer(self) -> None:
        """Ingress may send further datagrams past demux."""
        self.steered = True

    def on_unsteered(self) -> None:
        """Ingress sends datagrams to demux again. The next one must follow those that went past demux."""
        self._after_steered = True

    def take_after_steered(self) -> bool:
        """Whether this datagram is the first one after those that went past demux."""
        first = self._after_steered
        self._after_steered = False
        return first

    def on_questions(self, count: int) -> None:
        """The guest sent count datagrams that each want one answer, as in DNS."""
        self._unanswered += count

    def on_answers(self, count: int) -> bool:
        """count answers have arrived. Returns whether all questions are answered."""
        self._unanswered -= count
        return self._unanswered <= 0


class UdpFlows:
    """All UDP flows of the demux worker."""

    def __init__(
        self,
        ports: PortAllocator,
        egress_count: int = 1,
        idle: float = IDLE,
        max_per_guest: int = MAX_UDP_FLOWS_PER_GUEST,
        max_flows: int = MAX_UDP_FLOWS,
        full_cone: bool = False,
        first_number: int = 0,
    ) -> None:
        """full_cone: all flows of one port of a guest share a host socket, so they have one owner.

        first_number: the numbers of flows begin after this one.
        """
        self._ports = ports
        self._numbers = FlowNumbers(first_number)
        self._egress_count = egress_count
        self._full_cone = full_cone
        self._idle = idle
        self._max_per_guest = max_per_guest
        self._max = max_flows
        self._by_key: dict[FlowKey, UdpFlow] = {}
        # By UdpFlow.unique, the least recently used first.
        self._by_age: OrderedDict[int, UdpFlow] = OrderedDict()
        self._by_guest: dict[int, OrderedDict[int, UdpFlow]] = {}
        """By the guest's number."""
        self._closed: list[UdpFlow] = []
        self.evicted = 0
        """Flows closed because a bound was reached (the caller counts ``udp_flow_evicted``)."""

    def __len__(self) -> int:
        return len(self._by_key)

    def set_bounds(self, max_per_guest: int, max_flows: int) -> None:
        """Change the bounds. Flows that exceed lower ones stay, but each new one ends another."""
        self._max_per_guest = max_per_guest
        self._max = max_flows

    def find(self, key: FlowKey, now: float) -> UdpFlow | None:
        """The flow of a guest's datagram, which renews it; None if there is none yet."""
        flow = self._by_key.get(key)
        if flow is not None and now - flow.last_seen >= RENEWAL_STEP:
            self._renew(flow, now)
        return flow

    def on_guest_datagram(self, key: FlowKey, link: int, guest: int, now: float) -> UdpFlow:
        """The flow of a datagram of this guest. Makes one if there is none."""
        flow = self.find(key, now)
        if flow is not None:
            return flow
        ends = Ends.of(key)
        if self._full_cone:
            spread = rss_hash(ends.guest_addr, ends.guest_port, 0, 0)
        else:
            spread = rss_hash(ends.guest_addr, ends.guest_port, ends.remote_addr, ends.remote_port)
        number = self._numbers.next(self._by_age)
        return self._add(UdpFlow(number, spread % self._egress_count, key, link, guest, now))

    def on_host_datagram(self, owner: int, number: int, now: float) -> UdpFlow | None:
        """The flow of a datagram that the owner received; None if the flow is closed."""
        flow = self._by_age.get(_unique(owner, number))
        if flow is not None and now - flow.last_seen >= RENEWAL_STEP:
            self._renew(flow, now)
        return flow

    def on_dial(
        self, owner: int, number: int, to: FlowKey, link: int, guest: int, now: float
    ) -> UdpFlow | None:
        """A new flow of a datagram from a forwarded port.

        to: the guest's address and port, and the gateway's address. The guest sees the datagrams as coming
        from a port of the gateway. link, guest: as for UdpFlow; 0 while nobody knows. Returns None when no
        port is left for flows to this port of the guest.
        """
        ends = Ends.of(to)
        guest_addr, guest_port, gateway = ends.guest_addr, ends.guest_port, ends.remote_addr
        where = (guest_addr, guest_port)
        skipped = []
        while (port := self._ports.allocate(where)) is not None:
            key = flow_key(guest_addr, guest_port, gateway, port)
            if key not in self._by_key:
                break
            # The guest already has a flow from its port to this port of the gateway.
            skipped.append(port)
        for unusable in skipped:
            self._ports.release(where, unusable)
        return None if port is None else self._add(UdpFlow(number, owner, key, link, guest, now))

    def close(self, owner: int, number: int) -> UdpFlow | None:
        """The owner closed this flow. Returns None if it is closed already: both sides may close at once."""
        flow = self._by_age.get(_unique(owner, number))
        if flow is not None:
            self._remove(flow)
        return flow

    def finish(self, flow: UdpFlow) -> None:
        """The flow is no longer needed: close it."""
        self._remove(flow)
        self._closed.append(flow)

    def adopt(self, flow: UdpFlow, link: int, guest: int) -> None:
        """The flow belongs to this guest, or goes on over another link of it."""
        if flow.unique not in self._by_age:
            return
        self._leave_guest(flow)
        flow.link, flow.guest = link, guest
        self._by_guest.setdefault(guest, OrderedDict())[flow.unique] = flow

    def forget_link(self, link: int, guest: int) -> None:
        """Close all flows of a link that is gone, of this guest."""
        for flow in [flow for flow in self._by_guest.get(guest, {}).values() if flow.link == link]:
            self._remove(flow)
            self._closed.append(flow)

    def of_owner(self, owner: int) -> list[UdpFlow]:
        """All flows of an egress worker."""
        return [flow for flow in self._by_key.values() if flow.owner == owner]

    def forget_steering(self) -> None:
        """Ingress has forgotten which flows may go past demux. The next datagram of each reports it again."""
        for flow in self._by_key.values():
            flow.steered = False

    def sums(self) -> dict[int, int]:
        """How many flows each guest has, by its number."""
        return {guest: len(flows) for guest, flows in self._by_guest.items()}

    def expire(self, now: float) -> int:
        """Close the flows that were idle for too long. Returns their number. Costs O(1) for each."""
        count = 0
        by_age = self._by_age
        while by_age:
            flow = next(iter(by_age.values()))
            # The same sum as in deadline(), so that both agree to the last bit.
            if flow.last_seen + self._idle > now:
                break
            self._remove(flow)
            self._closed.append(flow)
            count += 1
        return count

    def deadline(self) -> float:
        """When the next flow will have been idle for too long; inf when there is no flow."""
        if not self._by_age:
            return float("inf")
        return next(iter(self._by_age.values())).last_seen + self._idle

    def take_closed(self) -> list[UdpFlow]:
        """The flows that this table closed since the last call. The caller notifies their owners."""
        closed, self._closed = self._closed, []
        return closed

    def _add(self, flow: UdpFlow) -> UdpFlow:
        of_guest = self._by_guest.get(flow.guest)
        if of_guest is not None and len(of_guest) >= self._max_per_guest:
            self._evict(next(iter(of_guest.values())))
        elif len(self._by_key) >= self._max:
            most = max(self._by_guest.values(), key=len)
            payer = of_guest if of_guest is not None and len(of_guest) == len(most) else most
            self._evict(next(iter(payer.values())))
        self._by_key[flow.key] = flow
        self._by_age[flow.unique] = flow
        self._by_guest.setdefault(flow.guest, OrderedDict())[flow.unique] = flow
        return flow

    def _evict(self, flow: UdpFlow) -> None:
        self._remove(flow)
        self._closed.append(flow)
        self.evicted += 1

    def _renew(self, flow: UdpFlow, now: float) -> None:
        flow.seen(now)
        self._by_age.move_to_end(flow.unique)
        self._by_guest[flow.guest].move_to_end(flow.unique)

    def _remove(self, flow: UdpFlow) -> None:
        del self._by_key[flow.key]
        del self._by_age[flow.unique]
        self._leave_guest(flow)
        if flow.from_egress:
            self._ports.release((flow.guest_addr, flow.guest_port), flow.remote_port)

    def _leave_guest(self, flow: UdpFlow) -> None:
        of_guest = self._by_guest[flow.guest]
        del of_guest[flow.unique]
        if not of_guest:
            del self._by_guest[flow.guest]


def _unique(owner: int, number: int) -> int:
    """Two egress workers may assign the same number. Numbers that demux assigned are unique already."""
    return owner << 32 | number if number & FLOW_FROM_EGRESS else number
