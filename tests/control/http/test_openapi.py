"""/openapi.json: it names every route, and schemathesis finds no answer that it does not describe."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import hypothesis
import jsonschema_rs
import pytest
import schemathesis
import structlog
from hypothesis import HealthCheck
from schemathesis.checks import CheckContext
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pipeline.control.forwarder import Forwarder
from pipeline.control.http import openapi
from pipeline.control.http.api import Api
from pipeline.control.http.front import Front
from pipeline.control.http.runner import make_runner, server_of
from tests.control.endpoint import Meter, Workers, observation, policy_paths

LOG = structlog.get_logger()
EXAMPLES = 100
ZONES = [
    {"Name": "a.", "Records": [{"Name": "b", "IP": "1.2.3.4"}], "DefaultIP": ""},
    {"Name": "c.", "Records": [{"Name": "", "IP": "1.2.3.4", "Regexp": "^d"}], "DefaultIP": "1.2.3.4"},
]


def made(workers: Workers) -> Api:
    """The API over these workers."""
    parts = (Forwarder(workers), workers, Meter(), observation(workers), LOG)
    return Api(*parts, policy=policy_paths(workers))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An endpoint on a port of the loopback, in a thread with a loop of its own."""
    loop = asyncio.new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    workers = Workers()
    workers.answers["dns_all"] = {"zones": ZONES}

    async def start() -> tuple[Any, Front]:
        runner = make_runner(made(workers).full())
        await runner.setup()
        front = Front(server_of(runner), {}, LOG)
        front.listen(listener)
        return runner, front

    async def stop(runner: Any, front: Front) -> None:
        await front.close()
        await runner.cleanup()

    runner, front = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    asyncio.run_coroutine_threadsafe(stop(runner, front), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    listener.close()


def described(*, token: bool = False) -> dict[str, Any]:
    return openapi.document("1.2.3", token=token)


def test_every_route_is_described_and_no_other() -> None:
    workers = Workers()
    app = made(workers).full()
    routes = {route.resource.canonical for route in app.router.routes() if route.resource is not None}
    # These only point elsewhere.
    directories = {"/services", *(f"/services/{name}" for name in ("dhcp", "dns", "forwarder"))}
    assert set(described()["paths"]) == routes - directories


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(described())
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(openapi.SCHEMAS)
    for schema in openapi.SCHEMAS.values():
        jsonschema_rs.validator_for({**schema, "components": described()["components"]})


def test_with_a_token_every_operation_but_connect_needs_it() -> None:
    document = described(token=True)
    assert document["security"] == [{"token": []}]
    assert document["paths"]["/connect"]["post"]["security"] == []
    for path, item in document["paths"].items():
        for operation in item.values():
            assert ("401" in operation["responses"]) == (path != "/connect"), path


def json_as_described(_ctx: CheckContext, response: Any, case: Any) -> None:
    """JSON in text/plain is none of schemathesis' business, so it is looked at here."""
    document = described()
    operation = document["paths"][case.path][case.method.lower()]
    schema = operation["responses"].get(str(response.status_code), {}).get("x-json")
    if schema is not None:
        jsonschema_rs.validate({**schema, "components": document["components"]}, response.json())
    elif response.status_code != 200:
        assert response.text.endswith("\n")
        assert response.headers["x-content-type-options"] == ["nosniff"]


CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    json_as_described,
]
WITHOUT_END = ("/connect", "/tunnel", "/capture", "/events")
"""Paths whose answer, if there is one, does not end by itself."""
PATHS = [path for path in described()["paths"] if path not in WITHOUT_END]


@pytest.mark.parametrize("path", PATHS)
def test_schemathesis_finds_no_answer_that_is_not_described(url: str, path: str) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for result in schema.include(path=path).get_all_operations():
        operation = result.ok()

        @hypothesis.settings(
            max_examples=EXAMPLES if operation.method == "post" else 3,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def run(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        run()
