"""How records name a flow (a TCP connection or a UDP association): by its two ends, or by a number.

A *flow key* is the two ends as 36 bytes, exactly as a record holds them. Tables of flows use it as their key:
a look-up decodes nothing, and bytes hash faster than a tuple of numbers. ``Ends`` has the same in fields.

A *flow number* is shorter. Demux, a tcp shard or an egress worker (FLOW_FROM_EGRESS) assigns it. Two workers
may assign the same number. So a number is unique only together with the worker that assigned it.
"""

from struct import Struct
from typing import Final, TypeAlias

from pipeline.records.addresses import Addr

FLOW_FROM_EGRESS: Final = 0x80000000
"""The bit that is set in flow numbers assigned by egress, for connections to guests and forwarded ports."""

FlowKey: TypeAlias = bytes
"""The ends of a flow as a record holds them. Only this module makes one or looks inside."""

# guest_addr, remote_addr (each as two words, the low one first), remote_port, guest_port
_KEY: Final = Struct("<QQQQHH")
_WORD: Final = 0xFFFFFFFFFFFFFFFF
_FLOW_AT: Final = 24
_FLOW: Final = Struct("<I")
_NOTICE: Final = Struct("<B23xI68x")  # kind, flow


class Ends:
    """The two ends of a flow. The remote end is the gateway for its services and for dialled connections.

    The fields do not change. So the ends of a key, and what is computed from them, are kept for the next
    packet: arithmetic with numbers of 128 bits is slow.
    """

    def __init__(self, guest_addr: Addr, guest_port: int, remote_addr: Addr, remote_port: int) -> None:
        self.guest_addr = guest_addr
        self.guest_port = guest_port
        self.remote_addr = remote_addr
        self.remote_port = remote_port
        self._sum = -1
        self._addresses = b""

    @staticmethod
    def of(key: FlowKey) -> "Ends":
        """The ends in a key."""
        known = _KNOWN.get(key)
        if known is not None:
            return known
        guest_addr: int
        guest_high: int
        remote_addr: int
        remote_high: int
        guest_addr, guest_high, remote_addr, remote_high, remote_port, guest_port = _KEY.unpack(key)
        if guest_high or remote_high:
            guest_addr |= guest_high << 64
            remote_addr |= remote_high << 64
        ends = Ends(guest_addr, guest_port, remote_addr, remote_port)
        if len(_KNOWN) >= _MAX_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = ends
        return ends

    def address_sum(self) -> int:
        """The sum of the 16-bit words of both addresses, modulo 0xffff. This is their part of a checksum."""
        if self._sum < 0:
            self._sum = (self.guest_addr + self.remote_addr) % 0xFFFF
        return self._sum

    def addresses6(self) -> bytes:
        """Source and destination of an IPv6 packet to the guest, as on the wire."""
        if not self._addresses:
            self._addresses = self.remote_addr.to_bytes(16, "big") + self.guest_addr.to_bytes(16, "big")
        return self._addresses

    def key(self) -> FlowKey:
        """The key of these ends."""
        return flow_key(self.guest_addr, self.guest_port, self.remote_addr, self.remote_port)


_MAX_KNOWN: Final = 1024
_KNOWN: Final[dict[FlowKey, Ends]] = {}
"""The ends of the keys that this process has looked into lately. When it is full, it is cleared."""


def flow_key(guest_addr: Addr, guest_port: int, remote_addr: Addr, remote_port: int) -> FlowKey:
    """The key of a flow, without an object for its ends."""
    return _KEY.pack(
        guest_addr & _WORD, guest_addr >> 64, remote_addr & _WORD, remote_addr >> 64, remote_port, guest_port
    )


def flow_key_of_halves(
    guest_high: int, guest_low: int, guest_port: int, remote_high: int, remote_low: int, remote_port: int
) -> FlowKey:
    """The same for addresses in two halves of 64 bits, which need no number of 128 bits."""
    return _KEY.pack(guest_low, guest_high, remote_low, remote_high, remote_port, guest_port)


def flow_of(burst: memoryview, at: int) -> int:
    """The flow number of the record at burst[at:]. All kinds that have one have it at the same offset."""
    number: int = _FLOW.unpack_from(burst, at + _FLOW_AT)[0]
    return number


class FlowNotice:
    """A record that says with its kind alone what happened to a flow, such as CONNECTED or ABORT.

    A reader needs flow_of() alone.
    """

    def __init__(self, flow: int) -> None:
        self.flow = flow

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "FlowNotice":
        """The notice at burst[at:]."""
        return FlowNotice(flow_of(burst, at))

    @staticmethod
    def pack(kind: int, flow: int) -> bytes:
        """A notice of one of these kinds."""
        return _NOTICE.pack(kind, flow)
