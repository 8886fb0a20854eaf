"""A virtual machine whose QEMU (8 or newer) connects again by itself when the daemon was away."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_restart import end, leases
from tests.e2e.test_vm import EXPOSED_PORT, LINK_PORT, fetch_on_host, page, qemu_netdev
from tests.support import netns, qemu, vm
from tests.support.agent import GATEWAY_ADDR, HOST_ADDR
from tests.support.daemon import Daemon
from tests.support.netns import Network, wait_for
from tests.support.qemu import Qemu
from tests.support.servers import DISCARD, ECHO, Servers

PROGRAMS = [program for program in qemu.found() if program.reconnects]

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.vm,
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "available"),
    pytest.mark.skipif(bool(vm.missing()), reason=vm.missing() or "available"),
    pytest.mark.skipif(
        not PROGRAMS, reason="needs QEMU 8, whose -netdev stream can reconnect (make machine)"
    ),
    pytest.mark.parametrize("program", PROGRAMS, ids=str),
]

MAC = "5a:94:ef:e4:0c:99"  # none that has an address from the start
TCP_NETDEV = f"stream,server=off,addr.type=inet,addr.host=127.0.0.1,addr.port={LINK_PORT}"


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(guest_count=0) as made:
        yield made


def link_is_there(daemon: Daemon) -> bool:
    return bool(daemon.events("guest connected"))


def lease_of(daemon: Daemon) -> str:
    """The address that the machine holds, or ""."""
    return next((addr for addr, mac in leases(daemon).items() if mac == MAC), "")


def check_fetch(network: Network, daemon: Daemon, addr: str, content: bytes) -> None:
    """The host gets the page of the machine's web server through a forward."""
    daemon.expose(f"127.0.0.1:{EXPOSED_PORT}", f"{addr}:80")
    assert fetch_on_host(network.host, EXPOSED_PORT, "/page") == content


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_machine_keeps_its_lease_and_goes_on_by_itself(
    program: Qemu, kind: str, network: Network, tmp_path: Path
) -> None:
    content = page(1)
    flags = ["-state-file", str(network.directory / "leases.json")]
    flags += ["-link", f"qemu+tcp://127.0.0.1:{LINK_PORT}"]
    first = Daemon(network, *flags, name="vm")
    first.start()
    netdev = f"{qemu_netdev(first.qemu_socket) if kind == 'unix' else TCP_NETDEV},{program.reconnect}"
    with vm.Machine(program, network.host, tmp_path, netdev, mac=MAC, files={"www/page": content}) as machine:
        machine.configure()
        addr = lease_of(first)
        assert f"inet {addr}/24 " in machine.run("ip -4 address show eth0")
        machine.run("httpd -p 80 -h /www")
        # Five seconds after its last packet, the kernel asks by ARP whether the gateway is still there. The
        # daemon must find a silent machine.
        machine.run(f"arp -s {GATEWAY_ADDR} 5a:94:ef:e4:0c:dd")
        # Twice: what connects again must do so as often as it is needed.
        for _ in range(2):
            end(first)
            first = Daemon(network, *flags, name="vm")
            first.start()
            wait_for(lambda: link_is_there(first), "the machine's link is back")  # noqa: B023
            assert lease_of(first) == addr
            assert json.loads(first.api("/cam")[1]) == {}, "the machine has said something"
            check_fetch(network, first, addr, content)
        machine.run(f"ping -c 1 -W 5 {GATEWAY_ADDR}")
        assert HOST_ADDR in machine.run("nslookup host.containers.internal")
        machine.configure()
        assert f"inet {addr}/24 " in machine.run("ip -4 address show eth0")
    first.stop()


def test_a_machine_may_be_started_before_the_daemon(program: Qemu, network: Network, tmp_path: Path) -> None:
    content = page(2)
    daemon = Daemon(network, name="vm")
    netdev = f"{qemu_netdev(daemon.qemu_socket)},{program.reconnect}"
    with vm.Machine(program, network.host, tmp_path, netdev, mac=MAC, files={"www/page": content}) as machine:
        machine.run("httpd -p 80 -h /www")
        with daemon:
            wait_for(lambda: link_is_there(daemon), "the machine's link")
            machine.configure()
            check_fetch(network, daemon, lease_of(daemon), content)


def test_connections_that_run_when_the_daemon_goes_end_and_new_ones_work(
    program: Qemu, network: Network, tmp_path: Path
) -> None:
    content = page(3)
    flags = ("-state-file", str(network.directory / "leases.json"))
    servers = Servers(network.host, network.directory)
    first = Daemon(network, *flags, name="vm")
    first.start()
    netdev = f"{qemu_netdev(first.qemu_socket)},{program.reconnect}"
    with vm.Machine(program, network.host, tmp_path, netdev, mac=MAC, files={"www/page": content}) as machine:
        machine.configure()
        addr = lease_of(first)
        machine.run("httpd -p 80 -h /www")

        def received() -> int:
            return int(machine.run("cat /sys/class/net/eth0/statistics/rx_bytes"))

        for port in (DISCARD, ECHO):
            machine.run(f"cat /dev/zero | nc {HOST_ADDR} {port} > /dev/null 2>&1 &")
        before = received()
        # The echo comes back as fast as it can: frames are half sent, both ways, when the daemon goes.
        wait_for(lambda: received() > before + (1 << 20), "traffic both ways", 30)
        end(first)
        assert "error" in servers.next_report("discard"), "what was cut short looks whole"
        with Daemon(network, *flags, name="vm") as daemon:
            wait_for(lambda: link_is_there(daemon), "the machine's link is back")
            # The machine sends what was not acknowledged again, and is told that there is no such connection.
            wait_for(lambda: HOST_ADDR not in machine.run("netstat -tn", check=False), "their end", 30, 0.5)
            check_fetch(network, daemon, addr, content)
            machine.run(f"ping -c 1 -W 5 {GATEWAY_ADDR}")
            assert sum(daemon.gauge("tcp_reset_sent_no_flow").values()) >= 2
    servers.close()
