"""The demux stage alone: what it passes on from single frames, and what it holds for guests."""

from collections.abc import Iterator

import pytest

from pipeline.records import kinds
from pipeline.records.frames import Frame
from pipeline.records.guests import LinkNotice
from pipeline.topology import DEMUX
from pipeline.wire import ethernet, icmp, ipv4
from tests.support.frames import FROM_GUEST, GUEST, GUEST_MAC, REMOTE, udp_frame
from tests.support.one_process import OneProcess

LINK = 5


class Rig(OneProcess):
    """Demux is real; the test is the guest behind LINK."""

    def __init__(self) -> None:
        super().__init__((DEMUX,))
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


def ping() -> bytes:
    message = icmp.build(icmp.ECHO_REQUEST, 0, 7 << 16 | 1, b"payload")
    header = ipv4.build(ipv4.HEADER_LEN + len(message), 0, 64, ipv4.PROTO_ICMP, GUEST, REMOTE)
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
