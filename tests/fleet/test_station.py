"""The address that a host of a fleet has among guests."""

from typing import Any

import pytest

pytest.importorskip("nats")

from pipeline.config.fleet import station_addr6, station_mac, station_mac_of
from pipeline.engines.fleet.grants import Answer
from pipeline.engines.fleet.lease_pool import LEASE, Grant
from pipeline.fleet.station import RETRY_S, OwnStation
from pipeline.wire import ip, ipv6
from tests.config.built import build
from tests.engines.fleet.test_view import made

MAC = station_mac_of("gvtap", "alpha")
ADDR = ip.parse_ipv4("192.168.127.30")


class Hands:
    def __init__(self) -> None:
        self.told: list[bytes] = []

    def station(self, addr: bytes) -> None:
        self.told.append(addr)


class Rig:
    def __init__(self, addr6: bytes = b"") -> None:
        self.view = made()
        hands: Any = Hands()
        self.hands = hands
        self.station = OwnStation(MAC, self.view, hands, addr6)

    def gets(self, addr: int, now: float, seconds: float = LEASE) -> None:
        assert self.station.on_answer(Answer(MAC, Grant(addr, seconds)), now)


def test_the_mac_follows_from_the_names_and_belongs_to_one_host() -> None:
    words = ("-fleet", "nats://a", "-fleet-host", "alpha", "-link", "vxlan+udp://10.66.0.1?vni=7")
    assert station_mac(build(*words)[0].fleet) == MAC
    assert station_mac(build()[0].fleet) == b""
    assert MAC[0] & 3 == 2, "one station, locally administered"
    assert len({MAC, station_mac_of("gvtap", "beta"), station_mac_of("other", "alpha")}) == 3


def test_an_address_is_told_to_demux_and_to_all_hosts() -> None:
    rig = Rig()
    rig.gets(ADDR, 0.0)
    assert rig.hands.told == [ip.packed(ADDR)]
    assert rig.view.places.here()[MAC] == (ip.packed(ADDR),)
    rig.gets(ADDR, 1800.0)
    assert len(rig.hands.told) == 1
    other = ADDR + 1
    rig.gets(other, 3000.0)
    assert rig.hands.told[-1] == ip.packed(other)
    assert rig.view.places.here()[MAC] == (ip.packed(other),)
    rig.station.introduce()
    assert rig.hands.told[-2:] == [ip.packed(other)] * 2


def test_the_ipv6_address_follows_from_the_mac_and_stays() -> None:
    words = ("-fleet", "nats://a", "-fleet-host", "alpha", "-link", "vxlan+udp://10.66.0.1?vni=7")
    config = build(*words, "-ipv6", "on")[0]
    addr6 = station_addr6(config)
    assert addr6 == ipv6.of_mac(config.network.ipv6_first, MAC)
    assert station_addr6(build(*words, "-ipv6", "off")[0]) == 0
    assert station_addr6(build("-ipv6", "on")[0]) == 0
    rig = Rig(ip.packed(addr6))
    rig.gets(ADDR, 0.0, 100.0)
    assert (
        set(rig.view.places.here()[MAC]) == set(rig.station.addresses) == {ip.packed(ADDR), ip.packed(addr6)}
    )
    rig.station.on_timer(100.0)
    assert rig.view.places.here()[MAC] == (ip.packed(addr6),)
    assert rig.hands.told == [ip.packed(ADDR), b""], "demux knows it without being told"


def test_answers_for_guests_are_not_its_own() -> None:
    rig = Rig()
    assert not rig.station.on_answer(Answer(b"\2\0\0\0\0\1", Grant(ADDR, LEASE)), 0.0)
    assert rig.hands.told == []


def test_it_asks_again_until_it_has_an_address_and_then_before_its_time_ends() -> None:
    rig = Rig()
    rig.station.on_timer(0.0)
    assert rig.view.grants.waiting_count == 1
    assert rig.station.deadline() == RETRY_S
    assert rig.station.on_answer(Answer(MAC, None), 3.0)
    assert rig.station.address == b""
    rig.gets(ADDR, 10.0)
    assert rig.station.deadline() == 10.0 + LEASE / 2
    rig.station.hurry()
    assert rig.station.deadline() == 0.0


def test_without_an_answer_it_gives_the_address_up_in_time() -> None:
    """After its term the pool may give the address to a guest of another host."""
    rig = Rig()
    rig.gets(ADDR, 0.0, 100.0)
    rig.station.on_timer(99.0)
    assert rig.station.address == ip.packed(ADDR)
    assert rig.station.deadline() <= 100.0
    rig.station.on_timer(100.0)
    assert rig.hands.told[-1] == b""
    assert rig.view.places.here()[MAC] == ()
