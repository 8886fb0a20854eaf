"""Keys about access: guests' API, egress policy, PROXY protocol, the API's token."""

import os
from pathlib import Path

import pytest
import yaml

from pipeline.config import merge, options, shown
from pipeline.config import model as config
from pipeline.config.file import ConfigError
from pipeline.config.model import EgressPolicy, GuestApi, PolicyRule
from pipeline.go import flags

FULL = """
stack:
  forwards: {"127.0.0.1:8080": "192.168.127.2:80", "udp:127.0.0.1:8080": "192.168.127.2:80"}
  dns: [{name: a., records: [{regexp: '(?P<x>a+)[[:alpha:]]', ip: 1.2.3.4}]}]
state-file: /var/lib/leases.json
udp-nat: full-cone
guests: isolated
proxy-protocol: {"127.0.0.1:8080": v2}
guest-api: {unix: false, addresses: [127.0.0.0/8, "::1"], ports: [1024-65535, 80]}
egress-policy:
  default: deny
  rules:
    - {action: allow, guests: [192.168.127.2], names: ["*.Example.com."], ports: [443], protocols: [tcp]}
    - {action: deny, networks: [10.0.0.0/8]}
    - {action: deny, guests: ["5A-94-EF-E4-0C-EE", "link:03"]}
"""


def build(text: str, tmp_path: Path, *words: str) -> config.Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    words = ("-config", str(path), *words)
    return merge.build(flags.parse(options.START, words), words, resolv_conf=os.devnull)[0]


def test_all_keys_reach_the_config_and_read_back_the_same(tmp_path: Path) -> None:
    made = build(FULL, tmp_path)
    assert made.network.state_file == "/var/lib/leases.json"
    assert made.network.udp_nat == "full-cone"
    assert made.access.guests == "isolated"
    assert [forward.proxy_protocol for forward in made.access.forwards] == [2, 0]
    assert made.access.guest_api == GuestApi(
        True, False, ("127.0.0.0/8", "::1/128"), ((1024, 65535), (80, 80))
    )
    assert made.access.egress_policy == EgressPolicy(
        "deny",
        (
            PolicyRule("allow", ("192.168.127.2/32",), (), ("*.example.com",), ((443, 443),), ("tcp",)),
            PolicyRule("deny", (), ("10.0.0.0/8",)),
            PolicyRule("deny", ("5a:94:ef:e4:0c:ee", "link:3")),
        ),
    )
    assert build(yaml.safe_dump(shown.as_file(made)), tmp_path) == made


def test_without_the_keys_everything_is_allowed(tmp_path: Path) -> None:
    made = build("", tmp_path)
    assert (made.access.guest_api, made.access.egress_policy) == (GuestApi(), EgressPolicy())
    assert (made.access.api_token_file, made.network.state_file) == ("", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("guest-api: {ports: [80-70]}", "guest-api.ports[0]: must be a port or a range"),
        ("guest-api: {addresses: [localhost]}", "guest-api.addresses[0]: must be an address or a network"),
        ("egress-policy: {default: maybe}", 'must be allow or deny, not "maybe"'),
        ("egress-policy: {rules: [{action: deny, networks: ['::1/']}]}", "must be an address or a network"),
        ("egress-policy: {rules: [{action: deny, guests: ['link:65536']}]}", "or a link such as link:3"),
        ("egress-policy: {rules: [{action: deny, names: ['a*.b']}]}", "must be a name such as example.com"),
        ("egress-policy: {rules: [{action: deny, ports: [1], protocols: [icmp]}]}", "icmp has no ports"),
        ("egress-policy: {rules: [{networks: [10.0.0.0/8]}]}", "egress-policy.rules[0].action"),
        ('proxy-protocol: {"127.0.0.1:1": v1}', "is not a TCP forward of stack.forwards"),
        ('proxy-protocol: {"127.0.0.1:1": v3}', "must be v1 or v2"),
        ("stack: {dns: [{records: [{regexp: '(a'}]}]}", "must be a regular expression"),
        (r"stack: {dns: [{records: [{regexp: '(?=a)'}]}]}", "must be a regular expression"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build(text, tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file or directory"), (b"", "one word"), (b"a b", "one word"), (b"\xff", "not ASCII")],
)
def test_a_token_file_without_a_token_is_an_error(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        build("", tmp_path, "-api-token-file", str(path))
    path.write_text("s3cret\n")
    assert build("", tmp_path, "-api-token-file", str(path)).access.api_token_file == str(path)


def test_a_token_in_a_pipe_is_refused_as_it_would_be_read_twice(tmp_path: Path) -> None:
    """The second look found an empty pipe, which meant that the API asked for no token."""
    reader, writer = os.pipe()
    os.write(writer, b"s3cret")
    os.close(writer)
    with pytest.raises(ConfigError, match=r"can't be read: it is a FIFO \(allowed: a regular file\)"):
        build("", tmp_path, "-api-token-file", f"/dev/fd/{reader}")
    os.close(reader)


def test_a_guest_gets_no_sockets_of_the_host_by_default(tmp_path: Path) -> None:
    made = build("", tmp_path).access.guest_api
    assert (made.enabled, made.unix, made.ssh, made.others) == (True, False, False, False)
    made = build("guest-api: {unix: true, ssh: yes, others: on}", tmp_path).access.guest_api
    assert (made.unix, made.ssh, made.others) == (True, True, True)


def test_a_program_may_let_guests_do_more_where_the_file_says_nothing(tmp_path: Path) -> None:
    def built(text: str) -> GuestApi:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        words = ("-config", str(path))
        parsed = flags.parse(options.START, words)
        return merge.build(parsed, words, guests=GuestApi(unix=True))[0].access.guest_api

    assert built("") == GuestApi(unix=True)
    assert built("guest-api: {ports: [80]}") == GuestApi(ports=((80, 80),))


@pytest.mark.parametrize("name", ["leases", "leases.new"])
def test_a_state_file_that_is_a_symbolic_link_is_refused_at_the_start(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=rf"state file .*{name}. is a symbolic link, which is not followed"):
        build(f"state-file: {tmp_path / 'leases'}", tmp_path)


@pytest.mark.parametrize("key", ["log-file", "pid-file", "state-file", "notification", "listen"])
def test_a_path_with_a_nul_byte_is_an_error_of_the_file(key: str, tmp_path: Path) -> None:
    value = '["unix:///a\\0b"]' if key == "listen" else '"/a\\0b"'
    with pytest.raises(ConfigError, match=f"{key}.*NUL"):
        build(f"{key}: {value}", tmp_path)


def test_a_number_of_5000_digits_is_out_of_range_and_no_traceback(tmp_path: Path) -> None:
    for text in (
        f"slots: {'9' * 5000}",
        f"stack: {{mtu: {'9' * 5000}}}",
        f"limits: {{max-macs: {'1' * 5000}}}",
    ):
        with pytest.raises(ConfigError, match="must be a whole number"):
            build(text, tmp_path)
    with pytest.raises(flags.FlagError, match="out of range"):
        flags.parse(options.START, ["-mtu", "9" * 5000])


def test_networks_of_a_rule_that_overlap_or_touch_are_merged(tmp_path: Path) -> None:
    networks = "[fd00::1, 10.1.0.0/16, 10.0.0.0/8, 192.0.2.0/25, 192.0.2.128/25, fd00::/8]"
    made = build(f"egress-policy: {{rules: [{{action: deny, networks: {networks}}}]}}", tmp_path)
    (rule,) = made.access.egress_policy.rules
    assert rule.networks == ("10.0.0.0/8", "192.0.2.0/24", "fd00::/8")
