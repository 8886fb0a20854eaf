"""The ``process_*`` metrics of every process of the program, with the process's name as the label ``worker``.

prometheus_client reads them from /proc, so on other systems there are none. A process with several workers
(``-placement auto``) is called "data" or "side".
"""

from collections.abc import Iterator, Mapping

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric


def collect(pids: Mapping[str, int]) -> Iterator[Metric]:
    """One family for each metric, with a sample for each process. pids: by name of the process."""
    families: dict[str, Metric] = {}
    for name, pid in pids.items():
        for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
            family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                family.add_sample(sample.name, {"worker": name}, sample.value)
    yield from families.values()
