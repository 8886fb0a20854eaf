"""Keeps the leases of DHCP and DHCPv6 in a state file: it is read at the start, and written after a change.

The resolver reports the leases that it read to demux. So no guest can take the address of another guest that
is not back yet. The supervisor writes the file (pipeline.control.lease_writer).
"""

from collections.abc import Iterable
from time import time
from typing import Final

from pipeline.engines.dhcp.server import Dhcp
from pipeline.engines.dhcp.server6 import Dhcp6
from pipeline.host import lease_file
from pipeline.ipc import healing_messages, messages
from pipeline.records.addresses import addr_bytes, addr_of
from pipeline.records.guests import Leased
from pipeline.stages.worker import Worker
from pipeline.wire import ethernet

SPACING: Final = 1.0
"""Seconds from a change to the write, so that many guests that start together cause one write."""
REPORT_SPACING: Final = 0.05
"""Seconds from a change to the report to the supervisor."""


class LeaseKeeper:
    """The state file of the DHCP servers. Without a path there is no file."""

    def __init__(self, worker: Worker, dhcp: Dhcp, dhcp6: Dhcp6 | None, path: str, now: float) -> None:
        """dhcp6: None while IPv6 is off."""
        self._worker = worker
        self._dhcp = dhcp
        self._dhcp6 = dhcp6
        self._path = path
        self._save_at = float("inf")
        self._report_at = float("inf")
        if path:
            self._load(now)

    def _load(self, now: float) -> None:
        try:
            rows = lease_file.load(self._path, time())
        except lease_file.LeaseFileError as error:
            # Guests are served nevertheless. The file is not overwritten, so that the user can repair it.
            self._worker.log.error("leases not taken over", error=str(error))
            self._path = ""
            return
        count = self._dhcp.restore(rows.ipv4, now)
        if self._dhcp6 is not None:
            count += self._dhcp6.restore(rows.ipv6, now)
        self.report(now)
        total = len(rows.ipv4) + len(rows.ipv6)
        self._worker.log.info("leases taken over", count=count, of=total, path=self._path)

    def report(self, now: float) -> None:
        """Report all leases to demux, which then keeps their addresses for their owners."""
        to_demux = self._worker.ports.rings_out["demux"]
        for addr, client, _ in (*self._dhcp.export(now), *self._export6(now)):
            to_demux.push(Leased.pack(addr, client[: ethernet.MAC_LEN]))

    def _export6(self, now: float) -> list[tuple[int, bytes, float]]:
        return self._dhcp6.export(now) if self._dhcp6 is not None else []

    def on_change(self, now: float) -> None:
        """A guest got, renewed or released a lease."""
        self._report_at = min(self._report_at, now + REPORT_SPACING)
        if self._path:
            self._save_at = min(self._save_at, now + SPACING)

    def deadline(self) -> float:
        """When on_timer() is due."""
        return min(self._save_at, self._report_at)

    def on_timer(self, now: float) -> None:
        """Report and write the leases, if that is due."""
        if self._report_at <= now:
            self.tell_supervisor(now)
        if self._save_at <= now:
            self.save(now)

    def tell_supervisor(self, now: float) -> None:
        """Report all leases to the supervisor now."""
        self._report_at = float("inf")
        ipv4, ipv6 = (_until(rows, now) for rows in (self._dhcp.export(now), self._export6(now)))
        try:
            self._worker.send_event(healing_messages.LeasesEvent(ipv4, ipv6).encode())
        except OSError:
            # A long message needs a descriptor, and none is left.
            self._report_at = now + SPACING

    def restore(self, leases: healing_messages.RestoreLeases, now: float) -> None:
        """Take over the leases of a predecessor, report them to demux, and have them written."""
        self._dhcp.restore(_left(leases.ipv4, now), now)
        if self._dhcp6 is not None:
            self._dhcp6.restore(_left(leases.ipv6, now), now)
        self.report(now)
        if self._path:
            # The predecessor may have died before it had the newest ones written.
            self._save_at = min(self._save_at, now + SPACING)

    def save(self, now: float) -> None:
        """Have the file written if something changed since the last time."""
        if self._save_at == float("inf"):
            return
        self._save_at = float("inf")
        content = lease_file.content(self._dhcp.export(now), time(), self._export6(now))
        try:
            self._worker.send_event(messages.StateFileEvent(content).encode())
        except OSError as error:
            # A long message needs a descriptor, and none is left.
            self._worker.log.warning("leases not written yet", path=self._path, error=str(error))
            self._save_at = now + SPACING


def _until(rows: Iterable[tuple[int, bytes, float]], now: float) -> list[list[object]]:
    """The leases for the supervisor, with the time at which each ends."""
    return [[addr_bytes(addr), client, now + seconds] for addr, client, seconds in rows]


def _left(rows: Iterable[list[object]], now: float) -> list[tuple[int, bytes, float]]:
    """The leases of the supervisor, with the seconds that are left."""
    found: list[tuple[int, bytes, float]] = []
    for row in rows:
        match row:
            case [bytes() as addr, bytes() as client, float() as until] if until > now:
                found.append((addr_of(addr), client, until - now))
    return found
