"""Audits all pools of a fabric, for tests that have them in one process."""

from collections.abc import Mapping

from pipeline.ipc.arena import Pool
from pipeline.topology import Layout


def audit(layout: Layout, pools: Mapping[str, Pool]) -> list[str]:
    """A text about each pool that is missing, inconsistent, or has slots in use."""
    problems = [f"{home}: no such pool" for home in pools.keys() - layout.pools.keys()]
    for home, span in layout.pools.items():
        pool = pools.get(home)
        if pool is None:
            problems.append(f"{home}: pool is missing")
            continue
        if (wrong := pool.audit()) is not None:
            problems.append(f"{home}: {wrong}")
        if (pool.first, pool.count) != span or pool.free_count != span.slot_count or pool.refs_out:
            problems.append(
                f"{home}: {pool.free_count} of {span.slot_count} slots free, {pool.refs_out} references out"
            )
    return problems
