"""What rtnetlink requests leave behind, as the ip command sees it."""

import errno
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.system import netlink
from pipeline.wire import ip
from tests.support.netns import Namespace, Network

ADDRESS = ip.parse_ipv4("192.168.127.2")
GATEWAY = ip.parse_ipv4("192.168.127.1")

pytestmark = pytest.mark.e2e


@pytest.fixture
def guest() -> Iterator[Namespace]:
    with Network() as network:
        network.guest.ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
        network.guest.ip("link", "set", "veth0", "up")
        yield network.guest


def addresses(guest: Namespace) -> list[dict[str, Any]]:
    """The IPv4 addresses of veth0."""
    shown = json.loads(guest.run("ip", "-j", "-4", "address", "show", "dev", "veth0").stdout)
    return [info for link in shown for info in link.get("addr_info", [])]


def test_an_address_has_its_prefix_and_broadcast_and_may_be_set_twice(guest: Namespace) -> None:
    for _ in range(2):
        guest.call(lambda: netlink.set_address("veth0", ADDRESS, 24))
    (info,) = addresses(guest)
    assert (info["local"], info["prefixlen"]) == ("192.168.127.2", 24)
    assert info["broadcast"] == "192.168.127.255"


def test_an_address_can_be_taken_away_again(guest: Namespace) -> None:
    guest.call(lambda: netlink.set_address("veth0", ADDRESS, 24))
    guest.call(lambda: netlink.remove_address("veth0", ADDRESS, 24))
    assert addresses(guest) == []
    with pytest.raises(OSError) as caught:
        guest.call(lambda: netlink.remove_address("veth0", ADDRESS, 24))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_the_default_route_replaces_the_one_before(guest: Namespace) -> None:
    guest.call(lambda: netlink.set_address("veth0", ADDRESS, 24))
    for gateway in (GATEWAY + 4, GATEWAY):
        guest.call(lambda: netlink.set_default_route("veth0", gateway))  # noqa: B023 - called at once
    routes = json.loads(guest.run("ip", "-j", "route", "show", "default").stdout)
    assert [route["gateway"] for route in routes] == ["192.168.127.1"]


def test_a_gateway_outside_the_network_is_the_kernels_error(guest: Namespace) -> None:
    guest.call(lambda: netlink.set_address("veth0", ADDRESS, 24))
    with pytest.raises(OSError) as caught:
        guest.call(lambda: netlink.set_default_route("veth0", ip.parse_ipv4("10.0.0.1")))
    assert caught.value.errno == errno.ENETUNREACH


def test_the_mtu_is_set(guest: Namespace) -> None:
    guest.call(lambda: netlink.set_mtu("veth0", 4000))
    assert json.loads(guest.run("ip", "-j", "link", "show", "veth0").stdout)[0]["mtu"] == 4000


def test_an_unknown_interface_is_an_os_error(guest: Namespace) -> None:
    with pytest.raises(OSError):
        guest.call(lambda: netlink.set_mtu("nosuch0", 1500))
