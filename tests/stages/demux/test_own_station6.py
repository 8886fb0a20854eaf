"""A host of a fleet as a station of the network, by IPv6: see test_own_station.py."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.fleet import station_mac_of
from pipeline.engines import neighbor_discovery
from pipeline.ipc import fleet_messages
from pipeline.records import kinds
from pipeline.records.dials import Dial
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends, flow_key
from pipeline.records.frames import ALL_LINKS
from pipeline.records.guests import Tunnel
from pipeline.records.run import Run
from pipeline.records.udp import UdpData
from pipeline.stages.demux.own_station import ANSWERS_PER_STATION, REFUSED
from pipeline.stages.demux.stage import DemuxStage
from pipeline.topology import DEMUX
from pipeline.wire import ethernet, icmpv6, ip, ipv4, ipv6, tcp
from tests.stages.demux.test_ipv6 import GATEWAY, GLOBAL, LOCAL, MACS, NET, Rig
from tests.support import bursts
from tests.support.frames import tcp_frame6, udp_frame6
from tests.support.fuzz import mutations
from tests.support.ipv6 import advertisement, icmp_frame, ping, solicitation

TUNNEL = 2
"""The number of the link to other hosts. GLOBAL[2] and others are behind it."""
HERE, FAR = GLOBAL[1], GLOBAL[TUNNEL]
FAR_MAC = MACS[TUNNEL]
MAC = station_mac_of("gvtap", "alpha")
ADDR = ipv6.of_mac(NET, MAC)
"""The address of this host among guests."""
DISTANT_MAC = bytes.fromhex("5a94ef000077")
DISTANT = ipv6.of_mac(NET, DISTANT_MAC)
"""A guest of another host of which nothing was heard yet."""
STRANGE = ip.parse("2001:db8::1")
FLOW = FLOW_FROM_EGRESS | 7


class StationRig(Rig):
    """This host is a station of a fleet. Link 1 is a guest of this host."""

    def __init__(self, **settings: object) -> None:
        named = {"fleet_servers": "nats://a", "fleet_network": "gvtap", "fleet_host": "alpha"}
        super().__init__(**(named | settings))
        self.card.push(DEMUX, Tunnel.pack(TUNNEL, 1450))
        self.send(1, ping(HERE, GATEWAY, MACS[1]))
        self.send(TUNNEL, ping(FAR, NET | 0xFFFF, FAR_MAC, DISTANT_MAC))
        stage = self.stages[DEMUX]
        assert isinstance(stage, DemuxStage)
        self.stage = stage
        assert stage.network.tunnel.mac == MAC

    def answers(self, link: int, *frames: bytes, to: int = 0) -> list[bytes]:
        """Frames from a link. Returns what the guests on it get, or those on the link ``to``."""
        bursts.push(self.card, link, frames)
        self.settle()
        return [frame for at, _, frame in self.take() if at == (to or link)]

    def dial(self, addr: int) -> list[Ends]:
        """The ends of the connection that tcp is asked for."""
        self.neighbours["egress0"].push(DEMUX, Dial.pack(FLOW, addr, 80))
        self.settle()
        return [Ends.of(record.key) for record in self.neighbours["tcp0"].take(kinds.DIAL_ROUTED)]

    def datagram(self, guest: int) -> None:
        """A client of a forwarded port of UDP has sent one."""
        egress = self.neighbours["egress0"]
        run = Run(egress.fill(b"hello"), 256, 5, 0, 5)
        egress.push(DEMUX, UdpData.pack(FLOW, flow_key(guest, 53, 0, 0), run, link=0))
        self.settle()


@pytest.fixture
def rig() -> Iterator[StationRig]:
    with StationRig() as made:
        yield made
        made.leave()


def segment(src: int, mac: bytes, flags: int, *, to: int = ADDR, to_mac: bytes = MAC) -> bytes:
    header = ethernet.header(to_mac, mac, ethernet.TYPE_IPV6)
    return tcp_frame6(1, flags=flags, src=src, dst=to, eth_header=header)


def datagram(src: int, mac: bytes, port: int, *, to: int = ADDR) -> bytes:
    header = ethernet.header(MAC, mac, ethernet.TYPE_IPV6)
    return udp_frame6(b"answer", sport=53, dport=port, src=src, dst=to, eth_header=header)


def answer(src: int, mac: bytes) -> bytes:
    """What a kernel says when this host asks for its address."""
    return advertisement(src, src, mac, MAC, ADDR)


def said(frame: bytes) -> tuple[bytes, ipv6.Header, icmpv6.Discovery]:
    """The destination, the header and the message of a frame of neighbour discovery."""
    header = ipv6.parse(frame, ethernet.HEADER_LEN, len(frame))
    off = ethernet.HEADER_LEN + ipv6.HEADER_LEN
    icmpv6.parse(frame, off, len(frame), header.src, header.dst)
    return frame[:6], header, icmpv6.parse_discovery(frame, off, len(frame), header)


def test_the_host_connects_to_a_guest_of_another_host_from_its_own_address(rig: StationRig) -> None:
    rig.send(TUNNEL, answer(FAR, FAR_MAC))
    (ends,) = rig.dial(FAR)
    assert (ends.guest_addr, ends.guest_port, ends.remote_addr) == (FAR, 80, ADDR)
    (ends,) = rig.dial(HERE)
    assert ends.remote_addr == GATEWAY


def test_a_guest_that_nobody_has_heard_of_is_asked_for_at_other_hosts_too(rig: StationRig) -> None:
    assert rig.dial(DISTANT) == []
    sent = {link: frame for link, _, frame in rig.take()}
    assert set(sent) == {ALL_LINKS, TUNNEL}
    to, header, message = said(sent[TUNNEL])
    group = ipv6.solicited_node(DISTANT)
    assert (to, header.src, header.dst) == (ipv6.group_mac(group), ADDR, group)
    assert (message.kind, message.target, message.mac) == (icmpv6.NEIGHBOR_SOLICITATION, DISTANT, MAC)
    rig.send(TUNNEL, answer(DISTANT, DISTANT_MAC))
    (routed,) = rig.neighbours["tcp0"].take(kinds.DIAL_ROUTED)
    assert Ends.of(routed.key).remote_addr == ADDR


def test_a_guest_of_another_host_is_not_reached_by_its_link_local_address(rig: StationRig) -> None:
    rig.send(TUNNEL, answer(LOCAL[TUNNEL], FAR_MAC))
    assert rig.dial(LOCAL[TUNNEL]) == []
    assert len(rig.neighbours["egress0"].take(kinds.DIAL_FAILED)) == 1


def test_without_a_fleet_no_guest_of_another_host_is_reached() -> None:
    with Rig() as rig:
        rig.card.push(DEMUX, Tunnel.pack(TUNNEL, 1450))
        rig.settle()
        tunnel = rig.stages[DEMUX].network.tunnel
        assert (tunnel.addr6, tunnel.source_for(FAR)) == (0, 0)
        rig.send(TUNNEL, segment(FAR, FAR_MAC, tcp.SYN | tcp.ACK, to_mac=tunnel.mac))
        assert rig.count(REFUSED) == 1
        assert rig.neighbours["tcp0"].take(kinds.TCP_RANGE) == []
        rig.leave()


def test_segments_for_the_station_go_to_their_connection(rig: StationRig) -> None:
    rig.send(TUNNEL, segment(FAR, FAR_MAC, tcp.SYN | tcp.ACK))
    (run,) = rig.neighbours["tcp0"].take(kinds.TCP_RANGE)
    assert (Ends.of(run.key).remote_addr, run.link) == (ADDR, TUNNEL)
    # A guest that has moved here meanwhile still knows the station by its MAC.
    rig.send(1, segment(HERE, MACS[1], tcp.ACK))
    (run,) = rig.neighbours["tcp0"].take(kinds.TCP_RANGE)
    assert run.link == 1


@pytest.mark.parametrize("to", [GATEWAY, NET | 200, STRANGE, LOCAL[1]], ids=ip.text)
def test_the_station_is_no_gateway_for_other_hosts(rig: StationRig, to: int) -> None:
    rig.send(TUNNEL, segment(FAR, FAR_MAC, tcp.ACK, to=to))
    rig.send(TUNNEL, segment(FAR, FAR_MAC, tcp.SYN, to=to))
    rig.send(TUNNEL, datagram(FAR, FAR_MAC, 53, to=to))
    sent = rig.send(TUNNEL, ping(FAR, to, FAR_MAC, MAC))
    assert rig.count(REFUSED) == 4
    assert rig.neighbours["tcp0"].take(kinds.TCP_RANGE) == []
    assert rig.neighbours["egress0"].take(kinds.UDP_DATA) == []
    assert sent == []


def test_nobody_connects_to_the_station(rig: StationRig) -> None:
    rig.send(TUNNEL, segment(FAR, FAR_MAC, tcp.SYN))
    rig.send(TUNNEL, datagram(FAR, FAR_MAC, 53))
    rig.send(TUNNEL, ping(FAR, ADDR, FAR_MAC, MAC))
    rig.send(
        TUNNEL,
        icmp_frame(icmpv6.build(icmpv6.ROUTER_ADVERTISEMENT, 0, 0, FAR, ADDR), FAR, ADDR, FAR_MAC, MAC),
    )
    assert rig.count(REFUSED) == 4
    assert rig.neighbours["tcp0"].take(kinds.TCP_RANGE) == []


def test_a_fragment_for_the_station_opens_no_flow(rig: StationRig) -> None:
    whole = datagram(FAR, FAR_MAC, 53)
    body = whole[ethernet.HEADER_LEN + ipv6.HEADER_LEN :]
    for begin, more in ((0, 1), (8, 0)):
        part = body[begin : begin + 8] if more else body[begin:]
        extension = bytes((ipv4.PROTO_UDP, 0)) + (begin | more).to_bytes(2, "big") + bytes((0, 0, 0, 9))
        header = ipv6.build(len(extension) + len(part), 44, 64, FAR, ADDR)
        rig.send(TUNNEL, whole[: ethernet.HEADER_LEN] + header + extension + part)
    assert rig.neighbours["egress0"].take(kinds.UDP_DATA) == []
    assert rig.count("nat_flow_refused_unowned") == 1


@pytest.mark.parametrize(("link", "asker", "mac"), [(TUNNEL, FAR, FAR_MAC), (1, HERE, MACS[1])])
@pytest.mark.parametrize("direct", [False, True])
def test_questions_for_its_address_are_answered(
    rig: StationRig, link: int, asker: int, mac: bytes, direct: bool
) -> None:
    question = solicitation(ADDR, asker, mac)
    (frame,) = rig.answers(link, MAC + question[6:] if direct else question)
    to, header, message = said(frame)
    assert (to, frame[6:12], header.src, header.dst) == (mac, MAC, ADDR, asker)
    assert (message.kind, message.target, message.mac) == (icmpv6.NEIGHBOR_ADVERTISEMENT, ADDR, MAC)
    assert message.flags == icmpv6.FLAG_SOLICITED | icmpv6.FLAG_OVERRIDE


@pytest.mark.parametrize(("link", "mac"), [(TUNNEL, FAR_MAC), (1, MACS[1])])
def test_a_guest_that_wants_the_address_learns_that_it_is_taken(
    rig: StationRig, link: int, mac: bytes
) -> None:
    (frame,) = rig.answers(link, solicitation(ADDR, 0, mac))
    to, header, message = said(frame)
    assert (to, header.dst) == (ipv6.group_mac(ipv6.ALL_NODES), ipv6.ALL_NODES)
    assert (message.target, message.mac) == (ADDR, MAC)


def test_other_questions_are_not_answered(rig: StationRig) -> None:
    """Also one whose group is the same, and one that names the gateway as its sender."""
    same_group = ADDR ^ 1 << 40
    assert rig.answers(TUNNEL, solicitation(GATEWAY, FAR, FAR_MAC)) == []
    assert rig.answers(TUNNEL, solicitation(same_group, FAR, FAR_MAC)) == []
    assert rig.answers(TUNNEL, solicitation(ADDR, FAR, FAR_MAC, rig.config.network.gateway_mac)) == []
    assert rig.answers(TUNNEL, answer(FAR, FAR_MAC)) == []


def test_no_guest_gets_the_address_of_the_station(rig: StationRig) -> None:
    for frame in (
        segment(ADDR, MACS[1], tcp.SYN, to=GATEWAY, to_mac=rig.config.network.gateway_mac),
        advertisement(ADDR, ADDR, MACS[1], ipv6.group_mac(ipv6.ALL_NODES), ipv6.ALL_NODES),
    ):
        before = rig.count("neighbor_claim_refused_gateway_address")
        rig.send(1, frame)
        assert rig.count("neighbor_claim_refused_gateway_address") == before + 1
    assert ADDR not in rig.known()
    # Its IPv4 address comes and goes. That of IPv6 stays.
    for addr in (b"", ip.packed(ip.parse_ipv4("192.168.127.50")), b""):
        assert rig.stage.on_control(fleet_messages.Station(addr).encode(), []) == {}
        rig.send(1, advertisement(ADDR, ADDR, MACS[1], ipv6.group_mac(ipv6.ALL_NODES), ipv6.ALL_NODES))
    assert rig.count("neighbor_claim_refused_gateway_address") == 5
    assert ADDR not in rig.known()


def sent_datagrams(rig: StationRig) -> list[tuple[int, int]]:
    """(link, source) of the datagrams that went to guests."""
    return [(out.link, Ends.of(out.key).remote_addr) for out in rig.card.take(kinds.UDP_OUT)]


def test_datagrams_reach_a_guest_of_another_host_and_its_answers_come_back(rig: StationRig) -> None:
    rig.datagram(DISTANT)
    assert sent_datagrams(rig) == []
    rig.send(TUNNEL, answer(DISTANT, DISTANT_MAC))
    (out,) = rig.card.take(kinds.UDP_OUT)
    ends = Ends.of(out.key)
    assert (out.link, out.mac, ends.remote_addr) == (TUNNEL, DISTANT_MAC, ADDR)
    rig.send(TUNNEL, datagram(DISTANT, DISTANT_MAC, ends.remote_port))
    (back,) = rig.neighbours["egress0"].take(kinds.UDP_DATA)
    assert back.flow == FLOW


def test_datagrams_follow_a_guest_that_moves_between_hosts(rig: StationRig) -> None:
    rig.datagram(HERE)
    assert sent_datagrams(rig) == [(1, GATEWAY)]
    away = fleet_messages.StationsAway([MACS[1]], [ip.packed(HERE)])
    rig.stage.on_control(away.encode(), [])
    rig.send(TUNNEL, answer(HERE, MACS[1]))
    rig.datagram(HERE)
    assert sent_datagrams(rig) == [(TUNNEL, ADDR)]
    assert len(rig.stage.udp.flows) == 1


def test_the_stations_of_other_hosts_are_told_the_address(rig: StationRig) -> None:
    """Else a guest there could have it as well: nothing else says there that it is in use."""
    far = [bytes((0x5A, 0x94, 0xEF, 0, 1, number)) for number in (1, 2, 3)]
    told = []
    for macs in (far[:2], far):
        rig.stage.on_control(fleet_messages.FarStations(macs).encode(), [])
        rig.settle()
        told.append(rig.take())
    assert [[frame[:6] for _, _, frame in sent] for sent in told] == [far[:2], far[2:]]
    assert {link for sent in told for link, _, _ in sent} == {TUNNEL}
    _, header, message = said(told[-1][0][2])
    assert (header.src, message.kind) == (ADDR, icmpv6.NEIGHBOR_ADVERTISEMENT)
    assert (message.target, message.mac, message.flags) == (ADDR, MAC, icmpv6.FLAG_OVERRIDE)


def test_a_guest_does_not_get_the_address_that_another_host_has(rig: StationRig) -> None:
    mac = station_mac_of("gvtap", "beta")
    host = ipv6.of_mac(NET, mac)
    rig.stage.on_control(fleet_messages.FarStations([mac]).encode(), [])
    rig.take()
    rig.send(TUNNEL, neighbor_discovery.unsolicited(host, mac, MAC))
    claim = advertisement(host, host, MACS[1], ipv6.group_mac(ipv6.ALL_NODES), ipv6.ALL_NODES)
    assert rig.answers(1, claim, to=TUNNEL) == [], "it need not be asked"
    known = rig.stage.neighbors.get(host)
    assert known is not None
    assert (known.mac, known.link) == (mac, TUNNEL)


def test_a_guest_that_knows_the_address_of_another_host_does_not_get_it_first(rig: StationRig) -> None:
    """It follows from names that guests may know. The host would reach no guest of this one any more."""
    mac = station_mac_of("gvtap", "beta")
    host = ipv6.of_mac(NET, mac)
    claim = advertisement(host, host, MACS[1], ipv6.group_mac(ipv6.ALL_NODES), ipv6.ALL_NODES)
    rig.send(1, claim)
    assert rig.stage.neighbors.snapshot()[host] == (MACS[1], 1), "nobody knows yet that it is a host"
    rig.stage.on_control(fleet_messages.FarStations([mac]).encode(), [])
    rig.settle()
    assert host not in rig.known()
    before = rig.count("neighbor_claim_refused_gateway_address")
    rig.send(1, claim)
    assert rig.count("neighbor_claim_refused_gateway_address") == before + 1
    rig.send(TUNNEL, neighbor_discovery.unsolicited(host, mac, MAC))
    assert rig.stage.neighbors.snapshot()[host] == (mac, TUNNEL)


def test_a_guest_that_has_moved_here_and_starts_again_may_have_its_address(rig: StationRig) -> None:
    """It looks whether the address is free (RFC 4862 section 5.4). Its own old place is no other guest."""
    rig.send(TUNNEL, answer(FAR, FAR_MAC))
    rig.stage.network.switch.station_moved(FAR_MAC, 1, rig.now)
    assert rig.answers(1, solicitation(FAR, 0, FAR_MAC)) == []
    (told,) = [
        frame for frame in rig.answers(1, solicitation(FAR, 0, MACS[1])) if frame[12:14] == b"\x86\xdd"
    ]
    assert said(told)[2].mac == FAR_MAC, "another guest may not"


def test_a_copied_mac_that_the_switch_has_no_room_for_proves_nothing(rig: StationRig) -> None:
    rig.send(TUNNEL, answer(FAR, FAR_MAC))
    switch = rig.stage.network.switch
    switch.forget_link(TUNNEL)
    switch.set_bounds(1, 1)
    (told,) = rig.answers(1, solicitation(FAR, 0, FAR_MAC))
    assert said(told)[2].mac == FAR_MAC


def test_a_station_that_asks_too_often_leaves_answers_to_others(rig: StationRig) -> None:
    answered = []
    for _ in range(50):
        answered += rig.answers(TUNNEL, solicitation(ADDR, FAR, FAR_MAC))
    answered += rig.answers(TUNNEL, solicitation(ADDR, DISTANT, DISTANT_MAC))
    assert [frame[:6] for frame in answered] == [FAR_MAC] * ANSWERS_PER_STATION + [DISTANT_MAC]
    assert rig.count("demux_message_dropped_rate_limit") == 50 - ANSWERS_PER_STATION


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_frame_for_the_station_stops_demux_or_keeps_a_slot(rig: StationRig, data: st.DataObject) -> None:
    base = data.draw(
        st.sampled_from(
            [
                MAC + solicitation(ADDR, FAR, FAR_MAC)[6:],
                solicitation(ADDR, FAR, FAR_MAC),
                answer(FAR, FAR_MAC),
                datagram(FAR, FAR_MAC, 53),
            ]
        )
    )
    rig.send(TUNNEL, base[:14] + data.draw(mutations(base[14:])))
    rig.take()
    rig.neighbours["tcp0"].take(kinds.TCP_RANGE)
