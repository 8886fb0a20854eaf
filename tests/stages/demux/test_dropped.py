"""Frames that demux drops are handed to ingress only while a capture of drops runs, and no slot is lost."""

from collections.abc import Iterator

import pytest

from pipeline.counters import TABLE
from pipeline.records import kinds
from pipeline.records.flows import flow_key
from pipeline.records.frames import WatchDrops
from pipeline.records.guests import LinkNotice
from pipeline.records.udp import UdpRange
from pipeline.stages.demux import dropped
from pipeline.topology import DEMUX
from pipeline.wire import ethernet
from tests.support import bursts
from tests.support.frames import FROM_GUEST, GATEWAY_MAC, GUEST, REMOTE, tcp_frame, udp_frame
from tests.support.one_process import Neighbour, OneProcess
from tests.support.received import Received

LINK = 5
AS_GATEWAY = ethernet.header(GATEWAY_MAC, GATEWAY_MAC, ethernet.TYPE_IPV4)
UNKNOWN = FROM_GUEST[:12] + b"\x88\xb5" + bytes(46)


class Card(Neighbour):
    """Plays ingress, and copies the frames that demux hands over."""

    def on_record(self, record: Received) -> None:
        """Copy the frames before their slot goes home."""
        if record.kind == kinds.DROPPED:
            view = self.slots[record.slot]
            for off, length in record.places():
                FOUND.append((TABLE[record.reason].name, bytes(view[off : off + length])))
        super().on_record(record)


FOUND: list[tuple[str, bytes]] = []


class Rig(OneProcess):
    """Demux is real; the test is the guest on LINK."""

    def __init__(self) -> None:
        super().__init__((DEMUX,), played={"ingress": Card})
        FOUND.clear()
        self.ingress = self.neighbours["ingress"]
        self.ingress.push(DEMUX, LinkNotice.pack(kinds.LINK_UP, LINK, LINK))

    def watch(self, on: bool) -> None:
        """A capture of drops begins or ends."""
        self.ingress.push(DEMUX, WatchDrops.pack(on))

    def send(self, *frames: bytes) -> None:
        """One burst of frames, through GRO."""
        bursts.push(self.ingress, LINK, frames)
        self.settle()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as made:
        yield made
        made.ingress.push(DEMUX, LinkNotice.pack(kinds.LINK_DOWN, LINK, LINK))
        made.at_home()


def test_without_a_capture_nothing_is_handed_over(rig: Rig) -> None:
    rig.send(UNKNOWN, tcp_frame(1, b"x", eth_header=AS_GATEWAY))
    rig.watch(True)
    rig.watch(False)
    rig.send(UNKNOWN, tcp_frame(1, b"x", eth_header=AS_GATEWAY))
    assert FOUND == []


def test_the_frames_of_runs_and_single_frames_come_with_their_cause(rig: Rig) -> None:
    segments = [
        tcp_frame(1 + 100 * number, bytes([number]) * 100, eth_header=AS_GATEWAY) for number in range(3)
    ]
    segments.append(tcp_frame(301, b"short", eth_header=AS_GATEWAY))
    datagrams = [udp_frame(bytes([number]) * 50, eth_header=AS_GATEWAY) for number in range(2)]
    rig.watch(True)
    rig.send(*segments)
    rig.send(*datagrams)
    rig.send(UNKNOWN)
    rig.send(udp_frame(b"passes"))
    cause = "switch_frame_dropped_gateway_source"
    assert [
        *((cause, frame) for frame in (*segments, *datagrams)),
        ("demux_frame_dropped_unknown_ethertype", UNKNOWN),
    ] == FOUND
    assert rig.counter(DEMUX, cause) == 6


def test_a_ring_that_ingress_does_not_read_holds_few_slots(rig: Rig) -> None:
    rig.watch(True)
    rig.settle()
    rig.ingress.deaf = True
    sent = 3 * len(rig.ingress.slots) // dropped.SHARE
    for _ in range(sent):
        rig.send(UNKNOWN)
    missing = rig.counter(DEMUX, "capture_frames_dropped")
    rig.ingress.deaf = False
    rig.settle()
    assert missing > 0
    assert len(FOUND) + missing == sent
    assert 0 < len(FOUND) <= len(rig.ingress.slots) // dropped.SHARE


def test_a_super_segment_of_datagrams_is_one_frame() -> None:
    run = UdpRange(1, 300, 250, 100, 100, LINK, flow_key(GUEST, 1, REMOTE, 2), vnet=True)
    assert dropped.shape_of_datagrams(run) == dropped.Shape(258, 292, 292, 0, 1, True)
