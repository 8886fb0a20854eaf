"""Reports about guests' addresses: MACs that appear, move and go, contested addresses, and refused frames.

The reports go to the log, to the counters, and to the supervisor, which notifies its clients of MACs. They
are bounded. A move is counted each time, but reported once in REPORT_INTERVAL for each MAC. Forbidden claims
and frames get one line in the log for each link and cause in REFUSED_INTERVAL.
"""

from time import monotonic
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import switch
from pipeline.engines.neighbors.actions import Contested
from pipeline.ipc import messages
from pipeline.stages.demux.stations import StationReports
from pipeline.stages.worker import Worker
from pipeline.wire import ethernet, ip

REPORT_INTERVAL: Final = 10.0
"""Seconds between two reports about moves of one MAC, which two guests may move back and forth."""
REFUSED_INTERVAL: Final = 60.0
"""Seconds between two lines in the log about one link and one cause."""
MAX_REPORTED: Final = 1024

_MACS: Final = INDEX["switch_macs"]
_MOVED: Final = INDEX["switch_mac_moved"]
_NOT_LEARNED: Final = INDEX["switch_mac_dropped_table_full"]
_CONTESTED: Final = INDEX["neighbor_claims_contested"]
_KINDS: Final = {
    "seen": "guest-mac-seen",
    "gone": "guest-mac-gone",
    "moved": "guest-mac-moved",
    "contested": "guest-mac-contested",
}
"""The kinds of events about MAC addresses, by what happened."""


class AddressEvents:
    """Reports the events of the switch, and contested addresses."""

    def __init__(self, worker: Worker, table: switch.Switch, gateway_mac: bytes) -> None:
        self._worker = worker
        self._gateway_mac = gateway_mac
        self._switch = table
        self._reported: dict[bytes, float] = {}
        """When a move of each MAC was last reported."""
        self._refused: dict[int, dict[str, float]] = {}
        """By link: when each cause was last reported."""

    def report_switch(self, stations: StationReports | None = None) -> None:
        """Report everything that happened in the switch since the last call. stations: for a fleet."""
        counts, table = self._worker.counts, self._switch
        counts[_NOT_LEARNED] = table.not_learned
        events = table.take_events()
        if not events:
            return
        counts[_MACS] = len(table)
        for event in events:
            if stations is not None:
                stations.on_switch(event)
            mac = ethernet.mac_text(event.mac)
            if event.kind == "claimed":
                self._worker.log.warning("gateway mac claimed", mac=mac, link=event.link)
                continue
            if event.kind == "contested":
                # _may_report() suppresses the line about the move that may follow.
                if self._may_report_cause(event.link, "mac") and self._may_report(event.mac):
                    self._report_mac(event.kind, mac, event.link)
                continue
            if event.kind == "moved":
                counts[_MOVED] += 1
                if not self._may_report(event.mac):
                    continue
            self._report_mac(event.kind, mac, event.link)
            self._worker.send_event(messages.MacEvent(event.kind, mac).encode())

    def _report_mac(self, change: str, mac: str, link: int) -> None:
        self._worker.events.report(_KINDS[change], change=change, mac=mac, link=link)

    def _may_report(self, mac: bytes) -> bool:
        """Whether a move of this address may be reported again."""
        now = monotonic()
        if now - self._reported.get(mac, -REPORT_INTERVAL) < REPORT_INTERVAL:
            return False
        if len(self._reported) >= MAX_REPORTED:
            self._reported.clear()
        self._reported[mac] = now
        return True

    def _may_report_cause(self, link: int, cause: str) -> bool:
        """Whether a link may have a line about this cause again."""
        now = monotonic()
        causes = self._refused.setdefault(link, {})
        if now - causes.get(cause, -REFUSED_INTERVAL) < REFUSED_INTERVAL:
            return False
        causes[cause] = now
        return True

    def report_contested(self, action: Contested) -> None:
        """Another station uses an address that belongs to a live guest or to the gateway."""
        self._worker.counts[_CONTESTED] += 1
        cause = "gateway address" if action.owner == self._gateway_mac else "address"
        if self._may_report_cause(action.link, cause):
            self._worker.log.warning(
                "address contested",
                address=ip.text(action.addr),
                owner=ethernet.mac_text(action.owner),
                claimant=ethernet.mac_text(action.claimant),
                link=action.link,
            )

    def report_refused(self, cause: str, link: int, view: memoryview, begin: int) -> None:
        """The frame at ``begin`` of the view was refused for a cause that ordinary guests do not have."""
        if self._may_report_cause(link, cause):
            mac = view[begin + ethernet.MAC_LEN : begin + 2 * ethernet.MAC_LEN].tobytes()
            self._worker.log.warning(
                "guest frame refused", cause=cause, mac=ethernet.mac_text(mac), link=link
            )

    def forget_link(self, link: int) -> None:
        """The link is gone; another guest will get its number."""
        self._refused.pop(link, None)
