"""The DHCP and BOOTP server (RFC 2131, 2132, 3046, 3397, 951, 1534).

Sans-IO: messages and the time go in, replies come out. leases.py decides which client gets which address.
The server ignores the address that a client asks for: it answers every client with that client's lease, and
never sends NAK. It does not answer a message for another server.

A reply is never longer than its client accepts (option 57). If there is too little room, the server shortens
or leaves out the search list, then the relay information, but never the lease.

The server does not probe whether an address is in use.

In a fleet, the addresses of all hosts come from one pool. The server then answers a message that asks for an
address with Wanted, and gets the message again after granted() (fleet_leases.py).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from pipeline.engines.dhcp.fleet_leases import FleetLeases
from pipeline.engines.dhcp.lease import BOOTP, BOUND, OFFERED, SECONDS, Change, Grant, LeaseConfig
from pipeline.engines.dhcp.leases import NO_ADDRESS, TOO_MANY, Leases
from pipeline.engines.dhcp.names import HostNames
from pipeline.engines.guest_of import by_link
from pipeline.wire import dhcp, ethernet, ip
from pipeline.wire.errors import WireError

MAX_ECHOED_OPTION: Final = 255
"""Bytes of the longest client identifier or relay information that is copied into a reply."""
MAX_SEARCH_LIST: Final = 512
"""The most bytes of option 119, whatever a client accepts, so that a reply stays one small datagram."""
MAX_MTU_OPTION: Final = 0xFFFF
_OTHER_SERVER: Final = "dhcp_message_ignored_other_server"


class Reply(NamedTuple):
    """A message for the client: UDP payload, destination address and port. ``counter`` counts it."""

    payload: bytes
    guest_addr: int
    guest_port: int
    counter: str
    change: Change | None = None


class Ignored(NamedTuple):
    """There is no reply. ``counter`` names the reason."""

    counter: str
    change: Change | None = None


class Wanted(NamedTuple):
    """The fleet has to say first which address the client gets, and for how long of ``seconds``."""

    mac: bytes
    seconds: float
    counter: str = "dhcp_message_passed_to_fleet"
    change: Change | None = None


class DhcpConfig(LeaseConfig, Protocol):
    """The part of the configuration that Dhcp needs: what Leases needs, and what clients are told."""

    @property
    def mtu(self) -> int:
        """In bytes."""

    @property
    def dhcp_range(self) -> tuple[int, int]:
        """The first and the last dynamic address. Zeros: all of the subnet."""

    @property
    def dns_search_domains(self) -> tuple[str, ...]: ...


class Dhcp:
    """The server of one subnet."""

    def __init__(
        self,
        config: DhcpConfig,
        guest_of: Callable[[int], int] = by_link,
        *,
        names: HostNames | None = None,
        has_dns: bool = True,
        name_server: int = 0,
        fleet: bool = False,
    ) -> None:
        """guest_of: the number of the guest that opened a link; above 0. names: where clients' names go.

        has_dns: whether the network has a name server. name_server: its address; 0 for the gateway's.
        fleet: whether addresses come from the pool of a fleet.
        """
        self._config = config
        self._guest_of = guest_of
        self._names = names
        on_end = names.on_end if names is not None else None
        self._fleet = FleetLeases(config, guest_of, on_end, among=config.dhcp_range) if fleet else None
        self._leases = self._fleet or Leases(config, guest_of, on_end, among=config.dhcp_range)
        self._granted: tuple[bytes, int, float] | None = None
        """What the fleet has said about the next message: MAC, address (0 for none) and seconds."""
        self.name_refusal = ""
        """The counter for the name in the last message, if that was refused; else empty."""
        gateway = ip.ipv4_bytes(config.gateway_ip)
        self._options: dict[int, bytes] = {
            dhcp.SUBNET_MASK: config.subnet.netmask.packed,
            dhcp.ROUTER: gateway,
            dhcp.SERVER_ID: gateway,
        }
        if has_dns:
            self._options[dhcp.DNS_SERVER] = ip.ipv4_bytes(name_server) if name_server else gateway
        if 0 < config.mtu <= MAX_MTU_OPTION:
            self._options[dhcp.INTERFACE_MTU] = config.mtu.to_bytes(2, "big")
        self._search_list = _search_list(config.dns_search_domains)

    def set_search_domains(self, domains: tuple[str, ...]) -> None:
        """Change the search list. A client gets the new one with its next lease or renewal."""
        self._search_list = _search_list(domains)

    @property
    def lease_count(self) -> int:
        """Dynamic and static leases."""
        return self._leases.count

    def leases(self) -> dict[int, bytes]:
        """Address -> MAC of the gateway, of the static leases and of every client that has an address."""
        return self._leases.by_addr()

    def sums(self) -> dict[int, int]:
        """How many leases each guest has, by its number, loans included."""
        return self._leases.sums()

    def export(self, now: float) -> list[tuple[int, bytes, float]]:
        """The leases for a state file: (address, MAC, seconds left)."""
        return self._leases.export(now)

    def restore(self, rows: Iterable[tuple[int, bytes, float]], now: float) -> int:
        """Take over the result of export() from an earlier run. Returns how many leases were taken over."""
        return self._leases.restore((row for row in rows if len(row[1]) == ethernet.MAC_LEN), now)

    def on_link_down(self, link: int) -> None:
        """A guest's link is gone. Another guest may get its number."""
        self._leases.on_link_down(link)
        if self._names is not None:
            self._names.on_link_down(link)

    def granted(self, mac: bytes, addr: int, seconds: float) -> None:
        """The fleet gives the client this address, 0 for none. Its message comes next, to on_message()."""
        self._granted = mac, addr, seconds

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
    ) -> Reply | Ignored | Wanted:
        """Handle the UDP payload view[off:end] that came over link from guest_addr:guest_port."""
        self.name_refusal = ""
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
        if message.is_bootp:
            return self._bootp(message, mac, link, guest_addr, guest_port, now)
        # A client that chose another server sends its choice to all servers (RFC 2131 section 4.3.2).
        server = message.option_addr(dhcp.SERVER_ID)
        for_another = server not in (0, self._config.gateway_ip)
        match message.kind:
            case dhcp.DISCOVER:
                kind, state, counter = dhcp.OFFER, OFFERED, "dhcp_offer_sent"
            case dhcp.REQUEST if for_another:
                self._leases.turn_down(mac, link, now)
                return Ignored(_OTHER_SERVER)
            case dhcp.REQUEST:
                kind, state, counter = dhcp.ACK, BOUND, "dhcp_ack_sent"
            case dhcp.INFORM:
                return self._inform(message, guest_addr, guest_port)
            case dhcp.DECLINE | dhcp.RELEASE if for_another:
                return Ignored(_OTHER_SERVER)
            case dhcp.DECLINE:
                return self._decline(message, mac, link, now)
            case dhcp.RELEASE:
                return self._release(message, mac, link, now)
            case _:
                return Ignored("dhcp_message_ignored_unknown_type")
        most = float("inf")
        if self._fleet is not None and not self._fleet.has_static(mac):
            said, self._granted = self._granted, None
            if said is None or said[0] != mac:
                return self._wanted(self._fleet, message, mac, link, state, now)
            _, addr, most = said
            if not addr:
                return _refused(message, mac, Grant(0, 0, NO_ADDRESS))
            self._fleet.grant(mac, addr)
        grant = self._leases.give(mac, _ident(message), link, state, now)
        if not grant.addr:
            return _refused(message, mac, grant)
        grant = grant._replace(seconds=int(min(grant.seconds, most)))
        if kind == dhcp.ACK and self._names is not None and self._leases.is_owner(mac, link):
            name = message.options.get(dhcp.HOST_NAME, b"")
            guest, until = self._guest_of(link), now + grant.seconds
            self.name_refusal = self._names.on_ack(mac, grant.addr, link, guest, name, until)
        payload = self._build(message, kind, grant.addr, grant.seconds)
        change = None if state == OFFERED else _given(message, mac, grant)
        return Reply(payload, guest_addr or ip.BROADCAST, guest_port, counter, change)

    def _wanted(
        self, leases: FleetLeases, message: dhcp.Message, mac: bytes, link: int, state: str, now: float
    ) -> Wanted | Ignored:
        """Ask the fleet for an address, if the guest may have one more."""
        if not leases.may_ask(mac, link, now):
            return _refused(message, mac, Grant(0, 0, TOO_MANY))
        return Wanted(mac, SECONDS[state])

    def _build(self, message: dhcp.Message, kind: int, addr: int, seconds: int) -> bytes:
        """A reply that the client accepts. Its options are in ascending order.

        addr, seconds: the lease; 0 if there is none. Options 58 and 59 are not sent. Clients then renew after
        half and seven eighths of these seconds.
        """
        options = dict(self._options)
        options[dhcp.MESSAGE_TYPE] = bytes((kind,))
        if seconds:
            options[dhcp.LEASE_TIME] = seconds.to_bytes(4, "big")
        if ident := _ident(message):
            options[dhcp.CLIENT_ID] = ident
        # A client without an address does not reassemble fragments.
        datagram = min(message.max_datagram, max(self._config.mtu, dhcp.MIN_DATAGRAM))
        room = datagram - dhcp.DATAGRAM_HEADERS - _message_len(options)
        relay_info = self._relay_info(message, room)
        if relay_info:
            room -= dhcp.option_len(relay_info)
        if dhcp.DOMAIN_SEARCH in message.options.get(dhcp.PARAMETER_LIST, b""):
            search_list = _fitting(self._search_list, room)
            if search_list:
                options[dhcp.DOMAIN_SEARCH] = search_list
        return dhcp.build(
            dhcp.Message(
                dhcp.BOOT_REPLY,
                message.xid,
                message.chaddr,
                _ordered(options, relay_info),
                htype=message.htype,
                flags=message.flags,
                ciaddr=0 if seconds else message.ciaddr,
                yiaddr=addr,
                giaddr=message.giaddr,
            )
        )

    def _relay_info(self, message: dhcp.Message, room: int) -> bytes:
        """The relay's option to send back (RFC 3046 section 2.2), if it fits into room bytes."""
        value = message.options.get(dhcp.RELAY_INFO, b"")
        return value if 0 < len(value) <= MAX_ECHOED_OPTION and dhcp.option_len(value) <= room else b""

    def _bootp(
        self, message: dhcp.Message, mac: bytes, link: int, guest_addr: int, guest_port: int, now: float
    ) -> Reply | Ignored:
        """A lease without end, in 300 bytes and without options that only DHCP has (RFC 1534 section 2)."""
        if message.sname:
            # The client wants the server of this name (RFC 951 section 7.3). The gateway has no name.
            return Ignored(_OTHER_SERVER)
        if self._fleet is not None and not self._fleet.has_static(mac):
            # No lease of a fleet is without end.
            return Ignored("dhcp_message_ignored_bootp_in_fleet")
        grant = self._leases.give(mac, _ident(message), link, BOOTP, now)
        if not grant.addr:
            return _refused(message, mac, grant)
        options = {code: value for code, value in self._options.items() if code != dhcp.SERVER_ID}
        relay_info = self._relay_info(message, dhcp.MIN_LEN - _message_len(options))
        payload = dhcp.build(
            dhcp.Message(
                dhcp.BOOT_REPLY,
                message.xid,
                message.chaddr,
                _ordered(options, relay_info),
                htype=message.htype,
                flags=message.flags,
                ciaddr=message.ciaddr,
                yiaddr=grant.addr,
                siaddr=self._config.gateway_ip,
                giaddr=message.giaddr,
            )
        )
        change = _given(message, mac, grant._replace(seconds=0))
        return Reply(payload, guest_addr or ip.BROADCAST, guest_port, "dhcp_bootp_reply_sent", change)

    def _inform(self, message: dhcp.Message, guest_addr: int, guest_port: int) -> Reply:
        """Answer with the parameters, without an address and without a lease (RFC 2131 section 4.3.5)."""
        payload = self._build(message, dhcp.ACK, 0, 0)
        return Reply(payload, guest_addr or message.ciaddr or ip.BROADCAST, guest_port, "dhcp_ack_sent")

    def _decline(self, message: dhcp.Message, mac: bytes, link: int, now: float) -> Ignored:
        """DECLINE (RFC 2131 section 4.3.3). It counts only from the lease's own client."""
        addr = message.option_addr(dhcp.REQUESTED_ADDRESS)
        if self._leases.decline(mac, _ident(message), addr, link, now):
            return Ignored("dhcp_decline_accepted", _changed("lease-declined", message, mac, addr))
        return Ignored("dhcp_decline_dropped_not_holder")

    def _release(self, message: dhcp.Message, mac: bytes, link: int, now: float) -> Ignored:
        """RELEASE (RFC 2131 section 4.3.4). It also ends the client's name."""
        if self._leases.release(mac, message.ciaddr, link, now):
            # Leases has called HostNames.on_end().
            change = _changed("lease-released", message, mac, message.ciaddr)
            return Ignored("dhcp_release_accepted", change)
        if self._names is not None and self._leases.is_owner(mac, link):
            # A static lease cannot be released, but its client has left.
            self._names.on_release(mac, message.ciaddr, link)
        return Ignored("dhcp_release_dropped_not_holder")


def _changed(kind: str, message: dhcp.Message, mac: bytes, addr: int, seconds: int = 0) -> Change:
    return Change(kind, mac, addr, seconds, message.options.get(dhcp.HOST_NAME, b""))


def _given(message: dhcp.Message, mac: bytes, grant: Grant) -> Change:
    kind = "lease-given" if grant.fresh else "lease-renewed"
    return _changed(kind, message, mac, grant.addr, grant.seconds)


def _refused(message: dhcp.Message, mac: bytes, grant: Grant) -> Ignored:
    addr = message.option_addr(dhcp.REQUESTED_ADDRESS)
    change = _changed("lease-refused", message, mac, addr)
    return Ignored(grant.refusal, change._replace(reason=grant.refusal))


def _ident(message: dhcp.Message) -> bytes:
    """The client identifier; empty if there is none, or if it is too long to be kept."""
    ident = message.options.get(dhcp.CLIENT_ID, b"")
    return ident if len(ident) <= MAX_ECHOED_OPTION else b""


def _message_len(options: Mapping[int, bytes]) -> int:
    """Bytes of a message with these options and END."""
    return dhcp.HEADER_LEN + sum(dhcp.option_len(value) for value in options.values()) + 1


def _ordered(options: Mapping[int, bytes], relay_info: bytes) -> dict[int, bytes]:
    """Options in ascending order, relay information last (RFC 3046 section 2.2)."""
    ordered = dict(sorted(options.items()))
    if relay_info:
        ordered[dhcp.RELAY_INFO] = relay_info
    return ordered


def _search_list(domains: tuple[str, ...]) -> list[bytes]:
    """The first valid domains in wire form, as many as fit into MAX_SEARCH_LIST bytes."""
    found: list[bytes] = []
    size = 0
    for domain in domains:
        name = dhcp.build_search_list((domain,))
        size += len(name)
        if size > MAX_SEARCH_LIST:
            break
        if name:
            found.append(name)
    return found


def _fitting(names: list[bytes], room: int) -> bytes:
    """The first names, as many as fit into an option of room bytes."""
    value = b""
    for name in names:
        if dhcp.option_len(value + name) > room:
            break
        value += name
    return value
