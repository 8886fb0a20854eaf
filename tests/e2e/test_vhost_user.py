"""Guests on vhost-user: taps behind a frontend that shares no code with the backend, and virtual machines."""

import hashlib
import random
import struct
from pathlib import Path

import pytest

from perf import vhost_frontend
from tests.e2e.test_offload import checksum_errors, total
from tests.e2e.test_restart import end
from tests.e2e.test_vm import EXPOSED_PORT, HOST_PORT, each_program, fetch_on_host, page, serve_on_host
from tests.support import foreign, netns, vm
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.qemu import Qemu
from tests.support.servers import DATA, HTTP, PAGE, UDP_ECHO, Servers

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "available"),
]

with_a_machine = [
    pytest.mark.vm,
    pytest.mark.skipif(bool(vm.missing()), reason=vm.missing() or "available"),
]


MIB = 1 << 20
BULK = 100 * 1000 * 1000
MEMORY = 768  # MiB, for a machine that holds BULK
PATIENCE = 600.0  # seconds for BULK in a machine without KVM
OTHER = {"address": "192.168.127.9", "mac": "5a:94:ef:e4:0c:99"}


def flags(path: Path) -> tuple[str, str]:
    return "-listen-vhost-user", f"unix://{path}"


def is_connected(daemon: Daemon, times: int = 1) -> None:
    wait_for(lambda: len(daemon.events("guest connected")) >= times, "the guest's link")


def test_a_card_has_an_address_and_moves_data_both_ways(network: Network, outside: Servers) -> None:
    path = network.directory / "vhost.sock"
    with Daemon(network, *flags(path)) as daemon, foreign.vhost_user(network.guest, path) as guest:
        words = ("busybox", "udhcpc", "-i", "tap0", "-n", "-q", "-f", "-s", "/bin/true")
        assert "192.168.127.2" in network.guest.run(*words).stderr
        guest.ping()
        assert guest.run("transfer", INTERNET_ADDR, DATA, 16 * MIB, 16 * MIB)["errors"] == []
        assert guest.run("transfer", INTERNET_ADDR, DATA, MIB, MIB, 10)["errors"] == []
        assert guest.run("udp", INTERNET_ADDR, UDP_ECHO, 1400, 20)["received"] == 20
        # 26 MiB each way would be more than 18000 frames of 1514 bytes.
        wait_for(lambda: total(daemon, "link_bytes_from_guest") > 26 * MIB, "counters")
        assert total(daemon, "link_frames_from_guest") < 7000
        assert total(daemon, "link_frames_to_guest") < 7000
        assert total(daemon, "tcp_segment_dropped_bad_checksum") == 0
        assert total(daemon, "link_frame_dropped_bad_vnet_header") == 0
        assert checksum_errors(network.guest) == 0
        inside = Servers(network.guest, network.directory)
        daemon.expose("127.0.0.1:18081", f"192.168.127.2:{HTTP}")
        assert fetch_on_host(network.host, 18081, "/") == PAGE
        inside.close()
    assert not path.exists()


def test_a_card_works_with_the_largest_mtu(network: Network, outside: Servers) -> None:
    path = network.directory / "vhost.sock"
    with (
        Daemon(network, "-mtu", "65520", "-link", f"vhost-user+unix://{path}") as daemon,
        foreign.vhost_user(network.guest, path) as guest,
    ):
        network.guest.ip("link", "set", "tap0", "mtu", "65520")
        assert guest.run("transfer", INTERNET_ADDR, DATA, 16 * MIB, 16 * MIB)["errors"] == []
        assert total(daemon, "link_frame_dropped_oversized") == 0


def test_two_cards_on_one_socket_reach_each_other(network: Network, outside: Servers) -> None:
    path = network.directory / "vhost.sock"
    with (
        Daemon(network, *flags(path)),
        foreign.vhost_user(network.guest, path) as one,
        foreign.vhost_user(network.guests[1], path, **OTHER) as two,
    ):
        inside = Servers(network.guests[1], network.directory)
        one.ping(OTHER["address"])
        two.ping()
        assert one.run("transfer", OTHER["address"], DATA, 8 * MIB, 8 * MIB)["errors"] == []
        inside.close()


def test_a_card_goes_on_after_a_restart_of_the_daemon_or_of_its_monitor(
    network: Network, outside: Servers
) -> None:
    path = network.directory / "vhost.sock"
    first = Daemon(network, *flags(path))
    first.start()
    with foreign.vhost_user(network.guest, path) as guest:
        guest.ping()
        end(first)
        with Daemon(network, *flags(path)) as daemon:
            is_connected(daemon)
            assert guest.run("transfer", INTERNET_ADDR, DATA, 2 * MIB, 2 * MIB)["errors"] == []
            for times in (2, 3):
                guest.leave()
                wait_for(lambda: len(daemon.events("guest disconnected")) >= times - 1, "the guest is gone")  # noqa: B023
                guest.start()
                is_connected(daemon, times)
                guest.ping()


def test_a_card_that_lies_harms_no_other(network: Network, outside: Servers) -> None:
    path = network.directory / "vhost.sock"
    with Daemon(network, *flags(path)) as daemon, foreign.vhost_user(network.guest, path) as honest:
        honest.ping()
        for _ in range(5):
            liar = vhost_frontend.Frontend()
            liar.open(str(path))
            ring = liar.transmit
            struct.pack_into("<QIHH", liar.memory.view, ring.table, (1 << 64) - 8, 100, 0, 0)
            ring.add(0)
            ring.publish()
            assert liar.sock.recv(1) == b"", "the daemon ends the connection"
            liar.close()
        wait_for(lambda: total(daemon, "vhost_user_link_closed_bad_address") == 5, "the counter")
        assert honest.run("transfer", INTERNET_ADDR, DATA, 2 * MIB, 2 * MIB)["errors"] == []


def machine_words(program: Qemu, path: Path, mebibytes: int = 256) -> list[str]:
    """QEMU's options for memory that it shares, and for the socket. It connects again by itself."""
    # Without KVM, QEMU 7.2 crashes as soon as a vhost device of any kind uses MSI-X.
    interrupts = ["-global", "virtio-net-pci.vectors=0"] if program.version < (8, 0) else []
    return [
        *interrupts,
        *(
            "-object",
            f"memory-backend-memfd,id=memory,size={mebibytes}M,share=on",
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

    @pytest.mark.stress
    @pytest.mark.timeout(1800)
    @each_program
    def test_a_hundred_megabytes_each_way_before_and_after_the_machine_starts_again(
        self, program: Qemu, network: Network, tmp_path: Path
    ) -> None:
        from_host = random.Random(3).randbytes(BULK)
        serve_on_host(network.host, tmp_path / "www", from_host)
        path = network.directory / "vhost.sock"
        with Daemon(network, *flags(path), name="vm") as daemon:
            daemon.expose(f"127.0.0.1:{EXPOSED_PORT}", "192.168.127.2:80")
            for run in ("first", "second"):
                folder = tmp_path / run
                folder.mkdir()
                words = machine_words(program, path, MEMORY)
                with vm.Machine(
                    program, network.host, folder, NETDEV, extra=words, mebibytes=MEMORY
                ) as machine:
                    machine.configure()
                    machine.run(f"wget -q -O /tmp/page http://192.168.127.254:{HOST_PORT}/page", PATIENCE)
                    wanted = hashlib.sha256(from_host).hexdigest()
                    assert wanted in machine.run("sha256sum /tmp/page", PATIENCE)
                    machine.run("httpd -p 80 -h /tmp")
                    assert fetch_on_host(network.host, EXPOSED_PORT, "/page") == from_host
