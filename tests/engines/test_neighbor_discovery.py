"""The gateway's messages of neighbour discovery."""

import pytest

from pipeline.engines.neighbor_discovery import DiscoveryMessages, claim
from pipeline.engines.neighbors.addresses import GuestAddresses, Ipv6Addresses
from pipeline.wire import ethernet, icmpv6, ip, ipv6

MAC = bytes.fromhex("5a94efe40cdd")
GUEST_MAC = bytes.fromhex("5a94efe40cee")
ADDRESSES = Ipv6Addresses(0xFD00 << 112, MAC, gateway=0xFD00 << 112 | 1, host=0xFD00 << 112 | 0xFE)
GUEST = ipv6.link_local(GUEST_MAC)
PREFIX, GATEWAY, LINK_LOCAL = ADDRESSES.prefix, ADDRESSES.gateway, ADDRESSES.link_local
MESSAGES = DiscoveryMessages(MAC, ADDRESSES)


def question(target: int, src: int = GUEST, mac: bytes = GUEST_MAC) -> tuple[ipv6.Header, icmpv6.Discovery]:
    header = ipv6.Header(0, 0, 0, 58, 255, src, ipv6.solicited_node(target))
    return header, icmpv6.Discovery(icmpv6.NEIGHBOR_SOLICITATION, target, mac, 0)


def read(frame: bytes) -> tuple[bytes, bytes, ipv6.Header, icmpv6.Discovery]:
    """(to, from, IPv6 header, message) of a frame that a node must not ignore."""
    dst, src, kind = ethernet.parse_header(frame, 0, len(frame))
    assert kind == ethernet.TYPE_IPV6
    header = ipv6.parse(frame, 14, len(frame))
    assert 54 + header.payload_len == len(frame)
    icmpv6.parse(frame, 54, len(frame), header.src, header.dst)
    return dst, src, header, icmpv6.parse_discovery(frame, 54, len(frame), header)


@pytest.mark.parametrize("target", [PREFIX, GATEWAY, LINK_LOCAL])
def test_the_gateways_addresses_are_at_its_mac(target: int) -> None:
    frame = MESSAGES.answer(*question(target), GUEST_MAC)
    assert frame is not None
    dst, src, header, message = read(frame)
    assert (dst, src, header.src, header.dst) == (GUEST_MAC, MAC, target, GUEST)
    assert (message.target, message.mac) == (target, MAC)
    assert message.flags & icmpv6.FLAG_SOLICITED
    assert message.flags & icmpv6.FLAG_ROUTER
    # An anycast address may be at several routers.
    assert bool(message.flags & icmpv6.FLAG_OVERRIDE) == (target != PREFIX)


def test_a_question_without_a_mac_is_answered_to_the_frames_sender() -> None:
    frame = MESSAGES.answer(*question(GATEWAY, mac=b""), GUEST_MAC)
    assert frame is not None
    assert read(frame)[0] == GUEST_MAC


def test_a_guest_that_wants_the_gateways_address_learns_that_it_is_taken() -> None:
    frame = MESSAGES.answer(*question(GATEWAY, src=0, mac=b""), GUEST_MAC)
    assert frame is not None
    dst, _, header, message = read(frame)
    assert (dst, header.dst) == (bytes.fromhex("333300000001"), ipv6.ALL_NODES)
    assert not message.flags & icmpv6.FLAG_SOLICITED


def test_other_addresses_and_other_messages_get_no_answer() -> None:
    assert MESSAGES.answer(*question(GATEWAY + 1), GUEST_MAC) is None
    header, message = question(GATEWAY)
    advertisement = message._replace(kind=icmpv6.NEIGHBOR_ADVERTISEMENT)
    assert MESSAGES.answer(header, advertisement, GUEST_MAC) is None


def test_a_guest_is_asked_for_in_its_group_and_confirmed_by_unicast() -> None:
    target = PREFIX | 0xABCDEF
    dst, src, header, message = read(MESSAGES.request(target))
    assert (dst, src) == (bytes.fromhex("3333ffabcdef"), MAC)
    assert (header.src, header.dst) == (LINK_LOCAL, ipv6.solicited_node(target))
    assert (message.kind, message.target, message.mac) == (icmpv6.NEIGHBOR_SOLICITATION, target, MAC)
    dst, _, header, _ = read(MESSAGES.request(target, GUEST_MAC))
    assert (dst, header.dst) == (GUEST_MAC, target)


def test_a_defence_and_an_announcement_name_the_station_that_has_the_address() -> None:
    for frame, sender in (
        (MESSAGES.defence(GUEST, GUEST_MAC), MAC),
        (MESSAGES.announcement(GUEST, GUEST_MAC), GUEST_MAC),
    ):
        dst, src, header, message = read(frame)
        assert (dst, src) == (ipv6.group_mac(ipv6.ALL_NODES), sender)
        assert (header.src, message.target, message.mac) == (GUEST, GUEST, GUEST_MAC)
        assert message.flags == icmpv6.FLAG_OVERRIDE


def test_a_solicitation_claims_its_source_and_an_advertisement_its_target() -> None:
    header, message = question(GATEWAY)
    other = b"\x02\0\0\0\0\x07"
    assert claim(header, message, other) == (GUEST, GUEST_MAC)
    assert claim(header, message._replace(mac=b""), other) == (GUEST, other)
    assert claim(header, message._replace(kind=icmpv6.NEIGHBOR_ADVERTISEMENT), other) == (GATEWAY, GUEST_MAC)
    assert claim(*question(GATEWAY, src=0, mac=b""), other) == (0, other)


# --- who may have which address ---------------------------------------------------------------


def test_guests_may_have_the_addresses_of_the_64_and_link_local_ones_but_the_gateways() -> None:
    found = GuestAddresses(ip.parse_ipv4("10.0.0.0"), 24, (ip.parse_ipv4("10.0.0.1"),), ADDRESSES)
    for addr in (GUEST, PREFIX | 2, PREFIX | (1 << 64) - 1, ip.parse_ipv4("10.0.0.2")):
        assert found.may_have(addr)
    for addr in (PREFIX, GATEWAY, LINK_LOCAL, ip.parse_ipv4("10.0.0.1")):
        assert not found.may_have(addr)
    for addr in (PREFIX + (1 << 64), 1, ipv6.ALL_NODES, 0xFE81 << 112 | 2, ip.parse_ipv4("10.0.1.1")):
        assert not found.inside(addr)


def test_without_ipv6_no_address_of_it_is_inside() -> None:
    found = GuestAddresses(ip.parse_ipv4("10.0.0.0"), 24)
    assert not any(map(found.inside, (GUEST, PREFIX | 2, 1)))
