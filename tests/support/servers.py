"""Small servers for tests, all in one process in a namespace: python -m tests.support.servers [-address A]

    data 7000        seeded bytes both ways, hashed (tests.support.traffic)
    echo 7001        TCP: sends everything back, and closes when the client has closed
    discard 7002     TCP: reads and forgets; prints one JSON line with count and hash at the end
    late 7003        TCP: reads to the client's end, then answers b"late " + the count of bytes
    early 7004       TCP: sends b"early" and ends its half at once, then reads like discard
    reset 7005       TCP: resets the connection at the first byte
    slow 7006        TCP: reads nothing for a second, then acts like late
    udp echo 7007    sends every datagram back
    stuck 7008       TCP: accepts and never reads
    http 80          one page
    dns 53           UDP and TCP: the records below; other names do not exist

With the address ``::`` they serve both families. The program prints "ready" when all ports are bound, and
ends with its standard input. Tests use it through Servers.
"""

import argparse
import contextlib
import hashlib
import http.server
import json
import os
import select
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from pipeline.system import inet
from tests.support import quick_start
from tests.support.netns import Namespace, wait_for
from tests.support.traffic import serve_transfer

DATA, ECHO, DISCARD, LATE, EARLY, RESET, SLOW, UDP_ECHO, STUCK = range(7000, 7009)
HTTP = 80
DNS = 53
PAGE = b"a page from outside\n" * 100
SLOW_SECONDS = 1.0
LONG_TEXT = "x" * 250
ECH = "AEX+DQBBpQAgACB/RU5hAC5mXe3uOZtNY58Bc8UU1dv4QBn5iG7ZWAv9EgAEAAEAAQASY2xvdWRmbGFyZS1lY2guY29tAAA="

RECORDS = (
    ("www.example.test.", 300, "IN", "A", "198.18.0.2"),
    ("www.example.test.", 300, "IN", "AAAA", "2001:db8::2"),
    ("alias.example.test.", 300, "IN", "CNAME", "www.example.test."),
    ("example.test.", 300, "IN", "MX", "10 mail.example.test."),
    ("_http._tcp.example.test.", 300, "IN", "SRV", "0 1 80 www.example.test."),
    ("rebound.example.test.", 300, "IN", "A", "10.0.0.1"),
    ("half.example.test.", 300, "IN", "A", "198.18.0.2", "192.168.127.254"),
    ("metadata.example.test.", 300, "IN", "A", "169.254.169.254"),
    ("mapped.example.test.", 300, "IN", "AAAA", "::ffff:10.0.0.1"),
    ("nat64.example.test.", 300, "IN", "AAAA", "64:ff9b::10.0.0.1"),
    ("chain.example.test.", 300, "IN", "CNAME", "rebound.example.test."),
    ("inward.example.test.", 300, "IN", "CNAME", "host.containers.internal."),
    ("hint.example.test.", 300, "IN", "HTTPS", "1 . ipv4hint=10.0.0.1"),
    ("www.example.test.", 300, "IN", "HTTPS", f"1 . alpn=h2,h3 ipv4hint=198.18.0.2 ech={ECH}"),
    ("brief.example.test.", 1, "IN", "A", "198.18.0.3"),
    ("shared.other.test.", 300, "IN", "A", "198.18.0.2"),
    ("many.example.test.", 300, "IN", "A", *(f"198.18.1.{n}" for n in range(1, 101))),
    ("text.example.test.", 300, "IN", "TXT", *(f'"{n}{LONG_TEXT}"' for n in range(8))),
)
_ANSWERS = {(rrset.name, rrset.rdtype): rrset for rrset in (dns.rrset.from_text(*row) for row in RECORDS)}


class Servers:
    """The servers, as a process in a namespace."""

    def __init__(self, namespace: Namespace, directory: Path, address: str = "0.0.0.0") -> None:
        """Start the servers, and wait until all are bound. directory: for their reports."""
        self._path = directory / f"{namespace.name}-servers.out"
        argv = [sys.executable, "-m", "tests.support.servers", "-address", address]
        theirs, self._stdin = os.pipe()
        with self._path.open("wb") as reports, open(theirs, "rb") as stdin:
            self._process = namespace.start(quick_start.SERVERS, argv, stdin=stdin, stdout=reports)
        self._seen = 1
        wait_for(lambda: self._path.read_text().startswith("ready\n"), "the servers")

    def next_report(self, server: str, seconds: float = 10.0) -> dict[str, Any]:
        """The next report of the server with this name."""

        def found() -> dict[str, Any]:
            lines = self._path.read_text().splitlines(keepends=True)
            for number in range(self._seen, len(lines)):
                if not lines[number].endswith("\n"):
                    break
                self._seen = number + 1
                line: dict[str, Any] = json.loads(lines[number])
                if line["server"] == server:
                    return line
            return {}

        return wait_for(found, f"a report of the {server} server", seconds)

    def close(self) -> None:
        """End the servers."""
        os.close(self._stdin)
        self._process.wait(10)


def report(**fields: object) -> None:
    """Print a JSON line for the test."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def _read_to_end(sock: socket.socket) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    view = memoryview(bytearray(256 * 1024))
    while got := sock.recv_into(view):
        digest.update(view[:got])
        count += got
    return count, digest.hexdigest()


def _echo(sock: socket.socket) -> None:
    view = memoryview(bytearray(256 * 1024))
    while got := sock.recv_into(view):
        sock.sendall(view[:got])


def _discard(sock: socket.socket, name: str = "discard") -> None:
    outcome: dict[str, object] = {}
    try:
        count, digest = _read_to_end(sock)
        outcome = {"received": count, "sha256": digest}
    except OSError as error:
        outcome = {"error": error.strerror}
    report(server=name, **outcome)


def _late(sock: socket.socket) -> None:
    count, _ = _read_to_end(sock)
    sock.sendall(b"late %d" % count)


def _early(sock: socket.socket) -> None:
    sock.sendall(b"early")
    sock.shutdown(socket.SHUT_WR)
    _discard(sock, "early")


def _reset(sock: socket.socket) -> None:
    sock.recv(1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _slow(sock: socket.socket) -> None:
    time.sleep(SLOW_SECONDS)
    _late(sock)


def _stuck(sock: socket.socket) -> None:
    poller = select.poll()
    poller.register(sock, select.POLLRDHUP)
    poller.poll()


def answer(query: dns.message.Message) -> dns.message.Message:
    """The response to one query, from RECORDS."""
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA
    question = query.question[0]
    found = _ANSWERS.get((question.name, question.rdtype))
    alias = _ANSWERS.get((question.name, dns.rdatatype.CNAME))
    if found is None and alias is not None:
        response.answer.append(alias)
        found = _ANSWERS.get((alias[0].target, question.rdtype))
    if found is not None:
        response.answer.append(found)
    elif not any(name == question.name for name, _ in _ANSWERS):
        response.set_rcode(dns.rcode.NXDOMAIN)
    return response


def _serve_dns_udp(sock: socket.socket) -> None:
    while True:
        data, peer = sock.recvfrom(65535)
        with contextlib.suppress(dns.exception.DNSException, IndexError):
            query = dns.message.from_wire(data)
            limit = query.payload if query.edns >= 0 else 512
            try:
                wire = answer(query).to_wire(max_size=limit)
            except dns.exception.TooBig:
                short = dns.message.make_response(query)
                short.flags |= dns.flags.TC
                wire = short.to_wire()
            sock.sendto(wire, peer)


def _dns_tcp(sock: socket.socket) -> None:
    stream = sock.makefile("rwb")
    while len(prefix := stream.read(2)) == 2:
        query = dns.message.from_wire(stream.read(int.from_bytes(prefix, "big")))
        wire = answer(query).to_wire(max_size=65535)
        stream.write(len(wire).to_bytes(2, "big") + wire)
        stream.flush()


def _serve_udp_echo(sock: socket.socket) -> None:
    while True:
        data, peer = sock.recvfrom(65535)
        sock.sendto(data, peer)


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Do not write access logs to the output of the test."""


class _Web(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that leave, since tests do that."""


def _accept(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_serve_one, args=(sock, serve), daemon=True).start()


def _serve_one(sock: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    # Clients may leave in tests. The test checks the effect at the client's end.
    with sock, contextlib.suppress(OSError, EOFError, dns.exception.DNSException):
        serve(sock)


def _start(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


TCP_SERVERS: dict[int, Callable[[socket.socket], None]] = {
    DATA: serve_transfer,
    ECHO: _echo,
    DISCARD: _discard,
    LATE: _late,
    EARLY: _early,
    RESET: _reset,
    SLOW: _slow,
    STUCK: _stuck,
    DNS: _dns_tcp,
}
UDP_SERVERS: dict[int, Callable[[socket.socket], None]] = {UDP_ECHO: _serve_udp_echo, DNS: _serve_dns_udp}


def main() -> None:
    """Bind everything, print "ready", and serve until standard input ends."""
    parser = argparse.ArgumentParser(description="test servers")
    parser.add_argument("-address", default="0.0.0.0")
    address = parser.parse_args().address
    family = _Web.address_family = inet.family_of(address)
    for port, serve in TCP_SERVERS.items():
        both = address == "::"
        listener = socket.create_server((address, port), family=family, backlog=512, dualstack_ipv6=both)
        _start(_accept, listener, serve)
    for port, serve in UDP_SERVERS.items():
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((address, port))
        _start(serve, sock)
    web = _Web((address, HTTP), _Page)
    _start(web.serve_forever)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
