"""UDP flows in egress: runs out of slots to sockets, many datagrams into few records, references home."""

import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.counters import INDEX
from pipeline.engines.nat import Target
from pipeline.host import udp as host_udp
from pipeline.host.filler import SlotFiller
from pipeline.ipc.arena import HEADROOM, SLOT_BYTES, Pool
from pipeline.records import descriptor as d
from pipeline.stages.egress.udp import UdpSockets
from pipeline.wire import ipv4

LOCAL = ipv4.addr_parse("127.0.0.1")
GUEST = ipv4.addr_parse("192.168.127.2")
SLOTS = 8


def ring(records: list[tuple[int, ...]]) -> Any:
    """What is pushed is appended."""
    return SimpleNamespace(push=lambda record: records.append(d.DESCRIPTOR.unpack(record)), room=lambda: 100)


class Rig:
    """UdpSockets with a pool of its own, and a host socket for it to talk to."""

    def __init__(self) -> None:
        self.pool = Pool(0, SLOTS)
        self.slots = [memoryview(bytearray(SLOT_BYTES)) for _ in range(SLOTS)]
        self.counts = [0] * len(INDEX)
        self.records: list[tuple[int, ...]] = []
        """Those to demux and those to ingress, in the order in which they were pushed."""
        worker: Any = SimpleNamespace(
            pool=self.pool, counts=self.counts, index=0,
            ports=SimpleNamespace(
                arena=SimpleNamespace(slots=self.slots),
                rings_out={"demux": ring(self.records), "ingress": ring(self.records)},
            ),
            free=lambda slot, tag=0: self.pool.unref(slot),
            register=lambda *_: None, unregister=lambda *_: None,
        )  # fmt: skip
        targets: Any = SimpleNamespace(udp_target=lambda addr, port: Target(addr))
        guard: Any = SimpleNamespace(active=False)
        self.filler = SlotFiller(self.pool, SLOT_BYTES, HEADROOM, 64)
        self.udp = UdpSockets(worker, self.filler, targets, guard, 10)
        self.host = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.host.bind(("127.0.0.1", 0))
        self.host.setblocking(False)
        self.port = self.host.getsockname()[1]

    def send(self, payloads: list[bytes], stride: int = 1500) -> None:
        """A run of the guest's to the host socket."""
        slot = self.pool.alloc()
        for index, payload in enumerate(payloads):
            self.slots[slot][300 + index * stride :][: len(payload)] = payload
        length = sum(map(len, payloads))
        self.udp.to_host(
            1, slot, 300, length, stride if len(payloads) > 1 else 0, len(payloads[0]), GUEST, LOCAL,
            40000 << 16 | self.port,
        )  # fmt: skip

    def answer(self, payloads: list[bytes]) -> list[tuple[int, ...]]:
        """Datagrams of the host socket to the flow, read; the records of them."""
        (flow,) = self.udp.flows.values()
        address = flow.sock.getsockname()
        for payload in payloads:
            self.host.sendto(payload, address)
        before = len(self.records)
        while True:
            self.udp.ready[flow] = None
            if not self.udp.read_ready(time.monotonic()):
                break
        return [record for record in self.records[before:] if record[0] != d.UDP_ANSWERED]

    def payloads(self, records: list[tuple[int, ...]]) -> list[bytes]:
        """The datagrams that records describe; their references are given back."""
        found = []
        for kind, _, _, stride, size, slot, off, length, *_ in records:
            assert kind in (d.UDP_DATA, d.UDP_TO_GUEST)
            for index in range(-(-length // size) if size else 1):
                begin = off + index * stride
                found.append(bytes(self.slots[slot][begin : begin + min(size, length - index * size)]))
            self.pool.unref(slot)
        return found

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
        self.filler.retire()
        self.host.close()
        assert self.pool.refs_out == 0
        assert self.pool.audit() is None


@pytest.fixture(params=["with the system's help", "one by one"])
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "one by one":
        monkeypatch.setattr(host_udp, "can_segment", lambda: False)
        monkeypatch.setattr(host_udp, "can_receive_many", lambda: False)
    made = Rig()
    yield made
    made.close()


def numbered(size: int, count: int) -> list[bytes]:
    return [bytes([index]) * size for index in range(count)]


@pytest.mark.parametrize("last", [1, 700, 1400])
def test_a_run_arrives_as_the_datagrams_it_is_made_of(rig: Rig, last: int) -> None:
    sent = [*numbered(1400, 40), b"e" * last]
    rig.send(sent)
    assert rig.received() == sent
    assert rig.counts[INDEX["egress_datagrams_to_host"]] == 41


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
    assert rig.counts[INDEX["egress_datagrams_from_host"]] == len(sent) + 3


@pytest.mark.skipif(not host_udp.can_receive_many(), reason="no recvmmsg here")
def test_equal_answers_need_few_records() -> None:
    rig = Rig()
    rig.send([b"question"])
    records = rig.answer(numbered(1000, 30))
    assert len(records) == 1
    assert rig.payloads(records) == numbered(1000, 30)
    rig.close()


def test_answers_go_past_demux_which_hears_of_it(rig: Rig) -> None:
    rig.send([b"question"])
    records = rig.answer([b"a", b"b"]) + rig.answer([b"c"])
    assert {record[0] for record in records} == {d.UDP_TO_GUEST}
    used = [record for record in rig.records if record[0] == d.UDP_ANSWERED]
    assert [record[9] for record in used] == [1], "once a second"
    assert rig.payloads(records) == [b"a", b"b", b"c"]


def test_what_goes_past_demux_opens_no_flow(rig: Rig) -> None:
    slot = rig.pool.alloc()
    late = d.record(
        d.UDP_DATA, flow=7, slot=slot, off=300, length=4, gso_size=4, guest_addr=GUEST, remote_addr=LOCAL,
        ports=40000 << 16 | rig.port,
    )  # fmt: skip
    assert rig.udp.on_steered(memoryview(late)) == 1
    assert not rig.udp.flows
    assert rig.counts[INDEX["egress_datagram_dropped_no_socket"]] == 1


def test_without_slots_nothing_is_read_and_nothing_lost(rig: Rig) -> None:
    rig.send([b"question"])
    rig.filler.retire()
    held = [rig.pool.alloc() for _ in range(SLOTS)]
    sent = numbered(100, 10)
    assert rig.answer(sent) == []
    assert rig.counts[INDEX["egress_reads_paused_no_slot"]]
    for slot in held:
        rig.pool.unref(slot)
    assert rig.payloads(rig.answer([])) == sent


def test_a_refused_run_tells_the_guest_and_ends_the_flow(rig: Rig) -> None:
    rig.send([b"question"])
    rig.host.close()
    rig.send(numbered(10, 4))
    time.sleep(0.05)
    rig.send(numbered(10, 4))
    kinds = [record[0] for record in rig.records]
    # Once, or twice where the first of several datagrams is refused before the next is sent.
    assert kinds in ([d.UNREACHABLE, d.UDP_CLOSE], [d.UNREACHABLE, d.UDP_CLOSE] * 2)
    assert not rig.udp.flows
