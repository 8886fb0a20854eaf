"""The ``process_*`` metrics of every process of the program, with the process's name as the label ``worker``.

prometheus_client reads them from /proc, so on other systems there are none. A process with several workers
(``-placement auto``) is called "data" or "side". Only root may count the descriptors of a process in a
sandbox. So each worker has given the folder of its descriptors, when it was not in its sandbox yet.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from prometheus_client import ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric

_LIMIT = b"Max open file"


def collect(pids: Mapping[str, int], files: Mapping[str, int]) -> Iterator[Metric]:
    """One family for each metric, with a sample for each process, by its name.

    files: the open folders /proc/PID/fd of processes that gave them.
    """
    families: dict[str, Metric] = {}
    for name, pid in pids.items():
        for metric in _of_process(pid, files.get(name, -1)):
            family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                family.add_sample(sample.name, {"worker": name}, sample.value)
    yield from families.values()


def _of_process(pid: int, folder: int) -> Iterator[Metric]:
    names = set()
    for metric in ProcessCollector(pid=lambda: pid, registry=None).collect():
        names.add(metric.name)
        yield metric
    if folder >= 0 and "process_open_fds" not in names:
        with suppress(OSError):  # the process has ended
            yield from _descriptors(pid, folder)


def _descriptors(pid: int, folder: int) -> Iterator[Metric]:
    count = len(os.listdir(folder))
    yield GaugeMetricFamily("process_open_fds", "Number of open file descriptors.", count)
    with open(f"/proc/{pid}/limits", "rb") as limits:
        most = next(float(line.split()[3]) for line in limits if line.startswith(_LIMIT))
    yield GaugeMetricFamily("process_max_fds", "Maximum number of open file descriptors.", most)
