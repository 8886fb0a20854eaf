"""Approvals: what waits is listed with its name, and an answer holds once, for a session or always."""

import asyncio
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.control import approvals
from pipeline.control.approvals import Approvals, UnknownApprovalError
from pipeline.control.hub import Happened, Hub
from pipeline.control.workers import GoneError
from pipeline.ipc import messages
from pipeline.ipc.policy_messages import AskRow
from tests.control.endpoint import LOG, Endpoint, Workers, endpoint, live_settings

GUEST = "192.168.127.2"
ROW = AskRow(5, 3, 2, GUEST, "192.0.2.7", 443, "tcp", "egress-policy.rules[0]", 12.5)
SAME = ROW._replace(number=9)
OTHER = ROW._replace(number=6, port=80)
ASK = '{"rules": [{"action": "deny", "ports": [25]}, {"action": "ask"}]}'


async def call(at: Endpoint, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    status, text = await at.call(method, path, body)
    return status, json.loads(text)


def waits(at: Endpoint, **by_worker: list[AskRow]) -> None:
    """Let these flows wait in egress workers."""
    rows = iter(by_worker.get(worker, []) for worker in ("egress0", "egress1") * 20)
    at.workers.answers["asks"] = lambda _op: {"asks": [list(row) for row in next(rows)]}
    at.workers.answers["names"] = lambda op: {"names": ["www.example.com"] * len(op["pairs"])}


def decided(at: Endpoint) -> list[tuple[str, int, bool, str]]:
    return [
        (worker, op["number"], op["allow"], op["name"])
        for worker, op in at.workers.asked
        if op["op"] == "decide"
    ]


def policy(at: Endpoint) -> EgressPolicy:
    """The policy that egress has got last."""
    ops = [op for worker, op in at.workers.asked if op["op"] == "reload" and worker == "egress0"]
    found: EgressPolicy = pickle.loads(ops[-1]["config"]).access.egress_policy
    return found


def test_what_waits_is_listed_with_names(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            assert await call(at, "GET", "/approvals") == (200, [])
            waits(at, egress0=[ROW], egress1=[OTHER])
            status, found = await call(at, "GET", "/approvals")
            assert (status, [each["id"] for each in found]) == (200, ["egress0-5", "egress1-6"])
            assert found[0]["name"] == "www.example.com"
            assert found[0]["guest_mac"] == "5a:94:ef:e4:0c:ee"
            assert (found[0]["seconds"], found[0]["rule"]) == (12.5, "egress-policy.rules[0]")

    asyncio.run(run())


def test_an_answer_decides_all_flows_to_the_same_destination(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            waits(at, egress0=[ROW, OTHER], egress1=[SAME])
            answer = await call(at, "POST", "/approvals/egress0-5", '{"allow": true}')
            assert answer == (200, {"rule_added": False})
            name = "www.example.com"
            assert decided(at) == [("egress0", 5, True, name), ("egress1", 9, True, name)]
            assert "reload" not in [op["op"] for _, op in at.workers.asked]

    asyncio.run(run())


@pytest.mark.parametrize(("scope", "guests"), [("session", ("link:2",)), ("always", ())])
@pytest.mark.parametrize("allow", [True, False])
def test_a_longer_answer_is_a_rule_before_the_one_that_asks(
    tmp_path: Path, scope: str, guests: tuple[str, ...], allow: bool
) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            await call(at, "PUT", "/policy", ASK)
            waits(at, egress0=[ROW])
            body = json.dumps({"allow": allow, "scope": scope})
            answer = await call(at, "POST", "/approvals/egress0-5", body)
            assert answer == (200, {"rule_added": True})
            rule = PolicyRule(
                *("allow" if allow else "deny", guests),
                names=("www.example.com",),
                ports=((443, 443),),
                protocols=("tcp",),
            )
            assert [each.action for each in policy(at).rules] == ["deny", rule.action, "ask"]
            assert policy(at).rules[1] == rule
            assert len(decided(at)) == 1
            waits(at, egress0=[ROW])
            await call(at, "POST", "/approvals/egress0-5", body)
            assert len(policy(at).rules) == 3, "the rule is there once"

    asyncio.run(run())


def test_without_a_name_the_rule_has_the_address(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            waits(at, egress0=[ROW])
            at.workers.answers["names"] = lambda op: {"names": ["-not a name-"] * len(op["pairs"])}
            await call(at, "POST", "/approvals/egress0-5", '{"allow": true, "scope": "always"}')
            assert policy(at).rules == (
                PolicyRule("allow", networks=("192.0.2.7",), ports=((443, 443),), protocols=("tcp",)),
            )

    asyncio.run(run())


class Session:
    """Approvals without an endpoint, with these links."""

    def __init__(self, *links: int) -> None:
        self.links = set(links)
        self.workers = Workers()
        self.workers.answers["asks"] = lambda _op: {"asks": [list(ROW)]}
        self.live = live_settings(self.workers)
        hub = Hub(lambda _watch: None, LOG)
        self.approvals = Approvals(
            *(self.workers, ("egress0",), self.live, hub, LOG), lambda link: link in self.links
        )

    async def approve(self) -> None:
        await self.approvals.decide("egress0-5", allow=True, scope="session")

    def gone(self, link: int) -> None:
        self.links.discard(link)
        self.approvals.link_gone(link)

    def rules(self) -> int:
        return len(self.live.policy.rules)


def test_the_rule_of_a_session_goes_with_its_link() -> None:
    async def run() -> None:
        at = Session(2, 7)
        await at.approve()
        for link, left in ((7, 1), (2, 0)):
            at.gone(link)
            await asyncio.sleep(0.05)
            assert at.rules() == left
        await at.approvals.stop()

    asyncio.run(run())


def test_a_link_that_is_gone_or_goes_meanwhile_leaves_no_rule() -> None:
    async def run() -> None:
        with pytest.raises(UnknownApprovalError):
            await Session(7).approve()
        at = Session(2)

        def goes(_op: object) -> dict[str, object]:
            at.gone(2)
            return {}

        at.workers.answers["reload"] = goes
        await at.approve()
        await asyncio.sleep(0.05)
        assert at.rules() == 0
        await at.approvals.stop()

    asyncio.run(run())


def test_rules_of_a_link_go_even_if_a_worker_is_dead_at_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "TRY_AGAIN_S", 0.01)

    async def run() -> None:
        at = Session(2)
        await at.approve()
        dead = [GoneError("worker resolver is gone")] * 2
        at.workers.answers["reload"] = lambda _op: dead.pop() if dead else {}
        at.gone(2)
        await asyncio.sleep(0.2)
        assert at.rules() == 0
        await at.approvals.stop()

    asyncio.run(run())


def test_the_event_has_the_name_and_the_mac(tmp_path: Path) -> None:
    async def run() -> None:
        seen: list[Happened] = []
        hub = Hub(lambda _watch: None, LOG)
        hub.subscribe(["approval-asked"], seen.append)
        async with endpoint(tmp_path, hub=hub) as at:
            waits(at)
            fields = {"id": "egress0-5", "guest_address": GUEST, "address": "192.0.2.7"}
            hub.on_worker("egress0", messages.HappenedEvent([["approval-asked", 1.0, fields]], 0))
            await asyncio.sleep(0.05)
            (event,) = seen
            assert event.fields["name"] == "www.example.com"
            assert event.fields["guest_mac"] == "5a:94:ef:e4:0c:ee"
            assert (event.worker, event.at) == ("egress0", 1.0)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "key"),
    [
        ("POST", "/approvals", "", 405, ""),
        ("GET", "/approvals/egress0-5", None, 405, ""),
        ("POST", "/approvals/egress0-7", '{"allow": true}', 404, ""),
        ("POST", "/approvals/" + "x" * 300, '{"allow": true}', 404, ""),
        ("POST", "/approvals/egress0-5", "", 400, ""),
        ("POST", "/approvals/egress0-5", "{}", 400, "allow"),
        ("POST", "/approvals/egress0-5", '{"allow": 1}', 400, "allow"),
        ("POST", "/approvals/egress0-5", '{"allow": true, "scope": "ever"}', 400, "scope"),
        ("POST", "/approvals/egress0-5", '{"allow": true, "for": 1}', 400, "for"),
    ],
)
def test_a_wrong_answer_decides_nothing(
    tmp_path: Path, method: str, path: str, body: str | None, status: int, key: str
) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            waits(at, egress0=[ROW])
            found, answer = await call(at, method, path, body)
            assert (found, answer["key"]) == (status, key)
            assert decided(at) == []

    asyncio.run(run())
