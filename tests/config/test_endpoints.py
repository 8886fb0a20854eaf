"""The option of a link's URL in the configuration file and on the command line."""

import errno

import pytest

from pipeline.system import path_mtu
from tests.config.built import build, refusal


def test_the_option_of_a_link_may_stand_in_the_file(file) -> None:
    path = file(
        "interfaces: {vfkit: 'unixgram:///nowhere/s?vnet'}\nlinks: ['fd+unix:///nowhere/f?vnet=csum']\n"
    )
    config, _ = build("-config", path)
    assert config.links.vfkit == "unixgram:///nowhere/s?vnet"
    assert config.links.further == (("fd", "unix:///nowhere/f?vnet=csum"),)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("links: ['bess+unixpacket:///s?vnet=lro']", "link: bess: unixpacket:///s?vnet=lro: option vnet: "),
        (
            "interfaces: {vfkit: 'unixgram:///s?x'}",
            "vfkit listen address: unixgram:///s?x: unknown option 'x'",
        ),
        (
            "interfaces: {vhost-user: 'unix:///s?vnet'}",
            "frames of vhost-user cannot have a virtio-net header",
        ),
        ("interfaces: {vpnkit: 'unix:///s?vnet'}", "frames of vpnkit cannot have a virtio-net header"),
    ],
)
def test_a_wrong_option_in_the_file_is_named(file, key: str, words: str) -> None:
    assert words in refusal("-config", file(key))


@pytest.mark.parametrize(
    "flag", ["-listen-qemu=tcp://127.0.0.1:0?vnet", "-listen-bess=unixpacket:///n/s?vnet=none"]
)
def test_the_option_stands_on_the_command_line(flag: str) -> None:
    config, _ = build(flag)
    assert flag.partition("=")[2] in (config.links.qemu, config.links.bess)


VXLAN = "vxlan+udp://127.0.0.1?vni=7&remote=127.0.0.2,127.0.0.3"


@pytest.mark.parametrize(("path", "mtu"), [(1500, 1450), (1420, 1370), (65536, 1500)])
def test_with_other_hosts_the_mtu_is_what_fits_the_path(
    monkeypatch: pytest.MonkeyPatch, path: int, mtu: int
) -> None:
    monkeypatch.setattr(path_mtu, "toward", lambda _: path)
    config, warnings = build("-link", VXLAN)
    assert config.links.further == (("vxlan", VXLAN.partition("+")[2]),)
    assert config.network.mtu == mtu
    assert warnings == ()


def test_an_mtu_that_does_not_fit_the_path_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_mtu, "toward", lambda _: 1500)
    config, warnings = build("-link", VXLAN, "-mtu", "1500")
    assert config.network.mtu == 1500
    assert warnings == (
        "an MTU of 1500 does not fit the path to other hosts, which takes packets of 1450 bytes",
    )


def test_without_a_route_to_other_hosts_the_usual_mtu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(_: str) -> int:
        raise OSError(errno.ENETUNREACH, "unreachable")

    monkeypatch.setattr(path_mtu, "toward", no_route)
    assert build("-link", VXLAN)[0].network.mtu == 1450
