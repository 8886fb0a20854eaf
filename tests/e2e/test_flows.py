"""The record of flows with real guests: what /flows shows while they live, and how one is ended."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, GUEST_MAC, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import DISCARD, ECHO, UDP_ECHO, Servers

pytestmark = [pytest.mark.e2e, pytest.mark.one_daemon]


NAME = "www.example.test"


@pytest.fixture
def permitted(network: Network) -> Iterator[None]:
    """The host allows ICMP sockets."""
    network.host.run("sysctl", "-q", "-w", "net.ipv4.ping_group_range=0 2147483647")
    yield
    network.host.run("sysctl", "-q", "-w", "net.ipv4.ping_group_range=1 0")


def flows(daemon: Daemon, query: str = "") -> list[dict[str, Any]]:
    status, body = daemon.api(f"/flows?{query}")
    assert status == 200, body
    found: list[dict[str, Any]] = json.loads(body)["flows"]
    return found


def the_flow(daemon: Daemon, query: str) -> dict[str, Any]:
    """The only flow that fits."""
    return wait_for(lambda: flows(daemon, query), f"a flow with {query}")[0]


def delete(daemon: Daemon, path: str) -> int:
    """The status of a DELETE."""
    connection = http.client.HTTPConnection("localhost", timeout=10.0)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(daemon.socket))
    with contextlib.closing(connection):
        connection.request("DELETE", path)
        return connection.getresponse().status


def test_a_connection_is_shown_with_its_name_and_its_bytes(daemon: Daemon, agent: Agent) -> None:
    agent.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")
    with agent.guest.connect(INTERNET_ADDR, ECHO) as sock:
        sock.sendall(b"x" * 100_000)
        left = 100_000
        while left:
            left -= len(sock.recv(left))
        port = sock.getsockname()[1]
        flow = wait_for(
            lambda: [flow for flow in flows(daemon, f"host={NAME}") if flow["bytes_to_guest"] == 100_000],
            "the guest has acknowledged the echo",
        )[0]
        expected = {
            "protocol": "tcp",
            "direction": "out",
            "guest_mac": GUEST_MAC,
            "guest_address": GUEST_ADDR,
            "guest_port": port,
            "address": INTERNET_ADDR,
            "port": ECHO,
            "name": NAME,
            "state": "established",
            "bytes_from_guest": 100_000,
        }
        assert {key: flow[key] for key in expected} == expected
        assert 69 <= flow["packets_to_guest"] <= 200
        assert 2 <= flow["packets_from_guest"] <= 200
        # A guest that gets no processor time for a while acknowledges late.
        assert 0 <= flow["retransmissions"] < 20
        assert 0 < flow["connect_seconds"] < 5
        assert 0 < flow["min_rtt_seconds"] < 5
        assert 0 <= flow["idle_seconds"] <= flow["age_seconds"] < 60
        guests = json.loads(daemon.api("/guests")[1])
        assert flow["guest"] in {guest["guest"] for guest in guests}
        assert flows(daemon, f"guest={flow['guest']}&port={ECHO}&protocol=tcp") != []
        assert flows(daemon, f"guest={flow['guest_mac']}&host={INTERNET_ADDR}&sort=age") != []
        assert flows(daemon, f"guest={GUEST_ADDR}&protocol=udp&host={INTERNET_ADDR}&port={ECHO}") == []
        assert flows(daemon, "guest=192.168.127.77") == []


def test_an_operator_cuts_a_connection_on_both_sides(daemon: Daemon, agent: Agent, outside: Servers) -> None:
    with agent.guest.connect(INTERNET_ADDR, DISCARD) as sock:
        sock.sendall(b"some bytes")
        flow = the_flow(daemon, f"port={DISCARD}")
        assert delete(daemon, f"/flows/{flow['id']}") == 200
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert flows(daemon, f"port={DISCARD}") == []
    assert delete(daemon, f"/flows/{flow['id']}") == 404
    assert outside.next_report("discard")["error"]


def test_datagrams_and_pings_are_flows(permitted: None, daemon: Daemon, agent: Agent) -> None:
    sock = agent.guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.settimeout(10)
        for _ in range(5):
            sock.sendto(b"d" * 200, (INTERNET_ADDR, UDP_ECHO))
            assert len(sock.recv(1000)) == 200
        flow = the_flow(daemon, f"protocol=udp&port={UDP_ECHO}")
        counts = [flow[f"{kind}_{way}_guest"] for way in ("from", "to") for kind in ("packets", "bytes")]
        assert counts == [5, 1000, 5, 1000]
        assert (flow["state"], flow["guest_port"]) == ("open", sock.getsockname()[1])
        assert flow["min_rtt_seconds"] is flow["retransmissions"] is None
        assert delete(daemon, f"/flows/{flow['id']}") == 200
        assert flows(daemon, f"protocol=udp&port={UDP_ECHO}") == []
        # The next datagram opens another flow.
        sock.sendto(b"again", (INTERNET_ADDR, UDP_ECHO))
        assert sock.recv(1000) == b"again"
        assert the_flow(daemon, f"protocol=udp&port={UDP_ECHO}")["id"] != flow["id"]
    agent.guest.run("ping", "-n", "-c", "3", "-i", "0.2", INTERNET_ADDR)
    ping = the_flow(daemon, "protocol=icmp")
    assert (ping["packets_from_guest"], ping["packets_to_guest"]) == (3, 3)
    assert (ping["address"], ping["guest_address"]) == (INTERNET_ADDR, GUEST_ADDR)
    assert delete(daemon, f"/flows/{ping['id']}") == 200
    assert flows(daemon, "protocol=icmp") == []


def test_a_client_of_a_forward_is_the_other_end(
    daemon: Daemon, agent: Agent, inside: Servers, network: Network
) -> None:
    daemon.expose("127.0.0.1:9001", f"{GUEST_ADDR}:{ECHO}")
    daemon.expose("127.0.0.1:9002", f"{GUEST_ADDR}:{UDP_ECHO}", "udp")
    with network.host.connect("127.0.0.1", 9001) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
        flow = the_flow(daemon, "protocol=tcp&host=127.0.0.1")
        assert (flow["direction"], flow["port"]) == ("in", sock.getsockname()[1])
        assert (flow["guest_address"], flow["guest_port"]) == (GUEST_ADDR, ECHO)
        assert (flow["bytes_from_guest"], flow["bytes_to_guest"]) == (5, 5)
        assert delete(daemon, f"/flows/{flow['id']}") == 200
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    datagrams = network.host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with datagrams:
        datagrams.settimeout(10)
        datagrams.sendto(b"hello", ("127.0.0.1", 9002))
        assert datagrams.recv(100) == b"hello"
        other = the_flow(daemon, "protocol=udp&host=127.0.0.1")
        assert (other["direction"], other["port"]) == ("in", datagrams.getsockname()[1])
        assert (other["guest"], other["guest_mac"]) == (flow["guest"], flow["guest_mac"])
        assert (other["packets_from_guest"], other["packets_to_guest"]) == (1, 1)
        assert delete(daemon, f"/flows/{other['id']}") == 200
        assert flows(daemon, "protocol=udp&host=127.0.0.1") == []


def test_a_wrong_query_names_key_value_and_what_is_allowed(daemon: Daemon) -> None:
    status, body = daemon.api("/flows?limit=10001")
    assert (status, body) == (400, b"limit '10001' is wrong (allowed: 1 to 10000)\n")
