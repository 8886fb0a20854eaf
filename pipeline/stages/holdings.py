"""Which references to slots a worker holds: its stage's, and those in its rings.

Nobody needs this while all workers live, so nothing is counted on the way of a packet. After the death of a
worker, all others stop between two breaths. Then each counts what it holds, and each home learns which of its
references are left. At such a moment each reference has exactly one owner:

=================================  =====================================================================
reference                          is counted by
=================================  =====================================================================
of a stage (queues, fillers)       its worker: Stage.slots_held()
in a record of a backlog           the producer
in a record of a ring              the consumer, until it has released the entry
on its way home, in a backlog      the worker that freed it
on its way home, in a free ring    the home
=================================  =====================================================================

tests/stages/test_holdings.py compares these counts with the pools while random traffic runs.
"""

from collections.abc import Iterable
from typing import Final

from pipeline.ipc.fabric import WorkerPorts
from pipeline.records.kinds import NO_SLOT, RECORD_BYTES
from pipeline.records.references import slot_of

SLOT_MASK: Final = 0xFFFFFFFF
"""The slot's number in an entry of a free ring. Above it stands a tag (Worker.free)."""

Holdings = dict[int, int]
"""The number of references by slot. A slot without references is not there."""


def count(found: Holdings, slots: Iterable[int]) -> None:
    """Count one more reference to each of these slots. NO_SLOT is none."""
    for slot in slots:
        if slot != NO_SLOT:
            found[slot] = found.get(slot, 0) + 1


def in_rings(found: Holdings, ports: WorkerPorts) -> None:
    """Count the references in the rings of a worker, as far as this worker counts them."""
    for consumer in ports.rings_in.values():
        records = consumer.unread()
        count(found, (slot_of(records, at) for at in range(0, len(records), RECORD_BYTES)))
    for producer in ports.rings_out.values():
        count(found, map(slot_of, producer.queue))
    for home in ports.free_in.values():
        count(found, (entry & SLOT_MASK for entry in home.unread()))
    for free in ports.free_out.values():
        count(found, (entry & SLOT_MASK for entry in free.queue))
