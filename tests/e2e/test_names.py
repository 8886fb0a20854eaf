"""Names and addresses beside what is usual: long search lists, many names at once, odd name servers."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network
from tests.support.servers import Servers

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
    network: Network, outside: Servers, tmp_path: Path, client: str
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
