"""One burst of a guest's frames, as ingress passes it on."""

from collections.abc import Sequence

from pipeline.engines.offload import gro
from pipeline.topology import DEMUX
from tests.support.one_process import Neighbour

GAP = 4
"""Bytes between two frames, where a link has their lengths."""


def push(ingress: Neighbour, link: int, frames: Sequence[bytes]) -> dict[str, int]:
    """Put the frames into a slot of ingress and through GRO, and push the records. Returns GRO's drops."""
    slot = ingress.worker.pool.alloc()
    view = ingress.slots[slot]
    places = []
    off = 256
    for frame in frames:
        view[off : off + len(frame)] = frame
        places.append((off, len(frame)))
        off += len(frame) + GAP
    has_ipv6 = ingress.process.config.network.ipv6_first != 0
    items, drops = gro.coalesce(view, places, link, slot, ipv6=has_ipv6)
    ingress.worker.pool.ref(slot, len(items))
    for item in items:
        ingress.push(DEMUX, item.pack())
    ingress.worker.free(slot)
    return drops
