"""Guests that come, use everything and vanish, one after the other: what the daemon holds stays level.

``CHURN_SECONDS`` says for how long. ``make stress`` runs it for ten minutes.
"""

import os
import time
from dataclasses import asdict, dataclass

import dns.message
import pytest

from pipeline.wire import ip, tcp
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.raw_guest import GATEWAY, RawGuest, Stream
from tests.support.servers import ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

SECONDS = float(os.environ.get("CHURN_SECONDS", "9"))
ORPHAN_SECONDS = 120 if SECONDS > 300 else 3
CONNECTIONS = 8
KEPT = 4
"""Connections that are open when their guest vanishes."""
DATAGRAM_FLOWS = 6
SAMPLES = 20
ADDRESSES = 200
INTERNET = ip.parse_ipv4(INTERNET_ADDR)
LOCAL = "127.0.0.1"
REST_SECONDS = 20.0
SERVED_SECONDS = 10.0
"""How long a guest waits for its first connection, on a busy machine."""
SLACK = 4
"""Descriptors that come and go at rest: a request of the API, a question upstream."""
LEVEL = 1.1 if SECONDS > 300 else 1.5
"""How much more of anything there may be in the second half of the run than in the first half."""
LEVEL_KIB = 1024
"""How much more memory there may be. It rises for minutes, but ever more slowly (docs/decisions.md)."""


@dataclass
class Usage:
    """What the daemon holds."""

    seconds: int
    guests: int
    descriptors: int
    pss_kib: int
    anon_kib: int
    """Of these, memory that is no file's. Programs beside the daemon do not change it."""
    tcp_flows: int
    udp_flows: int

    def line(self) -> str:
        """A row of the test's output."""
        return "  ".join(f"{name} {value}" for name, value in asdict(self).items())


def usage(daemon: Daemon, began: float, guests: int) -> Usage:
    pids = {*daemon.workers().values(), daemon.process.pid}
    return Usage(
        round(time.monotonic() - began),
        guests,
        sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        sum(_memory_kib(pid, "Pss") for pid in pids),
        sum(_memory_kib(pid, "Pss_Anon") for pid in pids),
        sum(daemon.gauge("tcp_flows").values()),
        sum(daemon.gauge("udp_flows").values()),
    )


def _memory_kib(pid: int, row: str) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith(f"{row}:"))


def established(guest: RawGuest) -> list[Stream]:
    """Connections whose hosts have answered. Others may still belong to an earlier guest with its address."""
    streams: list[Stream] = []
    deadline = time.monotonic() + SERVED_SECONDS
    while not streams and time.monotonic() < deadline:
        for got in guest.tcp(guest.receive(0.5)):
            if got.header.flags & tcp.SYN:
                seq = got.header.seq + 1 & 0xFFFFFFFF
                streams.append(Stream(guest, INTERNET, got.header.dst_port, ECHO, 1001, seq, 65535))
    assert streams, "the daemon serves this guest"
    return streams


def live_and_vanish(daemon: Daemon, number: int) -> None:
    """One guest: connections, datagrams, names and a forward. Most of it is open when the link ends."""
    with RawGuest(daemon.qemu_socket, 10 + number % ADDRESSES) as guest:
        ports = range(20000, 20000 + CONNECTIONS)
        guest.send(*(guest.segment(INTERNET, port, ECHO, 1000, flags=tcp.SYN) for port in ports))
        guest.send(*(guest.datagram(INTERNET, 6000 + n, UDP_ECHO) for n in range(DATAGRAM_FLOWS)))
        for name in ("gateway.containers.internal", f"churn{number}.test", "host.containers.internal"):
            guest.send(guest.datagram(GATEWAY, 5353, 53, dns.message.make_query(name, "A").to_wire()))
        streams = established(guest)
        # A connection that holds bytes for its guest ends earlier than an idle one.
        for stream in streams[1:]:
            guest.send(stream.segment())
        streams[0].send(b"hello")
        guest.receive(0.1)
        for stream in streams[KEPT:]:
            stream.reset()
    forward = {"local": f"{LOCAL}:{10000 + number % 500}", "protocol": "tcp"}
    daemon.expose(forward["local"], f"192.168.127.{10 + number % ADDRESSES}:80")
    assert daemon.api("/services/forwarder/unexpose", forward) == (200, b"")


def test_guests_that_come_and_vanish_leave_nothing(network: Network, outside: Servers) -> None:
    with Daemon(network, "-limit", f"max-orphan-seconds={ORPHAN_SECONDS}") as daemon:
        live_and_vanish(daemon, 0)
        wait_for(lambda: not sum(daemon.gauge("tcp_flows").values()), "rest", 2 * ORPHAN_SECONDS + 5, 0.2)
        began = time.monotonic()
        before = usage(daemon, began, 0)
        samples = []
        guests = 0
        while (elapsed := time.monotonic() - began) < SECONDS:
            guests += 1
            live_and_vanish(daemon, guests)
            if elapsed >= len(samples) * SECONDS / SAMPLES:
                samples.append(usage(daemon, began, guests))
        wait_for(lambda: not sum(daemon.gauge("tcp_flows").values()), "rest", ORPHAN_SECONDS + 5, 0.2)
        wait_for(
            lambda: usage(daemon, began, guests).descriptors <= before.descriptors + SLACK,
            f"descriptors as before: {before.descriptors}",
            REST_SECONDS,
            0.2,
        )
        after = usage(daemon, began, guests)
        print("\n" + "\n".join(one.line() for one in (before, *samples, after)))
        assert after.udp_flows == 0
        # From when the first connections have ended by age, there are never more.
        level = [one for one in samples if one.seconds > ORPHAN_SECONDS + 2]
        half = len(level) // 2
        first, second = level[:half], level[half:]
        bound = CONNECTIONS * 2 + LEVEL * max(one.tcp_flows for one in first)
        assert max(one.tcp_flows for one in second) <= bound
        bound = CONNECTIONS * 2 + LEVEL * max(one.descriptors for one in first)
        assert max(one.descriptors for one in second) <= bound
        most_kib = max(one.anon_kib for one in first) + LEVEL_KIB
        assert max(one.anon_kib for one in (*second, after)) <= most_kib
