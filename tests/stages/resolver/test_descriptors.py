"""How many questions may be under way where the system gives few descriptors."""

import resource

import pytest

from pipeline.stages.resolver import descriptors as resolver_descriptors


@pytest.mark.parametrize(
    "descriptors, sockets",
    [(65536, 1280), (resource.RLIM_INFINITY, 1280), (1024, 640), (448, 64), (256, 64)],
)
def test_questions_leave_descriptors_to_dns_connections(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, sockets: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert resolver_descriptors.question_sockets() == sockets
