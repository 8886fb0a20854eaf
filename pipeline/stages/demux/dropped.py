"""Frames that demux dropped: freed at once, or handed to ingress while a capture of drops runs.

Ingress knows the captures. A frame of a guest lies in a slot of ingress, so demux hands it over with a
record and without a copy. The slot is freed a little later. Ingress may be slow to read its ring, because a
guest does not read. So only a few records may wait there. Frames dropped beyond that are missing in the
capture, and counted.
"""

from typing import Final, NamedTuple

from pipeline.counters import INDEX
from pipeline.records.frames import Dropped, Frame
from pipeline.records.tcp import TcpRange
from pipeline.records.udp import UdpRange
from pipeline.stages.demux.network import Network

SHARE: Final = 16
"""One of this number of slots may wait in the ring to ingress: with more records there, none is added."""

_MISSING: Final = INDEX["capture_frames_dropped"]


class Shape(NamedTuple):
    """Where frames lie in a slot: see pipeline.records.frames.Dropped."""

    off: int
    length: int
    last: int
    stride: int
    frames: int
    vnet: bool


def shape_of_frame(frame: Frame) -> Shape:
    """Of a single frame."""
    return Shape(frame.off, frame.length, frame.length, 0, 1, frame.vnet)


def shape_of_segments(run: TcpRange | UdpRange) -> Shape:
    """Of the frames of a run of segments, or of datagrams with a header each."""
    header_len, count = run.header_len, run.piece_count()
    last = run.length - (count - 1) * run.piece_size
    length = run.piece_size if count > 1 else last
    return Shape(run.off - header_len, header_len + length, header_len + last, run.stride, count, run.vnet)


def shape_of_datagrams(run: UdpRange) -> Shape:
    """Of the frames of a run of datagrams."""
    if run.vnet and run.stride and run.stride == run.piece_size:
        # A super-segment is one frame.
        length = run.header_len + run.length
        return Shape(run.off - run.header_len, length, length, 0, 1, True)
    return shape_of_segments(run)


class DroppedFrames:
    """Takes the reference to the slot of frames that go nowhere."""

    def __init__(self, network: Network) -> None:
        self._worker = network.worker
        self._counts = network.counts
        self._ring = network.ingress_out
        self.max_waiting = len(network.slots) // SHARE
        """Records in the ring to ingress, of any kind, from which on dropped frames are not handed over."""
        self.watched = False
        """Whether a capture of drops is running."""

    def take(self, reason: int, link: int, slot: int, shape: Shape) -> None:
        """Frames of a guest were dropped. reason: index of the counter."""
        if not self.watched:
            self._worker.free(slot)
            return
        ring = self._ring
        if ring.capacity - ring.room() >= self.max_waiting:
            self._counts[_MISSING] += shape.frames
            self._worker.free(slot)
            return
        record = Dropped(
            vnet=shape.vnet,
            link=link,
            stride=shape.stride,
            reason=reason,
            slot=slot,
            off=shape.off,
            length=shape.length,
            last=shape.last,
            count=shape.frames,
        )
        ring.push(record.pack())
