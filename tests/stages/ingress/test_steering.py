"""Steering: what may go past demux, and that whoever is passed by hears of it."""

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config.fleet import station_mac_of
from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.counters import INDEX
from pipeline.engines import fragmentation
from pipeline.engines.flows import rss_hash
from pipeline.engines.offload import gro
from pipeline.records import kinds
from pipeline.records.flows import flow_key
from pipeline.stages.ingress.steering import MAX_FRAGMENTED, Steering
from pipeline.wire import ethernet, ip, ipv4
from pipeline.wire import udp as wire_udp
from pipeline.wire.tcp import ACK, SYN
from tests.support.configured import changed
from tests.support.frames import GATEWAY_MAC, tcp_frame, tcp_frame6, udp_frame, udp_frame6
from tests.support.network import Network
from tests.support.one_process import Neighbour, OneProcess

GUEST = ip.parse_ipv4("192.168.127.5")
SERVER = ip.parse_ipv4("192.0.2.7")
MAC = bytes.fromhex("5a94ef000005")
OTHER_MAC = bytes.fromhex("5a94ef000006")
LINK = 3
FLOW = flow_key(GUEST, 40000, SERVER, 9000)
FROM_GUEST = ethernet.header(GATEWAY_MAC, MAC, ethernet.TYPE_IPV4)


class Rig:
    """Steering of an ingress whose neighbours are played."""

    def __init__(self, tcp_workers: int = 2, **changed: Any) -> None:
        self.one = OneProcess((), tcp_workers=tcp_workers, egress_workers=2, **changed)
        self.worker = self.one.workers["ingress"]
        self.steering = Steering(self.worker, self.one.config)
        self.steering.learn(GUEST, MAC, LINK)
        self.now = 100.0

    def went(self, frame: bytes, link: int = LINK) -> list[str]:
        """Who gets a frame, without what demux is told about it."""
        return [
            name
            for name, record in self.pass_on(frame, link)
            if record.kind not in (kinds.HEARD, kinds.UDP_USED)
        ]

    def pass_on(self, frame: bytes, link: int = LINK) -> list[tuple[str, Any]]:
        """(worker, record) of everything that one frame leads to."""
        ingress = self.one.neighbours["ingress"]
        slot = ingress.fill(frame)
        items, drops = gro.coalesce(ingress.slots[slot], [(256, len(frame))], link, slot, ipv6=True)
        assert not drops
        assert len(items) == 1
        self.steering.pass_on(ingress.slots[slot], items, self.now)
        return self.told()

    def told(self) -> list[tuple[str, Any]]:
        """What has been pushed."""
        for _ in range(3):
            self.one.turn()
        return [
            (name, record)
            for name, neighbour in self.one.neighbours.items()
            if isinstance(neighbour, Neighbour)
            for record in neighbour.take()
        ]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    with made.one:
        yield made


def tcp(dst: int = SERVER, src: int = GUEST, header: bytes = FROM_GUEST, flags: int = ACK) -> bytes:
    return tcp_frame(1, b"data", src=src, dst=dst, sport=40000, dport=80, flags=flags, eth_header=header)


def udp(dst: int = SERVER, src: int = GUEST, header: bytes = FROM_GUEST) -> bytes:
    return udp_frame(b"data", sport=40000, dport=9000, src=src, dst=dst, eth_header=header)


def shard(dst: int = SERVER) -> str:
    return f"tcp{rss_hash(GUEST, 40000, dst, 80) % 2}"


def test_segments_of_a_known_guest_go_to_the_shard_that_demux_would_choose(rig: Rig) -> None:
    for last in range(1, 9):
        dst = SERVER + last
        assert rig.went(tcp(dst)) == [shard(dst)]
    assert rig.worker.counts[INDEX["link_runs_steered"]] == 8
    assert rig.worker.counts[INDEX["ipv4_packets_received"]] == 8


@pytest.mark.parametrize(
    ("frame", "link"),
    [
        (tcp(src=GUEST + 1), LINK),
        (tcp(), LINK + 1),
        (tcp(header=ethernet.header(GATEWAY_MAC, OTHER_MAC, ethernet.TYPE_IPV4)), LINK),
        (tcp(header=ethernet.header(OTHER_MAC, MAC, ethernet.TYPE_IPV4)), LINK),
        (tcp(header=ethernet.header(ethernet.BROADCAST, MAC, ethernet.TYPE_IPV4)), LINK),
        (tcp(dst=ip.parse_ipv4("127.0.0.1")), LINK),
        (tcp(dst=ip.parse_ipv4("224.0.0.1")), LINK),
        (tcp(dst=ip.parse_ipv4("240.0.0.1")), LINK),
        (tcp(dst=ip.BROADCAST), LINK),
        (tcp(dst=ip.parse_ipv4("192.168.127.255")), LINK),
        (udp(), LINK),
    ],
    ids=[
        "unknown address", "another link", "another MAC", "to another guest", "to everybody", "loopback",
        "multicast", "reserved", "broadcast", "broadcast of the subnet", "no flow yet",
    ],
)  # fmt: skip
def test_everything_else_is_judged_by_demux(rig: Rig, frame: bytes, link: int) -> None:
    assert rig.went(frame, link) == ["demux"]
    assert rig.worker.counts[INDEX["link_runs_steered"]] == 0


def test_what_demux_takes_back_goes_there_again(rig: Rig) -> None:
    rig.steering.forget(GUEST)
    assert rig.went(tcp()) == ["demux"]


def test_datagrams_of_a_flow_go_to_its_socket_while_it_lives(rig: Rig) -> None:
    rig.steering.steer(FLOW, 77, 1)
    ((name, record),) = [
        (name, record) for name, record in rig.pass_on(udp()) if record.kind == kinds.UDP_DATA
    ]
    assert (name, record.flow, record.length, record.piece_size) == ("egress1", 77, 4, 4)
    assert record.key == FLOW
    assert rig.worker.counts[INDEX["udp_datagrams_from_guest"]] == 1
    assert rig.went(udp(dst=SERVER + 1)) == ["demux"]
    rig.steering.unsteer(FLOW, 78)
    assert rig.went(udp()) == ["egress1"], "another flow is over, which was between the same ends"
    rig.steering.unsteer(FLOW, 77)
    assert rig.went(udp()) == ["demux"]


def test_datagrams_do_not_overtake_those_that_demux_still_has(rig: Rig) -> None:
    demux = rig.one.neighbours["demux"]
    demux.deaf = True
    assert rig.went(udp()) == []
    rig.steering.steer(FLOW, 77, 0)
    assert rig.went(udp()) == []
    ring = rig.worker.ports.rings_out["demux"]
    demux.worker.ports.rings_in["ingress"].peek()
    demux.worker.ports.rings_in["ingress"].release(1)
    assert ring.cons_idx() == 1
    assert rig.went(udp()) == [], "one that came meanwhile is still there"
    demux.deaf = False
    assert [name for name, _ in rig.told()] == ["demux", "demux"]
    assert rig.went(udp()) == ["egress0"]


def test_datagrams_do_not_overtake_those_that_demux_got_while_it_did_not_know_the_guest(rig: Rig) -> None:
    rig.steering.steer(FLOW, 77, 0)
    demux = rig.one.neighbours["demux"]
    demux.deaf = True
    rig.steering.forget(GUEST)
    assert rig.went(udp()) == []
    rig.steering.learn(GUEST, MAC, LINK)
    assert rig.went(udp()) == []
    demux.deaf = False
    assert [name for name, _ in rig.told()] == ["demux", "demux"]
    assert rig.went(udp()) == ["egress0"]


def test_datagrams_do_not_overtake_those_that_taught_demux_a_guests_new_mac(rig: Rig) -> None:
    rig.steering.steer(FLOW, 77, 0)
    changed = udp(header=ethernet.header(GATEWAY_MAC, OTHER_MAC, ethernet.TYPE_IPV4))
    demux = rig.one.neighbours["demux"]
    demux.deaf = True
    assert rig.went(changed) == []
    rig.steering.learn(GUEST, OTHER_MAC, LINK)
    assert rig.went(changed) == []
    demux.deaf = False
    assert [name for name, _ in rig.told()] == ["demux", "demux"]
    assert rig.went(changed) == ["egress0"]


def test_a_datagram_with_the_address_of_another_guest_does_not_hold_up_its_flow(rig: Rig) -> None:
    rig.steering.steer(FLOW, 77, 0)
    rig.one.neighbours["demux"].deaf = True
    assert rig.went(udp(), LINK + 1) == []
    assert rig.went(udp()) == ["egress0"]


def test_a_frame_with_the_address_of_another_guest_does_not_end_the_steering_of_its_flow(rig: Rig) -> None:
    rig.steering.steer(FLOW, 77, 0)
    first, _ = fragmentation.packets(ipv4.PROTO_UDP, GUEST, SERVER, udp()[34:42] + bytes(100), 1, 100)
    fragment = b"".join((FROM_GUEST, *first))
    assert rig.went(fragment, LINK + 1) == ["demux"]
    assert rig.went(udp()) == ["egress0"]
    assert [record.kind for _, record in rig.pass_on(fragment)] == [kinds.UDP_FRAGMENTED, kinds.FRAME]
    assert rig.went(udp()) == ["demux"]


def test_a_flow_with_fragments_is_not_steered_when_demux_says_so_too_late(rig: Rig) -> None:
    def first_fragment(port: int) -> bytes:
        whole = wire_udp.build(port, 9000, 2008) + bytes(2000)
        packet, *_ = fragmentation.packets(ipv4.PROTO_UDP, GUEST, SERVER, whole, 1, 1500)
        return b"".join((FROM_GUEST, *packet))

    assert rig.went(first_fragment(40000)) == ["demux"]
    rig.steering.steer(FLOW, 77, 0)
    assert rig.went(udp()) == ["demux"], "the rest of the fragments comes later"
    for port in range(1, MAX_FRAGMENTED + 1):
        rig.went(first_fragment(port))
    assert len(rig.steering.fragmented) == MAX_FRAGMENTED


def test_demux_hears_once_a_second_that_a_guest_and_a_flow_are_in_use(rig: Rig) -> None:
    rig.steering.steer(FLOW, 77, 0)
    for _ in range(3):
        told = [(record.kind, name) for frame in (tcp(), udp()) for name, record in rig.pass_on(frame)]
        heard = sorted(kind for kind, name in told if name == "demux")
        assert heard == [kinds.HEARD, kinds.UDP_USED]
        again = [name for frame in (tcp(), udp()) for name, _ in rig.pass_on(frame)]
        assert "demux" not in again
        rig.now += kinds.REPORT_EVERY_S


def test_everybody_who_has_heard_of_a_guest_is_told_that_it_is_gone(rig: Rig) -> None:
    rig.steering.link_down(LINK, LINK)
    told = dict(rig.told())
    assert {name for name, record in told.items() if record.kind == kinds.LINK_DOWN} == {
        "tcp0",
        "tcp1",
        "demux",
    }
    assert not rig.steering.neighbors


def test_a_syn_waits_for_what_demux_says_about_names() -> None:
    rule = PolicyRule(action="allow", names=("example.com",))
    made = Rig(egress_policy=EgressPolicy(default="deny", rules=(rule,)))
    with made.one:
        assert made.went(tcp(flags=SYN)) == ["demux"]
        assert made.went(tcp()) == [shard()]
        made.steering.reload(changed(made.one.config, egress_policy=EgressPolicy()))
        assert made.went(tcp(flags=SYN)) == [shard()]
        made.steering.reload(
            changed(made.one.config, egress_policy=EgressPolicy(default="deny", rules=(rule,)))
        )
        assert made.went(tcp(flags=SYN)) == ["demux"]


def test_a_guest_that_demux_does_not_see_keeps_its_address_and_its_flows() -> None:
    with Network() as one:
        guest = one.card.guest()
        stream, host = one.open(guest)
        before = one.counter("demux", "ipv4_packets_received")
        for _ in range(100):
            one.advance(1.5)
            stream.send(b"x")
            one.settle()
        assert one.counter("demux", "ipv4_packets_received") == before
        neighbor = one.stages["demux"].neighbors.get(guest.addr)
        assert neighbor is not None
        assert neighbor.confirmed >= one.now - 2 * kinds.REPORT_EVERY_S
        stream.reset()
        one.settle()
        host.close()
        one.everybody_leaves()


# --- IPv6 ---------------------------------------------------------------------------------

GUEST6 = ip.parse("fd00::5")
SERVER6 = ip.parse("2001:db8::7")
FLOW6 = flow_key(GUEST6, 40000, SERVER6, 9000)
FROM_GUEST6 = ethernet.header(GATEWAY_MAC, MAC, ethernet.TYPE_IPV6)


def tcp6(dst: int = SERVER6, src: int = GUEST6, header: bytes = FROM_GUEST6) -> bytes:
    return tcp_frame6(1, b"data", src=src, dst=dst, sport=40000, dport=80, eth_header=header)


def udp6(payload: bytes = b"data") -> bytes:
    return udp_frame6(payload, src=GUEST6, dst=SERVER6, sport=40000, dport=9000, eth_header=FROM_GUEST6)


def fragment6(off: int, *, proto: int = ipv4.PROTO_UDP) -> bytes:
    """A fragment of a datagram, with a Fragment header (RFC 8200 section 4.5)."""
    frame = udp6(bytes(100))
    header = bytes((proto, 0)) + (off | 1).to_bytes(2, "big") + bytes(4)
    length = (len(frame) - 54 + len(header)).to_bytes(2, "big")
    return frame[:18] + length + bytes((44,)) + frame[21:54] + header + frame[54:]


def test_ipv6_segments_of_a_known_guest_go_to_the_shard_that_demux_would_choose(rig: Rig) -> None:
    rig.steering.learn(GUEST6, MAC, LINK)
    for dst in (SERVER6, ip.parse("64:ff9b::8.8.8.8"), ip.parse("fd00::1")):
        assert rig.went(tcp6(dst)) == [f"tcp{rss_hash(GUEST6, 40000, dst, 80) % 2}"]
    assert rig.went(tcp6(src=GUEST6 + 1)) == ["demux"]
    assert rig.went(tcp6(header=ethernet.header(GATEWAY_MAC, OTHER_MAC, ethernet.TYPE_IPV6))) == ["demux"]
    for text in ("fe80::1", "ff02::1", "fec0::1", "::1"):
        assert rig.went(tcp6(ip.parse(text))) == ["demux"]
    assert rig.steering.neighbors[GUEST6].header[12:] == b"\x86\xdd"
    assert rig.steering.neighbors[GUEST].header[12:] == b"\x08\x00"


def test_ipv6_datagrams_of_a_flow_go_to_its_socket_until_there_are_fragments(rig: Rig) -> None:
    rig.steering.learn(GUEST6, MAC, LINK)
    rig.steering.steer(FLOW6, 77, 1)
    assert rig.went(udp6()) == ["egress1"]
    # Neither tells which flow it is of.
    assert rig.went(fragment6(8)) == ["demux"]
    assert rig.went(fragment6(0, proto=ipv4.PROTO_TCP)) == ["demux"]
    assert rig.went(udp6()) == ["egress1"]
    assert [record.kind for _, record in rig.pass_on(fragment6(0))] == [kinds.UDP_FRAGMENTED, kinds.FRAME]
    assert rig.went(udp6()) == ["demux"]
    rig.steering.steer(FLOW6, 77, 1)
    assert rig.went(udp6()) == ["demux"]


@pytest.mark.parametrize("tunnel_first", [False, True])
def test_a_guest_of_another_host_gets_frames_of_this_host_and_is_not_steered(tunnel_first: bool) -> None:
    """It answers the gateway of its own host. So this host sends as a station of its own."""
    made = Rig(fleet_servers="nats://a", fleet_host="alpha", fleet_network="gvtap")
    own = station_mac_of("gvtap", "alpha")
    with made.one:
        steering = made.steering
        steering.forget(GUEST)
        for step in (True, False) if tunnel_first else (False, True):
            if step:
                steering.report_tunnel(LINK, 1450)
            else:
                steering.learn(GUEST, MAC, LINK)
        made.told()
        assert steering.neighbors[GUEST].header == ethernet.header(MAC, own, ethernet.TYPE_IPV4)
        assert steering.sender_on(LINK) == own
        assert steering.sender_on(LINK + 1) == GATEWAY_MAC
        to_own = ethernet.header(own, MAC, ethernet.TYPE_IPV4)
        for flags in (SYN, ACK):
            assert made.went(tcp(header=to_own, flags=flags)) == ["demux"]
        # The link is gone. Its number may be that of a guest's link next.
        steering.link_down(LINK, 1)
        steering.learn(GUEST, MAC, LINK)
        assert steering.neighbors[GUEST].header == ethernet.header(MAC, GATEWAY_MAC, ethernet.TYPE_IPV4)
