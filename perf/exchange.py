"""Exchanges of one byte: the server and the clients of perf.latency. Each runs as a process of its own.

    python -m perf.exchange serve ADDRESS            prints its ports (tcp, crr, udp), then serves for ever
    python -m perf.exchange tcp HOST PORT SECONDS    round trips on one connection
    python -m perf.exchange udp HOST PORT SECONDS    round trips of datagrams
    python -m perf.exchange crr HOST PORT SECONDS    connect, request, response, close
    python -m perf.exchange http NAME PORT SECONDS   the same with a request that states the name

A client prints one JSON object: count, lost, per_second, and p50_us, p99_us and max_us of an exchange.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable

import dns.message
import dns.query

WARM_UP = 50  # exchanges that are not counted, at most a fifth of the time
STARVED_NS = 15_000_000_000
GATEWAY = "192.168.127.1"
"""The name server of a guest of this program."""
UDP_PATIENCE = 0.5  # seconds after which a datagram is lost


def _family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(address: str) -> None:
    """Serve with one thread for each service. Each serves one connection after the other."""
    family = _family_of(address)
    rr = socket.create_server((address, 0), family=family, backlog=512)
    crr = socket.create_server((address, 0), family=family, backlog=512)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.bind((address, 0))
    print(*(each.getsockname()[1] for each in (rr, crr, udp)), flush=True)
    threading.Thread(target=_serve_round_trips, args=(rr,), daemon=True).start()
    threading.Thread(target=_serve_connections, args=(crr,), daemon=True).start()
    while True:
        data, peer = udp.recvfrom(2048)
        udp.sendto(data, peer)


def _serve_round_trips(listener: socket.socket) -> None:
    while True:
        link, _ = listener.accept()
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with link, contextlib.suppress(ConnectionError):
            while data := link.recv(64):
                link.sendall(data)


def _serve_connections(listener: socket.socket) -> None:
    """Answer and close at once. To wait for the client's FIN would add the time of closing."""
    while True:
        link, _ = listener.accept()
        with link, contextlib.suppress(ConnectionError):
            link.sendall(link.recv(64))


def _repeat(exchange: Callable[[], bool], seconds: float) -> dict[str, float]:
    warm_until = time.monotonic() + 0.2 * seconds
    for _ in range(WARM_UP):
        exchange()
        if time.monotonic() > warm_until:
            break
    times: list[int] = []
    lost = 0
    clock = time.perf_counter_ns
    begin = before = clock()
    end = begin + int(seconds * 1e9)
    # During a bulk stream some peers block other traffic for seconds. Wait for at least one exchange.
    while before < end or (not times and before < end + STARVED_NS):
        good = exchange()
        after = clock()
        if good:
            times.append(after - before)
        else:
            lost += 1
        before = after
    times.sort()
    if not times:
        raise SystemExit("no exchange succeeded")
    return {
        "count": len(times),
        "lost": lost,
        "per_second": len(times) / ((before - begin) / 1e9),
        "p50_us": times[len(times) // 2] / 1e3,
        "p99_us": times[min(len(times) * 99 // 100, len(times) - 1)] / 1e3,
        "max_us": times[-1] / 1e3,
    }


def tcp(address: tuple[str, int], seconds: float) -> dict[str, float]:
    """Measure round trips on one connection."""
    with socket.create_connection(address, 10) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def exchange() -> bool:
            link.sendall(b"x")
            if link.recv(64) != b"x":
                raise SystemExit("the answer is wrong")
            return True

        return _repeat(exchange, seconds)


def udp(address: tuple[str, int], seconds: float) -> dict[str, float]:
    """Measure round trips of datagrams. Their byte is a number, so that a late answer is recognised."""
    number = 0
    with socket.socket(_family_of(address[0]), socket.SOCK_DGRAM) as link:
        # connect() alone would lose the interface of a link-local address.
        link.connect(socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0][4])
        link.settimeout(UDP_PATIENCE)

        def exchange() -> bool:
            nonlocal number
            number = (number + 1) & 0xFF
            request = bytes([number])
            link.send(request)
            try:
                while link.recv(64) != request:
                    pass
            except TimeoutError:
                return False
            return True

        return _repeat(exchange, seconds)


def crr(address: tuple[str, int], seconds: float) -> dict[str, float]:
    """Measure connections with one exchange each, one after the other."""

    def exchange() -> bool:
        with socket.create_connection(address, 10) as link:
            link.sendall(b"x")
            if link.recv(64) != b"x":
                raise SystemExit("the answer is wrong")
        return True

    return _repeat(exchange, seconds)


def http(address: tuple[str, int], seconds: float) -> dict[str, float]:
    """Measure connections with one HTTP request each. address: a name that GATEWAY knows, and a port."""
    name, port = address
    question = dns.message.make_query(name, "A")
    head = f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
    answer = dns.query.udp(question, GATEWAY, timeout=10).answer
    place = (str(answer[0][0]), port)

    def exchange() -> bool:
        with socket.create_connection(place, 10) as link:
            link.sendall(head)
            if link.recv(64) != head:
                raise SystemExit("the answer is wrong")
        return True

    return _repeat(exchange, seconds)


CLIENTS = {"tcp": tcp, "udp": udp, "crr": crr, "http": http}


def main(argv: list[str]) -> int:
    if argv[0] == "serve":
        serve(argv[1])
    kind, host, port, seconds = argv
    print(json.dumps(CLIENTS[kind]((host, int(port)), float(seconds))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
