"""What the guest's network works without: it is logged when it fails, and the link stays as it is.

Also what becomes of resolv.conf when the agent ends, in whatever way.
"""

import errno
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest import agent as program
from guest import offload
from guest.dhcp_client import configure, unconfigure
from guest.dhcp_states import Lease
from guest.resolv_conf import NONE, ResolvConf
from pipeline.system import netlink
from pipeline.system.tap import Tap
from pipeline.wire import dhcp, ip
from tests.support.agent import Agent, address, default_route, link_mtu
from tests.support.fake_host import FakeHost
from tests.support.netns import Namespace, Network, wait_for

OLD = "# the guest's own\nnameserver 10.9.9.9\n"
STATIC = ("-address", "192.168.127.2/24")
LEASE = Lease(
    address=ip.parse_ipv4("192.168.127.2"),
    prefix=24,
    router=ip.parse_ipv4("192.168.127.1"),
    dns=(),
    search=(),
    mtu=1500,
    server=ip.parse_ipv4("192.168.127.1"),
    seconds=60.0,
)


def refuse(*_: object) -> None:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.mark.parametrize("name", ["set_mtu", "set_default_route"])
def test_a_lease_is_used_though_the_kernel_refuses_its_mtu_or_route(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []
    for step in ("set_mtu", "set_address", "set_default_route"):
        monkeypatch.setattr(netlink, step, lambda *_, step=step: done.append(step))
    monkeypatch.setattr(netlink, name, refuse)
    configure("tap0", LEASE, ResolvConf(NONE, "tap0"))
    assert done == [step for step in ("set_mtu", "set_address", "set_default_route") if step != name]
    assert "invalid argument; going on without" in caplog.text


def test_the_end_of_a_lease_whose_address_somebody_has_removed_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(netlink, "remove_address", refuse)
    unconfigure("tap0", LEASE, ResolvConf(NONE, "tap0"))
    assert "cannot remove 192.168.127.2" in caplog.text


class StubTap(Tap):
    """A tap that takes neither MTU nor MAC."""

    def __init__(self) -> None:
        super().__init__(-1, "tap0")
        self.up = False

    def set_mtu(self, mtu: int) -> None:
        refuse()

    def set_mac(self, mac: bytes) -> None:
        refuse()

    def set_up(self) -> None:
        self.up = True


def test_a_tap_that_refuses_mtu_and_mac_is_set_up(caplog: pytest.LogCaptureFixture) -> None:
    tap = StubTap()
    options = program.options_from(program.flags.parse(program.FLAGS, ["-link-mtu", "9000"]))
    program._set_up(tap, options, ResolvConf(NONE, "tap0"))
    assert tap.up
    assert "cannot set the MTU 9000" in caplog.text
    assert "cannot set the MAC address 5a:94:ef:e4:0c:ee" in caplog.text


def test_a_kernel_that_refuses_offload_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[bool] = []

    def serve_once(options: program.Options) -> None:
        asked.append(options.offload)
        if len(asked) == 3:
            raise SystemExit(0)
        if options.offload:
            raise offload.RefusedError("no")

    monkeypatch.setattr(program, "serve_once", serve_once)
    monkeypatch.setattr(program, "RETRY_SECONDS", 0.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit):
            program.main(["-stop-if-exist="])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert asked == [True, False, False]
    assert "no; going on without" in caplog.text


@pytest.mark.parametrize("number, refused", [(errno.EINVAL, True), (errno.EBUSY, False)])
def test_only_what_the_kernel_does_not_know_counts_as_refused(
    number: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, flags: int = 0) -> Tap:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Tap, "open", fail)
    terms = offload.PLAIN._replace(vnet_len=12)
    with pytest.raises(offload.RefusedError if refused else OSError):
        offload.open_tap("tap0", terms)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def guest(network: Network) -> Namespace:
    network.guest.resolv_conf.write_text(OLD)
    return network.guest


@pytest.fixture
def host(network: Network) -> Iterator[FakeHost]:
    path = network.directory / "host.sock"
    with FakeHost(path) as made:
        yield made
    path.unlink()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file on a file system that is mounted read-only."""
    place = tmp_path / "read-only"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        (place / "resolv.conf").write_text(OLD)
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        yield place / "resolv.conf"
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.e2e
class TestInANamespace:
    """A guest with a stand-in host, which must see one request: the link is never given up."""

    def says(self, agent: Agent, text: str) -> None:
        """Wait until the agent's log has text."""
        wait_for(lambda: text in agent.log_path.read_text(), f"{text!r} in the log")

    @pytest.mark.parametrize("flags", [(), STATIC], ids=["dhcp", "static"])
    def test_a_read_only_resolv_conf_does_not_take_the_network_down(
        self, guest: Namespace, host: FakeHost, read_only: Path, flags: tuple[str, ...]
    ) -> None:
        with Agent(guest, host.path, "-dhcp", "builtin", "-resolv-conf", str(read_only), *flags) as agent:
            self.says(agent, f"cannot name the DNS servers in {read_only}")
            assert address(guest) == "192.168.127.2/24"
            assert default_route(guest) == "192.168.127.1"
        assert len(host.requests) == 1
        assert read_only.read_text() == OLD

    @pytest.mark.parametrize("flags", [(), STATIC], ids=["dhcp", "static"])
    def test_a_dangling_resolv_conf_does_not_take_the_network_down(
        self, guest: Namespace, host: FakeHost, tmp_path: Path, flags: tuple[str, ...]
    ) -> None:
        link = tmp_path / "resolv.conf"
        link.symlink_to("nowhere/stub.conf")
        with Agent(guest, host.path, "-dhcp", "builtin", "-resolv-conf", str(link), *flags) as agent:
            self.says(agent, f"cannot name the DNS servers in {link}")
            assert address(guest) == "192.168.127.2/24"
            assert default_route(guest) == "192.168.127.1"
        assert len(host.requests) == 1

    def test_an_mtu_that_the_kernel_refuses_does_not_take_the_network_down(
        self, guest: Namespace, host: FakeHost
    ) -> None:
        host.mtu = 65535  # more than a tap takes
        with Agent(guest, host.path) as agent:
            self.says(agent, "cannot set the MTU 65535")
            assert address(guest) == "192.168.127.2/24"
            assert link_mtu(guest) == 1500
        assert len(host.requests) == 1

    def test_a_mac_that_the_kernel_refuses_does_not_take_the_network_down(
        self, guest: Namespace, host: FakeHost
    ) -> None:
        with Agent(guest, host.path, mac="01:00:5e:00:00:01") as agent:
            self.says(agent, "cannot set the MAC address 01:00:5e:00:00:01")
            assert address(guest) == "192.168.127.2/24"
        assert len(host.requests) == 1

    def test_a_gateway_that_is_out_of_reach_does_not_take_the_network_down(
        self, guest: Namespace, host: FakeHost
    ) -> None:
        agent = Agent(guest, host.path, *STATIC, "-gateway", "10.1.1.1")
        agent.start()
        self.says(agent, "cannot route by 10.1.1.1")
        assert address(guest) == "192.168.127.2/24"
        agent.stop()
        assert len(host.requests) == 1

    def test_another_program_at_port_68_does_not_keep_the_lease_from_being_renewed(
        self, guest: Namespace, host: FakeHost
    ) -> None:
        other = guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        other.bind(("", 68))
        host.lease_seconds = 2
        with other, Agent(guest, host.path) as agent:
            wait_for(lambda: len(host.messages) > 3, "two renewals", 8)
            assert {message.kind for message in host.messages[2:]} == {dhcp.REQUEST}
            assert address(guest) == "192.168.127.2/24"
            self.says(agent, "cannot bind to port 68 of 192.168.127.2")
        assert len(host.requests) == 1

    @pytest.mark.parametrize(
        "script",
        ["exit 1", "exit 0", "ip address add 192.168.127.99/24 dev tap0; exit 1"],
        ids=["fails", "does nothing", "fails at the end"],
    )
    def test_a_dhcp_script_that_fails_does_not_take_the_network_down(
        self, guest: Namespace, host: FakeHost, tmp_path: Path, script: str
    ) -> None:
        agent = Agent(guest, host.path, "-dhcp", "auto", env=self.environment(tmp_path, "udhcpc", script))
        agent.start()
        wait_for(lambda: default_route(guest) == "192.168.127.1", "a route", 15)
        assert "192.168.127.2/24" in guest.run("ip", "-4", "address", "show", "dev", "tap0").stdout
        self.says(agent, "the next DHCP client takes its place")
        agent.stop()
        assert len(host.requests) == 1

    def test_a_chosen_dhcp_client_that_fails_does_not_take_its_address_away(
        self, guest: Namespace, host: FakeHost, tmp_path: Path
    ) -> None:
        script = "ip address add 192.168.127.99/24 dev tap0; exit 3"
        env = self.environment(tmp_path, "udhcpc", script)
        agent = Agent(guest, host.path, "-dhcp", "udhcpc", env=env)
        agent.start()
        self.says(agent, "udhcpc ended with status 3; tap0 keeps its address")
        assert address(guest) == "192.168.127.99/24"
        agent.stop()
        assert len(host.requests) == 1

    def test_names_resolve_where_no_dhcp_client_is_installed(
        self, guest: Namespace, host: FakeHost, tmp_path: Path
    ) -> None:
        with Agent(guest, host.path, "-dhcp", "auto", env=self.environment(tmp_path)):
            assert lines(guest) == ["search example.test", "nameserver 192.168.127.1"]
        assert guest.resolv_conf.read_text() == OLD

    @pytest.mark.parametrize(
        "flags", [(), (*STATIC, "-resolv-conf", "/etc/resolv.conf")], ids=["dhcp", "static"]
    )
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_resolv_conf_is_the_old_one_after_a_signal(
        self, guest: Namespace, host: FakeHost, number: int, flags: tuple[str, ...]
    ) -> None:
        agent = Agent(guest, host.path, *flags)
        agent.start()
        agent.wait_for_address()
        assert lines(guest)[-1] == "nameserver 192.168.127.1"
        agent.process.send_signal(number)
        agent.process.send_signal(number)
        assert agent.process.wait(5) == 0
        assert guest.resolv_conf.read_text() == OLD

    def test_resolv_conf_is_the_old_one_after_kill_9_of_the_agent(
        self, guest: Namespace, host: FakeHost
    ) -> None:
        agent = Agent(guest, host.path)
        agent.start()
        agent.wait_for_address()
        assert lines(guest)[-1] == "nameserver 192.168.127.1"
        agent.process.kill()
        agent.process.wait(5)
        wait_for(lambda: guest.resolv_conf.read_text() == OLD, "the old content")

    def test_resolv_conf_is_the_old_one_while_the_host_is_away(
        self, guest: Namespace, host: FakeHost
    ) -> None:
        with Agent(guest, host.path) as agent:
            assert lines(guest)[-1] == "nameserver 192.168.127.1"
            host.hang_up()
            wait_for(lambda: guest.resolv_conf.read_text() == OLD, "the old content", every=0.005)
            wait_for(lambda: len(host.requests) == 2, "a second request", 5)
            agent.wait_for_address()
            assert lines(guest)[-1] == "nameserver 192.168.127.1"

    def environment(self, directory: Path, name: str = "", script: str = "") -> dict[str, str]:
        """One with this DHCP client on PATH and no other one. What enters a namespace is there, too."""
        ip = shutil.which("ip")
        assert ip is not None
        (directory / "ip").symlink_to(ip)
        if name:
            client = directory / name
            client.write_text(f"#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n{script}\n")
            client.chmod(0o755)
        return {"PATH": str(directory)}


def lines(guest: Namespace) -> list[str]:
    """The lines of the guest's resolv.conf that count."""
    return [line for line in guest.resolv_conf.read_text().splitlines() if not line.startswith("#")]
