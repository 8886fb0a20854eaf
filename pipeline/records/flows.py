"""What tells flows apart: their ends, and the numbers that workers give them.

A *flow key* is the two ends of a flow as 12 bytes. It is what tables of flows are keyed by: a record has it
as it lies in memory, so nothing is decoded to look a flow up, and bytes hash faster than a tuple of numbers.
``Ends`` has the parts by name, for whoever needs them.

A *flow number* is shorter, and is made by demux or tcp, or by egress (FLOW_FROM_EGRESS). It is unique only
together with its maker: demux' and a tcp shard's for the egress worker of the flow, egress' for that worker.
"""

from struct import Struct
from typing import Final, TypeAlias

from pipeline.records.addresses import Addr

FLOW_FROM_EGRESS: Final = 0x80000000
"""Set in flow numbers that egress made, for dialled and forwarded flows."""

FlowKey: TypeAlias = bytes
"""The ends of a flow as they lie in a record. Made by Ends.key() only; its bytes mean nothing elsewhere."""

_KEY: Final = Struct("<IIHH")  # guest_addr, remote_addr, remote_port, guest_port
_FLOW_AT: Final = 24
_FLOW: Final = Struct("<I")
_NOTICE: Final = Struct("<B23xI36x")  # kind, flow


class Ends:
    """The two ends of a flow. The gateway's services and dialled flows have the gateway as remote end."""

    def __init__(self, guest_addr: Addr, guest_port: int, remote_addr: Addr, remote_port: int) -> None:
        self.guest_addr = guest_addr
        self.guest_port = guest_port
        self.remote_addr = remote_addr
        self.remote_port = remote_port

    @staticmethod
    def of(key: FlowKey) -> "Ends":
        """The ends in a key."""
        guest_addr, remote_addr, remote_port, guest_port = _KEY.unpack(key)
        return Ends(guest_addr, guest_port, remote_addr, remote_port)

    def key(self) -> FlowKey:
        """The key of these ends."""
        return _KEY.pack(self.guest_addr, self.remote_addr, self.remote_port, self.guest_port)


def flow_key(guest_addr: Addr, guest_port: int, remote_addr: Addr, remote_port: int) -> FlowKey:
    """The key of a flow, without an object for its ends."""
    return _KEY.pack(guest_addr, remote_addr, remote_port, guest_port)


def flow_of(burst: memoryview, at: int) -> int:
    """The flow number of the record at burst[at:], whatever kind it is: all that have one have it here."""
    number: int = _FLOW.unpack_from(burst, at + _FLOW_AT)[0]
    return number


class FlowNotice:
    """Something happened to a flow: CONNECTED, ABORT, CLOSED, UDP_ANSWERED or UDP_CLOSE.

    The kind says what. Readers need not unpack it: flow_of() is all there is.
    """

    def __init__(self, flow: int) -> None:
        self.flow = flow

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "FlowNotice":
        """The notice at burst[at:]."""
        return FlowNotice(flow_of(burst, at))

    @staticmethod
    def pack(kind: int, flow: int) -> bytes:
        """A notice of one of the five kinds."""
        return _NOTICE.pack(kind, flow)
