"""The capture of ingress: every frame of every guest link, both ways, as it is on a wire.

A guest that offloads sends and gets super-segments. For the file they are cut and their checksums are
completed, as a network card would do. The same is done for a guest whose virtio-net headers were stripped.
Priority tags are removed. A frame from one guest to another is written twice, once for each link. A frame
that is dropped later is written too. If the file cannot be written as fast as frames pass, or the disk is
full, frames are left out and counted. While no capture runs, a frame costs nothing here.
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
    """Writes frames to one file while it is ``active``: from start() until writing fails, which is logged."""

    def __init__(self, worker: Worker, mtu: int) -> None:
        self._worker = worker
        self._mtu = mtu
        self._ident = 0
        self._writer: PcapWriter | None = None
        self._warned = False
        self._is_full = False
        self.active = False

    def start(self, fd: int) -> None:
        """Write to this file from now on. It has the capture's file header. It replaces an earlier file."""
        self.close()
        self._writer = PcapWriter(fd)
        self._warned = self._is_full = False
        self.active = True

    def received(self, view: memoryview, frames: list[tuple[int, int]], vnet_len: int, features: int) -> None:
        """Write frames read from a link: (off, len) of each in a slot, after its header if vnet_len.

        Call this after the frames were judged and before they are passed on: it completes checksums in the
        slot.
        """
        writer = self._writer
        if writer is None:
            return
        now = time()
        for off, length in frames:
            self._ident = self._ident + 1 & 0xFFFFFFFF
            for part in on_wire(view, off, length, vnet_len, features, self._mtu, self._ident):
                writer.add(part, now)
        self._flush(writer)

    def sent(self, buffers: list[Buffer], form: Framing | None, vnet_len: int) -> None:
        """Write what is about to be sent on a link: buffers of its segmenter. form None: each is a frame."""
        writer = self._writer
        if writer is None:
            return
        now = time()
        for frame in sent_on_wire(buffers, form, vnet_len):
            writer.add(frame, now)
        self._flush(writer)

    def drain(self, timeout: float) -> bool:
        """Wait until all is written or has failed, at most timeout seconds. Returns whether it is."""
        return self._writer is None or self._writer.drain(timeout)

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None
        self.active = False

    def _flush(self, writer: PcapWriter) -> None:
        try:
            dropped = writer.flush()
        except OSError as error:
            self._worker.log.error("capture file ended", error=error.strerror)
            self.close()
            return
        why = writer.waits_for_room
        if bool(why) != self._is_full:
            self._is_full = bool(why)
            if why:
                self._worker.log.error("capture not written", error=why)
            else:
                self._worker.log.info("capture written again")
        if dropped:
            self._worker.counts[_DROPPED] += dropped
            if not self._warned and not why:
                self._warned = True
                self._worker.log.warning("capture lacks frames, it is not written fast enough")


def on_wire(
    view: memoryview, off: int, length: int, vnet_len: int, features: int, mtu: int, ident: int
) -> Iterator[Buffer | bytearray]:
    """The frames on a wire that the frame of a guest at off stands for.

    vnet_len: bytes of the virtio-net header before it. features: agreed on with the guest. ident: the
    identification of IPv6 fragments. Completes a checksum in place if the header was stripped.
    """
    if vnet_len:
        for frame in _judged(view, off, length, features):
            yield from stripped.cut(memoryview(frame), mtu, ident)
    else:
        stripped.complete(view, off, length)
        yield from stripped.cut(view[off : off + length], mtu, ident)


def sent_on_wire(buffers: list[Buffer], form: Framing | None, vnet_len: int) -> Iterator[Buffer | bytearray]:
    """The frames on a wire that buffers of a segmenter stand for. form None: each is a frame."""
    if form is None:
        yield from buffers
        return
    data = memoryview(b"".join(buffers))
    for off, length in framing.split(data, 0, len(data), form)[0]:
        frame = data[off + vnet_len : off + length]
        if vnet_len:
            yield from _whole(frame, virtio_net.Header(*virtio_net.LONG.unpack_from(data, off)))
        else:
            yield frame


def _judged(view: memoryview, off: int, length: int, features: int) -> Iterator[Buffer | bytearray]:
    """The frames on a wire that a received frame stands for; the frame itself, if its header is invalid."""
    frame = view[off : off + length]
    fields = virtio_net.LONG.unpack_from(view, off - VNET_LEN)
    if fields[0] or fields[1]:
        try:
            vnet.judge(view, off, length, fields, features)
        except WireError:
            yield frame
            return
        # judge() has zeroed a header whose work it has done.
        fields = virtio_net.LONG.unpack_from(view, off - VNET_LEN)
    yield from _whole(frame, virtio_net.Header(*fields))


def _whole(frame: memoryview, header: virtio_net.Header) -> Iterator[Buffer | bytearray]:
    """The frames on a wire that a frame with a valid header stands for."""
    if not header.flags & virtio_net.NEEDS_CSUM:
        yield frame
    elif header.gso_type == virtio_net.GSO_NONE:
        whole = bytearray(frame)
        tso.complete(whole, header.csum_start, header.csum_offset)
        yield whole
    else:
        yield from tso.cut(frame, header)
