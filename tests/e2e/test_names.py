"""Names and addresses beside what is usual: long search lists, many names at once, odd name servers."""

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, METADATA_ADDR, SECOND_ADDR, Network

pytestmark = pytest.mark.e2e

SIX_DOMAINS = [f"{letter * 52}.example" for letter in "abcdef"]

UDHCPC_SCRIPT = """#!/bin/sh
[ "$1" = bound ] && echo "ip=$ip search=$search"
exit 0
"""

DHCLIENT_SCRIPT = """#!/bin/sh
[ "$reason" = BOUND ] && echo "ip=$new_ip_address search=$new_domain_search" >> "$(dirname "$0")/outcome"
exit 0
"""


@pytest.fixture
def long_search(network: Network) -> Iterator[None]:
    """The host's resolv.conf has six domains of 60 characters."""
    before = network.host.resolv_conf.read_text()
    network.host.resolv_conf.write_text(f"search {' '.join(SIX_DOMAINS)}\nnameserver {INTERNET_ADDR}\n")
    yield
    network.host.resolv_conf.write_text(before)


def program(name: str) -> str:
    """Where a program is; skips the test without it."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return found or pytest.skip(f"{name} is not installed")


@pytest.mark.usefixtures("long_search")
@pytest.mark.parametrize("client", ["udhcpc", "udhcpc -O search", "dhclient"])
def test_six_long_search_domains_on_the_host_cost_no_client_its_lease(
    network: Network, tmp_path: Path, client: str
) -> None:
    name, *options = client.split()
    path = program(name)
    script = tmp_path / "script"
    script.write_text(UDHCPC_SCRIPT if name == "udhcpc" else DHCLIENT_SCRIPT)
    script.chmod(0o755)
    with Daemon(network, name="own") as daemon, Agent(network.guest, daemon.socket) as agent:
        if name == "udhcpc":
            words = ["-i", "tap0", "-f", "-q", "-n", "-t", "3", "-T", "1", "-s", str(script), *options]
            outcome = agent.guest.run(path, *words).stdout
        else:
            leases, pid = tmp_path / "leases", tmp_path / "pid"
            words = ["-4", "-1", "-sf", str(script), "-lf", str(leases), "-pf", str(pid), "tap0"]
            agent.guest.run(path, *words)
            agent.guest.run(path, "-x", *words[2:], check=False)
            outcome = (tmp_path / "outcome").read_text()
    assert f"ip={GUEST_ADDR} " in outcome
    search = outcome.split("search=")[1].split()
    expected = [] if client == "udhcpc" else SIX_DOMAINS[: len(search)]
    assert [domain.rstrip(".") for domain in search] == expected
    assert bool(search) == bool(expected)
    assert len(search) >= 4 or not expected


# --- DNS ------------------------------------------------------------------------------


class OddServer:
    """A name server in the internet: answers every name with 10.1.2.3, in the way that a test wants.

    ``delay``: seconds before each answer; ``edns``: what it answers to questions with EDNS: "answer",
    "drop", or the name of a code; ``code``: what it answers to all questions.
    """

    def __init__(self, network: Network, addr: str) -> None:
        self.delay = 0.0
        self.edns = "answer"
        self.code = "NOERROR"
        self.stopped = False
        self.queries: list[dns.message.Message] = []
        self.sock = network.internet.call(lambda: self._bind(addr))
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _bind(self, addr: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((addr, 53))
        sock.settimeout(0.02)
        return sock

    def close(self) -> None:
        self.stopped = True
        self.thread.join()
        self.sock.close()

    def _serve(self) -> None:
        due: list[tuple[float, bytes, object]] = []
        while not self.stopped:
            try:
                wire, client = self.sock.recvfrom(4096)
            except TimeoutError:
                pass
            else:
                query = dns.message.from_wire(wire)
                self.queries.append(query)
                if (answer := self._answer(query)) is not None:
                    due.append((time.monotonic() + self.delay, answer, client))
            while due and due[0][0] <= time.monotonic():
                _, answer, where = due.pop(0)
                self.sock.sendto(answer, where)  # type: ignore[arg-type]

    def _answer(self, query: dns.message.Message) -> bytes | None:
        message = dns.message.make_response(query)
        code = self.edns if query.edns >= 0 and self.edns != "answer" else self.code
        if code == "drop":
            return None
        if code != "BADVERS" and self.edns != "answer":
            message.use_edns(False)
        message.set_rcode(dns.rcode.from_text(code))
        if code == "NOERROR":
            message.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "10.1.2.3"))
            # A validating server tells those who ask (RFC 6840 section 5.8).
            if query.flags & dns.flags.AD or query.ednsflags & dns.flags.DO:
                message.flags |= dns.flags.AD
        return message.to_wire()


@pytest.fixture
def odd(network: Network) -> Iterator[list[OddServer]]:
    """Two servers, which the host's resolv.conf names."""
    addrs = [SECOND_ADDR, METADATA_ADDR]
    before = network.host.resolv_conf.read_text()
    network.host.resolv_conf.write_text("".join(f"nameserver {addr}\n" for addr in addrs))
    servers = [OddServer(network, addr) for addr in addrs]
    yield servers
    for server in servers:
        server.close()
    network.host.resolv_conf.write_text(before)


@pytest.fixture
def guest(network: Network, odd: list[OddServer]) -> Iterator[Agent]:
    """The guest of a daemon on that host."""
    with Daemon(network, name="odd") as daemon, Agent(network.guest, daemon.socket) as agent:
        yield agent


def dig(agent: Agent, name: str, *options: str) -> str:
    words = [f"@{GATEWAY_ADDR}", name, "+tries=1", "+time=5", *options]
    return agent.guest.run(program("dig"), *words).stdout


@pytest.mark.parametrize("edns", ["drop", "SERVFAIL", "REFUSED", "BADVERS", "FORMERR", "NOTIMP"])
def test_names_resolve_though_no_server_of_the_host_understands_edns(
    odd: list[OddServer], guest: Agent, edns: str
) -> None:
    for server in odd:
        server.edns = edns
    for n in range(3):
        assert dig(guest, f"n{n}.example", "+short") == "10.1.2.3\n"
    # After the first name it is known.
    queries = [query for server in odd for query in server.queries]
    assert sum(query.edns < 0 for query in queries) >= 3
    assert {str(query.question[0].name) for query in queries if query.edns >= 0} == {"n0.example."}


@pytest.mark.parametrize("code", ["NOTIMP", "REFUSED", "SERVFAIL", "FORMERR"])
def test_second_server_is_asked_when_the_first_one_has_nothing_better_to_say(
    odd: list[OddServer], guest: Agent, code: str
) -> None:
    odd[0].code = code
    assert dig(guest, "www.example", "+short") == "10.1.2.3\n"
    for server in odd:
        server.code = code
    assert f"status: {code}" in dig(guest, "other.example")


def test_three_hundred_names_at_once_are_all_answered_by_a_slow_server(
    odd: list[OddServer], guest: Agent
) -> None:
    odd[0].delay = 0.5
    sock = guest.guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.settimeout(5.0)
        for n in range(300):
            query = dns.message.make_query(f"n{n}.example", "A")
            query.id = n
            sock.sendto(query.to_wire(), (GATEWAY_ADDR, 53))
        answers = {}
        while len(answers) < 300:
            message = dns.message.from_wire(sock.recv(4096))
            answers[message.id] = (message.rcode(), str(message.answer[0][0]))
    assert answers == dict.fromkeys(range(300), (dns.rcode.NOERROR, "10.1.2.3"))


def test_dig_sees_that_data_is_authentic(odd: list[OddServer], guest: Agent) -> None:
    for options, authentic in (
        (["+noad"], False),
        (["+ad"], True),
        (["+noad", "+do"], True),
        (["+ad"], True),
    ):
        flags = re.search("flags: ([^;]*);", dig(guest, "www.example", *options))
        assert flags is not None
        assert ("ad" in flags[1].split()) == authentic
