"""Fixtures of the link tests."""

from collections.abc import Iterator

import pytest

from tests.support.owner import Owner


@pytest.fixture
def owner() -> Iterator[Owner]:
    """Keeps what comes in; all slots must be home at the end."""
    made = Owner()
    yield made
    made.close()
