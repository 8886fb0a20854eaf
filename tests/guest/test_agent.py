"""The agent's command line, and its life in a namespace against a stand-in host."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest import agent as program
from guest.agent import FLAGS, options_from
from pipeline.go import flags
from pipeline.wire import dhcp, ip
from tests.support.agent import Agent, address, default_route, link_mtu
from tests.support.fake_host import FakeHost
from tests.support.netns import Namespace, Network, wait_for


def options(*words: str) -> program.Options:
    """The options of a command line."""
    return options_from(flags.parse(FLAGS, words))


def test_defaults_are_those_of_gvforwarder() -> None:
    made = options()
    assert made.url == "vsock://2:1024/connect"
    assert made.iface == "tap0"
    assert made.mac == bytes.fromhex("5a94efe40cee")
    assert made.mtu == 4000
    assert made.stop_if_exist == ("eth0", "ens3", "enp0s1")
    assert (made.preexisting, made.debug, made.dhcp, made.address) == (False, False, "auto", 0)


def test_a_static_address_switches_dhcp_off_and_knows_its_gateway() -> None:
    made = options("-address", "10.1.2.3/16")
    assert (made.dhcp, made.address, made.prefix) == ("none", ip.parse_ipv4("10.1.2.3"), 16)
    assert made.gateway == ip.parse_ipv4("10.1.0.1")
    assert options("-address=10.1.2.3/16", "-gateway", "10.1.9.9").gateway == ip.parse_ipv4("10.1.9.9")


def test_a_preexisting_interface_gets_no_dhcp() -> None:
    assert options("-preexisting", "-dhcp", "udhcpc").dhcp == "none"


def test_numbers_are_those_of_go() -> None:
    assert options("-mtu", "017").mtu == 15
    assert options("-mtu", "1_500", "-link-mtu=0x5dc").link_mtu == 1500


@pytest.mark.parametrize(
    "words, text",
    [
        (["-mtu", "99999999999999999999"], "flag -mtu: value out of range"),
        (["-mtu", " 5"], 'invalid value " 5" for flag -mtu: parse error'),
        (["-mac", 'a"b'], 'invalid value "a\\"b" for flag -mac: not a MAC address'),
        (["url", "unix:///a"], 'unexpected argument "url": a flag begins with a dash'),
        (
            ["-url", "http://a/"],
            'invalid value "http://a/" for flag -url: '
            "it must be vsock://CID:PORT/connect, unix:///path or stdio:/program",
        ),
        (["-url", "unix://"], 'invalid value "unix://" for flag -url: it must be vsock://CID:PORT/connect'),
        (
            ["-url", "vsock://host:1"],
            "invalid value \"vsock://host:1\" for flag -url: bad vsock address 'host:1': it must be CID:PORT",
        ),
    ],
)
def test_a_wrong_value_is_told_as_go_tells_it(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(words) == 2
    assert text in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    "words",
    [
        ["-mac", "nonsense"],
        ["-dhcp", "other"],
        ["-address", "300.1.1.1/24"],
        ["-address", "10.0.0.2/24", "-gateway", "x"],
        ["-mtu", "-1"],
        ["-link-mtu", "65522"],
    ],
)
def test_a_value_that_makes_no_sense_ends_with_status_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(words) == 2
    assert "Usage of gvtap-guest:" in capsys.readouterr().err


def test_version_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["-version"]) == 0
    assert capsys.readouterr().out.startswith("gvtap-guest version ")


def test_help_goes_to_standard_error_and_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["-help"]) == 0
    text = capsys.readouterr().err
    assert text.startswith("Usage of gvtap-guest:\n  -address string\n")
    assert "\n  -mtu int\n    \tbuffer size" in text
    assert (
        '\n  -url string\n    \turl where the tap send packets (default "vsock://2:1024/connect")\n' in text
    )
    assert "checksums left undone (default true)\n" in text


def test_an_existing_interface_ends_it_with_status_0() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "guest.agent", "-stop-if-exist", "nosuch,lo"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert 'msg="interface lo prevented this program to run (-stop-if-exist)"' in done.stderr


def test_it_runs_on_the_standard_library_alone() -> None:
    wanted = "import sys, guest.agent, guest.dhcp_client; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", wanted], capture_output=True, text=True, cwd=program.__file__[:-14]
    )
    assert done.returncode == 0, done.stderr
    tops = {name.partition(".")[0] for name in done.stdout.split()}
    foreign = {name for name in tops - set(sys.stdlib_module_names) if not name.startswith("_")}
    assert foreign == {"guest", "pipeline"}


def test_it_tries_again_for_ever_a_second_apart(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "guest.agent", "-url", f"unix://{tmp_path}/none", "-stop-if-exist="],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    began = time.monotonic()
    second = process.stderr.readline()
    assert 0.8 < time.monotonic() - began < 3
    assert f"cannot connect to unix://{tmp_path}/none: no such file or directory" in first
    assert second[30:] == first[30:]
    process.terminate()
    assert process.wait(5) == 0
    process.stderr.close()


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def guest(network: Network) -> Namespace:
    network.guest.resolv_conf.write_text("")
    return network.guest


@pytest.fixture
def host(network: Network) -> Iterator[FakeHost]:
    path = network.directory / "host.sock"
    with FakeHost(path) as made:
        yield made
    path.unlink()


@pytest.mark.e2e
class TestInANamespace:
    """A tap, an address, and the link going away."""

    @pytest.mark.parametrize(
        "words, header",
        [(("-offload=false",), b""), ((), b"Gvtap-Offload: 1\r\n")],
        ids=["without offload", "by default"],
    )
    def test_the_request_is_that_of_gvforwarder_but_for_the_offload_header(
        self, guest: Namespace, host: FakeHost, words: tuple[str, ...], header: bytes
    ) -> None:
        with Agent(guest, host.path, *words):
            assert host.requests == [
                b"POST /connect HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\n"
                + header
                + b"Content-Length: 0\r\n\r\n"
            ]

    def test_the_builtin_client_sets_address_route_mtu_and_resolver(
        self, guest: Namespace, host: FakeHost
    ) -> None:
        host.mtu = 4000
        with Agent(guest, host.path):
            assert address(guest) == "192.168.127.2/24"
            assert default_route(guest) == "192.168.127.1"
            assert link_mtu(guest) == 4000
            assert resolver_lines(guest) == ["search example.test", "nameserver 192.168.127.1"]

    def test_the_builtin_client_renews_its_lease_by_unicast(self, guest: Namespace, host: FakeHost) -> None:
        host.lease_seconds = 2
        with Agent(guest, host.path):
            # The stand-in answers ARP for nobody, so the test does it for the guest's kernel.
            guest.ip("neigh", "replace", "192.168.127.1", "lladdr", "5a:94:ef:e4:0c:dd", "dev", "tap0")
            wait_for(lambda: len(host.messages) > 3, "two renewals", 8)
            assert [message.kind for message in host.messages[:2]] == [dhcp.DISCOVER, dhcp.REQUEST]
            for renewal in host.messages[2:]:
                assert (renewal.kind, renewal.ciaddr) == (dhcp.REQUEST, ip.parse_ipv4("192.168.127.2"))

    def test_a_static_address_needs_no_server(self, guest: Namespace, host: FakeHost) -> None:
        flags = ("-address", "192.168.127.9/24", "-link-mtu", "1400", "-resolv-conf", "/etc/resolv.conf")
        with Agent(guest, host.path, *flags):
            assert address(guest) == "192.168.127.9/24"
            assert default_route(guest) == "192.168.127.1"
            assert link_mtu(guest) == 1400
            assert resolver_lines(guest) == ["nameserver 192.168.127.1"]
            assert host.messages == []

    def test_it_comes_back_with_a_new_tap_when_the_host_hangs_up(
        self, guest: Namespace, host: FakeHost
    ) -> None:
        with Agent(guest, host.path) as agent:
            host.hang_up()
            wait_for(lambda: address(guest) == "", "the tap vanishes", 5, 0.01)
            wait_for(lambda: len(host.requests) == 2, "a second request", 5)
            agent.wait_for_address()
            assert agent.process.poll() is None

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_with_status_0_and_takes_tap_and_client_away(
        self, guest: Namespace, host: FakeHost, number: int
    ) -> None:
        agent = Agent(guest, host.path)
        agent.start()
        agent.wait_for_address()
        agent.process.send_signal(number)
        assert agent.process.wait(3) == 0
        assert address(guest) == ""
        left = subprocess.run(["ip", "netns", "pids", guest.name], capture_output=True, text=True).stdout
        assert left == ""

    def test_a_frame_from_the_host_longer_than_the_mtu_flag_reaches_the_kernel(
        self, guest: Namespace, host: FakeHost
    ) -> None:
        with Agent(guest, host.path, "-mtu", "1000"):
            before = _received_bytes(guest)
            host.send(bytes.fromhex("5a94efe40cee5a94efe40cdd88b5") + b"x" * 9000)
            wait_for(lambda: _received_bytes(guest) - before >= 9014, "9014 bytes received", 3)

    def test_frames_of_mtu_and_header_pass_whole(self, guest: Namespace, host: FakeHost) -> None:
        flags = ("-address", "192.168.127.2/24", "-link-mtu", "65521", "-mtu", "1500")
        with Agent(guest, host.path, *flags):
            guest.ip("neigh", "replace", "192.168.127.1", "lladdr", "5a:94:ef:e4:0c:dd", "dev", "tap0")
            guest.run("ping", "-c", "1", "-W", "1", "-s", str(65507 - 14), "192.168.127.1", check=False)
            wait_for(lambda: max(map(len, host.frames), default=0) == 65507 - 14 + 8 + 20 + 14, "a frame", 3)

    def test_a_preexisting_tap_is_left_as_it_is(self, guest: Namespace, host: FakeHost) -> None:
        guest.ip("tuntap", "add", "tap7", "mode", "tap")
        guest.ip("link", "set", "tap7", "address", "02:00:00:00:00:07", "up")
        agent = Agent(guest, host.path, "-preexisting", "-iface", "tap7")
        agent.start()
        wait_for(lambda: host.requests, "a request")
        guest.ip("address", "add", "192.168.127.7/24", "dev", "tap7")
        carrier = ("cat", "/sys/class/net/tap7/carrier")
        wait_for(lambda: guest.run(*carrier).stdout == "1\n", "the agent at the tap")
        guest.run("ping", "-c", "1", "-W", "1", "192.168.127.1", check=False)
        arp = wait_for(lambda: [f for f in host.frames if f[12:14] == b"\x08\x06"], "an ARP request")
        assert arp[0][6:12] == bytes.fromhex("020000000007")
        agent.stop()
        assert "tap7" in guest.run("ip", "link").stdout
        guest.ip("link", "del", "tap7")

    def test_a_program_can_be_the_link(self, guest: Namespace, tmp_path: Path) -> None:
        record = tmp_path / "arguments"
        child = tmp_path / "child"
        child.write_text(f'#!/bin/sh\necho "$@" > {record}.part; mv {record}.part {record}\nexec cat\n')
        child.chmod(0o755)
        url = f"stdio:{child}?listen-stdio=accept&ssh-port=-1"
        agent = Agent(guest, tmp_path / "unused", "-url", url, "-address", "192.168.127.2/24")
        agent.start()
        wait_for(record.exists, "the child's arguments")
        assert record.read_text().split() == ["-listen-stdio=accept", "-ssh-port=-1"]
        agent.wait_for_address()
        agent.stop()


def resolver_lines(guest: Namespace) -> list[str]:
    """The lines of the guest's resolv.conf that count."""
    return [line for line in guest.resolv_conf.read_text().splitlines() if not line.startswith("#")]


def _received_bytes(guest: Namespace) -> int:
    return int(guest.run("cat", "/sys/class/net/tap0/statistics/rx_bytes").stdout)
