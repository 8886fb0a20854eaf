"""Merging, derived addresses, the default mode and the order and words of refusals."""

import json
import os
from pathlib import Path

import pytest
import yaml

from pipeline.config.file import ConfigError
from pipeline.config.model import (
    PortForward,
    Record,
    SocketForward,
    Zone,
)
from pipeline.config.shown import as_file
from pipeline.engines.dns.zones import ZoneError, parse_zone
from pipeline.links import addresses
from pipeline.system import small_file
from pipeline.wire import ethernet, ip
from tests.config.built import build, refusal


def test_the_default_mode_is_gvproxys() -> None:
    config, warnings = build()
    assert warnings == ()
    assert config.network.mtu == 1500
    assert str(config.network.subnet) == "192.168.127.0/24"
    network = config.network
    texts = [ip.text(addr) for addr in (network.gateway_ip, network.device_ip, network.host_ip)]
    assert texts == ["192.168.127.1", "192.168.127.2", "192.168.127.254"]
    assert ethernet.mac_text(config.network.gateway_mac) == "5a:94:ef:e4:0c:dd"
    records = (Record("gateway", "192.168.127.1"), Record("host", "192.168.127.254"))
    assert config.network.dns_zones == (
        Zone("containers.internal.", records),
        Zone("docker.internal.", records),
    )
    assert config.access.forwards == (PortForward("tcp", "127.0.0.1:2222", "192.168.127.2:22"),)
    assert {ip.text(addr): ip.text(to) for addr, to in config.network.nat.items()} == {
        "192.168.127.254": "127.0.0.1"
    }
    assert config.network.gateway_virtual_ips == (config.network.host_ip,)
    assert {addr: ethernet.mac_text(mac) for addr, mac in config.network.dhcp_static_leases.items()} == {
        config.network.device_ip: "5a:94:ef:e4:0c:ee"
    }
    assert list(config.network.vpnkit_macs) == ["c3d68012-0208-11ea-9fd7-f2189899ab08"]
    assert (config.workers.tcp_workers, config.workers.egress_workers, config.workers.slots) == (1, 1, 512)


@pytest.mark.parametrize(
    ("subnet", "expected"),
    [
        ("192.168.127.1/24", ["192.168.127.1", "192.168.127.2", "192.168.127.254"]),
        ("10.10.0.0/16", ["10.10.0.1", "10.10.0.2", "10.10.255.254"]),
        ("172.16.16.16/12", ["172.16.0.1", "172.16.0.2", "172.31.255.254"]),
        ("10.0.0.8/29", ["10.0.0.9", "10.0.0.10", "10.0.0.14"]),
    ],
)
def test_addresses_derive_from_the_subnet(subnet: str, expected: list[str]) -> None:
    config, _ = build("-subnet", subnet)
    network = config.network
    assert [ip.text(addr) for addr in (network.gateway_ip, network.device_ip, network.host_ip)] == expected
    assert config.access.forwards[0].remote == f"{expected[1]}:22"
    assert list(config.network.nat) == [ip.parse_ipv4(expected[2])]


def test_the_file_wins_for_addresses_and_flags_fill_the_rest(file) -> None:
    path = file("stack: {subnet: 10.1.0.0/24, gatewayIP: 10.1.0.9}\n")
    config, _ = build(
        "-config", path, "-subnet", "10.2.0.0/24", "-gatewayIP", "10.2.0.7", "-deviceIP", "10.1.0.77"
    )
    assert str(config.network.subnet) == "10.1.0.0/24"
    assert ip.text(config.network.gateway_ip) == "10.1.0.9"
    assert ip.text(config.network.device_ip) == "10.1.0.77"
    assert ip.text(config.network.host_ip) == "10.1.0.254"


def test_flags_win_elsewhere(file) -> None:
    path = file(
        "listen: [unix:///a, unix:///b]\nlog-level: error\npid-file: /p\nservices: unix:///s\n"
        "notification: /n\ninterfaces: {qemu: 'unix:///nowhere/q'}\nstack: {mtu: 1400}\nslots: 128\n"
        "limits: {max-tcp-flows: 9}\n"
    )
    config, _ = build("-config", path)
    assert config.links.listen == ("unix:///a", "unix:///b")
    assert (config.logging.log_level, config.logging.pid_file) == ("error", "/p")
    assert (config.network.mtu, config.workers.slots) == (1400, 128)
    links = config.links
    assert (links.services, links.notification, links.qemu) == ("unix:///s", "/n", "unix:///nowhere/q")
    assert config.limits.max_tcp_flows == 9
    config, _ = build(
        *("-config", path, "-listen", "tcp://127.0.0.1:0", "-debug", "-pid-file", "/p2", "-mtu", "9000"),
        *("-services", "unix:///s2", "-notification", "unix:///n2", "-listen-qemu", "tcp://127.0.0.1:5"),
        *("-slots", "256", "-limit", "max-tcp-flows=0x10"),
    )
    assert config.links.listen == ("tcp://127.0.0.1:0",)
    assert (config.logging.log_level, config.logging.pid_file) == ("debug", "/p2")
    assert (config.network.mtu, config.workers.slots) == (9000, 256)
    links = config.links
    assert (links.services, links.notification, links.qemu) == ("unix:///s2", "/n2", "tcp://127.0.0.1:5")
    assert config.limits.max_tcp_flows == 16


def test_busy_polling_can_be_shortened_and_switched_off(file) -> None:
    assert build()[0].workers.busy_poll == 50
    path = file("busy-poll: 0\n")
    off, _ = build("-config", path)
    assert off.workers.busy_poll == 0
    assert as_file(off)["busy-poll"] == 0
    assert build("-config", path, "-busy-poll", "20")[0].workers.busy_poll == 20
    assert build("-busy-poll", "0")[0].workers.busy_poll == 0
    for wrong in ("51", "-2"):
        with pytest.raises(ConfigError, match=r"busy-poll must be a whole number from 0 to 50, not"):
            build("-busy-poll", wrong)
    with pytest.raises(ConfigError, match="busy-poll"):
        build("-config", file("busy-poll: 51\n"))


def test_a_file_switches_the_default_mode_off(file) -> None:
    config, warnings = build("-config", file(""), "-ssh-port", "3333", "-pcap", "/x")
    assert warnings == ("-ssh-port is ignored when -config is given: use stack.forwards",)
    assert config.access.forwards == ()
    assert config.network.dns_zones == ()
    assert config.network.dhcp_static_leases == {}
    assert config.logging.capture_file == ""
    assert config.network.nat == {config.network.host_ip: ip.parse_ipv4("127.0.0.1")}


def test_an_empty_nat_map_is_the_default_too(file) -> None:
    config, _ = build("-config", file("stack: {nat: {}}"))
    assert config.network.nat == {config.network.host_ip: ip.parse_ipv4("127.0.0.1")}


def test_minus_one_means_no_ssh_port() -> None:
    assert build("-ssh-port", "-1")[0].access.forwards == ()


def test_who_may_answer_datagrams_is_symmetric_unless_asked_for(file) -> None:
    path = file("udp-nat: full-cone")
    assert build()[0].network.udp_nat == "symmetric"
    assert build("-config", path)[0].network.udp_nat == "full-cone"
    assert build("-config", path, "-udp-nat", "symmetric")[0].network.udp_nat == "symmetric"
    with pytest.raises(ConfigError, match="udp-nat must be one of symmetric, full-cone, not 'cone'"):
        build("-udp-nat", "cone")
    with pytest.raises(ConfigError, match="udp-nat: must be symmetric or full-cone"):
        build("-config", file("udp-nat: nat64"))


def test_guests_are_guarded_unless_asked_for(file) -> None:
    path = file("guests: isolated")
    assert build()[0].access.guests == "guarded"
    assert build("-config", path)[0].access.guests == "isolated"
    assert build("-config", path, "-guests", "open")[0].access.guests == "open"
    with pytest.raises(
        ConfigError, match="guests must be one of guarded, isolated, apart, open, not 'closed'"
    ):
        build("-guests", "closed")
    with pytest.raises(ConfigError, match="guests: must be guarded or isolated or apart or open"):
        build("-config", file("guests: closed"))


def test_udp_forwards_of_the_file_have_their_prefix(file) -> None:
    config, _ = build(
        "-config", file("stack: {forwards: {'udp::53': '10.9.9.9:53', ':80': '192.168.127.2:8080'}}")
    )
    assert config.access.forwards == (
        PortForward("udp", ":53", "10.9.9.9:53"),
        PortForward("tcp", ":80", "192.168.127.2:8080"),
    )


def test_forwards_of_the_file_may_name_an_address_family(file) -> None:
    text = "tcp4::53: 10.9.9.9:53, 'udp6:[::]:1': 10.9.9.9:1, tcp::2: 10.9.9.9:2, tcp4:80: 10.9.9.9:80"
    config, _ = build("-config", file(f"stack: {{forwards: {{{text}}}}}\nproxy-protocol: {{tcp4::53: v2}}"))
    assert config.access.forwards == (
        PortForward("tcp4", ":53", "10.9.9.9:53", 2),
        PortForward("udp6", "[::]:1", "10.9.9.9:1"),
        PortForward("tcp", ":2", "10.9.9.9:2"),
        PortForward("tcp", "tcp4:80", "10.9.9.9:80"),
    )
    again, _ = build("-config", file(yaml.safe_dump(as_file(config), sort_keys=False)))
    assert again == config


def test_socket_forwards_of_flags_are_appended(file, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    path = file(f"forwards: [{{socket: /a, dest: /b, user: u, identity: {key}}}]\n")
    words = [
        "-forward-sock",
        "/c",
        "-forward-dest",
        "/d",
        "-forward-user",
        "v",
        "-forward-identity",
        str(key),
    ]
    config, _ = build("-config", path, *words)
    assert config.access.socket_forwards == (
        SocketForward("/a", "/b", "u", str(key)),
        SocketForward("/c", "/d", "v", str(key)),
    )


@pytest.mark.parametrize(
    "words", [["-ec2-metadata-access"], ["ec2-metadata-access: true"], ["stack: {ec2MetadataAccess: true}"]]
)
def test_every_way_to_allow_link_local_works(words: list[str], file) -> None:
    words = words if words[0].startswith("-") else ["-config", file(words[0])]
    assert build(*words)[0].access.ec2_metadata_access
    assert not build()[0].access.ec2_metadata_access


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("PANIC", "critical"),
        ("Fatal", "critical"),
        ("warn", "warning"),
        ("warning", "warning"),
        ("trace", "debug"),
    ],
)
def test_log_levels_have_many_names(text: str, level: str, file) -> None:
    assert build("-config", file(f"log-level: {text}"))[0].logging.log_level == level


def test_an_unknown_log_level_only_warns(file) -> None:
    config, warnings = build("-config", file("log-level: loud"))
    assert config.logging.log_level == "info"
    assert warnings == ('bad log level "loud", falling back to "info"',)


def test_an_mtu_that_no_frame_length_can_say_is_cut_with_a_warning() -> None:
    config, warnings = build("-mtu", "70000")
    assert config.network.mtu == 65521
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "ip", ["", "192.168.127.2", "fd00::1", "::ffff:1.2.3.4", "fd00::1/64", "1.2.3", "host"]
)
def test_the_file_takes_the_addresses_of_records_that_the_api_takes(ip: str, file) -> None:
    zone = {"name": "t.", "records": [{"name": "a", "ip": ip}], "defaultIP": ip}
    path = file(json.dumps({"stack": {"dns": [zone]}}))
    try:
        parse_zone(zone)
    except ZoneError:
        with pytest.raises(ConfigError, match="must be an IP address"):
            build("-config", path)
    else:
        assert build("-config", path)[0].network.dns_zones == (Zone("t.", (Record("a", ip),), ip),)


def test_notification_may_be_a_path_or_a_url_in_the_file(file) -> None:
    assert build("-config", file("notification: unix:///tmp/n"))[0].links.notification == "/tmp/n"
    assert build("-config", file("notification: /tmp/n%20n"))[0].links.notification == "/tmp/n%20n"


def test_percent_encoded_urls_name_the_same_file_for_everybody(tmp_path: Path, file) -> None:
    """An existing socket was not seen, and notifications went to a file that nobody listens at."""
    for scheme, flag in (("unix", "qemu"), ("unixpacket", "bess"), ("unixgram", "vfkit")):
        path = tmp_path / f"the {flag}"
        path.touch()
        url = f"{scheme}://{tmp_path}/the%20{flag}"
        assert addresses.socket_path(url) == str(path)
        assert refusal(f"-listen-{flag}", url) == f'"{path}" already exists'
    for words in (
        ["-notification", "unix:///tmp/n%20n"],
        ["-config", file("notification: unix:///tmp/n%20n")],
    ):
        assert build(*words)[0].links.notification == "/tmp/n n"


def test_search_domains_come_from_the_first_search_line(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 1.1.1.1\n search indented\nsearch  one.test two.test\nsearch three.test\n")
    assert build(resolv_conf=str(path))[0].network.dns_search_domains == ("one.test", "two.test")
    assert build(resolv_conf="/nowhere/resolv.conf")[0].network.dns_search_domains == ()


def test_unknown_keys_warn_and_do_not_stop(file) -> None:
    path = file("lisen: []\n")
    assert build("-config", path)[1] == (f"{path}: line 1: unknown key lisen, did you mean listen?",)


def test_keys_without_effect_are_told(file) -> None:
    config, warnings = build("-config", file("stack: {debug: true}"))
    assert config.logging.stack_debug
    assert warnings == ("stack.debug has no effect: packets are not written to the log",)


def test_wrong_yaml_stops_with_the_key(file) -> None:
    text = refusal("-config", file("stack: {mtu: x}"))
    assert text.startswith("failed to parse configuration: yaml: line 1: stack.mtu: must be ")


def test_further_links_of_the_file_come_before_those_of_the_line(file) -> None:
    path = file("links: [le16+vsock://:6656]")
    config, _ = build("-config", path, "-link", "bess+fd://3", "-link", "vfkit+unixgram:///nowhere/s")
    assert config.links.further == (
        ("le16", "vsock://:6656"),
        ("bess", "fd://3"),
        ("vfkit", "unixgram:///nowhere/s"),
    )
    assert as_file(config)["links"] == ["le16+vsock://:6656", "bess+fd://3", "vfkit+unixgram:///nowhere/s"]


@pytest.mark.parametrize(
    "url",
    [
        "vsock://:1024",
        "vsock://3:1024",
        "vsock://null:1024/dir",
        "vsock://00000400-FACB-11E6-BD58-64006A7986D3",
    ],
)
def test_every_form_of_a_vsock_address_is_taken(url: str) -> None:
    assert build("-listen", url)[0].links.listen == (url,)


@pytest.mark.parametrize("flag", ["-listen", "-services", "-listen-qemu", "-listen-bess", "-listen-vfkit"])
def test_a_passed_descriptor_may_stand_everywhere(flag: str) -> None:
    build(flag, "fd://3")
    build(flag, "fd://name")


def test_a_configuration_may_come_through_a_pipe(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"stack: {mtu: 1400}")
    os.close(writer)
    assert build("-config", f"/dev/fd/{reader}")[0].network.mtu == 1400
    os.close(reader)


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "{b: " * 100_000, "- " * 100_000])
def test_a_deeply_nested_configuration_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    words = refusal("-config", str(path))
    assert words.startswith("failed to parse configuration: ")
    assert len(words) < 500


def test_a_configuration_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_file, "MAX_BYTES", 3 << 20)
    assert refusal("-config", "/dev/zero") == (
        "failed to read config file: /dev/zero: it is too long (allowed: 3 MiB)"
    )


@pytest.mark.parametrize(
    "text, url",
    [
        ("127.0.0.1:9100", "tcp://127.0.0.1:9100"),
        ("[::1]:0", "tcp://[::1]:0"),
        ("unix:///run/m.sock", "unix:///run/m.sock"),
        ("tcp6://[::1]:9100", "tcp6://[::1]:9100"),
        ("", ""),
    ],
)
def test_metrics_are_an_address_or_a_url_by_flag_or_key(tmp_path: Path, text: str, url: str) -> None:
    assert build("-metrics", text)[0].links.metrics == url
    file = tmp_path / "config.yaml"
    file.write_text(f'metrics: "{text}"\n')
    assert build("-config", str(file))[0].links.metrics == url
    assert build("-config", str(file), "-metrics", "127.0.0.1:1")[0].links.metrics == "tcp://127.0.0.1:1"


@pytest.mark.parametrize("text", ["127.0.0.1:8080", "[::1]:0", "localhost:1", "127.9.9.9:65535"])
def test_the_web_page_has_an_address_of_loopback_by_flag_or_key(tmp_path: Path, text: str) -> None:
    assert build("-web", text)[0].links.web == f"tcp://{text}"
    assert build("-web", f"tcp://{text}")[0].links.web == f"tcp://{text}"
    file = tmp_path / "config.yaml"
    file.write_text(f'web: "{text}"\n')
    assert build("-config", str(file))[0].links.web == f"tcp://{text}"
    assert build("-config", str(file), "-web", "127.0.0.1:1")[0].links.web == "tcp://127.0.0.1:1"


@pytest.mark.parametrize(
    "text",
    [
        "8080",
        ":8080",
        "0.0.0.0:80",
        "[::]:80",
        "192.168.1.1:80",
        "host.example:80",
        "127.0.0.1",
        "127.0.0.1:x",
    ]
    + ["http://127.0.0.1:80", "unix:///run/web.sock", "a@127.0.0.1:80", "127.0.0.1:80/x", "127.0.0.1:99999"],
)
def test_no_other_address_is_taken_for_the_web_page(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("-web", text)
    assert str(caught.value) == (
        f'web: "{text}" is not an address of this host alone; '
        "allowed: 127.0.0.1:port, [::1]:port or localhost:port"
    )
