"""Groups of addresses, so that a rule need not list networks: the Internet, and all that lies inside.

An address may be in several groups, such as ``link-local`` and ``metadata``. ``public`` is the rest of the
Internet: an address that is in no other group, and not reserved by IANA. Multicast and reserved addresses are
in no group. An IPv6 address that embeds an IPv4 address (64:ff9b::/96, 2002::/16) has the groups of both.

What belongs to the host cannot be told from an address alone. So the caller passes a function that asks the
system, and the addresses that mean the host or a guest.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from pipeline.wire import ip

PUBLIC: Final = 1
PRIVATE: Final = 2
LOOPBACK: Final = 4
LINK_LOCAL: Final = 8
METADATA: Final = 16
HOST: Final = 32
GUESTS: Final = 64

BITS: Final[Mapping[str, int]] = {
    "public": PUBLIC,
    "private": PRIVATE,
    "loopback": LOOPBACK,
    "link-local": LINK_LOCAL,
    "metadata": METADATA,
    "host": HOST,
    "guests": GUESTS,
}
"""The groups by their words in the configuration (pipeline.config.choices.GROUPS)."""
INNER: Final = PRIVATE | LOOPBACK | LINK_LOCAL | METADATA | HOST | GUESTS

_PRIVATE: Final = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),  # RFC 1918
    "100.64.0.0/10",  # RFC 6598
    "fc00::/7",  # RFC 4193
    "fec0::/10",  # RFC 3879, deprecated
    "64:ff9b:1::/48",  # RFC 8215
)
_LOOPBACK: Final = ("127.0.0.0/8", "0.0.0.0/8", "::1", "::")
_LINK_LOCAL: Final = ("169.254.0.0/16", "fe80::/10")
_METADATA: Final = (
    "169.254.169.254",  # EC2, Google Cloud, Azure, OpenStack, Oracle Cloud and others
    *("169.254.170.2", "169.254.170.23"),  # credentials of ECS and EKS
    "169.254.0.23",  # Tencent Cloud
    "169.254.42.42",  # Scaleway
    "168.63.129.16",  # Azure's wire server
    "100.100.100.200",  # Alibaba Cloud
    "192.0.0.192",  # Oracle Cloud Classic
    *("fd00:ec2::254", "fd00:ec2::23"),  # EC2, EKS
    "fd20:ce::254",  # Google Cloud
    "fd00:c1::a9fe:a9fe",  # Oracle Cloud
    "fd00:42::42",  # Scaleway
    "fe80::a9fe:a9fe",  # OpenStack
)
_RESERVED: Final = (
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/4", "240.0.0.0/4"),
    *("2001::/23", "2001:db8::/32", "3fff::/20"),
)
_GLOBAL: Final = ("0.0.0.0/0", "2000::/3")

Range = tuple[int, int]


def _ranges(texts: Collection[str]) -> tuple[Range, ...]:
    found = [ip.network(text) for text in texts]
    # The number of 0.0.0.0 is that of ``::``. As an end of a range it must be that of the mapped address.
    return tuple((first or (ip.MAPPED if ip.is_ipv4(last) else 0), last) for first, last in found)


_TABLE: Final = (
    (PRIVATE, _ranges(_PRIVATE)),
    (LOOPBACK, _ranges(_LOOPBACK)),
    (LINK_LOCAL, _ranges(_LINK_LOCAL)),
    (METADATA, _ranges(_METADATA)),
)
_NOT_PUBLIC: Final = _ranges(_RESERVED)
_IN_USE: Final = _ranges(_GLOBAL)
_SIX_TO_FOUR: Final = 0x2002
_MAX_KNOWN: Final = 4096


class Groups:
    """The groups of every address, as one network sees them."""

    def __init__(
        self,
        hosts: Collection[int] = (),
        guests: Collection[Range] = (),
        is_host: Callable[[int], bool] = lambda addr: False,
    ) -> None:
        """hosts: addresses that lead to the host or its gateway. guests: networks of guests.

        is_host: whether an interface of the host has the address.
        """
        self._hosts = frozenset(hosts)
        self._guests = tuple(guests)
        self._is_host = is_host
        self._known: dict[int, int] = {}
        """What the address alone says, for addresses that were asked for lately."""

    def of(self, addr: int) -> int:
        """The groups of an address, as bits."""
        mask = self._known.get(addr)
        if mask is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            mask = self._known[addr] = self._of(addr)
        if self._is_host(addr):
            mask = (mask | HOST) & ~PUBLIC
        return mask

    def is_inner(self, addr: int) -> bool:
        """Whether no name of the Internet may lead to the address."""
        return bool(self.of(addr) & INNER) or ip.is_reserved(addr) or ip.is_multicast(addr)

    def _of(self, addr: int) -> int:
        if addr >> 112 == _SIX_TO_FOUR:
            return self._of(ip.from_ipv4(addr >> 80 & 0xFFFFFFFF))
        addr = ip.embedded(addr)
        mask = 0
        for bit, ranges in _TABLE:
            if _in(addr, ranges):
                mask |= bit
        if addr in self._hosts:
            mask |= HOST
        elif _in(addr, self._guests):
            mask |= GUESTS
        if not mask and _in(addr, _IN_USE) and not _in(addr, _NOT_PUBLIC):
            mask = PUBLIC
        return mask


def _in(addr: int, ranges: tuple[Range, ...]) -> bool:
    return any(ip.inside(addr, first, last) for first, last in ranges)
