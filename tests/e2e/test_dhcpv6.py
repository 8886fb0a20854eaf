"""Kernel guests whose addresses come from the gateway's DHCPv6 server, asked for by ISC's dhclient."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.wire import dhcpv6, ethernet, ip, ipv6
from tests.e2e.test_ipv6 import (
    ADDRESSES,
    ADDRS,
    GATEWAY,
    MACS,
    Guests,
    guests_of,
    is_usable,
    ping,
    program,
    shown,
)
from tests.support.agent import run_client
from tests.support.daemon import Daemon
from tests.support.netns import Namespace, Network, leftovers, wait_for
from tests.support.servers import DATA, Servers

pytestmark = pytest.mark.e2e

SCRIPT = """#!/bin/sh
names="dns=$new_dhcp6_name_servers search=$new_dhcp6_domain_search"
echo "$reason ${new_ip6_address:-$old_ip6_address} $names" >>"$0.log"
case $reason in
BOUND6|RENEW6|REBIND6)
    [ -n "$new_ip6_address" ] || exit 0
    ip -6 address replace "$new_ip6_address/64" dev "$interface"
    for try in $(seq 30); do
        found=$(ip -6 -o address show dev "$interface" | grep " $new_ip6_address/")
        case $found in *dadfailed*) ip -6 address del "$new_ip6_address/64" dev "$interface"; exit 3 ;; esac
        case $found in *tentative*) sleep 0.1 ;; *) exit 0 ;; esac
    done ;;
EXPIRE6|RELEASE6|STOP6)
    ip -6 address del "$old_ip6_address/64" dev "$interface" ;;
esac
exit 0
"""
POOL = ADDRESSES.prefix | 0x1_0000
MIB = 1 << 20


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Namespaces for two guests."""
    with Network(guest_count=2) as made:
        yield made
    assert leftovers() == []


class Client:
    """dhclient in a guest, with its files in a directory of the test. It makes the addresses by itself."""

    def __init__(self, guest: Namespace, mac: str, directory: Path) -> None:
        own = ip.text(ipv6.link_local(ethernet.mac_parse(mac)))
        wait_for(lambda: is_usable(guest, own), "the kernel has a link-local address")
        directory.mkdir(parents=True)
        self.guest = guest
        self.script = directory / "script"
        self.script.write_text(SCRIPT)
        self.script.chmod(0o755)
        self.words = [
            *(program("dhclient"), "-6", "-D", "LL", "-v", "-sf", str(self.script)),
            *("-lf", str(directory / "leases"), "-pf", str(directory / "pid"), "-cf", "/dev/null"),
        ]

    def run(self, *flags: str, check: bool = True) -> str:
        """Run dhclient until it has what it wants. Returns what it says."""
        done = self.guest.run(*self.words, *flags, "tap0", check=check)
        return done.stdout + done.stderr

    def log(self) -> list[str]:
        """What its script was called for."""
        path = Path(f"{self.script}.log")
        return path.read_text().splitlines() if path.exists() else []

    def bound(self) -> str:
        """Get an address. Returns it."""
        self.run("-1")
        return self.log()[-1].split()[1]

    def release(self) -> str:
        return self.run("-r")


@contextlib.contextmanager
def clients_of(guests: Guests, tmp_path: Path) -> Iterator[tuple[Client, Client]]:
    made = (
        Client(guests.first, MACS[0], tmp_path / "first"),
        Client(guests.second, MACS[1], tmp_path / "second"),
    )
    try:
        yield made
    finally:
        for client in made:
            client.run("-x", check=False)


def is_answered(guest: Namespace, addr: str) -> bool:
    """Whether the gateway answers pings from this address."""
    words = ("ping", "-6", "-n", "-c", "1", "-W", "1", "-I", addr, GATEWAY)
    return guest.run(*words, check=False).returncode == 0


def leases(daemon: Daemon) -> dict[str, str]:
    found: dict[str, str] = json.loads(daemon.api("/services/dhcp/leases")[1])
    return found


@pytest.mark.parametrize("placement", ["separate", "auto"])
def test_guests_get_addresses_that_work_and_give_them_back(
    network: Network, tmp_path: Path, placement: str
) -> None:
    with (
        guests_of(network, "-placement", placement) as guests,
        clients_of(guests, tmp_path) as (first, second),
    ):
        addrs = first.bound(), second.bound()
        assert len(set(addrs)) == 2
        for client, addr, mac in zip((first, second), addrs, MACS, strict=True):
            assert ip.parse(addr) >> 16 == POOL >> 16
            assert f"dns={GATEWAY} " in client.log()[-1]
            assert leases(guests.daemon)[addr] == mac
            assert " 0% packet loss" in ping(client.guest, GATEWAY, "-I", addr)
        assert " 0% packet loss" in ping(first.guest, addrs[1], "-I", addrs[0])
        assert guests.counted("dhcpv6_leases") == 2
        said = first.release()
        assert "Release" in said
        assert shown(first.guest, addrs[0]) == ""
        assert guests.counted("dhcpv6_release_accepted") == 1
        assert first.bound() == addrs[0]


def test_a_guest_with_addresses_of_its_own_asks_for_the_name_server_alone(
    network: Network, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("stack: {dnsSearchDomains: [corp.example]}\n")
    with (
        guests_of(network, "-config", str(path)) as guests,
        clients_of(guests, tmp_path) as (first, _),
    ):
        first.run("-1", "-S")
        assert f"dns={GATEWAY} search=corp.example." in first.log()[-1]
        assert guests.counted("dhcpv6_leases") == 0


def test_an_address_that_another_live_guest_uses_is_declined_for_another_one(
    network: Network, tmp_path: Path
) -> None:
    with guests_of(network) as guests, clients_of(guests, tmp_path) as (first, _):
        addr = first.bound()
        first.release()
        # The gateway still takes the address for the first guest's, which does not answer for it any more.
        guests.second.ip("address", "add", f"{addr}/64", "dev", "tap0", "nodad")
        wait_for(lambda: is_answered(guests.second, addr), "the address is the other guest's")
        other = first.bound()
        assert other != addr
        assert guests.counted("dhcpv6_decline_accepted") == 1
        assert " 0% packet loss" in ping(first.guest, GATEWAY, "-I", other)
        assert " 0% packet loss" in ping(guests.second, GATEWAY, "-I", addr)


def test_a_restarted_daemon_knows_leases_of_its_state_file_and_without_one_gives_the_same(
    network: Network, tmp_path: Path
) -> None:
    for number, flags in enumerate((("-state-file", str(tmp_path / "state.json")), ())):
        addrs = []
        for run in (1, 2):
            with (
                guests_of(network, *flags) as guests,
                clients_of(guests, tmp_path / f"{number}{run}") as (first, _),
            ):
                known = leases(guests.daemon)
                assert (addrs[-1] in known) == bool(flags) if addrs else True
                addrs.append(first.bound())
        assert addrs[0] == addrs[1]


def test_a_static_lease_of_the_configuration_is_the_macs(network: Network, tmp_path: Path) -> None:
    addr = ip.text(ADDRESSES.prefix | 0x77)
    path = tmp_path / "config.yaml"
    path.write_text(f"ipv6: {{static-leases: {{'{addr}': '{MACS[1]}'}}}}\n")
    with guests_of(network, "-config", str(path)) as guests, clients_of(guests, tmp_path) as (_, second):
        assert leases(guests.daemon)[addr] == MACS[1]
        assert second.bound() == addr
        assert " 0% packet loss" in ping(second.guest, GATEWAY, "-I", addr)


def test_a_static_lease_of_a_duid_stays_the_first_guests_and_a_forward_leads_to_it(
    network: Network, tmp_path: Path
) -> None:
    addr = ip.text(ADDRESSES.prefix | 0x66)
    duid = dhcpv6.duid_ll(ethernet.mac_parse(MACS[0]))
    path = tmp_path / "config.yaml"
    path.write_text(
        f"ipv6: {{static-leases: {{'{addr}': 'duid:{dhcpv6.duid_text(duid)}'}}}}\n"
        f"stack: {{forwards: {{'127.0.0.1:9166': '[{addr}]:{DATA}'}}}}\n"
    )
    with guests_of(network, "-config", str(path)) as guests, clients_of(guests, tmp_path) as (first, second):
        assert addr not in leases(guests.daemon)
        assert first.bound() == addr
        assert leases(guests.daemon)[addr] == MACS[0]
        # The second guest has heard the DUID, and names it.
        text = "".join(f"\\{byte:03o}" for byte in duid)
        (tmp_path / "second" / "leases").write_text(f'default-duid "{text}";\n')
        assert ip.parse(second.bound()) >> 16 == POOL >> 16
        assert leases(guests.daemon)[addr] == MACS[0]
        with contextlib.closing(Servers(network.guests[0], network.directory, "::")):
            assert run_client(network.host, "transfer", "127.0.0.1", 9166, MIB, MIB)["errors"] == []


def test_advertisements_say_that_addresses_and_other_parameters_are_available(network: Network) -> None:
    with guests_of(network) as guests:
        answer = guests.first.run(program("rdisc6"), "-1", "tap0").stdout
        found = dict(re.findall(r"^([^:\n]+?) *: +(\S+)", answer, re.MULTILINE))
        assert found["Stateful address conf."] == "Yes"
        assert found["Stateful other conf."] == "Yes"
        # SLAAC stays.
        assert shown(guests.first, ADDRS[0])
