"""DNS64 (RFC 6147): which guests get IPv6 addresses of IPv4 hosts, and which addresses these are.

The prefix is the well-known one, 64:ff9b::/96, since the gateway translates exactly that
(pipeline.engines.nat). RFC 6052 section 3.1 forbids it for IPv4 addresses that are not global. Here it stands
for them too: the prefix never leaves the virtual network, and a guest without IPv4 could not reach the host's
own networks otherwise.

The gateway has an IPv6 address of its own, so its names get that one. An address that the gateway refuses in
any case is not embedded: that of another guest, of loopback, of a group, or a reserved one.

The name ipv4only.arpa and its reverse names are answered here, and never asked upstream (RFC 8880).
synthesis.py makes the records.
"""

from ipaddress import IPv4Network
from typing import Final, Protocol

from pipeline.engines.dns import message as m
from pipeline.engines.dns.zones import AAAA, ANY, NOERROR, NXDOMAIN, PTR, A, Local
from pipeline.wire import ip

IPV4ONLY: Final = "ipv4only.arpa"
IPV4ONLY_TTL: Final = 86400
"""Seconds, as in the public zone. Guests ask again when they are over (RFC 7050 section 3)."""

_IPV4ONLY_LABELS: Final = (b"ipv4only", b"arpa")
_IPV4ONLY_ADDRESSES: Final = (bytes((192, 0, 0, 170)), bytes((192, 0, 0, 171)))
_IPV4ONLY_OCTETS: Final = (b"170", b"171")
_IPV4ONLY_NETWORK: Final = (b"0", b"0", b"192", b"in-addr", b"arpa")
_NIBBLES: Final = 8
"""Labels of a reverse name that have the IPv4 address. The labels of the prefix follow."""
_HEX: Final = {b"%x" % value: value for value in range(16)}


def _prefix_labels() -> tuple[bytes, ...]:
    """The labels after the IPv4 address in the reverse name of an address of 64:ff9b::/96."""
    digits = f"{ip.NAT64 >> 32:024x}"
    return (*(digit.encode() for digit in reversed(digits)), b"ip6", b"arpa")


_PREFIX_LABELS: Final = _prefix_labels()


class AddressConfig(Protocol):
    """The part of the configuration that says which IPv4 addresses guests can reach."""

    @property
    def subnet(self) -> IPv4Network: ...
    @property
    def gateway_ip(self) -> int: ...
    @property
    def reserved(self) -> frozenset[int]:
        """Addresses that do not mean a guest, such as that of the host."""


class Dns64:
    """The rules. They do not change."""

    def __init__(self, config: AddressConfig, gateway6: int, *, always: bool) -> None:
        """gateway6: the gateway's IPv6 address. always: also for questions that came over IPv4."""
        self.always = always
        self._gateway = config.gateway_ip
        self._gateway6 = gateway6.to_bytes(16, "big")
        self._reserved = config.reserved
        network = ip.of(config.subnet.network_address)
        self._first, self._last = ip.prefix(network, config.subnet.prefixlen)

    def synthesizes(self, query: m.Query, over_ipv6: bool) -> bool:
        """Whether the answer to this query may have synthetic addresses.

        A client that sets DO and CD validates and synthesizes by itself (RFC 6147 section 5.5).
        """
        if query.rdtype != AAAA or query.rdclass != m.CLASS_IN:
            return False
        return (self.always or over_ipv6) and not (query.dnssec and query.flags & m.CD)

    def address(self, ipv4: bytes) -> bytes:
        """The 16 bytes for the 4 bytes of an IPv4 address; empty if guests cannot reach it."""
        addr = ip.from_ipv4(int.from_bytes(ipv4, "big"))
        if addr == self._gateway:
            return self._gateway6
        if addr not in self._reserved and (
            ip.inside(addr, self._first, self._last)
            or ip.is_loopback(addr)
            or ip.is_multicast(addr)
            or ip.is_reserved(addr)
        ):
            return b""
        return (ip.NAT64 | ip.to_ipv4(addr)).to_bytes(16, "big")

    def translated(self, local: Local) -> Local:
        """The gateway's own answer to a question about A, as one about AAAA."""
        found = (self.address(each) for each in local.addresses if len(each) == 4)
        return local._replace(addresses=tuple(filter(None, found)))

    def special(self, query: m.Query) -> Local | None:
        """The answer for ipv4only.arpa, names below it, and the reverse names of its addresses (RFC 8880)."""
        labels = tuple(label.lower() for label in query.labels)
        if labels[-2:] == _IPV4ONLY_LABELS:
            if len(labels) > len(_IPV4ONLY_LABELS):
                return Local(NXDOMAIN)
            addresses = _IPV4ONLY_ADDRESSES if query.rdtype in (A, ANY) else ()
            return Local(NOERROR, addresses, ttl=IPV4ONLY_TTL)
        if labels[-5:] == _IPV4ONLY_NETWORK and len(labels) > 5 and labels[-6] in _IPV4ONLY_OCTETS:
            if len(labels) > 6:
                return Local(NXDOMAIN)
            pointer = IPV4ONLY if query.rdtype in (PTR, ANY) else ""
            return Local(NOERROR, pointer=pointer, ttl=IPV4ONLY_TTL)
        return None

    def asked(self, query: m.Query) -> m.Query:
        """The query whose answer is needed.

        The one about in-addr.arpa, if this is the reverse name of an address of 64:ff9b::/96 (RFC 6147
        section 5.3.1), else the query itself.
        """
        labels = query.labels
        if (
            query.rdtype != PTR
            or query.rdclass != m.CLASS_IN
            or len(labels) != _NIBBLES + len(_PREFIX_LABELS)
        ):
            return query
        if tuple(label.lower() for label in labels[_NIBBLES:]) != _PREFIX_LABELS:
            return query
        nibbles = [_HEX.get(label.lower(), -1) for label in labels[:_NIBBLES]]
        if -1 in nibbles:
            return query
        octets = [nibbles[at] | nibbles[at + 1] << 4 for at in range(0, _NIBBLES, 2)]
        return m.about(query, (*(b"%d" % octet for octet in octets), b"in-addr", b"arpa"), PTR)
