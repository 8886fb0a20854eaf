"""One lease of DHCP or DHCPv6: its state, how long it lasts, and in which guest's share it counts.

=========  ==================================================  =========================================
lease      means                                               may go to another client
=========  ==================================================  =========================================
offered    DISCOVER was answered, no REQUEST came              OFFER_SECONDS after the last DISCOVER
bound      REQUEST was answered                                LEASE_SECONDS after the last REQUEST
lent       REQUEST was answered, beyond the guest's share      LOAN_SECONDS after the last REQUEST
released   the client sent RELEASE or chose another server     at once
bootp      a BOOTP request was answered                        when its link is gone
=========  ==================================================  =========================================

For DHCPv6, read Solicit for DISCOVER, and Request, Renew or Rebind for REQUEST. A Solicit with Rapid Commit
is a REQUEST. A BOOTP client never renews, so its lease does not expire.
"""

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NamedTuple, Protocol

LEASE_SECONDS: Final = 3600
LOAN_SECONDS: Final = 120
"""A client renews after half of that, and asks all servers after seven eighths (RFC 2131 section 4.4.5)."""
OFFER_SECONDS: Final = 60

OFFERED: Final = "offered"
BOUND: Final = "bound"
LENT: Final = "lent"
RELEASED: Final = "released"
BOOTP: Final = "bootp"

RECLAIM_ORDER: Final = (RELEASED, OFFERED, LENT, BOUND, BOOTP)
SECONDS: Final[dict[str, float]] = {
    OFFERED: OFFER_SECONDS,
    BOUND: LEASE_SECONDS,
    LENT: LOAN_SECONDS,
    BOOTP: float("inf"),
}

NO_LINK: Final = 0
"""In place of link and guest: the lease is from a state file, and its client has not sent a message yet.
Links are numbered from 1."""
GONE: Final = -1
"""In place of link and guest: the link of the lease is gone."""
BORROWER: Final = -2
"""In place of a guest: the lease is beyond the share of the guest that has it, so it is a loan."""


class LeaseConfig(Protocol):
    """The part of the configuration that Leases needs. Addresses are ints, MACs 6 bytes.

    subnet: its first and its last address are no client's.
    """

    @property
    def subnet(self) -> IPv4Network | IPv6Network: ...
    @property
    def gateway_ip(self) -> int: ...
    @property
    def gateway_mac(self) -> bytes: ...
    @property
    def dhcp_static_leases(self) -> Mapping[int, bytes]: ...
    @property
    def reserved(self) -> frozenset[int]:
        """Addresses that no client gets, besides those of the gateway, the network and broadcast."""


class Grant(NamedTuple):
    """A client's address, and the lease in seconds. Without an address (0): the counter that says why.

    fresh: the client did not have this lease on this link before.
    """

    addr: int
    seconds: int = LEASE_SECONDS
    refusal: str = ""
    fresh: bool = True


class Change(NamedTuple):
    """What a message did to a lease: the kind of the event (pipeline.events.network.DHCP).

    addr: 0 if none is known. seconds: of the lease, 0 without a lease. host_name: option 12 of DHCP, empty if
    none. reason: the counter of a refusal, else empty.
    """

    kind: str
    mac: bytes
    addr: int
    seconds: int
    host_name: bytes = b""
    reason: str = ""


class Lease:
    """A dynamic lease. ``expires``: when it may go to another client. ``link``: where its client asked last.

    ``before``: another link that is still up, over which the lease was asked for first. A guest may ask in
    the name of another guest's client, and leave. Then the lease belongs to the first link again.

    ``guest``: the guest in whose share the lease counts, or NO_LINK, GONE or BORROWER. ``ident``: the client
    identifier of DHCP (option 61), empty if the client sends none.
    """

    __slots__ = ("addr", "before", "expires", "guest", "ident", "link", "state")

    def __init__(self, addr: int, link: int, guest: int, state: str) -> None:
        self.addr = addr
        self.link = link
        self.guest = guest
        self.before = NO_LINK
        self.ident = b""
        self.state = state
        self.expires = 0.0

    @property
    def owner(self) -> int:
        """The link over which the lease may be given up: the first one that is still up."""
        return self.before or self.link

    @property
    def is_lent(self) -> bool:
        """Whether the lease is a loan."""
        return self.guest == BORROWER

    def is_held(self, now: float) -> bool:
        """Whether a client was told that it has the lease now."""
        return self.state in (BOUND, LENT, BOOTP) and self.expires > now

    def move(self, state: str, expires: float) -> None:
        """The client asked for the lease, or gave it up."""
        self.state = state
        self.expires = expires

    def count_for(self, guest: int, link: int) -> None:
        """The client asked over this link. The lease counts in the share of this guest now."""
        self.guest = guest
        if link == self.link:
            return
        if not self.before and self.link != GONE:
            self.before = self.link
        if self.before == link:
            self.before = NO_LINK
        self.link = link

    def on_asked(self, link: int, ident: bytes) -> None:
        """The client asked with this identifier over this link. It is kept if the link is the owner."""
        if link == self.owner:
            self.ident = ident

    def link_down(self, link: int) -> bool:
        """A link is gone, perhaps the lease's own or the one before. Returns whether ``link`` changed."""
        if self.link == link:
            self.link = self.before or GONE
            self.before = NO_LINK
            return True
        if self.before == link:
            self.before = NO_LINK
        return False
