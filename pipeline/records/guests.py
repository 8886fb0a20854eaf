"""Which guests are connected, and which addresses they have: links, neighbours, leases."""

from struct import Struct
from typing import Final

from pipeline.records.addresses import Addr, addr_bytes, addr_of, mac_bytes, mac_numbers
from pipeline.records.kinds import LEASED, NEIGHBOR_GONE, RENAMED, SHARED, TUNNEL, WORK

UNKNOWN_GUESTS: Final = 0x10000
"""Numbers from here on are not those of guests, which have 16 bits. A link that no LINK_UP has named counts
as the guest UNKNOWN_GUESTS + link."""

_LINK: Final = Struct("<BxHH90x")  # kind, link, guest
_NEIGHBOR: Final = Struct("<BxH24xIH14x16s32x")  # kind, link, MAC (two numbers), guest_addr
_GONE: Final = Struct("<B47x16s32x")  # kind, guest_addr
_RENAMED: Final = Struct("<B?H44x16s16s16x")  # kind, is_mac, link, inner, own
_SHARED: Final = Struct("<B?94x")  # kind, shared
_TUNNEL: Final = Struct("<BxH56xI32x")  # kind, link, mtu
_WORK: Final = Struct("<BxH56xI32x")  # kind, link, nanoseconds


class LinkNotice:
    """LINK_UP or LINK_DOWN: ``link`` is connected, or gone. Another link may get its number later.

    guest: the number of the guest that opened the link. All links of one peer have the same.
    """

    def __init__(self, link: int, guest: int) -> None:
        self.link = link
        self.guest = guest

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "LinkNotice":
        """The record at burst[at:]."""
        _, link, guest = _LINK.unpack_from(burst, at)
        return LinkNotice(link, guest)

    @staticmethod
    def pack(kind: int, link: int, guest: int) -> bytes:
        """A record of one of the two kinds."""
        return _LINK.pack(kind, link, guest)


class Shared:
    """SHARED: whether several guests share the workers, so that the reader measures what each costs."""

    def __init__(self, shared: bool) -> None:
        self.shared = shared

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Shared":
        """The record at burst[at:]."""
        _, shared = _SHARED.unpack_from(burst, at)
        return Shared(shared)

    @staticmethod
    def pack(shared: bool) -> bytes:
        """A record with this field."""
        return _SHARED.pack(SHARED, shared)


class Tunnel:
    """TUNNEL: ``link`` leads to guests of other hosts. It carries packets of up to ``mtu`` bytes."""

    def __init__(self, link: int, mtu: int) -> None:
        self.link = link
        self.mtu = mtu

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Tunnel":
        """The record at burst[at:]."""
        _, link, mtu = _TUNNEL.unpack_from(burst, at)
        return Tunnel(link, mtu)

    @staticmethod
    def pack(link: int, mtu: int) -> bytes:
        """A record with these fields."""
        return _TUNNEL.pack(TUNNEL, link, mtu)


class Work:
    """WORK: the records of ``link`` took a worker this many ``nanoseconds`` of processor time."""

    def __init__(self, link: int, nanoseconds: int) -> None:
        self.link = link
        self.nanoseconds = nanoseconds

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Work":
        """The record at burst[at:]."""
        _, link, nanoseconds = _WORK.unpack_from(burst, at)
        return Work(link, nanoseconds)

    @staticmethod
    def pack(link: int, nanoseconds: int) -> bytes:
        """A record with these fields."""
        return _WORK.pack(WORK, link, nanoseconds)


class Neighbor:
    """NEIGHBOR or HEARD: the guest with ``guest_addr`` has ``mac`` and is on ``link``.

    With NEIGHBOR demux allows ingress to steer the guest's packets past demux. While ingress steers, it sends
    HEARD every REPORT_EVERY_S, so that demux knows that the guest is alive.
    """

    def __init__(self, guest_addr: Addr, mac: bytes, link: int) -> None:
        self.guest_addr = guest_addr
        self.mac = mac
        self.link = link

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Neighbor":
        """The record at burst[at:]."""
        _, link, high, low, guest_addr = _NEIGHBOR.unpack_from(burst, at)
        return Neighbor(addr_of(guest_addr), mac_bytes(high, low), link)

    @staticmethod
    def pack(kind: int, guest_addr: Addr, mac: bytes, link: int) -> bytes:
        """A record of one of the two kinds."""
        high, low = mac_numbers(mac)
        return _NEIGHBOR.pack(kind, link, high, low, addr_bytes(guest_addr))


class NeighborGone:
    """NEIGHBOR_GONE: no guest has ``guest_addr`` any more."""

    def __init__(self, guest_addr: Addr) -> None:
        self.guest_addr = guest_addr

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "NeighborGone":
        """The record at burst[at:]."""
        _, guest_addr = _GONE.unpack_from(burst, at)
        return NeighborGone(addr_of(guest_addr))

    @staticmethod
    def pack(guest_addr: Addr) -> bytes:
        """A record with this field."""
        return _GONE.pack(NEIGHBOR_GONE, addr_bytes(guest_addr))


class Renamed:
    """RENAMED: in records, ``inner`` stands for ``own``, which the guest on ``link`` has on the wire.

    Both are addresses, or with ``is_mac`` the numbers of the six bytes of MACs.
    """

    def __init__(self, is_mac: bool, link: int, inner: int, own: int) -> None:
        self.is_mac = is_mac
        self.link = link
        self.inner = inner
        self.own = own

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Renamed":
        """The record at burst[at:]."""
        _, is_mac, link, inner, own = _RENAMED.unpack_from(burst, at)
        return Renamed(is_mac, link, addr_of(inner), addr_of(own))

    def pack(self) -> bytes:
        """The record of these fields."""
        return _RENAMED.pack(RENAMED, self.is_mac, self.link, addr_bytes(self.inner), addr_bytes(self.own))


class Leased:
    """LEASED: the lease file says that ``guest_addr`` belongs to the guest with ``mac``."""

    def __init__(self, guest_addr: Addr, mac: bytes) -> None:
        self.guest_addr = guest_addr
        self.mac = mac

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Leased":
        """The record at burst[at:]."""
        _, _, high, low, guest_addr = _NEIGHBOR.unpack_from(burst, at)
        return Leased(addr_of(guest_addr), mac_bytes(high, low))

    @staticmethod
    def pack(guest_addr: Addr, mac: bytes) -> bytes:
        """A record with these fields."""
        high, low = mac_numbers(mac)
        return _NEIGHBOR.pack(LEASED, 0, high, low, addr_bytes(guest_addr))
