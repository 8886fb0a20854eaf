"""Guests' ICMP errors from demux to the right tcp worker: path MTU, soft and hard errors, forgeries.

demux and two tcp workers are real and between real rings; ingress and egress are played.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config import merge, options
from pipeline.counters import INDEX
from pipeline.engines.offload import gro
from pipeline.engines.tcp.state import SYN_SENT
from pipeline.go import flags
from pipeline.ipc.arena import HEADROOM
from pipeline.ipc.fabric import Fabric
from pipeline.ipc.ring import Consumer
from pipeline.records.dials import Dial
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends, FlowNotice
from pipeline.records.guests import LinkNotice
from pipeline.records.kinds import ABORT, CONNECTED, LINK_UP, RECORD_BYTES, TCP_OUT
from pipeline.records.streams import ToGuest
from pipeline.stages.demux.stage import DemuxStage
from pipeline.stages.tcp.flow import Flow
from pipeline.stages.tcp.stage import TcpStage
from pipeline.stages.worker import Worker
from pipeline.topology import Layout
from pipeline.wire import arp, ethernet, icmp, ip, ipv4, tcp
from tests.support.configured import changed
from tests.support.frames import FROM_GUEST, GATEWAY_MAC, GUEST, GUEST_MAC, REMOTE, tcp_frame
from tests.support.received import Received

SHARDS = ("tcp0", "tcp1")
LINK, OTHER_LINK = 1, 2
OTHER_MAC = bytes.fromhex("5a94efe40c99")
FROM_OTHER = ethernet.header(GATEWAY_MAC, OTHER_MAC, ethernet.TYPE_IPV4)
OTHER = ip.parse_ipv4("192.168.127.9")
GATEWAY = ip.parse_ipv4("192.168.127.1")
MTU = 1000
DATA_BYTES = 14600


class Rig:
    """The three workers, and the other ends of their rings."""

    def __init__(self) -> None:
        config, _ = merge.build(flags.parse(options.START, []), [], resolv_conf=os.devnull)
        config = changed(config, tcp_workers=len(SHARDS), slots=64)
        self.fabric = Fabric.create(Layout(64, len(SHARDS), 1))
        self.workers = {name: Worker(self.fabric.ports(name), None) for name in ("demux", *SHARDS)}
        self.demux = DemuxStage(self.workers["demux"], config)
        self.workers["demux"].adopt(self.demux)
        self.shards = {name: TcpStage(self.workers[name], config) for name in SHARDS}
        for name, stage in self.shards.items():
            self.workers[name].adopt(stage)
        self.ingress = self.fabric.ports("ingress")
        self.egress = self.fabric.ports("egress0")
        assert self.ingress.pool is not None
        assert self.egress.pool is not None
        self.pool, self.host_pool = self.ingress.pool, self.egress.pool
        self.now = 1000.0
        for link, addr, mac in ((LINK, GUEST, GUEST_MAC), (OTHER_LINK, OTHER, OTHER_MAC)):
            self.ingress.rings_out["demux"].push(LinkNotice.pack(LINK_UP, link, link))
            self.guest(
                ethernet.header(ethernet.BROADCAST, mac, ethernet.TYPE_ARP)
                + arp.build(arp.REQUEST, mac, addr, bytes(6), GATEWAY),
                link,
            )

    def step(self) -> None:
        """Everybody's turn, demux first."""
        for ring in (*self.ingress.rings_out.values(), *self.egress.rings_out.values()):
            ring.publish()
        for worker in self.workers.values():
            worker.breathe(self.now)

    def guest(self, frame: bytes, link: int = LINK) -> None:
        """A frame of a guest goes its way."""
        slot = self.pool.alloc()
        view = self.ingress.arena.slots[slot]
        view[HEADROOM : HEADROOM + len(frame)] = frame
        items, _ = gro.coalesce(view, [(HEADROOM, len(frame))], link, slot)
        for item in items:
            self.ingress.rings_out["demux"].push(item.pack())
        self.step()
        for ring in self.ingress.free_in.values():
            for entry in ring.drain():
                self.pool.unref(entry & 0xFFFFFFFF)

    def sent(self) -> list[Received]:
        """What the tcp workers told ingress to send."""
        return [record for name in SHARDS for record in read(self.ingress.rings_in[name])]

    def to_host(self) -> list[Received]:
        """What the tcp workers told egress."""
        return [record for name in SHARDS for record in read(self.egress.rings_in[name])]

    def open(self, sport: int) -> "Sent":
        """A connection of the guest, with data of the host in flight to it."""
        self.guest(tcp_frame(100, flags=tcp.SYN, ack=0, sport=sport, options=b"\x02\x04\x05\xb4"))
        (connect,) = self.to_host()
        name, flow = self.flow(sport)
        self.egress.rings_out[name].push(FlowNotice.pack(CONNECTED, connect.flow))
        self.step()
        self.guest(tcp_frame(101, ack=flow.conn.snd_nxt & 0xFFFFFFFF, sport=sport, wnd=65535))
        self.sent()
        slot = self.host_pool.alloc()
        record = ToGuest.pack(flow.host.number, slot, HEADROOM, DATA_BYTES)
        self.egress.rings_out[name].push(record)
        self.step()
        (out,) = self.sent()
        assert (out.mss, out.length) == (1460, DATA_BYTES)
        return Sent(flow, out.seq)

    def flow(self, sport: int) -> tuple[str, Flow]:
        """The connection from a port of the guest, and whose it is."""
        found = [
            (name, flow)
            for name, stage in self.shards.items()
            for key, flow in stage.connections.by_key.items()
            if Ends.of(key).guest_port == sport
        ]
        assert len(found) == 1
        return found[0]

    def count(self, name: str) -> int:
        """A counter over all workers."""
        return sum(worker.counts[INDEX[name]] for worker in self.workers.values())


class Sent:
    """A segment that is under way to the guest, and how an error about it quotes it."""

    def __init__(self, flow: Flow, seq: int) -> None:
        self.flow = flow
        self.seq = seq

    def quote(self, **changed: int) -> bytes:
        """Its header and 8 bytes; other than true may be seq, total, src, dst and sport, the guest's port."""
        ends = Ends.of(self.flow.key)
        header = ipv4.build(
            changed.get("total", 1500),
            7,
            63,
            ipv4.PROTO_TCP,
            changed.get("src", ends.remote_addr),
            changed.get("dst", ends.guest_addr),
            flags=ipv4.FLAG_DF,
        )
        seq, sport = changed.get("seq", self.seq), changed.get("sport", ends.guest_port)
        return header + (ends.remote_port << 48 | sport << 32 | seq).to_bytes(8, "big")


def read(ring: Consumer) -> list[Received]:
    found: list[Received] = []
    while burst := ring.peek():
        for at in range(0, len(burst), RECORD_BYTES):
            found.append(Received(bytes(burst[at : at + RECORD_BYTES])))
        ring.release(len(burst) // RECORD_BYTES)
    return found


def message(
    quote: bytes, kind: int = icmp.UNREACHABLE, code: int = icmp.FRAGMENTATION_NEEDED, rest: int = MTU,
    src: int = GUEST, dst: int = REMOTE, eth: bytes = FROM_GUEST,
) -> bytes:  # fmt: skip
    """An ICMP error in a frame."""
    body = icmp.build(kind, code, rest, quote)
    return eth + ipv4.build(20 + len(body), 1, 64, ipv4.PROTO_ICMP, src, dst) + body


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    # No reference of the guest's frames is left anywhere.
    assert made.pool.audit() is None
    assert made.pool.free_count == made.fabric.layout.pools["ingress"].slot_count


def test_smaller_segments_leave_at_once_on_either_shard(rig: Rig) -> None:
    owners = set()
    for sport in range(40000, 40008):
        sent = rig.open(sport)
        owners.add(rig.flow(sport)[0])
        rig.guest(message(sent.quote()))
        (out,) = rig.sent()
        assert (out.kind, out.mss, out.length, out.seq) == (TCP_OUT, MTU - 40, DATA_BYTES, sent.seq)
    assert owners == set(SHARDS)
    assert rig.count("tcp_path_mtu_lowered") == rig.count("icmp_error_received") == 8


def test_a_router_of_the_old_days_names_no_size(rig: Rig) -> None:
    sent = rig.open(40000)
    rig.guest(message(sent.quote(), rest=0))
    (out,) = rig.sent()
    assert out.mss == 1492 - 40


@pytest.mark.parametrize(
    "change, counter",
    [
        # Another guest complains about what was not sent to it.
        ({"link": OTHER_LINK, "src": OTHER, "eth": FROM_OTHER}, "icmp_error_dropped_foreign_flow"),
        ({"dst": REMOTE + 1}, "icmp_error_dropped_foreign_flow"),
        ({"quoted": {"dst": OTHER}}, "icmp_error_dropped_foreign_flow"),
        ({"quoted": {"dst": GUEST + 77}}, "icmp_error_dropped_foreign_flow"),
        ({"src": 0}, "icmp_error_dropped_foreign_flow"),
        ({"rest": 67}, "icmp_error_dropped_bad_mtu"),
        ({"rest": 1}, "icmp_error_dropped_bad_mtu"),
        ({"rest": 1500}, "icmp_error_dropped_bad_mtu"),
        ({"rest": 0xFFFF}, "icmp_error_dropped_bad_mtu"),
        ({"quoted": {"total": 40}, "rest": 0}, "icmp_error_dropped_bad_mtu"),
        ({"quoted": {"seq": 5}}, "tcp_error_dropped_bad_sequence"),
        ({"quoted": {"sport": 40001}}, "tcp_error_dropped_no_flow"),
        ({"cut": 1}, "icmp_error_dropped_bad_quote"),
        ({"cut": 28}, "icmp_error_dropped_bad_quote"),
        ({"edit": {0: 0x65}}, "icmp_error_dropped_bad_quote"),
        ({"edit": {0: 0x44}}, "icmp_error_dropped_bad_quote"),
        ({"edit": {0: 0x46}}, "icmp_error_dropped_bad_quote"),
        ({"edit": {7: 1}}, "icmp_error_dropped_bad_quote"),
        ({"edit": {9: ipv4.PROTO_UDP}}, "icmp_message_dropped_not_for_us"),
        ({"kind": icmp.SOURCE_QUENCH}, "icmp_message_dropped_not_for_us"),
        ({"kind": icmp.REDIRECT}, "icmp_message_dropped_not_for_us"),
    ],
)
def test_what_nobody_may_say_or_makes_no_sense_is_counted(
    rig: Rig, change: dict[str, Any], counter: str
) -> None:
    sent = rig.open(40000)
    frame = dict(change)
    quote = bytearray(sent.quote(**frame.pop("quoted", {})))
    for at, value in frame.pop("edit", {}).items():
        quote[at] = value
    del quote[len(quote) - frame.pop("cut", 0) :]
    link = frame.pop("link", LINK)
    rig.guest(message(bytes(quote), **frame), link)
    assert rig.count(counter) == 1
    assert rig.sent() == []
    assert sent.flow.conn.snd_mss == 1460


def test_a_flood_of_ever_smaller_sizes_sends_one_window_again(rig: Rig) -> None:
    sent = rig.open(40000)
    for mtu in range(1499, 600, -1):
        rig.guest(message(sent.quote(), rest=mtu))
    assert len(rig.sent()) == 1
    assert rig.count("tcp_path_mtu_lowered") == 1
    assert rig.count("tcp_path_mtu_ignored") == 1499 - 601


@pytest.mark.parametrize(
    "kind, code",
    [
        (icmp.UNREACHABLE, icmp.HOST_UNREACHABLE),
        (icmp.UNREACHABLE, icmp.PORT_UNREACHABLE),
        (icmp.UNREACHABLE, 200),
        (icmp.TIME_EXCEEDED, icmp.TTL_EXCEEDED),
        (icmp.PARAMETER_PROBLEM, 0),
    ],
)
def test_an_open_connection_outlives_every_other_error(rig: Rig, kind: int, code: int) -> None:
    sent = rig.open(40000)
    rig.guest(message(sent.quote(), kind, code, 0))
    assert rig.count("tcp_error_ignored") == 1
    assert rig.sent() == []
    assert rig.to_host() == []
    rig.guest(tcp_frame(101, ack=sent.seq + DATA_BYTES & 0xFFFFFFFF, sport=40000, wnd=65535))
    assert sent.flow.conn.snd_una == sent.flow.conn.snd_nxt


def dial(rig: Rig) -> Sent:
    """The host connects to a port of the guest; its SYN is under way."""
    number = FLOW_FROM_EGRESS | 5
    record = Dial.pack(number, GUEST, 22)
    rig.egress.rings_out["demux"].push(record)
    rig.step()
    (syn,) = rig.sent()
    assert syn.flags == tcp.SYN
    return Sent(rig.flow(22)[1], syn.seq)


@pytest.mark.parametrize(
    "code", [icmp.PORT_UNREACHABLE, icmp.ADMINISTRATIVELY_PROHIBITED, icmp.HOST_PROHIBITED]
)
def test_a_guest_that_refuses_by_icmp_is_told_to_the_host_at_once(rig: Rig, code: int) -> None:
    sent = dial(rig)
    rig.guest(message(sent.quote(), code=code, rest=0, dst=GATEWAY))
    assert [record.kind for record in rig.to_host()] == [ABORT]
    assert rig.count("tcp_dial_failed_unreachable") == 1
    assert rig.count("tcp_flows") == 0


def test_a_guest_that_may_come_is_waited_for(rig: Rig) -> None:
    sent = dial(rig)
    for code in (icmp.NET_UNREACHABLE, icmp.HOST_UNREACHABLE):
        rig.guest(message(sent.quote(), code=code, rest=0, dst=GATEWAY))
    assert rig.to_host() == []
    assert sent.flow.conn.state == SYN_SENT
    assert rig.count("tcp_error_ignored") == 2
