"""Guests' pings of outside hosts, and ICMP errors in both directions."""

from struct import Struct
from typing import Final

from pipeline.records.addresses import Addr, addr_bytes, addr_of
from pipeline.records.flows import FlowKey
from pipeline.records.kinds import GUEST_ERROR, ICMP_ECHO, ICMP_ERROR, ICMP_REPLY, UNREACHABLE

# kind, link, slot, off, length, guest_addr, remote_addr, sequence, identifier, hops_left, dont_fragment
_ECHO: Final = Struct("<BxH4xIII28x16s16sHHB?10x")
# kind, slot, off, length, guest_addr, remote_addr, sequence, identifier
_REPLY: Final = Struct("<B7xIII28x16s16sHH12x")
# kind, offender, mtu, guest_addr, remote_addr, sequence, identifier, code, type
_ECHO_ERROR: Final = Struct("<B11x16sI16x16s16sHHBB10x")
_GUEST_ERROR: Final = Struct("<BxH24xII12x36sBB10x")  # kind, link, seq, mtu, key, code, type
_UNREACHABLE: Final = Struct("<B27xI16x36sBB10x")  # kind, syn_seq, key, code, protocol


class EchoRequest:
    """ICMP_ECHO: a guest pings an outside address. The slot has the whole ICMP message.

    link: the link of the guest. hops_left: the TTL with which the request leaves the host. dont_fragment: its
    DF bit.
    """

    def __init__(
        self,
        slot: int,
        off: int,
        length: int,
        guest_addr: Addr,
        remote_addr: Addr,
        identifier: int,
        sequence: int,
        hops_left: int,
        dont_fragment: bool,
        link: int,
    ) -> None:
        self.slot = slot
        self.off = off
        self.length = length
        self.guest_addr = guest_addr
        self.remote_addr = remote_addr
        self.identifier = identifier
        self.sequence = sequence
        self.hops_left = hops_left
        self.dont_fragment = dont_fragment
        self.link = link

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "EchoRequest":
        """The record at burst[at:]."""
        (
            _,
            link,
            slot,
            off,
            length,
            guest_addr,
            remote_addr,
            sequence,
            identifier,
            hops_left,
            dont_fragment,
        ) = _ECHO.unpack_from(burst, at)
        return EchoRequest(
            slot,
            off,
            length,
            addr_of(guest_addr),
            addr_of(remote_addr),
            identifier,
            sequence,
            hops_left,
            dont_fragment,
            link,
        )

    def pack(self) -> bytes:
        """The record of this request."""
        return _ECHO.pack(
            ICMP_ECHO,
            self.link,
            self.slot,
            self.off,
            self.length,
            addr_bytes(self.guest_addr),
            addr_bytes(self.remote_addr),
            self.sequence,
            self.identifier,
            self.hops_left,
            self.dont_fragment,
        )


class EchoReply:
    """ICMP_REPLY: the answer to a ping. The slot has the whole ICMP message.

    identifier: the one of the guest's request. The message in the slot has the identifier of the host socket.
    """

    def __init__(
        self,
        slot: int,
        off: int,
        length: int,
        guest_addr: Addr,
        remote_addr: Addr,
        identifier: int,
        sequence: int,
    ) -> None:
        self.slot = slot
        self.off = off
        self.length = length
        self.guest_addr = guest_addr
        self.remote_addr = remote_addr
        self.identifier = identifier
        self.sequence = sequence

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "EchoReply":
        """The record at burst[at:]."""
        _, slot, off, length, guest_addr, remote_addr, sequence, identifier = _REPLY.unpack_from(burst, at)
        return EchoReply(slot, off, length, addr_of(guest_addr), addr_of(remote_addr), identifier, sequence)

    def pack(self) -> bytes:
        """The record of this reply."""
        return _REPLY.pack(
            ICMP_REPLY,
            self.slot,
            self.off,
            self.length,
            addr_bytes(self.guest_addr),
            addr_bytes(self.remote_addr),
            self.sequence,
            self.identifier,
        )


class EchoError:
    """ICMP_ERROR: an ICMP error came back for a ping.

    type, code: of the error, as in ICMP of IPv4, also if the guest speaks ICMPv6. offender: the address of
    the router that sent it, in the guest's family; 0 for the gateway. mtu: of the next hop, or 0.
    """

    def __init__(
        self,
        guest_addr: Addr,
        remote_addr: Addr,
        identifier: int,
        sequence: int,
        type: int,
        code: int,
        offender: Addr,
        mtu: int,
    ) -> None:
        self.guest_addr = guest_addr
        self.remote_addr = remote_addr
        self.identifier = identifier
        self.sequence = sequence
        self.type = type
        self.code = code
        self.offender = offender
        self.mtu = mtu

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "EchoError":
        """The record at burst[at:]."""
        (_, offender, mtu, guest_addr, remote_addr, sequence, identifier, code, type_) = (
            _ECHO_ERROR.unpack_from(burst, at)
        )
        return EchoError(
            addr_of(guest_addr),
            addr_of(remote_addr),
            identifier,
            sequence,
            type_,
            code,
            addr_of(offender),
            mtu,
        )

    def pack(self) -> bytes:
        """The record of this error."""
        return _ECHO_ERROR.pack(
            ICMP_ERROR,
            addr_bytes(self.offender),
            self.mtu,
            addr_bytes(self.guest_addr),
            addr_bytes(self.remote_addr),
            self.sequence,
            self.identifier,
            self.code,
            self.type,
        )


class GuestError:
    """GUEST_ERROR: the guest on ``link`` sent an ICMP error about a segment of the flow ``key``.

    seq: the segment's sequence number. type, code: of the error. mtu: the largest packet that the next hop
    takes, or 0.
    """

    def __init__(self, link: int, key: FlowKey, seq: int, type: int, code: int, mtu: int) -> None:
        self.link = link
        self.key = key
        self.seq = seq
        self.type = type
        self.code = code
        self.mtu = mtu

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "GuestError":
        """The record at burst[at:]."""
        _, link, seq, mtu, key, code, type_ = _GUEST_ERROR.unpack_from(burst, at)
        return GuestError(link, key, seq, type_, code, mtu)

    @staticmethod
    def pack(link: int, key: FlowKey, seq: int, type: int, code: int, mtu: int) -> bytes:
        """A record with these fields."""
        return _GUEST_ERROR.pack(GUEST_ERROR, link, seq, mtu, key, code, type)


class Unreachable:
    """UNREACHABLE: send the guest "destination unreachable" with ``code`` about its flow ``key``.

    protocol: the IP number of TCP or UDP. syn_seq: the sequence number of the guest's SYN; 0 for UDP.
    """

    def __init__(self, key: FlowKey, protocol: int, code: int, syn_seq: int) -> None:
        self.key = key
        self.protocol = protocol
        self.code = code
        self.syn_seq = syn_seq

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Unreachable":
        """The record at burst[at:]."""
        _, syn_seq, key, code, protocol = _UNREACHABLE.unpack_from(burst, at)
        return Unreachable(key, protocol, code, syn_seq)

    @staticmethod
    def pack(key: FlowKey, protocol: int, code: int, syn_seq: int = 0) -> bytes:
        """A record with these fields."""
        return _UNREACHABLE.pack(UNREACHABLE, syn_seq, key, code, protocol)
