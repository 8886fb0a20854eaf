"""From guests to rings: reads a link's bytes into a slot, merges frames by GRO, and pushes their records."""

from collections.abc import Callable
from time import monotonic, thread_time
from typing import Final

from pipeline.counter_block import add
from pipeline.counters import INDEX
from pipeline.engines.offload import gro
from pipeline.engines.offload.burst import Item
from pipeline.links.base import FULL_READ, LinkClosed
from pipeline.stages.ingress.apart import Apart
from pipeline.stages.ingress.fairness import Fairness
from pipeline.stages.ingress.live import Captures
from pipeline.stages.ingress.offload import VnetOffload
from pipeline.stages.ingress.ports import Port, Ports, count_drops
from pipeline.stages.ingress.steering import Steering
from pipeline.stages.worker import Worker
from pipeline.topology import MAX_REFS

READS_A_STEP: Final = 4
"""The most bursts of one link before the results are published. With several guests: the most rounds."""
STEP_S: Final = 0.0003
"""About how many seconds of work in all workers are read before the results are published, while several
guests have something to read."""
LONG_STEP_S: Final = 0.0015
"""The same while only one of them has."""

_BYTES_IN: Final = INDEX["link_bytes_from_guest"]
_FRAMES_IN: Final = INDEX["link_frames_from_guest"]
_PAUSED: Final = INDEX["link_reads_paused_no_slot"]
_SMALL_WORK: Final = INDEX["link_reads_paused_small_work"]
_BYTE_RATE: Final = INDEX["link_reads_paused_byte_rate"]


class Receiver:
    """Reads the links of all guests, in turns."""

    def __init__(
        self,
        worker: Worker,
        ports: Ports,
        steering: Steering,
        fairness: Fairness,
        vnet: VnetOffload,
        captures: Captures,
        on_shared: Callable[[], object],
        apart: Apart | None = None,
        *,
        ipv6: bool = False,
    ) -> None:
        """on_shared: called before a read if Shares.several has changed.

        ipv6: whether IPv6 packets for the gateway become ranges.
        """
        self._on_shared = on_shared
        self._ipv6 = ipv6
        self._counts = worker.counts
        self._pool = worker.pool
        self._slots = worker.ports.arena.slots
        self._ports = ports
        self._shares = ports.shares
        self._rates = ports.rates
        self._steering = steering
        self._fairness = fairness
        self._vnet = vnet
        self._capture = captures.file
        self._live = captures.live
        self._apart = apart
        self.more = False
        """Whether the last read() left something in a link."""

    def read(self, now: float) -> int:
        """Read each link that may be read. Returns the number of bursts."""
        self.more = False
        ports = self._ports
        if not ports.readable or not self._fairness.may_read(now):
            return 0
        if self._rates.on:
            self._counts[_BYTE_RATE] = self._rates.pauses
        shares = self._shares
        if (shares.linked or shares.several) and shares.meet(
            [port.guest_number for port in ports.readable], now
        ):
            self._on_shared()
        if shares.several:
            return self._read_in_turns(now)
        work = 0
        shares.begin_step()
        greedy = self._fairness.holding_too_many() if shares.linked else set()
        for port in list(ports.readable):
            if shares.linked and work >= READS_A_STEP:
                self.more = True
                break
            if port.guest_number in greedy:
                continue
            port.link.read_limit = FULL_READ
            if self._rates.on and not self._rates.may_pass(port.guest_number, now):
                continue
            count = self._read_link(port, now, READS_A_STEP)
            if count:
                ports.was_read(port)
            if count == READS_A_STEP:
                self.more = True
            work += count
        return work

    def deadline(self) -> float:
        """When the first guest that has something to read, but must wait, may be read; inf if none waits."""
        readable = self._ports.readable
        several = self._shares.several
        guests = {port.guest_number for port in readable}
        paused = self._fairness.deadline(guests, many=several)
        if self._rates.on and not self._fairness.waits:
            paused = min(paused, self._rates.deadline(guests))
        if not several or self._fairness.waits:
            return paused
        return min(paused, self._shares.deadline(guests, monotonic()))

    def _read_in_turns(self, now: float) -> int:
        """Read in rounds: each guest that may be read has one turn in each. Returns the number of bursts."""
        ports, shares = self._ports, self._shares
        shares.refill(now)
        self._counts[_SMALL_WORK] = shares.pauses
        work = 0
        shares.begin_step()
        for _ in range(READS_A_STEP):
            # A round in which no guest can be read must not begin: it would cancel the guests' debts.
            if not self._has_room():
                return work
            turns = self._turns(now)
            readable = len(ports.readable)
            crowded = shares.crowded(turns, now)
            bursts = 0
            most = STEP_S if crowded else LONG_STEP_S
            order = shares.order(turns)
            for at, guest in enumerate(order, 1):
                limit = shares.read_limit(guest, crowded=crowded)
                bursts += self._take_turn(turns[guest], limit, now)
                if shares.expected > most or shares.is_full:
                    shares.put_off(order[at:])
                    break
            # If a link was found empty, the next link of its guest may still have something to read.
            if not bursts and len(ports.readable) == readable:
                return work
            work += bursts
            if not ports.readable:
                return work
            if shares.expected > most or shares.is_full:
                break
        self.more = True
        return work

    def _turns(self, now: float) -> dict[int, Port]:
        """The guests that may be read, each with its link that has waited longest."""
        first: dict[int, Port] = {}
        for port in self._ports.readable:
            first.setdefault(port.guest_number, port)
        fairness, shares, rates = self._fairness, self._shares, self._rates
        greedy = fairness.holding_too_many()
        turns = {}
        for guest, port in first.items():
            # Both are asked in any case: they end what is over, even if the guest waits for something else.
            behaves = fairness.may_read_guest(guest, now)
            passes = not rates.on or rates.may_pass(guest, now)
            if behaves and passes and shares.may_read(guest, now) and guest not in greedy:
                turns[guest] = port
        return turns

    def _take_turn(self, port: Port, limit: int, now: float) -> int:
        """Read up to ``limit`` bytes of a guest, and charge it for the time. Returns the number of bursts."""
        shares = self._shares
        port.link.read_limit = limit
        began = thread_time()
        bursts = self._read_link(port, now, 1)
        if bursts and port.link.drained:
            # To find it empty would take another round.
            self._ports.is_empty(port)
        elif bursts:
            self._ports.was_read(port)
        if port not in self._ports.readable:
            shares.is_empty(port.guest_number)
        shares.charge(port.guest_number, thread_time() - began, now)
        return bursts

    def _has_room(self) -> bool:
        """Whether the records of a read find room in the rings, and its slots may get more references."""
        return self._steering.has_room() and self._pool.refs_out <= MAX_REFS

    def _read_link(self, port: Port, now: float, most: int) -> int:
        """Read at most that many bursts of one link. Returns how many it read."""
        link, shares = port.link, self._shares
        for count in range(most):
            if not self._has_room():
                return count
            if shares.is_full:
                # Another guest may come, and must not wait for many frames of unknown cost.
                self.more = True
                return count
            link.frame_limit = shares.frame_limit(link.read_limit)
            try:
                burst = link.read_burst()
            except LinkClosed as error:
                self._ports.detach(port, error)
                return count
            if burst is None:
                if link.starved:
                    # No slot is free. The link stays readable, and is read again when a slot is free.
                    self._counts[_PAUSED] += 1
                else:
                    self._ports.is_empty(port)
                return count
            slot, frames = burst
            if link.vnet_len and not port.offloads:
                port.begin_offload(self._vnet)
                if link.blocked:
                    self._ports.await_room(port)
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
        if port.offloads:
            items, drops = self._vnet.receive(port.number, link.features, slot, frames)
        else:
            items, drops = gro.coalesce(view, frames, port.number, slot, link.verify, False, self._ipv6)
            if items:
                self._pool.ref(slot, len(items))
        if self._capture.active:
            self._capture.received(view, frames, link.vnet_len, link.features)
        if self._live.passing or (drops and self._live.dropping):
            self._show(port, slot, frames, items, drops)
        if self._apart is not None:
            items = self._apart.receive(port.number, items, drops)
        if self._fairness.scarce:
            self._fairness.drop_data(items)
        self._steering.pass_on(view, items, now)
        if drops:
            count_drops(self._counts, drops)
            self._ports.charge(port, sum(drops.values()), now)
        count = sum([length for _, length in frames])
        add(self._counts, _FRAMES_IN, len(frames))
        add(self._counts, _BYTES_IN, count)
        if self._rates.on:
            self._rates.charge(port.guest_number, count, now)
        traffic = port.traffic
        traffic.frames_from_guest += len(frames)
        traffic.bytes_from_guest += count
        small = 0.0
        if self._shares.linked:
            small = self._shares.count_frames(frames)
            self._fairness.holds(port.guest_number, slot)
        if self._shares.several:
            self._shares.was_read(
                port.guest_number,
                count,
                len(frames),
                small,
                now,
                emptied=link.drained,
                more=link.holds_frames or len(frames) >= link.frame_limit,
            )

    def _show(
        self, port: Port, slot: int, frames: list[tuple[int, int]], items: list[Item], drops: dict[str, int]
    ) -> None:
        """Give frames to the captures that run."""
        if self._live.passing:
            self._live.received(port, slot, frames, items, bool(drops))
        if drops and self._live.dropping:
            self._live.refused(port, slot, frames, items)
