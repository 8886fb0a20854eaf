"""Keeps the leases of DHCP and DHCPv6 in a state file: reads it at the start, writes it after a change.

The resolver reports the leases that it read to demux. So no guest can take the address of another guest that
is not back yet. If a write fails, it is tried again: at first after SPACING, then less and less often.
"""

from time import time
from typing import Final

from pipeline.engines.dhcp.server import Dhcp
from pipeline.engines.dhcp.server6 import Dhcp6
from pipeline.host import lease_file
from pipeline.records.guests import Leased
from pipeline.stages.worker import Worker
from pipeline.wire import ethernet

SPACING: Final = 1.0
"""Seconds from a change to the write, so that many guests that start together cause one write."""
LAST_RETRY: Final = 60.0
"""The most seconds between two attempts to write. The first wait is SPACING, and each wait doubles."""


class LeaseKeeper:
    """The state file of the DHCP servers. Without a path there is no file."""

    def __init__(self, worker: Worker, dhcp: Dhcp, dhcp6: Dhcp6 | None, path: str, now: float) -> None:
        """dhcp6: None while IPv6 is off."""
        self._worker = worker
        self._dhcp = dhcp
        self._dhcp6 = dhcp6
        self._path = path
        self._save_at = float("inf")
        self._retry = 0.0
        """Seconds until the next attempt, after one that failed; 0 after a success."""
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
        to_demux = self._worker.ports.rings_out["demux"]
        for addr, client, _ in (*self._dhcp.export(now), *self._export6(now)):
            to_demux.push(Leased.pack(addr, client[: ethernet.MAC_LEN]))
        total = len(rows.ipv4) + len(rows.ipv6)
        self._worker.log.info("leases taken over", count=count, of=total, path=self._path)

    def _export6(self, now: float) -> list[tuple[int, bytes, float]]:
        return self._dhcp6.export(now) if self._dhcp6 is not None else []

    def on_change(self, now: float) -> None:
        """A guest got, renewed or released a lease."""
        if self._path and not self._retry:
            self._save_at = min(self._save_at, now + SPACING)

    def deadline(self) -> float:
        """When save() is due."""
        return self._save_at

    def save(self, now: float) -> None:
        """Write the file if something changed since the last write, or if that one failed."""
        if self._save_at == float("inf"):
            return
        try:
            lease_file.save(self._path, self._dhcp.export(now), time(), self._export6(now))
        except OSError as error:
            if not self._retry:
                self._worker.log.warning("leases not written yet", path=self._path, error=str(error))
            self._retry = min(2 * self._retry, LAST_RETRY) if self._retry else SPACING
            self._save_at = now + self._retry
            return
        if self._retry:
            self._worker.log.info("leases written again", path=self._path)
        self._retry = 0.0
        self._save_at = float("inf")
