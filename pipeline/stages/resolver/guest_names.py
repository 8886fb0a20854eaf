"""Guests' host names: the DHCP server learns them, and the name server answers with them.

Without the setting ``guest-names`` there is nothing to do.
"""

from typing import Final

from pipeline.counters import INDEX
from pipeline.engines.dhcp.names import HostNames
from pipeline.engines.dns.zones import Zones

_NAMES: Final = INDEX["dhcp_host_names"]


class GuestNames:
    """The names of guests in one zone; "" for none."""

    def __init__(self, zone: str, zones: Zones, counts: memoryview) -> None:
        """zones: has this zone."""
        self._zone = zone
        self._zones = zones
        self._counts = counts
        self.names = HostNames(zone, self._is_taken) if zone else None
        self.attach(zones)

    def attach(self, zones: Zones) -> None:
        """Answer for guests' names in this list of zones from now on."""
        self._zones = zones
        if self.names is not None:
            zones.add_guests(self._zone, self.names.addresses, self.names.pointers)

    def _is_taken(self, label: str) -> bool:
        return self._zones.has_record(self._zone, label)

    def deadline(self) -> float:
        """When the next name may end."""
        return self.names.deadline() if self.names is not None else float("inf")

    def update(self, refusal: str, now: float) -> bool:
        """Something happened to leases, or the deadline came. Returns whether a name came or went.

        refusal: the counter of a name that was refused, or empty.
        """
        names = self.names
        if names is None:
            return False
        if refusal:
            self._counts[INDEX[refusal]] += 1
        names.expire(now)
        self._counts[_NAMES] = len(names)
        return names.take_changed()
