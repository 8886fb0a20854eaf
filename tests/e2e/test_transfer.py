"""Bulk data between a namespace guest and a server outside, compared by hash at both ends."""

import os

import pytest

from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network
from tests.support.servers import DATA, Servers

pytestmark = pytest.mark.e2e

GIB = 1 << 30
MIB = 1 << 20
EACH = int(os.environ.get("TRANSFER_MIB", "2")) * MIB
"""Bytes of each of many connections, each way; `make stress` asks for more."""


def transfer(agent: Agent, down: int, up: int, count: int = 1) -> None:
    """count transfers at once, every hash equal at both ends."""
    outcome = agent.run("transfer", INTERNET_ADDR, DATA, down, up, count, timeout=280)
    assert outcome["errors"] == []
    assert outcome["good"] == count


def test_a_gibibyte_down_arrives_with_its_hash(agent: Agent) -> None:
    transfer(agent, GIB, 0)


def test_a_gibibyte_up_arrives_with_its_hash(agent: Agent) -> None:
    transfer(agent, 0, GIB)


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
        transfer(agent, 64 * MIB, 0)
        transfer(agent, 0, 64 * MIB)
        transfer(agent, MIB, MIB, 32)
