"""The daemon goes and comes back under live guests: who they are, and that they go on by themselves.

Virtual machines: test_vm_restart.py, test_vm_reconnect.py.
"""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pipeline.wire import tcp
from tests.support.agent import GATEWAY_ADDR, Agent, address, run_client
from tests.support.daemon import Daemon
from tests.support.netns import BLACK_HOLE_ADDR, INTERNET_ADDR, SECOND_ADDR, Namespace, Network, wait_for
from tests.support.raw_guest import RawGuest
from tests.support.servers import DATA, ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

TAKEN = "neighbor_claim_refused_address_taken"
STATIC = {"192.168.127.2": "5a:94:ef:e4:0c:ee"}
FIRST, SECOND = "02:00:00:00:00:01", "02:00:00:00:00:02"


def leases(daemon: Daemon) -> dict[str, str]:
    return dict(json.loads(daemon.api("/leases")[1]))


def end(daemon: Daemon) -> None:
    """Not by stop(): the link of a live guest may hold a slot."""
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(5) == 0


def test_leases_of_the_state_file_outlive_the_daemon(network: Network, outside: Servers) -> None:
    state = network.directory / "leases.json"
    flags = ("-state-file", str(state))
    daemon = Daemon(network, *flags)
    daemon.start()
    with Agent(network.guests[0], daemon.socket, mac=FIRST):
        pass
    staying = Agent(network.guests[1], daemon.socket, mac=SECOND)
    staying.start()
    staying.wait_for_address()
    before = leases(daemon)
    wait_for(lambda: state.exists() and SECOND in state.read_text(), "the lease in the file", 5)
    end(daemon)
    assert {lease["mac"] for lease in json.loads(state.read_text())["leases"]} == {FIRST, SECOND}
    # The second guest is alone now; without the file it would get the first one's address.
    with Daemon(network, *flags) as daemon:
        assert leases(daemon) == before
        wait_for(lambda: daemon.gauge("dhcp_ack_sent")["resolver"] > 0, "the guest asks again", 15)
        staying.wait_for_address()
        mine = next(ip for ip, mac in before.items() if mac == SECOND)
        assert address(network.guests[1]) == f"{mine}/24"
        assert staying.run("transfer", INTERNET_ADDR, DATA, 1 << 20, 1 << 20)["errors"] == []
        staying.stop()


# --- a guest that waits to be spoken to -------------------------------------------------------


@contextlib.contextmanager
def silent_card(guest: Namespace) -> Iterator[None]:
    """A tap that stays when the link's program goes, as a machine's card does, and says nothing by itself."""
    guest.ip("tuntap", "add", "dev", "tap0", "mode", "tap")
    try:
        guest.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/tap0/disable_ipv6")
        guest.ip("link", "set", "tap0", "address", SECOND, "up")
        yield
    finally:
        guest.ip("link", "del", "tap0")


def get_lease(guest: Namespace) -> str:
    """Be given an address once; the client does not stay to ask again."""
    client = guest.popen([sys.executable, "-m", "guest.dhcp_client", "-i", "tap0"], stderr=subprocess.DEVNULL)
    shown = wait_for(lambda: address(guest), "an address", 15)
    client.terminate()
    client.wait(5)
    return shown.partition("/")[0]


def link_to(guest: Namespace, daemon: Daemon) -> Agent:
    """The program that carries the card's frames; it comes back by itself."""
    return Agent(guest, daemon.socket, "-preexisting", "-dhcp", "none", mac=SECOND)


def echoes(host: Namespace, port: int) -> bool:
    """Whether the guest behind a forwarded port sends back what it is sent."""
    with host.connect("127.0.0.1", port) as sock:
        sock.sendall(b"hello")
        return sock.recv(5) == b"hello"


def connected(daemon: Daemon) -> bool:
    return len(daemon.events("guest connected")) > 0


def first_run(network: Network, *flags: str) -> tuple[Daemon, Agent, str]:
    """A daemon, the link of the guest with the silent card to it, and the address that the guest has got."""
    daemon = Daemon(network, *flags)
    daemon.start()
    link = link_to(network.guest, daemon)
    link.start()
    return daemon, link, get_lease(network.guest)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_guest_that_says_nothing_is_reached_through_a_forward_at_once(
    network: Network, outside: Servers, protocol: str
) -> None:
    guest = network.guest
    flags = ("-state-file", str(network.directory / "silent.json"))
    with silent_card(guest):
        first, link, addr = first_run(network, *flags)
        inside = Servers(guest, network.directory)
        end(first)
        with Daemon(network, *flags) as daemon:
            wait_for(lambda: connected(daemon), "the guest's link is back")
            assert leases(daemon) == {GATEWAY_ADDR: "5a:94:ef:e4:0c:dd", addr: SECOND, **STATIC}
            assert json.loads(daemon.api("/cam")[1]) == {}, "it has said something"
            if protocol == "tcp":
                daemon.expose("127.0.0.1:9000", f"{addr}:{ECHO}")
                assert echoes(network.host, 9000)
            else:
                daemon.expose("127.0.0.1:9000", f"{addr}:{UDP_ECHO}", "udp")
                assert run_client(network.host, "udp", "127.0.0.1", 9000, 100, 5)["received"] == 5
            assert list(json.loads(daemon.api("/cam")[1])) == [SECOND]
            assert daemon.gauge("dhcp_ack_sent")["resolver"] == 0
            link.let_connections_end()
            link.stop()
        inside.close()


def test_another_guest_cannot_have_the_address_of_one_that_is_not_back_yet(
    network: Network, outside: Servers
) -> None:
    guest = network.guest
    flags = ("-state-file", str(network.directory / "kept.json"))
    with silent_card(guest):
        first, link, addr = first_run(network, *flags)
        link.stop()
        inside = Servers(guest, network.directory)
        end(first)
        with Daemon(network, *flags) as daemon, RawGuest(daemon.qemu_socket, int(addr[-1])) as thief:
            # Not by DHCP, where it gets another one, and not by taking it.
            with Agent(network.guests[1], daemon.socket, mac=FIRST):
                assert address(network.guests[1]) != f"{addr}/24"
            thief.send(thief.segment(thief.addr + 1, 4000, ECHO, 1, flags=tcp.SYN))
            wait_for(lambda: daemon.gauge(TAKEN)["demux"] == 1, "the claim is refused")
            (line,) = daemon.events("address contested")
            assert (line["address"], line["owner"]) == (addr, SECOND)
            link.start()
            wait_for(lambda: len(daemon.events("guest connected")) == 3, "the guest's link is back")
            daemon.expose("127.0.0.1:9000", f"{addr}:{ECHO}")
            assert echoes(network.host, 9000)
            assert daemon.gauge(TAKEN)["demux"] == 1
            link.let_connections_end()
            link.stop()
        inside.close()


def test_a_state_file_that_is_none_is_left_alone_and_said(network: Network, outside: Servers) -> None:
    state = network.directory / "broken.json"
    state.write_text("no json")
    daemon = Daemon(network, "-state-file", str(state))
    daemon.expect_errors = True
    with daemon, Agent(network.guest, daemon.socket):
        assert "cannot be read" in daemon.events("leases not taken over")[0]["error"]
    assert state.read_text() == "no json"


def test_a_changed_network_of_the_host_needs_no_restart(network: Network, outside: Servers) -> None:
    host = network.host
    with Daemon(network) as daemon, Agent(network.guest, daemon.socket) as agent:

        def resolves() -> bool:
            outcome = agent.run("resolve", GATEWAY_ADDR, "www.example.test", "A", "udp")
            return bool(outcome["answers"] == [INTERNET_ADDR])

        assert resolves()
        try:
            # Another network: its name server is not there yet, and neither is a way out.
            host.resolv_conf.write_text("nameserver 198.18.0.77\n")
            host.ip("route", "del", "default")
            time.sleep(1.1)
            assert not resolves()
            assert agent.run("connect", BLACK_HOLE_ADDR, 80)["errno"] == "ENETUNREACH"
        finally:
            host.resolv_conf.write_text(f"nameserver {INTERNET_ADDR}\n")
            host.ip("route", "add", "default", "via", INTERNET_ADDR)
        wait_for(resolves, "the new name server is asked", 10, 0.5)
        assert agent.run("connect", SECOND_ADDR, DATA)["errno"] == ""
