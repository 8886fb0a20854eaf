"""Bulk data between a namespace guest and a server outside, compared by hash at both ends.

TRANSFER_MIB and BULK_MIB set the sizes; `make stress` asks for more.
"""

import os

import pytest

from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network
from tests.support.servers import DATA, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
EACH = int(os.environ.get("TRANSFER_MIB", "1")) * MIB
"""Bytes of each of many connections, each way."""
BULK = int(os.environ.get("BULK_MIB", "64")) * MIB
"""Bytes of a single large file."""


def transfer(agent: Agent, down: int, up: int, count: int = 1) -> None:
    """count transfers at once, every hash equal at both ends."""
    outcome = agent.run("transfer", INTERNET_ADDR, DATA, down, up, count, timeout=280)
    assert outcome["errors"] == []
    assert outcome["good"] == count


def test_a_large_file_down_arrives_with_its_hash(agent: Agent) -> None:
    transfer(agent, BULK, 0)


def test_a_large_file_up_arrives_with_its_hash(agent: Agent) -> None:
    transfer(agent, 0, BULK)


def test_two_hundred_connections_at_once_carry_mebibytes_both_ways(agent: Agent) -> None:
    transfer(agent, EACH, EACH, 200)


@pytest.mark.parametrize(
    "flags",
    [
        ("-mtu", "65520"),
        ("-mtu", "4000"),
        ("-mtu", "576"),
        ("-tcp-workers", "2", "-egress-workers", "2"),
        ("-slots", "64"),
    ],
    ids=" ".join,
)
def test_flags_for_mtu_shards_and_memory_change_no_byte(
    network: Network, outside: Servers, flags: tuple[str, ...]
) -> None:
    with Daemon(network, *flags) as daemon, Agent(network.guest, daemon.socket) as agent:
        transfer(agent, 16 * MIB, 0)
        transfer(agent, 0, 16 * MIB)
        transfer(agent, MIB, MIB, 16)
