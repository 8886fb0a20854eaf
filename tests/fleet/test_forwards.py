"""The forwards of a fleet on one host: what is opened, closed, refused and tried again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("nats")

from pipeline.control.forward_texts import ForwardError
from pipeline.control.forwarder import FLEET, HOST, Forwarder, Owner
from pipeline.control.workers import RefusedError
from pipeline.engines.fleet.values import Forward
from pipeline.fleet import forwards as module
from pipeline.fleet.forwards import SharedForwards
from pipeline.ipc import forward_messages, messages
from tests.fleet.test_agent import FakeLog

GUEST, OTHER = "192.168.127.10:80", "192.168.127.11:80"
WEB, DNS = Forward("tcp", ":8080", GUEST), Forward("udp", ":53", "192.168.127.10:53")


class Listen:
    """Plays the listen worker. ``busy``: local addresses that cannot be bound."""

    def __init__(self) -> None:
        self.busy: set[str] = set()
        self.is_broken = False
        self.open: dict[str, str] = {}

    async def __call__(self, worker: str, ask: messages.Request, fds: Any = ()) -> dict[str, object]:
        match ask:
            case forward_messages.Expose():
                if self.is_broken:
                    raise KeyError("an error of this program")
                if ask.local in self.busy:
                    raise RefusedError(f"listen {ask.protocol} {ask.local}: bind: address already in use")
                self.open[ask.local] = ask.remote
            case forward_messages.Unexpose():
                del self.open[ask.local]
        return {"ok": True}


class Hub:
    def __init__(self) -> None:
        self.reports: list[tuple[str, dict[str, object]]] = []

    def report(self, kind: str, *, operator: bool = False, **fields: object) -> None:
        self.reports.append((kind, fields))

    def refused(self) -> list[object]:
        return [fields["local"] for kind, fields in self.reports if kind == "fleet-forward-refused"]


class Rig:
    def __init__(self) -> None:
        self.listen, self.hub = Listen(), Hub()
        hub: Any = self.hub
        self.forwarder = Forwarder(self.listen, hub=hub)
        log: Any = FakeLog()
        self.log = log
        self.shared = SharedForwards(self.forwarder, hub, log)

    async def settled(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5.0):
            while not condition():
                await asyncio.sleep(0.002)

    async def want(self, *forwards: Forward) -> None:
        self.shared.want(forwards)
        await self.settled(lambda: not self.shared._wake.is_set())
        await asyncio.sleep(0.02)


def run(scenario: Callable[[Rig], Awaitable[None]]) -> None:
    async def whole() -> None:
        rig = Rig()
        try:
            await scenario(rig)
        finally:
            await rig.shared.stop()

    asyncio.run(asyncio.wait_for(whole(), 20.0))


def test_what_the_fleet_wants_is_open_and_nothing_else_of_it() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.want(WEB, DNS)
        assert rig.listen.open == {":8080": GUEST, ":53": "192.168.127.10:53"}
        assert {each.opened_by for each in rig.forwarder.all()} == {FLEET}
        await rig.want(WEB._replace(remote=OTHER))
        assert rig.listen.open == {":8080": OTHER}
        await rig.want()
        assert rig.listen.open == {}
        kinds = [kind for kind, _ in rig.hub.reports]
        assert kinds.count("forward-opened") == kinds.count("forward-closed") == 3
        assert not [fields for _, fields in rig.hub.reports if "guest_address" in fields]

    run(scenario)


def test_a_busy_port_is_reported_once_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)

    async def scenario(rig: Rig) -> None:
        rig.listen.busy = {":8080"}
        await rig.want(WEB, DNS)
        await asyncio.sleep(0.1)
        assert rig.listen.open == {":53": "192.168.127.10:53"}
        assert rig.hub.refused() == [":8080"]
        assert rig.shared.waiting_count == 1
        rig.listen.busy = set()
        await rig.settled(lambda: rig.shared.waiting_count == 0)
        assert rig.listen.open[":8080"] == GUEST

    run(scenario)


def test_a_forward_that_is_not_wanted_any_more_is_not_waiting() -> None:
    async def scenario(rig: Rig) -> None:
        rig.listen.busy = {":8080"}
        await rig.want(WEB)
        await rig.want()
        assert rig.shared.waiting_count == 0

    run(scenario)


def test_a_forward_of_the_host_itself_stays() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.forwarder.expose("tcp", ":8080", OTHER)
        await rig.want(WEB)
        assert rig.listen.open == {":8080": OTHER}
        assert rig.hub.refused() == [":8080"]
        await rig.want()
        assert [each.opened_by for each in rig.forwarder.all()] == [HOST]

    run(scenario)


def test_neither_host_nor_guest_closes_a_forward_of_the_fleet() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.want(WEB)
        for owner in (Owner(), Owner("192.168.127.10", 3)):
            with pytest.raises(ForwardError, match="all hosts of the fleet have this forward"):
                await rig.forwarder.unexpose("tcp", ":8080", owner=owner)
        assert rig.listen.open == {":8080": GUEST}

    run(scenario)


def test_what_an_earlier_run_has_left_open_is_taken_over_or_closed() -> None:
    async def scenario(rig: Rig) -> None:
        for each in (WEB, DNS):
            await rig.forwarder.expose(each.protocol, each.local, each.remote, owner=Owner(FLEET))
        await rig.want(WEB)
        assert rig.listen.open == {":8080": GUEST}
        assert [kind for kind, _ in rig.hub.reports].count("forward-opened") == 2

    run(scenario)


def test_an_error_of_this_program_is_logged_and_the_next_round_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)

    async def scenario(rig: Rig) -> None:
        rig.listen.is_broken = True
        await rig.want(WEB)
        assert rig.log.errors
        rig.listen.is_broken = False
        await rig.settled(lambda: rig.listen.open == {":8080": GUEST})

    run(scenario)
