"""Runs a part of the egress worker alone, with a pool and with rings that collect the records."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pipeline.counters import INDEX
from pipeline.ipc.arena import SLOT_BYTES, Pool
from pipeline.records import kinds
from pipeline.records.run import Run
from pipeline.stages.egress.context import EgressContext
from pipeline.system.outbound import Outbound
from tests.support.flow_reports import ALL, Wanted
from tests.support.layouts import decode

SLOTS = 8


class Sent:
    """A record that egress pushed: its kind, and its content."""

    def __init__(self, record: bytes) -> None:
        self.kind = record[0]
        self.says: Any = decode(record)


def _everything() -> Any:
    """The policy that allows every flow."""
    return SimpleNamespace(active=False, quotas=SimpleNamespace(on=False, meter=lambda _guest, _addr: None))


class EgressRig:
    """What the parts of egress need from a worker."""

    def __init__(
        self,
        targets: Any,
        make_policy: Callable[[Any], Any] | None = None,
        outbound: Outbound | None = None,
    ) -> None:
        """make_policy: makes the policy, given the worker. Without it every flow is allowed."""
        self.pool = Pool(0, SLOTS)
        self.slots = [memoryview(bytearray(SLOT_BYTES)) for _ in range(SLOTS)]
        self.counts = [0] * len(INDEX)
        self.records: list[Sent] = []
        """The records to demux and to ingress, in the order in which they were pushed."""
        self.callbacks: dict[int, Any] = {}
        """The callbacks of registered descriptors."""
        ring = SimpleNamespace(push=lambda record: self.records.append(Sent(record)), room=lambda: 100)
        self.events = Wanted(*ALL)
        self.worker: Any = SimpleNamespace(
            events=self.events,
            pool=self.pool,
            counts=self.counts,
            index=0,
            ports=SimpleNamespace(
                incarnation=0,
                arena=SimpleNamespace(slots=self.slots),
                rings_out={"demux": ring, "ingress": ring},
            ),
            free=lambda slot, tag=0: self.pool.unref(slot),
            register=lambda fd, _events, callback: self.callbacks.__setitem__(fd, callback),
            unregister=lambda fd: self.callbacks.pop(fd),
            forget=lambda fd: self.callbacks.pop(fd),
            log=SimpleNamespace(warning=lambda *_, **__: None),
        )
        policy: Any = make_policy(self.worker) if make_policy else _everything()
        self.context = EgressContext(self.worker, targets, policy, 0, outbound)

    def fill(self, payloads: list[bytes], stride: int = 1500) -> Run:
        """Put datagrams into a slot, with one reference. All but the last must have the same length."""
        slot = self.pool.alloc()
        for index, payload in enumerate(payloads):
            self.slots[slot][300 + index * stride :][: len(payload)] = payload
        length = sum(map(len, payloads))
        return Run(slot, 300, length, stride if len(payloads) > 1 else 0, len(payloads[0]))

    def payloads(self, records: list[Sent]) -> list[bytes]:
        """The datagrams of these records. Gives their references back."""
        found = []
        for record in records:
            assert record.kind in (kinds.UDP_DATA, kinds.UDP_TO_GUEST)
            run: Run = record.says
            found += [bytes(view) for view in run.views(self.slots[run.slot])]
            self.pool.unref(run.slot)
        return found

    def count(self, name: str) -> int:
        """The value of a counter."""
        return self.counts[INDEX[name]]

    def retire(self) -> None:
        """Give back the slots of fillers, and assert that nothing else is held."""
        self.context.filler.retire()
        assert not self.callbacks
        assert len(self.context.bound) == self.context.bound.evictable == 0
        assert self.pool.refs_out == 0
        assert self.pool.audit() is None
