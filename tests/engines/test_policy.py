"""The egress policy: which rule decides, and how long a name counts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.engines.policy import MIN_VALID, Names, Policy, has_stations, number_of
from pipeline.wire import ip

GUEST = ip.parse_ipv4("192.168.127.2")
OTHER = ip.parse_ipv4("192.168.127.3")
TEN = ip.parse_ipv4("10.1.2.3")
WEB = ip.parse_ipv4("203.0.113.9")


def policy(default: str, *rules: PolicyRule, **options: Any) -> Policy:
    return Policy(EgressPolicy(default, rules), **options)


def test_without_rules_everything_is_allowed_and_nothing_need_be_asked() -> None:
    made = policy("allow")
    assert not made.active
    assert made.allows(GUEST, WEB, 1, "tcp", 0.0)
    assert policy("deny").active
    assert not policy("deny").allows(GUEST, WEB, 1, "tcp", 0.0)


def test_a_pattern_has_the_same_number_when_the_rules_are_replaced() -> None:
    rules = [PolicyRule("allow", names=(name,)) for name in ("a.test", "*.b.test", "c.test")]
    one, two = EgressPolicy("deny", tuple(rules[:2])), EgressPolicy("deny", tuple(rules[:0:-1]))
    names, made = Names(one), Policy(one)
    assert names.match([b"x", b"b", b"test"]) == [number_of("*.b.test")]
    made.learn(GUEST, TEN, number_of("*.b.test"), 60.0, now=0.0)
    made.learn(GUEST, WEB, number_of("a.test"), 60.0, now=0.0)
    names.replace(two)
    made.replace(two)
    assert names.match([b"x", b"b", b"test"]) == [number_of("*.b.test")]
    assert names.match([b"c", b"test"]) == [number_of("c.test")]
    assert names.match([b"a", b"test"]) == []
    assert made.allows(GUEST, TEN, 1, "tcp", 1.0), "what is known of an address stays known"
    assert not made.allows(GUEST, WEB, 1, "tcp", 1.0), "no rule has this name any more"
    names.replace(EgressPolicy())
    assert not names
    assert names.match([b"c", b"test"]) == []


def test_an_open_flow_may_go_on_although_the_answer_with_its_name_has_expired() -> None:
    made = policy("deny", PolicyRule("allow", names=("a.test",)))
    made.learn(GUEST, WEB, number_of("a.test"), 10.0, now=0.0)
    assert not made.allows(GUEST, WEB, 1, "tcp", 11.0)
    assert made.still_allows(GUEST, WEB, 1, "tcp")
    assert not made.still_allows(OTHER, WEB, 1, "tcp")


@pytest.mark.parametrize(
    ("rule", "fits", "does_not"),
    [
        (PolicyRule("deny"), (GUEST, WEB, 1, "tcp"), None),
        (PolicyRule("deny", guests=("192.168.127.2/32",)), (GUEST, WEB, 1, "tcp"), (OTHER, WEB, 1, "tcp")),
        (PolicyRule("deny", networks=("10.0.0.0/8",)), (GUEST, TEN, 1, "udp"), (GUEST, WEB, 1, "udp")),
        (PolicyRule("deny", ports=((80, 90),)), (GUEST, WEB, 90, "tcp"), (GUEST, WEB, 91, "tcp")),
        (PolicyRule("deny", ports=((0, 65535),)), (GUEST, WEB, 0, "udp"), (GUEST, WEB, 0, "icmp")),
        (PolicyRule("deny", protocols=("icmp",)), (GUEST, WEB, 0, "icmp"), (GUEST, WEB, 1, "tcp")),
    ],
)
def test_every_condition_of_a_rule_must_hold(rule: PolicyRule, fits: Any, does_not: Any) -> None:
    made = policy("allow", rule)
    assert not made.allows(*fits, 0.0)
    assert does_not is None or made.allows(*does_not, 0.0)


def test_an_embedded_address_is_judged_as_the_ipv4_address_in_it() -> None:
    spelt = ip.as_seen_from(TEN, ip.parse("fd00::2"))
    rules = (PolicyRule("allow", networks=("::/0",)), PolicyRule("allow", names=("a.test",)))
    made = policy("deny", *rules)
    assert made.allows(GUEST, ip.parse("2001:db8::1"), 1, "tcp", 0.0)
    assert not made.allows(GUEST, spelt, 1, "tcp", 0.0)
    made.learn(GUEST, spelt, number_of("a.test"), 60.0, now=0.0)
    assert made.allows(GUEST, spelt, 1, "tcp", 1.0)
    assert made.allows(GUEST, TEN, 1, "tcp", 1.0)


def test_the_first_rule_that_fits_decides() -> None:
    made = policy("deny", PolicyRule("allow", networks=("10.1.0.0/16",)), PolicyRule("deny"))
    assert made.allows(GUEST, TEN, 80, "tcp", 0.0)
    made = policy(
        "allow", PolicyRule("deny", networks=("10.0.0.0/8",)), PolicyRule("allow", networks=("10.1.0.0/16",))
    )
    assert not made.allows(GUEST, TEN, 80, "tcp", 0.0)


def test_a_name_counts_for_its_guest_while_the_answer_is_valid() -> None:
    made = policy("deny", PolicyRule("allow", names=("example.com",), networks=("10.0.0.0/8",)))
    assert not made.allows(GUEST, WEB, 443, "tcp", 0.0)
    made.learn(GUEST, WEB, number_of("example.com"), 60.0, 100.0)
    assert made.allows(GUEST, WEB, 443, "tcp", 159.9)
    assert not made.allows(GUEST, WEB, 443, "tcp", 160.0)
    assert not made.allows(OTHER, WEB, 443, "tcp", 101.0)
    assert made.allows(OTHER, TEN, 443, "tcp", 101.0)
    # A shorter answer does not take back what a longer one promised.
    made.learn(GUEST, WEB, number_of("example.com"), 10.0, 101.0)
    assert made.allows(GUEST, WEB, 443, "tcp", 159.9)


def test_an_answer_with_ttl_0_can_be_used_at_once() -> None:
    made = policy("deny", PolicyRule("allow", names=("example.com",)))
    made.learn(GUEST, WEB, number_of("example.com"), 0.0, 100.0)
    assert made.allows(GUEST, WEB, 443, "tcp", 100.0 + MIN_VALID - 0.1)
    assert not made.allows(GUEST, WEB, 443, "tcp", 100.0 + MIN_VALID)


def test_an_address_may_have_names_of_several_rules() -> None:
    made = policy(
        "allow", PolicyRule("deny", names=("bad.example",)), PolicyRule("allow", names=("good.example",))
    )
    made.learn(GUEST, WEB, number_of("good.example"), 60.0, 0.0)
    assert made.allows(GUEST, WEB, 1, "tcp", 1.0)
    made.learn(GUEST, WEB, number_of("bad.example"), 60.0, 0.0)
    assert not made.allows(GUEST, WEB, 1, "tcp", 1.0)


def test_the_table_of_names_is_bounded_and_forgets_the_oldest() -> None:
    made = policy("deny", PolicyRule("allow", names=("example.com",)), max_named=2)
    for address in (1, 2, 3):
        made.learn(GUEST, address, number_of("example.com"), 60.0, 0.0)
    assert [made.allows(GUEST, address, 1, "tcp", 1.0) for address in (1, 2, 3)] == [False, True, True]


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("example.com", ["example.com"]),
        ("EXAMPLE.com", ["example.com"]),
        ("www.example.com", ["*.example.com"]),
        ("a.b.example.com", ["*.example.com", "*.b.example.com"]),
        ("b.example.com", ["*.example.com"]),
        ("notexample.com", []),
        ("com", []),
        ("", []),
    ],
)
def test_patterns_fit_whole_labels(name: str, patterns: list[str]) -> None:
    config = EgressPolicy("deny", (PolicyRule("allow", names=("example.com", "*.example.com")),))
    config = EgressPolicy(
        "deny", (*config.rules, PolicyRule("deny", names=("*.b.example.com", "example.com")))
    )
    labels = name.encode().split(b".") if name else []
    assert sorted(Names(config).match(labels)) == sorted(map(number_of, patterns))


@given(st.lists(st.binary(max_size=63), max_size=20))
def test_no_name_is_too_odd_to_be_matched(labels: list[bytes]) -> None:
    config = EgressPolicy("deny", (PolicyRule("allow", names=("*.example.com",)),))
    assert Names(config).match(labels) in ([], [number_of("*.example.com")])


def test_explain_names_the_rule_that_decides_and_what_kept_those_before_it() -> None:
    made = policy(
        "deny",
        PolicyRule("allow", protocols=("udp",)),
        PolicyRule("allow", ports=((80, 80),)),
        PolicyRule("deny", guests=("192.168.127.3/32",)),
        PolicyRule("allow", names=("a.test",)),
        PolicyRule("deny", networks=("203.0.113.0/24",)),
        PolicyRule("allow", networks=("10.0.0.0/8",)),
    )
    found = made.explain(GUEST, WEB, 443, "tcp", 0.0)
    assert found == (False, "egress-policy.rules[4]", ("protocols", "ports", "guests", "names"))
    assert made.explain(GUEST, TEN, 443, "tcp", 0.0).rule == "egress-policy.rules[5]"
    other = made.explain(GUEST, ip.parse_ipv4("192.0.2.1"), 443, "tcp", 0.0)
    assert (other.allows, other.rule, len(other.passed)) == (False, "egress-policy.default", 6)
    assert made.explain(OTHER, TEN, 443, "tcp", 0.0).rule == "egress-policy.rules[2]"


@pytest.mark.parametrize("told", [False, True])
def test_explain_with_a_name_teaches_the_policy_nothing(told: bool) -> None:
    made = policy("deny", PolicyRule("allow", names=("*.a.test",)), PolicyRule("allow", names=("b.test",)))
    if told:
        made.learn(GUEST, WEB, number_of("b.test"), 10.0, now=0.0)
    assert made.explain(GUEST, WEB, 443, "tcp", 1.0, "www.a.test").rule == "egress-policy.rules[0]"
    assert made.explain(GUEST, WEB, 443, "tcp", 1.0, "a.test").allows == told
    assert made.explain(GUEST, WEB, 443, "tcp", 1.0, "b.test").rule == "egress-policy.rules[1]"
    assert made.allows(GUEST, WEB, 443, "tcp", 1.0) == told
    assert not made.allows(GUEST, WEB, 443, "tcp", 20.0)


@pytest.mark.parametrize("word", ["02:00:00:00:00:07", "link:3", "192.168.127.2/32"])
def test_a_rule_names_a_guest_by_its_mac_its_link_or_its_address(word: str) -> None:
    stations = {GUEST: (bytes.fromhex("020000000007"), 3), OTHER: (bytes.fromhex("020000000008"), 4)}
    made = policy("deny", PolicyRule("allow", guests=(word,)), station_of=stations.get)
    assert made.allows(GUEST, WEB, 443, "tcp", 0.0)
    assert not made.allows(OTHER, WEB, 443, "tcp", 0.0)
    del stations[GUEST]
    assert made.allows(GUEST, WEB, 443, "tcp", 0.0) == (word == "192.168.127.2/32")


def test_rules_about_stations_are_known_as_such() -> None:
    for word, needs in (
        ("link:3", True),
        ("02:00:00:00:00:07", True),
        ("10.0.0.0/8", False),
        ("fd00::1", False),
    ):
        assert has_stations(EgressPolicy("deny", (PolicyRule("allow", guests=(word,)),))) == needs
