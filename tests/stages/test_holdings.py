"""At any moment between two breaths, workers hold exactly the references that the homes have counted."""

import pytest

from tests.stages.test_together_random import NETWORKS, Run
from tests.support.network import Network


@pytest.mark.parametrize("kind", NETWORKS)
def test_all_references_are_held_by_somebody_at_any_moment_of_random_traffic(kind: str) -> None:
    with Network(seed=7, **NETWORKS[kind]) as net:
        run = Run(net, 7)
        busy = 0
        for _ in range(200):
            run.step()
            counted = net.references_counted()
            assert net.references() == counted
            busy += any(counted.values())
        assert busy > 100
        run.end()
        net.everybody_leaves()
        assert not any(net.references().values())
