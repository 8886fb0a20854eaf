"""Datagrams of UDP flows, and what workers report about these flows.

Consecutive datagrams of one flow form one run. Each datagram is one piece, so its bounds are kept. A single
datagram has stride 0 and piece_size = length. A run of several datagrams has no empty one.
"""

from struct import Struct
from typing import Final

from pipeline.records.addresses import mac_bytes, mac_numbers
from pipeline.records.flows import FlowKey
from pipeline.records.kinds import STEER_UDP, UDP_DATA, UDP_OUT, UDP_RANGE, UDP_TO_GUEST, UNSTEER_UDP
from pipeline.records.run import Run

HEADERS_LEN: Final = 42
"""Bytes of Ethernet, IPv4 (20) and UDP header."""
HEADER_ROOM: Final = 64
"""Bytes before each payload from egress or the resolver. The worker that makes headers may overwrite them."""

# kind, link, stride, piece_size, slot, off, length, key, vnet, header_len
_RANGE: Final = Struct("<BxHHHIII28x36s?B10x")
# kind, link, stride, piece_size, slot, off, length, flow, key, after_steered
_DATA: Final = Struct("<BxHHHIII4xI20x36s?11x")
# kind, link, stride, piece_size, slot, off, length, MAC (two numbers), key
_OUT: Final = Struct("<BxHHHIII8xIH14x36s12x")
_TO_GUEST: Final = Struct("<B3xHHIII28x36s12x")  # kind, stride, piece_size, slot, off, length, key
_STEER: Final = Struct("<B23xI20x36sI8x")  # kind, flow, key, egress
_UNSTEER: Final = Struct("<B23xI20x36s12x")  # kind, flow, key
_NOTICE: Final = Struct("<B47x36s12x")  # kind, key


class UdpRange(Run):
    """UDP_RANGE: datagrams of one flow of a guest on ``link``.

    The frame of each begins header_len bytes before its payload: Ethernet, IP and UDP. vnet: right before
    each frame lies a virtio-net header, as in Frame. If also stride = piece_size, all datagrams are one
    frame: a super-segment with the headers before the first.
    """

    def __init__(
        self,
        slot: int,
        off: int,
        length: int,
        stride: int,
        piece_size: int,
        link: int,
        key: FlowKey,
        vnet: bool,
        header_len: int = HEADERS_LEN,
    ) -> None:
        super().__init__(slot, off, length, stride, piece_size)
        self.link = link
        self.key = key
        self.vnet = vnet
        self.header_len = header_len

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "UdpRange":
        """The record at burst[at:]."""
        _, link, stride, piece_size, slot, off, length, key, vnet, header_len = _RANGE.unpack_from(burst, at)
        return UdpRange(slot, off, length, stride, piece_size, link, key, vnet, header_len)

    def pack(self) -> bytes:
        """The record of these datagrams."""
        return _RANGE.pack(
            UDP_RANGE,
            self.link,
            self.stride,
            self.piece_size,
            self.slot,
            self.off,
            self.length,
            self.key,
            self.vnet,
            self.header_len,
        )


class UdpData(Run):
    """UDP_DATA: datagrams of a flow, on their way to its host socket or from there.

    flow: the number that demux assigned, or egress for a forwarded port (FLOW_FROM_EGRESS).
    key: from a forwarded port only the guest's end is set. Demux chooses the other end.
    link: the link of the guest that sent them; 0 for datagrams from the host.
    after_steered: ingress has sent datagrams of the flow straight to egress. Egress takes those first.
    """

    def __init__(
        self,
        slot: int,
        off: int,
        length: int,
        stride: int,
        piece_size: int,
        flow: int,
        key: FlowKey,
        after_steered: bool,
        link: int,
    ) -> None:
        super().__init__(slot, off, length, stride, piece_size)
        self.flow = flow
        self.key = key
        self.link = link
        self.after_steered = after_steered

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "UdpData":
        """The record at burst[at:]."""
        (_, link, stride, piece_size, slot, off, length, flow, key, after_steered) = _DATA.unpack_from(
            burst, at
        )
        return UdpData(slot, off, length, stride, piece_size, flow, key, after_steered, link)

    @staticmethod
    def pack(flow: int, key: FlowKey, run: Run, after_steered: bool = False, *, link: int) -> bytes:
        """A record with these fields. The run has no skip."""
        return _DATA.pack(
            UDP_DATA,
            link,
            run.stride,
            run.piece_size,
            run.slot,
            run.off,
            run.length,
            flow,
            key,
            after_steered,
        )


class UdpOut(Run):
    """UDP_OUT: datagrams for the guest on ``link`` with ``mac``, from the remote end of ``key``."""

    def __init__(
        self,
        slot: int,
        off: int,
        length: int,
        stride: int,
        piece_size: int,
        key: FlowKey,
        link: int,
        mac: bytes,
    ) -> None:
        super().__init__(slot, off, length, stride, piece_size)
        self.key = key
        self.link = link
        self.mac = mac

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "UdpOut":
        """The record at burst[at:]."""
        _, link, stride, piece_size, slot, off, length, high, low, key = _OUT.unpack_from(burst, at)
        return UdpOut(slot, off, length, stride, piece_size, key, link, mac_bytes(high, low))

    @staticmethod
    def pack(key: FlowKey, run: Run, link: int, mac: bytes) -> bytes:
        """A record with these fields. The run has no skip."""
        high, low = mac_numbers(mac)
        return _OUT.pack(
            UDP_OUT, link, run.stride, run.piece_size, run.slot, run.off, run.length, high, low, key
        )


class UdpToGuest(Run):
    """UDP_TO_GUEST: datagrams for the guest of ``key``, from the remote end of ``key``."""

    def __init__(self, slot: int, off: int, length: int, stride: int, piece_size: int, key: FlowKey) -> None:
        super().__init__(slot, off, length, stride, piece_size)
        self.key = key

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "UdpToGuest":
        """The record at burst[at:]."""
        _, stride, piece_size, slot, off, length, key = _TO_GUEST.unpack_from(burst, at)
        return UdpToGuest(slot, off, length, stride, piece_size, key)

    @staticmethod
    def pack(key: FlowKey, run: Run) -> bytes:
        """A record with these fields. The run has no skip."""
        return _TO_GUEST.pack(UDP_TO_GUEST, run.stride, run.piece_size, run.slot, run.off, run.length, key)


class SteerUdp:
    """STEER_UDP: the egress worker with index ``egress`` has the socket of a flow."""

    def __init__(self, flow: int, key: FlowKey, egress: int) -> None:
        self.flow = flow
        self.key = key
        self.egress = egress

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "SteerUdp":
        """The record at burst[at:]."""
        _, flow, key, egress = _STEER.unpack_from(burst, at)
        return SteerUdp(flow, key, egress)

    @staticmethod
    def pack(flow: int, key: FlowKey, egress: int) -> bytes:
        """A record with these fields."""
        return _STEER.pack(STEER_UDP, flow, key, egress)


class UnsteerUdp:
    """UNSTEER_UDP: a flow is over. A new flow with this key, but another number, may exist already."""

    def __init__(self, flow: int, key: FlowKey) -> None:
        self.flow = flow
        self.key = key

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "UnsteerUdp":
        """The record at burst[at:]."""
        _, flow, key = _UNSTEER.unpack_from(burst, at)
        return UnsteerUdp(flow, key)

    @staticmethod
    def pack(flow: int, key: FlowKey) -> bytes:
        """A record with these fields."""
        return _UNSTEER.pack(UNSTEER_UDP, flow, key)


class UdpNotice:
    """UDP_USED or UDP_FRAGMENTED: what ingress saw of a flow. Only the kind says what."""

    def __init__(self, key: FlowKey) -> None:
        self.key = key

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "UdpNotice":
        """The record at burst[at:]."""
        _, key = _NOTICE.unpack_from(burst, at)
        return UdpNotice(key)

    @staticmethod
    def pack(kind: int, key: FlowKey) -> bytes:
        """A record of one of the two kinds."""
        return _NOTICE.pack(kind, key)
