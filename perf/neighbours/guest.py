"""The well-behaved guest of perf.neighbours and its servers, a process each.

    python -m perf.neighbours.guest serve ADDRESS               prints its ports, serves for ever
    python -m perf.neighbours.guest use HOST ECHO SINK STREAM   obeys lines on standard input

`serve` prints the TCP ports of an echo, of a server that reads and of one that sends for ever, and a UDP
port where nobody reads.

`use` prints a line for each of its commands. `open` makes three connections. `measure SECONDS` prints one
JSON object: p50_us and p99_us of a round trip, and up and down, the bytes a second of a bulk stream in each
direction. Each is measured for that long, one after the other, on the connections that were open. They are
closed then.

No answer is a figure here as well: a round trip that is given up counts ANSWER seconds, and a bulk stream
that stands still or is reset is 0.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

PATIENCE = 10.0  # seconds for a connection
ANSWER = 2.0  # seconds after which a round trip is given up
WARM_UP = 0.15  # seconds a bulk stream has run before it is measured
CHUNK = 1 << 20
TICK = 0.05  # seconds a blocked call waits before the clock is looked at
LINGER = Struct("ii").pack(1, 0)
"""A close that resets: the rest of a bulk stream is of no use."""
_BYTES_ACKED = Struct("120xQ")
"""tcpi_bytes_acked of struct tcp_info (linux/tcp.h)."""


class Connections(NamedTuple):
    """One to each server."""

    echo: socket.socket
    sink: socket.socket
    stream: socket.socket


# --- servers ------------------------------------------------------------------------------


def serve(address: str) -> None:
    """Each connection has a thread."""
    listeners = [socket.create_server((address, 0), backlog=64) for _ in range(3)]
    unread = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    unread.bind((address, 0))
    print(*(each.getsockname()[1] for each in (*listeners, unread)), flush=True)
    for listener, work in zip(listeners, (_echo, _read, _send), strict=True):
        threading.Thread(target=_accept, args=(listener, work), daemon=True).start()
    threading.Event().wait()


def _accept(listener: socket.socket, work: Callable[[socket.socket], None]) -> None:
    while True:
        link, _ = listener.accept()
        threading.Thread(target=_run, args=(link, work), daemon=True).start()


def _run(link: socket.socket, work: Callable[[socket.socket], None]) -> None:
    with link, contextlib.suppress(ConnectionError):
        work(link)


def _echo(link: socket.socket) -> None:
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := link.recv(64):
        link.sendall(data)


def _read(link: socket.socket) -> None:
    room = bytearray(CHUNK)
    while link.recv_into(room):
        pass


def _send(link: socket.socket) -> None:
    """After the first byte from the client, for ever."""
    data = bytes(CHUNK)
    if link.recv(1):
        while True:
            link.sendall(data)


# --- the guest ----------------------------------------------------------------------------


def connect(host: str, ports: list[int]) -> Connections:
    """All three, each also asked for the first byte where there is one."""
    made = Connections(*(socket.create_connection((host, port), PATIENCE) for port in ports))
    made.echo.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(20):
        made.echo.sendall(b"x")
        made.echo.recv(64)
    for link in (made.sink, made.stream):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        link.settimeout(TICK)
    return made


def round_trips(link: socket.socket, seconds: float) -> dict[str, float]:
    """One byte there and back, for that many seconds or until an answer does not come in time."""
    link.settimeout(ANSWER)
    times: list[float] = []
    end = time.perf_counter() + seconds
    lost = 0
    before = time.perf_counter()
    while before < end and not lost:
        try:
            link.sendall(b"x")
            lost = 0 if link.recv(64) else 1
        except OSError:  # no answer in time, or the connection is over
            lost = 1
        after = time.perf_counter()
        times.append(ANSWER if lost else after - before)
        before = after
    times.sort()
    return {
        "p50_us": times[len(times) // 2] * 1e6,
        "p99_us": times[min(len(times) * 99 // 100, len(times) - 1)] * 1e6,
        "exchanges": len(times) - lost,
        "lost": lost,
    }


def up(link: socket.socket, seconds: float) -> float:
    """Bytes a second that the other end acknowledged while this one sent all it could."""
    data = memoryview(bytes(CHUNK))

    def push(until: float) -> float:
        while (now := time.perf_counter()) < until:
            with contextlib.suppress(TimeoutError):
                link.send(data)
        return now

    def acked() -> int:
        info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        count: int = _BYTES_ACKED.unpack_from(info)[0]
        return count

    began = push(time.perf_counter() + WARM_UP)
    before = acked()
    ended = push(began + seconds)
    return (acked() - before) / (ended - began)


def down(link: socket.socket, seconds: float) -> float:
    """Bytes a second that arrived while the other end sent all it could."""
    room = bytearray(CHUNK)

    def pull(until: float) -> tuple[int, float]:
        count = 0
        while (now := time.perf_counter()) < until:
            with contextlib.suppress(TimeoutError):
                count += link.recv_into(room)
        return count, now

    link.send(b"x")
    _, began = pull(time.perf_counter() + WARM_UP)
    count, ended = pull(began + seconds)
    return count / (ended - began)


def rate(measure: Callable[[socket.socket, float], float], link: socket.socket, seconds: float) -> float:
    """What it measures, 0 if the connection is reset meanwhile. The connection is closed."""
    with link:
        try:
            return measure(link, seconds)
        except ConnectionError:
            return 0.0


def use(host: str, ports: list[int]) -> None:
    """Obey until standard input ends."""
    links: Connections | None = None
    for line in sys.stdin:
        command, *words = line.split()
        if command == "open":
            links = connect(host, ports)
            print("open", flush=True)
        elif command == "measure" and links is not None:
            seconds = float(words[0])
            result = round_trips(links.echo, seconds)
            result["up"] = rate(up, links.sink, seconds)
            result["down"] = rate(down, links.stream, seconds)
            links.echo.close()
            print(json.dumps(result), flush=True)


def main(argv: list[str]) -> int:
    if argv[0] == "serve":
        serve(argv[1])
    use(argv[1], [int(port) for port in argv[2:]])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
