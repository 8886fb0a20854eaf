"""Which workers share a process.

``separate`` gives each worker a process, so the pipeline uses as many cores as there are workers. ``auto``
puts the data path into one process on a machine with few cores, where waking another process costs more than
its core gains. resolver and listen share a second process then. On larger machines ``auto`` is ``separate``.
"""

from typing import Final, NamedTuple

from pipeline.config.model import PLACEMENTS, SEPARATE
from pipeline.topology import DEMUX, EGRESS, INGRESS, LISTEN, RESOLVER, TCP, Layout

FEW_CORES: Final = 4
"""With at most this many cores, the data path of ``auto`` is one process."""


class Group(NamedTuple):
    """One process.

    ``members``: the workers in it, in the order in which they breathe. ``back``: the workers that breathe
    again in the same turn, so that a frame and its answer both pass all of them.
    """

    name: str
    members: tuple[str, ...]
    back: tuple[str, ...] = ()


def plan(kind: str, layout: Layout, cores: int) -> tuple[Group, ...]:
    """The processes, in the order in which they are started. ValueError for an unknown kind."""
    if kind not in PLACEMENTS:
        raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}, not {kind!r}")
    if kind == SEPARATE or cores > FEW_CORES:
        return tuple(Group(name, (name,)) for name in layout.names)
    path = (INGRESS, DEMUX, *layout.shards(TCP), *layout.shards(EGRESS))
    back = (*layout.shards(TCP), DEMUX, INGRESS)
    side = (RESOLVER, LISTEN)
    return Group("data", path, back), Group("side", side)
