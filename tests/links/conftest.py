"""Fixtures of the link tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.owner import Owner
from tests.support.vhost import Rig


@pytest.fixture
def owner() -> Iterator[Owner]:
    """Keeps what comes in; all slots must be home at the end."""
    made = Owner()
    yield made
    made.close()


@pytest.fixture
def rig(owner: Owner, tmp_path: Path) -> Iterator[Rig]:
    """A listener for vhost-user. All descriptors must be closed at the end."""
    made = Rig(owner, tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    yield made
    made.listener.close()
    made.close()
    assert len(os.listdir("/proc/self/fd")) <= before, "descriptors were left open"
