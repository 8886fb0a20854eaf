"""Guests' host names: the DHCP server learns them, and the name server answers with them.

In a fleet, it also answers with those of other hosts' guests. Those win: the fleet has one set of names.

Without the setting ``guest-names`` there is nothing to do.
"""

from collections import ChainMap
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines.dhcp.names import HostNames
from pipeline.engines.dns.zones import Zones
from pipeline.ipc import fleet_messages
from pipeline.stages.worker import Worker

_NAMES: Final = INDEX["dhcp_host_names"]


class GuestNames:
    """The names of guests in one zone; "" for none."""

    def __init__(self, zone: str, zones: Zones, counts: memoryview) -> None:
        """zones: has this zone."""
        self._zone = zone
        self._zones = zones
        self._counts = counts
        self._away: dict[str, bytes] = {}
        self._away_pointers: dict[bytes, str] = {}
        self.names = HostNames(zone, self._is_taken) if zone else None
        self.attach(zones)

    def attach(self, zones: Zones) -> None:
        """Answer for guests' names in this list of zones from now on."""
        self._zones = zones
        if self.names is not None:
            addresses = ChainMap(self._away, self.names.addresses)
            pointers = ChainMap(self._away_pointers, self.names.pointers)
            zones.add_guests(self._zone, addresses, pointers)

    def _is_taken(self, label: str) -> bool:
        return label in self._away or self._zones.has_record(self._zone, label)

    def set_away(self, names: Mapping[str, bytes], *, complete: bool) -> None:
        """Guests of other hosts have these names: packed IPv4 address by label.

        complete: and no others. Else an empty address removes the name.
        """
        away, pointers = self._away, self._away_pointers
        if complete:
            away.clear()
            pointers.clear()
        lost: set[bytes] = set()
        for label, address in names.items():
            before = away.pop(label, b"")
            if pointers.get(before) == f"{label}.{self._zone}":
                del pointers[before]
                lost.add(before)
            if address:
                away[label] = address
                pointers[address] = f"{label}.{self._zone}"
        lost -= pointers.keys()
        if lost:
            # Another name may have the address too.
            pointers |= {
                address: f"{label}.{self._zone}" for label, address in away.items() if address in lost
            }

    def tell_fleet(self, worker: Worker) -> None:
        """Tell the fleet the names of this host's guests."""
        if self.names is not None:
            # A long message needs a descriptor, and perhaps none is left. The next change tells all again.
            with suppress(OSError):
                worker.send_event(fleet_messages.NamesEvent(dict(self.names.addresses)).encode())

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
