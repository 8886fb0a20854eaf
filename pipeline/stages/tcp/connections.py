"""The table of TCP connections of one tcp worker. It decides which connections may begin and which must end.

A connection here is a Flow: the engine's state (pipeline.engines.tcp.connection), its guest, and its host
end. A connection that has something to do is in ``needs_flush``. The stage flushes these once in a step.
"""

import os
from collections.abc import Container
from dataclasses import replace
from typing import Final

from pipeline.config.choices import APART
from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines.tcp import actions, ending, isn
from pipeline.engines.tcp.config import IPV6_TCP_HEADER_BYTES, MIN_IPV6_MTU, TcpConfig
from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.state import ESTABLISHED, SYN_RECEIVED, TIME_WAIT
from pipeline.engines.tcp.time_wait import TimeWait
from pipeline.engines.timing_wheel import TimingWheel
from pipeline.records.addresses import Addr
from pipeline.records.dials import DialFailed, DialRouted
from pipeline.records.flows import Ends, FlowKey
from pipeline.records.run import Run
from pipeline.stages.tcp import records
from pipeline.stages.tcp.eviction import Eviction
from pipeline.stages.tcp.flow import Flow, Guest
from pipeline.stages.tcp.guests import NO_MEMORY, Guests
from pipeline.stages.tcp.host_end import FlowNumbers, HostEnd, egress_of, flow_id
from pipeline.stages.tcp.measures import measure_end
from pipeline.stages.tcp.memory import ReceiveMemory
from pipeline.stages.tcp.orphans import Orphans
from pipeline.stages.tcp.out_of_order import OutOfOrder
from pipeline.stages.tcp.releases import Releases
from pipeline.stages.tcp.reports import TcpReports
from pipeline.stages.tcp.time_waits import TimeWaits
from pipeline.stages.worker import Worker
from pipeline.system.headroom import Headroom
from pipeline.topology import MAX_REFS
from pipeline.wire import ip

FIRST_ANSWER_S: Final = 0.001
"""Seconds within which a host that is near answers. An ACK that goes alone costs the guest, its link and this
program as much as the answer that follows it."""

_FLOWS: Final = INDEX["tcp_flows"]
_OPENED: Final = INDEX["tcp_flow_opened"]
_EVICTED: Final = INDEX["tcp_flow_evicted_time_wait"]
_HALF_OPEN_EVICTED: Final = INDEX["tcp_flow_evicted_half_open"]
_GUEST_GONE: Final = INDEX["tcp_flow_ended_guest_gone"]
_SHARE_EVICTED: Final = INDEX["tcp_flow_evicted_over_share"]
_DIAL_REFUSED: Final = INDEX["tcp_dial_failed_too_many_flows"]


class Connections:
    """All connections of a worker, with their limits, memory and timers."""

    def __init__(self, worker: Worker, config: Config) -> None:
        ports, workers = worker.ports, config.workers
        self._free = worker.free
        self._counts = worker.counts
        self._ingress_out = ports.rings_out["ingress"]
        self._egress_out = [ports.rings_out[f"egress{i}"] for i in range(workers.egress_workers)]
        self._tcp = TcpConfig(
            mtu=config.network.mtu,
            max_reassembly_bytes=config.limits.max_reassembly_bytes,
            max_reassembly_ranges=config.limits.max_reassembly_ranges,
            first_delayed_ack=FIRST_ANSWER_S,
        )
        mtu6 = max(config.network.mtu, MIN_IPV6_MTU)
        self._tcp6 = replace(self._tcp, mtu=mtu6, header_bytes=IPV6_TCP_HEADER_BYTES)
        """For connections over IPv6, whose segments have longer headers."""
        self._isn_key = os.urandom(16)
        self._numbers = FlowNumbers()
        self.by_key: dict[FlowKey, Flow] = {}
        self.by_id: dict[int, Flow] = {}
        """The same connections, by HostEnd.id."""
        self.needs_flush: dict[Flow, None] = {}
        """Connections whose engine has actions to carry out, or segments to send."""
        self.timers: TimingWheel[Flow] = TimingWheel()
        self.guests = Guests(config.limits)
        self.memory = ReceiveMemory(config.limits, config.network.mtu)
        self.out_of_order = OutOfOrder(
            _out_of_order_slots(config),
            MAX_REFS // 2 // workers.tcp_workers,
        )
        self.releases = Releases(worker, self._ingress_out)
        self._orphans = Orphans(config.limits.max_orphan_seconds)
        self.apart = config.access.guests == APART
        """Whether several guests may have the same address."""
        self._memory_freed_at = 0.0
        self.reports = TcpReports(worker)
        self.time_waits = TimeWaits()
        self._headroom = Headroom()
        self._eviction = Eviction(self.guests, self._orphans, self.time_waits)

    def __len__(self) -> int:
        return len(self.by_key)

    def held(self) -> dict[str, int]:
        """The number of objects that are held for guests, by kind."""
        return {
            "flows": len(self.by_key),
            "flows_by_id": len(self.by_id),
            "needs_flush": len(self.needs_flush),
            "timers": len(self.timers),
            "time_wait": len(self.time_waits),
            "orphans": len(self._orphans),
            "releasing": len(self.releases),
            "guests": len(self.guests),
            "links": self.guests.links,
            "guests_flows": self.guests.flows,
            "guests_bytes": self.memory.held_bytes,
            "out_of_order": len(self.out_of_order),
        }

    def slots_held(self) -> list[int]:
        """The slots to which connections hold references, one entry for each reference."""
        found = self.releases.slots_held()
        for flow in {**dict.fromkeys(self.by_id.values()), **self.needs_flush}:
            found += flow.slots_held()
        return found

    def reload(self, config: Config) -> None:
        """Change the limits. Connections that are open keep their bounds of out-of-order data."""
        limits = config.limits
        self._tcp, self._tcp6 = (
            replace(
                settings,
                max_reassembly_bytes=limits.max_reassembly_bytes,
                max_reassembly_ranges=limits.max_reassembly_ranges,
            )
            for settings in (self._tcp, self._tcp6)
        )
        self.guests.set_limits(limits)
        self.memory.set_limits(limits)
        self.out_of_order.set_max_slots(_out_of_order_slots(config))
        self._orphans.set_max_age(limits.max_orphan_seconds)

    # --- what needs a flush -----------------------------------------------------------------

    def flush_later(self, flow: Flow) -> None:
        """Flush the connection in this step: its engine may have actions or segments to send."""
        self.needs_flush[flow] = None

    def take_needs_flush(self) -> dict[Flow, None]:
        """The connections that need a flush. The caller flushes them, or calls flush_later() again."""
        found = self.needs_flush
        self.needs_flush = {}
        return found

    # --- the beginning ----------------------------------------------------------------------

    def on_syn(self, key: FlowKey, segment: Segment, link: int, now: float) -> Flow | None:
        """A guest begins a connection. Returns None, and counts it, if a limit refuses it."""
        on_link = self.guests.link(link)
        guest = on_link.guest
        if reason := self.guests.refuses_syn(guest, now) or self._full(guest, now):
            self._counts[INDEX[reason]] += 1
            self.reports.refused(key, guest.number, reason)
            return None
        if self.guests.too_many_half_open(guest):
            self._evict(self._eviction.oldest_half_open(guest), now)
        ends = Ends.of(key)
        conn = Connection.passive(self._config_of(ends), segment, self._isn(ends, now), now)
        egress = egress_of(ends, len(self._egress_out))
        host = self._host_end(self._numbers.next(self.by_id), egress)
        return self._add(Flow(conn, key, on_link, host, now))

    def dial(self, dial: DialRouted, now: float) -> None:
        """The host begins a connection to a guest. If this is not possible, egress gets DIAL_FAILED.

        A dial that is known already comes again after the death of demux, with another port.
        """
        if flow_id(dial.egress, dial.flow) in self.by_id:
            return
        if dial.key in self.by_key:
            self._egress_out[dial.egress].push(DialFailed.pack(dial.flow, final=False))
            return
        link = self.guests.link(dial.link)
        if self._full(link.guest, now):
            self._counts[_DIAL_REFUSED] += 1
            self._egress_out[dial.egress].push(DialFailed.pack(dial.flow, final=True))
            return
        ends = Ends.of(dial.key)
        conn = Connection.active(self._config_of(ends), self._isn(ends, now), now)
        host = self._host_end(dial.flow, dial.egress)
        self.flush_later(self._add(Flow(conn, dial.key, link, host, now, dial.client)))

    def first_sequence_number(self, key: FlowKey, now: float) -> int:
        """The one that a connection between these ends would have now. It does not follow from others."""
        return self._isn(Ends.of(key), now)

    def _config_of(self, ends: Ends) -> TcpConfig:
        """The settings of the engine for a connection between these ends."""
        return self._tcp if ip.is_ipv4(ends.guest_addr) else self._tcp6

    def _host_end(self, number: int, egress: int) -> HostEnd:
        return HostEnd(number, egress, self._egress_out[egress])

    def _isn(self, ends: Ends, now: float) -> int:
        return isn.initial_sequence_number(
            self._isn_key, ends.guest_addr, ends.guest_port, ends.remote_addr, ends.remote_port, now
        )

    def _add(self, flow: Flow) -> Flow:
        self.by_key[flow.key] = self.by_id[flow.host.id] = flow
        self.guests.add(flow)
        self._counts[_OPENED] += 1
        self._counts[_FLOWS] = len(self.by_key)
        return flow

    # --- the end ----------------------------------------------------------------------------

    def remove(self, flow: Flow, now: float) -> None:
        """Forget a connection that has ended, with everything that it holds."""
        if self.by_id.pop(flow.host.id, None) is None:
            return  # it was evicted while this burst was processed
        if flow.established:
            measure_end(flow, self._counts, now)
        if flow not in self.time_waits:
            self.reports.ended(flow, now)
        if self.by_key.get(flow.key) is flow:
            del self.by_key[flow.key]
        self.time_waits.forget(flow)
        self._orphans.remove(flow)
        self.out_of_order.forget(flow)
        self.memory.release(flow)
        self.guests.remove(flow)
        flow.disarm(self.timers)
        self._counts[_FLOWS] = len(self.by_key)

    def rest(self, flow: Flow) -> None:
        """The connection is in TIME-WAIT and has nothing to send: keep only what it needs from now on."""
        flow.rest(self.timers)
        self.time_waits.update(flow, flow.conn.deadline())

    def make_way(self, egress: int, guest: int, make_way: int, now: float, flow: Flow | None = None) -> bool:
        """Egress has no socket for a flow of this guest: end a half-open connection to free one.

        make_way: MAKE_WAY_OWN or MAKE_WAY_ANY. flow: the connection that needs the socket; None for UDP.
        Returns whether a connection was ended.
        """
        return self._evict(self._eviction.for_socket(egress, guest, make_way, flow), now)

    def end(self, number: int, now: float) -> bool:
        """An operator ends the connection with this number. False if there is none."""
        flow = self.by_id.get(number)
        if flow is None:
            return False
        flow.host.abort()
        flow.reset(now, ending.DELETED)
        self.flush_later(flow)
        return True

    def end_of_addresses(self, addrs: Container[int], now: float) -> int:
        """The guests with these addresses are on another host now. Returns how many connections are reset."""
        numbers = [flow.host.id for key, flow in self.by_key.items() if Ends.of(key).guest_addr in addrs]
        return sum(self.end(number, now) for number in numbers)

    def _full(self, guest: Guest, now: float) -> str:
        """The counter of the limit that one more connection exceeds; "" if it is allowed.

        At a limit, this evicts another connection if it can.
        """
        reason = self.guests.full(guest)
        if not reason and self._headroom.is_short(len(self.by_key)):
            reason = NO_MEMORY
        if reason and self._evict(self._eviction.for_place(guest, reason), now):
            return ""
        return reason

    def _evict(self, flow: Flow | None, now: float) -> bool:
        """End a connection to make room for another one. False if flow is None.

        Only the guest of an established connection is told: it gets a reset.
        """
        if flow is None:
            return False
        conn = flow.conn
        if flow in self.time_waits or isinstance(conn, TimeWait):
            self._counts[_EVICTED] += 1
        elif flow.link.gone or flow.half_open:
            self._counts[_GUEST_GONE if flow.link.gone else _HALF_OPEN_EVICTED] += 1
            conn.on_guest_gone(now, ending.GUEST_GONE if flow.link.gone else ending.LIMIT)
            self.act(flow, now)
        else:
            self._counts[_SHARE_EVICTED] += 1
            flow.host.abort()
            conn.on_host_reset(now, ending.LIMIT)
            # A guest that does not read must not fill our memory with resets.
            if self._ingress_out.room() > 0:
                for segment in conn.transmit(now, 1):
                    self._ingress_out.push(records.outgoing(flow.key, segment))
            self.act(flow, now)
        self.remove(flow, now)
        return True

    # --- guests that leave and come back ----------------------------------------------------

    def link_down(self, link: int, reporters: int, now: float, *, stays: bool = False) -> None:
        """A link is down for FROM_DEMUX, FROM_INGRESS or both. Perhaps its guest is gone. See Guests."""
        gone = self.guests.link_down(link, reporters, stays=stays)
        if gone is None:
            return
        left = []
        for flow in gone.guest.flows:
            if flow.link is not gone:
                continue
            # A guest may have completed a handshake in this burst. half_open is updated only later.
            if flow.half_open and flow.conn.state == SYN_RECEIVED:
                # It would keep its host socket for a minute. A guest that comes back repeats its SYN.
                self._give_up(flow, now)
            else:
                left.append(flow)
                if flow.conn.state >= ESTABLISHED:
                    flow.host.orphaned()
        if left:
            self._orphans.add(left, now)

    def come_back(self, addr: Addr, link: int) -> None:
        """A guest whose link was gone has sent a frame on another link, which now gets its connections."""
        back = self.guests.link(link)
        for flow in self._orphans.of(addr):
            self._orphans.remove(flow)
            if flow.guest is not back.guest:
                self.memory.move(flow, back.guest)
            self.guests.move(flow, back)

    def is_strangers(self, flow: Flow, link: int, now: float) -> bool:
        """Whether a segment of this connection comes from another guest, with ``guests: apart``.

        Guests of one image use the same addresses and ports. So this one has begun to use the address, after
        its former guest has left. All orphans of the address end, as soon as demux and ingress have both said
        that it has. The other guest must get none of their bytes, nor send any for them.
        """
        if flow.link.number == link and not flow.link.gone:
            return False
        if flow.guest.number == self.guests.link(link).guest.number:
            return False
        for orphan in self._orphans.of(Ends.of(flow.key).guest_addr):
            self._orphans.remove(orphan)
            self._give_up(orphan, now)
        return True

    # --- egress workers that die ------------------------------------------------------------

    def on_egress_lost(self, egress: int, now: float) -> None:
        """An egress worker has died, with the host sockets of these connections: reset them.

        A guest whose host has not answered need not know. The successor is asked to connect.
        """
        for flow in list(self.by_id.values()):
            host = flow.host
            if host.egress != egress:
                continue
            conn = flow.conn
            if isinstance(conn, TimeWait):
                host.forget()
            elif flow.half_open and conn.state == SYN_RECEIVED and not conn.host_connected:
                host.connect(flow.key, flow.link.number, flow.guest.number, conn.snd_mss, conn.irs)
            else:
                host.forget()
                conn.on_host_reset(now)
                self.flush_later(flow)

    def _free_memory_of_orphans(self, now: float) -> None:
        """End orphans whose hosts do not read, if memory is short for all guests. At most once a second."""
        if now < self._memory_freed_at + 1.0 or not self.memory.all_pressed:
            return
        self._memory_freed_at = now
        for orphan in self._orphans.with_untaken_bytes():
            self._orphans.remove(orphan)
            self._give_up(orphan, now)

    def _give_up(self, flow: Flow, now: float) -> None:
        """End a connection whose guest is gone."""
        self._counts[_GUEST_GONE] += 1
        flow.guest_gone(now)
        self.flush_later(flow)

    # --- time -------------------------------------------------------------------------------

    def expire(self, now: float) -> int:
        """Run the timers that are due. Returns how many connections did something."""
        count = 0
        if self.timers.deadline() <= now:
            for flow in self.timers.advance(now):
                flow.timer_fired()
                conn = flow.conn
                if isinstance(conn, Connection) and conn.deadline() <= now:
                    conn.on_timer(now)
                    count += 1
                self.flush_later(flow)
        if self.time_waits.due_at <= now:
            for flow in self.time_waits.due(now):
                self.remove(flow, now)
                count += 1
        if self._orphans.due_at <= now:
            for flow in self._orphans.overdue(now):
                self._give_up(flow, now)
        return count

    def deadline(self) -> float:
        """The time at which to call expire() next."""
        # Compiled, min() of two numbers is a comparison. With more it is a call.
        return min(self.timers.deadline(), min(self.time_waits.due_at, self._orphans.due_at))

    # --- what the engine asks for -----------------------------------------------------------

    def act(self, flow: Flow, now: float) -> bool:
        """Carry out the actions of the engine. Returns whether the connection has ended."""
        gone = False
        delivered = 0
        conn = flow.conn
        if isinstance(conn, TimeWait):
            return conn.over
        host = flow.host
        for action in conn.take_actions():
            if isinstance(action, actions.Deliver):
                run = action.buf
                assert isinstance(run, Run)
                delivered += action.length
                if not host.deliver(run, action.skip, action.length):
                    self._free(run.slot)
            elif isinstance(action, actions.Release):
                slot = action.buf
                assert isinstance(slot, int)
                self.releases.add(slot, host.number)
            elif isinstance(action, actions.Discard):
                run = action.buf
                assert isinstance(run, Run)
                self._free(run.slot)
            elif isinstance(action, actions.Connect):
                host.connect(flow.key, flow.link.number, flow.guest.number, conn.snd_mss, conn.irs)
            elif isinstance(action, actions.Established):
                flow.opened(now)
                self.reports.opened(flow, now)
                if action.active:
                    host.guest_answered(flow.key, flow.guest.number, conn.snd_mss)
            elif isinstance(action, actions.HostShutdown):
                host.shutdown()
            elif isinstance(action, actions.HostReset):
                host.abort()
            else:
                gone = True
        if host.open and (gone or conn.state == TIME_WAIT):
            host.close()
            if not gone and self.by_id.get(host.id) is flow:
                self.time_waits.add(flow)
                self.reports.ended(flow, now)
        if delivered:
            self.memory.charge(flow, delivered, now)
            if flow.guest.pressed and self._orphans:
                self._free_memory_of_orphans(now)
        return gone


def _out_of_order_slots(config: Config) -> int:
    """The slots that out-of-order data of one worker may hold."""
    workers = config.workers
    return min(config.limits.max_out_of_order_slots, max(workers.slots // 4 // workers.tcp_workers, 4))
