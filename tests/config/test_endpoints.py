"""The option of a link's URL in the configuration file and on the command line."""

import pytest

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
