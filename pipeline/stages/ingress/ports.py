"""The links that are attached: their events, the frames that are gathered for each, and their end.

A link is edge-triggered: an event makes it *readable*, and it stays so until a read finds nothing. A link
copies the bytes that its socket does not take, and sends them when the socket has room again. Room is not
watched until a link was blocked for the first time: a unix socket reports it whenever the guest has read
something, and each report would wake the worker for nothing.
"""

import os
from collections.abc import Callable
from time import monotonic
from typing import Final

from pipeline.counter_block import add
from pipeline.counters import INDEX
from pipeline.engines.byte_rates import ByteRates
from pipeline.engines.offload.gso import Buffer
from pipeline.engines.offload.gso_udp import UdpSegmenter
from pipeline.ipc import events as ev
from pipeline.links.base import Link, LinkClosed
from pipeline.links.listener import Arrival
from pipeline.records.frames import ALL_LINKS
from pipeline.stages.ingress.capture import Capture
from pipeline.stages.ingress.fairness import Fairness
from pipeline.stages.ingress.guests import LINKS_PER_SECOND, TOO_MANY, TOO_OFTEN, GuestNumbers
from pipeline.stages.ingress.offload import VnetOffload
from pipeline.stages.ingress.pressure import Pressure
from pipeline.stages.ingress.shares import Shares
from pipeline.stages.ingress.traffic import LinkTraffic, TrafficRows
from pipeline.stages.worker import Worker
from pipeline.system import descriptor_limit
from pipeline.system.run_queue import RunQueue

MAX_BACKLOG: Final = 1024 * 1024
"""The most bytes that a link copies for a guest that does not read, while there are other links."""

_LINK_EVENTS: Final = ev.READ | ev.READ_HANGUP | ev.EDGE
_READ_EVENTS: Final = ev.READ | ev.READ_HANGUP | ev.HANGUP | ev.ERROR
_HANGUP_EVENTS: Final = ev.READ_HANGUP | ev.HANGUP | ev.ERROR
_NEEDLESS: Final = 16
"""After this many reports of room in a row that no link waited for, room is not watched any more."""

_BYTES_OUT: Final = INDEX["link_bytes_to_guest"]
_FRAMES_OUT: Final = INDEX["link_frames_to_guest"]
_CONNECTED: Final = INDEX["link_guest_connected"]
_DISCONNECTED: Final = INDEX["link_guest_disconnected"]
_LINKS: Final = INDEX["link_guests"]
_REFUSALS: Final = {
    TOO_MANY: "too few links are free",
    TOO_OFTEN: f"it opens more than {LINKS_PER_SECOND:.0f} links a second",
}


class Port:
    """One attached link, and the buffers that are gathered for it."""

    __slots__ = (
        "_counts",
        "_gathered",
        "arrival",
        "gathered_bytes",
        "guest_number",
        "link",
        "needless",
        "number",
        "offloads",
        "segmenter",
        "traffic",
        "watches_room",
    )

    def __init__(
        self, number: int, guest_number: int, arrival: Arrival, counts: memoryview, traffic: LinkTraffic
    ) -> None:
        self._counts = counts
        self.traffic = traffic
        self.number = number
        self.guest_number = guest_number
        """The number of the guest that opened this link (pipeline.stages.ingress.guests)."""
        self.arrival = arrival
        self.link: Link = arrival.link
        self.segmenter = _segmenter_for(self.link)
        self.watches_room = False
        """Whether the poller reports when the socket has room."""
        self.needless = 0
        """Reports of room since the last one that the link waited for."""
        self.offloads = False
        """Whether frames with virtio-net headers have arrived."""
        self._gathered: list[Buffer] = []
        self.gathered_bytes = 0
        """About how many bytes wait for flush()."""

    def begin_offload(self, vnet: VnetOffload) -> None:
        """Frames with virtio-net headers have arrived. From now on those to the guest need headers too."""
        self.offloads = True
        self.segmenter = _segmenter_for(self.link)
        vnet.begin(self.number, self.link)

    def is_full(self) -> bool:
        """Whether the backlog of a guest that does not read is full, so that further frames are dropped."""
        return self.link.blocked and self.link.backlog_bytes >= MAX_BACKLOG

    def gather(self, buffers: list[Buffer], size: int) -> None:
        """Keep buffers of the segmenter, about size bytes, for the next flush()."""
        self._gathered += buffers
        self.gathered_bytes += size

    def flush(self, capture: Capture) -> int:
        """Send what is gathered. Returns the number of bytes. Raises LinkClosed.

        Afterwards the link does not need the memory of the buffers.
        """
        gathered = self._gathered
        self._gathered = []
        self.gathered_bytes = 0
        try:
            if gathered:
                if capture.active:
                    capture.sent(gathered, self.link.framing, self.link.vnet_len)
                self.link.send(gathered)
            if self.link.drops:
                count_drops(self._counts, self.link.take_drops())
        finally:
            segmenter = self.segmenter
            frames, length = segmenter.take_counts()
            add(self._counts, _FRAMES_OUT, frames)
            add(self._counts, _BYTES_OUT, length)
            self.traffic.frames_to_guest += frames
            self.traffic.bytes_to_guest += length
            segmenter.reset()
        return length


def _segmenter_for(link: Link) -> UdpSegmenter:
    return UdpSegmenter(link.framing, link.vnet_len, link.guest_features)


class Ports:
    """All attached links, by number. Numbers are reused as late as possible."""

    def __init__(
        self, worker: Worker, fairness: Fairness, on_detached: Callable[[Port, LinkClosed], None]
    ) -> None:
        """on_detached is called for each link that has ended, after it was closed and its number is free."""
        self._worker = worker
        self._counts = worker.counts
        self._on_detached = on_detached
        self.traffic = TrafficRows(worker.counts)
        self.last_number = 0
        self.guests = GuestNumbers(descriptor_limit.links())
        self.number_from(0)
        self.fairness = fairness
        self._run_queue = RunQueue()
        self.shares = Shares(
            Pressure(os.cpu_count() or 1, self._run_queue.waited, lambda: worker.idle.seconds)
        )
        self.rates = ByteRates()
        """Of the bytes that guests send."""
        self.by_number: dict[int, Port] = {}
        self.readable: dict[Port, None] = {}
        """Links that may have something to read. Those that have waited longest come first."""

    def number_from(self, last: int) -> None:
        """Go on with numbers. last: the last one of a former daemon.

        A rule about a link, or what somebody has decided about one, must not hold for another link. Each link
        took one number, so the count of links says where a dead predecessor of this worker has stopped.
        """
        self.last_number = (last + self._counts[_CONNECTED]) % (ALL_LINKS - 1)
        # There are no more guests than links.
        self.guests.number_from(self.last_number)

    def attach(self, arrival: Arrival) -> Port | None:
        """Attach a link. None, and the link is closed, if its guest may not have another one now."""
        link = arrival.link
        now = monotonic()
        self._forget_guests(now)
        if reason := self.guests.refusal(arrival.identity, now):
            self._counts[INDEX[reason]] += 1
            self._worker.log.warning(
                "guest refused", reason=_REFUSALS[reason], peer=arrival.peer, **arrival.opened_by()
            )
            link.close()
            return None
        return self._enter(arrival, self._free_number(), self.guests.add_link(arrival.identity), now)

    def adopt(self, arrival: Arrival, number: int, guest_number: int) -> Port:
        """Attach a link that a predecessor of this worker has numbered already."""
        self.guests.adopt_link(arrival.identity, guest_number)
        return self._enter(arrival, number, guest_number, monotonic())

    def _enter(self, arrival: Arrival, number: int, guest_number: int, now: float) -> Port:
        link = arrival.link
        port = Port(number, guest_number, arrival, self._counts, self.traffic.open(number))
        self.shares.add(port.guest_number, now)
        self._count_guests()
        self.by_number[port.number] = port
        self.readable[port] = None
        self._worker.register(link.fileno(), _LINK_EVENTS, lambda events: self._on_event(port, events))
        if link.write_fileno() != link.fileno():
            self._worker.register(
                link.write_fileno(), link.write_mask, lambda events: self._on_writable(port, events)
            )
        self._counts[_CONNECTED] += 1
        self._counts[_LINKS] = len(self.by_number)
        return port

    def detach(self, port: Port, error: LinkClosed) -> None:
        """End a link, unless it has ended already."""
        link = port.link
        if self.by_number.get(port.number) is not port:
            return
        if error.reason:
            self._counts[INDEX[error.reason]] += 1
        count_drops(self._counts, link.take_drops())
        self._worker.unregister(link.fileno())
        if link.write_fileno() != link.fileno():
            self._worker.unregister(link.write_fileno())
        link.close()
        self.readable.pop(port, None)
        del self.by_number[port.number]
        self.traffic.close(port.traffic)
        now = monotonic()
        self.guests.remove_link(port.guest_number, now)
        self._count_guests()
        self._forget_guests(now)
        self._counts[_DISCONNECTED] += 1
        self._counts[_LINKS] = len(self.by_number)
        self._on_detached(port, error)

    def _count_guests(self) -> None:
        linked = len(self.guests) > 1
        if linked != self.shares.linked:
            self.shares.linked = linked
            # While there was one guest, nobody noted which slots it holds.
            self.fairness.forget_holders()

    def bytes_of_guests(self) -> dict[str, dict[int, int]]:
        """What each guest has sent and got on the links that it has, by its number."""
        sent: dict[int, int] = {}
        got: dict[int, int] = {}
        for port in self.by_number.values():
            guest = port.guest_number
            sent[guest] = sent.get(guest, 0) + port.traffic.bytes_from_guest
            got[guest] = got.get(guest, 0) + port.traffic.bytes_to_guest
        return {"bytes_from_guest": sent, "bytes_to_guest": got}

    def hang_up(self, link: Link, error: LinkClosed) -> None:
        """End the port of a link, if it has one."""
        for port in list(self.by_number.values()):
            if port.link is link:
                self.detach(port, error)

    def wake(self, link: Link) -> None:
        """A link may have something to read, at a descriptor that its listener polls."""
        for port in self.by_number.values():
            if port.link is link:
                link.on_readable(False)
                self.readable[port] = None

    def charge(self, port: Port, frames: int, now: float) -> None:
        """This many frames of a link's guest were dropped."""
        port.traffic.frames_dropped += frames
        # While all others are silent, bad frames harm nobody, and must not become the debt of a long pause.
        if self.shares.several and not port.link.tunnel_mtu:
            # One guest of another host must not stop all others, whose frames come over the same link.
            self.fairness.charge(port.guest_number, frames, now)

    def await_room(self, port: Port) -> None:
        """A link is blocked. From now on the poller reports when its socket has room."""
        if not port.watches_room and port.link.write_fileno() == port.link.fileno():
            port.watches_room = True
            port.needless = 0
            self._worker.modify(port.link.fileno(), _LINK_EVENTS | ev.WRITE)

    def await_rooms(self) -> None:
        """The same for all links that are blocked, whoever has sent to them (a listener's probe, say)."""
        for port in self.by_number.values():
            if port.link.blocked:
                self.await_room(port)

    def is_empty(self, port: Port) -> None:
        """A read found nothing: the link waits for its next event."""
        self.readable.pop(port, None)

    def was_read(self, port: Port) -> None:
        """A link was read. It goes to the end of the queue, so links that were not read come first."""
        if port in self.readable:
            self.readable[port] = self.readable.pop(port)

    def close(self) -> None:
        """End all links."""
        for port in list(self.by_number.values()):
            self.detach(port, LinkClosed("the daemon stops"))
        self._run_queue.close()

    def _forget_guests(self, now: float) -> None:
        """Close the accounts of guests that are gone."""
        for number in self.guests.expire(now):
            self.shares.remove(number)
            self.fairness.forget(number)
        self.rates.forget_full(now)

    def _free_number(self) -> int:
        while True:
            self.last_number = self.last_number % (ALL_LINKS - 1) + 1
            if self.last_number not in self.by_number:
                return self.last_number

    def _on_event(self, port: Port, events: int) -> None:
        if events & ev.WRITE and port.watches_room and not self._on_room(port):
            return
        if events & _READ_EVENTS:
            port.link.on_readable(not events & _HANGUP_EVENTS)
            self.readable[port] = None

    def _on_room(self, port: Port) -> bool:
        """The socket of a link has room. False if that ended the link."""
        if port.link.blocked:
            port.needless = 0
            return self._send_copied(port)
        port.needless += 1
        if port.needless >= _NEEDLESS:
            port.watches_room = False
            self._worker.modify(port.link.fileno(), _LINK_EVENTS)
        return True

    def _on_writable(self, port: Port, events: int) -> None:
        """The other descriptor of a link that has two."""
        if events & _HANGUP_EVENTS:
            self.detach(port, LinkClosed("cannot write: the reader is gone"))
        elif port.link.blocked:
            self._send_copied(port)

    def _send_copied(self, port: Port) -> bool:
        """Send what the link has copied. False if that ended the link."""
        try:
            port.link.flush()
        except LinkClosed as error:
            self.detach(port, error)
            return False
        return True


def count_drops(counts: memoryview, drops: dict[str, int]) -> None:
    """Count dropped frames. drops: how many, by the name of their counter."""
    for reason, dropped in drops.items():
        counts[INDEX[reason]] += dropped
