"""What ingress sends to guests: one frame for many links."""

import os
import socket
from struct import Struct
from time import monotonic

import pytest

from pipeline.config import merge, options
from pipeline.engines.offload import checksum as inet
from pipeline.go import flags
from pipeline.ipc.fabric import Fabric
from pipeline.records.frames import ALL_LINKS, FrameOut
from pipeline.stages.ingress.stage import IngressStage
from pipeline.stages.worker import Worker
from pipeline.topology import Layout
from pipeline.wire import ethernet
from pipeline.wire.framing import LE16, split
from tests.support.frames import GUEST_MAC

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
