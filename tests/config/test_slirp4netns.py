"""slirp4netns' command line, and the settings that it comes to."""

import pytest

from pipeline.config.slirp4netns import OptionError, Options, checked, config_of, parse, place
from pipeline.wire import ip

MAC = bytes.fromhex("5a94efe40cee")


def options(line: str) -> Options:
    return checked(*parse(line.split()))


def test_options_and_words_may_stand_in_any_order() -> None:
    own = options("-c 4711 --mtu=65520 -e 3 tap1 -r4 --enable-sandbox --enable-seccomp -6")
    assert (own.target, own.name, own.mtu, own.exit_fd, own.ready_fd) == ("4711", "tap1", 65520, 3, 4)
    assert own.configure
    assert own.ipv6
    assert place(own, MAC) == ("tap1", "/proc/4711/ns/net", "", MAC)


def test_a_path_names_the_namespaces() -> None:
    own = options("--netns-type=path --userns-path /proc/1/ns/user /run/netns/a tap0")
    assert place(own, b"")[1:3] == ("/run/netns/a", "/proc/1/ns/user")


def test_the_network_is_slirp4netns() -> None:
    network = config_of(options("-c 1 tap0"), MAC, "tap0").network
    texts = [ip.text(addr) for addr in (network.gateway_ip, network.name_server, network.device_ip)]
    assert texts == ["10.0.2.2", "10.0.2.3", "10.0.2.100"]
    assert {ip.text(addr): ip.text(to) for addr, to in network.nat.items()} == {"10.0.2.2": "127.0.0.1"}
    assert network.dhcp_static_leases == {network.device_ip: MAC}
    assert network.ipv6_first == 0


def test_without_configure_dhcp_begins_where_slirp4netns_does() -> None:
    network = config_of(options("--cidr 10.0.135.128/25 1 tap0"), MAC, "tap0").network
    assert [ip.text(addr) for addr in network.dhcp_static_leases] == ["10.0.135.143"]


def test_ipv6_has_slirp4netns_addresses() -> None:
    network = config_of(options("-6 1 tap0"), MAC, "tap0").network
    assert network.ipv6_prefix == "fd00::/64"
    assert [ip.text(addr) for addr in (network.ipv6_gateway, network.ipv6_host)] == ["fd00::2", "fd00::2"]
    assert ip.text(network.name_server6) == "fd00::3"


def test_what_is_switched_off_is_off() -> None:
    access = config_of(options("--disable-dns --disable-host-loopback 1 tap0"), MAC, "tap0").access
    assert access.disable == ("dns", "host-loopback", "api")
    assert not access.guest_api.enabled


@pytest.mark.parametrize(
    ("line", "address", "device"),
    [
        ("--outbound-addr 192.0.2.1", "192.0.2.1", ""),
        ("--outbound-addr eth0", "", "eth0"),
        ("--outbound-addr eth0 --outbound-addr6 eth0", "", "eth0"),
        ("--outbound-addr 127.0.0.1", "", ""),
    ],
)
def test_the_source_is_an_address_or_an_interface(line: str, address: str, device: str) -> None:
    network = config_of(options(f"{line} 1 tap0"), MAC, "tap0").network
    assert (network.outbound_address, network.outbound_interface) == (address, device)


def test_bess_has_a_socket_instead_of_a_tap() -> None:
    config = config_of(options("--target-type=bess /tmp/s"), b"", "")
    assert (config.links.bess, config.links.further) == ("unixpacket:///tmp/s", ())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "want PID"),
        ("1 tap0 more", "want PID"),
        ("tap0 1", "PID must be a positive integer"),
        ("--cidr 24 1", "invalid CIDR"),
        ("--cidr foo 1", "invalid CIDR"),
        ("--cidr 10.0.2.0 1", "invalid CIDR"),
        (
            "--cidr 10.0.2.100/24 1",
            "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
        ),
        ("--cidr 10.0.2.100/26 1", "prefix length needs to be 1-25"),
        ("--mtu 70000 1", "--mtu must be a number from 68 to 65521"),
        ("--mtu x 1", "--mtu must be a number"),
        ("--netns-type=name 1", "--netns-type must be pid or path"),
        ("--macaddress 5a:94:ef:e4:0c:ee 1", "only valid with --configure"),
        ("-c --macaddress 01:00:5e:00:00:01 1", "must be the MAC address of a machine"),
        ("--target-type=bess -c /s", "has neither --configure"),
        ("--outbound-addr6 fd00::1 1", "must be an interface"),
        ("--unknown 1", "option --unknown not recognized"),
        ("-m", "option -m requires argument"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(line: str, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        options(line)
    assert words in str(caught.value)
