"""What the tests of neighbours share: addresses, a table, a table that knows one guest."""

from typing import Any

import pytest

from pipeline.counters import INDEX
from pipeline.engines.neighbors.addresses import GuestAddresses
from pipeline.engines.neighbors.table import Neighbors
from pipeline.wire import ip
from pipeline.wire.errors import WireError

GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
A, B = bytes.fromhex("5a94efe40cee"), bytes.fromhex("5a94efe40cef")
NETWORK, GATEWAY, HOST, ONE, TWO = map(
    ip.parse_ipv4, ("192.168.127.0", "192.168.127.1", "192.168.127.254", "192.168.127.2", "192.168.127.3")
)
INF = float("inf")


def table(**changes: Any) -> Neighbors:
    return Neighbors(GuestAddresses(NETWORK, 24, (GATEWAY, HOST)), GATEWAY_MAC, **changes)


def with_one(confirmed: float = 0.0) -> Neighbors:
    known = table()
    known.learn(ONE, A, 0, confirmed)
    known.take_actions()
    return known


def refused(known: Neighbors, addr: int, mac: bytes, link: int, now: float) -> str:
    with pytest.raises(WireError) as caught:
        known.learn(addr, mac, link, now)
    assert caught.value.reason in INDEX
    return caught.value.reason.removeprefix("neighbor_claim_refused_")
