"""Which host has which MAC address (RFC 7348 section 4.1), learned from the frames that hosts send.

A frame for a MAC address that no host is known to have goes to all hosts, and so does one for a group. So a
forgotten address costs copies of frames, but no frame.

A station may move from one host to another, so the newest frame decides. Each host has an equal share of the
table. A host that has used its share loses its oldest entry with each further one, so that no host can push
out what others have. An address that was silent for AGE_TICKS calls of age() is forgotten.

Hosts come and go with add_host() and remove_host(). What a fleet says about places (places.py) is not here.

The table reads no clock. Its owner calls age() at regular times.
"""

from typing import Final

MAX_MACS: Final = 16384
"""The most entries of a table."""
AGE_TICKS: Final = 10
"""Calls of age() without a frame after which an address is forgotten."""
TICK_SECONDS: Final = 30.0
"""How often the owner calls age(). Ten ticks are 300 seconds, as in Linux's device and in IEEE 802.1D."""
ALL_HOSTS: Final = -1
"""No host is known to have the address."""

_GROUP: Final = 1


class _Entry:
    """The host of a MAC address, and the tick of its last frame."""

    __slots__ = ("heard", "host")

    def __init__(self, host: int, heard: int) -> None:
        self.host = host
        self.heard = heard


class ForwardingTable:
    """MAC address -> number of the host. At first there are the hosts from 0 to hosts - 1."""

    def __init__(self, hosts: int, max_macs: int = MAX_MACS) -> None:
        self._max = max_macs
        self._entries: dict[bytes, _Entry] = {}
        self._of_host: dict[int, dict[bytes, None]] = {number: {} for number in range(hosts)}
        """The addresses of each host. Those that it has had for longest come first."""
        self._tick = 0
        self.evicted = 0
        """Addresses that made room for others (``vxlan_mac_evicted``)."""

    def __len__(self) -> int:
        return len(self._entries)

    def add_host(self, host: int) -> None:
        """There is another host, with this number. The shares of the others shrink."""
        self._of_host[host] = {}

    def remove_host(self, host: int) -> None:
        """The host is gone, and with it what was learned from it."""
        for mac in self._of_host.pop(host):
            del self._entries[mac]

    def learn(self, mac: bytes, host: int) -> None:
        """A frame from mac came from this host."""
        entry = self._entries.get(mac)
        if entry is not None and entry.host == host:
            entry.heard = self._tick
            return
        if mac[0] & _GROUP:
            return
        if entry is not None:
            del self._of_host[entry.host][mac]
        of_host = self._of_host[host]
        share = max(self._max // len(self._of_host), 1)
        # The share may have shrunk since the last entry.
        while len(of_host) >= share:
            oldest = next(iter(of_host))
            del of_host[oldest], self._entries[oldest]
            self.evicted += 1
        of_host[mac] = None
        self._entries[mac] = _Entry(host, self._tick)

    def host_of(self, mac: bytes) -> int:
        """The host to which a frame for mac goes, or ALL_HOSTS."""
        entry = self._entries.get(mac)
        return ALL_HOSTS if entry is None else entry.host

    def forget(self, mac: bytes) -> None:
        """The station with this MAC address is elsewhere now."""
        entry = self._entries.pop(mac, None)
        if entry is not None:
            del self._of_host[entry.host][mac]

    def age(self) -> None:
        """A tick has passed: forget addresses that were silent for too long."""
        self._tick += 1
        silent = [mac for mac, entry in self._entries.items() if self._tick - entry.heard > AGE_TICKS]
        for mac in silent:
            del self._of_host[self._entries.pop(mac).host][mac]

    def snapshot(self) -> dict[bytes, int]:
        """A copy of the table."""
        return {mac: entry.host for mac, entry in self._entries.items()}
