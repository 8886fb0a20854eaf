"""The web page of a running daemon: its address in the log, and that nothing of it is there without -web."""

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import wait_for

ADDRESS = re.compile(r"http://127\.0\.0\.1:([1-9]\d*)/#token=([\w-]{43})")
LOADED = """
import sys
from pipeline.control.plane import ControlPlane
from pipeline.control.http.servers import Servers
from pipeline.control.http.api import Api
print([name for name in sys.modules if name.startswith("pipeline.control.web")])
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneDaemon]:
    with LoneDaemon(tmp_path_factory.mktemp("daemon"), "-web", "127.0.0.1:0") as made:
        yield made


def addresses(daemon: LoneDaemon) -> list[tuple[int, str]]:
    """Port and token of each address that the log has shown."""
    lines = [line for line in map(json.loads, daemon.errors().splitlines()) if line.get("kind") == "web-page"]
    found = [
        re.fullmatch(r"http://127\.0\.0\.1:([1-9]\d*)/#token=([\w-]{43})", line["url"]) for line in lines
    ]
    return [(int(each[1]), each[2]) for each in found if each is not None]


def ask(port: int, method: str, path: str, **headers: str) -> http.client.HTTPResponse:
    """The answer to a request, with its body read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_the_log_shows_an_address_that_works_once_and_then_the_next_one(daemon: LoneDaemon) -> None:
    ((port, token),) = addresses(daemon)
    assert ask(port, "GET", "/").status == 200
    assert ask(port, "GET", "/status").status == 401
    bearer = f"Bearer {token}"
    assert [ask(port, "POST", "/session", Authorization=bearer).status for _ in range(2)] == [200, 401]
    wait_for(lambda: len(addresses(daemon)) == 2, "the next address")
    assert addresses(daemon)[1] != (port, token)


def test_the_status_names_the_page_without_its_token(daemon: LoneDaemon) -> None:
    text = daemon.ask(b"GET /status HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2]
    assert {"use": "web", "url": "tcp://127.0.0.1:0"} in json.loads(text)["endpoints"]
    assert not any(token.encode() in text for _, token in addresses(daemon))


def test_a_port_that_is_taken_stops_the_start(daemon: LoneDaemon, tmp_path: Path) -> None:
    port = addresses(daemon)[0][0]
    refused = LoneDaemon(tmp_path, "-web", f"127.0.0.1:{port}").refusal()
    assert f"listen tcp 127.0.0.1:{port}: bind: address already in use" in refused


def test_without_the_flag_nothing_of_the_page_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
