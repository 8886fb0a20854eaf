"""The front door on real sockets: take-overs, replay, deadlines and bounds."""

import asyncio
import contextlib
import os
import socket
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.control.http import front, runner
from pipeline.control.workers import RequestError
from tests.control.endpoint import endpoint

CONNECT = b"POST /connect HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\n\r\n"
ALL = b"GET /services/forwarder/all HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET /services/forwarder/all HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def drain(sock: socket.socket) -> bytes:
    sock.setblocking(False)
    try:
        return sock.recv(65536)
    except BlockingIOError:
        return b""


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, len(CONNECT) + 20), max_size=4))
def test_connect_hands_over_every_byte_behind_the_head_at_any_split(cuts: list[int], tmp_path: Path) -> None:
    frames = b"\x0e\x00" + bytes(range(14)) + b"tail"
    data = CONNECT + frames
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})

    async def run() -> None:
        async with endpoint(tmp_path) as at:
            _, writer = await at.open()
            for begin, end in pairwise(edges):
                writer.write(data[begin:end])
                await asyncio.sleep(0)
            await until(lambda: at.workers.socks)
            worker, op = at.workers.asked[0]
            assert worker == "ingress"
            assert (op["op"], op["framing"]) == ("attach", "le16")
            got = op["head"]
            while len(got) < len(frames):
                got += drain(at.workers.socks[0])
                await asyncio.sleep(0)
            assert got == frames
            writer.close()

    asyncio.run(run())


def test_connect_answers_nothing_and_lives_on_in_the_worker(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, timeout=0.1) as at:
            reader, writer = await at.open()
            writer.write(CONNECT)
            await until(lambda: at.workers.socks)
            # The deadlines of HTTP do not hold any more.
            await asyncio.sleep(0.3)
            at.workers.socks[0].send(b"frame")
            assert await reader.read(100) == b"frame"
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"CONNECT"])
def test_connect_takes_any_method_and_version(method: bytes, tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            _, writer = await at.open()
            writer.write(method + b" /connect HTTP/1.0\r\n\r\n")
            await until(lambda: at.workers.socks)
            writer.close()

    asyncio.run(run())


def test_connect_that_no_worker_takes_is_closed(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            at.workers.answers["attach"] = lambda _op: RequestError("worker ingress is gone")
            assert await at.raw(CONNECT) == b""

    asyncio.run(run())


def test_connect_without_a_host_field_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            assert await at.raw(b"GET /connect HTTP/1.1\r\n\r\n") == (
                b"HTTP/1.1 400 Bad Request: missing required Host header\r\n"
                b"Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
                b"400 Bad Request: missing required Host header"
            )

    asyncio.run(run())


def test_connect_is_not_there_where_it_is_not_allowed(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, connect=False) as at:
            assert await at.call("POST", "/connect") == (404, "404 page not found\n")

    asyncio.run(run())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_other_requests_are_served_at_any_split(size: int, tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            reader, writer = await at.open()
            for begin in range(0, len(CLOSE), size):
                writer.write(CLOSE[begin : begin + size])
                await asyncio.sleep(0)
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\n[]\n")
            writer.close()

    asyncio.run(run())


def test_nonsense_behind_a_request_is_answered_and_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at, asyncio.timeout(5):
            reader, writer = await at.open()
            writer.write(ALL)
            await reader.readuntil(b"[]\n")
            writer.write(b"nonsense\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.0 400 Bad Request\r\n")
            writer.close()

    asyncio.run(run())
    assert caplog.records == []


def test_connections_are_kept_alive_and_requests_may_be_pipelined(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            answer = await at.raw(ALL * 3 + CLOSE)
            assert answer.count(b"HTTP/1.1 200 OK\r\n") == 4

    asyncio.run(run())


def test_a_half_closed_client_gets_its_answer_and_the_end(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at, asyncio.timeout(5):
            answer = await at.raw(ALL, half_close=True)
            assert answer.endswith(b"[]\n")
            # Also when the end comes long after the answer.
            reader, writer = await at.open()
            writer.write(ALL)
            await reader.readuntil(b"[]\n")
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize("target", [b"/connect", b"/tunnel?ip=1.2.3.4&port=1"])
def test_a_later_take_over_is_told_to_come_alone(target: bytes, tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            answer = await at.raw(ALL + b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"HTTP/1.1 400 Bad Request\r\n" in answer
            assert answer.endswith(b"open a new one\n")
            assert at.workers.asked == []

    asyncio.run(run())


@pytest.mark.parametrize("data", [b"", b"GET / HT", b"\r\n" * 3])
def test_slow_heads_are_cut_off(data: bytes, tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, timeout=0.1) as at, asyncio.timeout(5):
            assert await at.raw(data) == b""

    asyncio.run(run())


def test_a_trickled_head_does_not_extend_its_time(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, timeout=0.2) as at, asyncio.timeout(10):
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_UNIX) as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, at.path)
                ended = asyncio.ensure_future(loop.sock_recv(sock, 100))
                while not ended.done():
                    # The other side may have closed since we looked; the read says so in a moment.
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        sock.send(b"x")
                    await asyncio.sleep(0.02)
                # Or reset, when it closed with the last byte unread.
                if not isinstance(ended.exception(), ConnectionResetError):
                    assert ended.result() == b""
            await until(lambda: not at.front._connections)

    asyncio.run(run())


def test_endless_heads_are_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at, asyncio.timeout(5):
            reader, writer = await at.open()
            writer.write(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000)
            answer = await reader.readuntil(b"Large\r\n")
            assert answer == b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
            writer.close()

    asyncio.run(run())


def test_idle_connections_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TIMEOUT", 0.1)

    async def run() -> None:
        async with endpoint(tmp_path) as at, asyncio.timeout(5):
            answer = await at.raw(ALL)
            assert answer.endswith(b"[]\n")
            # Half a request is idle too.
            answer = await at.raw(ALL + ALL[:9])
            assert answer.endswith(b"[]\n")

    asyncio.run(run())


def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, timeout=0.2) as at, asyncio.timeout(20):
            zone = {"Name": "x" * 1000, "Records": [], "DefaultIP": ""}
            at.workers.answers["dns_all"] = {"zones": [zone] * 500}
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, at.path)
            await loop.sock_sendall(sock, b"GET /services/dns/all HTTP/1.1\r\nHost: a\r\n\r\n" * 4)
            await until(lambda: len(at.front._connections) == 1)
            await until(lambda: not at.front._connections)
            sock.close()

    asyncio.run(run())


def test_an_injected_connection_brings_its_clients_address(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, guest=True) as at, asyncio.timeout(5):
            ours, theirs = socket.socketpair()
            at.front.serve(theirs, "192.168.127.2:40000")
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            body = b'{"local":":8080","remote":":80"}'
            writer.write(
                b"POST /services/forwarder/expose HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
            assert at.workers.asked[0][1]["remote"] == "192.168.127.2:80"
            writer.close()

    asyncio.run(run())


def test_a_client_that_leaves_at_once_is_no_trouble(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            for data in (b"", b"GET", ALL, CONNECT, ALL + b"GET"):
                _, writer = await at.open()
                writer.write(data)
                writer.close()
            await until(lambda: not at.front._connections)
            assert (await at.raw(CLOSE)).endswith(b"[]\n")

    asyncio.run(run())


def test_close_ends_every_connection(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at, asyncio.timeout(5):
            reader, writer = await at.open()
            writer.write(ALL)
            await reader.readuntil(b"[]\n")
            idle, other = await at.open()
            await until(lambda: len(at.front._connections) == 2)
            await at.front.close()
            assert await idle.read() == b""
            assert await reader.read() == b""
            writer.close()
            other.close()

    asyncio.run(run())


@pytest.mark.parametrize("both", [False, True], ids=["one family", "both families"])
def test_tcp_clients_have_their_plain_address(both: bool) -> None:
    family = socket.AF_INET6 if both else socket.AF_INET
    listener = socket.create_server(("", 0), family=family, dualstack_ipv6=both)
    client = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
    server, _ = listener.accept()
    assert front.peer_text(server) == f"127.0.0.1:{client.getsockname()[1]}"
    for sock in (client, server, listener):
        sock.close()


def test_a_socket_without_peeking_hands_the_rest_over() -> None:
    class Unpeekable(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:  # type: ignore[override]
            if flags & socket.MSG_PEEK:
                raise OSError(95, "not supported")
            return super().recv(size, flags)

    async def run() -> None:
        taken: list[front.Taken] = []

        async def take(one: front.Taken) -> None:
            taken.append(one)

        door = front.Front(asyncio.Protocol, {"/connect": take}, front.structlog.get_logger())
        ours, theirs = socket.socketpair()
        door.serve(Unpeekable(fileno=theirs.detach()), "x")
        ours.send(CONNECT + b"frames")
        await until(lambda: taken)
        assert taken[0].rest == b"frames"
        taken[0].sock.close()
        ours.close()

    asyncio.run(run())


# --- requests that people write by hand -------------------------------------------------------------


def test_a_request_whose_lines_end_in_lf_alone_is_answered(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            # printf 'GET /leases HTTP/1.0\n\n' | nc -U
            for half_close in (False, True):
                answer = await at.raw(b"GET /leases HTTP/1.0\n\n", half_close=half_close)
                assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
                assert answer.endswith(b'"192.168.127.2":"5a:94:ef:e4:0c:ee"}\n')
            body = b'{"local":":1","remote":"1.2.3.4:5"}\n\n'
            post = b"POST /services/forwarder/expose HTTP/1.1\nHost: a\nContent-Length: %d\n\n%s" % (
                len(body),
                body,
            )
            both = await at.raw(
                post + b"GET /services/forwarder/all HTTP/1.1\nHost: a\nConnection: close\n\n"
            )
            assert both.count(b"HTTP/1.1 200 OK\r\n") == 2
            assert both.endswith(b'[{"local":":1","remote":"1.2.3.4:5","protocol":"tcp"}]\n')

    asyncio.run(run())


def test_chunks_whose_lines_end_in_lf_alone_are_no_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.control.http.body.TIMEOUT", 0.1)

    async def run() -> None:
        async with endpoint(tmp_path) as at:
            body = b'{"local":":1","remote":"1.2.3.4:5"}'
            head = b"POST /services/forwarder/expose HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n"
            answer = await at.raw(head + b"%x\n%s\n0\n\n" % (len(body), body) + CLOSE)
            assert answer.split(b" ")[1] in (b"400", b"408")
            assert answer.count(b"HTTP/1.") == 1, "what follows is no request of its own"
            assert at.workers.asked == []
            answer = await at.raw(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) + CLOSE)
            assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    "head",
    [
        b"GET /leases HTTP/1.0\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /leases HTTP/1.0\r\n" + b"X: yyyyyyyyyyyyyyy\r\n" * 1000 + b"\r\n",
        b"GET /leases?" + b"y" * 20_000 + b" HTTP/1.0\r\n\r\n",
    ],
    ids=["field", "fields", "query"],
)
def test_a_head_of_20_kb_is_answered(head: bytes, tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            assert (await at.raw(head)).startswith(b"HTTP/1.0 200 OK\r\n")

    asyncio.run(run())


@pytest.mark.parametrize("size", [70_000, 500_000])
def test_a_head_of_70_kb_is_answered_with_431_and_not_with_a_reset(size: int, tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            answer = await at.raw(b"GET /leases HTTP/1.1\r\nHost: a\r\nX: " + b"y" * size + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")

    asyncio.run(run())


def test_a_repeated_length_with_one_value_is_taken_and_another_value_is_not(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            body = b'{"local":":1","remote":"1.2.3.4:5"}'
            head = b"POST /services/forwarder/expose HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % len(
                body
            )
            for second in (b"3", b"+%d" % len(body), b"0%d" % len(body)):
                answer = await at.raw(head + b"Content-Length: " + second + b"\r\n\r\n" + body + CLOSE)
                assert answer.split(b" ")[1] == b"400"
                assert answer.count(b"HTTP/1.") == 1
            chunked = await at.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + body)
            assert chunked.split(b" ")[1] == b"400"
            assert at.workers.asked == []
            answer = await at.raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body + CLOSE)
            assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2

    asyncio.run(run())


def test_a_take_over_may_be_written_by_hand_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            _, writer = await at.open()
            writer.write(b"GET /connect HTTP/1.0\n\nframes")
            await until(lambda: at.workers.socks)
            got = at.workers.asked[0][1]["head"] + drain(at.workers.socks[0])
            assert got == b"frames"
            writer.close()

    asyncio.run(run())


def test_an_answer_before_the_end_of_a_request_reaches_a_client_that_sends_on(tmp_path: Path) -> None:
    """Whoever closes a socket with bytes unread resets it, and a reset may overtake the answer."""

    async def run() -> None:
        async with endpoint(tmp_path) as at:
            reader, writer = await at.open()
            writer.write(b"POST /services/forwarder/expose HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n")
            writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.split(b" ")[1] == b"400"
            writer.write(b"x" * 300_000)
            await writer.drain()
            writer.write_eof()
            await reader.read()
            writer.close()

    asyncio.run(run())


def test_a_connection_that_is_ended_in_the_middle_of_a_body_leaves_no_descriptor(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            _, writer = await at.open()
            writer.write(b"POST /services/forwarder/expose HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
            await asyncio.sleep(0.2)
            before = set(os.listdir("/proc/self/fd"))
            await at.front.close()
            await asyncio.sleep(0.2)
            assert set(os.listdir("/proc/self/fd")) < before
            writer.close()

    asyncio.run(run())
