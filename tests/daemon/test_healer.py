"""The steps of healing, with workers that only record: what is asked of whom, and what ends the daemon."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from pipeline.config.model import Config
from pipeline.control.workers import RequestError
from pipeline.daemon import healing
from pipeline.daemon.healing import Healer
from pipeline.daemon.processes import Running

LOG = structlog.get_logger()
Answer = Callable[[str], Mapping[str, object]]


class FakeProcess:
    """A process that ends when it is killed."""

    def __init__(self, pid: int, on_end: Callable[[], None]) -> None:
        self.pid = pid
        self.exitcode: int | None = None
        self._on_end = on_end

    def is_alive(self) -> bool:
        return self.exitcode is None

    def kill(self) -> None:
        self.exitcode = -9
        asyncio.get_running_loop().call_soon(self._on_end)


class Rig:
    """A healer with these workers, each in a process of its own."""

    def __init__(self, *names: str) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[tuple[str, str], Answer] = {}
        """By worker and request, in place of an answer that fits."""
        self.failures: list[str] = []
        self.adopted: list[tuple[str, Any]] = []
        self.introduced: list[str] = []
        self.prepare: Callable[[str], Awaitable[None]] = self._at_once
        self.while_forking: Callable[[], None] = lambda: None
        self.running: list[Running] = []
        self.pids = 0
        for name in names:
            self.running.append(Running(name, self.process(name), {name: None}))  # type: ignore[dict-item]
        fabric: Any = SimpleNamespace(
            layout=SimpleNamespace(pools={}, homes=[]),
            counters=lambda _name: SimpleNamespace(snapshot=lambda: Counter[str](), get=lambda _word: 0),
            bury=lambda _names: None,
            renew_handoffs=lambda _names: {},
        )
        self.plane: Any = SimpleNamespace(
            config="the first settings",
            channels=SimpleNamespace(request=self.request),
            forget_worker=lambda _name: None,
            links_that_go_on=dict,
            adopt_worker=self._adopt,
            on_restart=lambda _name, _pid: None,
            prepare_worker=lambda name: self.prepare(name),
            introduce_worker=self._introduce,
        )
        nursery: Any = SimpleNamespace(fork=self._fork)
        self.healer = Healer(fabric, self.running, nursery, self.plane, self.failures.append, LOG)

    def process(self, name: str) -> FakeProcess:
        self.pids += 1
        return FakeProcess(self.pids, lambda: self.died(name))

    def died(self, name: str) -> None:
        self.healer.died(next(each for each in self.running if each.name == name))

    async def request(self, name: str, ask: Any, fds: Any = (), timeout: float = 0.0) -> Mapping[str, object]:
        self.asked.append((name, ask.NAME))
        await asyncio.sleep(0)
        if answer := self.answers.get((name, ask.NAME)):
            return answer(name)
        return {"lost": {"slots": {}, "links": None}, "settle": {"returned": 0}}.get(ask.NAME, {})

    async def _at_once(self, _name: str) -> None:
        pass

    async def _fork(self, group: str, config: Config, ends: Any, births: Any) -> FakeProcess:
        await asyncio.sleep(0)
        self.while_forking()
        return self.process(group)

    def _adopt(self, name: str, sock: Any, config: Any = None) -> None:
        sock.close()
        self.adopted.append((name, config))

    async def _introduce(self, name: str) -> None:
        self.introduced.append(name)

    async def heal(self, *names: str) -> None:
        """These workers die. Wait until the daemon is whole again, or gives up."""
        self.healer.start()
        for name in names:
            self.died(name)
        assert self.healer._healing is not None
        async with asyncio.timeout(20):
            await self.healer._healing
        await self.healer.stop()


def test_a_death_leads_to_a_successor_and_everybody_goes_on() -> None:
    async def run() -> None:
        rig = Rig("ingress", "demux", "listen")
        await rig.heal("listen")
        assert rig.failures == []
        assert rig.introduced == ["listen"]
        steps = ["pause", "lost", "settle", "resume"]
        assert [ask for name, ask in rig.asked if name == "demux"] == steps

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer", [{}, {"slots": "no map"}, {"slots": {7: 1}, "links": None}, {"slots": {}, "links": 5}]
)
def test_an_answer_that_makes_no_sense_ends_the_daemon_instead_of_a_pause_for_ever(
    answer: Mapping[str, object],
) -> None:
    async def run() -> None:
        rig = Rig("ingress", "demux", "listen")
        rig.answers["ingress", "lost"] = lambda _name: answer
        await rig.heal("listen")
        assert len(rig.failures) == 1

    asyncio.run(run())


def test_a_successor_that_dies_before_it_is_introduced_is_introduced_once_more_alone() -> None:
    async def run() -> None:
        rig = Rig("ingress", "demux")
        deaths = iter(range(2))

        def fail(_name: str) -> Mapping[str, object]:
            if next(deaths, None) is None:
                return {}
            # Ingress dies again, and so must all begin again.
            rig.died("ingress")
            raise RequestError("worker demux did not answer")

        rig.answers["demux", "resume"] = fail
        await rig.heal("ingress")
        assert rig.failures == []
        assert rig.introduced.count("ingress") == 1, "a socket that is opened twice is served twice"

    asyncio.run(run())


def test_settings_that_change_while_a_successor_is_forked_reach_it() -> None:
    async def run() -> None:
        rig = Rig("ingress", "egress0")

        def change() -> None:
            rig.plane.config = "the next settings"

        rig.while_forking = change
        await rig.heal("egress0")
        assert rig.adopted == [("egress0", "the first settings")], "the plane compares, and sends the others"

    asyncio.run(run())


def test_a_successor_that_is_slow_is_prepared_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "PREPARE_TIMEOUT", 0.01)

    async def run() -> None:
        rig = Rig("ingress", "demux")
        resumed = asyncio.Event()
        steps: list[str] = []

        async def prepare(name: str) -> None:
            await resumed.wait()
            steps.append("prepared")

        async def introduce(name: str) -> None:
            steps.append("introduced")

        def resume(_name: str) -> Mapping[str, object]:
            resumed.set()
            return {}

        rig.prepare = prepare
        rig.plane.introduce_worker = introduce
        rig.answers["demux", "resume"] = resume
        await rig.heal("ingress")
        assert steps == ["prepared", "introduced"]

    asyncio.run(run())
