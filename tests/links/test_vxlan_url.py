"""The place of a VXLAN link as text: what is accepted, and what the errors name."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.links import vxlan_url
from pipeline.links.vxlan_url import End, VxlanPlace

NETWORK = "vni=7&remote=192.0.2.2"


def test_all_that_a_url_may_have() -> None:
    found = vxlan_url.parse("udp://192.0.2.1:8472?vni=16777215&remote=192.0.2.2,192.0.2.3:4790")
    remotes = End("192.0.2.2", 4789), End("192.0.2.3", 4790)
    assert found == VxlanPlace(End("192.0.2.1", 8472), 0xFFFFFF, remotes)
    assert not found.is_ipv6


def test_ports_may_be_left_out_and_wildcards_are_local_addresses() -> None:
    assert vxlan_url.parse(f"udp://0.0.0.0?{NETWORK}").local == End("0.0.0.0", 4789)


def test_ipv6_addresses_with_and_without_brackets() -> None:
    found = vxlan_url.parse("udp://[2001:db8::1]?vni=0&remote=2001:db8::2,[2001:db8::3],[2001:0db8::4]:99")
    assert found.is_ipv6
    assert found.local == End("2001:db8::1", 4789)
    assert found.remotes == (
        End("2001:db8::2", 4789),
        End("2001:db8::3", 4789),
        End("2001:db8::4", 99),
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"tcp://192.0.2.1?{NETWORK}", "unexpected scheme"),
        (f"udp://?{NETWORK}", "the local address '' is not a numeric address"),
        (f"udp://host.example?{NETWORK}", "is not a numeric address"),
        (f"udp://192.0.2.1/path?{NETWORK}", "'/path' has no meaning"),
        (f"udp://192.0.2.1:0?{NETWORK}", "the port must be a whole number from 1 to 65535"),
        (f"udp://192.0.2.1:?{NETWORK}", "the port must be a whole number from 1 to 65535"),
        (f"udp://192.0.2.1:65536?{NETWORK}", "the port must be a whole number from 1 to 65535"),
        ("udp://192.0.2.1", "vni is missing"),
        ("udp://192.0.2.1?remote=192.0.2.2", "vni is missing"),
        ("udp://192.0.2.1?vni=&remote=192.0.2.2", "vni is missing"),
        ("udp://192.0.2.1?vni=16777216&remote=192.0.2.2", "vni '16777216' must be a whole number from 0 to"),
        ("udp://192.0.2.1?vni=-1&remote=192.0.2.2", "vni '-1' must be a whole number"),
        ("udp://192.0.2.1?vni=0x7&remote=192.0.2.2", "vni '0x7' must be a whole number"),
        (f"udp://192.0.2.1?{NETWORK}&vni=8", "a setting stands twice"),
        (f"udp://192.0.2.1?{NETWORK}&ttl=8", "unknown setting 'ttl'"),
        (f"udp://192.0.2.1?{NETWORK}&x", "is not a list of settings"),
        (f"udp://192.0.2.1?{NETWORK},192.0.2.2:1", "remote 192.0.2.2 stands twice"),
        (f"udp://192.0.2.1?{NETWORK},", "remote '' is not a numeric address"),
        (f"udp://192.0.2.1?{NETWORK},192.0.2.1", "remote 192.0.2.1 is the local address"),
        (f"udp://192.0.2.1?{NETWORK},2001:db8::1", "of different families"),
        (f"udp://192.0.2.1?{NETWORK},224.0.0.1", "is not the address of one host"),
        (f"udp://192.0.2.1?{NETWORK},0.0.0.0", "is not the address of one host"),
    ],
)
def test_errors_name_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        vxlan_url.parse(url)


def test_there_may_be_256_hosts_and_not_one_more() -> None:
    hosts = [f"10.0.{number >> 8}.{number & 255}" for number in range(1, 258)]
    assert len(vxlan_url.parse(f"udp://0.0.0.0?vni=1&remote={','.join(hosts[:256])}").remotes) == 256
    with pytest.raises(ValueError, match="names 257 hosts, and at most 256"):
        vxlan_url.parse(f"udp://0.0.0.0?vni=1&remote={','.join(hosts)}")


@given(st.text(alphabet="udp://[]:?&=,.0123456789abcdefvniremote%", max_size=60))
def test_any_text_is_a_place_or_an_error(text: str) -> None:
    try:
        place = vxlan_url.parse(f"udp://{text}")
    except ValueError:
        return
    assert 0 <= place.vni <= vxlan_url.MAX_VNI


def test_a_fleet_names_the_hosts_that_the_url_does_not() -> None:
    assert vxlan_url.parse("udp://192.0.2.1?vni=7") == VxlanPlace(End("192.0.2.1", 4789), 7, ())


@pytest.mark.parametrize(("local", "overhead"), [("192.0.2.1", 50), ("[2001:db8::1]", 70)])
def test_packets_grow_by_the_headers_of_the_tunnel(local: str, overhead: int) -> None:
    remote = "2001:db8::2" if "[" in local else "192.0.2.2"
    place = vxlan_url.parse(f"udp://{local}?vni=1&remote={remote}")
    assert vxlan_url.inner_mtu(place, 1500) == 1500 - overhead
    assert vxlan_url.inner_mtu(place, 65536) == 65536 - overhead
    assert vxlan_url.inner_mtu(place, 70) == 68
