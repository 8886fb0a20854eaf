"""The egress policy: which rule decides, and how long a name counts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.engines.groups import BITS, Groups
from pipeline.engines.networks import Networks
from pipeline.engines.policy import MIN_VALID, Names, Policy, denied_aliases, has_stations
from pipeline.engines.rules import NetworkSets, Rule, RuleIndex, number_of
from pipeline.wire import ip
from pipeline.wire.stated import CONTRADICTION, NAME, NAMELESS, UNKNOWN, Stated

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


def test_a_label_with_a_dot_is_not_two_labels() -> None:
    names = Names(EgressPolicy("deny", (PolicyRule("allow", names=("*.example.com", "a.example.com")),)))
    assert names.match([b"x.example", b"com"]) == names.match([b"a.example.com"]) == []


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
    assert (found.verdict.allow, found.verdict.rule) == (False, "egress-policy.rules[4]")
    assert found.passed == ("protocols", "ports", "guests", "names")
    assert made.explain(GUEST, TEN, 443, "tcp", 0.0).verdict.rule == "egress-policy.rules[5]"
    verdict, passed = made.explain(GUEST, ip.parse_ipv4("192.0.2.1"), 443, "tcp", 0.0)
    assert (verdict.allow, verdict.rule, len(passed)) == (False, "egress-policy.default", 6)
    assert made.explain(OTHER, TEN, 443, "tcp", 0.0).verdict.rule == "egress-policy.rules[2]"


@pytest.mark.parametrize("told", [False, True])
def test_explain_with_a_name_teaches_the_policy_nothing(told: bool) -> None:
    made = policy("deny", PolicyRule("allow", names=("*.a.test",)), PolicyRule("allow", names=("b.test",)))
    if told:
        made.learn(GUEST, WEB, number_of("b.test"), 10.0, now=0.0)
    assert made.explain(GUEST, WEB, 443, "tcp", 1.0, "www.a.test").verdict[:3] == (
        True,
        "egress-policy.rules[0]",
        False,
    )
    assert not made.explain(GUEST, WEB, 443, "tcp", 1.0, "a.test").verdict.allow
    assert made.explain(GUEST, WEB, 443, "tcp", 1.0, "b.test").verdict[:3] == (
        True,
        "egress-policy.rules[1]",
        False,
    )
    assert made.explain(GUEST, WEB, 443, "tcp", 1.0).verdict.hold == told
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


# --- stated names -----------------------------------------------------------------------------


def stated(name: str, protocol: str = "tls", *, ech: bool = False) -> Stated:
    return Stated(NAME, name, protocol, ech)


def shop(*more: PolicyRule, **options: Any) -> Policy:
    """A guest may reach a.test, whose address it knows, and what more rules say."""
    made = policy("deny", PolicyRule("allow", names=("a.test", "*.b.test")), *more, **options)
    made.learn(GUEST, WEB, number_of("a.test"), 60.0, now=0.0)
    return made


@pytest.mark.parametrize(
    ("found", "port", "allowed"),
    [
        (stated("a.test"), 443, True),
        (stated("x.b.test"), 443, True),
        (stated("evil.test"), 443, False),
        (Stated(NAMELESS, protocol="tls"), 443, False),
        (Stated(NAMELESS, protocol="tls"), 22, False),
        (Stated(CONTRADICTION, protocol="http"), 80, False),
        (UNKNOWN, 443, False),
        (UNKNOWN, 22, True),
    ],
)
def test_a_flow_to_an_allowed_name_must_not_state_another_one(
    found: Stated, port: int, allowed: bool
) -> None:
    made = shop()
    assert made.judge(GUEST, WEB, port, "tcp", 1.0).hold
    verdict = made.judge(GUEST, WEB, port, "tcp", 1.0, found)
    assert (verdict.allow, verdict.hold) == (allowed, False)
    assert verdict.rule == ("egress-policy.rules[0]" if allowed else "egress-policy.default")


def test_no_flow_is_held_whose_answer_is_known() -> None:
    assert not shop().judge(GUEST, TEN, 443, "tcp", 1.0).hold
    made = shop(PolicyRule("allow", networks=("203.0.113.0/24",)))
    verdict = made.judge(GUEST, WEB, 443, "tcp", 1.0)
    assert verdict[:3] == (True, "egress-policy.rules[1]", False), "whatever name it states"
    first = policy(
        "deny", PolicyRule("allow", networks=("203.0.113.0/24",)), PolicyRule("deny", names=("a.test",))
    )
    assert first.judge(GUEST, WEB, 443, "tcp", 1.0)[:3] == (True, "egress-policy.rules[0]", False)
    assert not shop().judge(GUEST, WEB, 0, "icmp", 1.0).hold


def test_a_rule_may_ignore_stated_names_or_say_at_which_ports_they_are_needed() -> None:
    made = policy("deny", PolicyRule("allow", names=("a.test",), stated="ignore"))
    made.learn(GUEST, WEB, number_of("a.test"), 60.0, now=0.0)
    assert made.judge(GUEST, WEB, 443, "tcp", 1.0)[:3] == (True, "egress-policy.rules[0]", False)
    made = policy("deny", PolicyRule("allow", names=("a.test",), stated_ports=((20, 30),)))
    made.learn(GUEST, WEB, number_of("a.test"), 60.0, now=0.0)
    assert not made.judge(GUEST, WEB, 22, "tcp", 1.0, UNKNOWN).allow
    assert made.judge(GUEST, WEB, 443, "tcp", 1.0, UNKNOWN).allow


def test_a_denied_name_is_refused_when_it_is_stated() -> None:
    made = policy("allow", PolicyRule("deny", names=("*.evil.test",), ports=((443, 443),)))
    assert made.judge(GUEST, WEB, 443, "tcp", 1.0).hold
    assert not made.judge(GUEST, WEB, 22, "tcp", 1.0).hold
    verdict = made.judge(GUEST, WEB, 443, "tcp", 1.0, stated("x.evil.test"))
    assert verdict[:3] == (False, "egress-policy.rules[0]", False)
    assert made.judge(GUEST, WEB, 443, "tcp", 1.0, stated("a.test")).allow
    assert not made.judge(GUEST, WEB, 443, "tcp", 1.0, Stated(CONTRADICTION)).allow


def test_an_open_flow_goes_on_under_new_rules_if_they_allow_its_stated_name() -> None:
    made = shop()
    made.replace(EgressPolicy("deny", (PolicyRule("allow", names=("a.test",)),)))
    assert made.still_allows(GUEST, WEB, 443, "tcp", stated("a.test"))
    assert not made.still_allows(GUEST, WEB, 443, "tcp", stated("x.b.test"))
    assert made.still_allows(GUEST, WEB, 443, "tcp"), "nobody knows what it has stated"


# --- groups and presets -----------------------------------------------------------------------


def grouped(preset: str, *rules: PolicyRule) -> Policy:
    groups = Groups({ip.parse("192.168.127.254")}, [ip.network("192.168.127.0/24")])
    return Policy(EgressPolicy(rules=rules, preset=preset), groups=groups)


@pytest.mark.parametrize(
    ("preset", "allowed"),
    [("open", {"8.8.8.8", "10.1.2.3", "192.168.127.254"}), ("public", {"8.8.8.8"}), ("locked", set())],
)
def test_a_preset_decides_what_no_rule_does(preset: str, allowed: set[str]) -> None:
    made = grouped(preset, PolicyRule("allow", groups=("link-local",)))
    for text in ("8.8.8.8", "10.1.2.3", "192.168.127.254"):
        verdict = made.judge(GUEST, ip.parse(text), 443, "tcp", 0.0)
        assert (verdict.allow, verdict.rule) == (text in allowed, "egress-policy.preset"), text
    assert made.judge(GUEST, ip.parse("169.254.1.1"), 443, "tcp", 0.0)[:3] == (
        True,
        "egress-policy.rules[0]",
        False,
    )
    assert grouped(preset).active == (preset != "open")


def test_a_rule_about_the_host_holds_for_both_its_addresses() -> None:
    host4, host6 = ip.parse("192.168.127.254"), ip.parse("fd00::fe")
    made = Policy(
        EgressPolicy(rules=(PolicyRule("deny", groups=("host",)),)),
        also_means={host6: host4},
        groups=Groups({host4}),
    )
    assert not made.allows(GUEST, host6, 1, "tcp", 0.0)
    assert made.allows(GUEST, ip.parse("fd00::1"), 1, "tcp", 0.0)


# --- questions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "name", "allowed", "rule"),
    [
        (EgressPolicy("deny", (PolicyRule("allow", names=("a.test",)),)), "a.test", True, "rules[0]"),
        (EgressPolicy("deny", (PolicyRule("allow", names=("a.test",)),)), "x.a.test", False, "default"),
        (EgressPolicy("deny", (PolicyRule("allow", names=("*.a.test",)),)), "x.a.test", True, "rules[0]"),
        (
            EgressPolicy("deny", (PolicyRule("allow", names=("a.test",), ports=((1, 1),)),)),
            "a.test",
            True,
            "rules[0]",
        ),
        (EgressPolicy("deny", (PolicyRule("allow", networks=("10.0.0.0/8",)),)), "a.test", True, "default"),
        (EgressPolicy("allow", (PolicyRule("allow", names=("a.test",)),)), "b.test", True, "default"),
        (
            EgressPolicy("allow", (PolicyRule("allow", names=("a.test",)), PolicyRule("deny"))),
            *("b.test", False, "rules[1]"),
        ),
        (EgressPolicy("allow", (PolicyRule("deny", names=("a.test",)),)), "a.test", False, "rules[0]"),
        (
            EgressPolicy("allow", (PolicyRule("deny", names=("a.test",), ports=((1, 1),)),)),
            "a.test",
            True,
            "default",
        ),
        (
            EgressPolicy(
                "deny", (PolicyRule("allow", names=("a.test",)), PolicyRule("allow", ports=((443, 443),)))
            ),
            *("b.test", True, "rules[1]"),
        ),
        (
            EgressPolicy(
                "deny", (PolicyRule("allow", names=("a.test",)), PolicyRule("allow", groups=("public",)))
            ),
            *("b.test", True, "rules[1]"),
        ),
        (EgressPolicy(preset="locked"), "b.test", False, "preset"),
        (EgressPolicy(preset="public"), "b.test", True, "preset"),
        (
            EgressPolicy(preset="locked", rules=(PolicyRule("allow", groups=("private",)),)),
            "b.test",
            False,
            "preset",
        ),
        (
            EgressPolicy("deny", (PolicyRule("allow", names=("a.test",), guests=("192.168.127.3/32",)),)),
            *("a.test", False, "default"),
        ),
    ],
)
def test_a_question_needs_a_rule_that_allows_its_name(
    config: EgressPolicy, name: str, allowed: bool, rule: str
) -> None:
    assert Policy(config).question(GUEST, name)[:3] == (allowed, f"egress-policy.{rule}", False)
    assert allowed or Policy(config).judges_questions


# --- many rules -------------------------------------------------------------------------------

_ADDRESSES = st.sampled_from(["10.1.2.3", "203.0.113.9", "fd00::9", "8.8.8.8", "2001:db8::1"])
_NETWORKS = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "203.0.113.9/32", "0.0.0.0/0", "::/0", "fd00::/8"])
_RULES = st.builds(
    PolicyRule,
    st.sampled_from(["allow", "deny"]),
    guests=st.lists(st.sampled_from(["192.168.127.2/32", "192.168.127.0/24", "fd00::/8"]), max_size=2).map(
        tuple
    ),
    networks=st.lists(_NETWORKS, max_size=2).map(tuple),
    groups=st.lists(st.sampled_from(["public", "private"]), max_size=1).map(tuple),
    names=st.lists(st.sampled_from(["a.test", "*.b.test"]), max_size=2).map(tuple),
    ports=st.sampled_from([(), ((80, 90),)]),
)


@given(st.lists(_RULES, max_size=12), _ADDRESSES, st.sampled_from([GUEST, OTHER]), st.sampled_from([80, 443]))
def test_the_index_finds_the_rule_that_a_look_at_each_one_finds(
    rules: list[PolicyRule], address: str, guest: int, port: int
) -> None:
    made = policy("deny", *rules)
    addr = ip.parse(address)
    made.learn(guest, addr, number_of("a.test"), 60.0, 0.0)
    found = made.judge(guest, addr, port, "tcp", 1.0, stated("a.test"))
    expected = "egress-policy.default"
    for index, rule in enumerate(rules):
        fits = (
            (not rule.guests or guest in Networks(rule.guests))
            and (not rule.ports or 80 <= port <= 90)
            and (
                not (rule.networks or rule.groups or rule.names)
                or (bool(rule.networks) and addr in Networks(rule.networks))
                or any(Groups().of(addr) & BITS[word] for word in rule.groups)
                or "a.test" in rule.names
            )
        )
        if fits:
            expected = f"egress-policy.rules[{index}]"
            break
    assert found.rule == expected


@pytest.mark.parametrize("kind", ["names", "networks", "guests", "pairs"])
def test_a_flow_meets_few_of_ten_thousand_rules(kind: str) -> None:
    def rule(n: int) -> PolicyRule:
        network = f"10.{n >> 8}.{n & 255}.0/24"
        if kind == "names":
            return PolicyRule("allow", names=(f"n{n}.test",))
        if kind == "networks":
            return PolicyRule("allow", networks=(network,))
        if kind == "guests":
            return PolicyRule("allow", guests=(network,), groups=("public",))
        return PolicyRule("allow", guests=(network,), networks=("203.0.113.0/24",))

    networks = NetworkSets()
    rules = [Rule(rule(n), "", networks) for n in range(10_000)]
    found = RuleIndex(rules).candidates(
        [ip.parse("10.4.1.9")], [ip.parse("10.4.1.9")], BITS["public"], [number_of("n1025.test")]
    )
    assert found == [4 * 256 + 1]


ASK = PolicyRule("ask", networks=("203.0.113.0/24",))


def test_a_rule_may_ask_and_an_open_flow_goes_on_then() -> None:
    made = policy("deny", PolicyRule("allow", ports=((80, 80),)), ASK)
    verdict = made.judge(GUEST, WEB, 443, "tcp", 0.0)
    assert (verdict.allow, made.asks(verdict)) == (False, True)
    assert not made.asks(made.judge(GUEST, WEB, 80, "tcp", 0.0))
    assert not made.asks(made.judge(GUEST, TEN, 443, "tcp", 0.0))
    assert made.still_allows(GUEST, WEB, 443, "tcp")
    assert not made.allows(GUEST, WEB, 443, "tcp", 0.0), "a stranger's datagram is no reason to ask"
    made.replace(EgressPolicy("deny"))
    assert not made.still_allows(GUEST, WEB, 443, "tcp")


def test_a_guest_may_ask_for_the_names_of_flows_about_which_somebody_decides() -> None:
    named = policy("deny", PolicyRule("ask", names=("a.test",)))
    assert named.question(GUEST, "a.test").allow
    assert not named.question(GUEST, "b.test").allow
    anything = policy("deny", PolicyRule("allow", names=("a.test",)), PolicyRule("ask"))
    assert anything.question(GUEST, "b.test").allow


def test_an_alias_of_a_denied_name_is_denied_and_one_of_an_allowed_name_is_not_allowed() -> None:
    rules = (PolicyRule("deny", names=("*.bad.test",)), PolicyRule("allow", names=("good.test",)))
    made, found = Policy(EgressPolicy("allow", rules[:1])), denied_aliases(EgressPolicy("allow", rules))
    (number,) = found.match_text("x.bad.test")
    assert found.match_text("good.test") == []
    assert made.allows(GUEST, WEB, 443, "tcp", 0.0)
    made.learn(GUEST, WEB, number, 60.0, 0.0)
    assert made.refusal(GUEST, WEB, 443, "tcp", 1.0) == "egress-policy.rules[0]"
    allows = Policy(EgressPolicy("deny", (PolicyRule("allow", names=("*.bad.test",)),)))
    allows.learn(GUEST, WEB, number, 60.0, 0.0)
    assert not allows.allows(GUEST, WEB, 443, "tcp", 1.0), "an alias is a name of its own"
