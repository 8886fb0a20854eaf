"""Offsets and values of header fields in the frames that the offload engines read and make.

Such a frame has Ethernet, IPv4 without options or IPv6 without extension headers, and TCP or UDP (RFC 791,
8200, 9293, 768)::

    0         12    14    16     18     20        22   23     24        26   30   34
    Ethernet  type  0x45  total  ident  fragment  TTL  proto  checksum  src  dst  TCP or UDP

    0         12    14                          18           20           21         22   38   54
    Ethernet  type  6, traffic class, flow      payload len  next header  hop limit  src  dst  TCP or UDP

In both, the addresses lie right before the TCP or UDP header. All numbers are literals, so that the compiler
knows them where they are used. pipeline.wire has the protocol numbers and EtherTypes.
"""

from struct import Struct
from typing import Final

# --- Offsets from the start of the frame, and lengths; bytes -------------------------------

ETHERNET_LEN: Final = 14
"""The IP header begins here."""
TYPE_OFF: Final = 12
TOTAL_OFF: Final = 16
IDENT_OFF: Final = 18
TTL_OFF: Final = 22
PROTO_OFF: Final = 23
IPV4_CHECK_OFF: Final = 24
ADDRESSES_OFF: Final = 26
"""The two addresses and, right after them, the two ports: 12 bytes that identify a flow."""
ENDS: Final = Struct("!IIHH")
"""These 12 bytes: source and destination address, source and destination port."""
L4_OFF: Final = 34
"""The TCP or UDP header begins here."""
IPV4_LEN: Final = 20
IPV6_LEN: Final = 40

TCP_HEADERS_LEN: Final = 54
"""Bytes of all three headers, without TCP options."""

UDP_HEADERS_LEN: Final = 42
"""Bytes of all three headers."""

IPV6_LENGTH_OFF: Final = 18
IPV6_NEXT_OFF: Final = 20
HOP_LIMIT_OFF: Final = 21
ADDRESSES6_OFF: Final = 22
ENDS6: Final = Struct("!QQQQHH")
"""The 36 bytes that identify a flow: both addresses, each as its high and its low half, and both ports."""
L4_OFF6: Final = 54
TCP_HEADERS_LEN6: Final = 74
UDP_HEADERS_LEN6: Final = 62

# --- Offsets from the start of the TCP or UDP header ---------------------------------------

TCP_SEQ: Final = 4
TCP_FLAGS: Final = 13
TCP_CHECK: Final = 16
UDP_LENGTH: Final = 4
UDP_CHECK: Final = 6
UDP_LEN: Final = 8
"""Bytes of the UDP header."""

# --- Values -------------------------------------------------------------------------------

PLAIN_IPV4: Final = b"\x08\x00\x45"
"""Bytes 12 to 14 of a frame with a plain IPv4 header: EtherType, version 4, a header of 20 bytes."""
PLAIN_IPV6: Final = 0x60
"""The high half of the first byte of an IPv6 header."""
VERSION6: Final = 0x60000000
"""The first four bytes of an IPv6 header that this program makes: version 6, no traffic class, no flow label
(RFC 6437 allows that)."""
VERSION: Final = 0x4500
"""The first word of an IPv4 header that this program makes: version 4, 20 bytes, type of service 0."""
DF: Final = 0x4000
FRAGMENT: Final = 0x3FFF
"""MF and the offset in the fragment field. A fragment has at least one of these bits set."""
FRAGMENT_PROTO: Final = 0xBFFF00FF
"""Of fragment field, TTL and protocol, as one word of 32 bits: all bits but DF and the TTL."""
MIN_TTL: Final = 2
"""The least TTL that the gateway can forward. It answers a packet with less by ICMP."""
MAX_STRIDE: Final = 0xFFFF
"""The longest stride that the record of a run can hold."""

# --- Counters of drops -------------------------------------------------------------------

DROP_RUNT: Final = "link_frame_dropped_runt"
DROP_IPV4_CHECKSUM: Final = "ipv4_packet_dropped_bad_checksum"
DROP_TCP_CHECKSUM: Final = "tcp_segment_dropped_bad_checksum"
DROP_UDP_CHECKSUM: Final = "udp_datagram_dropped_bad_checksum"
