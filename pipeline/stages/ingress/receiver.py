"""From guests to rings: a link's bytes go into a slot, its frames through GRO, the records to workers."""

from typing import Final

from pipeline.counters import INDEX
from pipeline.engines.offload import gro
from pipeline.engines.offload.burst import Item
from pipeline.links.base import LinkClosed
from pipeline.stages.ingress.capture import Capture
from pipeline.stages.ingress.fairness import Fairness
from pipeline.stages.ingress.offload import VnetOffload
from pipeline.stages.ingress.ports import Port, Ports, count_drops
from pipeline.stages.ingress.steering import Steering
from pipeline.stages.worker import Worker
from pipeline.topology import MAX_REFS

READS_A_STEP: Final = 4
"""Bursts read from one link before the results are published."""

_BYTES_IN: Final = INDEX["link_bytes_from_guest"]
_FRAMES_IN: Final = INDEX["link_frames_from_guest"]
_PAUSED: Final = INDEX["link_reads_paused_no_slot"]


class Receiver:
    """Reads the links of all guests, in turns."""

    def __init__(
        self,
        worker: Worker,
        ports: Ports,
        steering: Steering,
        fairness: Fairness,
        card: VnetOffload,
        capture: Capture,
    ) -> None:
        self._counts = worker.counts
        self._pool = worker.pool
        self._slots = worker.ports.arena.slots
        self._ports = ports
        self._steering = steering
        self._fairness = fairness
        self._card = card
        self._capture = capture
        self.more = False
        """Whether a link had more than its share of the last read()."""

    def read(self, now: float) -> int:
        """Read each link that may be read; the number of bursts."""
        self.more = False
        ports = self._ports
        if not ports.readable or not self._fairness.may_read(now):
            return 0
        work = 0
        for port in list(ports.readable):
            if len(ports.by_number) == 1 or self._fairness.may_read_link(port.number, now):
                count = self._read_link(port, now)
                if count:
                    ports.was_read(port)
                work += count
        return work

    def _read_link(self, port: Port, now: float) -> int:
        """Read at most READS_A_STEP bursts of one link; how many it were."""
        link = port.link
        for count in range(READS_A_STEP):
            if self._steering.room() <= 0 or self._pool.refs_out > MAX_REFS:
                return count
            try:
                burst = link.read_burst()
            except LinkClosed as error:
                self._ports.detach(port, error)
                return count
            if burst is None:
                if link.starved:
                    # No slot is free. The link stays readable, and is read again when one is.
                    self._counts[_PAUSED] += 1
                else:
                    self._ports.is_empty(port)
                return count
            slot, frames = burst
            if link.vnet_len and port.offload is None:
                port.begin_offload(self._card)
            if link.drops:
                count_drops(self._counts, link.take_drops())
            if frames:
                self._pass_on(port, slot, frames, now)
        self.more = True
        return READS_A_STEP

    def _pass_on(self, port: Port, slot: int, frames: list[tuple[int, int]], now: float) -> None:
        """Push the records of the frames in a slot."""
        link = port.link
        view = self._slots[slot]
        items: list[Item]
        if port.offload is not None:
            items, drops = self._card.receive(port.number, port.offload, slot, frames)
        else:
            items, drops = gro.coalesce(view, frames, port.number, slot, link.verify)
            if items:
                self._pool.ref(slot, len(items))
        if self._capture.active:
            features = port.offload.features if port.offload is not None else 0
            self._capture.received(view, frames, link.vnet_len, features)
        if self._fairness.scarce:
            self._fairness.drop_data(items)
        self._steering.pass_on(view, items, now)
        if drops:
            count_drops(self._counts, drops)
            self._fairness.charge(port.number, sum(drops.values()), now)
        self._counts[_FRAMES_IN] += len(frames)
        self._counts[_BYTES_IN] += sum([length for _, length in frames])
