"""Who may change forwards and settings while a successor takes over, and afterwards."""

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from pipeline.config import policy_json
from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.control import succession
from pipeline.control.forwarder import FLEET, HOST, Forward
from pipeline.control.succession import Succession, SuccessionError
from pipeline.ipc.handover_messages import OpenForward, Policy


class Parts:
    """A succession whose other parts only count who leaves."""

    def __init__(self) -> None:
        self.left: list[str] = []
        sockets, over_ssh, leases = (self._part(name) for name in ("sockets", "ssh", "leases"))
        access = SimpleNamespace(forwards=(), socket_forwards=())
        self.live = SimpleNamespace(
            turn=asyncio.Lock(),
            config=SimpleNamespace(access=access),
            policy=EgressPolicy(),
            policy_of_file=EgressPolicy(),
        )
        self.forwarder = SimpleNamespace(turn=asyncio.Lock(), opened=list)
        channels: Any = SimpleNamespace(channels={}, request=self._request)
        memory: Any = SimpleNamespace(zones=[], leases=None)
        live: Any = self.live
        forwarder: Any = self.forwarder
        self.succession = Succession(
            channels, memory, forwarder, (sockets, over_ssh), live, leases, structlog.get_logger()
        )

    def _part(self, name: str) -> Any:
        return SimpleNamespace(leave=lambda: self.left.append(name), flush=self._flush)

    async def _request(self, *_args: object, timeout: float) -> dict[str, object]:
        return {}

    async def _flush(self) -> None:
        """Nothing waits."""

    async def policies(self) -> list[Policy]:
        """What a successor gets of the policy."""
        async with self.succession.collected() as items:
            return [item.message for item in items if isinstance(item.message, Policy)]


@pytest.mark.parametrize("leaves", [True, False])
def test_a_change_that_waits_goes_on_only_if_the_restart_has_failed(leaves: bool) -> None:
    async def run() -> None:
        parts = Parts()
        changed: list[str] = []

        async def change(name: str, turn: asyncio.Lock) -> None:
            async with turn:
                changed.append(name)

        async with parts.succession.alone():
            turns = (("settings", parts.live.turn), ("forward", parts.forwarder.turn))
            clients = [asyncio.create_task(change(name, turn)) for name, turn in turns]
            await asyncio.sleep(0)
            if leaves:
                parts.succession.leave()
        for _ in range(10):
            await asyncio.sleep(0)
        assert sorted(changed) == ([] if leaves else ["forward", "settings"])
        assert parts.left == (["sockets", "ssh", "leases"] if leaves else [])
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    asyncio.run(run())


def test_rules_that_go_with_a_link_stay_behind() -> None:
    """The successor could not remove them, and another guest may get the number of the link."""
    of_link, other = PolicyRule("allow", guests=("link:3",)), PolicyRule("deny", networks=("192.0.2.0/24",))

    def without_it(policy: EgressPolicy) -> EgressPolicy:
        return EgressPolicy(rules=tuple(rule for rule in policy.rules if rule != of_link))

    async def run() -> None:
        parts = Parts()
        parts.live.policy = EgressPolicy(rules=(of_link,))
        assert len(await parts.policies()) == 1
        parts.succession.lasting = without_it
        assert await parts.policies() == []
        parts.live.policy = EgressPolicy(rules=(of_link, other))
        (found,) = await parts.policies()
        assert policy_json.read(found.of_api.encode()) == EgressPolicy(rules=(other,))

    asyncio.run(run())


def test_guests_do_not_wait_long_for_a_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(succession, "LOOK_UP_TIMEOUT", 0.01)

    async def run() -> None:
        parts = Parts()
        parts.live.with_policy = lambda _policy: asyncio.sleep(60)
        of_file, of_api = (json.dumps(policy_json.written(EgressPolicy(each))) for each in ("allow", "deny"))
        with pytest.raises(SuccessionError, match="the policy of the API: its files and proxies"):
            await parts.succession.check_policy(Policy(of_file, of_api))

    asyncio.run(run())


@pytest.mark.parametrize("servers", ["nats://one", ""])
def test_forwards_of_a_fleet_stay_as_long_as_the_host_is_in_one(servers: str) -> None:
    """Nobody else could close them: neither the fleet nor a client of the API."""

    async def run() -> None:
        parts = Parts()
        restored: list[str] = []

        async def restore(forward: Forward, _asked: object) -> bool:
            restored.append(forward.local)
            return True

        def drop(*, keep_files: bool) -> None:
            assert not keep_files

        succession: Any = parts.succession
        parts.forwarder.restore = restore
        parts.live.config.fleet = SimpleNamespace(fleet_servers=servers)
        succession._sockets.drop_given = succession._over_ssh.drop_given = drop
        of_fleet = OpenForward(":1", "192.168.127.2:1", "tcp", False, "", FLEET, 0, "", None)
        await succession.restore_others(
            [(of_fleet, None), (replace(of_fleet, local=":2", opened_by=HOST), None)]
        )
        assert restored == ([":1", ":2"] if servers else [":2"])

    asyncio.run(run())
