"""A host of a fleet as a station of the network: connections of forwarded ports to guests of other hosts."""

from collections.abc import Iterator

import pytest

from pipeline.ipc import fleet_messages
from pipeline.records import kinds
from pipeline.records.dials import Dial
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends, flow_key
from pipeline.records.frames import ALL_LINKS
from pipeline.records.run import Run
from pipeline.records.udp import UdpData
from pipeline.stages.demux.own_station import ANSWERS_PER_STATION, MAX_ASKING, REFUSED
from pipeline.stages.demux.stage import DemuxStage
from pipeline.topology import DEMUX
from pipeline.wire import arp, ethernet, ip, ipv4, tcp
from tests.stages.demux.test_tunnel import FAR, LOCAL, NEAR, TUNNEL, Rig
from tests.support.attempts import GATEWAY, Station, arp_frame, ping
from tests.support.frames import tcp_frame, udp_frame

ADDR = GATEWAY + 50
DISTANT = Station(bytes((0x5A, 0x94, 0xEF, 0, 0, 77)), GATEWAY + 77)
"""A guest of another host of which nothing was heard yet."""
FLOW = FLOW_FROM_EGRESS | 7


class StationRig(Rig):
    """This host is a station with the address ADDR."""

    def __init__(self) -> None:
        super().__init__()
        stage = self.stages[DEMUX]
        assert isinstance(stage, DemuxStage)
        self.stage = stage
        self.mac = stage.network.tunnel.mac
        self.set_addr(ADDR)

    def set_addr(self, addr: int) -> None:
        message = fleet_messages.Station(ip.packed(addr) if addr else b"")
        assert self.stage.on_control(message.encode(), []) == {}

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


def segment(station: Station, flags: int, *, to: int = ADDR, mac: bytes = b"") -> bytes:
    header = ethernet.header(mac, station.mac, ethernet.TYPE_IPV4)
    return tcp_frame(1, b"", flags=flags, src=station.addr, dst=to, eth_header=header)


def datagram(station: Station, to: int, mac: bytes, port: int) -> bytes:
    header = ethernet.header(mac, station.mac, ethernet.TYPE_IPV4)
    return udp_frame(b"answer", sport=53, dport=port, src=station.addr, dst=to, eth_header=header)


def test_the_host_connects_to_a_guest_of_another_host_from_its_own_address(rig: StationRig) -> None:
    (ends,) = rig.dial(FAR.addr)
    assert (ends.guest_addr, ends.guest_port, ends.remote_addr) == (FAR.addr, 80, ADDR)
    (ends,) = rig.dial(LOCAL.addr)
    assert ends.remote_addr == GATEWAY


def test_without_an_address_it_connects_to_none(rig: StationRig) -> None:
    rig.set_addr(0)
    assert rig.dial(FAR.addr) == []
    assert len(rig.neighbours["egress0"].take(kinds.DIAL_FAILED)) == 1
    for to in (ADDR, ip.from_ipv4(0)):
        rig.send(TUNNEL, segment(FAR, tcp.SYN | tcp.ACK, to=to, mac=rig.mac))
        rig.send(TUNNEL, datagram(FAR, to, rig.mac, 67))
    assert rig.counter(DEMUX, REFUSED) == 4
    assert rig.neighbours["tcp0"].take(kinds.TCP_RANGE) == []


def test_a_guest_that_nobody_has_heard_of_is_asked_for_at_other_hosts_too(rig: StationRig) -> None:
    assert rig.dial(DISTANT.addr) == []
    sent = {link: frame for link, _, frame in rig.sent()}
    assert set(sent) == {ALL_LINKS, TUNNEL}
    question = arp.parse(sent[TUNNEL], ethernet.HEADER_LEN, len(sent[TUNNEL]))
    assert (question.tpa, question.sha, question.spa) == (DISTANT.addr, rig.mac, 0)
    rig.send(TUNNEL, arp_frame(arp.REPLY, DISTANT, DISTANT.mac, rig.mac, 0))
    (routed,) = rig.neighbours["tcp0"].take(kinds.DIAL_ROUTED)
    assert Ends.of(routed.key).remote_addr == ADDR


def test_segments_for_the_station_go_to_their_connection(rig: StationRig) -> None:
    rig.send(TUNNEL, segment(FAR, tcp.SYN | tcp.ACK, mac=rig.mac))
    (run,) = rig.neighbours["tcp0"].take(kinds.TCP_RANGE)
    assert (Ends.of(run.key).remote_addr, run.link) == (ADDR, TUNNEL)
    # A guest that has moved here meanwhile still knows the station by its MAC.
    rig.send(1, segment(LOCAL, tcp.ACK, mac=rig.mac))
    (run,) = rig.neighbours["tcp0"].take(kinds.TCP_RANGE)
    assert run.link == 1


@pytest.mark.parametrize("to", [GATEWAY, GATEWAY + 200, ip.parse_ipv4("10.1.2.3")])
def test_the_station_is_no_gateway_for_other_hosts(rig: StationRig, to: int) -> None:
    rig.send(TUNNEL, segment(FAR, tcp.ACK, to=to, mac=rig.mac))
    rig.send(TUNNEL, segment(FAR, tcp.SYN, to=to, mac=rig.mac))
    rig.send(TUNNEL, datagram(FAR, to, rig.mac, 53))
    rig.send(TUNNEL, ping(FAR.addr, to, FAR.mac, rig.mac))
    assert rig.counter(DEMUX, REFUSED) == 4
    assert rig.neighbours["tcp0"].take(kinds.TCP_RANGE) == []
    assert rig.neighbours["egress0"].take(kinds.UDP_DATA) == []
    assert rig.sent() == []


def test_nobody_connects_to_the_station(rig: StationRig) -> None:
    rig.send(TUNNEL, segment(FAR, tcp.SYN, mac=rig.mac))
    rig.send(TUNNEL, datagram(FAR, ADDR, rig.mac, 53))
    rig.send(TUNNEL, ping(FAR.addr, ADDR, FAR.mac, rig.mac))
    assert rig.counter(DEMUX, REFUSED) == 3
    assert rig.neighbours["tcp0"].take(kinds.TCP_RANGE) == []


@pytest.mark.parametrize("ethertype", [ethernet.TYPE_IPV6, 0x88CC, 60])
def test_frames_of_other_types_are_counted(rig: StationRig, ethertype: int) -> None:
    """A guest that floods the station with them is paused as for any bad frames."""
    rig.send(1, ethernet.header(rig.mac, LOCAL.mac, ethertype) + bytes(60))
    assert rig.counter(DEMUX, REFUSED) == 1
    rig.send(TUNNEL, ethernet.header(rig.mac, FAR.mac, ethernet.TYPE_IPV6) + bytes(60))
    assert rig.counter(DEMUX, REFUSED) == 1, "perhaps the answer to a question"


def test_a_fragment_for_the_station_opens_no_flow(rig: StationRig) -> None:
    whole = datagram(FAR, ADDR, rig.mac, 53)
    body = whole[ethernet.HEADER_LEN + ipv4.HEADER_LEN :]
    for begin, more in ((0, ipv4.FLAG_MF), (8, 0)):
        part = body[begin : begin + 8] if more else body[begin:]
        total = ipv4.HEADER_LEN + len(part)
        header = ipv4.build(total, 9, 64, ipv4.PROTO_UDP, FAR.addr, ADDR, flags=more, frag_off=begin)
        rig.send(TUNNEL, whole[: ethernet.HEADER_LEN] + header + part)
    assert rig.neighbours["egress0"].take(kinds.UDP_DATA) == []
    assert rig.counter(DEMUX, "nat_flow_refused_unowned") == 1


@pytest.mark.parametrize(("link", "asker"), [(TUNNEL, FAR), (1, LOCAL)])
@pytest.mark.parametrize("direct", [False, True])
def test_questions_for_its_address_are_answered(
    rig: StationRig, link: int, asker: Station, direct: bool
) -> None:
    dst = rig.mac if direct else ethernet.BROADCAST
    rig.send(link, arp_frame(arp.REQUEST, asker, asker.mac, dst, ADDR))
    (answer,) = [frame for to, _, frame in rig.sent() if to == link]
    to, sender, _ = ethernet.parse_header(answer, 0, len(answer))
    message = arp.parse(answer, ethernet.HEADER_LEN, len(answer))
    assert (to, sender, message.op) == (asker.mac, rig.mac, arp.REPLY)
    assert (message.spa, message.sha) == (ADDR, rig.mac)


def test_questions_for_other_addresses_are_not(rig: StationRig) -> None:
    rig.send(TUNNEL, arp_frame(arp.REQUEST, FAR, FAR.mac, rig.mac, GATEWAY))
    assert rig.sent() == []


def test_no_guest_gets_the_address_or_the_mac_of_the_station(rig: StationRig) -> None:
    rig.send(1, arp_frame(arp.REQUEST, Station(LOCAL.mac, ADDR), LOCAL.mac, ethernet.BROADCAST, ADDR))
    assert rig.counter(DEMUX, "neighbor_claim_refused_gateway_address") == 1
    rig.send(1, ping(LOCAL.addr, NEAR.addr, rig.mac, NEAR.mac))
    assert rig.counter(DEMUX, "switch_frame_dropped_gateway_source") == 1
    rig.set_addr(0)
    rig.send(1, arp_frame(arp.REQUEST, Station(LOCAL.mac, ADDR), LOCAL.mac, ethernet.BROADCAST, ADDR))
    assert rig.stage.neighbors.get(ADDR) is not None, "another address now: this one may be a guest's"


def test_a_guest_that_had_the_address_loses_it(rig: StationRig) -> None:
    rig.set_addr(NEAR.addr)
    assert rig.stage.neighbors.get(NEAR.addr) is None
    rig.stage.network.switch.forget_link(3)


def sent_datagrams(rig: StationRig) -> list[tuple[int, int]]:
    """(link, source) of the datagrams that went to guests."""
    return [(out.link, Ends.of(out.key).remote_addr) for out in rig.card.take(kinds.UDP_OUT)]


def test_datagrams_reach_a_guest_of_another_host_and_its_answers_come_back(rig: StationRig) -> None:
    rig.datagram(FAR.addr)
    found = rig.card.take(kinds.UDP_OUT)
    ends = Ends.of(found[0].key)
    assert (found[0].link, found[0].mac, ends.remote_addr) == (TUNNEL, FAR.mac, ADDR)
    rig.send(TUNNEL, datagram(FAR, ADDR, rig.mac, ends.remote_port))
    (answer,) = rig.neighbours["egress0"].take(kinds.UDP_DATA)
    assert answer.flow == FLOW


def test_datagrams_wait_for_a_guest_that_turns_out_to_be_on_another_host(rig: StationRig) -> None:
    rig.datagram(DISTANT.addr)
    assert sent_datagrams(rig) == []
    rig.send(TUNNEL, arp_frame(arp.REPLY, DISTANT, DISTANT.mac, rig.mac, 0))
    assert sent_datagrams(rig) == [(TUNNEL, ADDR)]
    rig.datagram(DISTANT.addr)
    assert sent_datagrams(rig) == [(TUNNEL, ADDR)]
    assert len(rig.stage.udp.flows) == 1


def test_datagrams_follow_a_guest_that_moves_between_hosts(rig: StationRig) -> None:
    rig.datagram(NEAR.addr)
    assert sent_datagrams(rig) == [(3, GATEWAY)]
    away = fleet_messages.StationsAway([NEAR.mac], [ip.packed(NEAR.addr)])
    rig.stage.on_control(away.encode(), [])
    rig.send(TUNNEL, arp_frame(arp.REQUEST, NEAR, NEAR.mac, ethernet.BROADCAST, GATEWAY + 200))
    rig.datagram(NEAR.addr)
    assert sent_datagrams(rig) == [(TUNNEL, ADDR)]
    assert len(rig.stage.udp.flows) == 1


def test_frames_to_the_station_say_where_their_sender_is(rig: StationRig) -> None:
    rig.send(TUNNEL, segment(DISTANT, tcp.ACK, mac=rig.mac))
    assert len(rig.neighbours["tcp0"].take(kinds.TCP_RANGE)) == 1
    assert rig.stage.network.switch.link_of(DISTANT.mac) == TUNNEL
    known = rig.stage.neighbors.get(DISTANT.addr)
    assert known is not None
    assert known.mac == DISTANT.mac


def test_no_guest_takes_the_mac_before_the_host_has_an_address() -> None:
    """It would keep the MAC afterwards, and the host's place would end with the guest."""
    with Rig() as rig:
        stage = rig.stages[DEMUX]
        assert isinstance(stage, DemuxStage)
        mac = stage.network.tunnel.mac
        rig.send(1, ping(LOCAL.addr, NEAR.addr, mac, NEAR.mac))
        assert rig.counter(DEMUX, "switch_frame_dropped_gateway_source") == 1
        assert stage.network.switch.link_of(mac) is None
        rig.leave()


def test_a_guest_with_the_mac_of_another_host_s_station_loses_it(rig: StationRig) -> None:
    """Else the guests of this host could not answer that station."""
    host = Station(bytes((0x5A, 0x94, 0xEF, 0, 0, 88)), GATEWAY + 88)
    switch = rig.stage.network.switch
    for link in (1, TUNNEL):
        rig.send(link, arp_frame(arp.REQUEST, host, host.mac, ethernet.BROADCAST, GATEWAY + 200))
    assert switch.link_of(host.mac) == 1
    assert rig.stage.on_control(fleet_messages.FarStations([host.mac, FAR.mac]).encode(), []) == {}
    assert switch.link_of(host.mac) is None
    rig.send(TUNNEL, segment(host, tcp.SYN | tcp.ACK, mac=rig.mac))
    rig.send(1, arp_frame(arp.REQUEST, host, host.mac, ethernet.BROADCAST, GATEWAY + 200))
    assert switch.link_of(host.mac) == TUNNEL
    assert switch.link_of(FAR.mac) == TUNNEL
    assert rig.counter(DEMUX, "switch_frame_dropped_gateway_source") == 1


def test_the_stations_of_other_hosts_are_told_the_address(rig: StationRig) -> None:
    """Else a guest there could have it as well: nothing else says there that it is in use."""
    far = [bytes((0x5A, 0x94, 0xEF, 0, 1, number)) for number in (1, 2, 3)]
    told = []
    for macs in (far[:2], far):
        rig.stage.on_control(fleet_messages.FarStations(macs).encode(), [])
        rig.settle()
        told.append(rig.sent())
    rig.set_addr(ADDR + 1)
    rig.settle()
    told.append(rig.sent())
    assert [[frame[:6] for _, _, frame in sent] for sent in told] == [far[:2], far[2:], far]
    assert {link for sent in told for link, _, _ in sent} == {TUNNEL}
    message = arp.parse(told[-1][0][2], ethernet.HEADER_LEN, len(told[-1][0][2]))
    assert (message.op, message.sha, message.spa) == (arp.REPLY, rig.mac, ADDR + 1)
    rig.set_addr(0)
    rig.settle()
    assert rig.sent() == []


def test_a_guest_does_not_get_the_address_that_another_host_has(rig: StationRig) -> None:
    host = Station(bytes((0x5A, 0x94, 0xEF, 0, 0, 88)), GATEWAY + 88)
    rig.stage.on_control(fleet_messages.FarStations([host.mac]).encode(), [])
    rig.send(TUNNEL, arp_frame(arp.REPLY, host, host.mac, rig.mac, ADDR))
    thief = Station(LOCAL.mac, host.addr)
    rig.send(1, arp_frame(arp.REQUEST, thief, LOCAL.mac, ethernet.BROADCAST, GATEWAY + 200))
    assert rig.counter(DEMUX, "neighbor_claim_refused_address_taken") == 1
    (question,) = [frame for link, _, frame in rig.sent() if link == TUNNEL and frame[:6] == host.mac][-1:]
    assert arp.parse(question, ethernet.HEADER_LEN, len(question)).tpa == host.addr
    rig.send(TUNNEL, arp_frame(arp.REPLY, host, host.mac, rig.mac, 0))
    known = rig.stage.neighbors.get(host.addr)
    assert known is not None
    assert (known.mac, known.link) == (host.mac, TUNNEL)


def test_a_station_that_asks_too_often_leaves_answers_to_others(rig: StationRig) -> None:
    rig.sent()
    for _ in range(50):
        rig.send(TUNNEL, arp_frame(arp.REQUEST, FAR, FAR.mac, ethernet.BROADCAST, ADDR))
    rig.send(TUNNEL, arp_frame(arp.REQUEST, DISTANT, DISTANT.mac, ethernet.BROADCAST, ADDR))
    answered = [frame[:6] for link, _, frame in rig.sent() if link == TUNNEL]
    assert answered == [FAR.mac] * ANSWERS_PER_STATION + [DISTANT.mac]
    assert rig.counter(DEMUX, "demux_message_dropped_rate_limit") == 50 - ANSWERS_PER_STATION


def test_the_stations_that_ask_are_counted_in_bounded_memory(rig: StationRig) -> None:
    station = rig.stage.frames.station
    for number in range(MAX_ASKING + 10):
        # No time passes, and all together have the rate of one guest.
        rig.stage.frames.ip.answers.set_rate(1e9, 1e9)
        rig.stage.frames.ip.answers.forget(TUNNEL)
        station._limit(number.to_bytes(6, "big"), 1000.0)
    assert len(station._asking) < MAX_ASKING
