"""What the agent tells the workers and the store: what has changed, and nothing twice."""

import pytest

pytest.importorskip("nats")

from pipeline.engines.fleet import values
from pipeline.ipc import fleet_messages
from tests.fleet import test_agent
from tests.fleet.test_agent import ADDR, MAC, SERVERS, Rig, Store, run, until

store = test_agent.store


def test_workers_are_told_what_has_changed_and_not_everything_again(store: Store) -> None:
    async def scenario() -> None:
        rigs = [Rig(store, number) for number in (1, 2, 3)]
        for number, rig in enumerate(rigs[:2]):
            rig.agent.start()
            await until(lambda rig=rig: rig.view.online)
            rig.agent.on_event(fleet_messages.StationsEvent({MAC[:5] + bytes([number]): True}, {}, False))
            rig.agent.on_event(fleet_messages.NamesEvent({f"vm{number}": ADDR[:3] + bytes([number])}))
        hands = rigs[0].hands
        await until(lambda: hands.name_map and hands.macs)
        hands.name_messages.clear()
        hands.place_messages.clear()
        rigs[2].agent.start()
        await until(lambda: len(hands.hosts) == 2)
        rigs[2].agent.on_event(fleet_messages.StationsEvent({MAC: True}, {}, False))
        rigs[2].agent.on_event(fleet_messages.NamesEvent({"new": ADDR}))
        await until(lambda: "new" in hands.name_map and MAC in hands.macs)
        assert hands.name_messages == [{"new": ADDR}]
        assert {host for sent in hands.place_messages for host in sent.values()} == {"host3"}
        for rig in rigs:
            await rig.agent.stop()

    run(scenario)


def test_what_is_written_as_soon_as_all_keys_are_reported_is_not_lost(store: Store) -> None:
    store.watch_ends_late = True

    async def scenario() -> None:
        rig = Rig(store)
        rig.agent.start()
        key = f"{values.HOST}host1"
        await until(lambda: key in store.keys)
        assert values.host_of(store.keys[key][0]).beat == 1
        await rig.agent.stop()

    run(scenario)


def test_events_wait_until_a_server_is_reached(store: Store) -> None:
    async def scenario() -> None:
        rig = Rig(store)
        rig.feed.waiting = [("gvtap.net.host1.lease-given", b"{}")]
        store.down = set(SERVERS)
        rig.agent.start()
        await until(lambda: store.asked)
        assert rig.feed.waiting
        store.down = set()
        await until(lambda: store.published == [("gvtap.net.host1.lease-given", b"{}")])
        await rig.agent.stop()
        assert rig.feed.stopped

    run(scenario)
