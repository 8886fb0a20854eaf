"""TCP connections that the host opens to a guest: the records until the guest answers.

Egress asks for a connection (DIAL). Demux finds the guest's link and chooses a port of the gateway. The two
ends decide the shard of tcp, and demux passes the request on to it (DIAL_ROUTED). If the guest accepts, tcp
sends GUEST_ANSWERED (pipeline.records.streams) to egress. If not, tcp or demux sends DIAL_FAILED.
"""

from struct import Struct
from typing import Final, TypeAlias

from pipeline.records.addresses import Addr, addr_bytes, addr_of
from pipeline.records.flows import FlowKey
from pipeline.records.kinds import DIAL, DIAL_FAILED, DIAL_ROUTED

_DIAL: Final = Struct("<B23xI18s2x16s18xH12x")  # kind, flow, client, guest_addr, guest_port
_ROUTED: Final = Struct("<BxH20xI18s2x36sI8x")  # kind, link, flow, client, key, egress
_FAILED: Final = Struct("<B23xI32x?35x")  # kind, flow, final
Client: TypeAlias = bytes
"""The program that opened a connection to a guest: 16 bytes of IPv6 address, in which IPv4 is mapped, and the
port in network order. It only tells an operator who it is."""
NO_CLIENT: Final = bytes(18)
"""The client has no address: it came over a unix socket."""


class Dial:
    """DIAL: connect to a port of a guest. flow: a number that egress assigned (FLOW_FROM_EGRESS)."""

    def __init__(self, flow: int, guest_addr: Addr, guest_port: int, client: Client = NO_CLIENT) -> None:
        self.flow = flow
        self.guest_addr = guest_addr
        self.guest_port = guest_port
        self.client = client

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Dial":
        """The record at burst[at:]."""
        _, flow, client, guest_addr, guest_port = _DIAL.unpack_from(burst, at)
        return Dial(flow, addr_of(guest_addr), guest_port, client)

    @staticmethod
    def pack(flow: int, guest_addr: Addr, guest_port: int, client: Client = NO_CLIENT) -> bytes:
        """A record with these fields."""
        return _DIAL.pack(DIAL, flow, client, addr_bytes(guest_addr), guest_port)


class DialRouted:
    """DIAL_ROUTED: connect to a guest on ``link`` from the remote end in ``key``.

    egress: the index of the egress worker that asked. It assigned the number ``flow``.
    """

    def __init__(self, flow: int, key: FlowKey, link: int, egress: int, client: Client = NO_CLIENT) -> None:
        self.flow = flow
        self.key = key
        self.link = link
        self.egress = egress
        self.client = client

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "DialRouted":
        """The record at burst[at:]."""
        _, link, flow, client, key, egress = _ROUTED.unpack_from(burst, at)
        return DialRouted(flow, key, link, egress, client)

    @staticmethod
    def pack(flow: int, key: FlowKey, link: int, egress: int, client: Client = NO_CLIENT) -> bytes:
        """A record with these fields."""
        return _ROUTED.pack(DIAL_ROUTED, link, flow, client, key, egress)


class DialFailed:
    """DIAL_FAILED: the connection cannot be opened.

    final: no guest has the address, or there is no port or no room for the connection. Otherwise tcp still
    has a connection between these two ends. Another DIAL makes demux choose the next port.
    """

    def __init__(self, flow: int, final: bool) -> None:
        self.flow = flow
        self.final = final

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "DialFailed":
        """The record at burst[at:]."""
        _, flow, final = _FAILED.unpack_from(burst, at)
        return DialFailed(flow, final)

    @staticmethod
    def pack(flow: int, final: bool) -> bytes:
        """A record with these fields."""
        return _FAILED.pack(DIAL_FAILED, flow, final)
