"""The capture of ingress: every frame of every guest link, both ways, as it is on a wire.

What a guest that offloads sends or gets in one piece is cut into frames and its checksums are
completed for the file, so that it looks as it would behind a network card. So it is with a guest whose
virtio-net headers were stripped. Priority tags are gone. Frames from one guest to another
are there twice, once on each link. A frame that is dropped later is there too. A capture that is not
written as fast as frames pass lacks some, which are counted. Nothing of this is on the way of a frame when no
capture was asked for.
"""

from collections.abc import Iterator
from time import time
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines.offload import stripped, tso, vnet
from pipeline.engines.offload.gso import Buffer
from pipeline.links.pcap import PcapWriter
from pipeline.stages.worker import Worker
from pipeline.wire import framing, virtio_net
from pipeline.wire.errors import WireError
from pipeline.wire.framing import Framing
from pipeline.wire.offload import VNET_LEN

_DROPPED: Final = INDEX["capture_frames_dropped"]


class Capture:
    """Writes frames to one file until that fails: then it says so once and is ``over``."""

    def __init__(self, worker: Worker, fd: int, mtu: int) -> None:
        self._worker = worker
        self._writer = PcapWriter(fd)
        self._mtu = mtu
        self._ident = 0
        self.over = False
        self._told = False

    def received(self, view: memoryview, frames: list[tuple[int, int]], vnet_len: int, features: int) -> None:
        """What was read from a link: (off, len) of frames in a slot, each behind its header if vnet_len.

        To be called when the frames have been judged and are not on their way yet: what is completed here
        is complete for the next one too.
        """
        now = time()
        for off, length in frames:
            if vnet_len:
                for frame in _judged(view, off, length, features):
                    self._writer.add(frame, now)
            else:
                stripped.complete(view, off, length)
                self._ident = self._ident + 1 & 0xFFFFFFFF
                for part in stripped.cut(view[off : off + length], self._mtu, self._ident):
                    self._writer.add(part, now)
        self._flush()

    def sent(self, buffers: list[Buffer], form: Framing | None, vnet_len: int) -> None:
        """What is about to be sent on a link: buffers of its segmenter. form None: each is a frame."""
        now = time()
        if form is None:
            for buffer in buffers:
                self._writer.add(buffer, now)
        else:
            data = memoryview(b"".join(buffers))
            for off, length in framing.split(data, 0, len(data), form)[0]:
                frame = data[off + vnet_len : off + length]
                if vnet_len:
                    header = virtio_net.Header(*virtio_net.LONG.unpack_from(data, off))
                    for made in _whole(frame, header):
                        self._writer.add(made, now)
                else:
                    self._writer.add(frame, now)
        self._flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self.over = True

    def _flush(self) -> None:
        try:
            dropped = self._writer.flush()
        except OSError as error:
            self._worker.log.error("capture ended", error=error.strerror)
            self.close()
            return
        if dropped:
            self._worker.counts[_DROPPED] += dropped
            if not self._told:
                self._told = True
                self._worker.log.warning("capture lacks frames, it is not written fast enough")


def _judged(view: memoryview, off: int, length: int, features: int) -> Iterator[Buffer | bytearray]:
    """The frames of a wire that one received frame stands for; itself, if its header is not true."""
    frame = view[off : off + length]
    fields = virtio_net.LONG.unpack_from(view, off - VNET_LEN)
    if fields[0] or fields[1]:
        try:
            vnet.judge(view, off, length, fields, features)
        except WireError:
            yield frame
            return
        # A header that was dealt with is zero now.
        fields = virtio_net.LONG.unpack_from(view, off - VNET_LEN)
    yield from _whole(frame, virtio_net.Header(*fields))


def _whole(frame: memoryview, header: virtio_net.Header) -> Iterator[Buffer | bytearray]:
    """The frames of a wire that a frame with a true header stands for."""
    if not header.flags & virtio_net.NEEDS_CSUM:
        yield frame
    elif header.gso_type == virtio_net.GSO_NONE:
        whole = bytearray(frame)
        tso.complete(whole, header.csum_start, header.csum_offset)
        yield whole
    else:
        yield from tso.cut(frame, header)
