"""Guests that have moved to another host of a fleet: their connections through this host are reset."""

from collections.abc import Iterator

import pytest

from pipeline.ipc import fleet_messages
from pipeline.records.flows import Ends
from pipeline.wire import ip
from tests.stages.tcp.test_alone import Shard


@pytest.fixture
def shard() -> Iterator[Shard]:
    with Shard() as made:
        yield made
        made.guest.leave()
        made.at_home()


def away(shard: Shard, *addrs: int) -> None:
    ask = fleet_messages.StationsAway([bytes(6)], [ip.packed(addr) for addr in addrs])
    assert shard.stages["tcp0"].on_control(ask.encode(), []) == {}
    shard.settle()


def test_connections_of_the_address_are_reset_and_counted(shard: Shard) -> None:
    _, number = shard.open()
    shard.open()
    guest = Ends.of(shard.connections.by_id[number].key).guest_addr
    away(shard, guest + 1)
    assert len(shard.connections) == 2
    away(shard, guest)
    assert not shard.connections
    assert shard.counter("tcp0", "tcp_flow_reset_guest_moved") == 2
