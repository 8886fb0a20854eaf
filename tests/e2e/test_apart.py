"""Kernel guests that all have the same MAC address and the same addresses, with ``guests: apart``.

Two come from one image: the same MAC, the same static IPv4 and IPv6 addresses. A third one asks DHCP.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pipeline.wire import ethernet, ip
from tests.e2e.test_ipv6 import ADDRESSES
from tests.e2e.test_port_security import Card
from tests.e2e.test_restarted import Restartable
from tests.support import dual_stack
from tests.support.agent import GATEWAY_ADDR, GUEST_MAC, Agent
from tests.support.daemon import Daemon
from tests.support.foreign import Foreign
from tests.support.netns import (
    INTERNET_ADDR,
    INTERNET_ADDR6,
    Namespace,
    Network,
    new_shared_memory,
    shared_memory,
    wait_for,
)
from tests.support.servers import DATA, DISCARD, ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
SAME = "192.168.127.15"
SAME6 = ip.text(ADDRESSES.prefix | 0x15)
THIRD_MAC = "5a:94:ef:e4:0c:99"
CLOSED_PORT = 9
REFUSED = ("ECONNREFUSED", "EACCES", "EHOSTUNREACH", "ENETUNREACH")
POLICY = f"""
egress-policy:
  default: allow
  rules:
    - {{action: deny, guests: [{SAME}, "{SAME6}"], ports: [{ECHO}]}}
    - {{action: deny, guests: ["link:2"], ports: [{DISCARD}]}}
"""
PLACEMENTS = ("separate", "auto")
ENDED = "ended early"
PATIENT = ("-i", "0.3", "-W", "2")
"""ping waits for its last answer only as long as its interval, or twice the longest round trip so far."""
Guest = Agent | Foreign
"""A guest whose interface is tap0."""
INNER_MARKS = (b"\xf2\x61\x70", bytes((240, 0)))
"""The first bytes of inner MACs and inner IPv4 addresses of the first links."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Namespaces for three guests, and an internet with IPv6."""
    before = shared_memory()
    with dual_stack.network(3) as made:
        yield made
    assert not new_shared_memory(before)


@pytest.fixture(scope="module")
def outside(network: Network) -> Iterator[Servers]:
    with dual_stack.servers(network) as servers:
        yield servers


def clone(guest: Namespace, daemon: Daemon, *flags: str) -> Agent:
    """A guest of the image."""
    return Agent(guest, daemon.socket, "-address", f"{SAME}/24", *flags, mac=GUEST_MAC)


def add_same6(agent: Guest) -> None:
    """Give the guest the image's IPv6 address."""
    agent.guest.run("ip", "-6", "address", "add", f"{SAME6}/64", "dev", "tap0")
    wait_for_ipv6(agent)
    # The kernel would choose the address that it has made of the MAC.
    route = agent.guest.run("ip", "-6", "route", "show", "default").stdout.split()
    via = route[route.index("via") + 1]
    agent.guest.run("ip", "-6", "route", "replace", "default", "via", via, "dev", "tap0", "src", SAME6)


def wait_for_ipv6(agent: Guest) -> None:
    """Wait until the guest can use its addresses. Until then it would send from its link-local one."""
    wait_for(lambda: has_route6(agent), "a default route over IPv6")
    wait_for(lambda: " tentative" not in shown6(agent), "no address is tentative")
    assert "dadfailed" not in shown6(agent)


def shown6(agent: Guest) -> str:
    return agent.guest.run("ip", "-6", "address", "show", "dev", "tap0").stdout


def has_route6(agent: Guest) -> bool:
    return "default via" in agent.guest.run("ip", "-6", "route").stdout


class Clones:
    """A daemon with two guests of one image."""

    def __init__(self, daemon: Restartable, agents: list[Agent]) -> None:
        self.daemon = daemon
        self.agents = agents


@contextlib.contextmanager
def clones_of(network: Network, *flags: str) -> Iterator[Clones]:
    with contextlib.ExitStack() as stack:
        words = ("-guests", "apart", "-ipv6", "on", *flags)
        daemon = stack.enter_context(Restartable(network, *words))
        # One cuts and sums itself, the other leaves that to the daemon.
        agents = [
            stack.enter_context(clone(guest, daemon, f"-offload={word}"))
            for guest, word in zip(network.guests[:2], ("true", "false"), strict=True)
        ]
        for agent in agents:
            add_same6(agent)
            # Now it has shown its IPv4 address, too.
            agent.guest.run("ping", "-n", "-c", "1", "-W", "2", GATEWAY_ADDR)
        yield Clones(daemon, agents)


@pytest.fixture(params=PLACEMENTS)
def clones(request: pytest.FixtureRequest, network: Network, outside: Servers) -> Iterator[Clones]:
    with clones_of(network, "-placement", request.param) as made:
        yield made


def work(agent: Guest, found: list[tuple[str, Any]], mib: int = 2) -> None:
    """Everything that a guest does, over both families. Adds what came of it."""
    for remote in (INTERNET_ADDR, INTERNET_ADDR6):
        found.append((remote, agent.run("transfer", remote, DATA, mib * MIB, mib * MIB, 2)["errors"]))
        for size in (100, 1400, 6000):
            echoed = agent.run("udp", remote, UDP_ECHO, size, 40)
            found.append((remote, echoed["sent"] - echoed["received"]))
        done = agent.guest.run("ping", "-n", "-c", "5", *PATIENT, remote, check=False)
        found.append((remote, 0 if " 0% packet loss" in done.stdout else done.stdout))
    for how in ("udp", "tcp"):
        resolved = agent.run("resolve", GATEWAY_ADDR, "www.example.test.", "A", how)
        found.append((how, 0 if INTERNET_ADDR in json.dumps(resolved) else resolved))
    done = agent.guest.run("ping", "-n", "-c", "2", *PATIENT, GATEWAY_ADDR, check=False)
    found.append(("gateway", 0 if " 0% packet loss" in done.stdout else done.stdout))


def attempt(agent: Guest, found: list[tuple[str, Any]], mib: int) -> None:
    """The same for a guest that perhaps has no link yet, after which its programs end."""
    try:
        work(agent, found, mib)
    except AssertionError as error:
        found.append((ENDED, str(error)))


def at_once(agents: Sequence[Guest], mib: int = 2) -> list[list[tuple[str, Any]]]:
    """work() of all guests at the same time: what went wrong for each."""
    found: list[list[tuple[str, Any]]] = [[] for _ in agents]
    threads = [
        threading.Thread(target=attempt, args=(agent, into, mib))
        for agent, into in zip(agents, found, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(done) == 13 or done[-1][0] == ENDED for done in found), found
    return [[(what, wrong) for what, wrong in done if wrong] for done in found]


def test_guests_of_one_image_work_at_the_same_time(clones: Clones) -> None:
    assert at_once(clones.agents) == [[], []]
    renamed = {line["address"] for line in clones.daemon.events("guest renamed")}
    assert {GUEST_MAC, SAME, SAME6} <= renamed
    assert clones.daemon.events("address contested") == []


def test_no_guest_sees_a_frame_of_the_other_or_an_inner_address(clones: Clones) -> None:
    with Card(clones.agents[0].guest) as first, Card(clones.agents[1].guest) as second:
        thread = threading.Thread(target=at_once, args=(clones.agents[:1], 1))
        thread.start()
        thread.join()
        # Only what the daemon sends to all guests: questions and router advertisements.
        foreign = [frame for frame in second.received() if not frame[0] & 1]
        seen = first.received()
    assert foreign == []
    assert len(seen) > 5
    with Card(clones.agents[1].guest) as second:
        at_once(clones.agents[1:], 1)
        got = second.received()
    assert len(got) > 5
    own = ethernet.mac_parse(GUEST_MAC)
    assert {frame[:6] for frame in got if not frame[0] & 1} == {own}
    heads = [frame[:54] for frame in [*got, *seen]]
    assert not [
        head for head in heads for mark in INNER_MARKS if mark in (head[:3], head[30:32], head[38:40])
    ]


def test_the_other_goes_on_when_one_leaves_and_another_one_comes(network: Network, clones: Clones) -> None:
    first, second = clones.agents
    found: list[tuple[str, Any]] = []
    thread = threading.Thread(target=work, args=(second, found, 8))
    thread.start()
    first.stop()
    thread.join()
    assert [wrong for _, wrong in found if wrong] == []
    # It has its address under the own name now. The other one keeps its inner one.
    first.start()
    first.wait_for_address()
    add_same6(first)
    assert at_once([first, second], 1) == [[], []]


def test_a_guest_of_dhcp_works_beside_them(network: Network, clones: Clones) -> None:
    with Agent(network.guests[2], clones.daemon.socket, mac=THIRD_MAC) as third:
        wait_for_ipv6(third)
        assert at_once([*clones.agents, third], 1) == [[], [], []]


def test_guests_with_one_mac_get_different_leases(network: Network, outside: Servers) -> None:
    with Daemon(network, "-guests", "apart") as daemon:
        first, second = (Agent(guest, daemon.socket, mac=GUEST_MAC) for guest in network.guests[:2])
        with first, second:
            addresses = {agent.wait_for_address() for agent in (first, second)}
            assert len(addresses) == 2
            for agent in (first, second):
                assert agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []


def inner_of(daemon: Daemon, own: str) -> str:
    """What stands for an own address that has an inner one."""
    found = [
        inner
        for guest in json.loads(daemon.api("/guests")[1])
        for inner, each in guest.get("own_addresses", {}).items()
        if each == own
    ]
    assert len(found) == 1, found
    return str(found[0])


def test_forwards_lead_to_the_first_guest_and_to_the_other_by_its_inner_address(
    network: Network, clones: Clones
) -> None:
    daemon = clones.daemon
    agents = {SAME: clones.agents[0], inner_of(daemon, SAME): clones.agents[1]}
    for port, (addr, agent) in enumerate(agents.items(), 9100):
        daemon.expose(f"127.0.0.1:{port}", f"{addr}:9999")
        listener = agent.guest.call(lambda: socket.create_server((SAME, 9999)))
        with listener, network.host.connect("127.0.0.1", port) as client:
            listener.settimeout(10.0)
            accepted, peer = listener.accept()
            with accepted:
                assert peer[0] == GATEWAY_ADDR
                client.sendall(b"from the host")
                assert accepted.recv(100) == b"from the host"
                accepted.sendall(b"from the guest")
                assert client.recv(100) == b"from the guest"


def test_errors_and_rules_for_the_address_meet_both(network: Network, outside: Servers) -> None:
    path = network.directory / "apart.yaml"
    path.write_text(POLICY)
    with clones_of(network, "-config", str(path)) as clones:
        for agent in clones.agents:
            assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] in REFUSED
            assert agent.run("connect", INTERNET_ADDR6, ECHO)["errno"] in REFUSED
            assert agent.run("connect", INTERNET_ADDR, DATA)["errno"] == ""
            for remote in (INTERNET_ADDR, INTERNET_ADDR6):
                # Their kernels find the socket by what the error quotes.
                with pytest.raises(AssertionError, match="Connection refused"):
                    agent.run("udp", remote, CLOSED_PORT, 100, 3)
        # A rule for a link is about one guest. Either may have come first.
        refused = [
            agent.run("connect", INTERNET_ADDR, DISCARD)["errno"] in REFUSED for agent in clones.agents
        ]
        assert sorted(refused) == [False, True]


def exchange(sock: socket.socket, text: bytes) -> None:
    """What an echo server sends back."""
    sock.sendall(text)
    got = b""
    while len(got) < len(text):
        got += sock.recv(100)
    assert got == text


@pytest.mark.parametrize("worker", ["ingress", "demux", "tcp0", "egress0"])
def test_both_work_again_when_a_worker_has_died(network: Network, outside: Servers, worker: str) -> None:
    with clones_of(network) as clones:
        clones.daemon.expect_errors = True
        # Its link is a plain stream, which a successor of ingress carries on.
        held = clones.agents[1].guest.connect(INTERNET_ADDR, ECHO)
        held.settimeout(20.0)
        with held:
            exchange(held, b"before")
            before = clones.daemon.workers()[worker]
            Namespace.run(network.host, "kill", "-9", str(before))
            wait_for(lambda: clones.daemon.processes().get(worker, before) != before, "a successor")
            if worker in ("ingress", "demux"):
                exchange(held, b"after")
        wait_for(lambda: at_once(clones.agents, 1) == [[], []], "both work", 60.0)


def test_both_work_again_after_a_restart(network: Network, outside: Servers) -> None:
    with clones_of(network) as clones:
        inner = inner_of(clones.daemon, SAME)
        clones.daemon.expect_errors = True
        clones.daemon.restart()
        wait_for(lambda: at_once(clones.agents, 1) == [[], []], "both work", 60.0)
        assert inner_of(clones.daemon, SAME) == inner
