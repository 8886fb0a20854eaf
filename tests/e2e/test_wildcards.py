"""Forwards on every address of a host that has several, of both families and on two networks."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.support.agent import GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import HOST_ADDR, INTERNET_ADDR, Network, wait_for
from tests.support.servers import ECHO, UDP_ECHO, Servers
from tests.support.traffic import receive_all

pytestmark = [pytest.mark.e2e, pytest.mark.one_daemon]

FURTHER_ADDR = "198.18.0.11"
OTHER_NET_ADDR = "198.51.100.1"
HOST_ADDR6 = "fd00:18::1"
FURTHER_ADDR6 = "fd00:18::11"
INTERNET_ADDR6 = "fd00:18::2"
LOOPBACKS = ("127.0.0.1", "::1")
ADDRESSES = (HOST_ADDR, FURTHER_ADDR, OTHER_NET_ADDR, HOST_ADDR6, FURTHER_ADDR6)


@pytest.fixture(scope="module", autouse=True)
def addresses(network: Network) -> None:
    """The host has two addresses of each family on its link, and another network behind it (docker0, say)."""
    network.host.ip("address", "add", f"{FURTHER_ADDR}/24", "dev", "veth0")
    network.host.ip("address", "add", f"{OTHER_NET_ADDR}/32", "dev", "lo")
    network.internet.ip("route", "add", OTHER_NET_ADDR, "via", HOST_ADDR)
    # The one that was added last is the one which the system prefers.
    for address in (FURTHER_ADDR6, HOST_ADDR6):
        network.host.ip("address", "add", f"{address}/64", "dev", "veth0", "nodad")
    network.internet.ip("address", "add", f"{INTERNET_ADDR6}/64", "dev", "veth0", "nodad")
    for namespace in (network.host, network.internet):
        wait_for(
            lambda ns=namespace: "tentative" not in ns.run("ip", "-6", "address").stdout,
            "addresses that can be used",
        )


@pytest.fixture(autouse=True)
def no_forward_stays(daemon: Daemon) -> Iterator[None]:
    yield
    for forward in json.loads(daemon.api("/services/forwarder/all")[1]):
        wish = {"local": forward["local"], "protocol": forward["protocol"]}
        assert daemon.api("/services/forwarder/unexpose", wish) == (200, b"")


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp_echo(network: Network, address: str, port: int, inside: bool = False) -> bytes:
    """What an echo server answers: to a client of the host, or of the network outside."""
    namespace = network.host if inside else network.internet
    with namespace.connect(address, port) as sock:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)


def udp_client(network: Network, address: str, port: int, inside: bool = False) -> socket.socket:
    """A connected client, which hears nothing that comes from elsewhere."""

    def connected() -> socket.socket:
        sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
        sock.settimeout(10)
        sock.connect((address, port))
        return sock

    return (network.host if inside else network.internet).call(connected)


@pytest.mark.parametrize("local", ["0.0.0.0:9100", "[::]:9100", ":9100"])
def test_a_tcp_wildcard_serves_clients_of_both_families(
    daemon: Daemon, network: Network, inside: Servers, local: str
) -> None:
    daemon.expose(local, f"{GUEST_ADDR}:{ECHO}")
    for address in LOOPBACKS:
        assert tcp_echo(network, address, 9100, inside=True) == b"hello"
    for address in ADDRESSES:
        assert tcp_echo(network, address, 9100) == b"hello", address


@pytest.mark.parametrize("local", ["0.0.0.0:9101", "[::]:9101", ":9101"])
def test_a_udp_wildcard_answers_each_client_from_the_address_that_it_asked(
    daemon: Daemon, network: Network, inside: Servers, local: str
) -> None:
    daemon.expose(local, f"{GUEST_ADDR}:{UDP_ECHO}", "udp")
    places = [(address, True) for address in LOOPBACKS] + [(address, False) for address in ADDRESSES]
    socks = [udp_client(network, address, 9101, inside) for address, inside in places]
    for turn in range(3):
        for sock, (address, _) in zip(socks, places, strict=True):
            sock.send(f"{turn} {address}".encode())
        for sock, (address, _) in zip(socks, places, strict=True):
            assert sock.recv(100) == f"{turn} {address}".encode()
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("local", ["0.0.0.0:9102", ":9102"])
def test_one_client_socket_that_asks_two_addresses_is_answered_from_each(
    daemon: Daemon, network: Network, inside: Servers, local: str
) -> None:
    daemon.expose(local, f"{GUEST_ADDR}:{UDP_ECHO}", "udp4" if local[0] == "0" else "udp")
    sock = network.internet.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.settimeout(10)
    for address in (HOST_ADDR, FURTHER_ADDR, OTHER_NET_ADDR, HOST_ADDR):
        sock.sendto(address.encode(), (address, 9102))
        assert sock.recvfrom(100) == (address.encode(), (address, 9102))
    sock.close()


def test_a_client_on_a_link_local_address_is_answered(
    daemon: Daemon, network: Network, inside: Servers
) -> None:
    daemon.expose(":9103", f"{GUEST_ADDR}:{UDP_ECHO}", "udp")
    text = network.host.run("ip", "-6", "-o", "address", "show", "dev", "veth0", "scope", "link").stdout
    address = text.split()[3].partition("/")[0]

    def connected() -> socket.socket:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.settimeout(10)
        sock.connect((address, 9103, 0, socket.if_nametoindex("veth0")))
        return sock

    with network.internet.call(connected) as sock:
        sock.send(b"hello")
        assert sock.recv(100) == b"hello"


def test_many_datagrams_at_once_keep_their_address(daemon: Daemon, network: Network, inside: Servers) -> None:
    daemon.expose(":9104", f"{GUEST_ADDR}:{UDP_ECHO}", "udp")
    for address in (FURTHER_ADDR, FURTHER_ADDR6):
        with udp_client(network, address, 9104) as sock:
            sent = {bytes([number]) * 1200 for number in range(12)}
            for payload in sent:
                sock.send(payload)
            assert {sock.recv(2000) for _ in sent} == sent


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_wildcard_of_one_family_leaves_the_other_alone(
    daemon: Daemon, network: Network, inside: Servers, protocol: str
) -> None:
    port = ECHO if protocol == "tcp" else UDP_ECHO
    daemon.expose(":9105", f"{GUEST_ADDR}:{port}", f"{protocol}4")
    refused = {"local": ":9105", "remote": f"{GUEST_ADDR}:{port}", "protocol": protocol}
    text = f"listen {protocol} :9105: bind: address already in use\n".encode()
    assert daemon.api("/services/forwarder/expose", refused) == (500, text)
    if protocol == "tcp":
        assert tcp_echo(network, HOST_ADDR, 9105) == b"hello"
        with pytest.raises(ConnectionRefusedError):
            tcp_echo(network, HOST_ADDR6, 9105)
    daemon.expose(":9105", f"{GUEST_ADDR}:{port}", f"{protocol}6")
    if protocol == "tcp":
        assert tcp_echo(network, HOST_ADDR6, 9105) == b"hello"
        return
    for address in (FURTHER_ADDR, FURTHER_ADDR6):
        with udp_client(network, address, 9105) as sock:
            sock.send(b"hello")
            assert sock.recv(100) == b"hello"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_two_wildcards_of_one_port_are_one_too_many(daemon: Daemon, protocol: str) -> None:
    daemon.expose("0.0.0.0:9106", f"{GUEST_ADDR}:1", protocol)
    for local in ("[::]:9106", ":9106"):
        wish = {"local": local, "remote": f"{GUEST_ADDR}:1", "protocol": protocol}
        text = f"listen {protocol} {local}: bind: address already in use\n".encode()
        assert daemon.api("/services/forwarder/expose", wish) == (500, text)
    again = {"local": "0.0.0.0:9106", "remote": f"{GUEST_ADDR}:1", "protocol": protocol}
    text = f"proxy already running for {protocol} on 0.0.0.0:9106\n".encode()
    assert daemon.api("/services/forwarder/expose", again) == (500, text)


def test_the_guest_is_told_the_plain_address_of_an_ipv4_client_of_a_wildcard(
    daemon: Daemon, network: Network, inside: Servers
) -> None:
    wish = {"local": "[::]:9107", "remote": f"{GUEST_ADDR}:{ECHO}", "proxy_protocol": "v1"}
    assert daemon.api("/services/forwarder/expose", wish) == (200, b"")
    told = tcp_echo(network, FURTHER_ADDR, 9107)
    assert told.startswith(f"PROXY TCP4 {INTERNET_ADDR} {FURTHER_ADDR} ".encode())
    told = tcp_echo(network, FURTHER_ADDR6, 9107)
    assert told.startswith(b"PROXY TCP6 fd00:18:0:")


@pytest.mark.parametrize("local", ["0.0.0.0:9110", "[::]:9110", ":9110"])
def test_listen_and_services_on_a_wildcard_take_both_families(network: Network, local: str) -> None:
    services = local.replace("9110", "9111")
    flags = ("-listen", f"tcp://{local}", "-services", f"tcp://{services}")
    with Daemon(network, *flags, name="own"):
        for port in (9110, 9111):
            for address in (HOST_ADDR, HOST_ADDR6):
                url = (
                    f"http://[{address}]:{port}/leases"
                    if ":" in address
                    else f"http://{address}:{port}/leases"
                )
                assert "192.168.127.1" in network.internet.run("curl", "-gsS", "-m", "10", url).stdout, url


def test_an_expose_over_the_api_on_a_wildcard_means_the_plain_client_address(network: Network) -> None:
    wish = json.dumps({"local": "127.0.0.1:9113", "remote": ":80", "protocol": "tcp"})
    with Daemon(network, "-services", "tcp://[::]:9112", name="own") as daemon:
        url = f"http://{HOST_ADDR}:9112/services/forwarder/expose"
        assert network.internet.run("curl", "-sS", "-m", "10", "-d", wish, url).stdout == ""
        (forward,) = [
            found
            for found in json.loads(daemon.api("/services/forwarder/all")[1])
            if found["local"] == "127.0.0.1:9113"
        ]
        assert forward["remote"] == f"{INTERNET_ADDR}:80"


def test_forwards_of_the_file_may_be_of_one_family(network: Network, outside: Servers) -> None:
    path = network.directory / "families.yaml"
    tcp, udp = f"{GUEST_ADDR}:{ECHO}", f"{GUEST_ADDR}:{UDP_ECHO}"
    path.write_text(
        f'stack: {{forwards: {{"tcp4::9114": "{tcp}", "udp6:[::]:9114": "{udp}"}}}}\n'
        'proxy-protocol: {"tcp4::9114": v1}\n'
    )
    with (
        Daemon(network, "-config", str(path), name="own") as daemon,
        Agent(network.guests[1], daemon.socket) as agent,
    ):
        inside = Servers(agent.guest, network.directory)
        assert tcp_echo(network, HOST_ADDR, 9114).startswith(b"PROXY TCP4 ")
        with pytest.raises(ConnectionRefusedError):
            tcp_echo(network, HOST_ADDR6, 9114)
        with udp_client(network, FURTHER_ADDR6, 9114) as sock:
            sock.send(b"hello")
            assert sock.recv(100) == b"hello"
        inside.close()
