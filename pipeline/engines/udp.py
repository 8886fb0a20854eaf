"""The table of UDP flows: which datagrams belong together, and until when.

A flow is a (guest address, guest port, remote address, remote port) and has a number under
which the worker with its host socket knows it. Two kinds:

- a guest's datagram to somewhere new makes a flow; its number comes from here (bit 31
  clear) and its owner, the egress shard, from the hash;
- a datagram from outside to an exposed port was given a number by an egress shard (bit 31
  set, unique only together with its owner); the flow gets a port of the gateway here.

::

    state     made by                         becomes
    live      on_guest_datagram, on_dial      closed by idle time, eviction, close(), forget_guest()
    live      finish()                        closed: what it was for is done
    closed    (kept in take_closed() unless close() did it)   forgotten

Idle means no datagram either way for ``idle`` seconds (RFC 4787 REQ-5 wants 120 s or more
for an arbitrary peer; 90 s is what users of such networks are used to). Idle time is kept
to RENEWAL_STEP. Reaching a bound evicts the flow idle for longest, first of the same guest.
"""

from collections import OrderedDict
from typing import Final

from pipeline.engines.flows import PortAllocator, rss_hash

IDLE: Final = 90.0
"""Seconds without a datagram after which a flow is over."""
RENEWAL_STEP: Final = 1.0
"""Datagrams closer together than this (seconds) do not reorder the table: it costs nothing a datagram."""
MAX_UDP_FLOWS_PER_GUEST: Final = 2048
MAX_UDP_FLOWS: Final = 8192

FROM_EGRESS: Final = 0x80000000
"""Set in numbers that an egress shard allocated."""

Key = tuple[int, int, int, int]


class UdpFlow:
    """One flow. Read-only outside this module, but for the caller's own marks."""

    __slots__ = (
        "guest_addr",
        "guest_port",
        "last_seen",
        "number",
        "owner",
        "remote_addr",
        "remote_port",
        "returns",
        "steered",
        "unanswered",
    )

    def __init__(self, number: int, owner: int, key: Key, now: float) -> None:
        self.number = number
        self.owner = owner
        self.guest_addr, self.guest_port, self.remote_addr, self.remote_port = key
        self.last_seen = now
        self.steered = False
        """Whether datagrams go past the table: the caller's mark, which then says when the flow is used."""
        self.returns = False
        """The caller's mark that they do not any more, until somebody was told."""
        self.unanswered = 0
        """Questions of the guest without an answer, where each datagram is one (DNS): the caller's count."""

    @property
    def key(self) -> Key:
        """(guest_addr, guest_port, remote_addr, remote_port)."""
        return self.guest_addr, self.guest_port, self.remote_addr, self.remote_port


class UdpFlows:
    """All UDP flows of one demux worker."""

    def __init__(
        self,
        ports: PortAllocator,
        egress_count: int = 1,
        idle: float = IDLE,
        max_per_guest: int = MAX_UDP_FLOWS_PER_GUEST,
        max_flows: int = MAX_UDP_FLOWS,
        full_cone: bool = False,
    ) -> None:
        """full_cone: all flows of one port of a guest have the same owner, since they share a socket."""
        self._ports = ports
        self._egress_count = egress_count
        self._full_cone = full_cone
        self._idle = idle
        self._max_per_guest = max_per_guest
        self._max = max_flows
        self._by_key: dict[Key, UdpFlow] = {}
        # Least recently used first; a flow stands in both.
        self._by_number: OrderedDict[int, UdpFlow] = OrderedDict()
        self._by_guest: dict[int, OrderedDict[int, UdpFlow]] = {}
        self._closed: list[UdpFlow] = []
        self._next_number = 0
        self.evicted = 0
        """Flows closed because a bound was reached (the owner counts ``udp_flow_evicted``)."""

    def __len__(self) -> int:
        return len(self._by_key)

    def find(
        self, guest_addr: int, guest_port: int, remote_addr: int, remote_port: int, now: float
    ) -> UdpFlow | None:
        """The flow that a datagram from a guest belongs to, renewed; None if there is none yet."""
        flow = self._by_key.get((guest_addr, guest_port, remote_addr, remote_port))
        if flow is not None and now - flow.last_seen >= RENEWAL_STEP:
            self._renew(flow, now)
        return flow

    def on_guest_datagram(
        self, guest_addr: int, guest_port: int, remote_addr: int, remote_port: int, now: float
    ) -> UdpFlow:
        """The flow of a datagram from a guest, made if there is none."""
        flow = self.find(guest_addr, guest_port, remote_addr, remote_port, now)
        if flow is not None:
            return flow
        key = (guest_addr, guest_port, remote_addr, remote_port)
        while True:
            self._next_number = number = self._next_number % (FROM_EGRESS - 1) + 1
            if number not in self._by_number:
                break
        remote = (0, 0) if self._full_cone else (remote_addr, remote_port)
        owner = rss_hash(guest_addr, guest_port, *remote) % self._egress_count
        return self._add(UdpFlow(number, owner, key, now))

    def on_host_datagram(self, owner: int, number: int, now: float) -> UdpFlow | None:
        """The flow of a datagram from the host socket that owner has for it; None when it is over."""
        flow = self._by_number.get(_slot(owner, number))
        if flow is not None and now - flow.last_seen >= RENEWAL_STEP:
            self._renew(flow, now)
        return flow

    def on_dial(
        self, owner: int, number: int, guest_addr: int, guest_port: int, gateway: int, now: float
    ) -> UdpFlow | None:
        """A flow that egress shard owner opened towards a guest, seen by it as coming from gateway.

        The same number again is the same flow, renewed. None when the guest's port has no
        free port of the gateway left.
        """
        flow = self.on_host_datagram(owner, number, now)
        if flow is not None:
            return flow
        where = (guest_addr, guest_port)
        skipped = []
        while (port := self._ports.allocate(where)) is not None:
            key = (guest_addr, guest_port, gateway, port)
            if key not in self._by_key:
                break
            # The guest itself spoke from there to this very port of the gateway.
            skipped.append(port)
        for unusable in skipped:
            self._ports.release(where, unusable)
        return None if port is None else self._add(UdpFlow(number, owner, key, now))

    def close(self, owner: int, number: int) -> UdpFlow | None:
        """Its owner closed the flow, which is returned; None if it is over: both sides may close at once."""
        flow = self._by_number.get(_slot(owner, number))
        if flow is not None:
            self._remove(flow)
        return flow

    def finish(self, flow: UdpFlow) -> None:
        """The flow has done what it was for; its owner is to be told."""
        self._remove(flow)
        self._closed.append(flow)

    def forget_guest(self, guest_addr: int) -> None:
        """The guest is gone: all its flows are closed."""
        for flow in list(self._by_guest.get(guest_addr, {}).values()):
            self._remove(flow)
            self._closed.append(flow)

    def expire(self, now: float) -> int:
        """Close what has been idle for too long; returns how many. O(1) for each flow closed."""
        count = 0
        by_number = self._by_number
        while by_number:
            flow = next(iter(by_number.values()))
            # The same sum as in deadline(), so that both agree to the last bit.
            if flow.last_seen + self._idle > now:
                break
            self._remove(flow)
            self._closed.append(flow)
            count += 1
        return count

    def deadline(self) -> float:
        """When expire() next has something to do; inf when there is no flow."""
        if not self._by_number:
            return float("inf")
        return next(iter(self._by_number.values())).last_seen + self._idle

    def take_closed(self) -> list[UdpFlow]:
        """Flows closed here since the last call: their owners must be told."""
        closed, self._closed = self._closed, []
        return closed

    def _add(self, flow: UdpFlow) -> UdpFlow:
        of_guest = self._by_guest.get(flow.guest_addr)
        if of_guest is not None and len(of_guest) >= self._max_per_guest:
            self._evict(next(iter(of_guest.values())))
        elif len(self._by_key) >= self._max:
            self._evict(next(iter(self._by_number.values())))
        slot = _slot(flow.owner, flow.number)
        self._by_key[flow.key] = flow
        self._by_number[slot] = flow
        self._by_guest.setdefault(flow.guest_addr, OrderedDict())[slot] = flow
        return flow

    def _evict(self, flow: UdpFlow) -> None:
        self._remove(flow)
        self._closed.append(flow)
        self.evicted += 1

    def _renew(self, flow: UdpFlow, now: float) -> None:
        flow.last_seen = now
        slot = _slot(flow.owner, flow.number)
        self._by_number.move_to_end(slot)
        self._by_guest[flow.guest_addr].move_to_end(slot)

    def _remove(self, flow: UdpFlow) -> None:
        slot = _slot(flow.owner, flow.number)
        del self._by_key[flow.key]
        del self._by_number[slot]
        of_guest = self._by_guest[flow.guest_addr]
        del of_guest[slot]
        if not of_guest:
            del self._by_guest[flow.guest_addr]
        if flow.number & FROM_EGRESS:
            self._ports.release((flow.guest_addr, flow.guest_port), flow.remote_port)


def _slot(owner: int, number: int) -> int:
    """Numbers of egress shards may collide with each other's; those from here do not."""
    return owner << 32 | number if number & FROM_EGRESS else number
