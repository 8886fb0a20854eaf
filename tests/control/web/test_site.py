"""The endpoint of the web page: what it serves to whom, and the headers that keep other pages away."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
import structlog

from pipeline.control.http.access import Access
from pipeline.control.web.login import Login
from pipeline.control.web.site import HEADERS, POLICY
from tests.control.endpoint import Endpoint, endpoint

HOST = "127.0.0.1:8080"
ORIGIN = {"Origin": f"http://{HOST}"}
FILES = ("/", "/app.js", "/page.css", "/icon.svg")
API = ("/status", "/traffic", "/guests", "/flows", "/flows/tcp0-1", "/services/forwarder/expose")
NOT_THERE = (
    "/services/forwarder/all",
    "/metrics",
    "/stats",
    "/leases",
    "/openapi.json",
    "/events",
    "/connect",
    "/tunnel",
    "/capture",
)
STATIC = Path(__file__).resolve().parents[3] / "pipeline" / "control" / "web" / "static"


class Answer:
    """Status, header fields in lower case, and body."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


class Page:
    """The endpoint, as a browser that has no rules of its own."""

    def __init__(self, at: Endpoint, tokens: list[str], counted: list[str]) -> None:
        self.at = at
        self.tokens = tokens
        self.counted = counted

    async def ask(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, *, body: str = ""
    ) -> Answer:
        lines = {"Host": HOST, "Connection": "close", "Content-Length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return Answer(await self.at.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n{body}".encode()))

    async def enter(self) -> dict[str, str]:
        """The header fields of a new session."""
        headers = {"Authorization": f"Bearer {self.tokens[-1]}", **ORIGIN}
        answer = await self.ask("/session", "POST", headers)
        assert answer.status == 200
        cookie = answer.headers["set-cookie"].partition(";")[0]
        return {"Authorization": f"Bearer {json.loads(answer.body)['key']}", "Cookie": cookie}


def with_page(tmp_path: Path, test: Callable[[Page], Awaitable[None]]) -> None:
    """Run a test with an endpoint."""

    async def run() -> None:
        tokens: list[str] = []
        counted: list[str] = []
        login = Login(8080, tokens.append)
        access = Access(structlog.get_logger(), count=counted.append)
        async with endpoint(tmp_path, access=access, login=login) as at:
            login.renew()
            await test(Page(at, tokens, counted))

    asyncio.run(run())


def test_the_files_need_no_session_and_are_those_of_the_folder(tmp_path: Path) -> None:
    async def test(page: Page) -> None:
        for file in STATIC.iterdir():
            answer = await page.ask("/" if file.name == "index.html" else f"/{file.name}")
            assert (answer.status, answer.body) == (200, file.read_bytes()), file.name
            assert (await page.ask(f"/{file.name}", "POST", ORIGIN)).status in (401, 405)
        for path in ("/../login.py", "/static/app.js", "/app.js/", "/%2e%2e/login.py", "/index.html"):
            assert (await page.ask(path)).status in (307, 401), path

    with_page(tmp_path, test)


def test_every_path_of_the_api_needs_a_session(tmp_path: Path) -> None:
    async def test(page: Page) -> None:
        fields = await page.enter()
        for path in (*API, *NOT_THERE, "/session", "/nothing"):
            for method in ("GET", "POST", "DELETE"):
                if (path, method) != ("/session", "POST"):
                    assert (await page.ask(path, method)).status == 401, (path, method)
        for missing in fields:
            others = {name: value for name, value in fields.items() if name != missing}
            assert (await page.ask("/status", headers=others)).status == 401
        assert (await page.ask("/status", headers=fields)).status == 200
        assert page.at.workers.asked, "the right session reaches a worker"
        for path in NOT_THERE:
            assert (await page.ask(path, headers=fields)).status == 404, path

    with_page(tmp_path, test)


def test_a_wrong_token_is_counted_and_opens_nothing(tmp_path: Path) -> None:
    async def test(page: Page) -> None:
        for header in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {page.tokens[0]}"}):
            answer = await page.ask("/session", "POST", header)
            assert answer.status == 401
            assert "set-cookie" not in answer.headers
        assert page.counted == ["api_request_refused_token"] * 3
        assert len(page.tokens) == 1
        used = {"Authorization": f"Bearer {page.tokens[0]}"}
        assert [(await page.ask("/session", "POST", used)).status for _ in range(2)] == [200, 401]

    with_page(tmp_path, test)


def test_the_cookie_is_for_this_site_and_no_script(tmp_path: Path) -> None:
    async def test(page: Page) -> None:
        token = {"Authorization": f"Bearer {page.tokens[0]}"}
        cookie = (await page.ask("/session", "POST", token)).headers["set-cookie"]
        name, *attributes = cookie.split("; ")
        assert re.fullmatch(r"gvtap-8080=[\w-]{43}", name)
        assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=Strict"]

    with_page(tmp_path, test)


def test_signing_out_ends_the_session(tmp_path: Path) -> None:
    async def test(page: Page) -> None:
        fields = await page.enter()
        answer = await page.ask("/session", "DELETE", {**fields, **ORIGIN})
        assert answer.status == 200
        assert "Max-Age=0" in answer.headers["set-cookie"]
        assert (await page.ask("/status", headers=fields)).status == 401

    with_page(tmp_path, test)


@pytest.mark.parametrize(
    "fields",
    [
        {"Host": "rebound.example:8080"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:8081"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_page_gets_nothing_even_with_a_session_and_a_token(
    tmp_path: Path, fields: dict[str, str]
) -> None:
    async def test(page: Page) -> None:
        session = await page.enter()
        asked = len(page.at.workers.asked)
        for path in API:
            for method in ("GET", "POST", "DELETE"):
                assert (await page.ask(path, method, {**session, **fields})).status == 403, (path, method)
        assert len(page.at.workers.asked) == asked
        token = {"Authorization": f"Bearer {page.tokens[-1]}"}
        assert (await page.ask("/session", "POST", {**token, **fields})).status == 403
        assert len(page.tokens) == 2, "the token is not used up"
        assert set(page.counted) == {"api_request_refused_web_page"}
        assert (await page.ask("/", headers=fields)).status == (403 if "Host" in fields else 200)

    with_page(tmp_path, test)


def test_every_answer_forbids_frames_foreign_code_and_caches(tmp_path: Path) -> None:
    async def test(page: Page) -> None:
        session = await page.enter()
        answers = [await page.ask(path, headers=session) for path in (*FILES, *API, "/nothing", "//a")]
        answers.append(await page.ask("/status"))
        answers.append(await page.ask("/status", headers={"Host": "evil.example"}))
        assert {answer.status for answer in answers} >= {200, 307, 401, 403, 404}
        for answer in answers:
            assert {name: answer.headers.get(name.lower()) for name in HEADERS} == HEADERS
            assert not [name for name in answer.headers if name.startswith("access-control-")]

    with_page(tmp_path, test)


def test_the_policy_allows_only_own_files() -> None:
    rules = dict(rule.partition(" ")[::2] for rule in POLICY.split("; "))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert {rules[f"{kind}-src"] for kind in ("script", "style", "connect", "img")} == {"'self'"}
    assert "unsafe" not in POLICY


def test_no_preflight_is_answered(tmp_path: Path) -> None:
    async def test(page: Page) -> None:
        fields = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        for path in ("/services/forwarder/expose", "/session", "/"):
            answer = await page.ask(path, "OPTIONS", fields)
            assert answer.status == 403
            assert not [name for name in answer.headers if name.startswith("access-control-")]

    with_page(tmp_path, test)


def test_a_session_opens_and_closes_forwards(tmp_path: Path) -> None:
    async def test(page: Page) -> None:
        session = {**await page.enter(), **ORIGIN, "Sec-Fetch-Site": "same-origin"}
        forward = {"local": "127.0.0.1:9", "remote": "192.168.127.2:9", "protocol": "tcp"}
        body = json.dumps(forward)
        assert (await page.ask("/services/forwarder/expose", "POST", session, body=body)).status == 200
        listed = await page.ask("/status", headers=session)
        assert json.loads(listed.body)["forwards"] == [forward]
        assert (await page.ask("/services/forwarder/unexpose", "POST", session, body=body)).status == 200
        listed = await page.ask("/status", headers=session)
        assert json.loads(listed.body)["forwards"] == []

    with_page(tmp_path, test)


@pytest.mark.parametrize("file", sorted(STATIC.glob("*.js")), ids=lambda file: file.name)
def test_no_script_makes_html_or_code_of_a_text(file: Path) -> None:
    text = file.read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert word not in text, word


@pytest.mark.parametrize("file", sorted(STATIC.iterdir()), ids=lambda file: file.name)
def test_no_file_names_another_host(file: Path) -> None:
    names = set(re.findall(r"https?://[^\s\"'<>]+", file.read_text()))
    assert names <= {"http://www.w3.org/2000/svg"}, "only the name of a namespace"
