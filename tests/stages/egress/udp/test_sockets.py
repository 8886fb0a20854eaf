"""UDP flows in egress: runs out of slots to sockets, many datagrams into few records, references home."""

import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.engines.nat import Target
from pipeline.host import udp as host_udp
from pipeline.ipc.flow_rows import CLOSED, OPENED, FlowRow
from pipeline.records import kinds
from pipeline.records.flows import flow_key
from pipeline.records.udp import UdpData
from pipeline.stages.egress.asks import Asks
from pipeline.stages.egress.udp.flows import why_ended
from pipeline.stages.egress.udp.sockets import UdpSockets
from pipeline.system import inet
from pipeline.wire import ip
from tests.support.egress_rig import SLOTS, EgressRig, Sent

PLACES = {
    "IPv4": ("192.168.127.2", "127.0.0.1", "127.0.0.1"),
    "IPv6": ("fd00::2", "::1", "::1"),
    "NAT64": ("fd00::2", "64:ff9b::127.0.0.1", "127.0.0.1"),
}
"""For each family: the guest, the host as the guest names it, and the host."""


class Rig(EgressRig):
    """UdpSockets, and a host socket for it to talk to."""

    def __init__(self, family: str) -> None:
        guest, remote, host = PLACES[family]
        self.guest, self.remote = ip.parse(guest), ip.parse(remote)
        targets: Any = SimpleNamespace(udp_target=lambda addr, port: Target(ip.embedded(addr)))
        super().__init__(targets)
        self.udp = UdpSockets(self.context, 10, Asks(self.worker, 30.0, lambda *_: None), full_cone=False)
        self.flows = self.udp.table.flows_by_id
        self.host = socket.socket(inet.family_of(host), socket.SOCK_DGRAM)
        self.host.bind((host, 0))
        self.host.setblocking(False)
        self.port = self.host.getsockname()[1]
        self.key = flow_key(self.guest, 40000, self.remote, self.port)

    def send(self, payloads: list[bytes], stride: int = 1500) -> None:
        """A run of the guest's to the host socket."""
        record = UdpData.pack(1, self.key, self.fill(payloads, stride), link=1)
        self.udp.to_host(UdpData.unpack(memoryview(record), 0), time.monotonic())

    def answer(self, payloads: list[bytes]) -> list[Sent]:
        """Datagrams of the host socket to the flow, read; the records of them."""
        (flow,) = self.flows.values()
        address = flow.socket.sock.getsockname()
        for payload in payloads:
            self.host.sendto(payload, address)
        before = len(self.records)
        while True:
            flow.socket.readable()
            if not self.udp.read_ready(time.monotonic()):
                break
        return [record for record in self.records[before:] if record.kind != kinds.UDP_ANSWERED]

    def received(self) -> list[bytes]:
        """What has arrived at the host socket."""
        got = []
        while True:
            try:
                got.append(self.host.recv(65535))
            except BlockingIOError:
                return got

    def close(self) -> None:
        """Nothing may be held by anybody at the end."""
        self.udp.close_all()
        self.host.close()
        assert not any(self.udp.held().values())
        self.retire()


@pytest.fixture(params=PLACES)
def family(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["with the system's help", "one by one"])
def rig(request: pytest.FixtureRequest, family: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "one by one":
        monkeypatch.setattr(host_udp, "can_segment", lambda: False)
        monkeypatch.setattr(host_udp, "can_receive_many", lambda: False)
    made = Rig(family)
    yield made
    made.close()


def numbered(size: int, count: int) -> list[bytes]:
    return [bytes([index]) * size for index in range(count)]


@pytest.mark.parametrize("last", [1, 700, 1400])
def test_a_run_arrives_as_the_datagrams_it_is_made_of(rig: Rig, last: int) -> None:
    sent = [*numbered(1400, 40), b"e" * last]
    rig.send(sent)
    assert rig.received() == sent
    assert rig.count("egress_datagrams_to_host") == 41


def test_one_datagram_may_be_empty(rig: Rig) -> None:
    for payload in (b"", b"x", b""):
        rig.send([payload])
    assert rig.received() == [b"", b"x", b""]


ANSWERS = {
    "equal": numbered(1400, 20),
    "more than a read takes": numbered(100, 90),
    "all different": [bytes(index) for index in range(1, 30)],
    "empty": [b"", b"x", b"", b"", b"yy", b"yy"],
    "long between": [*numbered(1400, 5), bytes(9000), b"a", bytes(1537), *numbered(64, 5), bytes(60000)],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_the_host_answers_is_described_datagram_by_datagram(rig: Rig, name: str) -> None:
    rig.send([b"question"])
    assert rig.received() == [b"question"]
    sent = ANSWERS[name]
    assert rig.payloads(rig.answer(sent)) == sent
    # The row of a long datagram may hold a following short one again.
    assert rig.payloads(rig.answer(numbered(9, 3))) == numbered(9, 3)
    assert rig.count("egress_datagrams_from_host") == len(sent) + 3


@pytest.mark.skipif(not host_udp.can_receive_many(), reason="no recvmmsg here")
def test_equal_answers_need_few_records(family: str) -> None:
    rig = Rig(family)
    rig.send([b"question"])
    # A read after a lonely answer is prepared for two.
    for sent, expected in ((10, 2), (10, 1), (1, 1), (10, 2)):
        records = rig.answer(numbered(100, sent))
        assert len(records) == expected
        assert rig.payloads(records) == numbered(100, sent)
    rig.close()


def test_answers_go_past_demux_which_hears_of_it(rig: Rig) -> None:
    rig.send([b"question"])
    records = rig.answer([b"a", b"b"]) + rig.answer([b"c"])
    assert {record.kind for record in records} == {kinds.UDP_TO_GUEST}
    answered = [record.says for record in rig.records if record.kind == kinds.UDP_ANSWERED]
    assert [notice.flow for notice in answered] == [1], "once a second"
    assert rig.payloads(records) == [b"a", b"b", b"c"]


def test_what_goes_past_demux_opens_no_flow(rig: Rig) -> None:
    late = memoryview(UdpData.pack(7, rig.key, rig.fill([b"late"]), link=1))
    rig.udp.on_steered(UdpData.unpack(late, 0), 0.0)
    assert not rig.flows
    assert rig.count("egress_datagram_dropped_no_socket") == 1


def test_without_slots_nothing_is_read_and_nothing_lost(rig: Rig) -> None:
    rig.send([b"question"])
    rig.context.filler.retire()
    held = [rig.pool.alloc() for _ in range(SLOTS)]
    sent = numbered(100, 10)
    assert rig.answer(sent) == []
    assert rig.count("egress_reads_paused_no_slot")
    assert rig.udp.deadline() == float("inf"), "a slot that comes home wakes the worker"
    for slot in held:
        rig.pool.unref(slot)
    assert rig.payloads(rig.answer([])) == sent


def test_a_refused_run_tells_the_guest_and_ends_the_flow(rig: Rig) -> None:
    rig.send([b"question"])
    rig.host.close()
    rig.send(numbered(10, 4))
    time.sleep(0.05)
    rig.send(numbered(10, 4))
    said = [record.kind for record in rig.records]
    # Once, or twice where the first of several datagrams is refused before the next is sent.
    assert said in ([kinds.UNREACHABLE, kinds.UDP_CLOSE], [kinds.UNREACHABLE, kinds.UDP_CLOSE] * 2)
    assert not rig.flows


def test_datagrams_are_a_flow_that_counts_both_ways(rig: Rig) -> None:
    rig.send([b"question", b"short"])
    rig.received()
    rig.payloads(rig.answer(numbered(100, 3)))
    flow = rig.udp.table.flows_by_id[1]
    row = flow.row(flow.last_at + 2.0)
    assert (row.packets_from_guest, row.bytes_from_guest) == (2, 13)
    assert (row.packets_to_guest, row.bytes_to_guest) == (3, 300)
    assert (row.direction, row.state, row.idle) == ("out", "open", 2.0)
    assert [kind for kind, _ in rig.events.got] == [OPENED]


@pytest.mark.parametrize(
    ("idle", "here", "reason"), [(100.0, True, "idle"), (1.0, True, "limit"), (1.0, False, "orphan")]
)
def test_demux_ends_a_flow_for_a_reason(idle: float, here: bool, reason: str) -> None:
    row = FlowRow(1, "udp", "out", 1, "192.168.127.2", 1, "1.2.3.4", 2, idle=idle)
    assert why_ended(row, here=here) == reason
    assert why_ended(row._replace(port=53, idle=1.0), here=here) == "fin"


def test_an_operator_ends_a_flow_once(rig: Rig) -> None:
    rig.send([b"question"])
    assert rig.udp.end(1)
    assert not rig.udp.end(1)
    kind, report = rig.events.got[-1]
    assert (kind, report.ended_by, report.reason) == (CLOSED, "gateway", "deleted")
