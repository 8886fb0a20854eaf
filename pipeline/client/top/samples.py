"""What ``top`` takes from the page of /metrics: rings, slots and the bytes of guests.

/status and /guests do not have them. All other lines of the page are skipped.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

GUEST_BYTES: Final = "gvtap_guest_bytes_total"
RING: Final = "gvtap_ring_records"
RING_CAPACITY: Final = "gvtap_ring_capacity_records"
SLOTS: Final = "gvtap_worker_slots"
SLOTS_FREE: Final = "gvtap_worker_slots_free"
WANTED: Final = (GUEST_BYTES, RING, RING_CAPACITY, SLOTS, SLOTS_FREE)
"""The names of the samples."""
_BEGINNINGS: Final = tuple(f"{name}{{" for name in WANTED)


class SampleError(ValueError):
    """The page is not in Prometheus' format."""


class Ring(NamedTuple):
    """The ring from one worker to another: records in it, and how many it can hold."""

    source: str
    records: float
    capacity: float


class Samples:
    """The samples of one page."""

    def __init__(self, page: str) -> None:
        """Raises SampleError."""
        self.guest_bytes: dict[tuple[str, str], float] = {}
        """By MAC address and direction: from_guest, to_guest."""
        self.slots: dict[str, float] = {}
        """The size of each pool, by its worker."""
        self.slots_free: dict[str, float] = {}
        self._depths: dict[tuple[str, str], float] = {}
        self._capacities: dict[tuple[str, str], float] = {}
        lines = (line for line in page.splitlines() if line.startswith(_BEGINNINGS))
        for name, labels, value in _read("\n".join(lines)):
            if name == GUEST_BYTES:
                self.guest_bytes[labels.get("guest", ""), labels.get("direction", "")] = value
            elif name in (SLOTS, SLOTS_FREE):
                pools = self.slots if name == SLOTS else self.slots_free
                pools[labels.get("worker", "")] = value
            else:
                edges = self._depths if name == RING else self._capacities
                edges[labels.get("source", ""), labels.get("target", "")] = value

    def rings_to(self, worker: str) -> list[Ring]:
        """The rings from which a worker reads."""
        return [
            Ring(source, depth, self._capacities.get((source, target), 0))
            for (source, target), depth in self._depths.items()
            if target == worker
        ]


def _read(lines: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each sample that is a number."""
    try:
        for family in text_string_to_metric_families(f"{lines}\n"):
            for sample in family.samples:
                # Not a number is not at least 0.
                if 0 <= sample.value < float("inf"):
                    yield sample.name, sample.labels, sample.value
    except (ValueError, IndexError, KeyError) as error:
        raise SampleError(f"/metrics is not in Prometheus' format: {error}") from None
