"""Tells a fleet which stations are on this host, and takes notice of those that have moved to another one.

A station is on this host if the switch has its MAC on a link of a guest. The link to other hosts has all
others. Reports go to the supervisor (pipeline.fleet), at most one in SPACING. A guest can change its
addresses with every packet. So a report has each MAC and address once, as it is then.

Without a fleet nothing is reported.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pipeline.engines.neighbors.actions import Action, Changed, Learned, Lost
from pipeline.engines.switch import SwitchEvent
from pipeline.ipc import fleet_messages
from pipeline.records.frames import NO_LINK
from pipeline.stages.demux.network import Network
from pipeline.wire import ip

SPACING: Final = 0.02
"""Seconds between two reports."""
_NOBODY: Final = b""
_MOVES: Final = ("seen", "moved")


class StationReports:
    """The stations of this host."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._worker = network.worker
        self._on = bool(network.config.fleet.fleet_servers)
        self._macs: dict[bytes, bool] = {}
        self._addrs: dict[int, bytes] = {}
        self._next_at = 0.0

    def __len__(self) -> int:
        return len(self._macs) + len(self._addrs)

    def on_switch(self, event: SwitchEvent) -> None:
        """Something has happened in the switch."""
        if not self._on:
            return
        is_local = event.link != self._network.tunnel.link
        if event.kind in _MOVES:
            if is_local or event.kind == "moved":
                self._macs[event.mac] = is_local
        elif event.kind == "gone" and is_local:
            self._macs[event.mac] = False

    def on_neighbor(self, action: Action) -> None:
        """Something has happened in the neighbour table."""
        if not self._on:
            return
        if isinstance(action, Learned | Changed):
            is_local = action.link != self._network.tunnel.link
            self._addrs[action.addr] = action.mac if is_local else _NOBODY
        elif isinstance(action, Lost):
            self._addrs[action.addr] = _NOBODY

    def deadline(self) -> float:
        """When report() has to be called."""
        return self._next_at if self._macs or self._addrs else float("inf")

    def report(self, now: float) -> None:
        """Report what has changed, if it is time."""
        if (self._macs or self._addrs) and now >= self._next_at:
            self._next_at = now + SPACING
            macs, self._macs = self._macs, {}
            addrs, self._addrs = self._addrs, {}
            self._send(macs, addrs, complete=False)

    def report_all(self) -> None:
        """Report all stations."""
        self._macs.clear()
        self._addrs.clear()
        network = self._network
        tunnel = network.tunnel.link
        macs = {mac: True for mac, link in network.switch.cam().items() if link != tunnel}
        known = network.neighbors.snapshot().items()
        self._send(macs, {addr: mac for addr, (mac, link) in known if link != tunnel}, complete=True)

    def _send(self, macs: dict[bytes, bool], addrs: dict[int, bytes], *, complete: bool) -> None:
        packed = {ip.packed(addr): mac for addr, mac in addrs.items()}
        # A long message needs a descriptor, and perhaps none is left. Then the next report says more.
        with suppress(OSError):
            self._worker.send_event(fleet_messages.StationsEvent(macs, packed, complete).encode())

    def on_away(self, ask: fleet_messages.StationsAway, now: float, after: Callable[[], None]) -> None:
        """These stations are on other hosts now. after(): carries out what the tables ask for."""
        network = self._network
        tunnel = network.tunnel.link
        if tunnel == NO_LINK:
            return
        for mac in ask.macs:
            link = network.switch.link_of(mac)
            if link is None or link == tunnel:
                continue
            for addr in network.neighbors.addresses_of(mac, link):
                network.neighbors.withdraw(addr, mac, tunnel)
            network.switch.station_moved(mac, tunnel, now)
        after()
