"""The demux stage alone: what it passes on from single frames, and what it holds for guests."""

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.ipc.flow_rows import REFUSED
from pipeline.records import kinds
from pipeline.records.frames import Frame
from pipeline.records.guests import LinkNotice
from pipeline.stages.flow_reports import FlowReports
from pipeline.topology import DEMUX
from pipeline.wire import ethernet, icmp, ip, ipv4
from tests.support.flow_reports import Wanted
from tests.support.frames import FROM_GUEST, GUEST, GUEST_MAC, REMOTE, udp_frame
from tests.support.one_process import OneProcess

LINK = 5


class Rig(OneProcess):
    """Demux is real; the test is the guest behind LINK."""

    def __init__(self, **settings: Any) -> None:
        super().__init__((DEMUX,), **settings)
        self.ingress = self.neighbours["ingress"]
        self.ingress.push(DEMUX, LinkNotice.pack(kinds.LINK_UP, LINK, LINK))

    def from_guest(self, frame: bytes) -> None:
        """The guest sends a frame that GRO leaves alone."""
        slot = self.ingress.fill(frame)
        self.ingress.push(DEMUX, Frame(LINK, slot, 256, len(frame), vnet=False).pack())
        self.settle()

    def leave(self) -> None:
        """The guest's link goes down."""
        self.ingress.push(DEMUX, LinkNotice.pack(kinds.LINK_DOWN, LINK, LINK))
        self.settle()

    def kept(self) -> dict[str, int]:
        """What demux holds, without the zeros."""
        return {what: count for what, count in self.stages[DEMUX].held().items() if count}


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def ping(to: int = REMOTE) -> bytes:
    message = icmp.build(icmp.ECHO_REQUEST, 0, 7 << 16 | 1, b"payload")
    header = ipv4.build(ipv4.HEADER_LEN + len(message), 0, 64, ipv4.PROTO_ICMP, GUEST, to)
    return FROM_GUEST + header + message


@pytest.mark.parametrize(("frame", "kind"), [(udp_frame(b"x"), kinds.UDP_DATA), (ping(), kinds.ICMP_ECHO)])
def test_egress_learns_which_guest_a_socket_is_for(rig: Rig, frame: bytes, kind: int) -> None:
    rig.from_guest(frame)
    (record,) = rig.neighbours["egress0"].take(kind)
    assert record.link == LINK
    rig.leave()
    rig.at_home()


def test_what_a_guest_holds_is_named_and_gone_with_the_guest(rig: Rig) -> None:
    rig.settle()
    assert rig.kept() == {"links": 1}
    rig.from_guest(udp_frame(b"x"))
    assert rig.kept() == {"links": 1, "macs": 1, "neighbors": 1, "udp_flows": 1}
    fragment = ipv4.build(28, 9, 64, ipv4.PROTO_UDP, GUEST, REMOTE, flags=ipv4.FLAG_MF) + bytes(8)
    rig.from_guest(FROM_GUEST + fragment)
    assert rig.kept()["fragmented_datagrams"] == 1
    rig.leave()
    assert rig.kept() == {}
    rig.at_home()


def test_frames_of_one_guest_for_a_group_reach_the_others_and_not_itself(rig: Rig) -> None:
    rig.ingress.push(DEMUX, LinkNotice.pack(kinds.LINK_UP, LINK + 1, LINK + 1))
    header = ethernet.header(ethernet.BROADCAST, GUEST_MAC, 0x88B5)
    rig.from_guest(header + b"to all others")
    (record,) = rig.ingress.take(kinds.FRAME_OUT)
    assert record.length == len(header) + len(b"to all others")
    assert rig.counter(DEMUX, "demux_frame_dropped_unknown_ethertype") == 1


# --- what is switched off -------------------------------------------------------------------

GATEWAY, HOST = map(ip.parse_ipv4, ("192.168.127.1", "192.168.127.254"))
PROHIBITED, CLOSED = icmp.ADMINISTRATIVELY_PROHIBITED, icmp.PORT_UNREACHABLE


@pytest.mark.parametrize(
    ("word", "frame", "counter", "code"),
    [
        ("udp", udp_frame(b"x"), "udp_off", PROHIBITED),
        ("udp", udp_frame(b"x", dst=HOST), "udp_off", PROHIBITED),
        ("icmp", ping(), "icmp_off", PROHIBITED),
        ("host-loopback", udp_frame(b"x", dst=HOST), "host_loopback_off", PROHIBITED),
        ("host-loopback", ping(HOST), "host_loopback_off", PROHIBITED),
        ("dns", udp_frame(b"x", dst=GATEWAY, dport=53), "dns_off", CLOSED),
    ],
)
def test_what_is_switched_off_is_counted_and_told_the_guest(
    word: str, frame: bytes, counter: str, code: int
) -> None:
    with Rig(disable=(word,)) as rig:
        rig.ingress.keeps = True
        rig.from_guest(frame)
        for worker in ("egress0", "resolver"):
            reported = {record.kind for record in rig.neighbours[worker].take()}
            assert reported <= {kinds.LINK_UP, kinds.NEIGHBOR}, "nothing but who the guest is"
        (record,) = rig.ingress.take(kinds.FRAME_OUT)
        error = rig.ingress.data(record)[ethernet.HEADER_LEN :]
        header = ipv4.parse(error, 0, len(error))
        message = icmp.parse(error, header.ihl, len(error))
        assert (header.src, header.dst) == (GATEWAY, GUEST)
        assert (message.type, message.code) == (icmp.UNREACHABLE, code)
        quoted = error[header.ihl + icmp.HEADER_LEN :]
        destination = slice(16, 20)
        assert quoted[destination] == frame[ethernet.HEADER_LEN :][destination]
        assert rig.counter("demux", f"nat_flow_refused_{counter}") == 1
        rig.ingress.give_back(record)
        rig.leave()
        rig.at_home()


@pytest.mark.parametrize("addr", [GATEWAY, HOST])
def test_the_gateway_answers_its_own_pings_without_icmp_to_other_hosts(addr: int) -> None:
    with Rig(disable=("icmp",)) as rig:
        rig.from_guest(ping(addr))
        assert rig.counter("demux", "icmp_echo_answered") == 1
        rig.leave()
        rig.at_home()


def test_dhcp_and_dns_of_the_gateway_go_on_without_udp() -> None:
    with Rig(disable=("udp",)) as rig:
        rig.from_guest(udp_frame(b"x", dst=GATEWAY, dport=53))
        rig.from_guest(udp_frame(b"x", dst=ip.BROADCAST, dport=67))
        assert len(rig.neighbours["resolver"].take(kinds.SERVICE_DATAGRAM)) == 2
        rig.leave()
        rig.at_home()


@pytest.mark.parametrize(
    ("word", "frame", "protocol", "counter"),
    [("icmp", ping(), "icmp", "icmp_off"), ("udp", udp_frame(b"x"), "udp", "udp_off")],
)
def test_a_refused_ping_or_datagram_is_an_event(word: str, frame: bytes, protocol: str, counter: str) -> None:
    with Rig(disable=(word,)) as rig:
        events = Wanted(REFUSED)
        demux = rig.stages[DEMUX]
        demux.icmp.reports = demux.udp.reports = FlowReports(events)
        rig.from_guest(frame)
        ((kind, report),) = events.got
        assert (kind, report.rule, report.limit) == (REFUSED, f"nat_flow_refused_{counter}", "")
        assert (report.flow.protocol, report.flow.guest) == (protocol, LINK)
        assert (report.flow.guest_address, report.flow.address) == (ip.text(GUEST), ip.text(REMOTE))
