"""/quotas: what guests have used, and how it begins at zero."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.control.endpoint import Endpoint, endpoint

USED = {
    "guest": "machine 12",
    "guests": [3],
    "per": "day",
    "bytes_from_guest": 20,
    "bytes_to_guest": 40,
    "connections": 2,
    "dns_questions": 4,
}
"""What egress0 and the resolver have counted, each as the endpoint's workers say."""


async def call(at: Endpoint, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    status, text = await at.call(method, path, body)
    return status, json.loads(text)


def test_all_workers_are_added_up_and_each_bound_says_what_is_left(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            status, (found,) = await call(at, "GET", "/quotas")
            assert status == 200
            assert {key: found[key] for key in USED} == USED
            assert found["ends_at"].endswith("T00:00:00Z")
            rule = "egress-policy.quotas[0]"
            assert found["quotas"] == [
                {"rule": rule, "limit": "bytes", "most": 100, "left": 40},
                {"rule": rule, "limit": "connections", "most": 2, "left": 0},
            ]
            told = [op for worker, op in at.workers.asked if op["op"] == "count" and worker == "egress0"]
            assert told[-1]["elsewhere"] == [["day", "guest 3", [10, 20, 1, 2]]]

    asyncio.run(run())


@pytest.mark.parametrize("body", ["{}", '{"guest": "machine 12"}', '{"guest": "3", "per": "day"}'])
def test_a_reset_begins_at_zero(tmp_path: Path, body: str) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            assert await call(at, "POST", "/quotas/reset", body) == (200, {"accounts": 1})
            _, (found,) = await call(at, "GET", "/quotas")
            assert found["bytes_from_guest"] == found["connections"] == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "key"),
    [
        ("POST", "/quotas", "{}", 405, ""),
        ("GET", "/quotas/reset", None, 405, ""),
        ("POST", "/quotas/reset", '{"guest": "machine 13"}', 404, "guest"),
        ("POST", "/quotas/reset", '{"guest": "3", "per": "month"}', 404, "guest"),
        ("POST", "/quotas/reset", '{"per": "week"}', 400, "per"),
        ("POST", "/quotas/reset", '{"guest": 3}', 400, "guest"),
        ("POST", "/quotas/reset", '{"who": "3"}', 400, "who"),
        ("POST", "/quotas/reset", "[]", 400, ""),
    ],
)
def test_a_wrong_request_names_its_key(
    tmp_path: Path, method: str, path: str, body: str | None, status: int, key: str
) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            found, problem = await call(at, method, path, body)
            assert (found, problem["key"]) == (status, key)

    asyncio.run(run())
