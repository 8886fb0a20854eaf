"""Runs the upstream resolver with real sockets to fake servers on 127.0.0.1. The test sets the time."""

import os
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rrset

from pipeline.host.upstream.resolver import MAX_SOCKETS, Upstream
from tests.support.fake_name_server import FakeServer
from tests.support.poller import Poller


class Rig:
    """An Upstream, its servers, and a clock that only the test sets."""

    def __init__(self, count: int = 1, max_sockets: int = MAX_SOCKETS) -> None:
        self.poller = Poller()
        self.now = 1000.0
        self.fakes = [FakeServer(self.poller) for _ in range(count)]
        self.servers = [fake.server for fake in self.fakes]
        self.upstream: Upstream[str] = Upstream(
            self.poller, lambda: self.servers, lambda: self.now, os.urandom, max_sockets
        )
        self.results: dict[str, bytes | None] = {}

    def ask(
        self, token: str = "t", name: str = "www.example.com", waited: float = 0.0, dnssec: bool = False
    ) -> None:
        query = dns.message.make_query(name, "A", use_edns=0, payload=1232, want_dnssec=dnssec)
        query.id = 0
        self.upstream.ask(token, query.to_wire(), self.now, self.now - waited)
        self._collect()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        if self.upstream.deadline() <= self.now:
            self.upstream.on_timer(self.now)
        self._collect()

    def query(self, server: int = 0, number: int = 0) -> tuple[dns.message.Message, object]:
        """A query that a server got, by number."""
        fake = self.fakes[server]
        self.poller.run_until(lambda: len(fake.queries) > number)
        return fake.queries[number]

    def result(self, token: str = "t") -> dns.message.Message | None:
        self.poller.run_until(lambda: self._collect() or token in self.results)
        wire = self.results[token]
        return None if wire is None else dns.message.from_wire(wire)

    def settle(self) -> None:
        while self.poller.run(0.05):
            pass
        self._collect()

    def _collect(self) -> None:
        for token, wire in self.upstream.take_results():
            assert token not in self.results
            self.results[token] = wire


def run(count: int, max_sockets: int = MAX_SOCKETS) -> Iterator[Rig]:
    made = Rig(count, max_sockets)
    yield made
    made.upstream.close()
    left = len(made.poller.callbacks)
    for fake in made.fakes:
        fake.close()
    made.poller.close()
    # Only the sockets of the fake servers may be left.
    assert left <= sum(2 + len(fake.connections) for fake in made.fakes)


def response(query: dns.message.Message, address: str = "1.2.3.4", rcode: int = 0) -> dns.message.Message:
    message = dns.message.make_response(query)
    message.set_rcode(rcode)
    if not rcode:
        message.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
    return message


def address(message: dns.message.Message | None) -> str:
    assert message is not None
    return str(message.answer[0][0].to_text())


def code(message: dns.message.Message | None) -> int:
    assert message is not None
    return int(message.rcode())


def truncated(query: dns.message.Message) -> dns.message.Message:
    message = response(query, "5.5.5.5")
    message.flags |= dns.flags.TC
    return message
