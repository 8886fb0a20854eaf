"""Settings of the way out: name servers, the source of host sockets, guests' names, what is switched off."""

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_names import program
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, HOST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import BLACK_HOLE_ADDR, INTERNET_ADDR, SECOND_ADDR, Namespace, Network, wait_for
from tests.support.servers import DNS, ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

OWN_ADDR = "198.18.0.9"
"""A second address of the host."""
OTHER_HOST, OTHER_INTERNET = "198.19.0.1", "198.19.0.2"
"""The ends of a second wire from the host to the internet."""
NAME = "www.example.test"
PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_ICMP: "icmp"}
_ALL_IPV4 = 0x0800


class Watcher:
    """Collects the sources of IPv4 packets that arrive over an interface: (protocol or "dns", address)."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        self.seen: set[tuple[str, str]] = set()
        kind = socket.htons(_ALL_IPV4)
        self._sock = namespace.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, kind))
        self._sock.bind((interface, _ALL_IPV4))
        self._sock.settimeout(0.1)
        self._ended = False
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                packet, address = self._sock.recvfrom(65535)
                if address[2] == socket.PACKET_HOST:
                    port = int.from_bytes(packet[22:24], "big")
                    what = "dns" if port == DNS else PROTOCOLS[packet[9]]
                    self.seen.add((what, socket.inet_ntoa(packet[12:16])))

    def close(self) -> None:
        """Stop."""
        self._ended = True
        self._thread.join()
        self._sock.close()


@contextlib.contextmanager
def watching(namespace: Namespace, interface: str = "veth0") -> Iterator[set[tuple[str, str]]]:
    """The set that a Watcher fills."""
    watcher = Watcher(namespace, interface)
    try:
        yield watcher.seen
    finally:
        watcher.close()


@pytest.fixture
def permitted(network: Network) -> Iterator[None]:
    """The host allows guests' pings."""
    setting = "net.ipv4.ping_group_range"
    network.host.run("sysctl", "-q", "-w", f"{setting}=0 2147483647")
    yield
    network.host.run("sysctl", "-q", "-w", f"{setting}=1 0")


@pytest.fixture(scope="module")
def on_host(network: Network) -> Iterator[Servers]:
    """Servers on the host's loopback alone."""
    servers = Servers(network.host, network.directory, "127.0.0.1")
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def wires(network: Network) -> None:
    """A second address of the host, and a second wire, over which the same internet is reached."""
    network.host.ip("address", "add", f"{OWN_ADDR}/24", "dev", "veth0")
    veth = ("link", "add", "veth1", "type", "veth", "peer", "name", "veth1", "netns", network.internet.name)
    network.host.ip(*veth)
    for namespace, address in ((network.host, OTHER_HOST), (network.internet, OTHER_INTERNET)):
        namespace.ip("address", "add", f"{address}/24", "dev", "veth1")
        namespace.ip("link", "set", "veth1", "up")
    network.host.ip("route", "add", "default", "via", OTHER_INTERNET, "metric", "100")
    # Servers answer over this wire from the address that is asked below.
    answers = ("route", "replace", f"{OTHER_HOST}/32", "dev", "veth1", "src", SECOND_ADDR)
    network.internet.ip(*answers)
    for name in ("all", "veth0", "veth1"):
        for namespace in (network.host, network.internet):
            namespace.run("sysctl", "-q", "-w", f"net.ipv4.conf.{name}.rp_filter=0")


def ping(agent: Agent, address: str) -> str:
    """The output of one ping."""
    return agent.guest.run("ping", "-n", "-c", "1", "-W", "2", address, check=False).stdout


def use_everything(agent: Agent, address: str) -> None:
    """TCP, UDP and a ping to this address, and questions to the gateway."""
    assert agent.run("connect", address, ECHO)["errno"] == ""
    assert agent.run("udp", address, UDP_ECHO, 100, 3)["received"] == 3
    assert " 1 received" in ping(agent, address)
    assert agent.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")["answers"] == [INTERNET_ADDR]
    # The answer does not fit a datagram, so the gateway asks again over TCP.
    assert agent.run("resolve", GATEWAY_ADDR, "text.example.test", "TXT", "tcp")["answers"]


# --- name servers ---------------------------------------------------------------------------


def test_a_configured_name_server_is_asked_in_place_of_the_hosts(network: Network, outside: Servers) -> None:
    before = network.host.resolv_conf.read_text()
    network.host.resolv_conf.write_text(f"nameserver {BLACK_HOLE_ADDR}\n")
    try:
        flags = ("-dns-server", f"{INTERNET_ADDR}:{DNS}")
        with Daemon(network, *flags) as daemon, Agent(network.guest, daemon.socket) as agent:
            for how in ("udp", "tcp"):
                answer = agent.run("resolve", GATEWAY_ADDR, NAME, "A", how)
                assert answer["answers"] == [INTERNET_ADDR]
            (line,) = daemon.events("upstream name servers")
            assert line["servers"] == [INTERNET_ADDR]
    finally:
        network.host.resolv_conf.write_text(before)


def test_without_dns_the_gateway_names_no_server_and_its_port_53_is_closed(
    network: Network, outside: Servers, tmp_path: Path
) -> None:
    with Daemon(network, "-disable", "dns") as daemon, Agent(network.guest, daemon.socket) as agent:
        assert agent.run("connect", GATEWAY_ADDR, DNS)["errno"] == "ECONNREFUSED"
        with pytest.raises(AssertionError, match="Connection refused"):
            agent.run("udp", GATEWAY_ADDR, DNS, 100, 1)
        counted = daemon.gauge("nat_flow_refused_dns_off")
        assert (counted["demux"], counted["egress0"]) == (1, 1)
        assert agent.run("resolve", INTERNET_ADDR, NAME, "A", "udp")["answers"] == [INTERNET_ADDR]
        url = f"http://{GATEWAY_ADDR}/services/forwarder/all"
        assert agent.guest.run("curl", "-sS", "-f", url).stdout == "[]\n"
        assert f"ip={GUEST_ADDR} router={GATEWAY_ADDR} dns=.\n" in lease(agent, tmp_path)


# --- the source of host sockets -----------------------------------------------------------------


@pytest.mark.usefixtures("permitted", "outside", "on_host", "wires")
@pytest.mark.parametrize("udp_nat", ["symmetric", "full-cone"])
def test_all_that_guests_cause_leaves_from_the_outbound_address(network: Network, udp_nat: str) -> None:
    for flags, source in (((), "198.18.0.1"), (("-outbound-address", OWN_ADDR), OWN_ADDR)):
        with (
            Daemon(network, "-udp-nat", udp_nat, *flags) as daemon,
            Agent(network.guest, daemon.socket) as agent,
        ):
            with watching(network.internet) as seen:
                use_everything(agent, INTERNET_ADDR)
                check_the_hosts_loopback(agent)
            assert seen == {(kind, source) for kind in ("tcp", "udp", "icmp", "dns")}


@pytest.mark.usefixtures("permitted", "outside", "on_host", "wires")
@pytest.mark.parametrize("udp_nat", ["symmetric", "full-cone"])
def test_all_that_guests_cause_leaves_through_the_outbound_interface(network: Network, udp_nat: str) -> None:
    flags = ("-udp-nat", udp_nat, "-outbound-interface", "veth1", "-dns-server", SECOND_ADDR)
    with Daemon(network, *flags) as daemon, Agent(network.guest, daemon.socket) as agent:
        with watching(network.internet) as other, watching(network.internet, "veth1") as seen:
            use_everything(agent, SECOND_ADDR)
            check_the_hosts_loopback(agent)
        assert seen == {(kind, OTHER_HOST) for kind in ("tcp", "udp", "icmp", "dns")}
        assert other == set()


@pytest.mark.usefixtures("outside", "wires")
def test_a_guest_is_told_at_once_that_the_outbound_address_has_gone(network: Network) -> None:
    address = "198.18.0.10"
    network.host.ip("address", "add", f"{address}/24", "dev", "veth0")
    flags = ("-outbound-address", address)
    with Daemon(network, *flags) as daemon, Agent(network.guest, daemon.socket) as agent:
        network.host.ip("address", "del", f"{address}/24", "dev", "veth0")
        refused = agent.run("connect", INTERNET_ADDR, ECHO)
        assert (refused["errno"], refused["seconds"] < 2) == ("ENETUNREACH", True)
        network.host.ip("address", "add", f"{address}/24", "dev", "veth0")
        assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
    network.host.ip("address", "del", f"{address}/24", "dev", "veth0")


def check_the_hosts_loopback(agent: Agent) -> None:
    """The host's own servers on 127.0.0.1 are reached as ever."""
    assert agent.run("connect", HOST_ADDR, ECHO)["errno"] == ""
    assert agent.run("udp", HOST_ADDR, UDP_ECHO, 100, 3)["received"] == 3


# --- guests' names --------------------------------------------------------------------------

SCRIPT = """#!/bin/sh
[ "$1" = bound ] && echo "ip=$ip router=$router dns=$dns."
exit 0
"""


def client(directory: Path, *words: str) -> list[str]:
    """The command line of busybox's DHCP client. It writes its lease with SCRIPT."""
    script = directory / "script"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    return [program("udhcpc"), "-i", "tap0", "-f", "-n", "-t", "3", "-T", "1", "-s", str(script), *words]


def lease(agent: Agent, directory: Path, *words: str) -> str:
    """Get a lease in the guest, and keep it. Returns it as SCRIPT writes it."""
    return agent.guest.run(*client(directory, "-q", *words)).stdout


@pytest.mark.usefixtures("outside")
def test_guests_find_each_other_by_the_names_of_their_dhcp_clients(network: Network, tmp_path: Path) -> None:
    path = network.directory / "names.yaml"
    path.write_text("guest-names: vm.internal\n")
    name = "web.vm.internal"
    with (
        Daemon(network, "-config", str(path)) as daemon,
        Agent(network.guest, daemon.socket) as agent,
        Agent(network.guests[1], daemon.socket, mac="02:00:00:00:00:02") as other,
    ):

        def asked(what: str, rdtype: str = "A", how: str = "udp") -> tuple[str, list[str]]:
            answer = other.run("resolve", GATEWAY_ADDR, what, rdtype, how)
            return answer["rcode"], answer["answers"]

        assert asked(name) == ("NXDOMAIN", [])
        # It releases its lease when it ends.
        running = agent.guest.popen(client(tmp_path, "-R", "-x", "hostname:web"), stdout=subprocess.PIPE)
        assert running.stdout is not None
        addr = running.stdout.readline().decode().split()[0].removeprefix("ip=")
        assert asked(name) == asked(name, how="tcp") == ("NOERROR", [addr])
        reverse = ".".join(reversed(addr.split("."))) + ".in-addr.arpa"
        assert asked(reverse, "PTR") == ("NOERROR", [f"{name}."])
        lease(other, tmp_path, "-x", "hostname:web")
        assert daemon.gauge("dhcp_host_name_refused_taken")["resolver"] >= 1
        assert asked(name) == ("NOERROR", [addr])
        running.terminate()
        running.wait(10)
        wait_for(lambda: asked(name) == ("NXDOMAIN", []), "the end of the name")
        lease(other, tmp_path, "-x", "hostname:web")
        assert asked(name) == ("NOERROR", [other.wait_for_address().partition("/")[0]])


# --- switched off ---------------------------------------------------------------------------


@pytest.mark.usefixtures("permitted", "outside", "on_host")
def test_without_udp_and_icmp_only_tcp_leaves(network: Network) -> None:
    flags = ("-disable", "udp", "-disable", "icmp")
    with Daemon(network, *flags) as daemon, Agent(network.guest, daemon.socket) as agent:
        with watching(network.internet) as seen:
            assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
            for address in (INTERNET_ADDR, HOST_ADDR):
                with pytest.raises(AssertionError, match="No route to host"):
                    agent.run("udp", address, UDP_ECHO, 100, 1)
            assert "Packet filtered" in ping(agent, INTERNET_ADDR)
            answer = agent.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")
        assert answer["answers"] == [INTERNET_ADDR]
        assert {kind for kind, _ in seen} == {"tcp", "dns"}
        assert daemon.gauge("nat_flow_refused_udp_off")["demux"] == 2
        assert daemon.gauge("nat_flow_refused_icmp_off")["demux"] == 1
        assert " 1 received" in ping(agent, GATEWAY_ADDR)
        body = {"local": "127.0.0.1:5353", "remote": f"{GUEST_ADDR}:53", "protocol": "udp"}
        status, text = daemon.api("/services/forwarder/expose", body)
        assert (status, b"udp is switched off" in text) == (500, True)


LOOPBACK = f"""
disable: [host-loopback]
stack:
  nat: {{{HOST_ADDR}: 127.0.0.1, 192.168.127.253: 127.0.0.2, 10.0.0.1: 0.0.0.0}}
  gatewayVirtualIPs: [{HOST_ADDR}, 192.168.127.253]
"""


@pytest.mark.usefixtures("permitted", "outside", "on_host")
def test_the_hosts_loopback_is_out_of_reach_under_every_address(network: Network) -> None:
    path = network.directory / "loopback.yaml"
    path.write_text(LOOPBACK)
    with Daemon(network, "-config", str(path)) as daemon, Agent(network.guest, daemon.socket) as agent:
        for address in (HOST_ADDR, "192.168.127.253", "10.0.0.1"):
            refused = agent.run("connect", address, ECHO)
            assert (refused["errno"], refused["seconds"] < 2) == ("EHOSTUNREACH", True), address
            with pytest.raises(AssertionError, match="No route to host"):
                agent.run("udp", address, UDP_ECHO, 100, 1)
            assert "Packet filtered" in ping(agent, address), address
        counted = daemon.gauge("nat_flow_refused_host_loopback_off")
        assert (counted["demux"], counted["egress0"]) == (6, 3)
        assert agent.run("connect", "0.0.0.1", ECHO)["errno"] != ""
        assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
        assert agent.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")["answers"] == [INTERNET_ADDR]
