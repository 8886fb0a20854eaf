"""Guests on vhost-user: a tap behind a frontend that shares no code with the backend, and a virtual machine."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_restart import end
from tests.e2e.test_vm import EXPOSED_PORT, HOST_PORT, each_program, fetch_on_host, page, serve_on_host
from tests.support import netns, vm
from tests.support.daemon import Daemon
from tests.support.netns import Network, wait_for
from tests.support.qemu import Qemu

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "available"),
]

with_a_machine = [
    pytest.mark.vm,
    pytest.mark.skipif(bool(vm.missing()), reason=vm.missing() or "available"),
]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(guest_count=0) as made:
        yield made


def flags(path: Path) -> tuple[str, str]:
    return "-listen-vhost-user", f"unix://{path}"


def machine_words(program: Qemu, path: Path) -> list[str]:
    """QEMU's options for memory that it shares, and for the socket. It connects again by itself."""
    # Without KVM, QEMU 7.2 crashes as soon as a vhost device of any kind uses MSI-X.
    interrupts = ["-global", "virtio-net-pci.vectors=0"] if program.version < (8, 0) else []
    return [
        *interrupts,
        *(
            "-object",
            "memory-backend-memfd,id=memory,size=256M,share=on",
            "-machine",
            "memory-backend=memory",
        ),
        *("-chardev", f"socket,id=backend,path={path},{program.reconnect}"),
    ]


NETDEV = "vhost-user,chardev=backend"


class TestMachine:
    pytestmark = with_a_machine

    @each_program
    def test_a_machine_has_a_network_and_keeps_it_over_a_restart(
        self, program: Qemu, network: Network, tmp_path: Path
    ) -> None:
        from_host, from_machine = page(1), page(2)
        serve_on_host(network.host, tmp_path / "www", from_host)
        path = network.directory / "vhost.sock"
        first = Daemon(network, *flags(path), name="vm")
        first.start()
        with vm.Machine(
            program,
            network.host,
            tmp_path,
            NETDEV,
            files={"www/page": from_machine},
            extra=machine_words(program, path),
        ) as machine:
            for daemon in (first, Daemon(network, *flags(path), name="vm")):
                if daemon is not first:
                    end(first)
                    daemon.start()
                    wait_for(lambda: daemon.events("guest connected"), "the machine's link")  # noqa: B023
                machine.configure()
                assert "inet 192.168.127.2/24 " in machine.run("ip -4 address show eth0")
                machine.run("ping -c 2 -W 5 192.168.127.1")
                machine.run(f"wget -q -O /tmp/page http://192.168.127.254:{HOST_PORT}/page")
                assert hashlib.sha256(from_host).hexdigest() in machine.run("sha256sum /tmp/page")
                if daemon is first:
                    machine.run("httpd -p 80 -h /www")
                daemon.expose(f"127.0.0.1:{EXPOSED_PORT}", "192.168.127.2:80")
                assert fetch_on_host(network.host, EXPOSED_PORT, "/page") == from_machine
            assert sum(daemon.gauge("link_guest_offload").values()) == 1
            assert not any(daemon.gauge("link_frame_dropped_bad_vnet_header").values())
        daemon.stop()
