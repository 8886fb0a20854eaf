"""Which guest each row of ingress's counters by guest belongs to."""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.counter_block import OTHERS, GuestRow

OTHER_GUESTS: Final = "other"
"""The name of the links that share a row."""


def name_guests(rows: Sequence[GuestRow], cam: Mapping[str, int]) -> dict[str, GuestRow]:
    """The rows by the first MAC address of their link. cam: the link of each MAC address.

    A link without a MAC address has sent nothing that counts. Links that share a row are OTHER_GUESTS.
    """
    macs: dict[int, str] = {OTHERS: OTHER_GUESTS}
    for mac, link in cam.items():
        macs.setdefault(link, mac)
    return {macs[row.link]: row for row in rows if row.link in macs}
