"""Runs the attacks of perf.neighbours, each against a daemon of its own: see perf/neighbours/__main__.py.

A line has many short rounds with one daemon. In each, the guest is measured beside the attack, beside the
control and alone, one right after the other and every second time in the other order. So a slow second of the
machine hits all three. The connections of the well-behaved guest are open before the sender begins. Each
sample has fresh ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from perf import options as shared
from perf import processes, report
from perf.namespaces import Namespace, Process, World
from perf.neighbours.attacks import TABLE, Attack
from perf.neighbours.table import Rounds, Turn, figures, table
from perf.peers import MANY_GUESTS, PIPELINE_AUTO, ROOT, Endpoint
from pipeline.host.name_files import RESOLV_CONF, parse_resolv_conf

PLACEMENTS = {"separate": ("pipeline",), "auto": (PIPELINE_AUTO,), "both": MANY_GUESTS}
MTU = 1500
SETTLE = 0.3  # seconds that the sender has sent before anything is measured
PATIENCE = 60.0  # seconds for an answer of a helper
REST = 2.0  # seconds at most that the daemon may go on working after the sender has stopped
REST_PERCENT = 20.0
NOTHING = {"frames_per_second": 0.0, "cpu_percent": 0.0}
WORKERS = "gvtap-"


class Helper:
    """A process that answers lines with lines."""

    def __init__(self, namespace: Namespace, module: str, *words: str) -> None:
        argv = [sys.executable, "-m", f"perf.neighbours.{module}", *words]
        pipe = subprocess.PIPE
        self._name = f"{module} {' '.join(words)}"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - stop() closes it
        self._process: Process = namespace.spawn(argv, pipe, stdin=pipe, stderr=self._errors, cwd=ROOT)

    def say(self, line: str) -> None:
        """Send one line. MeasurementError if the helper has ended."""
        stdin = self._process.popen.stdin
        assert stdin is not None
        try:
            stdin.write(f"{line}\n".encode())
            stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def hear(self) -> str:
        """Its next line. MeasurementError if none comes in time."""
        stdout = self._process.popen.stdout
        assert stdout is not None
        # Each line is asked for, so none waits in Python's buffer.
        if select.select([stdout], [], [], PATIENCE)[0] and (line := stdout.readline().decode().strip()):
            return line
        raise self._failure()

    def _failure(self) -> report.MeasurementError:
        self._process.stop(0.5)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return report.MeasurementError(f"{self._name} ended: {' | '.join(lines[-2:]) or 'without a word'}")

    def stop(self) -> None:
        self._process.stop(0.5)
        self._errors.close()


class Bench:
    """One daemon, its two guests and what they need, for one attack."""

    def __init__(self, attack: Attack, place: World, endpoint: Endpoint, connect: Path) -> None:
        self._attack = attack
        self._place = place
        self._endpoint = endpoint
        self._stack = contextlib.ExitStack()
        try:
            self._start(connect)
        except BaseException:
            self.close()
            raise

    def _start(self, connect: Path) -> None:
        host, endpoint = self._place.host, self._endpoint
        # The daemon asks the machine's name servers: in this namespace their addresses are the bench's.
        names = parse_resolv_conf(Path(RESOLV_CONF).read_text()) or ["127.0.0.1"]
        for name in names:
            if not name.startswith("127."):
                host.run("ip", "address", "add", name, "dev", "lo")
        self._helper(host, "name_server", *names).hear()
        echo, sink, stream, unread = self._helper(host, "guest", "serve", "127.0.0.1").hear().split()
        self._guest = self._helper(self._place.guest, "guest", "use", endpoint.host_addr, echo, sink, stream)
        qemu = endpoint.log.parent / "net.sock"
        words = ["--qemu", str(qemu), "--connect", str(connect), "--sink", unread, "--stream", stream]
        if self._attack.links:
            self._sender = self._helper(host, "sender", self._attack.name, *words)
            self._sender.hear()

    def _helper(self, namespace: Namespace, module: str, *words: str) -> Helper:
        made = Helper(namespace, module, *words)
        self._stack.callback(made.stop)
        return made

    def turn(self, command: str, seconds: float) -> Turn:
        """One sample. command: what the sender does meanwhile, "" for nothing."""
        self._guest.say("open")
        self._guest.hear()
        command = command if self._attack.links else ""
        if command:
            self._sender.say(command)
            time.sleep(SETTLE)
        before, began = self._worker_seconds(), time.monotonic()
        self._guest.say(f"measure {seconds}")
        result = json.loads(self._guest.hear())
        after, took = self._worker_seconds(), time.monotonic() - began
        cpu = {name: 100 * (after[name] - before.get(name, 0.0)) / took for name in after}
        sent: dict[str, float] = NOTHING
        if command:
            self._sender.say("stop")
            sent = json.loads(self._sender.hear())
            cpu["attacker"] = sent["cpu_percent"]
        return Turn(result, sent, cpu)

    def rest(self) -> None:
        """Wait until the daemon has done what it was sent, and let the guest's kernel ask for MACs again."""
        deadline = time.monotonic() + REST
        busy = 100.0
        while busy > REST_PERCENT and time.monotonic() < deadline:
            before = processes.cpu_seconds(self._endpoint.pid)
            time.sleep(0.1)
            busy = 100 * (processes.cpu_seconds(self._endpoint.pid) - before) / 0.1
        self._place.guest.run("ip", "neighbour", "flush", "dev", "eth0")

    def _worker_seconds(self) -> dict[str, float]:
        """CPU time of each worker process so far, by name."""
        found = {}
        for pid in processes.tree(self._endpoint.pid):
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                found[name.removeprefix(WORKERS)] = processes.own_cpu_seconds(pid)
        return found

    def close(self) -> None:
        self._stack.close()


def measure(options: argparse.Namespace, peer: str, attack: Attack) -> list[report.Figure]:
    """All samples of one attack and peer, with --repeat daemons one after the other."""
    found = Rounds([], [], [])
    for _ in range(options.repeat):
        _add_rounds(found, options, peer, attack)
    return figures(attack.name, peer, found)


def _add_rounds(found: Rounds, options: argparse.Namespace, peer: str, attack: Attack) -> None:
    """Start a daemon, and measure --rounds rounds."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perf-")))
        connect = directory / "connect.sock"
        place = stack.enter_context(shared.place(options))
        more = argparse.Namespace(**vars(options))
        more.daemon_option = [*options.daemon_option, "-listen", f"unix://{connect}"]
        endpoint = stack.enter_context(shared.start(more, peer, place, MTU))
        bench = Bench(attack, place, endpoint, connect)
        stack.callback(bench.close)
        for number in range(options.rounds):
            kinds = (_attacked, _controlled, _alone)
            for kind in kinds if number % 2 == 0 else kinds[::-1]:
                kind(bench, found, options.seconds)


def _attacked(bench: Bench, found: Rounds, seconds: float) -> None:
    found.attacked.append(bench.turn("attack", seconds))
    bench.rest()


def _controlled(bench: Bench, found: Rounds, seconds: float) -> None:
    """The sender sends as fast as it could in the last attack."""
    rate = max(found.attacked[-1].sender["frames_per_second"], 1.0)  # 0 would be all that it can
    found.controls.append(bench.turn(f"control {rate}", seconds))


def _alone(bench: Bench, found: Rounds, seconds: float) -> None:
    found.alone.append(bench.turn("", seconds))


def chosen(words: str) -> Iterator[Attack]:
    """The attacks whose names contain one of the words."""
    return (attack for attack in TABLE if any(word in attack.name for word in words.split(",")))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a guest keeps while another one attacks.")
    parser.add_argument("--placement", choices=PLACEMENTS, default="both")
    parser.add_argument("--only", default="", help="words of the attacks' names, comma-separated")
    parser.add_argument("--rounds", type=int, default=12, help="samples of each figure with one daemon")
    shared.add(parser, seconds=0.2, repeat=1)
    # A congestion control that finds a rate of its own needs longer than a sample to find it again.
    parser.set_defaults(congestion="reno")
    options = parser.parse_args(argv)
    attacks = list(chosen(options.only))
    if not attacks:
        names = ", ".join(attack.name for attack in TABLE)
        parser.error(f"--only: no attack has a name with {options.only!r}; there are {names}")
    peers = [
        peer
        for peer in PLACEMENTS[options.placement]
        if options.peers == "auto" or peer in options.peers.split(",")
    ]
    samples = report.Samples()
    for peer in peers:
        for attack in attacks:
            with samples.attempt():
                for figure in measure(options, peer, attack):
                    samples.put(figure)
                    print(
                        f"{peer}: {figure.what} {figure.median:.4g} {figure.unit}",
                        file=sys.stderr,
                        flush=True,
                    )
    return samples.finish("neighbours", shared.settings(options), table)
