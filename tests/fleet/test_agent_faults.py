"""The agent and what goes wrong: errors, servers that hang, foreign keys, and two runs of one host."""

import asyncio

import pytest

pytest.importorskip("nats")

from pipeline.engines.fleet import values
from pipeline.engines.fleet.values import Host
from pipeline.fleet import agent as agent_module
from pipeline.ipc import fleet_messages
from pipeline.wire import ip
from tests.fleet import test_agent
from tests.fleet.test_agent import ADDR, ENDED, MAC, Rig, Store, run, until

store = test_agent.store


def test_an_error_of_the_program_ends_a_session_and_not_the_agent(store: Store) -> None:
    async def scenario() -> None:
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: rig.view.online)
        session = store.sessions[-1]
        session.error = KeyError("an entry")
        session.lost.set()
        await until(lambda: store.sessions[-1] is not session and rig.view.online)
        assert rig.log.errors == ["'an entry'"]
        await rig.agent.stop()

    run(scenario)


def test_an_error_in_one_round_ends_that_round(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "LOOK_EVERY_S", 0.05)

    async def scenario() -> None:
        rig = Rig(store)
        right = rig.view.on_timer

        def fails(now: float) -> None:
            rig.view.on_timer = right  # type: ignore[method-assign]
            raise KeyError("a timer")

        rig.view.on_timer = fails  # type: ignore[method-assign]
        rig.agent.start()
        await until(lambda: values.HOST + "host1" in store.keys)
        assert rig.log.errors == ["'a timer'"]
        await rig.agent.stop()

    run(scenario)


def test_the_agent_ends_although_the_store_hangs(store: Store) -> None:
    async def scenario() -> None:
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: values.HOST + "host1" in store.keys)
        store.hangs = True
        rig.agent.on_event(fleet_messages.StationsEvent({MAC: True}, {ADDR: MAC}, False))
        await asyncio.sleep(0.05)
        await asyncio.wait_for(rig.agent.stop(), 15.0)
        assert store.sessions[-1].lost.is_set()
        ENDED.append(True)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    try:
        run(scenario)
    finally:
        ENDED.clear()


def test_writes_without_an_answer_lead_to_another_server(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "LOOK_EVERY_S", 0.05)

    async def scenario() -> None:
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: rig.view.online)
        session = store.sessions[-1]

        async def no_answer(*_: object) -> bool:
            raise TimeoutError

        session.write = no_answer  # type: ignore[method-assign]
        for number in range(agent_module.MAX_FAILED):
            mac = bytes((2, 0, 0, 0, 9, number))
            rig.agent.on_event(fleet_messages.StationsEvent({mac: True}, {}, False))
        await until(lambda: store.sessions[-1] is not session and rig.view.online)
        await until(lambda: values.mac_key(bytes((2, 0, 0, 0, 9, 0))) in store.keys, 15.0)
        await rig.agent.stop()

    run(scenario)


def of_host(store: Store) -> dict[str, bytes]:
    """What the store has of one host."""
    return {key: value for key, (value, _) in store.keys.items() if b"host1" in value or "host1" in key}


@pytest.mark.parametrize("is_told", [True, False], ids=["handover", "kept running"])
def test_the_end_of_a_predecessor_takes_nothing_from_its_successor(store: Store, is_told: bool) -> None:
    async def scenario() -> None:
        other, old = Rig(store, 2), Rig(store, 1, "old")
        other.agent.start()
        old.agent.start()
        await until(lambda: other.hands.hosts and old.hands.hosts)
        old.agent.on_event(fleet_messages.StationsEvent({MAC: True}, {ADDR: MAC}, False))
        old.agent.on_event(fleet_messages.NamesEvent({"web": ADDR}))
        old.agent.on_event(fleet_messages.LeaseWantedEvent(MAC, 3600.0))
        await until(lambda: values.mac_key(MAC) in store.keys and values.NAME + "web" in store.keys)
        await until(lambda: old.hands.answers.get(MAC) is not None)
        claim = values.claim_key(old.hands.answers[MAC].addr)
        await until(lambda: MAC.hex().encode() in store.keys[claim][0])
        if is_told:
            old.agent.pause()
        new = Rig(store, 1, "new")
        new.agent.start()
        new.agent.on_event(fleet_messages.StationsEvent({MAC: True}, {ADDR: MAC}, False))
        new.agent.on_event(fleet_messages.NamesEvent({"web": ADDR}))
        await until(lambda: b"new" in store.keys[values.HOST + "host1"][0])
        await until(lambda: new.view.pool.usable_until() > 0)
        await until(lambda: is_told or "fleet-name-taken" in old.hub.kinds)
        before = of_host(store).keys()
        await old.agent.stop()
        await asyncio.sleep(0.1)
        assert before <= of_host(store).keys()
        assert b"new" in store.keys[values.HOST + "host1"][0]
        assert MAC.hex().encode() in store.keys[claim][0]
        assert "fleet-host-left" not in other.hub.kinds
        assert ("fleet-name-taken" in old.hub.kinds) is not is_told
        assert "fleet-name-taken" not in new.hub.kinds or not is_told
        await new.agent.stop()
        await other.agent.stop()

    run(scenario)


def test_a_row_of_an_earlier_run_is_not_a_rival(store: Store) -> None:
    async def scenario() -> None:
        killed = Host("10.0.0.1", 4789, "net", "killed", 9)
        store.put(values.HOST + "host1", values.host_bytes(killed))
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: b"run1" in store.keys[values.HOST + "host1"][0])
        await asyncio.sleep(0.05)
        assert "fleet-name-taken" not in rig.hub.kinds
        await rig.agent.stop()

    run(scenario)


def test_what_another_program_has_put_into_the_bucket_is_not_kept(store: Store) -> None:
    async def scenario() -> None:
        taken = ip.parse_ipv4("192.168.127.60")
        for number in range(1000):
            store.put(f"other.program.{number}", bytes(1000))
        store.put(values.claim_key(taken), bytes(1 << 20))
        store.put(values.ZONE + "big", bytes(1 << 20))
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: rig.view.pool.reserve_size(1e12) > 0)
        assert rig.view.bad_values == 1001
        assert store.keys[values.claim_key(taken)][0] == bytes(1 << 20), "nobody takes such a claim"
        assert sum(map(len, rig.view.settings.values())) == 0
        await rig.agent.stop()

    run(scenario)


def test_a_session_that_ended_since_nothing_came_back_is_replaced(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The beats of the old session must not end the new one before its keys were reported."""
    monkeypatch.setattr(agent_module, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("pipeline.engines.fleet.members.RETRY_S", 0.05)

    async def scenario() -> None:
        store.is_slow = True
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: rig.view.online and rig.view.members.unanswered == 0)
        store.is_mute = True
        store.put(values.HOST + "host1", None)
        rig.view.members.on_host("host1", None, 0, 0.0)
        await until(lambda: not rig.view.online)
        store.is_mute = False
        await until(lambda: rig.view.online and rig.view.members.unanswered == 0)
        assert rig.hub.kinds.count("fleet-reached") >= 2
        await rig.agent.stop()

    run(scenario)


def test_a_fleet_that_is_too_large_is_reported_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "MAX_REMOTES", 1)
    monkeypatch.setattr("pipeline.engines.fleet.mirror.MAX_KEYS", 3)
    monkeypatch.setattr("pipeline.engines.fleet.names.MAX_NAMES", 0)
    monkeypatch.setattr("pipeline.engines.fleet.places.MAX_AWAY", 0)

    async def scenario() -> None:
        for number in (7, 8):
            row = Host(f"10.0.0.{number}", 4789, "net", "other", 1)
            store.put(f"{values.HOST}host{number}", values.host_bytes(row))
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: rig.hub.kinds.count("fleet-too-large") == 4)
        store.put(f"{values.HOST}host8", None)
        store.put(f"{values.NAME}db", b"{}")
        await until(lambda: "fleet-host-left" in rig.hub.kinds)
        assert rig.hub.kinds.count("fleet-too-large") == 4
        await rig.agent.stop()

    run(scenario)


def test_a_server_has_all_the_time_to_report_keys_while_it_reports_some(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "SNAPSHOT_S", 0.5)
    monkeypatch.setattr(agent_module, "LOOK_EVERY_S", 0.02)

    async def scenario() -> None:
        for number in range(20):
            store.put(f"{values.NAME}vm{number}", b"{}")
        store.takes_s = 1.2
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: rig.view.online)
        assert (len(store.asked), rig.hub.kinds) == (1, ["fleet-reached"])
        await rig.agent.stop()

    run(scenario)
