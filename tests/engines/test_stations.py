"""Which addresses are one station's, and what that means for rules about guests."""

import pytest

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.engines.policy import Policy, number_of
from pipeline.engines.stations import Stations
from pipeline.wire import ip

ONE, OTHER = b"\x5a\x94\xef\0\0\1", b"\x5a\x94\xef\0\0\2"
V4, V6, LATER, FOREIGN = map(ip.parse, ("192.168.127.2", "fd00::2", "fd00::3", "fd00::9"))
OUTSIDE = ip.parse("2001:db8::1")


def test_addresses_of_one_mac_on_one_link_are_one_stations() -> None:
    stations = Stations({})
    for addr in (V4, V6):
        stations.learn(addr, ONE, 1)
    stations.learn(FOREIGN, OTHER, 1)
    assert set(stations.addresses_of(V6)) == set(stations.addresses_of(V4)) == {V4, V6}
    assert set(stations.addresses_of(LATER)) == {LATER}, "nobody is known there"
    stations.learn(V6, ONE, 2)
    assert set(stations.addresses_of(V6)) == {V6}, "another link is another station"
    stations.forget(V6)
    stations.forget_link(1)
    assert len(stations) == 0
    assert set(stations.addresses_of(V4)) == {V4}


def test_a_static_lease_is_its_stations_before_it_is_used() -> None:
    stations = Stations({V4: ONE})
    stations.learn(V6, ONE, 1)
    assert set(stations.addresses_of(V6)) == {V4, V6}
    stations.forget(V6)
    assert set(stations.addresses_of(V6)) == {V6}


def test_a_rule_about_a_guest_holds_for_all_its_addresses() -> None:
    rules = (PolicyRule("deny", guests=("192.168.127.2",)),)
    stations = Stations({})
    policy = Policy(EgressPolicy("allow", rules), addresses_of=stations.addresses_of)
    assert policy.allows(V6, OUTSIDE, 80, "tcp", 0.0)
    stations.learn(V4, ONE, 1)
    stations.learn(V6, ONE, 1)
    assert policy.refusal(V6, OUTSIDE, 80, "tcp", 0.0) == "egress-policy.rules[0]"
    assert policy.allows(FOREIGN, OUTSIDE, 80, "tcp", 0.0)


def test_a_name_asked_for_over_one_family_counts_for_the_other() -> None:
    rules = (PolicyRule("allow", names=("example.test",)),)
    stations = Stations({})
    policy = Policy(EgressPolicy("deny", rules), addresses_of=stations.addresses_of)
    stations.learn(V4, ONE, 1)
    stations.learn(V6, ONE, 1)
    policy.learn(V4, OUTSIDE, number_of("example.test"), 60, 0.0)
    assert policy.allows(V6, OUTSIDE, 443, "tcp", 1.0)
    assert not policy.allows(FOREIGN, OUTSIDE, 443, "tcp", 1.0)


def test_a_rule_about_the_host_holds_for_both_its_addresses() -> None:
    host, host6 = ip.parse("192.168.127.254"), ip.parse("fd00::fe")
    policy = Policy(
        EgressPolicy("allow", (PolicyRule("deny", networks=("192.168.127.254",)),)), also_means={host6: host}
    )
    for addr in (host, host6, ip.NAT64 | ip.to_ipv4(host)):
        assert policy.refusal(V6, addr, 80, "tcp", 0.0) == "egress-policy.rules[0]"
    assert policy.allows(V6, ip.parse("fd00::fd"), 80, "tcp", 0.0)
    other = Policy(
        EgressPolicy("allow", (PolicyRule("deny", networks=("fd00::fe",)),)), also_means={host6: host}
    )
    assert not other.allows(V6, host6, 80, "tcp", 0.0)
    assert other.allows(V6, host, 80, "tcp", 0.0)


def test_rules_for_an_own_address_or_mac_hold_for_a_guest_with_inner_ones() -> None:
    inner, inner_mac = ip.parse("240.0.2.1"), bytes.fromhex("f26170000202")
    stations = Stations({})
    stations.learn(V4, ONE, 1)
    stations.rename(inner, V4, 2)
    stations.rename_mac(inner_mac, ONE, 2)
    stations.learn(inner, inner_mac, 2)
    assert set(stations.addresses_of(inner)) == {inner, V4}
    assert stations.station_of(inner) == (ONE, 2)
    assert set(stations.addresses_of(V4)) == {V4}, "the guest with the name has nothing of the other one"
    for word in ("192.168.127.2", "5a:94:ef:00:00:01"):
        rules = (PolicyRule("deny", guests=(word,)),)
        policy = Policy(
            EgressPolicy("allow", rules),
            addresses_of=stations.addresses_of,
            station_of=stations.station_of,
            held_with=stations.held_with,
        )
        assert [policy.allows(addr, OUTSIDE, 80, "tcp", 0.0) for addr in (inner, V4, V6)] == [
            *(False, False, True)
        ]
    stations.keep_links({1})
    assert set(stations.addresses_of(inner)) == {inner}
    stations.learn(inner, inner_mac, 2)
    assert stations.station_of(inner) == (inner_mac, 2), "another guest has the number of the link"


@pytest.mark.parametrize("word", ["link:1", "5a:94:ef:00:00:01"])
def test_a_rule_for_a_link_or_mac_is_not_about_another_guest_with_one_of_its_addresses(word: str) -> None:
    inner = ip.parse("240.0.2.1")
    stations = Stations({V4: ONE})
    stations.learn(V4, ONE, 1)
    stations.rename(inner, V4, 2)
    stations.learn(inner, OTHER, 2)
    policy = Policy(
        EgressPolicy("allow", (PolicyRule("deny", guests=(word,)),)),
        addresses_of=stations.addresses_of,
        station_of=stations.station_of,
        held_with=stations.held_with,
    )
    assert not policy.allows(V4, OUTSIDE, 80, "tcp", 0.0)
    assert policy.allows(inner, OUTSIDE, 80, "tcp", 0.0)
    policy.replace(EgressPolicy("allow", (PolicyRule("deny", guests=(word,), names=("example.com",)),)))
    assert not policy.question(V4, "example.com").allow
    assert policy.question(inner, "example.com").allow


def test_a_name_that_the_other_guest_with_the_address_asked_for_does_not_count() -> None:
    inner = ip.parse("240.0.2.1")
    stations = Stations({})
    stations.learn(V4, ONE, 1)
    stations.rename(inner, V4, 2)
    stations.learn(inner, OTHER, 2)
    rules = (PolicyRule("allow", names=("example.com",), stated="ignore"),)
    policy = Policy(
        EgressPolicy("deny", rules), addresses_of=stations.addresses_of, held_with=stations.held_with
    )
    policy.learn(V4, OUTSIDE, number_of("example.com"), 60.0, 0.0)
    assert policy.allows(V4, OUTSIDE, 80, "tcp", 1.0)
    assert not policy.allows(inner, OUTSIDE, 80, "tcp", 1.0)
    policy.learn(inner, OUTSIDE, number_of("example.com"), 60.0, 0.0)
    assert policy.allows(inner, OUTSIDE, 80, "tcp", 1.0)
