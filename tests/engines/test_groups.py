"""Which groups an address is in, however it is spelt."""

import pytest

from pipeline.config.choices import GROUPS
from pipeline.engines.groups import BITS, HOST, PUBLIC, Groups
from pipeline.wire import ip

HOST4 = ip.parse("192.168.127.254")


def words(text: str) -> set[str]:
    groups = Groups(
        {HOST4, ip.parse("fd00:1::fe")}, [ip.network("192.168.127.0/24"), ip.network("fd00:1::/64")]
    )
    mask = groups.of(ip.parse(text))
    return {word for word, bit in BITS.items() if mask & bit}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8.8.8.8", {"public"}),
        ("1.1.1.1", {"public"}),
        ("2606:4700::1111", {"public"}),
        ("64:ff9b::808:808", {"public"}),
        ("2002:808:808::1", {"public"}),
        ("10.1.2.3", {"private"}),
        ("172.31.255.255", {"private"}),
        ("192.168.1.1", {"private"}),
        ("100.64.0.1", {"private"}),
        ("fd12::1", {"private"}),
        ("::ffff:10.1.2.3", {"private"}),
        ("64:ff9b::a01:203", {"private"}),
        ("64:ff9b:1::1", {"private"}),
        ("2002:a01:203::1", {"private"}),
        ("127.0.0.1", {"loopback"}),
        ("127.9.9.9", {"loopback"}),
        ("0.0.0.0", {"loopback"}),
        ("0.0.0.9", {"loopback"}),
        ("::1", {"loopback"}),
        ("64:ff9b::7f00:1", {"loopback"}),
        ("169.254.1.1", {"link-local"}),
        ("fe80::1", {"link-local"}),
        ("169.254.169.254", {"link-local", "metadata"}),
        ("64:ff9b::a9fe:a9fe", {"link-local", "metadata"}),
        ("168.63.129.16", {"metadata"}),
        ("100.100.100.200", {"private", "metadata"}),
        ("fd00:ec2::254", {"private", "metadata"}),
        ("192.168.127.254", {"private", "host"}),
        ("fd00:1::fe", {"private", "host"}),
        ("192.168.127.9", {"private", "guests"}),
        ("fd00:1::9", {"private", "guests"}),
        ("203.0.113.1", set()),
        ("198.18.0.1", set()),
        ("224.0.0.1", set()),
        ("255.255.255.255", set()),
        ("240.0.0.1", set()),
        ("2001:db8::1", set()),
        ("2001::1", set()),
        ("ff02::1", set()),
        ("::a01:203", set()),
        ("4000::1", set()),
    ],
)
def test_groups_of(text: str, expected: set[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("8.8.8.8", False),
        ("203.0.113.1", False),
        ("168.63.129.16", True),
        ("10.0.0.1", True),
        ("::a01:203", True),
        ("224.0.0.1", True),
        ("240.0.0.1", True),
        ("0.0.0.0", True),
    ],
)
def test_what_no_name_of_the_internet_may_lead_to(text: str, inner: bool) -> None:
    assert Groups().is_inner(ip.parse(text)) == inner


def test_an_address_of_an_interface_of_the_host_is_not_public() -> None:
    own = {ip.parse("8.8.4.4")}
    groups = Groups(is_host=own.__contains__)
    assert groups.of(ip.parse("8.8.4.4")) == HOST
    assert groups.of(ip.parse("8.8.8.8")) == PUBLIC
    own.clear()
    assert groups.of(ip.parse("8.8.4.4")) == PUBLIC, "the interface has lost it"


def test_the_configuration_has_the_same_words() -> None:
    assert tuple(BITS) == GROUPS
