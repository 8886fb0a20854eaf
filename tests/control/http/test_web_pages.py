"""Web pages are kept away from endpoints on TCP and from the guests' one. Programs are not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.control.http.web_pages import refusal
from tests.control.endpoint import Endpoint, endpoint

EXPOSE = "/services/forwarder/expose"
BODY = b'{"local":"127.0.0.1:1","remote":"192.168.127.2:1"}'


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8080", "127.0.0.1", "localhost:1", "LOCALHOST", "localhost.:80", "[::1]:80", "10.1.2.3:5"]
    + ["[::ffff:127.0.0.1]:80", "[fe80::1]", "", " 127.0.0.1:80 "],
)
def test_an_address_and_localhost_are_hosts(host: str) -> None:
    assert refusal([host], [], []) == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8080",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil-localhost",
    ]
    + [
        "2130706433",
        "0x7f.1",
        "127.1",
        "127.0.0.1:x",
        "127.0.0.1:99999",
        "[::1",
        "a@127.0.0.1",
        "127.0.0.1/x",
    ]
    + ["unix", "127.0.0.1, evil.example", "127.0.0.1#", "127.0.0.1:" + "9" * 5000],
)
def test_a_name_that_dns_may_lead_here_is_refused(host: str) -> None:
    assert "is refused: use an IP address or localhost" in refusal([host], [], [])
    assert refusal([host], [], [], guest=True) == "", "a guest's administrator chooses the gateway's names"
    assert refusal(["127.0.0.1", host], [], []) != "", "one of two is enough"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:80", "http://evil.example"),
        ("127.0.0.1:80", "null"),
        ("127.0.0.1:80", ""),
        ("127.0.0.1:80", "http://127.0.0.1:81"),
        ("127.0.0.1:80", "http://localhost:80"),
        ("127.0.0.1:80", "https://127.0.0.1:80"),
        ("", "http://"),
    ],
)
def test_another_origin_is_refused(host: str, origin: str) -> None:
    if host or origin != "http://":
        assert "Origin" in refusal([host], [origin], [])
    assert "Origin" in refusal([host], [origin], [], guest=True)


def test_a_page_of_this_very_endpoint_is_not_refused_on_the_host() -> None:
    assert refusal(["127.0.0.1:80"], ["http://127.0.0.1:80"], ["same-origin"]) == ""
    assert refusal(["LocalHost:80"], ["http://localhost:80"], []) == ""
    assert refusal(["127.0.0.1:80"], ["http://127.0.0.1:80"], [], guest=True) != ""


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "new-word"])
@pytest.mark.parametrize("guest", [False, True])
def test_a_fetch_of_another_site_is_refused(site: str, guest: bool) -> None:
    assert "Sec-Fetch-Site" in refusal(["127.0.0.1"], [], [site], guest=guest)
    assert refusal(["127.0.0.1"], [], ["none"], guest=guest) == "", "typed by the user"


@contextlib.asynccontextmanager
async def on_tcp(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with endpoint(tmp_path, browsers=True) as at:
        yield at


def request(target: str, *fields: str, body: bytes = b"", method: str = "POST") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *fields, f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


PAGES = [
    ("Host: evil.example:8080",),
    ("Host: evil.example:8080", "Origin: http://evil.example:8080", "Sec-Fetch-Site: same-origin"),
    ("Host: 127.0.0.1:8080", "Origin: http://evil.example"),
    ("Host: 127.0.0.1:8080", "Origin: http://127.0.0.1:9"),
    ("Host: 127.0.0.1:8080", "Sec-Fetch-Site: cross-site"),
    ("Host: 127.0.0.1:8080", "sec-fetch-site: same-site"),
]
TARGETS = [EXPOSE, "/connect", "/tunnel?ip=192.168.127.2&port=22", "/stats", "/nothing", "/openapi.json"]


@pytest.mark.parametrize("fields", PAGES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_page_reaches_nothing_and_is_told_why(
    target: str, fields: tuple[str, ...], method: str, tmp_path: Path
) -> None:
    async def run() -> None:
        async with on_tcp(tmp_path) as at:
            answer = await at.raw(request(target, *fields, body=BODY, method=method))
            assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
            assert b"refused" in answer.partition(b"\r\n\r\n")[2]
            assert at.workers.asked == []
            assert b"Access-Control" not in answer

    asyncio.run(run())


@pytest.mark.parametrize("host", ["0.0.0.0:8080", "192.168.1.5:8080"])
@pytest.mark.parametrize("target", ["/connect", "/tunnel?ip=192.168.127.2&port=22"])
def test_an_image_of_a_page_takes_no_connection_over(target: str, host: str, tmp_path: Path) -> None:
    """A GET has no Origin. Browsers send no Sec-Fetch-Site to an address that is not loopback."""

    async def run() -> None:
        async with on_tcp(tmp_path) as at:
            agent = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
            answer = await at.raw(request(target, f"Host: {host}", agent, method="GET"))
            assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
            assert at.workers.asked == []
            answer = await at.raw(request("/stats", f"Host: {host}", agent, method="GET"))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), "a user may look at it in a browser"

    asyncio.run(run())


@pytest.mark.parametrize("fields", PAGES)
def test_a_later_request_of_a_page_is_refused_too(fields: tuple[str, ...], tmp_path: Path) -> None:
    async def run() -> None:
        async with on_tcp(tmp_path) as at:
            first = b"GET /services/forwarder/all HTTP/1.1\nHost: 127.0.0.1\n\n"
            answer = await at.raw(first + request(EXPOSE, *fields, body=BODY))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"HTTP/1.1 403 Forbidden\r\n" in answer
            assert at.workers.asked == []

    asyncio.run(run())


def test_a_request_by_hand_with_a_foreign_host_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with on_tcp(tmp_path) as at:
            answer = await at.raw(b"GET /leases HTTP/1.1\nHost: evil.example\nConnection: close\n\n")
            assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
            answer = await at.raw(b"GET /leases HTTP/1.0\n\n")
            assert answer.startswith(b"HTTP/1.0 200 OK\r\n"), "no Host at all: no browser"

    asyncio.run(run())


@pytest.mark.parametrize("fields", PAGES)
def test_unix_sockets_stay_as_they_are(fields: tuple[str, ...], tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            answer = await at.raw(request(EXPOSE, *fields, body=BODY))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")

    asyncio.run(run())


def test_programs_are_served_on_tcp(tmp_path: Path) -> None:
    async def run() -> None:
        async with on_tcp(tmp_path) as at, asyncio.timeout(10):
            # curl, Go's client, and the original's clients of /connect.
            for fields in (
                ("Host: 127.0.0.1:7000", "User-Agent: curl/8.5.0", "Accept: */*"),
                ("Host: localhost:7000", "User-Agent: Go-http-client/1.1", "Accept-Encoding: gzip"),
            ):
                answer = await at.raw(request("/leases", *fields))
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            _, writer = await at.open()
            writer.write(b"POST /connect HTTP/1.1\r\nHost: \r\n\r\n")
            while not at.workers.socks:
                await asyncio.sleep(0.002)
            writer.close()

    asyncio.run(run())


def test_a_page_in_a_guests_browser_opens_no_port_of_the_host(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, guest=True) as at:
            for fields in (
                ("Host: gateway.containers.internal", "Origin: http://evil.example"),
                ("Host: evil.example", "Origin: http://evil.example"),
                ("Host: 192.168.127.1", "Sec-Fetch-Site: cross-site"),
            ):
                answer = await at.raw(request(EXPOSE, *fields, body=BODY))
                assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
            assert at.workers.asked == []
            answer = await at.raw(request(EXPOSE, "Host: gateway.containers.internal", body=BODY))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")

    asyncio.run(run())
