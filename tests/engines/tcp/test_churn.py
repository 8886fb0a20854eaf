"""Churn: after any number of connections, opened and closed in random ways, nothing is left (see churn.py).

`make stress` opens a million (STRESS_CONNECTIONS sets another number).
"""

import gc
import os

import pytest

from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.state import CLOSED, TIME_WAIT
from tests.engines.tcp.churn import Churn

BLOCKS = 2
CONNECTIONS = 5000
"""In each block: 10,000 in all without an environment variable."""


def alive() -> int:
    """Connection objects that still exist."""
    gc.collect()
    return sum(isinstance(thing, Connection) for thing in gc.get_objects())


def churned(count: int, seed: int) -> None:
    before = alive()
    churn = Churn(count, seed)
    churn.run()
    churn.check_empty()
    assert alive() == before
    # Every way to end was taken, and ports were used again.
    seen = churn.seen
    assert churn.states[CLOSED] > 0.5 * count
    assert churn.states[TIME_WAIT] == seen["reused"]
    assert min(seen[f"ended by {cause}"] for cause in ("reset", "silence", "refusal")) > 0
    assert seen["reused"] > 0
    # SYNs that were under way, or are repeated after a lost reset, open a few more.
    assert count <= seen["opened"] < 1.1 * count


@pytest.mark.parametrize("seed", range(BLOCKS))
def test_nothing_is_left_of_connections_that_ended_in_any_way(seed: int) -> None:
    churned(CONNECTIONS, seed)


@pytest.mark.stress
def test_nothing_is_left_of_a_million_connections() -> None:
    churned(int(os.environ.get("STRESS_CONNECTIONS", "1000000")), BLOCKS)
