"""The DHCPv6 server (RFC 8415, RFC 3646).

Sans-IO: messages and the time go in, replies come out. leases.py decides which client gets which address.
Here a client is a DUID, the IAID of one IA_NA, and the source MAC address of the frame. Each IA_NA gets one
address. A DUID is only compared, never read (section 11). There are no addresses for IA_TA and no prefixes
for IA_PD.

By section 12 a binding is found without the MAC address. But all guests of a link hear the DUIDs of the
others, and copies of a machine have the same. The demux worker lets no guest use the MAC address of another
live one. So no guest gets the lease of another guest, and copies get addresses of their own.

A static lease belongs to a MAC address or to a DUID. That of a DUID wins, because it names one system. The
first live link that takes it holds it (duid_leases.py). Meanwhile the DUID means nothing over other links.

The server ignores the addresses that a client asks for. A client's first choice follows from its name. So it
usually gets the same address again, also after a restart without a state file. An address that a client names
in a Renew or Rebind and that is not its own comes back with lifetimes of 0 (section 18.3.4).

The server is on the link of its clients. It does not take messages of relay agents, offers no unicast
(section 21.12), and starts no reconfiguration. It does not probe whether an address is in use: clients do
(section 18.2.10.1), and the gateway tells them of live guests (docs/ipv6.md).
"""

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv6Network
from typing import Final, NamedTuple, Protocol
from zlib import crc32

from pipeline.engines.dhcp.duid_leases import DuidLeases
from pipeline.engines.dhcp.lease import BOUND, OFFERED, Change
from pipeline.engines.dhcp.leases import LOAN_OVER, NO_ADDRESS, TOO_MANY, Leases
from pipeline.engines.guest_of import by_link
from pipeline.wire import dhcp, dhcpv6, ethernet
from pipeline.wire.dhcpv6 import Ia, IaAddress, Message
from pipeline.wire.errors import WireError

POOL: Final = 0x1_0000
"""The first dynamic address, counted from the first one of the prefix: prefix::1:0."""
POOL_PREFIX: Final = 112
"""The pool is prefix::1:0/112. Addresses that hosts make themselves are hardly ever in it: those of a MAC
address have ff:fe in their middle, and those of random bits have 48 others (RFC 4291, RFC 8981)."""
MAX_IAS: Final = 16
"""The most IAs of one message."""
MAX_RETURNED: Final = 8
"""The most addresses of one IA that come back with lifetimes of 0."""
MAX_SEARCH_LIST: Final = 512
"""Bytes of the search list, so that a reply with one IA stays one packet."""
REFRESH_S: Final = 1800
"""Seconds after which a client without a lease asks again (section 21.23), as long as in advertisements."""
PREFERENCE: Final = b"\xff"
"""Clients do not wait for another server's Advertise (section 18.2.1)."""

_NAME_LEN: Final = ethernet.MAC_LEN + 4
"""Bytes of a client's name before its DUID: the MAC address and the IAID."""
_UNICAST: Final = "dhcpv6_message_dropped_unicast"
_REPLY: Final = "dhcpv6_reply_sent"
_REFUSALS: Final = {
    TOO_MANY: "dhcpv6_lease_refused_too_many_of_guest",
    NO_ADDRESS: "dhcpv6_lease_refused_no_address",
    LOAN_OVER: "dhcpv6_lease_refused_loan_over",
}
_KNOWS_SERVER: Final = frozenset((dhcpv6.REQUEST, dhcpv6.RENEW, dhcpv6.RELEASE, dhcpv6.DECLINE))
"""Messages for one server. All others are for any server."""
_FOR_ANY: Final = frozenset((dhcpv6.SOLICIT, dhcpv6.CONFIRM, dhcpv6.REBIND, dhcpv6.INFORMATION_REQUEST))
_FROM_SERVERS: Final = frozenset((dhcpv6.ADVERTISE, dhcpv6.REPLY, dhcpv6.RECONFIGURE))
_NOTHING_TO_GIVE: Final = {dhcpv6.IA_TA: dhcpv6.NO_ADDRS_AVAIL, dhcpv6.IA_PD: dhcpv6.NO_PREFIX_AVAIL}
_ENDS: Final = {
    dhcpv6.RELEASE: ("dhcpv6_release_accepted", "dhcpv6_release_dropped_not_holder"),
    dhcpv6.DECLINE: ("dhcpv6_decline_accepted", "dhcpv6_decline_dropped_not_holder"),
}


class Sender(NamedTuple):
    """Where a message comes from. mac: the source of its frame. unicast: it was sent to the gateway alone."""

    link: int
    mac: bytes
    unicast: bool = False


class Outcome(NamedTuple):
    """What a message led to. payload: the answer, empty for none. counters: what to count."""

    counters: tuple[str, ...]
    payload: bytes = b""
    changes: tuple[Change, ...] = ()


class Dhcp6Config(Protocol):
    """The part of the configuration that Dhcp6 needs. Addresses are ints, MACs 6 bytes."""

    @property
    def ipv6_first(self) -> int:
        """The first address of the guests' /64."""

    @property
    def ipv6_gateway(self) -> int: ...
    @property
    def ipv6_host(self) -> int:
        """An address of the /64 that means the host."""

    @property
    def gateway_mac(self) -> bytes: ...
    @property
    def dns_search_domains(self) -> tuple[str, ...]: ...
    @property
    def ipv6_mac_leases(self) -> Mapping[int, bytes]:
        """Static leases: address -> MAC."""

    @property
    def ipv6_duid_leases(self) -> Mapping[int, bytes]:
        """Static leases: address -> DUID."""


class _Subnet(NamedTuple):
    """What Leases is told about the network."""

    subnet: IPv6Network
    gateway_ip: int
    gateway_mac: bytes
    dhcp_static_leases: Mapping[int, bytes]
    reserved: frozenset[int]


class _Exchange:
    """A message that is being answered, and what it has led to so far."""

    def __init__(self, message: Message, sender: Sender, now: float) -> None:
        """Raises WireError if an option that the server reads is malformed."""
        self.message = message
        self.sender = sender
        self.now = now
        self.duid = message.duid(dhcpv6.CLIENT_ID)
        self.server = message.duid(dhcpv6.SERVER_ID)
        self.requested = message.requested()
        # An IA that occurs twice is served once.
        self.ias = [*{(ia.code, ia.iaid): ia for ia in message.ias()}.values()]
        if len(self.ias) > MAX_IAS:
            raise WireError("dhcpv6_message_dropped_too_many_ias")
        self.counters: list[str] = []
        self.changes: list[Change] = []
        self.served: set[bytes] = set()
        """The clients of this message that have their address."""


class Dhcp6:
    """The server of one /64."""

    def __init__(
        self,
        config: Dhcp6Config,
        guest_of: Callable[[int], int] = by_link,
        *,
        has_dns: bool = True,
        name_server: int = 0,
    ) -> None:
        """guest_of: the number of the guest that opened a link; above 0. has_dns, name_server: as in Dhcp."""
        self._first = config.ipv6_first
        gateway = config.ipv6_gateway
        self._duid = dhcpv6.duid_ll(config.gateway_mac)
        self._dns_servers = (name_server or gateway).to_bytes(16, "big") if has_dns else b""
        self._search_list = dhcp.search_list_of(config.dns_search_domains, MAX_SEARCH_LIST)
        pool = IPv6Network((self._first | POOL, POOL_PREFIX))
        of_duids = config.ipv6_duid_leases
        reserved = frozenset((config.ipv6_host, name_server or gateway, *of_duids))
        subnet = _Subnet(pool, gateway, config.gateway_mac, config.ipv6_mac_leases, reserved)
        self._duid_leases = DuidLeases(of_duids)
        self._duid_lease_count = len(of_duids)
        self._leases = Leases(subnet, guest_of, first_choice=self._first_choice)

    def _first_choice(self, client: bytes) -> int:
        return self._first | POOL | crc32(client) & 0xFFFF

    def set_search_domains(self, domains: tuple[str, ...]) -> None:
        """Change the search list. A client gets the new one with its next message."""
        self._search_list = dhcp.search_list_of(domains, MAX_SEARCH_LIST)

    @property
    def lease_count(self) -> int:
        """Dynamic and static leases."""
        return self._leases.count + self._duid_lease_count

    def leases(self) -> dict[int, bytes]:
        """Address -> MAC of the gateway, of the static leases and of every client that has an address.

        The static lease of a DUID is there while a client holds it. Before that nobody knows the MAC.
        """
        found = {addr: client[: ethernet.MAC_LEN] for addr, client in self._leases.by_addr().items()}
        return found | self._duid_leases.by_addr()

    def sums(self) -> dict[int, int]:
        """How many leases each guest has, by its number, loans included."""
        return self._leases.sums()

    def export(self, now: float) -> list[tuple[int, bytes, float]]:
        """The leases for a state file: (address; MAC, IAID and DUID; seconds left)."""
        return self._leases.export(now)

    def restore(self, rows: Iterable[tuple[int, bytes, float]], now: float) -> int:
        """Take over the result of export() from an earlier run. Returns how many leases were taken over."""
        return self._leases.restore((row for row in rows if self._is_client(row[1])), now)

    def _is_client(self, client: bytes) -> bool:
        """Whether this is the name of a client with a dynamic lease."""
        length = len(client) - _NAME_LEN
        is_static = self._leases.has_static(client[: ethernet.MAC_LEN])
        return dhcpv6.MIN_DUID <= length <= dhcpv6.MAX_DUID and not is_static

    def on_link_down(self, link: int) -> None:
        """A guest's link is gone. Another guest may get its number."""
        self._leases.on_link_down(link)
        self._duid_leases.on_link_down(link)

    # --- messages -----------------------------------------------------------------------

    def on_message(self, view: memoryview | bytes, off: int, end: int, sender: Sender, now: float) -> Outcome:
        """Handle the UDP payload view[off:end]. The answer goes to the client's address and port 546."""
        try:
            exchange = _Exchange(dhcpv6.parse(view, off, end), sender, now)
        except WireError as error:
            return Outcome((error.reason,))
        if refusal := self._refusal(exchange):
            return Outcome((refusal,))
        kind = exchange.message.kind
        if sender.unicast:
            # Section 18.4: the server has told no client that it may do that.
            return self._reply(exchange, [dhcpv6.build_status(dhcpv6.USE_MULTICAST)])
        match kind:
            case dhcpv6.SOLICIT:
                return self._solicit(exchange)
            case dhcpv6.REQUEST | dhcpv6.RENEW | dhcpv6.REBIND:
                return self._reply(exchange, [*self._assign(exchange, BOUND), *self._parameters(exchange)])
            case dhcpv6.CONFIRM:
                return self._confirm(exchange)
            case dhcpv6.RELEASE | dhcpv6.DECLINE:
                return self._give_up(exchange)
            case _:
                return self._inform(exchange)

    def _refusal(self, exchange: _Exchange) -> str:
        """Why the message must be discarded (section 16), as the name of a counter; else empty."""
        kind = exchange.message.kind
        if kind in _FROM_SERVERS:
            return "dhcpv6_message_ignored_not_request"
        if kind not in _KNOWS_SERVER | _FOR_ANY:
            return "dhcpv6_message_ignored_unknown_type"
        is_inform = kind == dhcpv6.INFORMATION_REQUEST
        if not exchange.duid and not is_inform:
            return "dhcpv6_message_dropped_no_client_id"
        if exchange.server and exchange.server != self._duid:
            return "dhcpv6_message_ignored_other_server"
        if kind in _KNOWS_SERVER and not exchange.server:
            return "dhcpv6_message_dropped_no_server_id"
        if kind in _FOR_ANY and exchange.server and not is_inform:
            return "dhcpv6_message_dropped_with_server_id"
        if kind in _FOR_ANY and exchange.sender.unicast:
            return _UNICAST
        return "dhcpv6_message_dropped_with_ia" if is_inform and exchange.ias else ""

    def _solicit(self, exchange: _Exchange) -> Outcome:
        """Offer addresses in an Advertise, or give them at once (sections 18.3.1 and 18.3.9)."""
        if exchange.message.option(dhcpv6.RAPID_COMMIT) is not None:
            assigned = self._assign(exchange, BOUND)
            options = [*assigned, (dhcpv6.RAPID_COMMIT, b""), *self._parameters(exchange)]
            return self._reply(exchange, options)
        assigned = self._assign(exchange, OFFERED)
        options = [*assigned, (dhcpv6.PREFERENCE, PREFERENCE), *self._parameters(exchange)]
        return self._answer(exchange, dhcpv6.ADVERTISE, "dhcpv6_advertise_sent", options)

    def _confirm(self, exchange: _Exchange) -> Outcome:
        """Say whether the client's addresses are of this link (section 18.3.3)."""
        addresses = [each.addr for ia in exchange.ias for each in ia.addresses]
        if not addresses:
            return Outcome(("dhcpv6_message_dropped_nothing_to_confirm",))
        status = dhcpv6.SUCCESS if all(map(self._is_on_link, addresses)) else dhcpv6.NOT_ON_LINK
        return self._reply(exchange, [dhcpv6.build_status(status)])

    def _inform(self, exchange: _Exchange) -> Outcome:
        """Answer with the parameters alone (section 18.3.6)."""
        options = self._parameters(exchange)
        if dhcpv6.INFORMATION_REFRESH_TIME in exchange.requested:
            options.append((dhcpv6.INFORMATION_REFRESH_TIME, REFRESH_S.to_bytes(4, "big")))
        return self._reply(exchange, options)

    def _parameters(self, exchange: _Exchange) -> list[tuple[int, bytes]]:
        """What the client has requested besides addresses."""
        found = ((dhcpv6.DNS_SERVERS, self._dns_servers), (dhcpv6.DOMAIN_LIST, self._search_list))
        return [(code, value) for code, value in found if value and code in exchange.requested]

    def _reply(self, exchange: _Exchange, options: list[tuple[int, bytes]]) -> Outcome:
        return self._answer(exchange, dhcpv6.REPLY, _REPLY, options)

    def _answer(
        self, exchange: _Exchange, kind: int, counter: str, options: list[tuple[int, bytes]]
    ) -> Outcome:
        """A message with both DUIDs and these options (section 18.3.10)."""
        named = [(dhcpv6.SERVER_ID, self._duid)]
        if exchange.duid:
            named.insert(0, (dhcpv6.CLIENT_ID, exchange.duid))
        payload = dhcpv6.build(Message(kind, exchange.message.xid, (*named, *options)))
        return Outcome((counter, *exchange.counters), payload, tuple(exchange.changes))

    # --- addresses ------------------------------------------------------------------------

    def _is_on_link(self, addr: int) -> bool:
        return addr >> 64 == self._first >> 64

    def _client(self, exchange: _Exchange, ia: Ia) -> bytes:
        """The name of an IA_NA for Leases: the MAC address, and if it has no static lease, IAID and DUID."""
        mac = exchange.sender.mac
        return mac if self._leases.has_static(mac) else mac + ia.iaid.to_bytes(4, "big") + exchange.duid

    def _assign(self, exchange: _Exchange, state: str) -> list[tuple[int, bytes]]:
        """The IAs of the answer, with addresses or with a status."""
        return [dhcpv6.build_ia(self._assigned(exchange, ia, state)) for ia in exchange.ias]

    def _assigned(self, exchange: _Exchange, ia: Ia, state: str) -> Ia:
        """The IA with its address (sections 18.3.1, 18.3.2, 18.3.4 and 18.3.5)."""
        kind = exchange.message.kind
        is_renewal = kind in (dhcpv6.RENEW, dhcpv6.REBIND)
        if ia.code != dhcpv6.IA_NA:
            status = dhcpv6.NO_BINDING if is_renewal else _NOTHING_TO_GIVE[ia.code]
            return Ia(ia.code, ia.iaid, status=status)
        if kind == dhcpv6.REQUEST and not all(self._is_on_link(each.addr) for each in ia.addresses):
            return Ia(ia.code, ia.iaid, status=dhcpv6.NOT_ON_LINK)
        link, mac, _ = exchange.sender
        duid = exchange.duid
        has_duid_lease = self._duid_leases.is_open_to(duid, link)
        client = duid if has_duid_lease else self._client(exchange, ia)
        if client in exchange.served:
            # A MAC or a DUID has one static lease, so a second IA gets no address.
            return Ia(ia.code, ia.iaid, status=dhcpv6.NO_ADDRS_AVAIL)
        exchange.served.add(client)
        if has_duid_lease:
            grant = self._duid_leases.give(duid, link, mac, state)
        else:
            grant = self._leases.give(client, b"", link, state, exchange.now)
        if not grant.addr:
            refusal = _REFUSALS[grant.refusal]
            wanted = ia.addresses[0].addr if ia.addresses else 0
            exchange.counters.append(refusal)
            exchange.changes.append(Change("lease-refused", mac, wanted, 0, reason=refusal))
            return Ia(ia.code, ia.iaid, status=dhcpv6.NO_ADDRS_AVAIL)
        if state == BOUND:
            change = "lease-given" if grant.fresh else "lease-renewed"
            exchange.changes.append(Change(change, mac, grant.addr, grant.seconds))
        given = [IaAddress(grant.addr, grant.seconds, grant.seconds)]
        if is_renewal:
            others = [each.addr for each in ia.addresses if each.addr != grant.addr]
            given += [IaAddress(addr, 0, 0) for addr in others[:MAX_RETURNED]]
        # Section 21.4 recommends these two for T1 and T2.
        return Ia(ia.code, ia.iaid, grant.seconds // 2, grant.seconds * 4 // 5, tuple(given))

    def _give_up(self, exchange: _Exchange) -> Outcome:
        """Release or Decline (sections 18.3.7 and 18.3.8). They count only from the lease's own client."""
        found = [ia for ia in exchange.ias if not self._is_bound(exchange, ia)]
        unknown = [dhcpv6.build_ia(Ia(ia.code, ia.iaid, status=dhcpv6.NO_BINDING)) for ia in found]
        for ia in exchange.ias:
            if ia not in found:
                self._end(exchange, ia)
        accepted, dropped = _ENDS[exchange.message.kind]
        exchange.counters.append(accepted if exchange.changes else dropped)
        return self._reply(exchange, [dhcpv6.build_status(dhcpv6.SUCCESS), *unknown])

    def _is_bound(self, exchange: _Exchange, ia: Ia) -> bool:
        link, client = exchange.sender.link, self._client(exchange, ia)
        return ia.code == dhcpv6.IA_NA and (
            self._duid_leases.is_holder(exchange.duid, link)
            or self._leases.is_holder(client, link, exchange.now)
        )

    def _end(self, exchange: _Exchange, ia: Ia) -> None:
        """The client gives up the lease of an IA, if the IA has its address. The static lease of a MAC stays.
        That of a DUID is open to all links again.
        """
        link, mac, _ = exchange.sender
        client = self._client(exchange, ia)
        for addr in {each.addr for each in ia.addresses}:
            if exchange.message.kind == dhcpv6.RELEASE:
                change, ended = "lease-released", self._leases.release(client, addr, link, exchange.now)
            else:
                change, ended = "lease-declined", self._leases.decline(client, b"", addr, link, exchange.now)
            if ended or self._duid_leases.give_up(exchange.duid, addr, link):
                exchange.changes.append(Change(change, mac, addr, 0))
