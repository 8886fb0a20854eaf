"""Kinds of addresses of both families, their texts, and IPv4 addresses inside of IPv6 ones."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import ip
from tests.support.fuzz import addrs

addrs6 = st.integers(0, 2**128 - 1)


@given(addrs6)
def test_text_of_either_family_comes_back(addr: int) -> None:
    assert ip.parse(ip.text(addr)) == addr


@given(addrs6)
def test_the_text_for_the_system_means_the_same_address(addr: int) -> None:
    assert ip.parse(ip.full_text(addr)) == addr


@pytest.mark.parametrize(
    "addr, text", [("192.168.127.2", "192.168.127.2:53"), ("fd00::2", "[fd00::2]:53"), ("::1", "[::1]:53")]
)
def test_an_address_with_its_port_is_read_again(addr: str, text: str) -> None:
    assert ip.host_port(ip.parse(addr), 53) == text
    assert ip.host_of(text) == addr
    assert ip.host_of("") == ""


@pytest.mark.parametrize("text", ["", "1.2.3", "::1::", "12345::", "[::1]", "fe80::1 ", "host"])
def test_other_text_is_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ip.parse(text)


def test_a_zone_is_left_out() -> None:
    assert ip.parse("fe80::1%eth0") == ip.parse("fe80::1")


@pytest.mark.parametrize(
    "text, kinds",
    [
        ("2001:db8::1", ""),
        ("fd00::1", ""),
        ("ff00::", "multicast"),
        ("ff02::1", "multicast"),
        ("feff::1", ""),
        ("::1", "loopback reserved"),
        ("::2", "reserved"),
        ("::", "reserved"),
        ("::127.0.0.1", "reserved"),
        ("::ffff:0:127.0.0.1", "reserved"),
        ("64:ff9b:1::7f00:1", "reserved"),
        ("64:ff9b::7f00:1", ""),
        ("100::1", ""),
        ("fe80::1", "link-local"),
        ("febf::1", "link-local"),
        ("fec0::1", ""),
        ("fd00:ec2::254", "metadata"),
        ("fd00:ec2::255", ""),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:224.0.0.1", "multicast"),
        ("::ffff:169.254.1.2", "link-local metadata"),
        ("::ffff:0.0.0.0", "reserved"),
        ("::ffff:240.0.0.1", "reserved"),
        ("127.0.0.1", "loopback"),
        ("224.0.0.1", "multicast"),
        ("169.254.169.254", "link-local metadata"),
        ("0.1.2.3", "reserved"),
        ("255.255.255.255", "reserved"),
        ("8.8.8.8", ""),
    ],
)
def test_kinds_of_addresses(text: str, kinds: str) -> None:
    addr = ip.parse(text)
    assert ip.is_multicast(addr) == ("multicast" in kinds)
    assert ip.is_loopback(addr) == ("loopback" in kinds)
    assert ip.is_link_local(addr) == ("link-local" in kinds)
    assert ip.is_metadata(addr) == ("metadata" in kinds)
    assert ip.is_reserved(addr) == ("reserved" in kinds)


@given(addrs6 | addrs)
def test_kinds_agree_with_the_standard_library(addr: int) -> None:
    if ip.is_ipv4(addr):
        known: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv4Address(ip.to_ipv4(addr))
    else:
        known = ipaddress.IPv6Address(addr)
    assert ip.is_multicast(addr) == known.is_multicast
    assert ip.is_loopback(addr) == known.is_loopback
    assert ip.is_link_local(addr) == known.is_link_local


def test_an_ipv4_address_has_another_spelling_for_ipv6_guests() -> None:
    guest, guest6 = ip.parse("192.168.127.2"), ip.parse("fd00::2")
    host, spelt = ip.parse("192.0.2.33"), ip.parse("64:ff9b::192.0.2.33")
    assert spelt == int(ipaddress.IPv6Address("64:ff9b::c000:221"))
    assert ip.embedded(spelt) == ip.embedded(host) == host
    assert ip.embedded(ip.parse("64:ff9b:0:1::1")) == ip.parse("64:ff9b:0:1::1")
    assert ip.embedded(ip.NAT64) == ip.NOTHING
    assert ip.as_seen_from(host, guest6) == spelt
    assert ip.as_seen_from(host, guest) == host
    assert ip.as_seen_from(guest6, guest) == ip.as_seen_from(guest6, guest6) == guest6
