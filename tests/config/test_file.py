"""The YAML file: what is read, and what errors say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import file as config_file
from pipeline.config.file import ConfigError


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "~", "---\n"])
def test_an_empty_file_is_valid(text: str) -> None:
    keys, notes = config_file.read(text)
    assert keys == config_file.FileKeys()
    assert notes == ()


def test_a_mac_address_of_digits_stays_a_text() -> None:
    keys, _ = config_file.read("stack: {gatewayMacAddress: 10:11:11:11:11:11}")
    assert keys.stack.gateway_mac == bytes.fromhex("101111111111")


def test_texts_that_look_like_other_things_stay_texts() -> None:
    keys, _ = config_file.read(
        "log-file: 0x10\npid-file: yes\nstack: {dnsSearchDomains: [1.0, ~, 2001-01-01]}"
    )
    assert keys.log_file == "0x10"
    assert keys.pid_file == "yes"
    assert keys.stack.dns_search_domains == ("1.0", "", "2001-01-01")


def test_keys_without_a_value_keep_their_default() -> None:
    keys, notes = config_file.read("listen:\nstack:\n  mtu: ~\n  nat: null\n")
    assert keys == config_file.FileKeys()
    assert notes == ()


def test_numbers_are_literals_and_booleans_are_yamls() -> None:
    keys, _ = config_file.read("slots: 0x100\nstack: {mtu: 1_500, debug: yes, ec2MetadataAccess: TRUE}")
    assert keys.slots == 256
    assert keys.stack.mtu == 1500
    assert keys.stack.stack_debug
    assert keys.stack.stack_ec2_metadata_access


def test_merge_keys_and_anchors_are_resolved() -> None:
    keys, _ = config_file.read("stack: &a {mtu: 1400}\ninterfaces: {}\nlimits: {}\n")
    assert keys.stack.mtu == 1400
    document = config_file.parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert document.data["b"] == {"x": "1", "y": "3"}


WRONG = [
    ("stack:\n  mtu: many\n", 'line 2: stack.mtu: must be a whole number from 0 to 2147483647, not "many"'),
    ('stack:\n  mtu: "1500"\n', 'line 2: stack.mtu: must be a whole number from 0 to 2147483647, not "1500"'),
    ("stack: [1]\n", "line 1: stack: must be a map"),
    ("listen: unix:///a\n", 'line 1: listen: must be a list, not "unix:///a"'),
    ("log-file: [a]\n", "line 1: log-file: must be a text"),
    ("\nec2-metadata-access: 7\n", 'line 2: ec2-metadata-access: must be true or false, not "7"'),
    (
        "stack:\n  dns:\n    - name: a.\n    - name: b.\n      records:\n        - {name: x, ip: 1.2.3}\n",
        "line 6: stack.dns[1].records[0].ip: must be an IP address such as 192.168.127.2 or fd00::2, "
        'not "1.2.3"',
    ),
    (
        "stack: {dhcpStaticLeases: {192.168.127.9: nonsense}}",
        "line 1: stack.dhcpStaticLeases.192.168.127.9: must be a MAC address such as 5a:94:ef:e4:0c:ee, "
        'not "nonsense"',
    ),
    (
        "stack: {nat: {host: 127.0.0.1}}",
        'line 1: stack.nat.host: must be an IPv4 address such as 192.168.127.2, not "host"',
    ),
    (
        "stack: {forwards: {'127.0.0.1:22': guest}}",
        "line 1: stack.forwards.127.0.0.1:22: must be the guest's address and port such as 192.168.127.2:22 "
        'or [fd00::2]:22, not "guest"',
    ),
    (
        "stack: {forwards: {ssh: '192.168.127.2:22'}}",
        'line 1: stack.forwards.ssh: must be host:port or udp:host:port, such as 127.0.0.1:2222, not "ssh"',
    ),
    (
        "limits: {max-tcp-flows: 0}",
        'line 1: limits.max-tcp-flows: must be a whole number from 1 to 1048576, not "0"',
    ),
    ("tcp-workers: 100", 'line 1: tcp-workers: must be a whole number from 1 to 64, not "100"'),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_an_error_names_key_place_and_what_is_allowed(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_file.read(text)
    assert str(error.value) == f"yaml: {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: b: c", "yaml: line 1: mapping values are not allowed here"),
        ("[1]", "yaml: line 1: the file must hold a map of keys"),
        ("word", "yaml: line 1: the file must hold a map of keys"),
        ("listen: [a]\nlisten: [b]\n", 'yaml: line 1: key "listen" stands there twice'),
        ("? [a]\n: b\n", "yaml: line 1: a key must be a text"),
        ("a: &a [*a]", "yaml: line 1: nested deeper than 32 levels"),
    ],
)
def test_yaml_that_is_none_is_refused_with_its_line(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_file.read(text)
    assert str(error.value).startswith(expected)


def test_patterns_are_checked_as_far_as_both_syntaxes_agree() -> None:
    with pytest.raises(ConfigError, match=r"records\[0\]\.regexp: must be a regular expression \("):
        config_file.read("stack: {dns: [{name: a., records: [{regexp: 'crc-(', ip: 1.2.3.4}]}]}")
    for pattern in ("crc-(.*?)-master-0", r"\Qa.b\E\z", "(?i:x)y", "[[:alpha:]]+"):
        keys, _ = config_file.read(f"stack: {{dns: [{{name: a., records: [{{regexp: '{pattern}'}}]}}]}}")
        assert keys.stack.dns_zones[0].records[0].regexp == pattern


def test_several_errors_are_all_told() -> None:
    with pytest.raises(ConfigError) as error:
        config_file.read("slots: 1\nstack: {mtu: x}\n")
    assert "slots" in str(error.value)
    assert "stack.mtu" in str(error.value)


def test_unknown_keys_are_noted_with_the_nearest_known_one() -> None:
    _, notes = config_file.read(
        "lisen: [a]\nstack:\n  gatewayip: 1.2.3.4\n  dns:\n    - {nam: x}\nforwards: [{sock: a}]\nzzz: 1\n"
    )
    assert notes[0] == "line 1: unknown key lisen, did you mean listen?"
    assert notes[1].startswith("line 7: unknown key zzz; known here: ")
    assert set(notes[2:]) == {
        "line 3: unknown key stack.gatewayip, did you mean gatewayIP?",
        "line 5: unknown key stack.dns[0].nam, did you mean name?",
        "line 6: unknown key forwards[0].sock, did you mean socket?",
    }


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        config_file.read(text)
    except ConfigError as error:
        assert str(error).startswith("yaml: ")  # noqa: PT017 - most texts are refused, some are not
