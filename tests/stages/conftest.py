"""What several tests of stages need: forked toy workers, networks in one process, one without descriptors."""

import gc
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from pipeline.ipc.fabric import Fabric
from pipeline.topology import Layout
from tests.support.network import Make, Network
from tests.support.toy_workers import Child, MakeStage, Spawn, Toy

Exhaust = Callable[[int], None]
"""Leaves this process so many descriptors, until the test ends."""


@pytest.fixture
def exhausted() -> Iterator[Exhaust]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []

    def leave(count: int) -> None:
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + count, limits[1]))
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(min(count, len(held))):
            os.close(held.pop())

    yield leave
    for fd in held:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def fabric() -> Fabric:
    return Fabric.create(Layout(64, 1, 2))


@pytest.fixture
def spawn(fabric: Fabric) -> Iterator[Spawn]:
    children: list[Child] = []

    def start(name: str, make: MakeStage = Toy, max_sleep: float = 60.0) -> Child:
        children.append(Child(fabric, name, make, max_sleep))
        return children[-1]

    yield start
    for child in children:
        child.kill()


@pytest.fixture
def network() -> Iterator[Make]:
    """Makes networks in this process, which are closed at the end."""
    made: list[Network] = []

    def make(**changed: Any) -> Network:
        made.append(Network(**changed))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(autouse=True, scope="module")
def _usual_collections() -> Iterator[None]:
    """A worker's loop that a test runs in this process makes Python's collections rare."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
