"""Which records carry a reference to their slot: the last column of the table in kinds.py, as code.

Nothing here runs while the daemon carries traffic. After the death of a worker, the others count with it what
is on its way in rings (pipeline.stages.holdings).
"""

from struct import Struct
from typing import Final

from pipeline.records import kinds
from pipeline.records.frames import is_borrowed

CARRIERS: Final = frozenset(
    (
        kinds.FRAME,
        kinds.TCP_RANGE,
        kinds.UDP_RANGE,
        kinds.FRAME_OUT,
        kinds.UDP_OUT,
        kinds.UDP_TO_GUEST,
        kinds.DROPPED,
        kinds.TO_HOST,
        kinds.TO_GUEST,
        kinds.UDP_DATA,
        kinds.ICMP_ECHO,
        kinds.ICMP_REPLY,
        kinds.SERVICE_DATAGRAM,
    )
)
"""Kinds whose reference moves with the record. A FRAME_OUT that is borrowed leaves it to a later one."""

_SLOT: Final = Struct("<I")
_SLOT_AT: Final = 8
"""Where each layout of these kinds has the slot's number."""


def slot_of(records: bytes | memoryview, at: int = 0) -> int:
    """The slot whose reference the record at records[at:] carries; NO_SLOT if it carries none."""
    kind = records[at]
    if kind not in CARRIERS or (kind == kinds.FRAME_OUT and is_borrowed(records, at)):
        return kinds.NO_SLOT
    slot: int = _SLOT.unpack_from(records, at + _SLOT_AT)[0]
    return slot
