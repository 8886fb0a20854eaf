"""The endpoint of -metrics, and the paths for monitors: what they show, and that nothing can be changed."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.control.endpoint import Meter, endpoint

EVERYTHING_ELSE = (
    *("/stats", "/cam", "/leases", "/openapi.json", "/services/dns/all", "/services/forwarder/all"),
    *("/services/forwarder/expose", "/connect", "/tunnel", "/policy", "/policy/explain", "/approvals", "/"),
    "/restart",
)


@pytest.mark.parametrize("monitoring", [False, True], ids=["api", "metrics"])
def test_health_is_ok_until_a_worker_does_not_answer(tmp_path: Path, monitoring: bool) -> None:
    async def run() -> None:
        meter = Meter()
        async with endpoint(tmp_path, meter=meter, monitoring=monitoring) as at:
            assert await at.call("GET", "/healthz") == (200, "ok\n")
            meter.silent = ["tcp0", "listen"]
            text = "workers that do not answer: tcp0, listen\n"
            assert await at.call("GET", "/healthz") == (503, text)

    asyncio.run(run())


@pytest.mark.parametrize("monitoring", [False, True], ids=["api", "metrics"])
def test_the_version_says_what_runs(tmp_path: Path, monitoring: bool) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, monitoring=monitoring) as at:
            status, text = await at.call("GET", "/version")
            assert status == 200
            assert json.loads(text) == {"version": "1.2.3", "python": "3.11.2", "data_path": "plain"}

    asyncio.run(run())


def test_the_endpoint_for_metrics_has_no_api(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, monitoring=True, connect=False) as at:
            status, text = await at.call("GET", "/metrics")
            assert (status, text.startswith("# HELP gvtap_build_info ")) == (200, True)
            for path in EVERYTHING_ELSE:
                assert await at.call("GET", path) == (404, "404 page not found\n"), path

    asyncio.run(run())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_endpoint_for_metrics_is_read_only(tmp_path: Path, method: str) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, monitoring=True) as at:
            for path in ("/metrics", "/healthz", "/version", "/services/forwarder/expose"):
                assert await at.call(method, path, "{}") == (405, "method not allowed\n")
            assert at.workers.asked == []

    asyncio.run(run())


def test_head_is_reading(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, monitoring=True) as at:
            assert await at.call("HEAD", "/metrics") == (200, "")

    asyncio.run(run())


def test_on_tcp_web_pages_do_not_get_the_metrics(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, monitoring=True, browsers=True) as at:
            head = "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n"
            for host in ("127.0.0.1:9100", "localhost:9100", "[::1]:9100"):
                answer = await at.raw(head.format(host).encode())
                assert answer.startswith(b"HTTP/1.1 200 "), host
            answer = await at.raw(head.format("rebound.example:9100").encode())
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert answer.endswith(b"use an IP address or localhost\n")

    asyncio.run(run())
