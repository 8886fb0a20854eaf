"""DHCPv6 messages of clients, and what they find in the answers."""

from typing import NamedTuple

from pipeline.counters import INDEX
from pipeline.engines.dhcp.server6 import Dhcp6, Outcome, Sender
from pipeline.wire import dhcpv6, ip
from pipeline.wire.dhcpv6 import Ia, IaAddress, Message

NET = ip.parse("fd12:3456:789a:1::")
GATEWAY = NET | 1
GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
SERVER_DUID = bytes.fromhex("00030001") + GATEWAY_MAC
FIRST, LAST = NET | 0x1_0000, NET | 0x1_FFFF
ELSEWHERE = ip.parse("2001:db8::5")
IAID = 7


class Settings(NamedTuple):
    """The part of the configuration that the server reads."""

    ipv6_first: int = NET
    ipv6_gateway: int = GATEWAY
    ipv6_host: int = NET | 0xFE
    gateway_mac: bytes = GATEWAY_MAC
    dns_search_domains: tuple[str, ...] = ()
    ipv6_mac_leases: dict[int, bytes] = {}  # noqa: RUF012
    ipv6_duid_leases: dict[int, bytes] = {}  # noqa: RUF012


def mac(n: int) -> bytes:
    return b"\x02\x00\x00" + n.to_bytes(3, "big")


def duid(n: int) -> bytes:
    """A DUID-UUID (RFC 6355), of which nobody can read a MAC address."""
    return b"\x00\x04" + n.to_bytes(16, "big")


def na(*addresses: int, iaid: int = IAID) -> Ia:
    """An IA_NA that names these addresses."""
    return Ia(dhcpv6.IA_NA, iaid, addresses=tuple(IaAddress(addr, 0, 0) for addr in addresses))


def message(
    kind: int,
    n: int = 1,
    *ias: Ia,
    server: bytes | None = None,
    options: tuple[tuple[int, bytes], ...] = (),
    xid: int = 0xABCDEF,
) -> bytes:
    """A message of client n. server: the DUID of the server that it names; SERVER_DUID where it must."""
    if server is None and kind in (dhcpv6.REQUEST, dhcpv6.RENEW, dhcpv6.RELEASE, dhcpv6.DECLINE):
        server = SERVER_DUID
    head = [(dhcpv6.CLIENT_ID, duid(n))] if n else []
    if server:
        head.append((dhcpv6.SERVER_ID, server))
    return dhcpv6.build(Message(kind, xid, (*head, *map(dhcpv6.build_ia, ias), *options)))


def send(
    engine: Dhcp6,
    payload: bytes,
    now: float = 0.0,
    *,
    link: int = 1,
    mac: bytes = mac(1),
    unicast: bool = False,
) -> Outcome:
    outcome = engine.on_message(payload, 0, len(payload), Sender(link, mac, unicast), now)
    assert all(counter in INDEX for counter in outcome.counters)
    return outcome


class Answer:
    """A server's message, as a client reads it."""

    def __init__(self, outcome: Outcome) -> None:
        assert outcome.payload, outcome
        self.message = dhcpv6.parse(outcome.payload, 0, len(outcome.payload))
        self.kind = self.message.kind
        self.ias = list(self.message.ias())

    def option(self, code: int) -> bytes | None:
        return self.message.option(code)

    @property
    def status(self) -> int | None:
        value = self.option(dhcpv6.STATUS_CODE)
        return None if value is None else dhcpv6.parse_status(value)

    @property
    def ia(self) -> Ia:
        (found,) = self.ias
        return found

    @property
    def addr(self) -> int:
        """The only address with a lifetime of the only IA; 0 if there is none."""
        found = [each.addr for each in self.ia.addresses if each.valid]
        return found[0] if len(found) == 1 else 0


def ask(engine: Dhcp6, kind: int, n: int = 1, *ias: Ia, now: float = 0.0, link: int = 1) -> Answer:
    """The answer to client n, whose frames have the MAC address mac(n), for one IA_NA by default."""
    return Answer(send(engine, message(kind, n, *(ias or (na(),))), now, link=link, mac=mac(n)))


def leased(engine: Dhcp6, n: int = 1, now: float = 0.0, link: int = 1) -> int:
    """The address that client n gets with a Request; 0 if it gets none."""
    return ask(engine, dhcpv6.REQUEST, n, now=now, link=link).addr


def refused(outcome: Outcome) -> str:
    """The counter of a message that got no answer."""
    assert outcome.payload == b""
    assert outcome.changes == ()
    (counter,) = outcome.counters
    return counter
