"""The daemon goes and comes back under a virtual machine that runs on, with any QEMU that can be tested.

QEMUs that connect again by themselves: test_vm_reconnect.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_restart import end
from tests.e2e.test_vm import EXPOSED_PORT, each_program, fetch_on_host, page, qemu_netdev
from tests.support import netns, vm
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR
from tests.support.daemon import Daemon
from tests.support.netns import Network
from tests.support.qemu import Qemu
from tests.support.qmp import Monitor

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.vm,
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "available"),
    pytest.mark.skipif(bool(vm.missing()), reason=vm.missing() or "available"),
]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(guest_count=0) as made:
        yield made


def serve(machine: vm.Machine) -> None:
    """An address by DHCP, and a web server that will not speak unless it is asked."""
    machine.configure()
    machine.run(f"ping -c 1 -W 5 {GATEWAY_ADDR}")
    machine.run("httpd -p 80 -h /www")


def check_both_ways(machine: vm.Machine, daemon: Daemon, content: bytes) -> None:
    """The host reaches the machine first, with the address of its lease; then the machine the gateway."""
    daemon.expose(f"127.0.0.1:{EXPOSED_PORT}", f"{GUEST_ADDR}:80")
    assert fetch_on_host(daemon.namespace, EXPOSED_PORT, "/page") == content
    machine.run(f"ping -c 1 -W 5 {GATEWAY_ADDR}")
    assert "192.168.127.254" in machine.run("nslookup host.containers.internal")
    assert f"inet {GUEST_ADDR}/24 " in machine.run("ip -4 address show eth0")


@each_program
def test_a_machine_goes_on_when_its_monitor_replaces_the_link(
    program: Qemu, network: Network, tmp_path: Path
) -> None:
    content = page(1)
    monitor_path = network.directory / "monitor.sock"
    first = Daemon(network, name="vm")
    first.start()
    # The card stays at its hub port; what leads from the hub to the daemon can be replaced.
    extra = ["-netdev", f"{qemu_netdev(first.qemu_socket)},id=uplink"]
    extra += ["-netdev", "hubport,hubid=0,id=port,netdev=uplink"]
    extra += ["-qmp", f"unix:{monitor_path},server=on,wait=off"]
    files = {"www/page": content}
    with (
        vm.Machine(program, network.host, tmp_path, "hubport,hubid=0", files=files, extra=extra) as machine,
        Monitor(monitor_path) as monitor,
    ):
        serve(machine)
        end(first)
        for name in ("port", "uplink"):
            monitor.execute("netdev_del", id=name)
        with Daemon(network, name="vm") as daemon:
            addr = {"type": "unix", "path": str(daemon.qemu_socket)}
            monitor.execute("netdev_add", type="stream", id="uplink", server=False, addr=addr)
            monitor.execute("netdev_add", type="hubport", hubid=0, id="port", netdev="uplink")
            check_both_ways(machine, daemon, content)


@each_program
def test_a_machine_on_datagrams_goes_on_by_itself(program: Qemu, network: Network, tmp_path: Path) -> None:
    content = page(1)
    path, own_path = network.directory / "vfkit.sock", network.directory / "machine.sock"
    flags = ("-listen-vfkit", f"unixgram://{path}")
    first = Daemon(network, *flags, name="vm")
    first.start()
    netdev = f"dgram,local.type=unix,local.path={own_path},remote.type=unix,remote.path={path}"
    with vm.Machine(program, network.host, tmp_path, netdev, files={"www/page": content}) as machine:
        serve(machine)
        end(first)
        with Daemon(network, *flags, name="vm") as daemon:
            # Nobody knows where it is before it has said something.
            machine.run(f"ping -c 1 -W 5 {GATEWAY_ADDR}")
            check_both_ways(machine, daemon, content)
