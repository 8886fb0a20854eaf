"""The paths of the egress policy: it changes as a whole or not at all, and guests have none of them."""

import asyncio
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.control.hub import Happened, Hub
from pipeline.control.workers import RequestError
from tests.control.endpoint import LOG, NAMES, Endpoint, endpoint, refuse

DENY = '{"default": "deny", "rules": [{"action": "allow", "ports": [443]}]}'
OPEN = {"default": "allow", "rules": []}


async def call(at: Endpoint, method: str, path: str = "/policy", body: str | None = None) -> tuple[int, Any]:
    status, text = await at.call(method, path, body)
    return status, json.loads(text)


def taken(at: Endpoint) -> dict[str, EgressPolicy]:
    """The policy that each worker has got last."""
    asked = [(worker, op) for worker, op in at.workers.asked if op["op"] == "reload"]
    return {worker: pickle.loads(op["config"]).access.egress_policy for worker, op in asked}


def test_put_replaces_the_policy_in_all_workers_and_get_shows_it(tmp_path: Path) -> None:
    async def run() -> None:
        seen: list[Happened] = []
        hub = Hub(lambda _watch: None, LOG)
        hub.subscribe(["policy-changed"], seen.append)
        async with endpoint(tmp_path, hub=hub) as at:
            assert await call(at, "GET") == (200, OPEN)
            assert await call(at, "PUT", body=DENY) == (200, {"ended": 2})
            policy = EgressPolicy("deny", (PolicyRule("allow", ports=((443, 443),)),))
            assert taken(at) == dict.fromkeys(NAMES, policy)
            shown = {"default": "deny", "rules": [{"action": "allow", "ports": ["443"]}]}
            assert await call(at, "GET") == (200, shown)
            assert [event.fields for event in seen] == [{"default": "deny", "rules": 1, "ended": 2}]

    asyncio.run(run())


def test_flows_are_ended_after_all_workers_have_the_policy_or_kept(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            await call(at, "PUT", "/policy?connections=cut", DENY)
            assert at.workers.asked[-1] == ("egress0", {"op": "end_forbidden"})
            at.workers.asked.clear()
            assert await call(at, "PUT", "/policy?connections=keep", DENY) == (200, {"ended": 0})
            assert "end_forbidden" not in [op["op"] for _, op in at.workers.asked]

    asyncio.run(run())


def test_patch_changes_the_keys_that_it_has(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            await call(at, "PUT", body=DENY)
            assert (await call(at, "PATCH", body='{"default": "allow"}'))[0] == 200
            assert (await call(at, "GET"))[1]["rules"] == [{"action": "allow", "ports": ["443"]}]
            await call(at, "PATCH", body='{"rules": null}')
            assert await call(at, "GET") == (200, OPEN)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "key"),
    [
        ("PUT", "/policy", "", 400, ""),
        ("PUT", "/policy", "[]", 400, ""),
        ("PUT", "/policy", '{"rules": [{"action": "allow"}, {"action": "no"}]}', 400, "rules[1].action"),
        ("PUT", "/policy", '{"rules": [{"action": "deny", "port": [1]}]}', 400, "rules[0].port"),
        ("PATCH", "/policy", '{"defaults": "deny"}', 400, "defaults"),
        ("PUT", "/policy?connections=drop", DENY, 400, "connections"),
        ("PUT", "/policy?cut=1", DENY, 400, "cut"),
        ("POST", "/policy", DENY, 405, ""),
        ("PUT", "/policy", "x" * (1 << 20) + "x", 413, ""),
    ],
)
def test_a_wrong_request_changes_nothing(
    tmp_path: Path, method: str, path: str, body: str, status: int, key: str
) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            found, answer = await call(at, method, path, body)
            assert (found, answer["key"]) == (status, key)
            assert answer["error"]
            assert at.workers.asked == []
            assert await call(at, "GET") == (200, OPEN)

    asyncio.run(run())


def test_a_refusal_by_the_resolver_changes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            at.workers.answers["reload"] = refuse("no room")
            assert await call(at, "PUT", body=DENY) == (503, {"error": "no room", "key": ""})
            assert [worker for worker, _ in at.workers.asked] == ["resolver"]
            assert await call(at, "GET") == (200, OPEN)

    asyncio.run(run())


def test_a_policy_changes_only_if_it_is_the_one_that_the_client_has_read(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            async with at.client.get("http://unix/policy") as answer:
                tag = answer.headers["ETag"]
            for status in (200, 412):
                async with at.client.put(
                    "http://unix/policy", data=DENY, headers={"If-Match": tag}
                ) as answer:
                    assert answer.status == status

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/policy", "/policy/explain", "/approvals", "/approvals/egress0-1"])
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "POST"])
def test_a_guest_reaches_no_path_of_the_policy(tmp_path: Path, method: str, path: str) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, guest=True) as at:
            for way in (path, f"/{path}", f"/services/..{path}"):
                status, _ = await at.call(method, way, DENY)
                assert status == 404
            assert at.workers.asked == []

    asyncio.run(run())


ASK = {"guest": "192.168.127.2", "address": "192.0.2.7", "port": 443}


def test_explain_names_the_rule_and_what_kept_the_others_from_deciding(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            await call(at, "PUT", body='{"rules": [{"action": "allow", "ports": [80]}, {"action": "deny"}]}')
            rule = "egress-policy.rules[1]"
            at.workers.answers["explain"] = {"allowed": False, "rule": rule, "passed": ["ports"]}
            status, answer = await call(at, "POST", "/policy/explain", json.dumps({**ASK, "name": "A.test."}))
            assert (status, answer["allowed"], answer["rule"]) == (200, False, rule)
            assert answer["decides"] == {"action": "deny"}
            assert answer["passed"] == [{"rule": "egress-policy.rules[0]", "part": "ports"}]
            assert answer["why"] == "rule 1 is the first of 2 that fits"
            asked = {"op": "explain", **ASK, "protocol": "tcp", "name": "a.test"}
            assert at.workers.asked[-1] == ("egress0", asked)

    asyncio.run(run())


def test_explain_says_that_a_rule_asks(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            await call(at, "PUT", body='{"rules": [{"action": "ask"}]}')
            at.workers.answers["explain"] = {"allowed": False, "rule": "egress-policy.rules[0]", "passed": []}
            _, answer = await call(at, "POST", "/policy/explain", json.dumps(ASK))
            assert answer["why"] == "rule 0 is the first of 1 that fits, and asks"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("", "a service of the gateway"),
        ("nat_flow_refused_unowned", "the guests' own network"),
        ("nat_flow_refused_loopback", "a built-in rule"),
        ("egress-policy.default", "there are no rules"),
    ],
)
def test_explain_says_what_decides_in_place_of_a_rule(tmp_path: Path, rule: str, words: str) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            at.workers.answers["explain"] = {"allowed": True, "rule": rule, "passed": []}
            _, answer = await call(at, "POST", "/policy/explain", json.dumps(ASK))
            assert words in answer["why"]
            assert answer["decides"] is None

    asyncio.run(run())


@pytest.mark.parametrize("guest", ["3", "02:00:00:00:00:01", "02:00:00:00:00:01".upper()])
def test_a_guest_may_be_named_by_number_or_mac(tmp_path: Path, guest: str) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            at.workers.answers["guests"] = {
                "guests": {"3": {}},
                "macs": {"3": ["02:00:00:00:00:01"]},
                "ips": {"3": ["fd00::7", "192.168.127.7"]},
            }
            _, answer = await call(at, "POST", "/policy/explain", json.dumps({**ASK, "guest": guest}))
            assert answer["guest"] == "192.168.127.7"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("change", "status", "key"),
    [
        ({"guest": "x"}, 400, "guest"),
        ({"guest": "9"}, 404, "guest"),
        ({"address": "x"}, 400, "address"),
        ({"address": ""}, 400, "address"),
        ({"port": 0}, 400, "port"),
        ({"port": 65536}, 400, "port"),
        ({"port": "443"}, 400, "port"),
        ({"protocol": "sctp"}, 400, "protocol"),
        ({"name": "x" * 300}, 400, "name"),
        ({"host": "x"}, 400, "host"),
    ],
)
def test_a_wrong_question_is_named_by_its_key(
    tmp_path: Path, change: dict[str, object], status: int, key: str
) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            found, answer = await call(at, "POST", "/policy/explain", json.dumps({**ASK, **change}))
            assert (found, answer["key"]) == (status, key)
            assert "explain" not in [op["op"] for _, op in at.workers.asked]

    asyncio.run(run())


def test_a_worker_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            at.workers.answers["explain"] = RequestError("worker egress0 is gone")
            status, answer = await call(at, "POST", "/policy/explain", json.dumps(ASK))
            assert (status, answer["error"]) == (503, "worker egress0 is gone")

    asyncio.run(run())
