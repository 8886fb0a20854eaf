"""Guests that claim to be the station of a host: by its address, its MAC address, or as a client of DHCP."""

import pytest

pytest.importorskip("nats")

from pipeline.config.fleet import station_mac_of
from pipeline.engines.fleet import values
from pipeline.engines.fleet.values import Place
from pipeline.fleet import station as station_module
from pipeline.ipc import fleet_messages
from pipeline.wire import ip
from tests.fleet import test_agent
from tests.fleet.test_agent import MAC, Rig, Store, run, until

store = test_agent.store
OWN, OTHER = station_mac_of("net", "host1"), station_mac_of("net", "host2")
KEY = values.mac_key(OWN)


async def settled(store: Store) -> tuple[Rig, Rig, bytes]:
    """Two hosts that know each other, and the address of the first one."""
    one, two = Rig(store, 1), Rig(store, 2)
    one.agent.start()
    two.agent.start()
    await until(lambda: one.hands.hosts and two.hands.hosts)
    await until(lambda: KEY in store.keys and values.place_of(store.keys[KEY][0] or b"").addresses)
    return one, two, one.hands.stations[-1]


@pytest.mark.parametrize("mac", [b"", MAC])
def test_what_demux_says_of_the_host_s_own_address_is_about_no_guest(store: Store, mac: bytes) -> None:
    """Demux forgets a guest that had the address, and says so. It says the same of each dial to it."""

    async def scenario() -> None:
        one, two, addr = await settled(store)
        one.agent.on_event(fleet_messages.StationsEvent({MAC: True}, {addr: mac}, False))
        assert one.view.places.here()[OWN] == (addr,)
        one.agent.on_event(fleet_messages.StationsEvent({OWN: False}, {}, False))
        assert one.view.places.here()[OWN] == (addr,)
        await one.agent.stop()
        await two.agent.stop()

    run(scenario)


def test_a_guest_with_the_mac_of_another_host_s_station_has_no_place(store: Store) -> None:
    async def scenario() -> None:
        one, two, _ = await settled(store)
        two.agent.on_event(fleet_messages.StationsEvent({OWN: True}, {}, False))
        assert OWN not in two.view.places.here()
        await until(lambda: two.hands.host_macs == {OWN})
        await two.agent.introduce("demux")
        # The host leaves, so its station may be a guest.
        await one.agent.stop()
        await until(lambda: two.hands.host_macs == set())
        two.agent.on_event(fleet_messages.StationsEvent({OWN: True}, {}, False))
        assert OWN in two.view.places.here()
        await two.agent.stop()

    run(scenario)


def test_the_station_comes_back_after_its_place_was_another_host_s(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(station_module, "RETRY_S", 0.05)

    async def scenario() -> None:
        one, two, addr = await settled(store)
        store.put(KEY, values.place_bytes(Place("host2", ())))
        await until(lambda: values.place_of(store.keys[KEY][0] or b"") == Place("host1", (addr,)))
        assert one.hands.gone == {}, "connections from the address go on"
        assert "fleet-guest-moved" not in one.hub.kinds
        assert one.hands.macs.get(OWN, "") == ""
        await one.agent.stop()
        await two.agent.stop()

    run(scenario)


@pytest.mark.parametrize("mac", [OWN, OTHER])
def test_a_client_of_dhcp_gets_no_address_of_a_host(store: Store, mac: bytes) -> None:
    """Its claim would take the address from the other host, which goes on to use it."""

    async def scenario() -> None:
        one, two, _ = await settled(store)
        await until(lambda: two.hands.stations)
        key = values.claim_key(ip.of_packed(two.hands.stations[-1]))
        await until(lambda: OTHER.hex().encode() in store.keys[key][0])
        claim = store.keys[key]
        one.agent.on_event(fleet_messages.LeaseWantedEvent(mac, 60.0))
        await until(lambda: mac in one.hands.answers)
        assert one.hands.answers[mac] is None
        assert store.keys[key] == claim
        addr = one.hands.stations[-1]
        one.agent.on_event(fleet_messages.LeaseOverEvent(OWN, addr, True))
        assert ip.of_packed(addr) == one.view.pool._address_of(OWN)
        await one.agent.stop()
        await two.agent.stop()

    run(scenario)
