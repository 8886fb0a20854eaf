"""A connection over IPv6 through tcp, egress and a socket on ::1. The test plays ingress and demux."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.engines.offload import gro
from pipeline.records import kinds
from pipeline.records.flows import flow_key
from pipeline.topology import EGRESS, TCP
from pipeline.wire import ip, tcp, tcp_options
from tests.support.frames import GUEST6, tcp_frame6
from tests.support.one_process import OneProcess
from tests.support.received import Received

HOST6 = ip.parse("fd12:3456:789a::fe")
ISN = 1000


@pytest.fixture
def one() -> Iterator[OneProcess]:
    nat = {HOST6: ip.parse("::1")}
    with OneProcess((TCP, EGRESS), nat=nat) as made:
        yield made


class Caller:
    """A guest that calls a port of the host by its IPv6 address."""

    def __init__(self, one: OneProcess, port: int) -> None:
        self.one = one
        self.ingress = one.neighbours["ingress"]
        self.port = port
        self.key = flow_key(GUEST6, 40000, HOST6, port)

    def send(self, seq: int, payload: bytes = b"", **fields: Any) -> None:
        frame = tcp_frame6(seq, payload, dst=HOST6, sport=40000, dport=self.port, **fields)
        slot = self.ingress.fill(frame)
        (item,), drops = gro.coalesce(self.ingress.slots[slot], [(256, len(frame))], 1, slot, ipv6=True)
        assert not drops
        self.ingress.push("tcp0", item.pack())

    def got(self) -> list[Received]:
        """The ranges for the guest since the last call."""
        return self.ingress.take(kinds.TCP_OUT)


@pytest.mark.parametrize("asked, wanted", [(1440, 1440), (9000, 1440), (1220, 1220)])
def test_a_connection_over_ipv6_reaches_the_host_and_its_segments_fit_the_mtu(
    one: OneProcess, asked: int, wanted: int
) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        caller = Caller(one, server.getsockname()[1])
        options = tcp_options.build_syn(asked, 7, True, False, 0, 0)
        caller.send(ISN, flags=tcp.SYN, options=options)
        found: list[Received] = []
        one.until(lambda: found.extend(caller.got()) or found, "the SYN-ACK")
        (answer,) = found
        assert answer.flags == tcp.SYN | tcp.ACK
        assert answer.key == caller.key
        assert answer.mss == one.config.network.mtu - 60
        assert answer.window_scale >= 0, "the options of the SYN were read"
        ack = answer.seq + 1
        caller.send(ISN + 1, b"question", ack=ack)
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(10)
            one.settle()
            assert accepted.recv(100) == b"question"
            accepted.sendall(bytes(5000))
            sent: list[Received] = []
            one.until(lambda: sent.extend(r for r in caller.got() if r.length) or sent, "the answer")
            assert {record.mss for record in sent} == {wanted}
