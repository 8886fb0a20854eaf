"""Sends the resolver's datagrams to guests, by way of demux.

Each payload is copied into a slot of this worker's own pool. If no slot is free, or the backlog towards demux
is full, the reply is dropped and counted. DHCP and DNS clients ask again.
"""

from typing import Final

from pipeline.counters import INDEX
from pipeline.host.filler import SlotFiller
from pipeline.ipc.arena import HEADROOM, SLOT_BYTES
from pipeline.records.flows import FlowKey
from pipeline.records.services import ServiceDatagram
from pipeline.records.udp import HEADER_ROOM
from pipeline.stages.worker import Worker

MAX_BACKLOG: Final = 1024
"""The most replies that wait for room in the ring to demux."""

_NO_SLOT: Final = INDEX["resolver_reply_dropped_no_slot"]
_RING_FULL: Final = INDEX["resolver_reply_dropped_ring_full"]


class Replies:
    """Sends replies to guests."""

    def __init__(self, worker: Worker) -> None:
        self._counts = worker.counts
        self._slots = worker.ports.arena.slots
        self._demux_out = worker.ports.rings_out["demux"]
        self._filler = SlotFiller(worker.pool, SLOT_BYTES, HEADROOM, HEADER_ROOM)

    def send(self, link: int, key: FlowKey, payload: bytes) -> None:
        """Send a datagram to the guest's end of key, from its other end."""
        if self._demux_out.backlog >= MAX_BACKLOG:
            self._counts[_RING_FULL] += 1
            return
        length = len(payload)
        filler = self._filler
        if not filler.place(length):
            self._counts[_NO_SLOT] += 1
            return
        slot, off = filler.slot, filler.off
        self._slots[slot][off : off + length] = payload
        filler.commit(length)
        self._demux_out.push(ServiceDatagram.pack(link, key, slot, off, length))

    def slots_held(self) -> list[int]:
        """The slot that is being filled, if there is one."""
        return self._filler.slots_held()

    def release_idle(self) -> None:
        """Give the slot back if nothing else needs it, so that an idle worker holds none."""
        self._filler.release_idle()

    def close(self) -> None:
        """Give back the slot that is being filled."""
        self._filler.retire()
