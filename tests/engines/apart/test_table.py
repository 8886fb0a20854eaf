"""Which link has an address under its own name, and who gets an inner one."""

import pytest

from pipeline.engines.apart.inner import MAX_PLACES, InnerAddresses, is_inner_ipv4, is_inner_mac
from pipeline.engines.apart.table import INNER_SOURCE, MAX_MACS, SPARE_CLAIMS, TOO_MANY, Claims, LinkNames
from pipeline.engines.neighbors.addresses import GuestAddresses, Ipv6Addresses
from pipeline.wire import ethernet, ip
from pipeline.wire.errors import WireError
from tests.support.frames import GATEWAY_MAC

PREFIX = ip.parse("fd12:3456:789a::")
GATEWAY = ip.parse_ipv4("192.168.127.1")
HOST = ip.parse_ipv4("192.168.127.254")
SAME = ip.parse_ipv4("192.168.127.15")
SAME6 = PREFIX | 0x15
LOCAL6 = ip.parse("fe80::5894:efff:fee4:cee")
MAC = bytes.fromhex("5a94efe40cee")
V6 = Ipv6Addresses(PREFIX, GATEWAY_MAC, gateway=PREFIX | 1, host=PREFIX | 2)
INNER = InnerAddresses(PREFIX)


def made(links: int = 3) -> tuple[Claims, list[LinkNames]]:
    addresses = GuestAddresses(ip.parse_ipv4("192.168.127.0"), 24, (GATEWAY, HOST), V6)
    claims = Claims(addresses, INNER, GATEWAY_MAC, 1024)
    names = []
    for link in range(1, links + 1):
        claims.link_up(link, link)
        found = claims.names(link)
        assert found is not None
        names.append(found)
    return claims, names


def test_the_first_link_has_an_address_under_its_own_name_and_others_get_inner_ones() -> None:
    claims, (first, second, third) = made()
    for own in (SAME, SAME6, LOCAL6):
        assert claims.source(first, own) == own
        inner = claims.source(second, own), claims.source(third, own)
        assert len({own, *inner}) == 3
        assert [INNER.link_of(each) for each in (own, *inner)] == [0, 2, 3]
        # They stay the same.
        assert claims.source(first, own) == own
        assert claims.source(second, own) == inner[0]
        assert second.own_addrs[inner[0]] == own
    assert ip.text(claims.source(second, SAME)) == "240.0.2.1"
    assert ip.text(claims.source(second, SAME6)) == "fd12:3456:789a:0:f261:7000:2:2"
    assert ip.text(claims.source(second, LOCAL6)) == "fe80::f261:7000:2:3"


def test_the_same_holds_for_macs() -> None:
    claims, (first, second, _) = made()
    assert claims.source_mac(first, MAC) == MAC
    inner = claims.source_mac(second, MAC)
    assert ethernet.mac_text(inner) == "f2:61:70:00:02:01"
    assert is_inner_mac(inner)
    assert not ethernet.is_group(inner)
    assert claims.source_mac(second, MAC) == inner
    assert second.own_macs == {inner: MAC}


@pytest.mark.parametrize("own", ["10.0.2.15", "169.254.7.7", "8.8.8.8", "2001:db8::5", "192.168.127.255"])
def test_an_address_that_is_not_of_the_network_gets_an_inner_one(own: str) -> None:
    claims, (first, second, _) = made()
    inner = claims.source(first, ip.parse(own)), claims.source(second, ip.parse(own))
    assert [INNER.link_of(each) for each in inner] == [1, 2]
    assert all(ip.is_ipv4(each) == ip.is_ipv4(ip.parse(own)) for each in inner)


@pytest.mark.parametrize(
    "addr",
    [
        *(0, GATEWAY, HOST, ip.BROADCAST, PREFIX | 1, V6.link_local, ip.LOOPBACK6),
        *(ip.parse_ipv4("224.0.0.1"), ip.parse_ipv4("127.0.0.1"), ip.parse("ff02::1")),
    ],
)
def test_an_address_that_no_guest_may_have_is_left_to_demux(addr: int) -> None:
    claims, (first, second, _) = made()
    assert [claims.source(names, addr) for names in (first, second)] == [addr, addr]
    assert not len(claims)


@pytest.mark.parametrize("mac", [GATEWAY_MAC, ethernet.ZERO, ethernet.BROADCAST, b"\x01" + MAC[1:]])
def test_a_mac_that_no_guest_may_have_is_left_to_demux(mac: bytes) -> None:
    claims, (first, second, _) = made()
    assert [claims.source_mac(names, mac) for names in (first, second)] == [mac, mac]
    assert not len(claims)


def test_a_guest_cannot_send_from_an_inner_address() -> None:
    claims, (first, second, third) = made()
    claims.source(first, SAME)
    inner = claims.source(second, SAME)
    assert is_inner_ipv4(inner)
    for names in (first, second, third):
        for addr in (inner, ip.parse_ipv4("240.0.9.9"), PREFIX | 0xF2617000_00020001):
            with pytest.raises(WireError, match=INNER_SOURCE):
                claims.source(names, addr)
        with pytest.raises(WireError, match=INNER_SOURCE):
            claims.source_mac(names, bytes.fromhex("f26170000201"))


def test_an_address_is_free_again_when_its_link_is_down_and_inner_ones_stay() -> None:
    claims, (first, second, third) = made()
    claims.source(first, SAME)
    inner = claims.source(second, SAME)
    claims.link_down(1)
    assert claims.source(second, SAME) == inner
    assert claims.source(third, SAME) == SAME
    claims.link_down(2)
    claims.link_down(3)
    assert not len(claims)


def test_demux_decides_who_has_an_address() -> None:
    claims, (first, second, _) = made()
    claims.source(first, SAME)
    claims.has(SAME, 2)
    assert claims.source(second, SAME) == SAME
    assert INNER.link_of(claims.source(first, SAME)) == 1
    # What a guest has in its place stays, whatever demux says.
    claims.has(SAME, 1)
    assert INNER.link_of(claims.source(first, SAME)) == 1
    assert claims.source(second, SAME) == SAME
    claims.has_not(SAME)
    assert claims.source(second, SAME) == SAME
    claims.has(SAME, 99)
    assert claims.source(second, SAME) == SAME


def test_a_link_has_a_bound_on_inner_addresses_and_on_claims() -> None:
    claims, (first, second, _) = made()
    outside = ip.parse_ipv4("10.0.0.0")
    for number in range(MAX_PLACES):
        claims.source(first, outside + number)
    with pytest.raises(WireError, match=TOO_MANY):
        claims.source(first, outside + MAX_PLACES)
    # Those that it has, and other guests, go on.
    assert INNER.link_of(claims.source(first, outside)) == 1
    assert INNER.link_of(claims.source(second, outside + MAX_PLACES)) == 2
    claims.source_mac(second, MAC)
    with pytest.raises(WireError, match=TOO_MANY):
        claims.source_mac(first, MAC)
    claims.set_bound(10)
    for number in range(SPARE_CLAIMS + 10):
        assert claims.source(second, SAME6 + number) == SAME6 + number
    with pytest.raises(WireError, match=TOO_MANY):
        claims.source(second, LOCAL6)
    # Demux has forgotten one.
    claims.has_not(SAME6)
    assert claims.source(second, LOCAL6) == LOCAL6
    for number in range(3 * MAX_MACS):
        mac = (number + (2 << 40)).to_bytes(6, "big")
        assert claims.source_mac(second, mac) == mac
    assert claims.source_mac(second, MAC) == MAC
    assert len(claims) <= SPARE_CLAIMS + 10 + MAX_MACS + MAX_PLACES


def test_a_guest_gains_no_claims_by_more_links_and_gives_them_back() -> None:
    claims, (other,) = made(1)
    claims.set_bound(10)
    for turn in range(3):
        for link in (5, 6):
            claims.link_up(link, 3)
        names = [claims.names(link) for link in (5, 6)]
        refused = 0
        for number in range(SPARE_CLAIMS + 20):
            try:
                claims.source(names[number % 2], SAME6 + number)  # type: ignore[arg-type]
            except WireError:
                refused += 1
        assert refused == 10
        for number in range(MAX_MACS):
            mac = (number + (2 << 40)).to_bytes(6, "big")
            assert claims.source_mac(names[0], mac) == mac  # type: ignore[arg-type]
        with pytest.raises(WireError, match=TOO_MANY):
            claims.source_mac(names[1], bytes(5) + b"\2")  # type: ignore[arg-type]
        assert len(claims) == SPARE_CLAIMS + 10 + MAX_MACS + (2 if turn else 0)
        assert claims.source(other, LOCAL6) == LOCAL6
        assert claims.source_mac(other, MAC) == MAC
        for link in (5, 6):
            claims.link_down(link)
        assert len(claims) == 2


def test_a_successor_has_the_same_inner_addresses() -> None:
    claims, (first, second, _) = made()
    for names in (first, second):
        claims.source_mac(names, MAC)
        claims.source(names, SAME)
        claims.source(names, SAME6)
    assert second.places == [MAC, ip.packed(SAME), ip.packed(SAME6)]
    told = claims.take_renamed()
    assert [(each.link, each.own) for each in told] == [(2, own) for own in second.places]
    assert claims.take_renamed() == []
    later, _ = made(0)
    later.link_up(2, 2, second.places)
    restored = later.names(2)
    assert restored is not None
    assert restored.own_addrs == second.own_addrs
    assert restored.own_macs == second.own_macs
    assert sorted(later.all_renamed()) == sorted(told)
    # The first guest is silent. Nobody takes its name.
    assert later.source(restored, SAME) == claims.source(second, SAME)


def test_while_ipv6_is_off_there_are_no_inner_addresses_of_it_but_link_local_ones() -> None:
    inner = InnerAddresses(0)
    assert not inner.link_of(0xF2617000_00020001)
    assert not inner.link_of(ip.LOOPBACK6)
