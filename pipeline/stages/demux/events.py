"""What demux tells of guests' addresses: MACs that come, move and go, and addresses that are claimed.

For the log, for the counters, and for the supervisor, which notifies others of MACs. Bounded: what a guest
can repeat at will is counted each time and told of once in a while.
"""

from time import monotonic
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import neighbors, switch
from pipeline.ipc import messages
from pipeline.stages.worker import Worker
from pipeline.wire import ethernet, ipv4

TELL_INTERVAL: Final = 10.0
"""Seconds in which two guests that move one address back and forth are told of once."""
MAX_TOLD: Final = 1024

_MACS: Final = INDEX["switch_macs"]
_MOVED: Final = INDEX["switch_mac_moved"]
_NOT_LEARNED: Final = INDEX["switch_mac_dropped_table_full"]
_CONTESTED: Final = INDEX["neighbor_claims_contested"]


class Witness:
    """Tells of one switch's events, and of contested addresses."""

    def __init__(self, worker: Worker, table: switch.Switch) -> None:
        self._worker = worker
        self._switch = table
        self._told: dict[bytes, float] = {}

    def look(self) -> None:
        """Tell of everything that happened in the switch since the last call."""
        counts, table = self._worker.counts, self._switch
        counts[_NOT_LEARNED] = table.not_learned
        events = table.take_events()
        if not events:
            return
        counts[_MACS] = len(table.cam())
        for event in events:
            mac = ethernet.mac_text(event.mac)
            if event.kind == "claimed":
                self._worker.log.warning("gateway mac claimed", mac=mac, link=event.link)
                continue
            if event.kind == "contested":
                if self._may_tell(event.mac):
                    self._worker.log.warning("guest mac", change="contested", mac=mac, link=event.link)
                continue
            if event.kind == "moved":
                counts[_MOVED] += 1
                if not self._may_tell(event.mac):
                    continue
            # A move: two machines with one MAC address, or one that wants another's frames.
            log = self._worker.log.warning if event.kind == "moved" else self._worker.log.info
            log("guest mac", change=event.kind, mac=mac, link=event.link)
            self._worker.send_event(messages.MacEvent(event.kind, mac).encode())

    def _may_tell(self, mac: bytes) -> bool:
        """Whether a move of this address may be told of again."""
        now = monotonic()
        if now - self._told.get(mac, -TELL_INTERVAL) < TELL_INTERVAL:
            return False
        if len(self._told) >= MAX_TOLD:
            self._told.clear()
        self._told[mac] = now
        return True

    def contested(self, action: neighbors.Contested) -> None:
        """Another station shows an address that is a live guest's or the gateway's."""
        self._worker.counts[_CONTESTED] += 1
        self._worker.log.warning(
            "address contested",
            guest=ipv4.addr_text(action.addr),
            owner=ethernet.mac_text(action.owner),
            claimant=ethernet.mac_text(action.claimant),
        )
