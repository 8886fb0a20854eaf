"""Simulated daemons of a fleet, many in one process: the real agent and engines, without workers and guests.

A SimulatedDaemon is what the supervisor of a host has with ``-fleet``, and a session with a real NATS server.
What its workers would be told is encoded as for them and counted. What they would report comes from here: a
guest appears, asks for an address until it has one, has a name.

As a program, this runs the daemons FIRST to FIRST + COUNT - 1. Its standard input has a command in each line,
an object of JSON with ``do``; each is answered by a line (perf.fleet_scale.measure).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

import msgpack
import structlog

from perf.fleet_scale.servers import processor_seconds, resident
from pipeline.control.hub import Hub
from pipeline.engines.fleet import members, mirror, names, places
from pipeline.engines.fleet.mirror import Entry
from pipeline.engines.fleet.values import Host
from pipeline.engines.fleet.view import FleetView
from pipeline.fleet import agent, store
from pipeline.fleet.agent import Agent
from pipeline.fleet.feed import EventFeed
from pipeline.fleet.forwards import SharedForwards
from pipeline.fleet.hands import Hands
from pipeline.fleet.settings import SharedSettings
from pipeline.fleet.store import Access
from pipeline.ipc import fleet_messages
from pipeline.topology import DEMUX, INGRESS, RESOLVER
from pipeline.wire import ip

BUCKET = "gvtap"
LEASE_S = 3600.0
AT_ONCE = 8
"""Guests of one host that start at the same time."""
ASKS_AGAIN_S = 1.0
"""Seconds after which a client of DHCP repeats a question that had no answer."""
FIRST_ADDRESS = "10.64.0.0"
PORT = 4789
_LOOK_S = 0.02


def pool(size: int) -> range:
    """The addresses of the fleet's pool."""
    first = ip.parse_ipv4(FIRST_ADDRESS)
    return range(first, first + size)


def host_name(number: int) -> str:
    """The name of a host, as long as those in a data centre."""
    return f"host-{number:05d}"


def outer_address(number: int) -> str:
    """The address of its link."""
    return f"172.{16 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def guest_mac(host: int, guest: int) -> bytes:
    """The MAC address of a guest, by the host where it starts."""
    return b"\x5a\x94" + host.to_bytes(2, "big") + guest.to_bytes(2, "big")


def guest_label(host: int, guest: int) -> str:
    """The name of a guest."""
    return f"vm-{host:05d}-{guest:03d}"


class _Worker:
    """Stands for a channel to a worker."""

    def __init__(self, count: Callable[[int], None], on_message: Callable[[Any], None]) -> None:
        self._count = count
        self._on_message = on_message

    def send(self, message: Any, _fds: Iterable[int] = ()) -> None:
        self._count(len(msgpack.packb(message.encode())))
        self._on_message(message)


class _Workers:
    """Stands for pipeline.control.workers.Channels."""

    def __init__(self, channels: dict[str, _Worker]) -> None:
        self.channels = channels


class _NoForwards:
    """Stands for the forwarder: the fleet has no forwards."""

    def all(self) -> list[object]:
        return []


class WatchedView(FleetView):
    """The view of a host that also notes when keys were reported."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.entries = 0
        self.joins = 0
        """How often all keys were reported: once for each session."""
        self.wanted: dict[str, float] = {}
        """When each of these keys was reported; 0 if it was not."""

    def on_online(self, now: float) -> None:
        super().on_online(now)
        self.joins += 1

    def on_entry(self, entry: Entry, now: float) -> None:
        super().on_entry(entry, now)
        self.entries += 1
        if entry.key in self.wanted:
            self.wanted[entry.key] = time.monotonic()


class SimulatedDaemon:
    """One host."""

    def __init__(self, number: int, servers: tuple[str, ...], pool_size: int, ttl: float) -> None:
        self.number = number
        self.name = host_name(number)
        log = structlog.wrap_logger(
            structlog.PrintLogger(), wrapper_class=structlog.make_filtering_bound_logger(50)
        )
        self.to_workers_bytes = 0
        self.to_workers_messages = 0
        self.macs: dict[bytes, str] = {}
        self._granted: dict[bytes, asyncio.Future[bytes]] = {}
        self._names: dict[str, bytes] = {}
        self.guests: dict[bytes, bytes] = {}
        """The address of each guest that has one, by MAC."""
        workers = {
            name: _Worker(self._count, self._on_message) for name in (INGRESS, DEMUX, RESOLVER, "tcp0")
        }
        channels = cast(Any, _Workers(workers))
        hub = Hub(lambda _: None, log)
        row = Host(outer_address(number), PORT, "0123456789abcdef", secrets.token_hex(8), 0)
        self.view = WatchedView(self.name, row, ttl, pool(pool_size), secrets.randbelow)
        access = Access(servers, BUCKET, self.name, "", "", None)
        settings = SharedSettings(cast(Any, None), channels, hub, log)
        forwards = SharedForwards(cast(Any, _NoForwards()), hub, log)
        feed = EventFeed(hub, BUCKET, self.name)
        self.agent = Agent(access, self.view, Hands(channels, ["tcp0"]), hub, settings, forwards, feed, log)

    def _count(self, size: int) -> None:
        self.to_workers_bytes += size
        self.to_workers_messages += 1

    def _on_message(self, message: Any) -> None:
        match message:
            case fleet_messages.LeaseGranted():
                asked = self._granted.get(message.mac)
                if asked is not None and not asked.done():
                    asked.set_result(message.addr)
            case fleet_messages.Stations():
                # The daemon starts: there are no guests yet.
                asyncio.get_running_loop().call_soon(self._stations, {}, {}, True)

    def _stations(self, macs: dict[bytes, bool], addrs: dict[bytes, bytes], complete: bool = False) -> None:
        self.agent.on_event(fleet_messages.StationsEvent(macs, addrs, complete))

    async def lease(self, mac: bytes) -> bytes:
        """A guest asks for an address until it has one."""
        while True:
            asked: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self._granted[mac] = asked
            self.agent.on_event(fleet_messages.LeaseWantedEvent(mac, LEASE_S))
            addr = await asked
            if addr:
                return addr
            await asyncio.sleep(ASKS_AGAIN_S)

    async def add(self, mac: bytes, label: str) -> None:
        """A guest starts here, or has moved here."""
        self._stations({mac: True}, {})
        addr = await self.lease(mac)
        self.guests[mac] = addr
        self._stations({}, {addr: mac})
        if label:
            self._names[label] = addr
            self.agent.on_event(fleet_messages.NamesEvent(dict(self._names)))

    async def add_all(self, count: int, named: bool, pause: float) -> None:
        """All guests of this host start, some at a time. pause: seconds between two of them, on average."""
        room = asyncio.Semaphore(AT_ONCE)
        rest = random.Random(self.number)

        async def one(guest: int) -> None:
            await asyncio.sleep((guest + rest.random()) * pause)
            async with room:
                await self.add(
                    guest_mac(self.number, guest), guest_label(self.number, guest) if named else ""
                )

        await asyncio.gather(*(one(guest) for guest in range(count)))

    async def renew_all(self) -> None:
        """All guests renew their leases."""
        for mac in list(self.guests):
            await self.lease(mac)


class Crowd:
    """The daemons of this process, and the commands about them."""

    def __init__(self, options: argparse.Namespace) -> None:
        servers = options.servers.removeprefix("nats://").split(",")
        urls = tuple(f"nats://{server}" for server in servers)
        numbers = range(options.first, options.first + options.count)
        self.daemons = [SimulatedDaemon(each, urls, options.pool, options.ttl) for each in numbers]

    async def start(self, timeout: float) -> dict[str, float]:
        """Start all, and wait until each is online. Returns how many seconds the last one needed."""
        began = time.monotonic()
        for daemon in self.daemons:
            daemon.agent.start()
        await self._until(lambda: all(daemon.view.online for daemon in self.daemons), timeout)
        return {"seconds": time.monotonic() - began}

    async def know(
        self, timeout: float, members: int = 0, places: int = 0, names: int = 0
    ) -> dict[str, float]:
        """Wait until each daemon knows so many members, places and names. Returns when the last one did."""

        def do_all() -> bool:
            return all(
                len(each.view.members) >= members
                and len(each.view.places) >= places
                and len(each.view.names) >= names
                for each in self.daemons
            )

        await self._until(do_all, timeout)
        return {"at": time.monotonic()}

    async def guests(self, count: int, named: bool, pause: float) -> dict[str, float]:
        """Guests start on all hosts. Returns how long it took until all of them had addresses."""
        began = time.monotonic()
        await asyncio.gather(*(daemon.add_all(count, named, pause) for daemon in self.daemons))
        return {"seconds": time.monotonic() - began}

    async def renew(self) -> dict[str, float]:
        """All guests renew their leases."""
        for daemon in self.daemons:
            await daemon.renew_all()
        return {}

    async def want(self, keys: list[str]) -> dict[str, float]:
        """Note when these keys are reported."""
        for daemon in self.daemons:
            daemon.view.wanted = dict.fromkeys(keys, 0.0)
        return {}

    async def seen(self, timeout: float) -> dict[str, list[float]]:
        """Wait for these keys. Returns when each daemon has seen the first and the last of them."""
        await self._until(lambda: all(all(each.view.wanted.values()) for each in self.daemons), timeout)
        return {
            "first": [min(each.view.wanted.values()) for each in self.daemons],
            "last": [max(each.view.wanted.values()) for each in self.daemons],
        }

    async def add(self, host: int, mac: str, label: str = "") -> dict[str, float]:
        """A guest appears on a host. Returns when, and when it had its address."""
        daemon = next(each for each in self.daemons if each.number == host)
        began = time.monotonic()
        await daemon.add(bytes.fromhex(mac), label)
        return {"began": began, "had": time.monotonic()}

    async def stats(self) -> dict[str, float]:
        """What these daemons have done and what they need."""
        gc.collect()
        return {
            "joins": sum(each.view.joins for each in self.daemons),
            "entries": sum(each.view.entries for each in self.daemons),
            "bytes": sum(each.to_workers_bytes for each in self.daemons),
            "messages": sum(each.to_workers_messages for each in self.daemons),
            "keys": sum(len(each.view.places) + len(each.view.names) for each in self.daemons),
            "bad": sum(each.view.bad_values for each in self.daemons),
            "memory": resident(os.getpid()),
            "cpu": processor_seconds(os.getpid()),
        }

    async def stop(self) -> dict[str, float]:
        """End all."""
        await asyncio.gather(*(daemon.agent.stop() for daemon in self.daemons))
        return {}

    async def _until(self, done: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout:.0f} s")
            await asyncio.sleep(_LOOK_S)


def lift_limits() -> None:
    """Have this process accept more than daemons do, to see what it would cost."""
    mirror.MAX_KEYS = mirror.MAX_BYTES = names.MAX_NAMES = 1 << 32  # type: ignore[misc]
    members.MAX_MEMBERS = places.MAX_AWAY = 1 << 32  # type: ignore[misc]
    agent.SNAPSHOT_S = agent.OPEN_S = store.WATCH_S = 3600.0  # type: ignore[misc]


async def serve(crowd: Crowd) -> None:
    """Carry out the commands of the standard input, until ``stop``."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        words = json.loads(line)
        what = words.pop("do")
        command: Callable[..., Awaitable[Any]] = getattr(crowd, what)
        try:
            answer = await command(**words)
        except TimeoutError as error:
            answer = {"error": f"{what}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        if what == "stop":
            return


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated daemons of a fleet.")
    parser.add_argument("--servers", required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--pool", type=int, required=True)
    parser.add_argument("--ttl", type=float, required=True)
    parser.add_argument("--lift-limits", action="store_true")
    options = parser.parse_args()
    if options.lift_limits:
        lift_limits()
    asyncio.run(serve(Crowd(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
