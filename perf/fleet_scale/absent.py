"""Writes the keys of hosts that are not there, as if each had guests, and their beats.

    python -m perf.fleet_scale.absent --servers URL --first 200 --hosts 2000 --guests 100 --ttl 90

It prints a line when all keys are written, then one JSON object a line for the beats of each period, until it
is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Final

from perf.fleet_scale.daemons import (
    BUCKET,
    PORT,
    guest_label,
    guest_mac,
    host_name,
    outer_address,
    pool,
)
from pipeline.engines.fleet import values
from pipeline.engines.fleet.entries import RESERVED, Claim, Member
from pipeline.engines.fleet.lease_pool import RESERVE
from pipeline.engines.fleet.members import BEATS_A_TTL
from pipeline.engines.fleet.values import Host, Name, Place
from pipeline.fleet.store import ERRORS, Access, Session
from pipeline.wire import ip

AT_ONCE: Final = 256
"""Writes under way at the same time."""

Row = tuple[str, bytes]


def host_row(number: int, beat: int) -> Row:
    """The row of a host."""
    host = Host(outer_address(number), PORT, "0123456789abcdef", f"{number:016x}", beat)
    return values.HOST + host_name(number), values.host_bytes(host)


def rows(number: int, guests: int, named: bool, addresses: range) -> Iterator[Row]:
    """All keys that a host with guests has. addresses: those of its claims."""
    name = host_name(number)
    yield host_row(number, 1)
    yield values.MEMBER + name, values.member_bytes(Member(1, 1 << 30, False))
    for index, addr in enumerate(addresses):
        mac = guest_mac(number, index) if index < guests else RESERVED
        yield values.claim_key(addr), values.claim_bytes(Claim(name, 1, mac))
        if index < guests:
            yield values.mac_key(mac), values.place_bytes(Place(name, (ip.packed(addr),)))
            if named:
                yield values.NAME + guest_label(number, index), values.name_bytes(Name(name, ip.packed(addr)))


def all_rows(options: argparse.Namespace) -> Iterator[Row]:
    """The keys of all hosts. Their addresses are at the end of the pool."""
    each = options.guests + RESERVE
    addresses = pool(options.pool)
    begin = len(addresses) - options.hosts * each
    for index in range(options.hosts):
        part = addresses[begin + index * each : begin + (index + 1) * each]
        yield from rows(options.first + index, options.guests, options.named, part)


async def write(session: Session, found: Iterator[Row]) -> int:
    """Write all, many at a time. Returns how many."""
    count = 0

    async def some() -> None:
        nonlocal count
        for key, value in found:
            await session.write(key, value, None)
            count += 1

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return count


async def beats(session: Session, options: argparse.Namespace) -> None:
    """Write the rows of the hosts again and again, evenly in time, as their daemons would."""
    period = options.ttl / BEATS_A_TTL
    beat = 1
    lost = 0

    async def write_one(key: str, value: bytes) -> None:
        nonlocal lost
        try:
            await session.write(key, value, None)
        except ERRORS:
            lost += 1

    while True:
        began = time.monotonic()
        beat += 1
        under_way: set[asyncio.Task[None]] = set()
        for index in range(options.hosts):
            key, value = host_row(options.first + index, beat)
            task = asyncio.create_task(write_one(key, value))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            await asyncio.sleep(max(began + period * (index + 1) / options.hosts - time.monotonic(), 0.0))
        if under_way:
            await asyncio.wait(under_way)
        print(json.dumps({"beats": options.hosts, "lost": lost, "s": time.monotonic() - began}), flush=True)


async def run(options: argparse.Namespace) -> None:
    server = "nats://" + options.servers.removeprefix("nats://").split(",")[0]
    session = Session(Access(tuple(options.servers.split(",")), BUCKET, "absent", "", "", None))
    await session.open(server)
    began = time.monotonic()
    count = await write(session, all_rows(options))
    print(json.dumps({"keys": count, "seconds": time.monotonic() - began}), flush=True)
    await beats(session, options)


def main() -> int:
    parser = argparse.ArgumentParser(description="Keys and beats of hosts that are not there.")
    parser.add_argument("--servers", required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--hosts", type=int, required=True)
    parser.add_argument("--guests", type=int, required=True)
    parser.add_argument("--named", action="store_true")
    parser.add_argument("--pool", type=int, required=True)
    parser.add_argument("--ttl", type=float, required=True)
    asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
