"""What ingress sends to guests: frames of both families from records, and one frame for many links."""

import os
import socket
from collections.abc import Callable, Iterator
from struct import Struct
from time import monotonic

import pytest

from pipeline.config import merge, options
from pipeline.engines.offload import checksum as inet
from pipeline.go import flags
from pipeline.ipc.fabric import Fabric
from pipeline.records import kinds
from pipeline.records.flows import flow_key
from pipeline.records.frames import ALL_LINKS, FrameOut
from pipeline.records.guests import Neighbor
from pipeline.records.run import Run
from pipeline.records.tcp import TcpOut
from pipeline.records.udp import UdpOut, UdpToGuest
from pipeline.stages.ingress.stage import IngressStage
from pipeline.stages.worker import Worker
from pipeline.topology import Layout
from pipeline.wire import ethernet, tcp
from pipeline.wire.framing import LE16, split
from tests.support.frames import FAMILIES, GUEST_MAC, Family

UDP = 17
OFF = 256
TO_GROUP = bytes.fromhex("3333000000fb")
_IPV6 = Struct("!IHBB16s16s")
_UDP = Struct("!HHHH")
_FRAGMENT = Struct("!BxHI")
_FRAGMENT_OFF = ethernet.HEADER_LEN + _IPV6.size


def to_group(payload: bytes) -> bytes:
    """A datagram in an IPv6 multicast frame."""
    length = _UDP.size + len(payload)
    src, dst = bytes.fromhex("fe80" + "00" * 13 + "01"), bytes.fromhex("ff02" + "00" * 13 + "fb")
    pseudo = int.from_bytes(src + dst, "big") + UDP + length
    datagram = bytearray(_UDP.pack(5353, 5353, length, 0) + payload)
    inet.complete_partial(datagram, 0, length, pseudo, 6, 0xFFFF)
    packet = _IPV6.pack(6 << 28, length, UDP, 1, src, dst) + datagram
    return ethernet.header(TO_GROUP, GUEST_MAC, 0x86DD) + packet


class Rig:
    """An ingress worker with one guest. The test plays demux, tcp and egress."""

    def __init__(self) -> None:
        config, _ = merge.build(flags.parse(options.START, []), [], resolv_conf=os.devnull)
        self.mtu = config.network.mtu
        self.fabric = Fabric.create(Layout(64, 1, 1))
        self.worker = Worker(self.fabric.ports("ingress"), None)
        stage = IngressStage(self.worker, config)
        self.worker.adopt(stage)
        ours, self.guest = socket.socketpair()
        assert stage.on_control({"op": "attach", "head": b""}, [ours.detach()]) == {}
        self.guest.setblocking(False)
        self.to_guest = ethernet.header(GUEST_MAC, config.network.gateway_mac, ethernet.TYPE_IPV4)[:12]

    def push(self, worker: str, make: Callable[[int], bytes], payload: bytes = b"") -> None:
        """A worker pushes the record that make(slot) returns. Egress has put payload into the slot."""
        slot = 0
        if payload:
            egress = self.fabric.ports("egress0")
            assert egress.pool is not None
            slot = egress.pool.alloc()
            egress.arena.slots[slot][OFF : OFF + len(payload)] = payload
        ring = self.fabric.ports(worker).rings_out["ingress"]
        ring.push(make(slot))
        ring.publish()
        self.worker.breathe(monotonic())

    def frames(self) -> list[bytes]:
        """What the guest got."""
        stream = self.guest.recv(1 << 18)
        found, end = split(stream, 0, len(stream), LE16)
        assert end == len(stream)
        return [stream[off : off + length] for off, length in found]

    def close(self) -> None:
        self.guest.close()
        self.worker.end()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def without_ident(frame: bytes) -> bytes:
    """A frame without what an IPv4 header has for fragments, and its checksum."""
    if frame[12:14] == b"\x08\x00":
        return frame[:18] + frame[22:24] + frame[26:]
    return frame


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_records_become_frames_of_the_guests_family(rig: Rig, family: Family) -> None:
    to_guest = {"src": family.remote, "dst": family.guest, "sport": 53, "dport": 4000}
    headers = {**to_guest, "eth_header": rig.to_guest + family.to_guest[12:]}
    key = flow_key(family.guest, 4000, family.remote, 53)
    payload = bytes(range(250)) * 4
    run = Run(0, OFF, 1000, 500, 500)

    def moved(slot: int) -> Run:
        return Run(slot, run.off, run.length, run.stride, run.piece_size)

    rig.push("demux", lambda _: Neighbor.pack(kinds.NEIGHBOR, family.guest, GUEST_MAC, 1))

    def segments(slot: int) -> bytes:
        return TcpOut.pack(
            key=key, flags=tcp.ACK, seq=7, ack=9, window=500, mss=500, slot=slot, off=OFF, length=1000
        )

    rig.push("tcp0", segments, payload)
    rig.push("egress0", lambda slot: UdpToGuest.pack(key, moved(slot)), payload)
    rig.push("demux", lambda slot: UdpOut.pack(key, moved(slot), 1, GUEST_MAC), payload)
    datagrams = [family.udp_frame(payload[at : at + 500], **headers) for at in (0, 500)]
    wanted = [
        *(family.tcp_frame(7 + at, payload[at : at + 500], ack=9, **headers) for at in (0, 500)),
        *(datagrams * 2),
    ]
    assert [*map(without_ident, rig.frames())] == [*map(without_ident, wanted)]


def test_a_datagram_to_an_ipv6_guest_that_is_longer_than_the_mtu_goes_in_fragments(rig: Rig) -> None:
    family = FAMILIES["IPv6"]
    key = flow_key(family.guest, 4000, family.remote, 53)
    payload = bytes(range(250)) * 20
    idents = []
    for _ in range(2):
        rig.push(
            "demux",
            lambda slot: UdpOut.pack(key, Run(slot, OFF, len(payload), 0, len(payload)), 1, GUEST_MAC),
            payload,
        )
        frames = rig.frames()
        assert max(map(len, frames)) <= rig.mtu + ethernet.HEADER_LEN
        headers = [_FRAGMENT.unpack_from(frame, _FRAGMENT_OFF) for frame in frames]
        (ident,) = {ident for _, _, ident in headers}
        idents.append(ident)
        assert [off & 1 for _, off, _ in headers] == [1] * (len(frames) - 1) + [0]
        whole = b"".join(frame[_FRAGMENT_OFF + _FRAGMENT.size :] for frame in frames)
        plain = family.udp_frame(payload, src=family.remote, dst=family.guest, sport=53, dport=4000)
        assert whole == plain[_FRAGMENT_OFF:]
    assert idents[0] != idents[1]


def test_a_flooded_frame_longer_than_the_mtu_is_cut_once_for_all_guests() -> None:
    config, _ = merge.build(flags.parse(options.START, []), [], resolv_conf=os.devnull)
    fabric = Fabric.create(Layout(64, 1, 1))
    worker = Worker(fabric.ports("ingress"), None)
    stage = IngressStage(worker, config)
    worker.adopt(stage)
    guests = []
    for _ in range(4):
        ours, theirs = socket.socketpair()
        assert stage.on_control({"op": "attach", "head": b""}, [ours.detach()]) == {}
        theirs.setblocking(False)
        guests.append(theirs)
    demux = fabric.ports("demux")
    assert demux.pool is not None
    slot = demux.pool.alloc()
    payload = bytes(range(250)) * 16
    frame = to_group(payload)
    demux.arena.slots[slot][OFF : OFF + len(frame)] = frame
    ring = demux.rings_out["ingress"]
    ring.push(FrameOut.pack(ALL_LINKS, slot, OFF, len(frame), except_link=1))
    ring.publish()
    worker.breathe(monotonic())

    idents = set()
    received = []
    for guest in guests[1:]:
        stream = guest.recv(1 << 16)
        received.append(stream)
        found, end = split(stream, 0, len(stream), LE16)
        assert end == len(stream)
        assert len(found) == 3
        datagram = b""
        for off, length in found:
            assert length <= config.network.mtu + ethernet.HEADER_LEN
            _, _, ident = _FRAGMENT.unpack_from(stream, off + _FRAGMENT_OFF)
            idents.add(ident)
            datagram += stream[off + _FRAGMENT_OFF + _FRAGMENT.size : off + length]
        assert datagram[_UDP.size :] == payload
    # Each cut has an identification of its own.
    assert len(idents) == 1
    assert len(set(received)) == 1
    with pytest.raises(BlockingIOError):
        guests[0].recv(1)
    for guest in guests:
        guest.close()
    worker.end()
