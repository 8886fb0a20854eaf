"""Real vsock: a machine without any network card dials its host, and a daemon in the machine is dialled.

One machine serves all tests. Its agent dials vsock://2:1024. vhost-device-vsock takes that to a unix socket
of the host, on which the daemon listens, as with Firecracker and Cloud Hypervisor. A second daemon and agent
run in the machine itself and use its loopback for vsock. Only programs in the machine dial a vsock address.
"""

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_vm import HOST_PORT, fetch_on_host, page, serve_on_host
from tests.support import netns, qemu, vm, vm_image, vsock_device
from tests.support.daemon import Daemon
from tests.support.netns import ROOT, Network, leftovers

REASON = (
    netns.missing() or vm.missing() or vm.missing_modules() or vsock_device.missing() or vm_image.missing()
)
pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.skipif(bool(REASON), reason=REASON or "available")]

MEBIBYTES = 512
EXPOSED_PORT = 18081
ROUTE = "default via 192.168.127.1 dev"
SIZE = 8 << 20
URL = f"http://192.168.127.254:{HOST_PORT}/page"

_MOUNTS = (
    "mkdir -p /image /dev/shm",
    "mount -t tmpfs shm /dev/shm",
    "mount -t ext4 -o ro /dev/vda /image",
    "for name in dev proc sys src etc/resolv.conf; do mount -o bind /$name /image/$name; done",
    "for name in tmp run; do mount -t tmpfs $name /image/$name; done",
)
_PYTHON = f"chroot /image env {vm_image.environment()} {vm_image.python()} -P"
_AGENT = f"{_PYTHON} /src/gvtap-guest.pyz -dhcp builtin"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network(guest_count=0) as made:
        yield made
    assert leftovers() == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vsock")


@pytest.fixture(scope="module")
def from_host() -> bytes:
    return random.Random(7).randbytes(SIZE)


@pytest.fixture(scope="module")
def card(network: Network, folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """The device: the path of its sockets, and what QEMU needs."""
    with vsock_device.running(network.host, folder) as made:
        yield made


@pytest.fixture(scope="module")
def daemon(network: Network, card: tuple[Path, list[str]]) -> Iterator[Daemon]:
    """The daemon of the host, on the socket to which the device takes port 1024."""
    with Daemon(network, "-listen", f"unix://{card[0]}_1024") as made:
        yield made


@pytest.fixture(scope="module")
def machine(
    network: Network, folder: Path, card: tuple[Path, list[str]], daemon: Daemon, from_host: bytes
) -> Iterator[vm.Machine]:
    """The machine, with Python and the sources under test."""
    agent = folder / "gvtap-guest.pyz"
    subprocess.run([sys.executable, ROOT / ".ci" / "agent.py", agent], check=True)
    files = {
        **vm_image.source_files(),
        "src/gvtap-guest.pyz": agent.read_bytes(),
        "www/page": page(8),
        "etc/resolv.conf": b"",
    }
    extra = [*card[1], *vsock_device.shared_memory(MEBIBYTES)]
    # The libraries are built for a newer processor than QEMU's default one (numpy: x86-64-v2).
    extra += ["-cpu", "max", "-drive", f"file={vm_image.image()},format=raw,if=virtio,readonly=on"]
    program = qemu.found()[-1]
    with vm.Machine(program, network.host, folder, "", files=files, extra=extra, mebibytes=MEBIBYTES) as made:
        made.load_extra_modules()
        for line in _MOUNTS:
            made.run(line)
        yield made


@pytest.fixture(scope="module")
def agent(machine: vm.Machine) -> vm.Machine:
    """The machine with an address on its tap, by DHCP over vsock."""
    machine.run(f"{_AGENT} -url vsock://2:1024/connect > /tmp/agent.log 2>&1 &")
    wait_for(machine, "ip route", f"{ROUTE} tap0", "/tmp/agent.log")
    return machine


def wait_for(machine: vm.Machine, line: str, words: str, logs: str) -> None:
    """Wait until a line of the machine's shell prints these words. If it does not, the error has the logs."""
    try:
        netns.wait_for(lambda: words in machine.run(line, check=False), words, 60, 0.5)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{machine.run(f'cat {logs}', check=False)}") from None


def test_a_machine_without_a_card_has_a_network_over_vsock(agent: vm.Machine, daemon: Daemon) -> None:
    assert "eth0" not in agent.run("ip link")
    assert "inet 192.168.127.2/24 " in agent.run("ip -4 address show tap0")
    assert "nameserver 192.168.127.1" in agent.run("cat /etc/resolv.conf")
    agent.run("ping -c 2 -W 5 192.168.127.1")
    assert "192.168.127.254" in agent.run("nslookup host.containers.internal")
    (connected,) = daemon.events("guest connected")
    assert connected["protocol"] == "connect"


def test_eight_megabytes_cross_vsock_unchanged(
    network: Network, folder: Path, agent: vm.Machine, from_host: bytes
) -> None:
    serve_on_host(network.host, folder / "www", from_host)
    agent.run(f"wget -q -O /tmp/page {URL}")
    assert hashlib.sha256(from_host).hexdigest() in agent.run("sha256sum /tmp/page")


def test_a_port_of_the_machine_is_exposed_over_vsock(
    network: Network, agent: vm.Machine, daemon: Daemon
) -> None:
    agent.run("httpd -p 80 -h /www")
    daemon.expose(f"127.0.0.1:{EXPOSED_PORT}", "192.168.127.2:80")
    assert fetch_on_host(network.host, EXPOSED_PORT, "/page") == page(8)


def test_a_daemon_in_the_machine_serves_an_agent_on_its_vsock_loopback(machine: vm.Machine) -> None:
    logs = "/tmp/daemon.out /image/tmp/daemon.log"
    flags = "-listen vsock://:1024 -ssh-port -1 -ipv6 off -log-file /tmp/daemon.log"
    machine.run(f"{_PYTHON} -m pipeline start {flags} > /tmp/daemon.out 2>&1 & echo $! > /tmp/daemon.pid")
    wait_for(machine, f"cat {logs}", "waiting for clients", logs)
    inside = f"ip link set lo up; exec {_AGENT} -iface tap1 -resolv-conf none -url vsock://1:1024/connect"
    machine.run(f"unshare -n sh -c '{inside}' > /tmp/inside.log 2>&1 & echo $! > /tmp/inside.pid")
    there = "nsenter -t $(cat /tmp/inside.pid) -n"
    wait_for(machine, f"{there} ip route", f"{ROUTE} tap1", f"/tmp/inside.log {logs}")
    machine.run(f"{there} ping -c 2 -W 5 192.168.127.1")
    machine.run(f"httpd -p 127.0.0.1:{HOST_PORT} -h /www")
    machine.run(f"{there} wget -q -O /tmp/inside {URL}")
    assert hashlib.sha256(page(8)).hexdigest() in machine.run("sha256sum /tmp/inside")
    connected = next(line for line in machine.run(f"cat {logs}").splitlines() if "guest connected" in line)
    assert '"peer": "vm(1):' in connected
    assert '"opened_by": "machine 1"' in connected
    machine.run("kill $(cat /tmp/inside.pid) $(cat /tmp/daemon.pid)")
    wait_for(machine, f"cat {logs}", '"event": "stopped"', logs)
