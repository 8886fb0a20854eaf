"""Connections through a proxy: what it is told, what the guest notices, and how it may fail."""

import socket
from collections.abc import Iterator

import pytest

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.engines.rules import number_of
from pipeline.records import kinds
from pipeline.records.flows import flow_key
from pipeline.records.run import Run
from pipeline.records.services import Named, Told
from pipeline.records.streams import Connect
from pipeline.records.udp import UdpData
from pipeline.stages.egress.tcp import ways
from pipeline.wire import ip
from tests.stages.egress.test_alone import Egress
from tests.support import hellos
from tests.support.one_process import OneProcess
from tests.support.played_guests import GATEWAY, HOST

GUEST = GATEWAY + 1
FAR = ip.parse("192.0.2.7")
"""Nobody can be there. So only a proxy leads to it."""
GOOD = hellos.hello("a.test")
OK = b"HTTP/1.1 200 OK\r\n\r\n"
SSH = 22


class Proxied(Egress):
    """Egress with a policy, and a listener that plays the proxy. The guest was told that FAR is a.test."""

    def __init__(self, *rules: dict[str, object], default: str = "deny", scheme: str = "http") -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        made = [PolicyRule(**{"action": "proxy", "via": self.url, **rule}) for rule in rules]  # type: ignore[arg-type]
        for rule in made:
            if rule.action != "proxy":
                object.__setattr__(rule, "via", "")
        OneProcess.__init__(self, ("egress",), egress_policy=EgressPolicy(default, tuple(made)))
        self.tcp, self.demux = self.neighbours["tcp0"], self.neighbours["demux"]
        self.stage = self.stages["egress0"]
        self.pool = self.workers["egress0"].pool
        self.listener = self.keep(listener)
        self.listener.setblocking(False)
        self.udp = self.udp_server()
        self.events = self.watch()
        for address in (FAR, HOST):
            self.tell("a.test", address)

    def watch(self) -> list[dict[str, object]]:
        """The fields of each proxy-failed."""
        found: list[dict[str, object]] = []
        reporter = self.workers["egress0"].events
        report = reporter.report

        def seen(kind: str, **fields: object) -> None:
            if kind == "proxy-failed":
                found.append(fields)
            report(kind, **fields)

        reporter.report = seen  # type: ignore[method-assign]
        return found

    def tell(self, name: str, address: int) -> None:
        """The gateway's name server gives the guest this address for a name."""
        for record in Told.pack_all(GUEST, address, name):
            self.demux.push("egress0", record)
        self.demux.push("egress0", Named.pack(GUEST, address, number_of(name), 100_000))
        self.settle()

    def dial(self, number: int, port: int, address: int = FAR) -> None:
        """The guest asks for a connection."""
        key = flow_key(GUEST, 1000 + number, address, port)
        self.tcp.push("egress0", Connect.pack(number, key, link=1, guest=1, mss=1460, syn_seq=0))
        self.settle()

    def at_proxy(self) -> socket.socket:
        """The proxy's end of the next connection."""
        self.settle()
        proxy = self.keep(self.listener.accept()[0])
        proxy.setblocking(False)
        proxy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return proxy

    def nobody_came(self) -> bool:
        self.settle()
        try:
            self.keep(self.listener.accept()[0])
        except BlockingIOError:
            return True
        return False

    def got(self, proxy: socket.socket) -> bytes:
        self.settle()
        try:
            return proxy.recv(1 << 20)
        except BlockingIOError:
            return b""

    def answer(self, proxy: socket.socket, data: bytes) -> None:
        proxy.send(data)
        self.settle()

    def flows(self, kind: int) -> list[int]:
        self.settle()
        return [record.flow for record in self.tcp.take(kind)]

    def to_guest(self) -> int:
        """Bytes that the guest gets."""
        return sum(record.length for record in self.tcp.take(kinds.TO_GUEST))

    def reset(self, proxy: socket.socket) -> bool:
        """Whether the proxy's connection is over."""
        self.settle()
        try:
            return proxy.recv(1 << 20) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


@pytest.fixture
def egress() -> Iterator[Proxied]:
    with Proxied({}) as made:
        yield made
        made.at_home()


def reason(egress: Proxied) -> str:
    (fields,) = egress.events
    assert egress.counter("egress0", "egress_proxy_tunnels_failed") == 1
    assert fields["proxy"] == egress.url
    assert fields["rule"] == "egress-policy.rules[0]"
    return str(fields["reason"])


# --- the way of a connection ------------------------------------------------------------------


def test_at_a_web_port_the_proxy_is_told_the_stated_name(egress: Proxied) -> None:
    egress.dial(1, 443)
    proxy = egress.at_proxy()
    assert egress.flows(kinds.CONNECTED) == [1], "the guest speaks first"
    assert egress.got(proxy) == b""
    egress.to_host(1, GOOD)
    assert egress.got(proxy).startswith(b"CONNECT a.test:443 HTTP/1.1\r\n")
    egress.to_host(1, b"more")
    assert egress.got(proxy) == b"", "no byte of the guest before the tunnel is there"
    egress.answer(proxy, OK + b"hello")
    assert egress.got(proxy) == GOOD + b"more"
    assert egress.to_guest() == 5
    assert egress.counter("egress0", "egress_proxy_tunnels_opened") == 1
    egress.notify(kinds.ABORT, 1)


def test_elsewhere_the_tunnel_is_there_before_the_guest_has_an_answer(egress: Proxied) -> None:
    egress.dial(1, SSH)
    proxy = egress.at_proxy()
    assert egress.got(proxy).startswith(b"CONNECT a.test:22 HTTP/1.1\r\n")
    assert egress.flows(kinds.CONNECTED) == []
    egress.answer(proxy, OK + b"SSH-2.0-x\r\n")
    assert egress.flows(kinds.CONNECTED) == [1]
    egress.settle()
    assert egress.to_guest() == 11
    egress.to_host(1, b"SSH-2.0-y\r\n")
    assert egress.got(proxy) == b"SSH-2.0-y\r\n"
    egress.notify(kinds.ABORT, 1)


def test_a_name_that_the_gateway_never_gave_is_not_handed_on(egress: Proxied) -> None:
    for number, data in enumerate((b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", hellos.hello("b.test")), 1):
        egress.dial(number, 80)
        proxy = egress.at_proxy()
        egress.to_host(number, data)
        assert egress.got(proxy).startswith(b"CONNECT 192.0.2.7:80 HTTP/1.1\r\n")
        egress.notify(kinds.ABORT, number)


def test_a_guest_that_states_nothing_is_led_on_after_a_while(egress: Proxied) -> None:
    egress.dial(1, 443)
    proxy = egress.at_proxy()
    egress.advance(ways.SILENT_S - 0.1)
    assert egress.got(proxy) == b""
    egress.advance(0.2)
    assert egress.got(proxy).startswith(b"CONNECT a.test:443 ")
    egress.answer(proxy, OK + b"banner")
    assert egress.to_guest() == 6
    egress.notify(kinds.ABORT, 1)


def test_a_socks_proxy_is_told_the_name() -> None:
    with Proxied({}, scheme="socks5h") as egress:
        egress.url = egress.url.replace("socks5h", "socks5")
        egress.dial(1, SSH)
        proxy = egress.at_proxy()
        assert egress.got(proxy) == b"\5\1\0"
        egress.answer(proxy, b"\5")
        egress.answer(proxy, b"\0")
        assert egress.got(proxy) == b"\5\1\0\3\6a.test\0\x16"
        for byte in b"\5\0\0\1" + bytes(6) + b"first":
            egress.answer(proxy, bytes((byte,)))
        assert egress.flows(kinds.CONNECTED) == [1]
        egress.settle()
        assert egress.to_guest() == 5
        egress.notify(kinds.ABORT, 1)
        egress.at_home()


def test_the_guest_may_end_before_the_tunnel_is_there_and_its_bytes_still_go(egress: Proxied) -> None:
    egress.dial(1, 443)
    proxy = egress.at_proxy()
    egress.to_host(1, GOOD)
    egress.notify(kinds.SHUTDOWN, 1)
    egress.notify(kinds.CLOSED, 1)
    assert egress.got(proxy).startswith(b"CONNECT ")
    egress.answer(proxy, OK)
    assert egress.got(proxy) == GOOD
    assert proxy.recv(1) == b"", "the FIN"
    proxy.close()
    egress.settle()


def test_a_reset_of_the_guest_sends_nothing_of_it_to_the_proxy(egress: Proxied) -> None:
    egress.dial(1, 443)
    proxy = egress.at_proxy()
    egress.to_host(1, GOOD)
    assert egress.got(proxy).startswith(b"CONNECT ")
    egress.notify(kinds.ABORT, 1)
    assert egress.reset(proxy)
    assert egress.counter("egress0", "egress_bytes_to_host") == 0


def test_bytes_that_wait_for_a_slow_proxy_keep_no_slot(egress: Proxied) -> None:
    egress.dial(1, 443)
    proxy = egress.at_proxy()
    egress.to_host(1, GOOD)
    egress.to_host(1, bytes(30_000))
    egress.settle()
    egress.advance(1)
    assert egress.out() == 0
    egress.got(proxy)
    egress.answer(proxy, OK)
    assert len(egress.got(proxy)) == len(GOOD) + 30_000
    egress.notify(kinds.ABORT, 1)


def test_a_proxy_is_no_way_for_datagrams_and_pings(egress: Proxied) -> None:
    run = Run(egress.demux.fill(b"quic"), 256, 4, 0, 4)
    egress.demux.push("egress0", UdpData.pack(1, flow_key(GUEST, 5000, FAR, 443), run, link=1))
    egress.settle()
    assert [record.flow for record in egress.demux.take(kinds.UDP_CLOSE)] == [1]
    assert [record.code for record in egress.demux.take(kinds.UNREACHABLE)] == [13]
    assert egress.counter("egress0", "egress_flow_refused_proxy_tcp_only") == 1
    assert egress.nobody_came()


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Log in\r\n\r\n", "the proxy answered 407 Log in"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "the proxy answered 502 Bad Gateway"),
        (b"nonsense", "the proxy's answer is not HTTP/1 (no status line)"),
        (b"", "the proxy has ended the connection before it answered"),
    ],
)
@pytest.mark.parametrize("port", [443, SSH])
def test_a_proxy_that_leads_nowhere(egress: Proxied, answer: bytes, words: str, port: int) -> None:
    egress.dial(1, port)
    proxy = egress.at_proxy()
    if port == 443:
        egress.to_host(1, GOOD)
    assert egress.got(proxy).startswith(b"CONNECT ")
    if answer:
        egress.answer(proxy, answer)
    else:
        proxy.close()
    egress.settle()
    assert reason(egress) == words
    assert egress.events[0]["name"] == "a.test"
    if port == 443:
        assert egress.flows(kinds.PROXY_FAILED) == [1]
    else:
        assert egress.flows(kinds.CONNECT_FAILED) == [1]


def test_a_proxy_that_is_not_there() -> None:
    with Proxied({}) as egress:
        egress.listener.close()
        egress.dial(1, 443)
        assert egress.flows(kinds.CONNECT_FAILED) == [1]
        assert reason(egress) == "no connection to the proxy: connection refused"
        egress.at_home()


def test_a_proxy_that_goes_while_the_guest_is_silent(egress: Proxied) -> None:
    egress.dial(1, 443)
    egress.at_proxy().close()
    egress.settle()
    egress.to_host(1, GOOD)
    assert egress.flows(kinds.PROXY_FAILED) == [1]
    assert "the proxy" in reason(egress)


def test_a_proxy_that_never_answers(egress: Proxied) -> None:
    egress.dial(1, SSH)
    proxy = egress.at_proxy()
    egress.advance(ways.HANDSHAKE_S - 0.1)
    assert not egress.events
    egress.advance(0.2)
    assert reason(egress) == "the proxy has not answered in time"
    assert egress.flows(kinds.CONNECT_FAILED) == [1]
    proxy.close()


def test_a_proxy_that_speaks_without_being_asked(egress: Proxied) -> None:
    egress.dial(1, 443)
    proxy = egress.at_proxy()
    egress.answer(proxy, b"welcome\r\n")
    assert egress.to_guest() == 0
    egress.to_host(1, GOOD)
    assert egress.flows(kinds.PROXY_FAILED) == [1]
    assert "not HTTP/1" in reason(egress)


# --- names decide -----------------------------------------------------------------------------

NAMED = {"names": ("a.test",)}


def test_a_name_may_lead_to_a_proxy_and_any_other_one_past_it() -> None:
    with Proxied({**NAMED, "stated_ports": ((0, 65535),)}, default="allow") as egress:
        host = egress.keep(socket.create_server(("127.0.0.1", 0)))
        port = host.getsockname()[1]
        egress.dial(1, port, HOST)
        proxy = egress.at_proxy()
        egress.to_host(1, GOOD)
        assert egress.got(proxy).startswith(b"CONNECT a.test:")
        egress.notify(kinds.ABORT, 1)
        egress.dial(2, port, HOST)
        proxy = egress.at_proxy()
        other = hellos.hello("b.test")
        egress.to_host(2, other)
        assert egress.reset(proxy), "nothing was asked of the proxy"
        direct = egress.keep(host.accept()[0])
        direct.setblocking(False)
        assert egress.got(direct) == other
        egress.answer(direct, b"hello")
        assert egress.to_guest() == 5
        egress.notify(kinds.ABORT, 2)
        egress.at_home()


def test_a_name_may_lead_past_a_proxy() -> None:
    rules = ({"action": "allow", **NAMED, "stated_ports": ((0, 65535),)}, {})
    with Proxied(*rules) as egress:
        host = egress.keep(socket.create_server(("127.0.0.1", 0)))
        port = host.getsockname()[1]
        egress.dial(1, port, HOST)
        direct = egress.keep(host.accept()[0])
        direct.setblocking(False)
        direct.send(b"too early")
        egress.settle()
        assert egress.to_guest() == 0, "it may be the wrong host"
        egress.to_host(1, hellos.hello("b.test"))
        proxy = egress.at_proxy()
        assert egress.got(proxy).startswith(b"CONNECT 192.168.127.254:")
        egress.answer(proxy, OK)
        assert egress.got(proxy) == hellos.hello("b.test")
        egress.notify(kinds.ABORT, 1)
        egress.dial(2, port, HOST)
        right = egress.keep(host.accept()[0])
        right.send(b"hello")
        egress.to_host(2, GOOD)
        right.setblocking(False)
        assert egress.got(right) == GOOD
        assert egress.to_guest() == 5
        egress.notify(kinds.ABORT, 2)
        egress.at_home()


def test_another_name_is_refused_before_the_proxy_is_asked() -> None:
    with Proxied(NAMED) as egress:
        egress.dial(1, 443)
        proxy = egress.at_proxy()
        egress.to_host(1, hellos.hello("b.test"))
        assert egress.flows(kinds.FORBIDDEN) == [1]
        assert egress.reset(proxy)
        egress.dial(2, 443)
        egress.at_proxy()
        egress.notify(kinds.SHUTDOWN, 2)
        assert egress.flows(kinds.ABORT) == [2]
        assert egress.counter("egress0", "egress_flow_refused_policy") == 1, "silence is no offence"
        egress.at_home()


def test_where_no_name_is_awaited_another_way_is_refused() -> None:
    with Proxied(NAMED, default="allow") as egress:
        egress.dial(1, SSH)
        proxy = egress.at_proxy()
        egress.answer(proxy, OK)
        egress.to_host(1, hellos.hello("b.test"))
        assert egress.flows(kinds.FORBIDDEN) == [1]
        assert egress.counter("egress0", "egress_flow_refused_stated_name") == 1
        egress.dial(2, SSH)
        proxy = egress.at_proxy()
        egress.got(proxy)
        egress.answer(proxy, OK)
        egress.to_host(2, b"SSH-2.0-x\r\n")
        assert egress.got(proxy) == b"SSH-2.0-x\r\n"
        egress.notify(kinds.ABORT, 2)
        egress.at_home()


def test_a_new_policy_cuts_connections_whose_way_is_another_now(egress: Proxied) -> None:
    egress.dial(1, SSH)
    egress.answer(egress.at_proxy(), OK)
    policy = egress.stage.context.policy
    policy.replace(EgressPolicy("deny", (PolicyRule("proxy", via=egress.url.replace("//", "//new:pw@")),)))
    assert egress.stage.connections.end_forbidden() == 0, "other credentials"
    policy.replace(EgressPolicy("allow"))
    assert egress.stage.connections.end_forbidden() == 1
    assert egress.flows(kinds.FORBIDDEN) == [1]


def test_a_guest_that_gives_up_before_it_had_an_answer_leaves_nothing(egress: Proxied) -> None:
    egress.dial(1, SSH)
    proxy = egress.at_proxy()
    assert egress.got(proxy).startswith(b"CONNECT ")
    egress.notify(kinds.CLOSED, 1)
    assert egress.reset(proxy)
    assert egress.kept("flows") == egress.kept("tunnels") == 0


def test_a_hello_that_begins_late_has_its_whole_time(egress: Proxied) -> None:
    egress.dial(1, 443)
    proxy = egress.at_proxy()
    egress.advance(ways.SILENT_S - 1)
    egress.to_host(1, GOOD[:20])
    egress.advance(2)
    assert egress.got(proxy) == b""
    egress.to_host(1, GOOD[20:])
    assert egress.got(proxy).startswith(b"CONNECT a.test:443 ")
    egress.notify(kinds.ABORT, 1)
