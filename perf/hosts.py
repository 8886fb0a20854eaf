"""Measures the throughput between guests of two hosts, beside two kernel guests over Linux's vxlan device.

Two namespaces stand for the hosts, with a veth between them, and two more for their guests. With `agent` and
`tap` each host runs this program, and the hosts are joined by `-link vxlan+udp://`. The guest runs this
program's agent with offload, or is a tap that the daemon opens. With `kernel` the guest's interface is the
vxlan device of its host. All use the same veth.

    python -m perf.hosts --seconds 3 --repeat 5
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from perf import compiled, iperf, report
from perf import options as shared
from perf.namespaces import Namespace, World, further_guests

AGENT = "agent"
TAP = "tap"
KERNEL = "kernel"
VNI = 7
MTU = 1450
STARTS_S = 15.0


class Side(NamedTuple):
    """One host with its guest."""

    number: int
    host: Namespace
    guest: Namespace

    @property
    def outer(self) -> str:
        """The host's address on the wire."""
        return f"198.51.100.{self.number + 1}"

    @property
    def inner(self) -> str:
        """The guest's address."""
        return f"192.168.127.{self.number + 10}"


@contextmanager
def sides(congestion: str) -> Iterator[tuple[Side, Side]]:
    """Two hosts that are joined by a veth, with one guest each."""
    with further_guests(4, congestion) as (first, second, one, other):
        made = Side(0, first, one), Side(1, second, other)
        veth = ("type", "veth", "peer", "name", "wire", "netns", str(second.pid))
        first.run("ip", "link", "add", "wire", *veth)
        for side in made:
            side.host.run("ip", "address", "add", f"{side.outer}/24", "dev", "wire")
            side.host.run("ip", "link", "set", "wire", "up")
        yield made


def run_kernel(stack: ExitStack, both: tuple[Side, Side], extra: list[str]) -> None:
    """Give each guest the vxlan device of its host."""
    for side, other in (both, both[::-1]):
        words = ("id", str(VNI), "dstport", "4789", "local", side.outer, "remote", other.outer)
        side.host.run("ip", "link", "add", "eth0", "mtu", str(MTU), "type", "vxlan", *words)
        side.host.run("ip", "link", "set", "eth0", "netns", str(side.guest.pid))


def run_taps(stack: ExitStack, both: tuple[Side, Side], extra: list[str]) -> None:
    """Run a daemon on each host, with a tap in the namespace of the guest."""
    for side, other in (both, both[::-1]):
        run_daemon(stack, side, other, "-link", f"tap+eth0?netns={side.guest.path}", *extra)


def run_agents(stack: ExitStack, both: tuple[Side, Side], extra: list[str]) -> None:
    """Run a daemon on each host, and this program's agent in the namespace of the guest."""
    for side, other in (both, both[::-1]):
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perf-hosts-")))
        url = f"unix://{directory / 'net.sock'}"
        run_daemon(stack, side, other, "-listen", url, *extra)
        words = ("-url", url, "-iface", "eth0", "-mac", f"5a:94:ef:e4:0d:{side.number:02x}")
        more = ("-stop-if-exist", "", "-address", f"{side.inner}/24", "-link-mtu", str(MTU))
        with (directory / "agent.log").open("wb") as out:
            argv = [*compiled.command("gvtap-guest"), *words, *more, "-gateway", "192.168.127.1"]
            stack.callback(side.guest.spawn(argv, out).stop)


def run_daemon(stack: ExitStack, side: Side, other: Side, *guest: str) -> None:
    """Run a daemon on a host, and wait until it takes guests.

    guest: the flags about its guest's link, and further ones.
    """
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="perf-hosts-"))
    log = Path(directory) / "log"
    argv = [
        *(*compiled.command("gvtap-pipeline"), "start", "-ssh-port", "-1", *guest),
        *("-link", f"vxlan+udp://{side.outer}?vni={VNI}&remote={other.outer}"),
    ]
    with log.open("wb") as out:
        process = side.host.spawn(argv, out)
    stack.callback(process.stop)
    deadline = time.monotonic() + STARTS_S
    while b"waiting for clients" not in log.read_bytes():
        if not process.alive() or time.monotonic() > deadline:
            raise report.MeasurementError(f"the daemon did not start: {log.read_text()}")
        time.sleep(0.05)


def configure(kind: str, both: tuple[Side, Side]) -> None:
    """Give the guests their addresses if nobody else does, and wait until they reach each other."""
    for side in both:
        if kind != AGENT:
            side.guest.run("ip", "address", "add", f"{side.inner}/24", "dev", "eth0")
            side.guest.run("ip", "link", "set", "eth0", "up")
    deadline = time.monotonic() + STARTS_S
    while time.monotonic() < deadline:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            both[0].guest.run("ping", "-n", "-c", "1", "-W", "1", both[1].inner)
            return
    raise report.MeasurementError("the guests do not reach each other")


def measure(kind: str, options: argparse.Namespace, samples: report.Samples) -> None:
    """Measure one kind once in each direction."""
    with ExitStack() as stack:
        both = stack.enter_context(sides(options.congestion))
        {AGENT: run_agents, TAP: run_taps, KERNEL: run_kernel}[kind](stack, both, options.daemon_option)
        configure(kind, both)
        # iperf3's server runs in the second guest, where others have the host.
        place = World(both[0].guest, both[1].guest)
        for direction in ("up", "down"):
            value, unit, more = iperf.measure(place, both[1].inner, direction, options, bind=both[1].inner)
            samples.add(f"tcp {direction}", kind, unit, value)
            print(f"{direction}: {kind} {value:.3f} {unit} {more}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Guests of two hosts, over VXLAN.")
    parser.add_argument("--parallel", type=int, default=1, help="streams at once")
    shared.add(parser, seconds=3, repeat=3)
    options = parser.parse_args(argv)
    options.udp = False
    samples = report.Samples()
    for _ in range(options.repeat):
        for kind in (AGENT, TAP, KERNEL):
            with samples.attempt():
                measure(kind, options, samples)
    return samples.finish("hosts", shared.settings(options), lambda figures: report.table(figures, AGENT))


if __name__ == "__main__":
    sys.exit(main())
