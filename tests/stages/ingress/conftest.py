"""The ingress stage for a test, closed at its end."""

from collections.abc import Iterator

import pytest

from tests.support.ingress_rig import IngressRig


@pytest.fixture
def rig() -> Iterator[IngressRig]:
    rig = IngressRig()
    yield rig
    rig.end()
