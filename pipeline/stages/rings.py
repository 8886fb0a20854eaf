"""All rings of one worker, and the bells of the workers at their other ends.

WorkerRings does what is needed for the rings at the end of a breath, before a sleep and after it. It wakes a
worker of the same process directly (``wake``). For a worker of another process it rings a bell, which costs a
system call if that worker sleeps.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from pipeline.ipc.fabric import WorkerPorts
from pipeline.ipc.ring import Producer, SlotProducer

AnyProducer = Producer | SlotProducer


class Neighbor(Protocol):
    """A worker of the same process, as its neighbours see it."""

    def wake(self) -> None:
        """Records were published for this worker."""
        ...

    def wake_for_slots(self) -> None:
        """Slots of this worker were freed."""
        ...


class _Output:
    """A ring that this worker writes, and the function that wakes the worker which reads it."""

    def __init__(self, ring: AnyProducer, wake: Callable[[], None]) -> None:
        self.ring = ring
        self.queue: list[Any] = ring.queue
        self.wake = wake


class WorkerRings:
    """All rings of one worker."""

    def __init__(self, ports: WorkerPorts) -> None:
        self._ports = ports
        self._armed: list[AnyProducer] = []
        self._slots_wanted = False
        self.share({})

    def share(self, together: Mapping[str, Neighbor]) -> None:
        """Set which other workers are in this process, by name. They are woken without a bell."""
        ports, bells = self._ports, self._ports.bells

        def ring_of(peer: str) -> Callable[[], None]:
            return together[peer].wake if peer in together else bells[peer].ring

        def slot_ring_of(home: str) -> Callable[[], None]:
            return together[home].wake_for_slots if home in together else bells[home].ring_for_slots

        self._prewakes = {peer: bell.prewake for peer, bell in bells.items() if peer not in together}
        self._outputs = [
            *(_Output(ring, ring_of(peer)) for peer, ring in ports.rings_out.items()),
            *(_Output(ring, slot_ring_of(home)) for home, ring in ports.free_out.items()),
        ]
        peers = [*ports.rings_out, *ports.free_out]
        outputs = list(zip(peers, self._outputs, strict=True))
        self._producers = [output.ring for peer, output in outputs if peer not in together]
        """Rings whose consumer may run while this worker sleeps."""
        self.outputs_here = [output for peer, output in outputs if peer in together]
        """Rings whose consumer is in this process."""
        self._inputs = [ring for peer, ring in ports.rings_in.items() if peer not in together]
        self._frees = [ring for peer, ring in ports.free_in.items() if peer not in together]
        self._input_bells = [bells[peer] for peer in ports.rings_in if peer not in together]
        self._free_bells = [bells[peer] for peer in ports.free_in if peer not in together]
        self.has_peers_outside = not together or bool(self._inputs or self._frees or self._producers)
        """Whether workers of other processes may ring this worker's bell."""

    def prewake(self, peer: str) -> None:
        """Wake a worker of another process, because something will come to it soon."""
        if (prewake := self._prewakes.get(peer)) is not None:
            prewake()

    def publish(self) -> None:
        """Publish all records and slots that were pushed, and ring the bells of their consumers."""
        for output in self._outputs:
            if output.queue and output.ring.publish():
                output.wake()

    def forget(self, peers: Collection[str]) -> None:
        """Other workers have died: empty all rings with them. What was in these is lost."""
        ports = self._ports
        for rings in (ports.rings_in, ports.free_in):
            for peer, consumer in rings.items():
                if peer in peers:
                    consumer.forget()
        for outputs in (ports.rings_out, ports.free_out):
            for peer, producer in outputs.items():
                if peer in peers:
                    producer.forget()

    def publish_for_good(self) -> None:
        """Publish without ringing, when this worker ends. The others find the entries when they look."""
        for output in self._outputs:
            output.ring.publish()

    def report_room(self) -> None:
        """Ring the bells of producers that wait for room in the rings that this worker reads."""
        for index, ring in enumerate(self._inputs):
            if ring.wake_due():
                self._input_bells[index].ring()
        for index, free_ring in enumerate(self._frees):
            if free_ring.wake_due():
                self._free_bells[index].ring()

    def has_room_again(self) -> bool:
        """Whether a ring to a worker of this process was nearly full, and has room again."""
        found = False
        for output in self.outputs_here:
            if output.ring.scarce:
                output.ring.room()
                if not output.ring.scarce:
                    found = True
        return found

    def announce(self, slots_wanted: bool) -> None:
        """Announce a sleep: from now on peers ring for records, room, and (if wanted) freed slots."""
        self._slots_wanted = slots_wanted
        self._armed = [ring for ring in self._producers if ring.arm()]
        self._ports.bell.announce(slots_wanted)

    def awake(self) -> None:
        """End what announce() began: the sleep is over, or was not needed."""
        self._ports.bell.awake()
        for ring in self._armed:
            ring.disarm()

    def inputs_ready(self) -> bool:
        """Check the inputs again after announce(): whether something came before, so that no peer rings."""
        for ring in self._inputs:
            if ring.fresh():
                return True
        for producer in self._armed:
            if producer.released():
                return True
        if self._slots_wanted:
            for free_ring in self._frees:
                if free_ring.pending():
                    return True
        return False
