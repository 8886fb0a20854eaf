"""Who may change forwards and settings while a successor takes over, and afterwards."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from pipeline.control.succession import Succession


class Parts:
    """A succession whose other parts only count who leaves."""

    def __init__(self) -> None:
        self.left: list[str] = []
        sockets, over_ssh, leases = (self._part(name) for name in ("sockets", "ssh", "leases"))
        self.live = SimpleNamespace(turn=asyncio.Lock())
        self.forwarder = SimpleNamespace(turn=asyncio.Lock())
        channels: Any = SimpleNamespace(channels={})
        memory: Any = SimpleNamespace()
        live: Any = self.live
        forwarder: Any = self.forwarder
        self.succession = Succession(
            channels, memory, forwarder, (sockets, over_ssh), live, leases, structlog.get_logger()
        )

    def _part(self, name: str) -> Any:
        return SimpleNamespace(leave=lambda: self.left.append(name))


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
