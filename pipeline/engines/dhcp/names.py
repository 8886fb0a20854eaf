"""The host names that clients send (option 12), for the gateway's name server.

A client has a name from the ACK of its lease until the lease ends. The first client that asks for a name gets
it, and keeps it while it renews. A client cannot take:

- a name that is not one label of letters, digits and hyphens (RFC 1123 section 2.1). A client may also send
  the name with the zone after it;
- a name of the configuration, or one of RESERVED;
- a name that another client has.

A guest may send messages with another guest's hardware address. So a name changes only by messages of the
link over which it was taken, while that link is up. leases.py decides which link owns a lease.

The number of names is bounded, in all and for each guest. This module does not know DNS: it keeps two maps up
to date.
"""

import re
from collections.abc import Callable
from typing import Final

from pipeline.engines import tally
from pipeline.engines.dhcp.lease import GONE
from pipeline.wire import ip

MAX_NAMES: Final = 1024
MAX_OF_A_GUEST: Final = 64
RESERVED: Final = frozenset({"gateway", "host", "localhost", "wpad", "isatap"})
"""Names of the gateway and the host, and names at which programs look for a proxy or tunnel by themselves."""

INVALID: Final = "dhcp_host_name_refused_invalid"
TAKEN: Final = "dhcp_host_name_refused_taken"
TOO_MANY: Final = "dhcp_host_name_refused_too_many"

_LABEL: Final = re.compile(rb"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class _Holder:
    """A client with a name. ``until``: when its lease ends."""

    __slots__ = ("addr", "guest", "label", "link", "until")

    def __init__(self, label: str, addr: bytes, link: int, guest: int, until: float) -> None:
        self.label = label
        self.addr = addr
        self.link = link
        self.guest = guest
        self.until = until

    def renew(self, link: int, until: float) -> None:
        """The client renewed its lease over this link."""
        self.link = link
        self.until = until

    def link_gone(self) -> None:
        """The link over which the client asked is gone."""
        self.link = GONE


class HostNames:
    """The names of one zone."""

    def __init__(self, zone: str, is_taken: Callable[[str], bool]) -> None:
        """zone: in lower case, without the last dot. is_taken: whether the zone's records have a label."""
        self.addresses: dict[str, bytes] = {}
        """Label -> IPv4 address. Others may read this map and the next one, and must not change them."""
        self.pointers: dict[bytes, str] = {}
        """IPv4 address -> name with the zone."""
        self._zone = zone
        self._suffix = f".{zone}".encode()
        self._is_taken = is_taken
        self._holders: dict[bytes, _Holder] = {}
        """By MAC."""
        self._of_guest: dict[int, int] = {}
        self._expiry = float("inf")
        """When the first lease of a holder ends, or earlier: that holder may have renewed."""
        self._has_changed = False

    def __len__(self) -> int:
        return len(self._holders)

    def take_changed(self) -> bool:
        """Whether a name came or went since the last call."""
        changed, self._has_changed = self._has_changed, False
        return changed

    # --- events of leases -------------------------------------------------------------------

    def on_ack(self, mac: bytes, addr: int, link: int, guest: int, name: bytes, until: float) -> str:
        """A client of this guest got or renewed its lease, and sent this name (empty: none).

        until: when the lease ends. Returns the counter of a refusal, or an empty text.
        """
        holder = self._holders.get(mac)
        packed = ip.ipv4_bytes(addr)
        if holder is not None:
            if holder.link not in (GONE, link):
                return ""
            if holder.addr != packed:
                self.on_end(mac)
                holder = None
            else:
                holder.renew(link, until)
        if not name:
            return ""
        label = self._label(name)
        if not label:
            return INVALID
        if holder is not None and holder.label == label:
            return ""
        if label in RESERVED or label in self.addresses or self._is_taken(label):
            return TAKEN
        self.on_end(mac)
        if len(self._holders) >= MAX_NAMES or self._of_guest.get(guest, 0) >= MAX_OF_A_GUEST:
            return TOO_MANY
        self._add(mac, _Holder(label, packed, link, guest, until))
        return ""

    def on_end(self, mac: bytes) -> None:
        """The client's lease is over, or has moved to another link."""
        holder = self._holders.pop(mac, None)
        if holder is None:
            return
        tally.add(self._of_guest, holder.guest, -1)
        del self.addresses[holder.label]
        del self.pointers[holder.addr]
        self._has_changed = True

    def on_release(self, mac: bytes, addr: int, link: int) -> None:
        """A client with a static lease gave its address back over this link."""
        holder = self._holders.get(mac)
        if holder is not None and holder.link == link and holder.addr == ip.ipv4_bytes(addr):
            self.on_end(mac)

    def on_link_down(self, link: int) -> None:
        """A link is gone. Its clients keep their names, and may come back over another one."""
        for holder in self._holders.values():
            if holder.link == link:
                holder.link_gone()

    def deadline(self) -> float:
        """When expire() is due, perhaps too early."""
        return self._expiry

    def expire(self, now: float) -> None:
        """Remove the names of leases that have ended."""
        if now < self._expiry:
            return
        for mac in [mac for mac, holder in self._holders.items() if holder.until <= now]:
            self.on_end(mac)
        self._expiry = min((holder.until for holder in self._holders.values()), default=float("inf"))

    # --- names --------------------------------------------------------------------------------

    def _add(self, mac: bytes, holder: _Holder) -> None:
        self._holders[mac] = holder
        tally.add(self._of_guest, holder.guest, 1)
        self.addresses[holder.label] = holder.addr
        self.pointers[holder.addr] = f"{holder.label}.{self._zone}"
        self._expiry = min(self._expiry, holder.until)
        self._has_changed = True

    def _label(self, name: bytes) -> str:
        """The label that a client means; empty if there is none. Some clients end the text with NUL bytes."""
        text = name.rstrip(b"\0").lower()
        text = text.removesuffix(b".").removesuffix(self._suffix)
        return text.decode("ascii") if _LABEL.fullmatch(text) else ""
