"""The limit of descriptors: raised as far as it goes, never lowered."""

import resource
from collections.abc import Iterator

import pytest

from pipeline.system import descriptor_limit


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("soft", "hard", "after"),
    [
        (1024, 4096, 4096),
        (1024, 1 << 20, 65536),
        (1024, resource.RLIM_INFINITY, 65536),
        (65536, 65536, 65536),
        (100_000, 1 << 20, 100_000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_the_soft_limit_is_raised_to_what_is_allowed_and_wanted(
    soft: int, hard: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert descriptor_limit.raise_soft() == after
    assert limits[-1] == (after, hard)


def test_this_process_may_have_more_afterwards() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    assert descriptor_limit.raise_soft(400) == 400
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 400


@pytest.mark.parametrize(("most", "after"), [(10240, 10240), (1000, 256)])
def test_a_system_that_promises_more_than_it_grants_is_asked_for_less(
    most: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [(256, resource.RLIM_INFINITY)]

    def grant(_: int, pair: tuple[int, int]) -> None:
        if pair[0] > most:
            raise ValueError("current limit exceeds maximum limit")
        limits.append(pair)

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", grant)
    assert descriptor_limit.raise_soft() == after
    assert limits[-1][0] == after
