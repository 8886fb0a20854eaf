"""One run of perf.fleet_scale: a cluster, simulated daemons, and what each step costs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from perf.fleet_scale import flood
from perf.fleet_scale import servers as nats_servers
from perf.fleet_scale.daemons import BUCKET, guest_mac
from perf.fleet_scale.servers import Servers
from perf.namespaces import Process
from perf.report import MeasurementError
from pipeline.engines.fleet import values
from pipeline.engines.fleet.lease_pool import RESERVE
from pipeline.engines.fleet.mirror import Entry
from pipeline.fleet import store
from pipeline.fleet.store import Access, Session

PATIENCE_S = 900.0
MIB = 1 << 20
SETTLE_S = 2.0
"""Seconds between the end of a step and the next look."""


class Found(NamedTuple):
    """One figure: what, its unit, the value."""

    what: str
    unit: str
    value: float


class Crowd:
    """A process with simulated daemons."""

    def __init__(self, servers: Servers, options: argparse.Namespace, first: int, count: int) -> None:
        words = ("--servers", servers.url, "--first", str(first), "--count", str(count))
        more = ("--pool", str(pool_size(options)), "--ttl", str(options.ttl))
        lifted = ("--lift-limits",) if options.lift_limits else ()
        argv = [sys.executable, "-P", "-m", "perf.fleet_scale.daemons", *words, *more, *lifted]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": None}
        self._process = Process(argv, **pipes)
        self.numbers = range(first, first + count)

    def say(self, what: str, **words: object) -> None:
        """Give a command."""
        stdin = self._process.popen.stdin
        assert stdin is not None
        stdin.write(json.dumps({"do": what, **words}).encode() + b"\n")
        stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The answer to the command."""
        stdout = self._process.popen.stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise MeasurementError("a process with simulated daemons has ended")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise MeasurementError(str(found["error"]))
        return found

    def ask(self, what: str, **words: object) -> dict[str, Any]:
        """Give a command, and wait for its answer."""
        self.say(what, **words)
        return self.answer()

    def close(self) -> None:
        """End the process."""
        self._process.stop()


class Crowds:
    """All of them."""

    def __init__(self, made: list[Crowd]) -> None:
        self.made = made

    def ask(self, what: str, **words: object) -> list[dict[str, Any]]:
        """Give all the same command, and wait for all answers."""
        for crowd in self.made:
            crowd.say(what, **words)
        return [crowd.answer() for crowd in self.made]

    def of(self, host: int) -> Crowd:
        """The process with this host."""
        return next(crowd for crowd in self.made if host in crowd.numbers)

    def total(self) -> dict[str, float]:
        """The sums of what all have done."""
        answers = self.ask("stats")
        return {key: sum(answer[key] for answer in answers) for key in answers[0]}


def pool_size(options: argparse.Namespace) -> int:
    """Addresses of the pool: a quarter more than all hosts claim, for the daemon that joins last too."""
    return int((options.hosts + options.absent + 2) * (options.guests + RESERVE) * 1.25) + 64


class Run:
    """The steps of a run, in their order. ``found`` has the figures."""

    def __init__(self, options: argparse.Namespace, servers: Servers, crowds: Crowds) -> None:
        self._options = options
        self._servers = servers
        self._crowds = crowds
        self.found: list[Found] = []
        self._named = options.named
        self._beats_a_second = (options.hosts + options.absent) / (options.ttl / 3)

    def note(self, what: str, unit: str, value: float) -> None:
        """Add a figure."""
        self.found.append(Found(what, unit, value))
        print(f"  {what}: {value:.4g} {unit}", file=sys.stderr, flush=True)

    def _note_memory(self, when: str) -> None:
        memory = self._servers.memory()
        self.note(f"memory of a server, {when}", "MiB", statistics.median(memory) / MIB)

    @contextlib.contextmanager
    def _step(self, what: str, per: float = 0.0, of: str = "") -> Iterator[None]:
        """Count what the servers and the daemons do in a step. per: the figures are also for one of these."""
        before, done = self._servers.usage(), self._crowds.total()
        yield
        used, more = self._servers.usage().since(before), self._crowds.total()
        entries = more["entries"] - done["entries"]
        self.note(f"{what}: messages to daemons", "1", used.messages)
        self.note(f"{what}: processor time of the servers", "s", used.cpu_seconds)
        self.note(f"{what}: processor time of the daemons", "s", more["cpu"] - done["cpu"])
        self.note(
            f"{what}: bytes to workers of a host", "B", (more["bytes"] - done["bytes"]) / self._options.hosts
        )
        if per:
            beats = self._beats_a_second * used.at * self._options.hosts
            self.note(
                f"{what}: entries at a daemon for one {of}",
                "1",
                max(entries - beats, 0.0) / per / self._options.hosts,
            )

    def start(self) -> None:
        """All daemons start at once."""
        options = self._options
        self._note_memory("empty")
        with self._step("start"):
            began = time.monotonic()
            self._crowds.ask("start", timeout=PATIENCE_S)
            self.note("start: until all are online", "s", time.monotonic() - began)
            members = options.hosts + options.absent
            done = self._crowds.ask("know", timeout=PATIENCE_S, members=members)
            self.note("start: until all know all hosts", "s", max(each["at"] for each in done) - began)
        self._note_memory("with hosts")

    def guests(self) -> None:
        """Guests start on all hosts at once."""
        options = self._options
        total = options.hosts * options.guests
        with self._step("guests", total, "guest"):
            began = time.monotonic()
            pause = options.hosts / options.pace
            self._crowds.ask("guests", count=options.guests, named=self._named, pause=pause)
            self.note("guests: until all have addresses", "s", time.monotonic() - began)
            known = (options.hosts + options.absent) * options.guests
            # Each daemon has a place of its own too.
            places, names = known + options.hosts, known if self._named else 0
            done = self._crowds.ask("know", timeout=PATIENCE_S, places=places, names=names)
            self.note("guests: until all are known everywhere", "s", max(each["at"] for each in done) - began)
            time.sleep(SETTLE_S)
        self._note_memory("with guests")
        stats = self._crowds.total()
        self.note("memory of the simulated daemons, each", "MiB", stats["memory"] / options.hosts / MIB)

    def rest(self) -> None:
        """Nothing happens."""
        seconds = self._options.rest
        hosts = self._options.hosts
        before, done = self._servers.usage(), self._crowds.total()
        time.sleep(seconds)
        used, more = self._servers.usage().since(before), self._crowds.total()
        self.note("rest: entries at a daemon", "1/s", (more["entries"] - done["entries"]) / used.at / hosts)
        self.note("rest: messages to a daemon", "1/s", used.messages / used.at / hosts)
        self.note("rest: bytes to a daemon", "B/s", used.payload_bytes / used.at / hosts)
        self.note("rest: loopback", "B/s", used.loopback_bytes / used.at)
        self.note("rest: processor of the servers", "%", 100 * used.cpu_seconds / used.at)
        self.note("rest: processor of a daemon", "%", 100 * (more["cpu"] - done["cpu"]) / used.at / hosts)

    def renew(self) -> None:
        """All guests renew their leases."""
        with self._step("renewal", self._options.hosts * self._options.guests, "renewal"):
            self._crowds.ask("renew")
            time.sleep(SETTLE_S)

    def lease(self) -> None:
        """Single guests start, one after the other."""
        hosts = self._options.hosts
        macs = [guest_mac(0xFFFF, each) for each in range(self._options.singles)]
        self._one_after_the_other("new guest", [(mac, number % hosts) for number, mac in enumerate(macs)])

    def move(self) -> None:
        """Single guests move to the next host, one after the other."""
        hosts = self._options.hosts
        moves = [
            (guest_mac(number % hosts, number // hosts), (number + 1) % hosts)
            for number in range(self._options.singles)
        ]
        self._one_after_the_other("move", moves)

    def _one_after_the_other(self, what: str, moves: list[tuple[bytes, int]]) -> None:
        had, known, everywhere = [], [], []
        with self._step(what, len(moves), what):
            for mac, host in moves:
                self._crowds.ask("want", keys=[values.mac_key(mac)])
                answer = self._crowds.of(host).ask("add", host=host, mac=mac.hex())
                seen = [each for crowd in self._crowds.ask("seen", timeout=60.0) for each in crowd["last"]]
                had.append(answer["had"] - answer["began"])
                known.append(statistics.median(seen) - answer["began"])
                everywhere.append(max(seen) - answer["began"])
        self.note(f"{what}: until it has its address", "ms", 1000 * statistics.median(had))
        self.note(f"{what}: until half of the hosts know its place", "ms", 1000 * statistics.median(known))
        self.note(f"{what}: until all know it", "ms", 1000 * statistics.median(everywhere))

    def join(self) -> None:
        """One more daemon joins, in a process of its own."""
        options = self._options
        number = options.hosts + options.absent
        crowd = Crowd(self._servers, options, number, 1)
        try:
            empty = crowd.ask("stats")
            before = self._servers.usage()
            taken = crowd.ask("start", timeout=PATIENCE_S)
            used = self._servers.usage().since(before)
            time.sleep(SETTLE_S)
            full = crowd.ask("stats")
            keys = full["keys"]
            self.note("join: seconds", "s", taken["seconds"])
            self.note("join: keys", "1", full["entries"])
            self.note("join: bytes of messages", "MiB", used.payload_bytes / MIB)
            self.note("join: processor time of the daemon", "s", full["cpu"] - empty["cpu"])
            self.note("join: memory of a daemon's agent, empty", "MiB", empty["memory"] / MIB)
            self.note("join: memory of a daemon's agent", "MiB", full["memory"] / MIB)
            self.note("join: bytes to workers", "MiB", full["bytes"] / MIB)
            if keys:
                self.note(
                    "join: memory for one key", "B", (full["memory"] - empty["memory"]) / full["entries"]
                )
            if options.rest:
                time.sleep(options.rest)
                later = crowd.ask("stats")
                self.note(
                    "rest of the one that joined: entries",
                    "1/s",
                    (later["entries"] - full["entries"]) / options.rest,
                )
                self.note(
                    "rest of the one that joined: processor",
                    "%",
                    100 * (later["cpu"] - full["cpu"]) / options.rest,
                )
            crowd.ask("stop")
        finally:
            crowd.close()

    def check(self) -> None:
        """Whether no value was wrong, and each daemon had one session. Else it had too much to do."""
        total = self._crowds.total()
        self.note("wrong values", "1", total["bad"])
        self.note("sessions of a daemon", "1", total["joins"] / self._options.hosts)

    def broadcast(self) -> None:
        """A guest sends a broadcast: one datagram to each other host."""
        others = self._options.hosts + self._options.absent - 1
        seconds = flood.seconds_a_broadcast(others)
        self.note("broadcast: processor time of its host", "µs", seconds * 1e6)

    def sizes(self) -> None:
        """What the bucket has."""
        kinds, stored, messages, seconds = asyncio.run(_sizes(self._servers.url))
        self.note("until the servers have made a watch", "s", seconds)
        for kind, (count, size) in sorted(kinds.items()):
            self.note(f"keys: {kind}", "1", count)
            self.note(f"bytes of key and value: {kind}", "B", size / count)
        self.note("bucket", "MiB", stored / MIB)
        self.note("bucket: stored bytes for one key", "B", stored / messages)
        self.note("files of a server", "MiB", self._servers.stored() / MIB)


async def _sizes(url: str) -> tuple[dict[str, tuple[int, int]], int, int, float]:
    """What the bucket has: count and bytes of each kind of key, the bytes and the number of its messages.

    And seconds that the servers needed to make a watch.
    """
    store.WATCH_S = PATIENCE_S  # type: ignore[misc]
    session = Session(Access((url,), BUCKET, "measure", "", "", None))
    await session.open(url.partition(",")[0])
    kinds: dict[str, tuple[int, int]] = {}
    complete = asyncio.Event()

    def on_entry(entry: Entry | None) -> None:
        if entry is None:
            complete.set()
        elif entry.value is not None and not complete.is_set():
            kind = entry.key.partition(".")[0]
            count, size = kinds.get(kind, (0, 0))
            kinds[kind] = count + 1, size + len(entry.key) + len(entry.value)

    began = time.monotonic()
    await session.watch(on_entry)
    seconds = time.monotonic() - began
    async with asyncio.timeout(PATIENCE_S):
        await complete.wait()
    info = await session.js.stream_info(f"KV_{BUCKET}")
    await session.close()
    return kinds, info.state.bytes, info.state.messages, seconds


def run(options: argparse.Namespace) -> list[Found]:
    """All steps. Returns the figures."""
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(nats_servers.running())
        if options.absent:
            stack.callback(_write_absent(servers, options).stop)
        share = -(-options.hosts // options.processes)
        made: list[Crowd] = []
        for first in range(0, options.hosts, share):
            made.append(Crowd(servers, options, first, min(share, options.hosts - first)))
            stack.callback(made[-1].close)
        steps = Run(options, servers, Crowds(made))
        steps.start()
        if options.guests:
            steps.guests()
            steps.sizes()
        if options.rest:
            steps.rest()
        if options.guests:
            steps.renew()
            steps.lease()
            steps.move()
        steps.join()
        steps.broadcast()
        steps.check()
        return steps.found


def _write_absent(servers: Servers, options: argparse.Namespace) -> Process:
    """Start the process that stands for hosts that are not there, and wait until it has written all keys."""
    words = ("--servers", servers.url, "--first", str(options.hosts), "--hosts", str(options.absent))
    more = ("--guests", str(options.guests), "--pool", str(pool_size(options)), "--ttl", str(options.ttl))
    named = ("--named",) if options.named else ()
    argv = [sys.executable, "-P", "-m", "perf.fleet_scale.absent", *words, *more, *named]
    process = Process(argv, subprocess.PIPE, stderr=None)
    stdout = process.popen.stdout
    assert stdout is not None
    line = stdout.readline()
    if not line:
        process.stop()
        raise MeasurementError("the keys of absent hosts were not written")
    found = json.loads(line)
    print(f"  {found['keys']} keys of absent hosts in {found['seconds']:.1f} s", file=sys.stderr, flush=True)
    return process
