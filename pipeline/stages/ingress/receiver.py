"""From guests to rings: a link's bytes go into a slot, its frames through GRO, the records to workers."""

from time import monotonic, thread_time
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
"""Bursts read from one link before the results are published; with several guests, rounds of one each."""
STEP_S: Final = 0.0003
"""Work in all workers, about, after which the results are published, with several guests."""

_BYTES_IN: Final = INDEX["link_bytes_from_guest"]
_FRAMES_IN: Final = INDEX["link_frames_from_guest"]
_PAUSED: Final = INDEX["link_reads_paused_no_slot"]
_SMALL_WORK: Final = INDEX["link_reads_paused_small_work"]


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
        self._shares = ports.shares
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
        if self._shares.several:
            return self._read_in_turns(now)
        work = 0
        for port in list(ports.readable):
            count = self._read_link(port, now, READS_A_STEP)
            if count:
                ports.was_read(port)
            if count == READS_A_STEP:
                self.more = True
            work += count
        return work

    def deadline(self) -> float:
        """When a guest that has something to read, and has to wait, may be read; inf if none has to."""
        readable = self._ports.readable
        several = self._shares.several
        guests = {port.guest_number for port in readable}
        paused = self._fairness.deadline(guests, many=several)
        if not several or self._fairness.waits:
            return paused
        return min(paused, self._shares.deadline(guests, monotonic()))

    def _read_in_turns(self, now: float) -> int:
        """Rounds in which each guest that may be read has its turn; the number of bursts."""
        ports, shares = self._ports, self._shares
        shares.refill(now)
        self._counts[_SMALL_WORK] = shares.pauses
        work = 0
        shares.expected = 0.0
        for _ in range(READS_A_STEP):
            # A round in which nobody can be read must not count: it would cancel what guests owe each other.
            if not self._has_room():
                return work
            turns = self._turns(now)
            readable = len(ports.readable)
            bursts = 0
            for guest in shares.order(turns):
                bursts += self._take_turn(turns[guest], now)
            # A link that was found empty hid the next link of its guest, which has no other event.
            if not bursts and len(ports.readable) == readable:
                return work
            work += bursts
            if shares.expected > STEP_S:
                break
        self.more = True
        return work

    def _turns(self, now: float) -> dict[int, Port]:
        """The guests that may be read, each with the link of it that has waited longest."""
        first: dict[int, Port] = {}
        for port in self._ports.readable:
            first.setdefault(port.guest_number, port)
        fairness, shares = self._fairness, self._shares
        greedy = fairness.holding_too_many()
        return {
            guest: port
            for guest, port in first.items()
            # The pause comes first, so that one that is over ends even if the guest has to wait all the same.
            if fairness.may_read_guest(guest, now) and shares.may_read(guest, now) and guest not in greedy
        }

    def _take_turn(self, port: Port, now: float) -> int:
        """One read of a guest, which is charged for the time; the number of bursts."""
        shares = self._shares
        port.link.read_limit = shares.read_limit(port.guest_number)
        began = thread_time()
        bursts = self._read_link(port, now, 1)
        if bursts:
            self._ports.was_read(port)
        elif port not in self._ports.readable:
            shares.is_empty(port.guest_number)
        shares.charge(port.guest_number, thread_time() - began, now)
        return bursts

    def _has_room(self) -> bool:
        """Whether what is read now finds room on its way."""
        return self._steering.room() > 0 and self._pool.refs_out <= MAX_REFS

    def _read_link(self, port: Port, now: float, most: int) -> int:
        """Read at most that many bursts of one link; how many it were."""
        link = port.link
        for count in range(most):
            if not self._has_room():
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
        return most

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
            self._ports.charge(port, sum(drops.values()), now)
        count = sum([length for _, length in frames])
        self._counts[_FRAMES_IN] += len(frames)
        self._counts[_BYTES_IN] += count
        account = port.account
        account.frames_from_guest += len(frames)
        account.bytes_from_guest += count
        if self._shares.several:
            self._fairness.holds(port.guest_number, slot)
            self._shares.was_read(port.guest_number, count, len(frames), now)
