"""/connect and /tunnel: what the client sees and what the workers are asked."""

import asyncio
from pathlib import Path

import pytest

from pipeline.control.workers import RequestError
from tests.control.endpoint import endpoint


def request(query: str, method: str = "POST") -> bytes:
    return f"{method} /tunnel{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def test_a_tunnel_says_ok_and_then_what_the_guest_says(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at, asyncio.timeout(5):
            reader, writer = await at.open()
            writer.write(request("?ip=192.168.127.2&port=22") + b"early")
            assert await reader.readexactly(2) == b"OK"
            while not at.workers.socks:
                await asyncio.sleep(0.002)
            op = {"op": "tunnel", "ip": "192.168.127.2", "port": 22, "head": b""}
            assert at.workers.asked == [("listen", op)]
            guest = at.workers.socks.pop()
            guest.setblocking(False)
            assert guest.recv(100) == b"early"
            guest.send(b"SSH-2.0")
            guest.close()
            assert await reader.read() == b"SSH-2.0"
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "ip is mandatory"),
        ("?port=22", "ip is mandatory"),
        ("?ip=&port=22", "ip is mandatory"),
        ("?ip=1.2.3.4", 'strconv.ParseUint: parsing "": invalid syntax'),
        ("?ip=1.2.3.4&port=ssh", 'strconv.ParseUint: parsing "ssh": invalid syntax'),
        ("?ip=1.2.3.4&port=65536", 'strconv.ParseUint: parsing "65536": value out of range'),
        ("?ip=guest&port=22", "invalid IP address: guest"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_bad_query_is_an_http_error(method: str, query: str, text: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            assert await at.call(method, f"/tunnel{query}") == (500, f"{text}\n")
            assert at.workers.asked == []

    asyncio.run(run())


def test_a_tunnel_that_no_worker_opens_is_closed_behind_its_ok(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            at.workers.answers["tunnel"] = lambda _op: RequestError("worker listen is gone")
            assert await at.raw(request("?ip=192.168.127.2&port=22")) == b"OK"

    asyncio.run(run())


def test_a_tunnels_client_that_left_costs_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at, asyncio.timeout(5):
            _, writer = await at.open()
            writer.write(request("?ip=192.168.127.2&port=22"))
            writer.transport.abort()
            await asyncio.sleep(0.02)
            assert await at.call("GET", "/services/forwarder/all") == (200, "[]\n")

    asyncio.run(run())


def test_connect_names_the_client(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at, asyncio.timeout(5):
            _, writer = await at.open()
            writer.write(b"POST /connect HTTP/1.1\r\nHost: \r\n\r\n")
            while not at.workers.socks:
                await asyncio.sleep(0.002)
            assert at.workers.asked == [
                ("ingress", {"op": "attach", "framing": "le16", "name": "@", "head": b""})
            ]
            writer.close()

    asyncio.run(run())


def test_connect_hands_on_what_the_guest_asks_for(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at, asyncio.timeout(5):
            _, writer = await at.open()
            writer.write(b"POST /connect HTTP/1.1\r\nHost: \r\nGVTAP-offload: 1\r\n\r\n")
            while not at.workers.socks:
                await asyncio.sleep(0.002)
            ((_, asked),) = at.workers.asked
            assert asked["offload"] == "1"
            writer.close()

    asyncio.run(run())


def test_a_capture_is_asked_of_ingress_and_its_answer_is_all_that_the_client_sees(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at, asyncio.timeout(5):
            at.workers.answers["live_capture"] = {"busy": False}
            reader, writer = await at.open()
            query = "guest=3&guest=192.168.127.2&port=53&protocol=udp&host=10.0.0.0/8&drops=1&snaplen=96"
            writer.write(f"GET /capture?{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            while not at.workers.socks:
                await asyncio.sleep(0.002)
            ((worker, op),) = at.workers.asked
            assert worker == "ingress"
            assert op.pop("head").startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-pcapng\r\n")
            assert op == {
                "op": "live_capture",
                "guests": ["3", "192.168.127.2"],
                "hosts": ["10.0.0.0/8"],
                "ports": ["53"],
                "protocols": ["udp"],
                "drops": True,
                "snaplen": 96,
            }
            ingress = at.workers.socks.pop()
            ingress.send(b"a capture")
            ingress.close()
            assert await reader.read() == b"a capture"
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("mac=1", "unknown key 'mac' (allowed: guest, host, port, protocol, drops, snaplen)"),
        ("drops=yes", "drops 'yes' is wrong (allowed: 0, 1)"),
        ("snaplen=-1", "snaplen '-1' is wrong (allowed: 1 to 262144, 0 for whole frames)"),
        ("snaplen=262145", "snaplen '262145' is wrong (allowed: 1 to 262144, 0 for whole frames)"),
        ("guest=1&" * 2000, "too many keys (allowed: 1024)"),
    ],
)
def test_a_capture_with_a_bad_query_is_an_http_error(query: str, text: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            assert await at.call("GET", f"/capture?{query}") == (400, f"{text}\n")
            assert at.workers.asked == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"busy": True, "refused": "4 captures are running"}, 429),
        ({"busy": False, "refused": "port '0' is wrong"}, 400),
        (RequestError("worker ingress is gone"), 500),
    ],
)
def test_a_capture_that_ingress_refuses_is_an_http_error(answer: object, status: int, tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            at.workers.answers["live_capture"] = answer
            text = answer["refused"] if isinstance(answer, dict) else str(answer)
            assert await at.call("GET", "/capture") == (status, f"{text}\n")

    asyncio.run(run())
