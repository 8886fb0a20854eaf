"""Where fields lie in the frames that the offload engines read and make, and what they must hold.

Such a frame has Ethernet, IPv4 without options, and TCP or UDP (RFC 791, 9293, 768)::

    0         12    14    16     18     20        22   23     24        26   30   34
    Ethernet  type  0x45  total  ident  fragment  TTL  proto  checksum  src  dst  TCP or UDP

All values are literals, so that the compiler knows them wherever they are used.
"""

from typing import Final

# --- Offsets from the start of the frame, and lengths; bytes -------------------------------

ETHERNET_LEN: Final = 14
"""The IPv4 header begins here."""
TYPE_OFF: Final = 12
TOTAL_OFF: Final = 16
IDENT_OFF: Final = 18
TTL_OFF: Final = 22
PROTO_OFF: Final = 23
IPV4_CHECK_OFF: Final = 24
ADDRESSES_OFF: Final = 26
"""The two addresses are followed by the ports: these 12 bytes name a flow."""
L4_OFF: Final = 34
"""The TCP or UDP header begins here."""
IPV4_LEN: Final = 20
IPV6_LEN: Final = 40

TCP_SEQ_OFF: Final = 38
TCP_FLAGS_OFF: Final = 47
TCP_CHECK_OFF: Final = 50
TCP_HEADERS_LEN: Final = 54
"""All three headers, without TCP options."""

UDP_LENGTH_OFF: Final = 38
UDP_CHECK_OFF: Final = 40
UDP_HEADERS_LEN: Final = 42
"""All three headers. (A UDP_RANGE counts on it: pipeline.records.udp.HEADERS_LEN.)"""

# --- Offsets from the start of the TCP or UDP header ---------------------------------------

TCP_CHECK: Final = 16
UDP_CHECK: Final = 6
UDP_LEN: Final = 8
"""Bytes of the UDP header."""

# --- Values -------------------------------------------------------------------------------

TCP: Final = 6
UDP: Final = 17
TYPE_IPV4: Final = 0x0800
TYPE_IPV6: Final = 0x86DD
PLAIN_IPV4: Final = b"\x08\x00\x45"
"""Bytes 12 to 14 of a frame: EtherType IPv4, version 4, a header of 20 bytes."""
VERSION: Final = 0x4500
"""The first word of an IPv4 header that this program makes: type of service 0."""
DF: Final = 0x4000
FRAGMENT: Final = 0x3FFF
"""Bits of the fragment field of which one is set in a fragment: MF and the offset."""
MIN_TTL: Final = 2
"""The gateway cannot forward a packet with less. It answers the sender instead."""
MAX_PACKET: Final = 0xFFFF
MAX_STRIDE: Final = 0xFFFF
"""The longest distance between two pieces of a run that a record can hold."""

# --- Counters of drops -------------------------------------------------------------------

DROP_RUNT: Final = "link_frame_dropped_runt"
DROP_IPV4_CHECKSUM: Final = "ipv4_packet_dropped_bad_checksum"
DROP_TCP_CHECKSUM: Final = "tcp_segment_dropped_bad_checksum"
DROP_UDP_CHECKSUM: Final = "udp_datagram_dropped_bad_checksum"
