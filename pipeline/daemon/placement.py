"""Decides which workers share a process.

``separate`` gives each worker a process, so the pipeline can use as many cores as there are workers. ``auto``
depends on the machine. With few cores it puts the data path (ingress, demux, tcp, egress) into one process.
There it costs more to wake another process than a second core gains. resolver and listen then share a second
process. On larger machines ``auto`` means ``separate``.
"""

from typing import Final, NamedTuple

from pipeline.config.choices import PLACEMENTS, SEPARATE
from pipeline.topology import DEMUX, EGRESS, INGRESS, LISTEN, RESOLVER, TCP, Layout

FEW_CORES: Final = 4
"""With at most this many cores, ``auto`` puts the data path into one process."""


class Group(NamedTuple):
    """One process.

    ``members``: its workers, in the order in which the loop runs them. ``back``: workers that the loop runs
    once more in the same turn, so that an answer passes them on its way back.
    """

    name: str
    members: tuple[str, ...]
    back: tuple[str, ...] = ()


def plan(kind: str, layout: Layout, cores: int) -> tuple[Group, ...]:
    """The processes, in the order of their start. ValueError for an unknown kind."""
    if kind not in PLACEMENTS:
        raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}, not {kind!r}")
    if kind == SEPARATE or cores > FEW_CORES:
        return tuple(Group(name, (name,)) for name in layout.names)
    path = (INGRESS, DEMUX, *layout.shards(TCP), *layout.shards(EGRESS))
    back = (*layout.shards(TCP), DEMUX, INGRESS)
    side = (RESOLVER, LISTEN)
    return Group("data", path, back), Group("side", side)
