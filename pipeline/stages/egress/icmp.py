"""Echo requests in the egress worker: one unprivileged ICMP socket for each guest, identifier and address.

A request leaves with one hop less to live than it came with, and with its don't-fragment bit, so
that traceroute and path-MTU discovery work through the gateway. Only replies, "time exceeded" and
"fragmentation needed" go back: a host that is not there is silent. Where the system does not
allow such sockets, that is said once in the log and counted for every request. Systems other than Linux tell
a socket nothing of errors, so there a traceroute sees the last hop alone.
"""

import errno
import os
import socket
from collections import OrderedDict
from time import monotonic
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import nat
from pipeline.host import icmp as host_icmp
from pipeline.host.filler import SlotFiller
from pipeline.ipc import events as ev
from pipeline.ipc.ring import Producer
from pipeline.records import descriptor as d
from pipeline.stages.egress.guard import Guard
from pipeline.stages.egress.sockets import NO_DESCRIPTOR, SocketBound
from pipeline.stages.worker import Worker
from pipeline.wire import icmp, ipv4

MAX_FLOWS: Final = 256
"""Sockets of one egress worker; one more closes the one idle for longest."""
MAX_FLOWS_PER_GUEST: Final = 64
"""Of them, those of one guest address; one more closes this guest's own."""
IDLE: Final = 10.0
"""Seconds without a packet after which a socket is closed: what comes later is late for any ping."""
READS: Final = 16
MAX_MESSAGE: Final = 65515

_FORWARDED: Final = INDEX["icmp_echo_forwarded"]
_REPLIED: Final = INDEX["icmp_echo_replied"]
_ERRORS: Final = INDEX["icmp_error_forwarded"]
_FLOWS: Final = INDEX["icmp_echo_flows"]
_EVICTED: Final = INDEX["icmp_echo_flow_evicted"]
_NOT_PERMITTED: Final = INDEX["icmp_echo_dropped_not_permitted"]
_SEND_FAILED: Final = INDEX["icmp_echo_dropped_send_failed"]
_NO_ROOM: Final = INDEX["icmp_reply_dropped_no_room"]

Key = tuple[int, int, int]
"""Guest's address, identifier, pinged address."""


class EchoFlow:
    """One pinger's socket. Its last TTL and don't-fragment bit are the socket's."""

    __slots__ = ("dont_fragment", "ident", "key", "last_seen", "link", "sock", "ttl")

    def __init__(self, key: Key, sock: socket.socket, now: float, ident: int = 0, link: int = 0) -> None:
        """ident: the identifier to use towards the host; 0 where the system sees to it."""
        self.key = key
        self.link = link
        self.sock = sock
        self.ident = ident
        self.last_seen = now
        self.ttl = 0
        self.dont_fragment = False


class EchoSockets:
    """All ICMP sockets of one egress worker."""

    def __init__(
        self, worker: Worker, filler: SlotFiller, targets: nat.Nat, guard: Guard, demux_out: Producer
    ) -> None:
        self.worker = worker
        self.counts = worker.counts
        self.slots = worker.ports.arena.slots
        self.filler = filler
        self.targets = targets
        self.guard = guard
        self.demux_out = demux_out
        self.flows: OrderedDict[Key, EchoFlow] = OrderedDict()
        self.bound: SocketBound | None = None
        """How many sockets there may be, together with those of TCP and UDP."""
        self._warned = False
        self._last_ident = int.from_bytes(os.urandom(2), "big")

    # --- guest -> host ------------------------------------------------------------------

    def to_host(
        self, slot: int, off: int, length: int, guest_addr: int, remote_addr: int, ports: int, aux: int,
        link: int = 0,
    ) -> None:  # fmt: skip
        """Send one echo request (record ICMP_ECHO). Gives the reference back."""
        message = self.slots[slot][off : off + length]
        try:
            key = (guest_addr, ports >> 16, remote_addr)
            flow = self.flows.get(key) or self._open(key, link)
            if flow is not None:
                self._send(flow, message, ports, aux)
        finally:
            message.release()
            self.worker.free(slot)

    def _send(self, flow: EchoFlow, message: memoryview, ports: int, aux: int) -> None:
        self._use(flow)
        ttl, dont_fragment = aux & 0xFF, bool(aux & d.ECHO_DONT_FRAGMENT)
        try:
            if (flow.ttl, flow.dont_fragment) != (ttl, dont_fragment):
                host_icmp.set_path(flow.sock, ttl, dont_fragment=dont_fragment)
                flow.ttl, flow.dont_fragment = ttl, dont_fragment
            self._send_once_more(
                flow.sock, host_icmp.with_ident(message, flow.ident) if flow.ident else message
            )
            self.counts[_FORWARDED] += 1
        except OSError as error:
            if error.errno == errno.EMSGSIZE and dont_fragment:
                mtu = host_icmp.path_mtu(flow.sock)
                self._tell_error(flow, icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED, mtu, 0, ports & 0xFFFF)
            else:
                self.counts[_SEND_FAILED] += 1

    def _use(self, flow: EchoFlow) -> None:
        """A packet went either way."""
        flow.last_seen = monotonic()
        self.flows.move_to_end(flow.key)
        if self.bound is not None:
            self.bound.used(flow)

    def _send_once_more(self, sock: socket.socket, message: memoryview | bytes) -> None:
        """Send; an error about an earlier request, which the kernel reports here first, is not this one's."""
        try:
            sock.send(message)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise
            sock.send(message)

    def _open(self, key: Key, link: int) -> EchoFlow | None:
        guest_addr, _, remote_addr = key
        target = self.targets.icmp_target(remote_addr)
        if target.refused:
            self.counts[INDEX[target.refused]] += 1
            return None
        if self.guard.active and self.guard.refuses(guest_addr, remote_addr, 0, "icmp"):
            return None
        self._make_room(guest_addr)
        addr = ipv4.addr_text(target.addr)
        bound = self.bound
        try:
            if bound is None:
                sock = host_icmp.open_echo(addr)
            else:
                sock = bound.datagram_socket(link, lambda: host_icmp.open_echo(addr))
        except OSError as error:
            if error.errno in host_icmp.NOT_PERMITTED:
                self.counts[_NOT_PERMITTED] += 1
                self._warn(error)
            elif bound is None or error.errno not in NO_DESCRIPTOR:
                self.counts[_SEND_FAILED] += 1
            return None
        flow = self.flows[key] = EchoFlow(key, sock, monotonic(), self._free_ident(), link)
        if self.bound is not None:
            self.bound.opened(flow, self._close)
        self.counts[_FLOWS] = len(self.flows)
        self.worker.register(sock.fileno(), ev.READ, lambda events: self._on_event(flow, events))
        return flow

    def _free_ident(self) -> int:
        """An identifier that no flow has; 0 where sockets have their own."""
        if host_icmp.OWN_IDENT:
            return 0
        used = {flow.ident for flow in self.flows.values()}
        while True:
            self._last_ident = self._last_ident % 0xFFFF + 1
            if self._last_ident not in used:
                return self._last_ident

    def _make_room(self, guest_addr: int) -> None:
        """Close the flow idle for longest, of this guest or of all, where a bound is reached."""
        own = [flow for key, flow in self.flows.items() if key[0] == guest_addr]
        if len(own) >= MAX_FLOWS_PER_GUEST:
            oldest = own[0]
        elif len(self.flows) >= MAX_FLOWS:
            oldest = next(iter(self.flows.values()))
        else:
            return
        self.counts[_EVICTED] += 1
        self._close(oldest)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            self.worker.log.warning(
                "pings of guests are not forwarded: this system allows no unprivileged ICMP sockets",
                error=str(error),
                setting="net.ipv4.ping_group_range",
            )

    # --- host -> guest ------------------------------------------------------------------

    def _on_event(self, flow: EchoFlow, events: int) -> None:
        if self.flows.get(flow.key) is not flow:
            return
        if events & ev.ERROR:
            for error in host_icmp.errors(flow.sock, READS):
                if error.type == icmp.TIME_EXCEEDED or (
                    error.type == icmp.UNREACHABLE and error.code == icmp.FRAGMENTATION_NEEDED
                ):
                    self._tell_error(flow, error.type, error.code, error.mtu, error.offender, error.seq)
        for _ in range(READS):
            if not self._read(flow):
                break

    def _read(self, flow: EchoFlow) -> bool:
        filler = self.filler
        if self.demux_out.room() <= 0 or not filler.place(MAX_MESSAGE):
            return self._discard(flow)
        slot, off = filler.slot, filler.off
        view = self.slots[slot][off : off + MAX_MESSAGE]
        try:
            length = flow.sock.recv_into(view)
        except BlockingIOError:
            return False
        except OSError:
            # The error of a request, which the error queue has told already.
            return True
        start = host_icmp.reply_in(view[:length], flow.ident)
        if start < 0:
            return True
        filler.commit(length)
        guest_addr, ident, remote_addr = flow.key
        self._use(flow)
        self.counts[_REPLIED] += 1
        self.demux_out.push(
            d.record(
                d.ICMP_REPLY,
                slot=slot,
                off=off + start,
                length=length - start,
                guest_addr=guest_addr,
                remote_addr=remote_addr,
                ports=ident << 16 | view[start + 6] << 8 | view[start + 7],
            )
        )
        return True

    def _discard(self, flow: EchoFlow) -> bool:
        try:
            flow.sock.recv(1)
        except OSError:
            return False
        self.counts[_NO_ROOM] += 1
        return True

    def _tell_error(self, flow: EchoFlow, kind: int, code: int, mtu: int, offender: int, seq: int) -> None:
        guest_addr, ident, remote_addr = flow.key
        self.counts[_ERRORS] += 1
        self.demux_out.push(
            d.record(
                d.ICMP_ERROR,
                guest_addr=guest_addr,
                remote_addr=remote_addr,
                ports=ident << 16 | seq,
                seq=offender,
                ack=mtu,
                aux=kind << 8 | code,
            )
        )

    # --- ends -------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Close what has been idle for too long."""
        while self.flows and self.deadline() <= now:
            self._close(next(iter(self.flows.values())))

    def deadline(self) -> float:
        """When the flow idle for longest is over."""
        return next(iter(self.flows.values())).last_seen + IDLE if self.flows else float("inf")

    def _close(self, flow: EchoFlow) -> None:
        del self.flows[flow.key]
        if self.bound is not None:
            self.bound.closed(flow)
        self.worker.unregister(flow.sock.fileno())
        flow.sock.close()
        self.counts[_FLOWS] = len(self.flows)

    def close(self) -> None:
        """Close every socket (the worker ends)."""
        for flow in list(self.flows.values()):
            self._close(flow)
