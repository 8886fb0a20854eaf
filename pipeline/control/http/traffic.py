"""The answer of /traffic: what each ring between workers has carried, and each guest's link.

All numbers are in shared memory. Only the names of guests come from a worker (demux). If it does not answer,
the guests are missing.
"""

from collections.abc import Mapping
from typing import Protocol

from pipeline.control.http import models
from pipeline.counter_block import GuestRow
from pipeline.topology import Edge


class Meter(Protocol):
    """What the program counts by ring and by guest."""

    def rings(self) -> Mapping[Edge, tuple[int, int]]:
        """For each ring: the records that it has carried since the start, and those in it now."""

    async def guest_rows(self) -> Mapping[str, GuestRow]:
        """What each guest sent and got, by the MAC address of its link."""


async def read(meter: Meter) -> models.Traffic:
    """The traffic until now."""
    guests = await meter.guest_rows()
    return models.Traffic(
        rings=[
            models.RingTraffic(
                source=edge.source,
                target=edge.target,
                records=records,
                waiting=waiting,
                capacity=edge.capacity,
            )
            for edge, (records, waiting) in meter.rings().items()
        ],
        guests=[
            models.GuestTraffic(
                mac=mac,
                bytes_from_guest=row.bytes_from_guest,
                bytes_to_guest=row.bytes_to_guest,
                frames_from_guest=row.frames_from_guest,
                frames_to_guest=row.frames_to_guest,
                frames_dropped=row.frames_dropped,
            )
            for mac, row in guests.items()
        ],
    )
