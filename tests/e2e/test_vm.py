"""A virtual machine on -listen-qemu: Debian's kernel and its virtio-net driver against the whole daemon."""

import hashlib
import http.client
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.wire import ip
from tests.e2e.test_ipv6 import ADDRESSES, ADDRS
from tests.support import netns, qemu, vm
from tests.support.daemon import Daemon
from tests.support.gvproxy import Gvproxy
from tests.support.netns import Namespace, Network
from tests.support.qemu import Qemu

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.vm,
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "available"),
    pytest.mark.skipif(bool(vm.missing()), reason=vm.missing() or "available"),
]

HOST_PORT = 8000
EXPOSED_PORT = 18080
LINK_PORT = 7777
PAGE_BYTES = 3 * 1024 * 1024 + 17

each_program = pytest.mark.parametrize("program", qemu.found(), ids=str)
newest_program = pytest.mark.parametrize("program", qemu.found()[-1:], ids=str)


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(guest_count=0) as made:
        yield made


def page(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAGE_BYTES)


def serve_on_host(host: Namespace, directory: Path, content: bytes, loopback: str = "127.0.0.1") -> None:
    """A web server on the host's loopback, with one file."""
    directory.mkdir()
    (directory / "page").write_bytes(content)
    argv = [sys.executable, "-m", "http.server", str(HOST_PORT), "--bind", loopback]
    host.popen([*argv, "--directory", str(directory)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        try:
            host.connect(loopback, HOST_PORT).close()
        except OSError:
            return False
        return True

    netns.wait_for(answers, "the host's web server")


def fetch_on_host(host: Namespace, port: int, path: str, loopback: str = "127.0.0.1") -> bytes:
    """GET from the host's loopback; the body. AssertionError for another status than 200."""
    connection = http.client.HTTPConnection(loopback, port, timeout=30)
    connection.sock = host.connect(loopback, port)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 200, (response.status, body[:200])
    return body


def qemu_netdev(socket_path: Path) -> str:
    return f"stream,server=off,addr.type=unix,addr.path={socket_path}"


@each_program
def test_a_machine_gets_its_address_fetches_a_page_and_serves_one(
    program: Qemu, network: Network, tmp_path: Path
) -> None:
    from_host, from_machine = page(1), page(2)
    serve_on_host(network.host, tmp_path / "www", from_host)
    files = {"www/page": from_machine}
    with (
        Daemon(network) as daemon,
        vm.Machine(program, network.host, tmp_path, qemu_netdev(daemon.qemu_socket), files=files) as machine,
    ):
        machine.configure()
        addresses = machine.run("ip -4 address show eth0")
        assert "inet 192.168.127.2/24 " in addresses
        assert " mtu 1500 " in addresses
        assert "default via 192.168.127.1 dev eth0" in machine.run("ip route")
        assert "nameserver 192.168.127.1" in machine.run("cat /etc/resolv.conf")
        machine.run("ping -c 2 -W 5 192.168.127.1")
        assert "192.168.127.254" in machine.run("nslookup host.containers.internal")

        # No -T here: it makes Debian's static busybox fault.
        url = f"http://192.168.127.254:{HOST_PORT}/page"
        machine.run(f"wget -q -O /tmp/page {url}")
        assert hashlib.sha256(from_host).hexdigest() in machine.run("sha256sum /tmp/page")

        machine.run("httpd -p 80 -h /www")
        daemon.expose(f"127.0.0.1:{EXPOSED_PORT}", "192.168.127.2:80")
        assert fetch_on_host(network.host, EXPOSED_PORT, "/page") == from_machine


@newest_program
def test_a_machine_over_ipv6_alone(program: Qemu, network: Network, tmp_path: Path) -> None:
    from_host, from_machine = page(4), page(5)
    serve_on_host(network.host, tmp_path / "www", from_host, "::1")
    files = {"www/page": from_machine}
    with (
        Daemon(network, "-ipv6", "on") as daemon,
        vm.Machine(
            program, network.host, tmp_path, qemu_netdev(daemon.qemu_socket), files=files, ipv6=True
        ) as machine,
    ):
        machine.run("ip link set eth0 up")
        netns.wait_for(
            lambda: (
                f" {ADDRS[0]}/64 " in (found := machine.run("ip -6 address show eth0"))
                and "tentative" not in found
            ),
            "an address by SLAAC",
            30,
            0.5,
        )
        gateway, host = ip.text(ADDRESSES.gateway), ip.text(ADDRESSES.host)
        assert "default via fe80::" in machine.run("ip -6 route")
        assert "192.168.127" not in machine.run("ip -4 address")
        machine.run(f"ping -6 -c 2 -W 5 {gateway}")
        machine.run(f"wget -q -O /tmp/page 'http://[{host}]:{HOST_PORT}/page'")
        assert hashlib.sha256(from_host).hexdigest() in machine.run("sha256sum /tmp/page")
        # Names of IPv4 hosts have IPv6 addresses here (DNS64).
        machine.run(f"echo nameserver {gateway} > /etc/resolv.conf")
        assert "64:ff9b::c0a8:7ffe" in machine.run("nslookup host.containers.internal")

        machine.run("httpd -p '[::]:80' -h /www")
        daemon.expose(f"[::1]:{EXPOSED_PORT}", f"[{ADDRS[0]}]:80")
        assert fetch_on_host(network.host, EXPOSED_PORT, "/page", "::1") == from_machine


@newest_program
def test_the_machine_at_the_largest_mtu_moves_whole_pages(
    program: Qemu, network: Network, tmp_path: Path
) -> None:
    from_host = page(3)
    serve_on_host(network.host, tmp_path / "www", from_host)
    with (
        Daemon(network, "-mtu", "65520") as daemon,
        vm.Machine(program, network.host, tmp_path, qemu_netdev(daemon.qemu_socket)) as machine,
    ):
        machine.configure()
        assert " mtu 65520 " in machine.run("ip -4 address show eth0")
        machine.run(f"wget -q -O /www/page http://192.168.127.254:{HOST_PORT}/page")
        machine.run("httpd -p 80 -h /www")
        daemon.expose(f"127.0.0.1:{EXPOSED_PORT}", "192.168.127.2:80")
        assert fetch_on_host(network.host, EXPOSED_PORT, "/page") == from_host


@newest_program
def test_gvproxy_ends_when_its_machine_is_switched_off(
    program: Qemu, network: Network, tmp_path: Path
) -> None:
    path = network.directory / "machine.sock"
    with Gvproxy(network, "-mtu", "1500", "-listen-qemu", f"unix://{path}") as gvproxy:
        with vm.Machine(program, network.host, tmp_path, qemu_netdev(path)) as machine:
            machine.configure()
            machine.run("ping -c 2 -W 5 192.168.127.1")
            assert gvproxy.process.poll() is None
        assert gvproxy.wait() == 0
    assert not path.exists()


@newest_program
@pytest.mark.parametrize(
    "netdev",
    [
        f"stream,server=off,addr.type=inet,addr.host=127.0.0.1,addr.port={LINK_PORT}",
        f"socket,connect=127.0.0.1:{LINK_PORT}",
    ],
    ids=["stream", "socket"],
)
def test_a_machine_on_a_tcp_link_fetches_a_page(
    program: Qemu, netdev: str, network: Network, tmp_path: Path
) -> None:
    content = page(4)
    serve_on_host(network.host, tmp_path / "www", content)
    with (
        Daemon(network, "-link", f"qemu+tcp://127.0.0.1:{LINK_PORT}"),
        vm.Machine(program, network.host, tmp_path, netdev) as machine,
    ):
        machine.configure()
        machine.run(f"wget -q -O /tmp/page http://192.168.127.254:{HOST_PORT}/page")
        assert hashlib.sha256(content).hexdigest() in machine.run("sha256sum /tmp/page")
