"""Rules that lead through a proxy: what is allowed, how passwords are kept, and how names get addresses."""

import json

import pytest

from pipeline.config import policy_json, proxy_hosts
from pipeline.config.access import check_policy
from pipeline.config.errors import ConfigError
from pipeline.config.model import Access, EgressPolicy, PolicyRule
from pipeline.config.policy_json import PolicyError

URL = "socks5://me:s3cret@127.0.0.1:1080"


def body(**rule: object) -> bytes:
    return json.dumps({"rules": [{"action": "proxy", **rule}]}).encode()


def policy(url: str = URL) -> EgressPolicy:
    return EgressPolicy(rules=(PolicyRule("proxy", via=url),))


@pytest.mark.parametrize(
    ("rule", "key", "words"),
    [
        ({}, "rules[0].via", "action: proxy needs it (allowed: socks5://"),
        ({"via": ""}, "rules[0].via", "is missing"),
        ({"via": URL, "action": "allow"}, "rules[0].via", "only a rule with action: proxy"),
        ({"via": URL, "protocols": ["tcp", "udp"]}, "rules[0].protocols", "carries no udp (allowed: tcp)"),
        ({"via": "https://me:s3cret@1.2.3.4:1"}, "rules[0].via", "must be socks5://"),
        ({"via": "http://me:s3cret@1.2.3.4:99999"}, "rules[0].via", "port from 1 to 65535"),
        ({"via": "http://me:s3%cret@1.2.3.4:1"}, "rules[0].via", "must be written as %XX"),
        ({"via": "http://me:***@1.2.3.4:1"}, "rules[0].via", "has *** in place of the password"),
    ],
)
def test_a_wrong_rule_is_refused_and_its_password_is_not_shown(
    rule: dict[str, object], key: str, words: str
) -> None:
    with pytest.raises(PolicyError) as error:
        policy_json.read(body(**rule))
    assert error.value.key == key
    assert words in str(error.value)
    assert "s3" not in str(error.value)


def test_a_file_must_have_the_password() -> None:
    with pytest.raises(ConfigError, match=r"egress-policy.rules\[0\].via: has \*\*\*"):
        check_policy(policy("http://me:***@127.0.0.1:1"))


def test_what_is_shown_can_be_put_back() -> None:
    shown = policy_json.shown(policy())
    assert "s3cret" not in json.dumps(shown)
    assert policy_json.read(json.dumps(shown).encode(), policy()) == policy()
    assert policy_json.patched(policy(), b'{"default": "deny"}').rules == policy().rules
    with pytest.raises(PolicyError, match="in place of the password"):
        policy_json.read(body(via="socks5://other:***@127.0.0.1:1080"), policy())


def test_no_rule_gets_the_password_of_another_one() -> None:
    """Proxies choose by the password too: a session, a country."""
    first, second = (
        PolicyRule("proxy", via=f"http://me:{password}@127.0.0.1:1", networks=(network,))
        for password, network in (("one", "192.0.2.0/24"), ("two", "198.51.100.0/24"))
    )
    known = EgressPolicy(rules=(first, second))
    shown = policy_json.shown(known)
    assert policy_json.read(json.dumps(shown).encode(), known) == known
    assert policy_json.read(json.dumps({**shown, "rules": shown["rules"][::-1]}).encode(), known).rules == (
        second,
        first,
    )
    with pytest.raises(PolicyError, match="in place of the password"):
        policy_json.read(body(via="http://me:***@127.0.0.1:1"), known)


def test_workers_get_the_address_of_a_name() -> None:
    named = policy("http://me:pw@localhost:3128")
    assert proxy_hosts.look_up_all(named) == {"localhost": "127.0.0.1"}
    access = Access((), (), False, egress_policy=named, proxy_hosts={"localhost": "127.0.0.1"})
    assert access.policy.rules[0].via == "http://me:pw@127.0.0.1:3128"
    assert proxy_hosts.look_up_all(policy()) == {}


def test_a_name_without_an_address_says_where_it_stands() -> None:
    with pytest.raises(ConfigError, match=r"egress-policy.rules\[0\].via: none.invalid has no address"):
        proxy_hosts.look_up_all(policy("http://none.invalid:3128"))
