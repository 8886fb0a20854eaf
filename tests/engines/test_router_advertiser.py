"""What the gateway advertises, and when."""

import pytest

from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.engines.router_advertiser import MAX_INTERVAL, MAX_SEARCH_LIST, MIN_INTERVAL, RouterAdvertiser
from pipeline.wire import ethernet, icmpv6, ipv6
from tests.wire.test_icmpv6 import options

MAC = bytes.fromhex("5a94efe40cdd")
GUEST_MAC = bytes.fromhex("5a94efe40cee")
ADDRESSES = Ipv6Addresses(0xFD00 << 112, MAC, gateway=0xFD00 << 112 | 1, host=0xFD00 << 112 | 0xFE)
INF = float("inf")


def advertiser(
    *domains: str, has_dns: bool = True, has_nat64: bool = False, random: float = 0.5
) -> RouterAdvertiser:
    return RouterAdvertiser(
        MAC,
        ADDRESSES,
        1400,
        search_domains=domains,
        has_dns=has_dns,
        has_nat64=has_nat64,
        random=lambda: random,
    )


def said(frame: bytes) -> dict[int, bytes]:
    """The options of the advertisement in a frame, after a host's checks (RFC 4861 section 6.1.2)."""
    header = ipv6.parse(frame, 14, len(frame))
    assert (header.hop_limit, header.src, header.dst) == (255, ADDRESSES.link_local, ipv6.ALL_NODES)
    message = icmpv6.parse(frame, 54, len(frame), header.src, header.dst)
    assert (message.type, message.code) == (icmpv6.ROUTER_ADVERTISEMENT, 0)
    assert message.rest & 0xFFFF == 0, "no default router"
    return options(frame[54:])


def test_it_says_prefix_mtu_name_server_and_search_list() -> None:
    found = said(advertiser("a.example").frame())
    assert found[3][-16:] == ADDRESSES.prefix.to_bytes(16, "big")
    assert found[5][-4:] == (1400).to_bytes(4, "big")
    assert found[25][-16:] == ADDRESSES.gateway.to_bytes(16, "big")
    assert found[31][6:].startswith(b"\x01a\x07example\0")


def test_without_the_name_server_it_names_none() -> None:
    assert set(said(advertiser("a.example", has_dns=False).frame())) == {1, 3, 5}


def test_with_nat64_it_says_its_prefix_for_as_long_as_the_names() -> None:
    # RFC 8781 section 4.1: three times the longest interval, which is 225 times 8 seconds.
    pref64 = (225 << 3).to_bytes(2, "big") + bytes.fromhex("0064ff9b0000000000000000")
    assert said(advertiser(has_nat64=True).frame())[38] == pref64
    assert said(advertiser(has_nat64=True, has_dns=False).frame())[38] == pref64
    assert 38 not in said(advertiser("a.example").frame())


def test_with_nat64_it_says_a_route_to_its_prefix_that_needs_no_default_route() -> None:
    # RFC 4191 section 2.3: length of the prefix, medium preference, 1800 seconds, 64:ff9b::
    route = bytes.fromhex("6000000007080064ff9b") + bytes(12)
    assert said(advertiser(has_nat64=True).frame())[24] == route
    assert 24 not in said(advertiser().frame())


def test_a_frame_for_one_guest_has_its_mac_and_the_same_packet() -> None:
    made = advertiser()
    alone, all_nodes = made.frame(GUEST_MAC), made.frame()
    assert alone[:6] == GUEST_MAC
    assert all_nodes[:6] == bytes.fromhex("333300000001")
    assert alone[ethernet.MAC_LEN :] == all_nodes[ethernet.MAC_LEN :]


def test_a_search_list_without_end_is_cut_so_that_the_packet_fits_the_least_mtu() -> None:
    frame = advertiser(*[f"{number:050}.example" for number in range(100)], has_nat64=True).frame()
    assert len(frame) - ethernet.HEADER_LEN <= ipv6.MIN_MTU
    assert MAX_SEARCH_LIST - 60 < len(said(frame)[31]) <= MAX_SEARCH_LIST + 6


@pytest.mark.parametrize(("random", "seconds"), [(0.0, MIN_INTERVAL), (1.0, MAX_INTERVAL)])
def test_the_next_one_is_due_at_a_random_time_while_there_is_a_guest(random: float, seconds: float) -> None:
    made = advertiser(random=random)
    assert made.deadline() == INF
    made.start(100.0)
    made.start(150.0)
    assert made.deadline() == 100.0 + seconds
    made.stop()
    assert made.deadline() == INF


def test_a_changed_search_list_is_seen() -> None:
    made = advertiser("a.example")
    assert not made.set_search_domains(("a.example",))
    assert made.set_search_domains(("b.example",))
    assert said(made.frame())[31][6:].startswith(b"\x01b")
