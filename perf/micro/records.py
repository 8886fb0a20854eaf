"""Measures what it costs to pack and unpack a record.

    python -m perf.micro.records             as this process runs it (`make bench`)
    python -m perf.micro.records --compiled  with this file and pipeline/records compiled by mypyc

It measures two kinds: TCP_RANGE (with the look-up of its flow) has the most fields, TO_HOST the most traffic.
The figures are microseconds a record, in bursts of BURST, in one JSON line. A benchmark of loops says little
if the loops are not compiled. So --compiled builds them in a temporary directory, in two groups as in
setup.py.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Final

from pipeline.records.flows import FlowKey, flow_key
from pipeline.records.kinds import RECORD_BYTES, TCP_RANGE, TO_HOST
from pipeline.records.run import Run
from pipeline.records.streams import ToHost
from pipeline.records.tcp import TcpRange
from pipeline.wire import ip

ROOT: Final = Path(__file__).resolve().parents[2]
BURST: Final = 32
GUEST: Final = ip.from_ipv4(0xC0A87F09)
HOST: Final = ip.from_ipv4(0xC0A87FFE)
KEY: Final = flow_key(GUEST, 40000, HOST, 80)
FLOWS: Final[dict[FlowKey, int]] = {KEY: 7}


def tcp_range_pack() -> bytes:
    """Make an object, then pack it, as GRO and steering do."""
    item = TcpRange(
        slot=5, off=700, length=1448, stride=0, piece_size=1448, link=3, key=KEY, flags=16, segments=1,
        seq=12345678, ack=77, window=65535, ts_val=1, ts_ecr=2, header_len=66, has_timestamps=True,
        has_other_options=False, vnet=False,
    )  # fmt: skip
    return item.pack()


_RUN: Final = Run(5, 700, 1448, 0, 1448)


def to_host_pack() -> bytes:
    """Pack from a run."""
    return ToHost.pack(7, _RUN, 0, 1448)


def tcp_range_unpack(burst: memoryview) -> int:
    """Look at the kind, unpack the record, find its flow, as tcp does."""
    total = 0
    for at in range(0, len(burst), RECORD_BYTES):
        if burst[at] == TCP_RANGE:
            run = TcpRange.unpack(burst, at)
            if not run.has_other_options:
                total += FLOWS[run.key] + run.length + run.seq + run.slot
    return total


def to_host_unpack(burst: memoryview) -> int:
    """Unpack the record for the queue, as egress does."""
    total = 0
    for at in range(0, len(burst), RECORD_BYTES):
        if burst[at] == TO_HOST:
            run = ToHost.unpack(burst, at)
            total += run.flow + run.length
    return total


PACK: Final[dict[str, Callable[[], bytes]]] = {
    "tcp_range_pack": tcp_range_pack,
    "to_host_pack": to_host_pack,
}
UNPACK: Final[dict[str, tuple[Callable[[memoryview], int], Callable[[], bytes]]]] = {
    "tcp_range_unpack": (tcp_range_unpack, tcp_range_pack),
    "to_host_unpack": (to_host_unpack, to_host_pack),
}


def measure(rounds: int, calls: int) -> dict[str, float]:
    """Microseconds of each case: the best of the rounds. The cases take turns."""
    found: dict[str, float] = {}
    for _ in range(rounds):
        for name, pack in PACK.items():
            began = perf_counter()
            for _ in range(calls * BURST):
                pack()
            took = (perf_counter() - began) / calls / BURST * 1e6
            found[name] = min(found.get(name, took), took)
        for name, (unpack, made) in UNPACK.items():
            burst = memoryview(made() * BURST)
            began = perf_counter()
            for _ in range(calls):
                unpack(burst)
            took = (perf_counter() - began) / calls / BURST * 1e6
            found[name] = min(found.get(name, took), took)
    return {name: round(took, 3) for name, took in found.items()}


_SETUP: Final = """
from setuptools import setup
from mypyc.build import mypycify

from pathlib import Path
records = [str(path) for path in sorted(Path("pipeline/records").glob("[a-z]*.py"))]
loops = ["perf/micro/records.py"]
setup(ext_modules=mypycify(
    ["--config-file=", "--cache-dir=/dev/null", "--follow-imports=silent", *loops, *records],
    opt_level="1", debug_level="0", separate=[(loops, "loops"), (records, "records")],
))
"""


def compiled(arguments: list[str]) -> int:
    """Compile this file and what it imports, and run it there. Returns the exit status."""
    with tempfile.TemporaryDirectory() as directory:
        there = Path(directory)
        for package in ("pipeline", "pipeline/records", "perf", "perf/micro"):
            there.joinpath(package).mkdir()
            shutil.copy(ROOT / package / "__init__.py", there / package)
        for path in (*ROOT.glob("pipeline/records/*.py"), Path(__file__)):
            shutil.copy(path, there / path.relative_to(ROOT))
        there.joinpath("setup.py").write_text(_SETUP)
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        done = subprocess.run(build, cwd=there, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout, done.stderr, file=sys.stderr)
            return done.returncode
        code = "import sys, perf.micro.records as bench; sys.exit(bench.main())"
        env = {**os.environ, "PYTHONPATH": directory}
        return subprocess.run([sys.executable, "-c", code, *arguments], cwd=there, env=env).returncode


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a record costs.")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--calls", type=int, default=100, help="bursts a round")
    parser.add_argument("--compiled", action="store_true", help="compile the loops first")
    args = parser.parse_args()
    if args.compiled:
        return compiled(["--rounds", str(args.rounds), "--calls", str(args.calls)])
    figures = measure(args.rounds, args.calls)
    print(json.dumps({"benchmark": "micro/records", "unit": "us", "file": Path(__file__).suffix, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
