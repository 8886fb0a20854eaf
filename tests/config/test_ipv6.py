"""IPv6 of guests: off by default, and a prefix that is the same at every start."""

import ipaddress
import os

import pytest
import yaml

from pipeline.config import merge, options
from pipeline.config.errors import ConfigError
from pipeline.config.shown import as_file
from pipeline.go import flags
from pipeline.wire import ip
from tests.config.built import build, refusal

ULA = ipaddress.IPv6Network("fd00::/8")


def prefix_of(*words: str) -> ipaddress.IPv6Network:
    made, _ = build("-ipv6", "on", *words)
    return ipaddress.IPv6Network(made.network.ipv6_prefix)


def test_it_is_off_by_default_and_then_there_is_no_prefix() -> None:
    network = build()[0].network
    assert (network.ipv6_enabled, network.ipv6_prefix, network.ipv6_first) == ("off", "", 0)


def test_the_derived_prefix_is_a_unique_local_64_and_the_same_each_time() -> None:
    found = prefix_of()
    assert found.subnet_of(ULA)
    assert found.prefixlen == 64
    assert found == prefix_of()
    assert build("-ipv6", "on")[0].network.ipv6_first == ip.of(found[0])


def test_another_subnet_or_another_gateway_has_another_prefix(file) -> None:
    path = file("stack: {gatewayMacAddress: '5a:94:ef:e4:0c:01'}")
    assert len({prefix_of(), prefix_of("-subnet", "10.1.0.0/24"), prefix_of("-config", path)}) == 3


def test_a_prefix_of_the_file_wins_and_reads_back(file) -> None:
    path = file("ipv6: {enabled: on, prefix: '2001:db8:7::/64'}")
    made, warnings = build("-config", path)
    assert warnings == ()
    assert ip.text(made.network.ipv6_first) == "2001:db8:7::"
    assert build("-config", file(yaml.safe_dump(as_file(made))))[0] == made


def test_the_flag_wins_over_the_file(file) -> None:
    path = file("ipv6: {enabled: on, prefix: '2001:db8:7::/64'}")
    made, _ = build("-config", path, "-ipv6", "off")
    assert made.network.ipv6_first == 0
    assert made.network.ipv6_prefix == "2001:db8:7::/64"


@pytest.mark.parametrize("prefix", ["fd00::/63", "ff02::/64", "fe80::/64", "::/64", "10.0.0.0/8", "x"])
def test_prefixes_of_which_guests_cannot_make_addresses_are_refused(file, prefix: str) -> None:
    with pytest.raises(ConfigError, match=r"ipv6\.prefix: must be a /64 of fc00::/7 or 2000::/3"):
        build("-config", file(f"ipv6: {{prefix: '{prefix}'}}"))


def test_other_words_and_a_too_small_mtu_are_refused() -> None:
    assert refusal("-ipv6", "maybe") == "ipv6 must be one of off, on, auto, not 'maybe'"
    assert refusal("-ipv6", "on", "-mtu", "1279") == "ipv6 needs an MTU of at least 1280, not 1279"
    assert build("-ipv6", "on", "-mtu", "1280")[0].network.mtu == 1280


def test_gateway_and_host_are_addresses_of_the_prefix(file) -> None:
    made, _ = build("-ipv6", "auto")
    network = made.network
    assert (network.ipv6_gateway, network.ipv6_host) == (network.ipv6_first | 1, network.ipv6_first | 0xFE)
    path = file(
        "ipv6: {enabled: auto, prefix: '2001:db8:7::/64', gateway: '2001:db8:7::53', host: '2001:db8:7::99'}"
    )
    made, _ = build("-config", path)
    assert ip.text(made.network.ipv6_gateway) == "2001:db8:7::53"
    assert ip.text(made.network.ipv6_host) == "2001:db8:7::99"
    assert build("-config", file(yaml.safe_dump(as_file(made))))[0] == made


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("gateway: 'fd00::1'", r"ipv6\.gateway: fd00::1 must be in fd12:3456:789a:1::/64, and not its first"),
        ("host: 'fd12:3456:789a:1::'", r"ipv6\.host: fd12:3456:789a:1:: must be in .* and not its first"),
        ("host: 'fd12:3456:789a:1::1'", r"ipv6\.host: fd12:3456:789a:1::1 is the gateway's address"),
        ("host: '10.0.0.1'", r"ipv6\.host: must be an IPv6 address"),
        ("host: '::ffff:10.0.0.1'", r"ipv6\.host: must be an IPv6 address"),
    ],
)
def test_wrong_addresses_of_gateway_and_host_are_refused(file, keys: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build("-config", file(f"ipv6: {{enabled: on, prefix: 'fd12:3456:789a:1::/64', {keys}}}"))


def test_nat64_is_there_while_ipv6_is_on_unless_it_is_off(file) -> None:
    assert build()[0].network.ipv6_nat64 == "auto"
    assert not build()[0].network.has_nat64
    assert build("-ipv6", "on")[0].network.has_nat64
    assert not build("-ipv6", "on", "-nat64", "off")[0].network.has_nat64
    assert not build("-nat64", "on")[0].network.has_nat64
    for word, found in (("no", "off"), ("yes", "on"), ("auto", "auto")):
        made, warnings = build("-config", file(f"ipv6: {{enabled: on, nat64: {word}}}"))
        assert (made.network.ipv6_nat64, warnings) == (found, ())
        assert build("-config", file(yaml.safe_dump(as_file(made))))[0] == made
    assert build("-config", file("ipv6: {nat64: on}"), "-nat64", "off")[0].network.ipv6_nat64 == "off"


def test_other_words_for_nat64_are_refused(file) -> None:
    assert refusal("-nat64", "maybe") == "nat64 must be one of off, on, auto, not 'maybe'"
    with pytest.raises(ConfigError, match=r"ipv6\.nat64: must be off or on or auto"):
        build("-config", file("ipv6: {nat64: maybe}"))


def with_default(*words: str) -> str:
    """What guests have where the default is auto."""
    parsed = flags.parse(options.START, words)
    made, _ = merge.build(parsed, words, resolv_conf=os.devnull, ipv6_default="auto")
    return made.network.ipv6_enabled


def test_the_default_counts_only_if_nothing_is_said_and_the_mtu_is_large_enough(file) -> None:
    assert with_default() == "auto"
    assert with_default("-ipv6", "off") == with_default("-config", file("ipv6: {enabled: off}")) == "off"
    assert with_default("-config", file("ipv6: {nat64: off}")) == "auto"
    assert with_default("-ipv6", "on") == "on"
    assert with_default("-mtu", "1279") == "off"
    assert with_default("-mtu", "1280") == "auto"


def test_static_leases_are_addresses_of_the_prefix_and_read_back(file) -> None:
    leases = "static-leases: {'2001:db8:7::5': '5A:94:ef:e4:0c:ee'}"
    path = file(f"ipv6: {{enabled: on, prefix: '2001:db8:7::/64', {leases}}}")
    made, warnings = build("-config", path)
    assert warnings == ()
    assert made.network.ipv6_static_leases == {ip.parse("2001:db8:7::5"): bytes.fromhex("5a94efe40cee")}
    assert build("-config", file(yaml.safe_dump(as_file(made))))[0] == made


@pytest.mark.parametrize(
    "address", ["2001:db8:7::", "2001:db8:7::1", "2001:db8:7::fe", "2001:db8:8::5", "fe80::5"]
)
def test_a_static_lease_of_an_address_that_no_guest_may_have_is_refused(file, address: str) -> None:
    text = f"static-leases: {{'{address}': '5a:94:ef:e4:0c:ee'}}"
    with pytest.raises(ConfigError) as refused:
        build("-config", file(f"ipv6: {{enabled: on, prefix: '2001:db8:7::/64', {text}}}"))
    assert str(refused.value) == (
        f"ipv6.static-leases: {address} is not an address of a guest "
        "(allowed: of 2001:db8:7::/64, and not the gateway's)"
    )
    assert build("-config", file(f"ipv6: {{enabled: off, {text}}}"))[0].network.ipv6_first == 0


def test_a_static_lease_may_belong_to_a_duid_and_six_bytes_are_one_after_the_mark(file) -> None:
    texts = {
        "2001:db8:7::5": "5a:94:ef:e4:0c:ee",
        "2001:db8:7::6": "duid:5a:94:ef:e4:0c:ee",
        "2001:db8:7::7": "duid:00-03-00-01-5A-94-EF-E4-0C-EE",
    }
    keys = {"enabled": "on", "prefix": "2001:db8:7::/64", "static-leases": texts}
    made, warnings = build("-config", file(yaml.safe_dump({"ipv6": keys})))
    assert warnings == ()
    mac = bytes.fromhex("5a94efe40cee")
    of_duids = {ip.parse("2001:db8:7::6"): mac, ip.parse("2001:db8:7::7"): bytes.fromhex("00030001") + mac}
    assert made.network.ipv6_mac_leases == {ip.parse("2001:db8:7::5"): mac}
    assert made.network.ipv6_duid_leases == of_duids
    text = yaml.safe_dump(as_file(made))
    assert "2001:db8:7::6: duid:5a:94:ef:e4:0c:ee\n" in text
    assert "2001:db8:7::7: duid:00:03:00:01:5a:94:ef:e4:0c:ee\n" in text
    assert build("-config", file(text))[0] == made


@pytest.mark.parametrize("address", ["2001:db8:7::1", "2001:db8:8::5"])
def test_the_address_of_a_duid_is_checked_like_that_of_a_mac(file, address: str) -> None:
    text = f"static-leases: {{'{address}': 'duid:00:03:00:01:5a:94'}}"
    with pytest.raises(ConfigError, match=f"ipv6.static-leases: {address} is not an address of a guest"):
        build("-config", file(f"ipv6: {{enabled: on, prefix: '2001:db8:7::/64', {text}}}"))


@pytest.mark.parametrize("owner", ["5a:94:ef:e4:0c", "5a:94:ef:e4:0c:ee:01", "duid:00:03", "vm", ""])
def test_a_static_lease_must_belong_to_a_mac_or_a_duid(file, owner: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build("-config", file(f"ipv6: {{static-leases: {{'fd00::5': '{owner}'}}}}"))
    assert str(refused.value).endswith(
        "line 1: ipv6.static-leases.fd00::5: must be a MAC address such as 5a:94:ef:e4:0c:ee, or duid: with "
        f'3 to 130 bytes such as duid:00:03:00:01:5a:94:ef:e4:0c:ee, not "{owner}"'
    )


@pytest.mark.parametrize("address", ["192.168.127.5", "::ffff:192.168.127.5", "::", "fd00::5%eth0", "x"])
def test_a_static_lease_must_have_an_ipv6_address(file, address: str) -> None:
    with pytest.raises(ConfigError, match="must be an IPv6 address such as"):
        build("-config", file(f"ipv6: {{static-leases: {{'{address}': '5a:94:ef:e4:0c:ee'}}}}"))


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (("-forward", "8080:[fd00::2]:80"), "with IPv6 on"),
        (("-ipv6", "on", "-forward", "8080:[2001:db8::5]:80"), "an address of fd"),
        (("-ipv6", "on", "-forward", "8080:[::1]:80"), "an address of fd"),
    ],
)
def test_a_forward_to_an_address_that_no_guest_has_is_refused(words: tuple[str, ...], allowed: str) -> None:
    text = refusal(*words)
    assert "is no address of a guest" in text
    assert allowed in text


def test_a_forward_to_a_mapped_address_is_refused() -> None:
    assert "is not an address of a guest" in refusal("-forward", "8080:[::ffff:10.0.0.1]:80")
