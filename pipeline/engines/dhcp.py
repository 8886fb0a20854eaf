"""DHCP server: who has which address, and what a client is told (RFC 2131, 2132, 3046, 3397).

Sans-IO: messages and the time go in, replies come out. Each client (its hardware address)
gets the lowest free host number of the subnet and keeps it: a lease that ran out, was released
or was never confirmed stays its client's until no other address is free. The address that
a client asks for is not looked at and nothing is ever refused (no NAK): a client is
told its lease, whatever it believed to have.

=========  ==================================================  =========================================
lease      means                                               may go to another client when no other is free
=========  ==================================================  =========================================
offered    DISCOVER was answered, no REQUEST came              OFFER_SECONDS after the last DISCOVER
bound      REQUEST was answered                                LEASE_SECONDS after the last REQUEST
released   the client sent RELEASE                             at once
static     from the configuration                              never
=========  ==================================================  =========================================

A guest may make up as many hardware addresses as it likes, so leases count for the link that they came over:
one that has its part is given only what its own clients need no more (LEAST_OF_A_LINK). A guest that
reconnects has a new link and a new part, so the leases of the link that is gone count for nobody, and where
no address is free a new client gets the one of them that was bound longest ago. Until then they stay
their clients'.

Does not send, and does not probe whether an address is in use.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from pipeline.engines import tally
from pipeline.wire import dhcp
from pipeline.wire.errors import WireError

LEASE_SECONDS: Final = 3600
OFFER_SECONDS: Final = 60.0
DECLINE_SECONDS: Final = 600.0
"""How long an address that a client found in use is given to nobody."""
MAX_LEASES: Final = 16384
"""Dynamic leases, so that a large subnet does not mean a large table."""
LEAST_OF_A_LINK: Final = 8
"""Dynamic leases that came over one link: so many, or a quarter of the subnet if that is more."""
MAX_DECLINED: Final = 64
MAX_ECHOED_OPTION: Final = 255
"""Longest client identifier or relay information that is copied into a reply, in bytes."""
MAX_SEARCH_LIST: Final = 512
MAX_MTU_OPTION: Final = 0xFFFF
BROADCAST_ADDR: Final = 0xFFFFFFFF
NO_LINK: Final = 0
"""Of leases from a state file whose clients have not been heard yet; links are numbered from 1."""
GONE: Final = -1
"""Of leases that came over a link that is gone."""

OFFERED: Final = "offered"
BOUND: Final = "bound"
RELEASED: Final = "released"

_RECLAIM_ORDER: Final = (RELEASED, OFFERED, BOUND)


class DhcpConfig(NamedTuple):
    """What the server hands out. Addresses are ints, MACs 6 bytes, ``mtu`` bytes.

    ``reserved``: addresses that nobody gets (host address, virtual addresses of the gateway); the
    gateway's, the network's and the broadcast address need not be in it. ``static_leases``: address -> MAC.
    """

    network: int
    prefix_len: int
    gateway_addr: int
    gateway_mac: bytes
    mtu: int
    search_domains: tuple[str, ...] = ()
    static_leases: Mapping[int, bytes] = {}
    reserved: frozenset[int] = frozenset()


class Reply(NamedTuple):
    """A message for the client: UDP payload, destination address and port; ``counter`` counts it."""

    payload: bytes
    guest_addr: int
    guest_port: int
    counter: str


class Ignored(NamedTuple):
    """No reply is due; ``counter`` says why."""

    counter: str


class Lease:
    """A dynamic lease; ``expires``: when it may go to another client; ``link``: whose part it is of.

    ``before``: another link that is still there, over which it came first. A guest may ask in the name of
    another's client and leave; that client's lease must not look like one of nobody then.
    """

    __slots__ = ("addr", "before", "expires", "link", "state")

    def __init__(self, addr: int, link: int, state: str, expires: float) -> None:
        self.addr = addr
        self.link = link
        self.before = NO_LINK
        self.state = state
        self.expires = expires


class Dhcp:
    """The server of one subnet."""

    def __init__(self, config: DhcpConfig) -> None:
        self._config = config
        mask = 0xFFFFFFFF << (32 - config.prefix_len) & 0xFFFFFFFF
        self._network = network = config.network & mask
        self._broadcast = network | ~mask & 0xFFFFFFFF
        self._never = config.reserved | {config.gateway_addr, *config.static_leases}
        # A MAC with two static addresses gets the lower one, in every run the same.
        self._static = {mac: addr for addr, mac in sorted(config.static_leases.items(), reverse=True)}
        self._leases: dict[bytes, Lease] = {}
        self._owners: dict[int, bytes] = {}
        # MACs by state, each in the order in which their leases run out.
        self._by_state: dict[str, OrderedDict[bytes, None]] = {
            state: OrderedDict() for state in _RECLAIM_ORDER
        }
        self._of_link: dict[int, int] = {}
        """How many leases came over each link."""
        self._most_of_link = max(LEAST_OF_A_LINK, min(MAX_LEASES, 1 << (32 - config.prefix_len)) >> 2)
        self._declined: OrderedDict[int, float] = OrderedDict()
        self._next = network + 1
        self._returned: list[int] = []
        gateway = config.gateway_addr.to_bytes(4, "big")
        self._options: dict[int, bytes] = {
            dhcp.SUBNET_MASK: mask.to_bytes(4, "big"),
            dhcp.ROUTER: gateway,
            dhcp.DNS_SERVER: gateway,
            dhcp.SERVER_ID: gateway,
        }
        if 0 < config.mtu <= MAX_MTU_OPTION:
            self._options[dhcp.INTERFACE_MTU] = config.mtu.to_bytes(2, "big")
        if search_list := _search_list(config.search_domains):
            self._options[dhcp.DOMAIN_SEARCH] = search_list

    # --- messages -----------------------------------------------------------------------

    def on_message(
        self,
        view: memoryview | bytes,
        off: int,
        end: int,
        link: int,
        guest_addr: int,
        guest_port: int,
        now: float,
    ) -> Reply | Ignored:
        """Handle the UDP payload view[off:end] that came over link from guest_addr:guest_port."""
        try:
            message = dhcp.parse(view, off, end)
        except WireError as error:
            return Ignored(error.reason)
        mac = bytes(message.chaddr)
        if message.op != dhcp.BOOT_REQUEST:
            return Ignored("dhcp_message_ignored_not_request")
        if len(mac) != 6 or message.htype != dhcp.HTYPE_ETHERNET or mac[0] & 1 or not any(mac):
            return Ignored("dhcp_message_dropped_bad_chaddr")
        if mac == self._config.gateway_mac:
            return Ignored("dhcp_message_dropped_gateway_mac")
        match message.kind:
            case dhcp.DISCOVER:
                kind, counter, addr = dhcp.OFFER, "dhcp_offer_sent", self._lease(mac, link, OFFERED, now)
            case dhcp.REQUEST:
                kind, counter, addr = dhcp.ACK, "dhcp_ack_sent", self._lease(mac, link, BOUND, now)
            case dhcp.INFORM:
                return self._inform(message, guest_addr, guest_port)
            case dhcp.DECLINE:
                return self._decline(message, mac, now)
            case dhcp.RELEASE:
                return self._release(message, mac, now)
            case _:
                return Ignored("dhcp_message_ignored_unknown_type")
        if not addr and self._is_full(link):
            return Ignored("dhcp_message_dropped_too_many_of_guest")
        if not addr:
            return Ignored("dhcp_message_dropped_no_address")
        payload = self._build(message, kind, addr, leased=True)
        return Reply(payload, guest_addr or BROADCAST_ADDR, guest_port, counter)

    def on_link_down(self, link: int) -> None:
        """A guest's link is gone; another one may get its number."""
        for lease in self._leases.values():
            if lease.link == link:
                self._assign(lease, lease.before or GONE)
                lease.before = NO_LINK
            elif lease.before == link:
                lease.before = NO_LINK

    def _build(self, message: dhcp.Message, kind: int, addr: int, *, leased: bool) -> bytes:
        """The reply; options in ascending order, relay information last (RFC 3046 section 2.2)."""
        options = dict(self._options)
        options[dhcp.MESSAGE_TYPE] = bytes((kind,))
        if leased:
            options[dhcp.LEASE_TIME] = LEASE_SECONDS.to_bytes(4, "big")
        client_id = message.options.get(dhcp.CLIENT_ID, b"")
        if 0 < len(client_id) <= MAX_ECHOED_OPTION:
            options[dhcp.CLIENT_ID] = client_id
        ordered = dict(sorted(options.items()))
        relay_info = message.options.get(dhcp.RELAY_INFO, b"")
        if 0 < len(relay_info) <= MAX_ECHOED_OPTION:
            ordered[dhcp.RELAY_INFO] = relay_info
        return dhcp.build(
            dhcp.Message(
                dhcp.BOOT_REPLY,
                message.xid,
                message.chaddr,
                ordered,
                htype=message.htype,
                flags=message.flags,
                ciaddr=0 if leased else message.ciaddr,
                yiaddr=addr,
                giaddr=message.giaddr,
            )
        )

    def _inform(self, message: dhcp.Message, guest_addr: int, guest_port: int) -> Reply:
        """RFC 2131 section 4.3.5: the parameters, without an address and without a lease."""
        payload = self._build(message, dhcp.ACK, 0, leased=False)
        return Reply(payload, guest_addr or message.ciaddr or BROADCAST_ADDR, guest_port, "dhcp_ack_sent")

    def _decline(self, message: dhcp.Message, mac: bytes, now: float) -> Ignored:
        """The client found its address in use (section 4.3.3): nobody gets it for a while.

        Only the holder's word counts, and at most MAX_DECLINED addresses or a quarter of the subnet
        are held back, so that a hostile guest cannot use up the subnet this way.
        """
        lease = self._leases.get(mac)
        if lease is None or message.option_addr(dhcp.REQUESTED_ADDRESS) != lease.addr:
            return Ignored("dhcp_decline_dropped_not_holder")
        self._forget(mac)
        self._declined[lease.addr] = now + DECLINE_SECONDS
        limit = min(MAX_DECLINED, 1 << (32 - self._config.prefix_len) >> 2)
        while len(self._declined) > limit:
            heapq.heappush(self._returned, self._declined.popitem(last=False)[0])
        return Ignored("dhcp_decline_accepted")

    def _release(self, message: dhcp.Message, mac: bytes, now: float) -> Ignored:
        """The client needs its address no more (section 4.3.4); back in time, it gets the same one."""
        lease = self._leases.get(mac)
        if lease is None or message.ciaddr != lease.addr:
            return Ignored("dhcp_release_dropped_not_holder")
        self._move(mac, lease, RELEASED, now)
        return Ignored("dhcp_release_accepted")

    # --- leases -------------------------------------------------------------------------

    @property
    def lease_count(self) -> int:
        """Dynamic and static leases."""
        return len(self._owners) + len(self._config.static_leases)

    def leases(self) -> dict[int, bytes]:
        """Address -> MAC of the gateway, of the static leases and of every client that has an address."""
        return {
            self._config.gateway_addr: self._config.gateway_mac,
            **self._config.static_leases,
            **self._owners,
        }

    def export(self, now: float) -> list[tuple[int, bytes, float]]:
        """(address, MAC, seconds left) of the dynamic leases that are bound, for a state file."""
        return [
            (lease.addr, mac, max(0.0, lease.expires - now))
            for mac in self._by_state[BOUND]
            for lease in (self._leases[mac],)
        ]

    def restore(self, rows: Iterable[tuple[int, bytes, float]], now: float) -> int:
        """Take over what export() gave in an earlier run, without the rows that fit no more.

        Returns how many leases were taken over.
        """
        count = 0
        for addr, mac, seconds in sorted(rows, key=lambda row: row[2]):
            known = mac in self._static or mac in self._leases or addr in self._owners
            if known or len(mac) != 6 or not self._usable(addr) or len(self._leases) >= MAX_LEASES:
                continue
            lease = self._add(mac, addr, NO_LINK, BOUND)
            self._move(mac, lease, BOUND, now + min(max(seconds, 0.0), LEASE_SECONDS))
            count += 1
        return count

    def _lease(self, mac: bytes, link: int, state: str, now: float) -> int:
        """The client's address, made if need be; 0 when there is none left."""
        if static := self._static.get(mac):
            return static
        lease = self._leases.get(mac)
        if lease is None:
            addr = self._take_address(link, now)
            if not addr:
                return 0
            lease = self._add(mac, addr, link, state)
        if lease.link == GONE and self._is_full(link):
            # Answered only if a new client would be: nothing else would keep this lease from others.
            if not (addr := self._reclaim(now, link)):
                return 0
            heapq.heappush(self._returned, addr)
        if lease.link != link and not self._is_full(link):
            # Its guest has another link now. (One with two links has no more than the parts of both.)
            if not lease.before and lease.link != GONE:
                lease.before = lease.link
            self._assign(lease, link)
            if lease.before == link:
                lease.before = NO_LINK
        if state == OFFERED and lease.state == BOUND and lease.expires > now:
            # A client that starts again still holds what was acknowledged.
            return lease.addr
        self._move(mac, lease, state, now + (OFFER_SECONDS if state == OFFERED else LEASE_SECONDS))
        return lease.addr

    def _is_full(self, link: int) -> bool:
        return self._of_link.get(link, 0) >= self._most_of_link

    def _assign(self, lease: Lease, link: int) -> None:
        tally.add(self._of_link, lease.link, -1)
        tally.add(self._of_link, link, 1)
        lease.link = link

    def _add(self, mac: bytes, addr: int, link: int, state: str) -> Lease:
        tally.add(self._of_link, link, 1)
        self._owners[addr] = mac
        lease = self._leases[mac] = Lease(addr, link, state, 0.0)
        return lease

    def _move(self, mac: bytes, lease: Lease, state: str, expires: float) -> None:
        self._by_state[lease.state].pop(mac, None)
        self._by_state[state][mac] = None
        lease.state = state
        lease.expires = expires

    def _forget(self, mac: bytes) -> None:
        lease = self._leases.pop(mac)
        tally.add(self._of_link, lease.link, -1)
        del self._owners[lease.addr]
        del self._by_state[lease.state][mac]

    def _usable(self, addr: int) -> bool:
        return self._network < addr < self._broadcast and addr not in self._never

    def _free(self, addr: int) -> bool:
        return addr not in self._owners and addr not in self._declined

    def _take_address(self, link: int, now: float) -> int:
        """The lowest free address; else one whose client does not need it any more; else 0.

        A link that has its part gives back one of its own first, and gets none of a link that is gone.
        """
        if self._is_full(link):
            return self._reclaim(now, link)
        while self._declined and next(iter(self._declined.values())) <= now:
            heapq.heappush(self._returned, self._declined.popitem(last=False)[0])
        if len(self._leases) < MAX_LEASES:
            while self._returned:
                addr = heapq.heappop(self._returned)
                if self._free(addr):
                    return addr
            while self._next < self._broadcast:
                addr = self._next
                self._next += 1
                if addr not in self._never and self._free(addr):
                    return addr
        return self._reclaim(now) or self._reclaim_gone()

    def _reclaim(self, now: float, link: int = NO_LINK) -> int:
        """Take back an address that its client needs no more, of this link if one is given; 0 without one."""
        for state in _RECLAIM_ORDER:
            for mac in self._by_state[state]:
                lease = self._leases[mac]
                if lease.expires > now:
                    break
                if link in (NO_LINK, lease.link):
                    self._forget(mac)
                    return lease.addr
        return 0

    def _reclaim_gone(self) -> int:
        """Take back the address of a client whose link is gone, bound longest ago; 0 without one."""
        if GONE not in self._of_link:
            return 0
        for state in _RECLAIM_ORDER:
            for mac in self._by_state[state]:
                lease = self._leases[mac]
                if lease.link == GONE:
                    self._forget(mac)
                    return lease.addr
        return 0


def _search_list(domains: tuple[str, ...]) -> bytes:
    """As many of the domains as fit MAX_SEARCH_LIST bytes, so that the message stays one small datagram."""
    for count in range(len(domains), 0, -1):
        value = dhcp.build_search_list(domains[:count])
        if len(value) <= MAX_SEARCH_LIST:
            return value
    return b""
