"""Writes other addresses and MACs into one frame, and corrects its checksums (RFC 1624).

A checksum is changed by the difference of what changed, so nothing else is read or summed. A right checksum
stays right, and a wrong one stays wrong. A *partial* one is the sum of the pseudo-header, not complemented.
The difference is the same, with the other sign.

=================== ================================ ================================
frame               from the guest                   to the guest
=================== ================================ ================================
Ethernet            source                           destination
ARP                 sender, target if it is known    target
IPv4, IPv6          source                           destination
DHCP                hardware address                 hardware address
ICMP error          destination of the quoted packet source of the quoted packet
neighbour discovery target, link-layer address       target, link-layer address
=================== ================================ ================================

Of fragments, only the first has the header with a checksum. A solicited-node group follows its target.
Headers that cannot be read stay as they are, since demux refuses them.
"""

from typing import Final

from pipeline.engines.apart.translation import Translation
from pipeline.wire import arp, checksum, dhcp, ethernet, icmp, icmpv6, ip, ipv4, ipv6
from pipeline.wire.errors import WireError

Bytes = memoryview | bytearray
NO_FIELD: Final = -1
BAD_PARTIAL: Final = "link_frame_dropped_bad_vnet_header"

_MODULUS: Final = 0xFFFF
_SRC_MAC: Final = 6
_TYPE_AT: Final = 12
_SUM4: Final = 10
_SRC4: Final = 12
_DST4: Final = 16
_SRC6: Final = 8
_DST6: Final = 24
_FRAG_OFF: Final = 0x1FFF
_UDP_LEN: Final = 8
_ICMP_LEN: Final = 8
_PROTO_UDP: Final = ipv4.PROTO_UDP
_PROTO_ICMP: Final = ipv4.PROTO_ICMP
_PROTO_ICMPV6: Final = ipv6.PROTO_ICMPV6
_SUM_AT: Final = {ipv4.PROTO_TCP: 16, ipv4.PROTO_UDP: 6, ipv6.PROTO_ICMPV6: 2}
"""Where the checksum is in a header of these protocols. Beyond every frame for others."""
_CHADDR: Final = 28
_OPTION_UNIT: Final = 8
_LINK_ADDRESSES: Final = (1, 2)
"""The options of neighbour discovery with a MAC address: that of the source, and that of the target."""
_ARP_HEAD: Final = b"\x00\x01\x08\x00\x06\x04"


def rewrite(
    view: Bytes, off: int, end: int, to: Translation, partial: int = NO_FIELD, *, ipv6_on: bool = True
) -> None:
    """Rewrite the frame view[off:end]. partial: where its partial checksum is, if it has one.

    Raises WireError if the frame must be dropped. It may have changed then.
    """
    if end - off < ethernet.HEADER_LEN:
        return
    if to.inward:
        _put_mac(view, off + _SRC_MAC, to.source_mac(bytes(view[off + _SRC_MAC : off + _TYPE_AT])))
    else:
        _put_mac(view, off, to.known_mac(bytes(view[off : off + ethernet.MAC_LEN])))
    kind = view[off + _TYPE_AT] << 8 | view[off + _TYPE_AT + 1]
    begin = off + ethernet.HEADER_LEN
    if kind == ethernet.TYPE_IPV4:
        if end - begin >= ipv4.HEADER_LEN:
            _rewrite_ipv4(view, begin, end, to, partial)
    elif kind == ethernet.TYPE_ARP:
        if end - begin >= arp.LEN and bytes(view[begin : begin + 6]) == _ARP_HEAD:
            _rewrite_arp(view, begin, to)
    elif kind == ethernet.TYPE_IPV6 and ipv6_on and end - begin >= ipv6.HEADER_LEN:
        _rewrite_ipv6(view, begin, end, to, partial)


# --- ARP ----------------------------------------------------------------------------------


def _rewrite_arp(view: Bytes, at: int, to: Translation) -> None:
    sha, spa, tha, tpa = at + 8, at + 14, at + 18, at + 24
    if to.inward:
        _put_mac(view, sha, to.source_mac(bytes(view[sha:spa])))
        _put_addr4(view, spa, to.source(_addr4(view, spa)))
    _put_mac(view, tha, to.known_mac(bytes(view[tha:tpa])))
    _put_addr4(view, tpa, to.known(_addr4(view, tpa)))


# --- IPv4 ---------------------------------------------------------------------------------


def _rewrite_ipv4(view: Bytes, at: int, end: int, to: Translation, partial: int) -> None:
    if view[at] >> 4 != 4:
        return
    field = at + (_SRC4 if to.inward else _DST4)
    old = _addr4(view, field)
    new = to.source(old) if to.inward else to.known(old)
    delta = (new - old) % _MODULUS
    if new != old:
        _put_addr4(view, field, new)
        _correct(view, at + _SUM4, delta)
    begin = at + (view[at] & 15) * 4
    stop = min(at + _word(view, at + 2), end)
    if begin - at < ipv4.HEADER_LEN or _word(view, at + 6) & _FRAG_OFF:
        return
    proto = view[at + 9]
    if proto == _PROTO_ICMP:
        if stop - begin >= _ICMP_LEN and view[begin] in icmp.ERRORS:
            _rewrite_quote4(view, begin + _ICMP_LEN, stop, to)
    elif proto == _PROTO_UDP and stop - begin >= _UDP_LEN:
        _correct_upper(view, begin, stop, proto, delta, _rewrite_dhcp(view, begin, stop, to), partial)
    else:
        _correct_upper(view, begin, stop, proto, delta, 0, partial)


def _rewrite_quote4(view: Bytes, at: int, stop: int, to: Translation) -> None:
    """The packet that an error quotes. Its header's sum takes the difference up, so the error's stays."""
    if stop - at < ipv4.HEADER_LEN or view[at] >> 4 != 4:
        return
    field = at + (_DST4 if to.inward else _SRC4)
    old = _addr4(view, field)
    new = to.known(old)
    if new != old:
        _put_addr4(view, field, new)
        _correct(view, at + _SUM4, (new - old) % _MODULUS)


def _rewrite_dhcp(view: Bytes, at: int, stop: int, to: Translation) -> int:
    """The hardware address of a DHCP message in the datagram at ``at``. Returns the difference."""
    port = _word(view, at + 2) if to.inward else _word(view, at)
    if port != dhcp.SERVER_PORT:
        return 0
    return rewrite_dhcp(view, at + _UDP_LEN, stop, to)


def rewrite_dhcp(view: Bytes, at: int, stop: int, to: Translation) -> int:
    """Rewrite the hardware address of the DHCP message view[at:stop]. Returns by how much its sum changes.

    A client that is no Ethernet card keeps its address. Raises WireError.
    """
    field = at + _CHADDR
    if field + ethernet.MAC_LEN > stop or view[at + 1] != dhcp.HTYPE_ETHERNET:
        return 0
    if view[at + 2] != ethernet.MAC_LEN:
        return 0
    mac = bytes(view[field : field + ethernet.MAC_LEN])
    return _put_mac(view, field, to.source_mac(mac) if to.inward else to.known_mac(mac))


# --- IPv6 ---------------------------------------------------------------------------------


def _rewrite_ipv6(view: Bytes, at: int, end: int, to: Translation, partial: int) -> None:
    if view[at] >> 4 != 6:
        return
    field = at + (_SRC6 if to.inward else _DST6)
    old = _addr6(view, field)
    if ip.is_ipv4(old):
        return
    new = to.source(old) if to.inward else to.known(old)
    delta = _put_addr6(view, field, old, new)
    begin = at + ipv6.HEADER_LEN
    stop = min(begin + _word(view, at + ipv6.PAYLOAD_LEN_AT), end)
    packet = view if isinstance(view, memoryview) else memoryview(view)
    try:
        upper = ipv6.walk(packet, begin, stop, view[at + ipv6.NEXT_HEADER_AT])
    except WireError:
        return
    if upper.frag_off:
        return
    inside = 0
    if upper.proto == _PROTO_ICMPV6 and stop - upper.off >= _ICMP_LEN:
        kind = view[upper.off]
        if kind in icmpv6.FROM_HOSTS:
            inside = _rewrite_discovery(view, at, upper.off, stop, to)
        elif icmpv6.is_error(kind):
            inside = _rewrite_quote6(view, upper.off + _ICMP_LEN, stop, to)
    _correct_upper(view, upper.off, stop, upper.proto, delta, inside, partial)


def _rewrite_quote6(view: Bytes, at: int, stop: int, to: Translation) -> int:
    """The packet that an error quotes. Returns the difference."""
    if stop - at < ipv6.HEADER_LEN or view[at] >> 4 != 6:
        return 0
    field = at + (_DST6 if to.inward else _SRC6)
    old = _addr6(view, field)
    return _put_addr6(view, field, old, to.known(old))


def _rewrite_discovery(view: Bytes, at: int, begin: int, stop: int, to: Translation) -> int:
    """A message of neighbour discovery, in the packet at ``at``. Returns the difference."""
    kind = view[begin]
    options = begin + _ICMP_LEN
    delta = 0
    if kind in (icmpv6.NEIGHBOR_SOLICITATION, icmpv6.NEIGHBOR_ADVERTISEMENT):
        if stop - options < 16:
            return 0
        delta += _rewrite_target(view, at, options, to, kind == icmpv6.NEIGHBOR_ADVERTISEMENT)
        options += 16
    for _ in range(icmpv6.MAX_OPTIONS):
        if options + _OPTION_UNIT > stop:
            break
        length = view[options + 1] * _OPTION_UNIT
        if not length or options + length > stop:
            break
        if view[options] in _LINK_ADDRESSES and length == _OPTION_UNIT:
            field = options + 2
            mac = bytes(view[field : field + ethernet.MAC_LEN])
            delta += _put_mac(view, field, to.source_mac(mac) if to.inward else to.known_mac(mac))
        options += length
    return delta


def _rewrite_target(view: Bytes, at: int, field: int, to: Translation, is_advertisement: bool) -> int:
    """The target of a message in the packet at ``at``, and the group that follows it."""
    old = _addr6(view, field)
    if ip.is_ipv4(old):
        return 0
    # An advertisement claims its target. So does a guest that asks whether it may use the address.
    claims = is_advertisement or not _addr6(view, at + _SRC6)
    new = to.source(old) if to.inward and claims else to.known(old)
    delta = _put_addr6(view, field, old, new)
    group = _addr6(view, at + _DST6)
    if new != old and group == ipv6.solicited_node(old):
        to_group = ipv6.solicited_node(new)
        delta += _put_addr6(view, at + _DST6, group, to_group)
        frame = at - ethernet.HEADER_LEN
        if bytes(view[frame : frame + ethernet.MAC_LEN]) == ipv6.group_mac(group):
            _put_mac(view, frame, ipv6.group_mac(to_group))
    return delta


# --- checksums and fields -----------------------------------------------------------------


def _correct_upper(
    view: Bytes, begin: int, stop: int, proto: int, pseudo: int, inside: int, partial: int
) -> None:
    """Correct the checksum of TCP, UDP or ICMPv6 in view[begin:stop].

    pseudo, inside: by how much the sums of the pseudo-header and of what comes after it have changed.
    """
    field = begin + _SUM_AT.get(proto, _MODULUS)
    if partial != NO_FIELD:
        if pseudo and partial != field:
            # The header of virtio-net lies. The word there may be an address that the guest must not write.
            raise WireError(BAD_PARTIAL)
        if pseudo and partial + 2 <= stop:
            _put_word(view, partial, checksum.fold(_word(view, partial) + pseudo))
        return
    delta = (pseudo + inside) % _MODULUS
    if not delta:
        return
    if field + 2 > stop:
        return
    if proto == _PROTO_UDP:
        if not _word(view, field):
            # The sender made none.
            return
        _correct(view, field, delta)
        if not _word(view, field):
            _put_word(view, field, _MODULUS)
        return
    _correct(view, field, delta)


def _correct(view: Bytes, field: int, delta: int) -> None:
    """Correct a checksum for a difference (RFC 1624, equation 3)."""
    _put_word(view, field, checksum.finish(_MODULUS - _word(view, field) + delta + _MODULUS))


def _word(view: Bytes, at: int) -> int:
    return view[at] << 8 | view[at + 1]


def _put_word(view: Bytes, at: int, value: int) -> None:
    view[at] = value >> 8
    view[at + 1] = value & 0xFF


def _addr4(view: Bytes, at: int) -> int:
    return ip.from_ipv4(int.from_bytes(view[at : at + 4], "big"))


def _put_addr4(view: Bytes, at: int, addr: int) -> None:
    view[at : at + 4] = ip.ipv4_bytes(addr)


def _addr6(view: Bytes, at: int) -> int:
    return int.from_bytes(view[at : at + 16], "big")


def _put_addr6(view: Bytes, at: int, old: int, new: int) -> int:
    """Write an address in the place of the old one. Returns the difference of their sums."""
    if new == old:
        return 0
    view[at : at + 16] = new.to_bytes(16, "big")
    return (new - old) % _MODULUS


def _put_mac(view: Bytes, at: int, mac: bytes) -> int:
    """Write a MAC address. Returns the difference of the sums."""
    old = int.from_bytes(view[at : at + ethernet.MAC_LEN], "big")
    new = int.from_bytes(mac, "big")
    if new == old:
        return 0
    view[at : at + ethernet.MAC_LEN] = mac
    return (new - old) % _MODULUS
