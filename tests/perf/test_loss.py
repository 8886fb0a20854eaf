"""Bulk transfer over a lossy link, against two Linux kernels over the same shim (perf/loss.py)."""

import pytest

from perf.loss import MIB, NEEDED_RATIO, measure

SIZE = 16 * MIB
REPEAT = 5


@pytest.mark.stress
@pytest.mark.e2e
def test_five_percent_loss_costs_no_more_than_twice_what_it_costs_linux() -> None:
    outcome = measure(0.05, SIZE, REPEAT)
    ratios = outcome["ratio"]
    assert isinstance(ratios, dict)
    assert min(ratios.values()) >= NEEDED_RATIO, outcome
