"""What is refused at the start: the words, and the order of checks."""

from pathlib import Path

import pytest

from pipeline.config import merge, options
from pipeline.config.file import ConfigError
from pipeline.go import flags
from pipeline.links import vxlan_url
from tests.config.built import refusal

VXLAN = "vxlan+udp://127.0.0.1?vni=7&remote=127.0.0.2"
TAP_ALLOWED = "(allowed: tap+NAME[?netns=NAME-or-path][&userns=path][&mac=address] or fd://)"
PREFIX = "failed to validate configuration IPs: "


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-subnet", "nonsense"], "failed to parse subnet: invalid CIDR address: nonsense"),
        (["-subnet", "10.0.0.0"], "failed to parse subnet: invalid CIDR address: 10.0.0.0"),
        (
            ["-subnet", "10.0.0.0/255.0.0.0"],
            "failed to parse subnet: invalid CIDR address: 10.0.0.0/255.0.0.0",
        ),
        (["-subnet", "fc00::/64"], "failed to parse subnet: only IPv4 subnets are served, not fc00::/64"),
        (
            ["-subnet", "10.0.0.0/30"],
            "failed to identify usable gateway IP address in subnet: subnet too small",
        ),
        (
            ["-subnet", "10.0.0.0/30", "-gatewayIP", "10.0.0.1"],
            "failed to identify usable device IP address in subnet: subnet too small",
        ),
        (["-gatewayIP", "hello"], PREFIX + "invalid IP address: hello"),
        (["-deviceIP", "10.0.0.1"], PREFIX + "IP (10.0.0.1) not in subnet (192.168.127.0/24)"),
        (["-hostIP", "192.168.127.0"], PREFIX + "IP must not be address of subnet: 192.168.127.0"),
        (["-hostIP", "192.168.127.255"], PREFIX + "IP must not be broadcast address: 192.168.127.255"),
        (["-hostIP", "192.168.127.1"], PREFIX + "IP addresses need to be distinct"),
        (["-notification", "tcp://a"], "notification listen address must be unix:// address"),
        (["-listen-bess", "unix:///a"], "bess listen address must be unixpacket:// address"),
        (["-listen-vfkit", "unix:///a"], "vfkit listen address must be unixgram:// address"),
        (
            ["-listen-qemu", "unix:///nowhere/q", "-listen-vpnkit", "unix:///nowhere/v"],
            "cannot use qemu and vpnkit protocol at the same time",
        ),
        (
            ["-listen-bess", "unixpacket:///nowhere/q", "-listen-vpnkit", "unix:///nowhere/v"],
            "cannot use bess and vpnkit protocol at the same time",
        ),
        (
            ["-listen-qemu", "unix:///nowhere/q", "-listen-bess", "unixpacket:///nowhere/v"],
            "cannot use qemu and bess protocol at the same time",
        ),
        (["-ssh-port", "1023"], "ssh-port value must be between 1024 and 65535"),
        (["-ssh-port", "65536"], "ssh-port value must be between 1024 and 65535"),
        (["-ssh-port", "0"], "ssh-port value must be between 1024 and 65535"),
        (
            ["-forward-sock", "/a"],
            "--forward-sock, --forward-dest, --forward-user, and --forward-identity must all be specified "
            "together, the same number of times, or not at all",
        ),
        (
            [
                "-forward-sock",
                "/a",
                "-forward-dest",
                "/b",
                "-forward-user",
                "u",
                "-forward-identity",
                "/nowhere/k",
            ],
            'identity file "/nowhere/k" can\'t be loaded: stat /nowhere/k: no such file or directory',
        ),
        (["-config", "/nowhere/c"], "failed to read config file: open /nowhere/c: no such file or directory"),
        (["-mtu", "-5"], "mtu is out of range: -5 (allowed: 68 to 65521)"),
        (
            ["-listen", "http://a"],
            'cannot listen: unexpected scheme: "http://a" '
            "(allowed: unix://, tcp://, tcp4://, tcp6://, vsock://, fd://)",
        ),
        (["-services", "tcp://a"], "cannot listen: address a: missing port in address"),
        (["-services", "fd://"], "cannot listen: fd://: descriptors have the form fd://3 or fd://name"),
        (
            ["-metrics", "9100"],
            "metrics: address 9100: missing port in address; allowed: host:port or unix:///path",
        ),
        (
            ["-metrics", ":9100"],
            "metrics: address :9100: missing host, such as 127.0.0.1; allowed: host:port or unix:///path",
        ),
        (
            ["-metrics", "vsock://:9100"],
            'metrics: unexpected scheme: "vsock://:9100" '
            "(allowed: unix://, tcp://, tcp4://, tcp6://, fd://); allowed: host:port or unix:///path",
        ),
        (
            ["-link", "unix:///s"],
            'link: "unix:///s" must begin with a protocol '
            "(allowed: qemu+, le16+, vpnkit+, bess+, vfkit+, fd+, vhost-user+, tap+, vxlan+)",
        ),
        (["-link", "tap+"], f"link: tap: '' is not a name of an interface {TAP_ALLOWED}"),
        (
            ["-link", "tap+fd://"],
            "link: tap: fd://: descriptors have the form fd://3 or fd://name",
        ),
        (
            ["-link", "tap+fd://3", "-link", "tap+fd://3"],
            'link: tap: "fd://3" is a link already (allowed: once)',
        ),
        (
            ["-link", "vxlan+udp://127.0.0.1?vni=7"],
            f"link: vxlan: remote is missing (allowed: {vxlan_url.FORM})",
        ),
        (
            ["-link", VXLAN, "-link", VXLAN.replace("vni=7", "vni=8")],
            "link: vxlan: there is a link to other hosts already (allowed: one)",
        ),
        (
            ["-link", VXLAN, "-guests", "isolated"],
            "link: vxlan: guests isolated lets no frame pass (allowed for guests: guarded, open)",
        ),
        (
            ["-link", VXLAN, "-guests", "apart"],
            "link: vxlan: guests apart lets no frame pass (allowed for guests: guarded, open)",
        ),
        (["-link", "tap+a/b"], f"link: tap: 'a/b' is not a name of an interface {TAP_ALLOWED}"),
        (["-link", "tap+eth0?net=b"], f"link: tap: unknown setting 'net' {TAP_ALLOWED}"),
        (["-link", "tap+eth0?netns="], f"link: tap: netns has no value {TAP_ALLOWED}"),
        (
            ["-link", "tap+eth0?netns=a", "-link", "tap+eth0?netns=a"],
            'link: tap: "eth0?netns=a" is a link already (allowed: once)',
        ),
        (
            ["-link", "bess+unix:///s"],
            'link: bess: unexpected scheme: "unix:///s" (allowed: unixpacket://, fd://)',
        ),
        (
            ["-listen-vfkit", "unixgram:///s?vent"],
            "vfkit listen address: unixgram:///s?vent: unknown option 'vent' "
            "(allowed: vnet, or vnet= and some of csum, tso4, tso6 with commas between them, or none)",
        ),
        (
            ["-listen-qemu", "unix:///s?vnet=tso4"],
            "invalid value for qemu listen address: unix:///s?vnet=tso4: "
            "option vnet: tso4 and tso6 need csum",
        ),
        (
            ["-link", "le16+unix:///s?vnet"],
            "link: le16: unix:///s?vnet: option vnet: frames of le16 cannot have a virtio-net header "
            "(allowed: qemu, bess, vfkit, fd)",
        ),
        (["-link", "vfkit+unixgram://"], "link: vfkit: unixgram://: missing path of the socket"),
        (["-link", "qemu+unix:///dev/null"], '"/dev/null" already exists'),
        (["-listen", "unix://"], "cannot listen: unix://: missing path of the socket"),
        (["-tcp-workers", "65"], "tcp-workers must be a whole number from 1 to 64, not 65"),
        (["-limit", "max-tcp-flow=3"], 'limit: unknown name "max-tcp-flow", did you mean max-tcp-flows?'),
        (
            ["-limit", "max-tcp-flows=x"],
            'limit: max-tcp-flows must be a whole number from 1 to 1048576, not "x"',
        ),
    ],
)
def test_refusals_have_their_words(words: list[str], text: str) -> None:
    assert refusal(*words) == text


def test_checks_run_in_order(tmp_path: Path) -> None:
    socket = tmp_path / "q"
    socket.touch()
    words = ["-ssh-port", "1"]
    assert refusal(*words).startswith("ssh-port")
    words += ["-listen-vfkit", "bad"]
    assert refusal(*words).startswith("vfkit")
    words += ["-listen-bess", f"unixpacket://{socket}"]
    assert refusal(*words) == f'"{socket}" already exists'
    words += ["-listen-qemu", "bad"]
    assert refusal(*words).startswith("invalid value for qemu listen address")
    words += ["-notification", "bad"]
    assert refusal(*words).startswith("notification")
    words += ["-hostIP", "bad"]
    assert refusal(*words).startswith("failed to validate configuration IPs")
    words += ["-subnet", "bad"]
    assert refusal(*words).startswith("failed to parse subnet")


def test_an_existing_qemu_socket_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "qemu.sock"
    path.touch()
    assert refusal("-listen-qemu", f"unix://{path}") == f'"{path}" already exists'
    assert path.exists()


def test_a_log_file_that_cannot_be_made_is_told_before_the_subnet() -> None:
    def fail(_path: str) -> None:
        raise PermissionError(13, "no")

    parsed = flags.parse(options.START, ["-log-file", "/x/log", "-subnet", "bad"])
    with pytest.raises(ConfigError, match="unable to open log file /x/log"):
        merge.build(parsed, try_log_file=fail)
