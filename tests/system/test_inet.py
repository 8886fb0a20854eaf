"""Names of networks, wildcards in every form, and how a peer's address is written."""

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.system import inet


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "::0", "0:0:0:0:0:0:0:0", "::ffff:0.0.0.0", "::FFFF:0:0", "::%lo"]
)
def test_every_form_of_a_wildcard_is_one(host: str) -> None:
    assert inet.is_wildcard(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "0", "0.0.0.1", "::ffff:0.0.0.1", "x::"])
def test_other_hosts_are_no_wildcards(host: str) -> None:
    assert not inet.is_wildcard(host)


@pytest.mark.parametrize(
    "sockaddr, text",
    [
        (("192.0.2.1", 80), "192.0.2.1:80"),
        (("::ffff:192.0.2.1", 80, 0, 0), "192.0.2.1:80"),
        (("2001:db8::1", 80, 0, 0), "[2001:db8::1]:80"),
        (("fe80::1", 80, 0, socket.if_nametoindex("lo")), "[fe80::1%lo]:80"),
        (("fe80::1", 80, 0, 4000000000), "[fe80::1%4000000000]:80"),
        (("::1", 80), "[::1]:80"),
    ],
)
def test_a_peer_is_written_as_go_does(sockaddr: Any, text: str) -> None:
    assert inet.endpoint(sockaddr) == text


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_the_plain_one(address: Any) -> None:
    assert inet.unmapped(f"::ffff:{address}") == str(address) == inet.unmapped(str(address))


@given(st.ip_addresses(v=6))
def test_other_ipv6_addresses_stay_as_they_are(address: Any) -> None:
    if address.ipv4_mapped is None:
        assert inet.unmapped(str(address)) == str(address)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("family", "host"),
    [
        ("6", "0.0.0.0"),
        ("6", "::ffff:0.0.0.0"),
        ("6", "::FFFF:0:0"),
        ("4", "::"),
        ("4", "::0"),
        ("4", "::%lo"),
    ],
)
def test_a_wildcard_of_the_other_family_is_refused_as_by_go(kind: str, family: str, host: str) -> None:
    with pytest.raises(inet.AddressError, match=f"^address {host}: no suitable address found$"):
        inet.places(kind + family, host, 80)
    assert inet.places(kind, host, 80)[0].dual


@pytest.mark.parametrize(
    ("network", "host", "bound"),
    [
        ("tcp4", "", "0.0.0.0"),
        ("tcp4", "0.0.0.0", "0.0.0.0"),
        ("udp4", "::ffff:0.0.0.0", "0.0.0.0"),
        ("tcp6", "", "::"),
        ("udp6", "::", "::"),
        ("udp6", "0:0:0:0:0:0:0:0", "::"),
    ],
)
def test_a_wildcard_of_one_family_is_that_familys(network: str, host: str, bound: str) -> None:
    assert [place.address[:2] for place in inet.places(network, host, 80)] == [(bound, 80)]


def test_a_name_with_wildcards_of_both_families_has_one_of_each() -> None:
    assert inet.places("tcp6", "every", 80, ["0.0.0.0", "::"])[0].address[0] == "::"
    with pytest.raises(inet.AddressError):
        inet.places("tcp6", "every", 80, ["0.0.0.0"])
