"""Measures what this program costs before a guest comes: the command line, the start, and the idle daemon.

Rows, for each placement:
  -version CPU          CPU time of `gvtap-pipeline -version`
  start to ready        time from the start of `start` to the log line "waiting for clients...", and CPU time
  idle memory           PSS of all processes: pages that they share count once
  idle CPU              percent of one core while nothing happens

Memory also depends on other programs: pages that they share with the daemon count less. So no other daemon of
this kind should run. No namespace and no root is needed.

    python -m perf.idle --repeat 5
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from perf import compiled, processes, report
from perf.namespaces import Process
from perf.peers import START_PATIENCE, PeerError
from pipeline.config.choices import PLACEMENTS

SETTLE = 1.0  # seconds between ready and the first look at memory and CPU


def version_cpu_seconds() -> float:
    """CPU time of one `-version`. Raises MeasurementError."""
    argv = [*compiled.command("gvtap-pipeline"), "-version"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise report.MeasurementError(f"-version ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def await_ready(process: Process) -> None:
    """Read the log until the daemon is ready. Raises PeerError if it ends before."""
    assert process.popen.stdout is not None
    deadline = time.monotonic() + START_PATIENCE
    read = []
    for line in process.popen.stdout:
        read.append(line.decode(errors="replace"))
        if json.loads(line).get("kind") == "ready":
            return
        if time.monotonic() > deadline:
            break
    raise PeerError(f"the daemon is not ready: {' | '.join(read[-5:])}")


def measure(placement: str, idle_seconds: float, samples: report.Samples) -> None:
    """Add one sample to each row of a placement."""

    def add(what: str, unit: str, value: float) -> None:
        samples.add(what, placement, unit, value, higher_is_better=False, may_be_zero=what == "idle CPU")

    add("-version CPU", "ms", 1000 * version_cpu_seconds())
    with tempfile.TemporaryDirectory(prefix="perf-") as directory:
        sockets = ["-listen", f"unix://{Path(directory)}/api.sock", "-ssh-port", "-1"]
        argv = [*compiled.command("gvtap-pipeline"), "start", *sockets, "-placement", placement]
        began = time.monotonic()
        process = Process(argv, subprocess.PIPE)
        try:
            await_ready(process)
            add("start to ready", "ms", 1000 * (time.monotonic() - began))
            add("start to ready, CPU", "ms", 1000 * processes.cpu_seconds(process.pid))
            time.sleep(SETTLE)
            add("idle memory", "MiB", processes.memory_bytes(process.pid) / 2**20)
            before, began = processes.cpu_seconds(process.pid), time.monotonic()
            time.sleep(idle_seconds)
            used = processes.cpu_seconds(process.pid) - before
            add("idle CPU", "%", 100 * used / (time.monotonic() - began))
        finally:
            process.stop()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What this program costs before a guest comes.")
    parser.add_argument("--idle-seconds", type=float, default=5)
    parser.add_argument("--repeat", type=int, default=5, help="turns; the median counts")
    parser.add_argument("--no-write", action="store_true", help="do not append to perf/results")
    options = parser.parse_args(argv)
    samples = report.Samples()
    for _ in range(options.repeat):
        for placement in PLACEMENTS:
            with samples.attempt():
                measure(placement, options.idle_seconds, samples)
    settings = {"idle_seconds": options.idle_seconds, "repeat": options.repeat}
    return samples.finish("idle", None if options.no_write else settings, report.table)


if __name__ == "__main__":
    sys.exit(main())
