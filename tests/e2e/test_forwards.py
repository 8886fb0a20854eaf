"""Servers in the guest, reached from the host through exposed ports."""

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from tests.support.agent import GUEST_ADDR, Agent, run_client
from tests.support.daemon import Daemon
from tests.support.netns import HOST_ADDR, INTERNET_ADDR, Network
from tests.support.servers import DATA, ECHO, HTTP, LATE, PAGE, UDP_ECHO, Servers
from tests.support.traffic import receive_all

pytestmark = [pytest.mark.e2e, pytest.mark.one_daemon]

MIB = 1 << 20
LOCAL = "127.0.0.1"


@pytest.fixture(autouse=True)
def no_forward_stays(daemon: Daemon) -> Iterator[None]:
    """What a test exposed is not in the way of the next one."""
    yield
    for forward in json.loads(daemon.api("/services/forwarder/all")[1]):
        wish = {"local": forward["local"], "protocol": forward["protocol"]}
        assert daemon.api("/services/forwarder/unexpose", wish) == (200, b"")


def test_a_tcp_server_in_the_guest_serves_the_host(daemon: Daemon, network: Network, inside: Servers) -> None:
    daemon.expose(f"{LOCAL}:9000", f"{GUEST_ADDR}:{DATA}")
    outcome = run_client(network.host, "transfer", LOCAL, 9000, 16 * MIB, 16 * MIB)
    assert outcome["errors"] == []


def test_many_connections_into_the_guest_at_once(daemon: Daemon, network: Network, inside: Servers) -> None:
    daemon.expose(f"{LOCAL}:9000", f"{GUEST_ADDR}:{DATA}")
    outcome = run_client(network.host, "transfer", LOCAL, 9000, MIB, MIB, 50)
    assert outcome["errors"] == []


def test_connections_of_two_egress_workers_into_one_guest_never_meet(
    network: Network, outside: Servers
) -> None:
    flags = ("-egress-workers", "2", "-tcp-workers", "2")
    with Daemon(network, *flags, name="own") as daemon, Agent(network.guests[1], daemon.socket) as agent:
        inside = Servers(agent.guest, network.directory)
        daemon.expose(f"{LOCAL}:9000", f"{GUEST_ADDR}:{ECHO}")
        socks = [network.host.connect(LOCAL, 9000) for _ in range(6)]
        for turn in range(20):
            for number, sock in enumerate(socks):
                sock.sendall(b"%d of %d" % (turn, number))
            for number, sock in enumerate(socks):
                assert sock.recv(100) == b"%d of %d" % (turn, number)
        for sock in socks:
            sock.close()
        inside.close()


def test_half_close_works_into_the_guest(daemon: Daemon, network: Network, inside: Servers) -> None:
    daemon.expose(f"{LOCAL}:9001", f"{GUEST_ADDR}:{LATE}")
    assert run_client(network.host, "late", LOCAL, 9001, MIB) == {"answer": f"late {MIB}"}


def test_a_page_of_the_guest_can_be_fetched(daemon: Daemon, network: Network, inside: Servers) -> None:
    daemon.expose(f"{LOCAL}:9002", f"{GUEST_ADDR}:{HTTP}")
    assert network.host.run("curl", "-sS", f"http://{LOCAL}:9002/").stdout.encode() == PAGE


def test_a_udp_server_in_the_guest_serves_the_host(daemon: Daemon, network: Network, inside: Servers) -> None:
    daemon.expose(f"{LOCAL}:9003", f"{GUEST_ADDR}:{UDP_ECHO}", "udp")
    for size in (1, 1400, 8000):
        outcome = run_client(network.host, "udp", LOCAL, 9003, size, 10)
        assert outcome["received"] == 10, size


def test_a_closed_port_of_the_guest_closes_the_hosts_connection(
    daemon: Daemon, network: Network, agent: Agent
) -> None:
    daemon.expose(f"{LOCAL}:9004", f"{GUEST_ADDR}:9")
    with network.host.connect(LOCAL, 9004) as sock:
        sock.settimeout(11)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""


def test_unexpose_closes_the_listener_and_keeps_connections(
    daemon: Daemon, network: Network, inside: Servers
) -> None:
    daemon.expose(f"{LOCAL}:9005", f"{GUEST_ADDR}:{ECHO}")
    assert json.loads(daemon.api("/services/forwarder/all")[1]) == [
        {"local": f"{LOCAL}:9005", "remote": f"{GUEST_ADDR}:{ECHO}", "protocol": "tcp"}
    ]
    with network.host.connect(LOCAL, 9005) as sock:
        sock.sendall(b"before")
        assert sock.recv(100) == b"before"
        gone = {"local": f"{LOCAL}:9005", "protocol": "tcp"}
        assert daemon.api("/services/forwarder/unexpose", gone) == (200, b"")
        sock.sendall(b"after")
        assert sock.recv(100) == b"after"
        with pytest.raises(ConnectionRefusedError):
            network.host.connect(LOCAL, 9005)
    assert json.loads(daemon.api("/services/forwarder/all")[1]) == []


def test_a_guest_publishes_its_own_port(
    daemon: Daemon, network: Network, agent: Agent, inside: Servers
) -> None:
    wish = json.dumps({"local": f"{LOCAL}:9006", "remote": f":{HTTP}", "protocol": "tcp"})
    url = "http://gateway.containers.internal/services/forwarder/expose"
    assert agent.guest.run("curl", "-sS", "-f", "-d", wish, url).stdout == ""
    assert network.host.run("curl", "-sS", f"http://{LOCAL}:9006/").stdout.encode() == PAGE


def test_a_host_name_as_local_address_is_looked_up(
    daemon: Daemon, network: Network, agent: Agent, inside: Servers
) -> None:
    daemon.expose("localhost:9008", f"{GUEST_ADDR}:{HTTP}")
    assert network.host.run("curl", "-sS", "http://localhost:9008/").stdout.encode() == PAGE
    body = {"local": "nowhere.invalid:9008", "remote": f"{GUEST_ADDR}:{HTTP}", "protocol": "tcp"}
    refusal = (500, b"listen tcp: lookup nowhere.invalid: no such host\n")
    assert daemon.api("/services/forwarder/expose", body) == refusal


def test_a_taken_port_is_refused_in_the_systems_words(daemon: Daemon, network: Network) -> None:
    taken = network.host.call(lambda: socket.create_server((LOCAL, 9007)))
    body = {"local": f"{LOCAL}:9007", "remote": f"{GUEST_ADDR}:80", "protocol": "tcp"}
    status, text = daemon.api("/services/forwarder/expose", body)
    taken.close()
    assert status == 500
    assert text == b"listen tcp 127.0.0.1:9007: bind: address already in use\n"


def test_the_ssh_port_leads_to_port_22_of_the_guest(network: Network, outside: Servers) -> None:
    with (
        Daemon(network, ssh_port=2222, name="own") as daemon,
        Agent(network.guests[1], daemon.socket) as agent,
    ):
        listener = agent.guest.call(lambda: socket.create_server(("0.0.0.0", 22)))
        listener.settimeout(10)
        with network.host.connect(LOCAL, 2222) as client, listener.accept()[0] as served:
            served.sendall(b"SSH-2.0-test\r\n")
            assert client.recv(100) == b"SSH-2.0-test\r\n"
        listener.close()


def test_bytes_sent_along_with_the_request_for_a_tunnel_reach_the_guest(
    daemon: Daemon, inside: Servers
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(daemon.socket))
        head = f"POST /tunnel?ip={GUEST_ADDR}&port={ECHO} HTTP/1.1\r\nHost: x\r\n\r\n"
        sock.sendall(head.encode() + b"early bird")
        answer = b""
        while len(answer) < 12:
            answer += sock.recv(100)
        assert answer == b"OKearly bird"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_guest_learns_the_clients_address_on_request(
    daemon: Daemon, network: Network, inside: Servers, version: str
) -> None:
    wish = {"local": ":9008", "remote": f"{GUEST_ADDR}:{ECHO}", "proxy_protocol": version}
    assert daemon.api("/services/forwarder/expose", wish) == (200, b"")
    assert json.loads(daemon.api("/services/forwarder/all")[1])[0]["proxy_protocol"] == version
    with network.internet.connect(HOST_ADDR, 9008) as sock:
        port = sock.getsockname()[1]
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        said = receive_all(sock)
    if version == "v1":
        assert said == f"PROXY TCP4 {INTERNET_ADDR} {HOST_ADDR} {port} 9008\r\nhello".encode()
    else:
        addresses = socket.inet_aton(INTERNET_ADDR) + socket.inet_aton(HOST_ADDR)
        ports = port.to_bytes(2, "big") + (9008).to_bytes(2, "big")
        assert said == b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + addresses + ports + b"hello"


def test_a_forward_of_the_file_may_have_a_proxy_header_and_a_unix_client_is_unknown(
    network: Network, outside: Servers
) -> None:
    path = network.directory / "proxy.yaml"
    path.write_text(
        f'stack: {{forwards: {{"{LOCAL}:9009": "{GUEST_ADDR}:{ECHO}"}}}}\n'
        f'proxy-protocol: {{"{LOCAL}:9009": v1}}\n'
    )
    socket_path = network.directory / "proxy.sock"
    with (
        Daemon(network, "-config", str(path), name="own") as daemon,
        Agent(network.guests[1], daemon.socket) as agent,
        contextlib.closing(Servers(agent.guest, network.directory)),
    ):
        with network.host.connect(LOCAL, 9009) as sock:
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock).startswith(f"PROXY TCP4 {LOCAL} {LOCAL} ".encode())
        wish = {
            "local": str(socket_path),
            "remote": f"tcp://{GUEST_ADDR}:{ECHO}",
            "protocol": "unix",
            "proxy_protocol": "v1",
        }
        assert daemon.api("/services/forwarder/expose", wish) == (200, b"")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(socket_path))
            client.shutdown(socket.SHUT_WR)
            assert receive_all(client) == b"PROXY UNKNOWN\r\n"


def test_a_tunnel_leads_to_a_port_of_the_guest(daemon: Daemon, inside: Servers) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(daemon.socket))
        sock.sendall(f"POST /tunnel?ip={GUEST_ADDR}&port={ECHO} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert sock.recv(2) == b"OK"
        sock.sendall(b"through the tunnel")
        assert sock.recv(100) == b"through the tunnel"
