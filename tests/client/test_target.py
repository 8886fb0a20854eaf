"""The command line of attach: what is wrong is said with the flag, and with what is allowed."""

import pytest

from pipeline import cli
from pipeline.client import options
from pipeline.client.target import Target, checked
from pipeline.go import flags
from pipeline.wire import ip


def target(*words: str) -> Target:
    return checked(flags.parse(options.ATTACH, ["-socket", "unix:///run/taps", *words, "blue"]))


def test_without_an_address_dhcp_sets_it() -> None:
    made = target()
    assert (made.address, made.prefix, made.gateway) == (0, 0, 0)
    assert made.place.netns == "/run/netns/blue"
    assert made.path == "/run/taps"


def test_the_gateway_is_the_first_address_unless_a_flag_names_it() -> None:
    made = target("-address", "10.1.2.10/30", "-mac", "5A-94-ef-e4-0c-ee")
    assert (ip.text(made.address), made.prefix, ip.text(made.gateway)) == ("10.1.2.10", 30, "10.1.2.9")
    assert made.place.mac == bytes.fromhex("5a94efe40cee")
    made = target("-address", "10.1.2.1/24", "-gateway", "10.1.2.254")
    assert (ip.text(made.address), ip.text(made.gateway)) == ("10.1.2.1", "10.1.2.254")


@pytest.mark.parametrize(
    ("words", "flag", "allowed"),
    [
        (["-gateway", "192.168.127.1"], "-gateway needs -address", "with prefix length"),
        (["-address", "foo"], "-address: 'foo'", "such as 192.168.127.9/24"),
        (["-address", "fd00::2/64"], "-address: 'fd00::2/64'", "an IPv4 address"),
        (["-address", "192.168.127.9"], "-address: '192.168.127.9' has no prefix length", "127.9/24"),
        (["-address", "192.168.127.9/"], "-address: the prefix length", "1 to 30"),
        (["-address", "192.168.127.9/31"], "-address: the prefix length", "1 to 30"),
        (["-address", "192.168.127.9/0"], "-address: the prefix length", "1 to 30"),
        (["-address", "192.168.127.9/255.255.255.0"], "-address: the prefix length", "1 to 30"),
        (["-address", "192.168.127.0/24"], "-address: 192.168.127.0", "192.168.127.1 to 192.168.127.254"),
        (["-address", "192.168.127.255/24"], "-address: 192.168.127.255", "192.168.127.1 to"),
        (["-address", "192.168.127.1/24"], "-address: 192.168.127.1 is the first", "unless -gateway"),
        (["-address", "224.0.0.9/24"], "-address: 224.0.0.9", "such as 192.168.127.9/24"),
        (["-address", "10.0.0.9/24", "-gateway", "10.0.1.1"], "-gateway: 10.0.1.1", "10.0.0.1 to 10.0.0.254"),
        (["-address", "10.0.0.9/24", "-gateway", "10.0.0.9"], "-gateway: 10.0.0.9", "another of 10.0.0.1"),
        (["-address", "10.0.0.9/24", "-gateway", "fd00::1"], "-gateway: 'fd00::1'", "10.0.0.1 to"),
        (["-mac", "xx"], "-mac: 'xx'", "5a:94:ef:e4:0c:ee"),
        (["-mac", "01:00:5e:00:00:01"], "-mac: '01:00:5e:00:00:01'", "5a:94:ef:e4:0c:ee"),
        (["-mac", "00:00:00:00:00:00"], "-mac: '00:00:00:00:00:00'", "5a:94:ef:e4:0c:ee"),
        (["-iface", "a/b"], "-iface: 'a/b' is not a name of an interface", "such as tap0"),
        (["-iface", "tap0?netns=red"], "-iface: 'tap0?netns=red'", "such as tap0"),
        (["-mtu", "9"], "-mtu is out of range: 9", "68 to 65521"),
        (["-userns", "x"], "-userns: userns 'x'", "an absolute path"),
        (["-socket", "tcp://127.0.0.1:1"], "-socket: 'tcp://127.0.0.1:1'", "unix:///run/taps"),
        (["-socket", ""], "-socket is missing", "unix:///run/taps"),
    ],
)
def test_an_error_names_the_flag_and_what_is_allowed(
    words: list[str], flag: str, allowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["attach", "-socket", "unix:///run/taps", *words, "blue"]) == 2
    errors = capsys.readouterr().err
    assert flag in errors
    assert allowed in errors


@pytest.mark.parametrize("word", ["", "0", "a/b"])
def test_a_word_that_is_neither_a_process_nor_a_namespace_is_misuse(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["attach", "-socket", "unix:///run/taps", word]) == 2
    assert "PID|PATH: " in capsys.readouterr().err
