"""What the gateway itself offers a guest: ping, DHCP to real clients, DNS, the forwarder's API."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, HOST_ADDR, Agent, address, default_route, link_mtu
from tests.support.daemon import Daemon
from tests.support.netns import BLACK_HOLE_ADDR, INTERNET_ADDR, Network, wait_for
from tests.support.servers import Servers

pytestmark = [pytest.mark.e2e, pytest.mark.one_daemon]

DHCLIENT_SCRIPT = """#!/bin/sh
# Debian's script would move a file over /etc/resolv.conf, which a namespace's is mounted on.
case $reason in BOUND|RENEW|REBIND|REBOOT)
    ip link set "$interface" mtu "$new_interface_mtu"
    ip address replace "$new_ip_address/$new_subnet_mask" dev "$interface"
    ip route replace default via "$new_routers" dev "$interface"
    echo "nameserver $new_domain_name_servers" > /etc/resolv.conf ;;
esac
"""


@pytest.mark.parametrize("size", [0, 56, 1400, 4000, 20000])
def test_the_gateway_answers_ping(agent: Agent, size: int) -> None:
    done = agent.guest.run("ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", "-s", str(size), GATEWAY_ADDR)
    assert " 3 received, 0% packet loss" in done.stdout


def test_an_address_nobody_has_does_not_answer_ping(agent: Agent) -> None:
    done = agent.guest.run("ping", "-n", "-c", "1", "-W", "1", "192.168.127.77", check=False)
    assert "1 received" not in done.stdout


# --- DHCP -----------------------------------------------------------------------------


@pytest.fixture
def dhclient(tmp_path: Path) -> dict[str, str]:
    """An environment whose dhclient keeps its files in a directory of the test."""
    script, wrapper = tmp_path / "script", tmp_path / "dhclient"
    script.write_text(DHCLIENT_SCRIPT)
    real = shutil.which("dhclient", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    leases, pid = tmp_path / "leases", tmp_path / "pid"
    wrapper.write_text(f'#!/bin/sh\nexec {real} -sf {script} -lf {leases} -pf {pid} "$@"\n')
    for path in (script, wrapper):
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}:/usr/sbin:/sbin"}


def has(program: str) -> bool:
    """Whether a program of the system administrator's directories is installed."""
    return shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin") is not None


@pytest.mark.parametrize("client", ["udhcpc", "dhclient", "builtin"])
def test_a_real_dhcp_client_configures_the_guest(
    network: Network, outside: Servers, dhclient: dict[str, str], client: str
) -> None:
    if client != "builtin" and not has(client):
        pytest.skip(f"{client} is not installed")
    guest = network.guests[1]
    guest.resolv_conf.write_text("")
    flags = ("-dhcp", client)
    with (
        Daemon(network, "-mtu", "4000", name="own") as daemon,
        Agent(guest, daemon.socket, *flags, env=dhclient) as agent,
    ):
        assert address(guest) == f"{GUEST_ADDR}/24"
        assert default_route(guest) == GATEWAY_ADDR
        assert link_mtu(guest) == 4000
        wait_for(lambda: f"nameserver {GATEWAY_ADDR}" in guest.resolv_conf.read_text(), "resolv.conf")
        found = agent.guest.run("getent", "ahostsv4", "www.example.test")
        assert found.stdout.split()[0] == INTERNET_ADDR
        leases = json.loads(daemon.api("/services/dhcp/leases")[1])
        assert leases == {GATEWAY_ADDR: "5a:94:ef:e4:0c:dd", GUEST_ADDR: "5a:94:ef:e4:0c:ee"}


# --- DNS ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["udp", "tcp"])
@pytest.mark.parametrize(
    "name, kind, answers",
    [
        ("gateway.containers.internal", "A", [GATEWAY_ADDR]),
        ("host.containers.internal", "A", [HOST_ADDR]),
        ("gateway.docker.internal", "A", [GATEWAY_ADDR]),
        ("host.docker.internal", "A", [HOST_ADDR]),
        ("www.example.test", "A", [INTERNET_ADDR]),
        ("www.example.test", "AAAA", ["2001:db8::2"]),
        ("example.test", "MX", ["10 mail.example.test."]),
        ("_http._tcp.example.test", "SRV", ["0 1 80 www.example.test."]),
        ("alias.example.test", "A", ["www.example.test.", INTERNET_ADDR]),
    ],
)
def test_names_resolve(agent: Agent, how: str, name: str, kind: str, answers: list[str]) -> None:
    outcome = agent.run("resolve", GATEWAY_ADDR, name, kind, how)
    assert outcome["rcode"] == "NOERROR"
    assert outcome["answers"] == answers


@pytest.mark.parametrize("how", ["udp", "tcp"])
def test_names_that_do_not_exist_say_so(agent: Agent, how: str) -> None:
    for name in ("nowhere.example.test", "nowhere.containers.internal"):
        assert agent.run("resolve", GATEWAY_ADDR, name, "A", how)["rcode"] == "NXDOMAIN"


def test_an_answer_too_long_for_a_datagram_is_truncated_there_and_whole_over_tcp(agent: Agent) -> None:
    for name, kind, count in (("many.example.test", "A", 100), ("text.example.test", "TXT", 8)):
        assert agent.run("resolve", GATEWAY_ADDR, name, kind, "udp")["truncated"]
        whole = agent.run("resolve", GATEWAY_ADDR, name, kind, "tcp")
        assert not whole["truncated"]
        assert len(whole["answers"]) == count


@pytest.mark.parametrize("flags", [[], ["+tcp"], ["+noedns"]], ids=" ".join)
def test_dig_agrees(agent: Agent, flags: list[str]) -> None:
    for name, answer in (("www.example.test", INTERNET_ADDR), ("host.containers.internal", HOST_ADDR)):
        assert agent.guest.run("dig", *flags, "+short", f"@{GATEWAY_ADDR}", name).stdout == f"{answer}\n"


def test_dig_falls_back_to_tcp_for_a_long_answer(agent: Agent) -> None:
    text = agent.guest.run("dig", "+short", f"@{GATEWAY_ADDR}", "many.example.test").stdout
    assert len(text.split()) == 100


@pytest.fixture
def dead_resolver(network: Network) -> Iterator[None]:
    """The host's resolv.conf names a server that never answers."""
    before = network.host.resolv_conf.read_text()
    network.host.resolv_conf.write_text(f"nameserver {BLACK_HOLE_ADDR}\n")
    yield
    network.host.resolv_conf.write_text(before)


@pytest.mark.usefixtures("dead_resolver")
@pytest.mark.parametrize("how", ["udp", "tcp"])
def test_a_dead_upstream_is_a_servfail_within_five_seconds(
    network: Network, outside: Servers, how: str
) -> None:
    with Daemon(network, name="own") as daemon, Agent(network.guests[1], daemon.socket) as agent:
        began = time.monotonic()
        assert agent.run("resolve", GATEWAY_ADDR, "www.example.test", "A", how)["rcode"] == "SERVFAIL"
        assert time.monotonic() - began < 6
        assert agent.run("resolve", GATEWAY_ADDR, "host.docker.internal", "A", how)["answers"] == [HOST_ADDR]


# --- HTTP -----------------------------------------------------------------------------


def test_the_guest_reaches_the_forwarders_api_by_name(agent: Agent) -> None:
    done = agent.guest.run("curl", "-sS", "-i", "http://gateway.containers.internal/services/forwarder/all")
    assert done.stdout.startswith("HTTP/1.1 200 OK")
    assert re.search(r"\r?\n\r?\n\[\]\n$", done.stdout)


def test_the_guest_reaches_nothing_but_the_forwarder_there(agent: Agent) -> None:
    for path in ("/services/dns/all", "/stats", "/connect", "/cam"):
        url = f"http://{GATEWAY_ADDR}{path}"
        done = agent.guest.run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url)
        assert done.stdout == "404", path


def test_statistics_count_what_went_over_the_link(daemon: Daemon, agent: Agent) -> None:
    agent.guest.run("ping", "-n", "-c", "2", "-i", "0.2", GATEWAY_ADDR)

    def received() -> bool:
        stats = json.loads(daemon.api("/stats")[1])
        return bool(stats["BytesReceived"] > 200 and stats["BytesSent"] > 200)

    wait_for(received, "bytes in /stats", 3)
    assert list(json.loads(daemon.api("/cam")[1])) == ["5a:94:ef:e4:0c:ee"]
