"""The page of ``/metrics`` in Prometheus' text format, made of what was read from the workers.

It has every series that can change: each counter of each worker that counts it (families.py), also while it
is 0, since ``rate()`` and ``increase()`` do not see the step from nothing to 1. A counter that is not 0 is
there in any case. Nothing is counted here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pipeline import histograms
from pipeline.control.metrics import processes
from pipeline.control.metrics.build import Build
from pipeline.control.metrics.families import (
    DIRECTION,
    FAMILIES,
    PREFIX,
    Family,
    histogram_name,
    writers,
)
from pipeline.counter_block import GuestRow
from pipeline.topology import Edge

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
HOST: Final = "host"
"""The label that tells the hosts of a fleet apart."""
Snapshot = Mapping[str, Mapping[str, int]]
"""{worker: {counter: value}}"""

READINGS_HELP: Final[Mapping[str, str]] = {
    "build": "what is running: version, Python, and whether the data path is compiled",
    "worker_slots": "slots of the worker's own pool",
    "ring_records": "records in the ring from one worker to another",
    "ring_capacity_records": "records that the ring can hold; what does not fit waits in the source",
    "guest_bytes": "bytes of the guest's frames, Ethernet header included, by direction",
    "guest_frames": "frames of the guest, by direction",
    "guest_frames_dropped": "frames of the guest that were dropped because they were bad",
}
"""Families without a row in the tables, and their help."""


class Readings(NamedTuple):
    """What the page shows, read at one time.

    roles: by worker. histograms: by worker and name. slots: the size of each pool, by worker. pids: by
    process. guests: the rows that have a name. host: the name of this host in a fleet, "" without one.
    """

    build: Build
    roles: Mapping[str, str]
    counters: Snapshot
    histograms: Mapping[str, Mapping[str, Sequence[int]]] = {}
    rings: Mapping[Edge, int] = {}
    slots: Mapping[str, int] = {}
    guests: Mapping[str, GuestRow] = {}
    pids: Mapping[str, int] = {}
    files: Mapping[str, int] = {}
    host: str = ""


class _Page(Collector):
    """One scrape."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        """All families. In a fleet, each series has the name of this host."""
        host = self._readings.host
        for family in self._families():
            if host:
                family.samples = [
                    sample._replace(labels={**sample.labels, HOST: host}) for sample in family.samples
                ]
            yield family

    def _families(self) -> Iterator[Metric]:
        """What is running, the tables' rows, then what else was read."""
        readings = self._readings
        yield InfoMetricFamily(PREFIX + "build", READINGS_HELP["build"], value=readings.build._asdict())
        for family in FAMILIES:
            yield self._counters(family)
        yield from self._histograms()
        slots = _gauge("worker_slots", "worker")
        for worker, count in readings.slots.items():
            slots.add_metric([worker], count)
        yield slots
        yield from self._rings()
        yield from self._guests()
        yield from processes.collect(readings.pids, readings.files)

    def _counters(self, family: Family) -> Metric:
        kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
        found = kind(family.name, family.help, labels=["worker", *filter(None, [family.label])])
        for series in family.series:
            name = series.row.name
            roles = writers(name)
            for worker, values in self._readings.counters.items():
                value = values.get(name, 0)
                if value or self._readings.roles.get(worker) in roles:
                    found.add_metric([worker, *filter(None, [series.value])], value / series.divisor)
        return found

    def _histograms(self) -> Iterator[Metric]:
        families: dict[str, HistogramMetricFamily] = {}
        for row in histograms.TABLE:
            name = histogram_name(row)
            labels = ["worker", *([DIRECTION] if row.direction else [])]
            family = families.setdefault(name, HistogramMetricFamily(name, row.help, labels=labels))
            for worker, values in self._readings.histograms.items():
                if row.name in values:
                    buckets, total = _buckets(row, values[row.name])
                    family.add_metric([worker, *filter(None, [row.direction])], buckets, total)
        yield from families.values()

    def _rings(self) -> Iterator[Metric]:
        depths, capacities = (
            _gauge(name, "source", "target") for name in ("ring_records", "ring_capacity_records")
        )
        for edge, depth in self._readings.rings.items():
            depths.add_metric([edge.source, edge.target], depth)
            capacities.add_metric([edge.source, edge.target], edge.capacity)
        yield depths
        yield capacities

    def _guests(self) -> Iterator[Metric]:
        sizes, frames = (_counter(name, "guest", DIRECTION) for name in ("guest_bytes", "guest_frames"))
        dropped = _counter("guest_frames_dropped", "guest")
        for guest, row in self._readings.guests.items():
            sizes.add_metric([guest, "from_guest"], row.bytes_from_guest)
            sizes.add_metric([guest, "to_guest"], row.bytes_to_guest)
            frames.add_metric([guest, "from_guest"], row.frames_from_guest)
            frames.add_metric([guest, "to_guest"], row.frames_to_guest)
            dropped.add_metric([guest], row.frames_dropped)
        yield from (sizes, frames, dropped)


def _gauge(name: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, READINGS_HELP[name], labels=labels)


def _counter(name: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, READINGS_HELP[name], labels=labels)


def _buckets(row: histograms.Histogram, words: Sequence[int]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets by upper bound, and the sum, in base units."""
    divisor = 1_000_000 if row.unit == histograms.SECONDS else 1
    *counts, total = words
    buckets: list[tuple[str, float]] = []
    so_far = 0
    for bound, count in zip((*row.bounds, None), counts, strict=True):
        so_far += count
        buckets.append(("+Inf" if bound is None else repr(bound / divisor), so_far))
    return buckets, total / divisor


def page(readings: Readings) -> bytes:
    """The page of ``/metrics``, text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(readings))
    return generate_latest(registry)
