"""The egress policy as JSON: what is read and written, and that each mistake is named by its key."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import policy_json
from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.config.policy_json import PolicyError

RULE = PolicyRule(
    "allow", ("192.168.127.2/32",), ("10.0.0.0/8",), ("*.example.com",), ((443, 443), (8000, 8100)), ("tcp",)
)
POLICY = EgressPolicy("deny", (RULE, PolicyRule("deny")))
TEXT = (
    b'{"default": "deny", "rules": [{"action": "allow", "guests": ["192.168.127.2"], '
    b'"networks": ["10.0.0.0/8"], "names": ["*.Example.com."], "ports": [443, "8000-8100"], '
    b'"protocols": ["tcp"]}, {"action": "deny", "ports": null}]}'
)


def test_a_policy_has_the_layout_of_the_file() -> None:
    assert policy_json.read(TEXT) == POLICY
    assert policy_json.read(b"{}") == EgressPolicy()


def test_what_is_written_is_read_as_the_same_policy() -> None:
    written = policy_json.written(POLICY)
    assert written["rules"][1] == {"action": "deny"}  # type: ignore[index]
    assert policy_json.read(json.dumps(written).encode()) == POLICY


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (b"", "", "the body is not JSON"),
        (b"\xff", "", "the body is not JSON"),
        (b"[]", "", "must be an object"),
        (b'{"default": NaN}', "", "NaN"),
        (b'{"default": "maybe"}', "default", 'must be allow or deny, not "maybe"'),
        (b'{"default": 1}', "default", "must be allow or deny"),
        (b'{"default": "deny", "default": "allow"}', "default", "stands twice"),
        (b'{"rule": []}', "rule", "did you mean rules?"),
        (b'{"rules": {}}', "rules", "must be a list"),
        (b'{"rules": [1]}', "rules[0]", "must be a map"),
        (b'{"rules": [{}]}', "rules[0].action", "is needed"),
        (b'{"rules": [{"action": "deny", "port": [1]}]}', "rules[0].port", "did you mean ports?"),
        (b'{"rules": [{"action": "deny", "ports": [443, 70000]}]}', "rules[0].ports[1]", '"70000"'),
        (b'{"rules": [{"action": "deny", "ports": [true]}]}', "rules[0].ports[0]", "must be a port"),
        (b'{"rules": [{"action": "deny", "ports": [1], "protocols": ["icmp"]}]}', "rules[0]", "no ports"),
        (b'{"rules": [{"action": "deny", "networks": ["10.0.0.1/8"]}]}', "rules[0].networks[0]", "network"),
        (b'{"default": "\\ud800"}', "default", "Unicode"),
        (b'{"\\ud800": 1}', "", "Unicode"),
    ],
)
def test_a_mistake_is_named_by_its_key(text: bytes, key: str, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy_json.read(text)
    assert caught.value.key == key
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b'{"rules":' + b"[" * 100_000,
        b'{"rules":' + b"[" * 20 + b"]" * 20 + b"}",
        b'{"a":' * 900 + b"1" + b"}" * 900,
    ],
)
def test_a_deep_body_is_refused(text: bytes) -> None:
    for read in (policy_json.read, lambda body: policy_json.patched(POLICY, body)):
        with pytest.raises(PolicyError, match="deeper"):
            read(text)


def test_a_patch_changes_the_keys_that_it_has() -> None:
    assert policy_json.patched(POLICY, b'{"default": "allow"}') == EgressPolicy("allow", POLICY.rules)
    assert policy_json.patched(POLICY, b'{"rules": [{"action": "deny"}]}') == EgressPolicy(
        "deny", (PolicyRule("deny"),)
    )
    assert policy_json.patched(POLICY, b'{"rules": null}') == EgressPolicy("deny")
    with pytest.raises(PolicyError, match="must be a list"):
        policy_json.patched(POLICY, b'{"rules": {"action": "deny"}}')


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["rules", "action"]), inner),
)


@given(_VALUES | st.fixed_dictionaries({"rules": st.lists(_VALUES)}))
def test_any_json_is_a_policy_or_an_error_with_a_key(value: Any) -> None:
    try:
        policy = policy_json.read(json.dumps(value).encode())
    except PolicyError:
        return
    assert policy_json.read(json.dumps(policy_json.written(policy)).encode()) == policy
