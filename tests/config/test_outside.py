"""Guests' way out: name servers, the source of sockets, guests' names, and what is switched off."""

import pytest
import yaml

from pipeline.config.errors import ConfigError
from pipeline.config.schema import json_schema
from pipeline.config.shown import as_file
from tests.config.built import build, refusal

FULL = """
disable: [udp, host-loopback]
dns-servers: [10.0.0.1, "10.0.0.2:5353", "fd00::1", "[fd00::2]:54"]
guest-names: VM.internal.
outbound-address: 192.0.2.7
outbound-interface: eth0
"""
SERVERS = ("10.0.0.1:53", "10.0.0.2:5353", "[fd00::1]:53", "[fd00::2]:54")


def test_all_keys_reach_the_config_and_read_back_the_same(file) -> None:
    made, warnings = build("-config", file(FULL))
    assert warnings == ()
    assert made.access.disable == ("udp", "host-loopback")
    assert made.network.dns_servers == SERVERS
    assert made.network.guest_names == "vm.internal"
    assert made.network.outbound_address == "192.0.2.7"
    assert made.network.outbound_interface == "eth0"
    shown = as_file(made)
    assert shown["disable"] == ["udp", "host-loopback"]
    assert shown["dns-servers"] == list(SERVERS)
    assert build("-config", file(yaml.safe_dump(shown)))[0] == made


def test_by_default_nothing_of_it_is_set_and_nothing_shown() -> None:
    made, _ = build()
    assert made.access.disable == made.network.dns_servers == ()
    network = made.network
    assert network.guest_names == network.outbound_address == network.outbound_interface == ""
    keys = {"disable", "dns-servers", "guest-names", "outbound-address", "outbound-interface"}
    assert not keys & as_file(made).keys()
    assert keys <= json_schema()["properties"].keys()


def test_flags_win_over_the_file_and_both_switch_things_off(file) -> None:
    made, _ = build(
        *("-config", file(FULL), "-dns-server", "1.1.1.1", "-dns-server", "8.8.8.8:53"),
        *("-guest-names", "lan", "-outbound-address", "192.0.2.8", "-outbound-interface", "wg0"),
        *("-disable", "icmp", "-disable", "udp"),
    )
    assert made.network.dns_servers == ("1.1.1.1:53", "8.8.8.8:53")
    network = made.network
    assert (network.guest_names, network.outbound_address, network.outbound_interface) == (
        "lan",
        "192.0.2.8",
        "wg0",
    )
    assert made.access.disable == ("udp", "icmp", "host-loopback")


ADDRESS = "must be an IPv4 address of this host other than loopback"
SERVER = "must be an IP address with a port or without, such as 10.0.0.1 or [fd00::1]:5353"
ZONE = "must be the name of a zone such as vm.internal"
INTERFACE = "must be the name of a network interface, at most 15 characters"
SWITCH = "must be dns or udp or icmp or host-loopback or api"
WRONG = [
    ("disable", "disable", "tcp", SWITCH),
    ("disable", "disable", "UDP", SWITCH),
    *(
        ("dns-servers", "dns-server", value, SERVER)
        for value in (
            *("dns.google", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:", "10.0.0.1:dns", "10.0.0", "fd00::g"),
            *("[10.0.0.1", "[fd00::1]:", "[fd00::1]53", "0.0.0.0", "::", "224.0.0.251", "10.0.0.1, 10.0.0.2"),
        )
    ),
    *(
        ("outbound-address", "outbound-address", value, ADDRESS)
        for value in ("127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "eth0", "fd00::1", "10.0.0.1/8")
    ),
    *(
        ("outbound-interface", "outbound-interface", value, INTERFACE)
        for value in ("a" * 16, "a b", "a/b", "..", "eth0:1", "é")
    ),
    *(
        ("guest-names", "guest-names", value, ZONE)
        for value in ("-a", "a..b", "a_b", "*.a", "a" * 64, ".", "a." * 95 + "a")
    ),
]


@pytest.mark.parametrize(("key", "flag", "value", "words"), WRONG)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(
    key: str, flag: str, value: str, words: str, file
) -> None:
    is_list = key in ("disable", "dns-servers")
    text = yaml.safe_dump({key: [value] if is_list else value}, allow_unicode=True)
    where = f"{key}[0]" if is_list else key
    said = refusal("-config", file(text))
    assert said.endswith(f': {where}: {words}, not "{value}"'), said
    assert refusal(f"-{flag}", value) == f'{flag} {words}, not "{value}"'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("disable: [dns]\ndns-servers: [1.1.1.1]", "dns-servers needs the gateway's name server"),
        ("disable: [dns]\nguest-names: vm", "guest-names needs the gateway's name server"),
        (
            "disable: [dns]\negress-policy: {rules: [{action: allow}, {action: allow, names: [a.b]}]}",
            "egress-policy.rules[1].names needs the gateway's name server, which disable: [dns] switches off",
        ),
        (
            'disable: [udp]\nstack: {forwards: {"udp:127.0.0.1:53": "192.168.127.2:53"}}',
            'forward "udp:127.0.0.1:53" is for udp, which disable: [udp] switches off',
        ),
        ("dns-address: 192.168.127.2", "dns-address: 192.168.127.2 cannot be the name server's"),
        (
            "dns-address: 10.0.0.1",
            "dns-address: 10.0.0.1 cannot be the name server's (allowed: an address of",
        ),
        ("dhcp-range: 10.0.0.1-10.0.0.9", "dhcp-range: 10.0.0.1-10.0.0.9 is not a range of guests"),
        ("dhcp-range: 192.168.127.9", "must be a range of IPv4 addresses such as"),
        ("dhcp-range: 192.168.127.9-192.168.127.8", "must be a range of IPv4 addresses such as"),
        ("dhcp-range: 192.168.127.0-192.168.127.8", "is not a range of guests"),
        ("dns-address: 192.168.127.254", "dns-address: 192.168.127.254 cannot be the name server's"),
        (
            "dns-address: 192.168.127.3\ndns-servers: [192.168.127.3]",
            'dns-servers: "192.168.127.3:53" is the gateway',
        ),
        ("dns-servers: [192.168.127.1]", 'dns-servers: "192.168.127.1:53" is the gateway'),
        (
            "dns-servers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4, 1.1.1.5]",
            "at most 4 servers are allowed, not 5",
        ),
        (
            "guest-names: vm.lan\nstack: {dns: [{name: Lan.}]}",
            'guest-names: "vm.lan" lies below the zone "Lan." of stack.dns',
        ),
        ("guest-names: vm\nstack: {dns: [{name: '.'}]}", 'lies below the zone "." of stack.dns'),
    ],
)
def test_settings_that_contradict_each_other_are_refused(text: str, words: str, file) -> None:
    assert words in refusal("-config", file(text))


def test_guests_names_may_be_in_a_zone_of_the_configuration(file) -> None:
    text = "guest-names: lan\nstack: {dns: [{name: lan.}, {name: .}]}"
    assert build("-config", file(text))[0].network.guest_names == "lan"
    assert build("-guest-names", "containers.internal")[0].network.guest_names == "containers.internal"


@pytest.mark.parametrize("key", ["disabled", "outbound-adress", "outbound-iface"])
def test_a_mistyped_restriction_stops_the_start(key: str, file) -> None:
    with pytest.raises(ConfigError, match="a restriction would be missing"):
        build("-config", file(f"{key}: x"))


def test_a_zone_for_guests_must_find_room_among_the_others(file) -> None:
    zones = ", ".join(f"{{name: z{n}.}}" for n in range(256))
    words = refusal("-config", file(f"guest-names: vm\nstack: {{dns: [{zones}]}}"))
    assert words.endswith("needs a zone of its own, but stack.dns has 256 (allowed: at most 256 in all)")
    made, _ = build("-config", file(f"guest-names: z9\nstack: {{dns: [{zones}]}}"))
    assert made.network.guest_names == "z9"
