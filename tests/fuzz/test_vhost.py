"""The vhost-user fuzzer, without a fuzzer: thousands of cases here, and a million with the mark stress."""

import pytest

from tests.fuzz.vhost_target import KINDS, one_input

CASES = 3000
STRESS_CASES = 1_000_000


def run(first: int, count: int) -> None:
    for case in range(first, first + count):
        try:
            one_input(bytes((case % KINDS,)) + case.to_bytes(4, "little"))
        except Exception as error:
            raise AssertionError(f"case {case}: {error!r}") from error


def test_messages_and_rings_of_any_kind_are_served_or_refused() -> None:
    run(0, CASES)


@pytest.mark.stress
def test_a_million_of_them() -> None:
    run(CASES, STRESS_CASES)
