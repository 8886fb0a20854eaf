"""A part of the egress worker alone: a pool, rings that keep what is pushed, and no other worker."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pipeline.counters import INDEX
from pipeline.ipc.arena import SLOT_BYTES, Pool
from pipeline.records import kinds
from pipeline.records.run import Run
from pipeline.stages.egress.context import EgressContext
from tests.support.layouts import decode

SLOTS = 8


class Sent:
    """A record that egress pushed: its kind, and what it says."""

    def __init__(self, record: bytes) -> None:
        self.kind = record[0]
        self.says: Any = decode(record)


class EgressRig:
    """What the parts of egress need of a worker."""

    def __init__(self, targets: Any, make_policy: Callable[[Any], Any] | None = None) -> None:
        """make_policy: of the worker. Without it every flow is allowed."""
        self.pool = Pool(0, SLOTS)
        self.slots = [memoryview(bytearray(SLOT_BYTES)) for _ in range(SLOTS)]
        self.counts = [0] * len(INDEX)
        self.records: list[Sent] = []
        """Those to demux and those to ingress, in the order in which they were pushed."""
        self.callbacks: dict[int, Any] = {}
        """Of registered descriptors."""
        ring = SimpleNamespace(push=lambda record: self.records.append(Sent(record)), room=lambda: 100)
        self.worker: Any = SimpleNamespace(
            pool=self.pool,
            counts=self.counts,
            index=0,
            ports=SimpleNamespace(
                arena=SimpleNamespace(slots=self.slots), rings_out={"demux": ring, "ingress": ring}
            ),
            free=lambda slot, tag=0: self.pool.unref(slot),
            register=lambda fd, _events, callback: self.callbacks.__setitem__(fd, callback),
            unregister=lambda fd: self.callbacks.pop(fd),
            log=SimpleNamespace(warning=lambda *_, **__: None),
        )
        policy: Any = make_policy(self.worker) if make_policy else SimpleNamespace(active=False)
        self.context = EgressContext(self.worker, targets, policy, tcp_workers=0)

    def fill(self, payloads: list[bytes], stride: int = 1500) -> Run:
        """Datagrams in a slot, all of one length but for a shorter last, with one reference."""
        slot = self.pool.alloc()
        for index, payload in enumerate(payloads):
            self.slots[slot][300 + index * stride :][: len(payload)] = payload
        length = sum(map(len, payloads))
        return Run(slot, 300, length, stride if len(payloads) > 1 else 0, len(payloads[0]))

    def payloads(self, records: list[Sent]) -> list[bytes]:
        """The datagrams that records describe. Their references are given back."""
        found = []
        for record in records:
            assert record.kind in (kinds.UDP_DATA, kinds.UDP_TO_GUEST)
            run: Run = record.says
            found += [bytes(view) for view in run.views(self.slots[run.slot])]
            self.pool.unref(run.slot)
        return found

    def count(self, name: str) -> int:
        """A counter."""
        return self.counts[INDEX[name]]

    def retire(self) -> None:
        """Give back what fillers keep. Nothing may be held by anybody then."""
        self.context.filler.retire()
        assert not self.callbacks
        assert len(self.context.bound) == self.context.bound.evictable == 0
        assert self.pool.refs_out == 0
        assert self.pool.audit() is None
