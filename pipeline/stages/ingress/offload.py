"""Offload in the ingress worker: reads frames with virtio-net headers, and sends frames with or without them.

pipeline.engines.offload.vnet judges the headers. A link without offload cannot take a super-segment or a
partial checksum. pipeline.engines.offload.tso cuts and completes them before they are sent.
pipeline.engines.offload.stripped cuts frames longer than the MTU that came without their header.
"""

from typing import Final

from pipeline.counters import INDEX
from pipeline.engines.offload import stripped, tso, vnet
from pipeline.engines.offload.burst import Item
from pipeline.engines.offload.gso import Buffer, Segmenter
from pipeline.host.filler import SlotFiller
from pipeline.ipc.arena import SLOT_BYTES
from pipeline.links.base import HEADROOM, Link
from pipeline.records.frames import FrameOut
from pipeline.stages.worker import Worker
from pipeline.wire import ethernet, virtio_net
from pipeline.wire.offload import VNET_LEN

_AGREED: Final = INDEX["link_guest_offload"]


class VnetOffload:
    """The offload of all links of one ingress worker."""

    def __init__(self, worker: Worker, mtu: int, *, ipv6: bool = False) -> None:
        """ipv6: whether IPv6 packets for the gateway become ranges."""
        self._ipv6 = ipv6
        self._worker = worker
        self._mtu = mtu
        self._longest = mtu + ethernet.HEADER_LEN
        """Bytes of the longest frame that every guest takes."""
        self._ident = 0
        self._slots = worker.ports.arena.slots
        self._filler = SlotFiller(worker.pool, SLOT_BYTES, HEADROOM, 0)
        self._placed = 0

    def begin(self, number: int, link: Link) -> None:
        """The frames of a link have virtio-net headers."""
        self._worker.counts[_AGREED] += 1
        self._worker.log.info("guest offloads", link=number, features=link.features)

    def receive(
        self, number: int, features: int, slot: int, frames: list[tuple[int, int]]
    ) -> tuple[list[Item], dict[str, int]]:
        """vnet.receive() for frames that a link read into a slot. Takes a reference for each record.

        features: what the guest may leave to us (Link.features).
        """
        self._placed = 0
        vnet.untag(self._slots[slot], frames)
        items, drops = vnet.receive(
            self._slots[slot], frames, number, slot, features, self._place, self._ipv6
        )
        count = len(items) - self._placed
        if count:
            self._worker.pool.ref(slot, count)
        return items, drops

    def _place(self, frame: bytes | bytearray) -> tuple[int, int] | None:
        """Copy a frame that was cut into a slot of the pool."""
        filler = self._filler
        if not filler.place(len(frame)):
            return None
        slot, off = filler.slot, filler.off
        self._slots[slot][off : off + len(frame)] = frame
        filler.commit(len(frame))
        self._placed += 1
        return slot, off

    def release_idle(self) -> None:
        """Give the slot for cut frames back if nothing else uses it."""
        self._filler.release_idle()

    def slots_held(self) -> list[int]:
        """The slot for cut frames, if there is one."""
        return self._filler.slots_held()

    def close(self) -> None:
        """Give the slot for cut frames back."""
        self._filler.retire()

    def frames(self, out: FrameOut) -> list[Buffer]:
        """The frames to send for a frame of another worker: itself, or its parts if it exceeds the MTU.

        A frame that leaves work to its receiver is not cut here (see buffers()).
        """
        view, off = self._slots[out.slot], out.off
        frame = view[off : off + out.length]
        if out.length <= self._longest or (out.vnet and _is_partial(view, off)):
            return [frame]
        self._ident = self._ident + 1 & 0xFFFFFFFF
        return stripped.cut(frame, self._mtu, self._ident)

    def buffers(self, out: FrameOut, frames: list[Buffer], segmenter: Segmenter) -> list[Buffer]:
        """The buffers for one link. ValueError if its framing cannot carry a frame.

        frames: the result of frames(), which is made once for all links.
        """
        if out.vnet and _is_partial(self._slots[out.slot], out.off):
            return self._switched(out, segmenter)
        if len(frames) == 1:
            return segmenter.frame(frames[0])
        buffers: list[Buffer] = []
        for frame in frames:
            buffers += segmenter.frame(frame)
        return buffers

    def _switched(self, out: FrameOut, segmenter: Segmenter) -> list[Buffer]:
        """buffers() for a frame whose virtio-net header leaves work to the receiver. It goes to one link."""
        frame = self._slots[out.slot][out.off : out.off + out.length]
        raw = self._slots[out.slot][out.off - VNET_LEN : out.off].tobytes()
        header = virtio_net.Header(*virtio_net.LONG.unpack(raw))
        if segmenter.takes(header.gso_type):
            return segmenter.frame(frame, virtio_net.build(header._replace(num_buffers=0), VNET_LEN))
        if header.gso_type == virtio_net.GSO_NONE:
            whole = bytearray(frame)
            tso.complete(whole, header.csum_start, header.csum_offset)
            return segmenter.frame(bytes(whole))
        buffers: list[Buffer] = []
        for made in tso.cut(frame, header):
            buffers += segmenter.frame(bytes(made))
        return buffers


def _is_partial(view: memoryview, off: int) -> bool:
    """Whether the virtio-net header of the frame at off says that its checksum is not complete."""
    return bool(view[off - VNET_LEN] & virtio_net.NEEDS_CSUM)
