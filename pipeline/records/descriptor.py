"""The 64-byte descriptor: what one worker tells another about a piece of a slot.

To be replaced by pipeline.records, which lies over the same bytes with a layout of its own for each kind. New
code uses that.

One record layout serves every edge of the pipeline, so that a consumer walks a burst
with one precompiled ``Struct.iter_unpack`` into locals. Each kind below says which
fields it uses; all others are zero. Addresses are IPv4 as host integers, ``ports`` is
``guest_port << 16 | remote_port``, lengths and offsets are bytes, offsets count from
the start of the slot.

A *range* is a run of TCP payload that lies in a slot in equal pieces (after GRO each
piece still has its own headers before it). Byte ``i`` of the range lies at
``off + ((skip + i) // gso_size) * stride + (skip + i) % gso_size`` for 0 <= i < len.
A range in one piece has ``gso_size >= skip + len`` (any stride).

::

    0     1     2     4      6        8    12  16  20   24   28  32  36  40
    kind  flags link  stride gso_size slot off len skip flow seq ack wnd ts_val
    44     48         52          56    60
    ts_ecr guest_addr remote_addr ports aux
"""

from struct import Struct
from typing import Final

DESCRIPTOR: Final = Struct("<BBHHHIIIIIIIIIIIIII")
DESCRIPTOR_BYTES: Final = DESCRIPTOR.size

NO_SLOT: Final = 0xFFFFFFFF
"""Value of ``slot`` in a record that carries no reference to a slot."""

# --- ingress -> demux -------------------------------------------------------------
FRAME: Final = 1
"""One Ethernet frame from a guest. flags (FRAME_VNET), link, slot, off (of its Ethernet header), len."""
TCP_RANGE: Final = 2
"""Segments of one TCP/IPv4 flow, merged by GRO, checksums verified. Also demux -> tcp and ingress -> tcp.

link, flags (TCP flags, OR over the run), slot, flow = number n of wire segments, seq (of the
first byte), ack, wnd (raw, of the last segment), ts_val, ts_ecr, guest_addr (source), remote_addr
(destination), ports, skip = 0, aux = header length | RUN_HAS_TIMESTAMPS | RUN_OTHER_OPTIONS.
Where the payload lies:

- data in one segment: off = first payload byte, len, gso_size = len, stride = 0;
- data in n segments: piece i of gso_size bytes lies at off + i * stride, the last may be shorter;
- none (pure ACK, SYN, RST ...): off = end of the headers, len = gso_size = stride = 0. Of n collapsed
  pure ACKs only the last one's frame is described, and the others are not needed by anybody.

The header length (aux & RUN_HEADER_MASK, 54 to 94) is that of Ethernet, IPv4 (20) and TCP header; all
segments of a run have the same. So the first frame begins at off - header length, and frame i of
a data run at i * stride from there. TCP options, equal in all segments of the run, lie in
off - (header length - 54) .. off; a consumer must read them only if RUN_OTHER_OPTIONS is set.
"""
RUN_HEADER_MASK: Final = 0xFF
RUN_HAS_TIMESTAMPS: Final = 0x100
"""The options are exactly NOP, NOP, timestamps: ts_val and ts_ecr are valid, no need to look there."""
RUN_OTHER_OPTIONS: Final = 0x200
"""There are options of another form (SYN, SACK blocks ...): parse the slot. ts_val and ts_ecr are 0."""
RUN_VNET: Final = 0x400
"""Right before each frame of the run lies a virtio-net header of 12 bytes, as with FRAME_VNET. A frame may
then be a super-segment: its payload is one piece of the range, and n counts the segments it stands for."""
UDP_RANGE: Final = 5
"""Datagrams of one UDP/IPv4 flow that followed each other, merged by GRO, checksums verified; often one.

link, slot, flow = number n of datagrams, off (of the first payload), len (of all payloads), gso_size =
bytes of each, of which only the last may have fewer, guest_addr (source), remote_addr (destination),
ports, aux = header length (42) | RUN_VNET. Payload i lies at off + i * stride, its frame begins a
header length before it. n = 1: gso_size = len (may be 0), stride = 0. In n > 1 none is empty. With RUN_VNET
stride = gso_size says that all are one frame, a super-segment with one header for all.
"""
GUEST_ERROR: Final = 6
"""demux -> tcp: a guest's ICMP error about a segment that was sent to it. link, guest_addr, remote_addr,
ports, seq = number of the segment, ack = MTU of the hop that it was too big for (0 in other errors),
aux = ICMP type << 8 | code."""
LINK_UP: Final = 3
"""A guest link was attached. link."""
LINK_DOWN: Final = 4
"""A guest link is gone: forget its MACs and neighbours. link. Told to tcp by ingress and by demux, behind the
last record of that guest from each, and to the resolver by demux."""
HEARD: Final = 7
"""Packets of a guest went past demux (steering): guest_addr is at a MAC (as NEIGHBOR) of link."""
UDP_USED: Final = 8
"""ingress -> demux: datagrams of a guest's flow went past demux. guest_addr, remote_addr, ports."""
UDP_ANSWERED: Final = 9
"""egress -> demux: datagrams of the host went past demux. flow."""
TELL_EVERY_S: Final = 1.0
"""Seconds between two HEARD of the same guest, or two UDP_USED or UDP_ANSWERED of the same flow."""

# --- demux, tcp -> ingress ----------------------------------------------------------
FRAME_OUT: Final = 10
"""One whole Ethernet frame to a guest. link, slot, off, len. The reference goes with it.

With flags FRAME_BORROWED it does not: a later record names the same slot. With link ALL_LINKS
every guest gets it, except the one on link aux (0 = no exception).
"""
FRAME_BORROWED: Final = 1
FRAME_VNET: Final = 2
"""Of FRAME and FRAME_OUT: right before off lies a virtio-net header of 12 bytes (pipeline.wire.virtio_net).

It is true of the frame, which may be a super-segment and its checksum partial (pipeline.engines.vnet).
"""
ALL_LINKS: Final = 0xFFFF
NEIGHBOR: Final = 11
"""guest_addr is reached through link with the MAC in seq (high 32 bits) and ack (low 16 bits)."""
NEIGHBOR_GONE: Final = 12
"""guest_addr has no neighbour any more."""
MISBEHAVED: Final = 14
"""demux, tcp -> ingress: frames of a guest were dropped. link, aux = how many since the last such record."""
TCP_OUT: Final = 13
"""A TCP range to a guest, headers not yet made; GSO cuts it at gso_size.

flags, gso_size (payload bytes a segment, >0 when len>0; MSS option value when SYN), slot/off/len
(slot NO_SLOT when len is 0), seq, ack, link = window field as on the wire, ts_val, ts_ecr,
guest_addr, remote_addr, ports, stride = option bits (OUT_*). SACK blocks, as many as the bits
say: (skip, flow), (wnd, aux), and when len is 0 also (slot, off).
Ownership of the slot stays with the tcp worker: the consumer has read the bytes for good
when it releases the ring entry (the ring's cons_idx is the completion).
"""
OUT_TIMESTAMPS: Final = 0x01
OUT_SACK_SHIFT: Final = 1
"""Bits 1-2 of stride: number of SACK blocks (0-3)."""
OUT_SACK_PERMITTED: Final = 0x08
OUT_WINDOW_SCALE: Final = 0x10
OUT_WINDOW_SCALE_SHIFT: Final = 8
"""Bits 8-11 of stride: shift count of the window scale option."""
UDP_OUT: Final = 15
"""UDP datagrams to a guest, headers not yet made. The reference goes with it, as with FRAME_OUT.

link, guest's MAC in seq (high 32 bits) and ack (low 16 bits), slot, off, len, stride, gso_size as in
UDP_RANGE, flow = number of datagrams, guest_addr (destination), remote_addr (source), ports.
"""
UDP_TO_GUEST: Final = 16
"""egress -> ingress: the same, but link and MAC are those of guest_addr's NEIGHBOR."""
STEER_UDP: Final = 17
"""demux -> ingress: further datagrams of a guest's flow may go straight to egress worker aux.
flow, guest_addr, remote_addr, ports."""
UNSTEER_UDP: Final = 18
"""demux -> ingress: the flow is over. flow, guest_addr, remote_addr, ports."""
UDP_FRAGMENTED: Final = 19
"""ingress -> demux: the flow has fragments, so all of it goes to demux from now on. guest_addr, remote_addr,
ports."""

# --- demux <-> egress, demux <-> resolver ---------------------------------------------
UDP_DATA: Final = 20
"""UDP payloads of a flow, laid out as UDP_RANGE says (one has gso_size = len). Also ingress -> egress.

flow, slot, off, len, stride, gso_size, guest_addr, remote_addr, ports. From demux to egress aux = UDP_BEHIND
if ingress has sent datagrams of the flow, before these, straight to egress.

From egress at least 64 bytes before off in the slot belong to the record (headers).
"""
UDP_BEHIND: Final = 1
UDP_CLOSE: Final = 21
"""The flow is over (idle, evicted or refused). flow."""
DIAL: Final = 22
"""egress -> demux: connect to a guest. flow (allocated by egress, bit 31 set), guest_addr, ports (of which
only the guest's is set)."""
DIAL_ROUTED: Final = 41
"""demux -> tcp: the same. demux has found the guest's link and chosen remote_addr and the port there. flow,
link, guest_addr, remote_addr, ports, aux = egress index."""
DIAL_FAILED: Final = 23
"""demux -> egress or tcp -> egress: a DIAL came to nothing. flow, aux = DIAL_FINAL, or 0: the port of the
gateway is still in use towards this guest, and another DIAL takes the next one (only from tcp)."""
DIAL_FINAL: Final = 1
"""aux of DIAL_FAILED: nobody has the guest's address, or there is no port or no room for the connection."""
UNREACHABLE: Final = 24
"""egress -> demux: tell a guest by ICMP that its flow cannot be. guest_addr, remote_addr, ports,
seq = the guest's initial sequence number (TCP), aux = protocol << 8 | ICMP code."""

ICMP_ECHO: Final = 25
"""demux -> egress: an echo request, whole ICMP message. slot, off, len, guest_addr, remote_addr,
ports = identifier << 16 | sequence number, link, aux = hops left | ECHO_DONT_FRAGMENT."""
ECHO_DONT_FRAGMENT: Final = 0x100
ICMP_REPLY: Final = 26
"""egress -> demux: an echo reply, whole ICMP message with the host's identifier. Fields as of ICMP_ECHO."""
ICMP_ERROR: Final = 27
"""egress -> demux: an ICMP error about an echo request. guest_addr, remote_addr, ports as of ICMP_ECHO,
seq = who sent the error (0 = the gateway), ack = next-hop MTU, aux = type << 8 | code."""
NAMED: Final = 28
"""resolver -> demux -> egress: guest_addr was told that remote_addr has a name of the egress policy.
seq = seconds for which that is so, aux = number of the name's pattern (pipeline.engines.policy)."""
LEASED: Final = 29
"""resolver -> demux: a lease from the state file. guest_addr belongs to the MAC in seq, ack (as NEIGHBOR)."""
SERVICE_DATAGRAM: Final = 40
"""One UDP payload for or from the resolver. link, slot, off, len, guest_addr, remote_addr, ports.

From the resolver at least 64 bytes before off in the slot belong to the record (headers). There a
guest_addr of 255.255.255.255 is sent to the broadcast MAC of that link.
"""

# --- tcp <-> egress -----------------------------------------------------------------
CONNECT: Final = 30
"""Open a host connection. flow, guest_addr, remote_addr, ports, gso_size = MSS towards the guest, link,
seq = the guest's initial sequence number (for UNREACHABLE)."""
CONNECTED: Final = 31
"""egress -> tcp: the host connection of flow stands."""
GUEST_ANSWERED: Final = 42
"""tcp -> egress: a guest took the connection that was dialled. flow, gso_size = MSS towards it, link."""
CONNECT_FAILED: Final = 32
"""flow, aux = errno, len = MAKE_WAY_* when no socket is left (0 otherwise)."""
TO_HOST: Final = 33
"""A range of guest bytes for the host. flow, slot, off, stride, gso_size, skip, len. Reference moves."""
TAKEN: Final = 34
"""The host socket took len bytes of flow (since the last TAKEN)."""
TO_GUEST: Final = 35
"""Host bytes for the guest, in one piece. flow, slot, off, len. Reference moves."""
SHUTDOWN: Final = 36
"""End of stream behind all bytes sent so far: FIN from the guest, or EOF from the host. flow, aux."""
SHUTDOWN_BOTH: Final = 1
"""aux of the host's SHUTDOWN: it is gone in both directions, so nobody will read what the guest sends."""
ABORT: Final = 37
"""Reset: the other side was reset, was refused or is gone. flow. The receiver forgets the flow."""
CLOSED: Final = 38
"""tcp -> egress: both directions have ended and the engine keeps nothing of flow."""
WINDOW: Final = 39
"""tcp -> egress: the guest takes about len bytes beyond what it has acknowledged. flow.

Sent when it has changed much.
"""

SOCKETS_USED_UP: Final = 43
"""egress -> tcp: there is no socket for a datagram flow of a guest. link, len = MAKE_WAY_*."""
MAKE_WAY_OWN: Final = 1
"""len: the guest has most sockets. Only a half-open connection of its own may end for the new flow."""
MAKE_WAY_ANY: Final = 2
"""len: others have more, so one of theirs may end, if they have more half-open connections too."""

FLOW_FROM_EGRESS: Final = 0x80000000
"""Set in flow numbers that egress allocated (dialled and forwarded flows)."""


def record(
    kind: int,
    *,
    flow: int = 0,
    slot: int = NO_SLOT,
    off: int = 0,
    length: int = 0,
    link: int = 0,
    flags: int = 0,
    gso_size: int = 0,
    seq: int = 0,
    ack: int = 0,
    guest_addr: int = 0,
    remote_addr: int = 0,
    ports: int = 0,
    aux: int = 0,
) -> bytes:
    """A record by field names, for the kinds that are not sent by the thousand; those pack directly."""
    return DESCRIPTOR.pack(
        kind, flags, link, 0, gso_size, slot, off, length, 0, flow,
        seq, ack, 0, 0, 0, guest_addr, remote_addr, ports, aux,
    )  # fmt: skip


def piece_count(length: int, size: int) -> int:
    """How many pieces of size bytes length bytes are (the last may be shorter); one empty piece is one."""
    return (length + size - 1) // size if size else 1


def piece_bounds(off: int, length: int, stride: int, size: int) -> list[tuple[int, int]]:
    """(begin, end) in the slot of each piece of a TCP_RANGE, or datagram of a UDP_RANGE, without a skip."""
    if length <= size:
        return [(off, off + length)]
    count = piece_count(length, size)
    last = length - (count - 1) * size
    bounds = [(off + i * stride, off + i * stride + size) for i in range(count - 1)]
    begin = off + (count - 1) * stride
    return [*bounds, (begin, begin + last)]


def binding(kind: int, addr: int, mac: bytes, link: int = 0) -> bytes:
    """A record that says whose guest_addr is: NEIGHBOR or LEASED."""
    number = int.from_bytes(mac, "big")
    return record(kind, link=link, guest_addr=addr, seq=number >> 16, ack=number & 0xFFFF)


def mac_of(seq: int, ack: int) -> bytes:
    """The MAC address in a record of binding()."""
    return (seq << 16 | ack).to_bytes(6, "big")
