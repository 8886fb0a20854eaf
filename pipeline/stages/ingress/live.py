"""Captures that clients of the API start while ingress runs: pcapng over a socket, with a filter.

Each has an interface for each guest link, and writes frames as on a wire (capture.py). The filter looks at a
frame where it lies. GRO has made runs of most frames of a guest, and the transmitter gathers the frames of a
record together. So the filter looks at one frame of a run or record, and its verdict about a flow is
remembered. Only frames that fit are copied.

A capture of drops has instead the frames of guests that ingress or demux dropped, each with the name of the
counter as a comment. GRO does not say which frame it dropped. So ingress asks it again for each frame that is
in no record, but only while such a capture runs. Demux hands its frames over (DROPPED).

A reader that does not read loses frames. They are counted, and the next frame says how many are missing.
"""

import os
from time import monotonic, time_ns
from typing import Final

from pipeline.counters import INDEX, TABLE
from pipeline.engines import capture_filter
from pipeline.engines.capture_filter import HEAD_BYTES, Filter, FilterError, Head
from pipeline.engines.offload import gro, vnet
from pipeline.engines.offload.burst import Item
from pipeline.engines.offload.gso import Buffer
from pipeline.ipc import events as ev
from pipeline.ipc import messages
from pipeline.records.flows import FlowKey
from pipeline.records.frames import Dropped, Frame
from pipeline.records.run import Run
from pipeline.records.tcp import TcpRange
from pipeline.stages.ingress.capture import Capture, on_wire, sent_on_wire
from pipeline.stages.ingress.live_writer import LiveWriter
from pipeline.stages.ingress.ports import Port
from pipeline.stages.ingress.steering import Steering
from pipeline.stages.worker import Worker
from pipeline.wire import ethernet, pcapng, virtio_net
from pipeline.wire.errors import WireError
from pipeline.wire.ipv4 import PROTO_TCP, PROTO_UDP
from pipeline.wire.offload import VNET_LEN

MAX_CAPTURES: Final = 4
"""Captures at a time."""

LAST_WAIT: Final = 0.4
"""Seconds that close() waits for the readers of all captures."""
MAX_VERDICTS: Final = 4096
"""Flows whose verdict is remembered."""

Flow = tuple[int, int, bytes, FlowKey]
"""Link, protocol (| _TO_GUEST), the guest's MAC address, key."""
_TO_GUEST: Final = 0x100
_MISSING: Final = INDEX["capture_frames_dropped"]
_READ_EVENTS: Final = ev.READ | ev.READ_HANGUP
_IGNORED_BYTES: Final = 4096


class LiveCapture:
    """One capture: its filter and its writer."""

    def __init__(self, wanted: Filter, writer: LiveWriter, drops: bool) -> None:
        self.wanted = wanted
        self.writer = writer
        self.drops = drops


class LiveCaptures:
    """The captures that run now. While there are none, ``passing`` and ``dropping`` are False."""

    def __init__(
        self, worker: Worker, mtu: int, ports: dict[int, Port], steering: Steering, *, ipv6: bool = False
    ) -> None:
        """ports: the links by number. steering tells demux of captures of drops. ipv6: as in coalesce()."""
        self._worker = worker
        self._ipv6 = ipv6
        self._mtu = mtu
        self._ports = ports
        self._steering = steering
        self._slots = worker.ports.arena.slots
        self._ident = 0
        self._captures: list[LiveCapture] = []
        self._closing: list[LiveWriter] = []
        """Writers whose last write has not returned yet."""
        self.passing = False
        """Whether a capture wants frames that pass."""
        self.dropping = False
        """Whether a capture wants frames that were dropped."""
        self._added = False
        """Whether flush() has something to do."""
        self._verdicts: dict[Flow, list[LiveCapture]] = {}
        """The captures that want a flow, as long as no capture and no link comes or goes."""

    # --- begin and end ----------------------------------------------------------------------

    def start(self, ask: messages.LiveCapture, fd: int) -> messages.LiveCaptureAnswer:
        """Begin a capture on a socket, which is closed if the answer is a refusal."""
        try:
            wanted = Filter(ask.guests, ask.hosts, ask.ports, ask.protocols)
        except FilterError as error:
            os.close(fd)
            return messages.LiveCaptureAnswer(False, str(error))
        self._close_ended()
        if len(self._captures) + len(self._closing) >= MAX_CAPTURES:
            os.close(fd)
            text = f"{MAX_CAPTURES} captures are running (allowed: {MAX_CAPTURES})"
            return messages.LiveCaptureAnswer(True, text)
        os.set_blocking(fd, False)
        snaplen = min(max(ask.snaplen, 1), pcapng.SNAPLEN)
        capture = LiveCapture(wanted, LiveWriter(fd, ask.head, snaplen), ask.drops)
        self._captures.append(capture)
        self._worker.register(fd, _READ_EVENTS, lambda events: self._on_event(capture))
        for port in self._ports.values():
            self._add_interface(capture, port)
        self._flush_one(capture)
        self._look_at_captures()
        self._worker.log.info("capture started", captures=len(self._captures), drops=ask.drops)
        return messages.LiveCaptureAnswer(False)

    def link_up(self, port: Port) -> None:
        """A link is there: each capture gets an interface for it."""
        for capture in list(self._captures):
            self._add_interface(capture, port)
            self._flush_one(capture)

    def link_down(self, link: int) -> None:
        """A link is gone. Another one may get its number, and has an interface of its own."""
        self._verdicts.clear()
        for capture in self._captures:
            capture.wanted.forget_link(link)
            capture.writer.forget_interface(link)

    def running(self) -> list[LiveCapture]:
        """The captures that are running."""
        return list(self._captures)

    def close(self) -> None:
        """End all captures; wait at most LAST_WAIT for what is queued."""
        deadline = monotonic() + LAST_WAIT
        for capture in list(self._captures):
            capture.writer.drain(max(deadline - monotonic(), 0.0))
            self._end(capture, "the daemon stops")
        self._close_ended()

    def _add_interface(self, capture: LiveCapture, port: Port) -> None:
        if not capture.wanted.wants_link(port.number):
            return
        mac = b""
        for neighbor in self._steering.neighbors.values():
            if neighbor.link == port.number:
                mac = neighbor.header[: ethernet.MAC_LEN]
        text = f"{port.arrival.protocol} {port.arrival.peer}".strip()
        capture.writer.add_interface(port.number, f"link{port.number}", text, mac)

    def _on_event(self, capture: LiveCapture) -> None:
        """The client has left, or says something, which is ignored."""
        try:
            if os.read(capture.writer.fd, _IGNORED_BYTES):
                return
        except BlockingIOError:
            return
        except OSError as error:
            self._end(capture, str(error.strerror))
            return
        self._end(capture, "the client left")

    def _end(self, capture: LiveCapture, reason: str) -> None:
        if capture not in self._captures:
            return
        self._captures.remove(capture)
        writer = capture.writer
        self._worker.unregister(writer.fd)
        self._worker.log.info("capture ended", reason=reason, frames=writer.frames, missing=writer.missing)
        if not writer.close():
            self._closing.append(writer)
        self._look_at_captures()

    def _close_ended(self) -> None:
        self._closing = [writer for writer in self._closing if not writer.close()]

    def _look_at_captures(self) -> None:
        self._verdicts.clear()
        dropping = any(capture.drops for capture in self._captures)
        if dropping != self.dropping:
            self.dropping = dropping
            self._steering.watch_drops(dropping)
        self.passing = not all(capture.drops for capture in self._captures)

    # --- frames -----------------------------------------------------------------------------

    def received(
        self,
        port: Port,
        slot: int,
        frames: list[tuple[int, int]],
        items: list[Item],
        dropped: bool,
    ) -> None:
        """Write the frames [(off, len)] that a guest sent, of which GRO has made items.

        dropped: whether some of the frames were dropped.
        """
        vnet_len, features = port.link.vnet_len, port.link.features
        view = self._slots[slot]
        spans: dict[int, tuple[int, list[LiveCapture]]] = {}
        only_runs, wanted = len(items) > 0, False
        for item in items:
            if item.slot != slot or isinstance(item, Frame):
                only_runs = False
                continue
            if isinstance(item, TcpRange):
                proto = PROTO_TCP
            else:
                proto = PROTO_UDP
            begin = item.off - item.header_len
            fitting = self._of_flow(view, begin, port.number, proto, item.key)
            spans[begin] = (begin + _span(item), fitting)
            if fitting:
                wanted = True
        if only_runs and not wanted and not dropped:
            # A pure ACK that GRO has merged into another one is of the same flow.
            return
        last = -1
        fitting = []
        now = time_ns()
        for off, length in frames:
            if off > last:
                if off in spans:
                    last, fitting = spans[off]
                else:
                    last = off
                    head = capture_filter.read(view, off, off + length)
                    fitting = self._fitting(head, port.number, from_guest=True, drops=False)
            if fitting:
                self._ident = self._ident + 1 & 0xFFFFFFFF
                for part in on_wire(view, off, length, vnet_len, features, self._mtu, self._ident):
                    for capture in fitting:
                        capture.writer.add(port.number, part, now, pcapng.INBOUND, "")
                self._added = True
        self.flush()

    def _of_flow(
        self, view: memoryview, begin: int, link: int, proto: int, key: FlowKey
    ) -> list[LiveCapture]:
        """The captures that want frames of this flow of a guest, the first of which is at begin."""
        source = begin + ethernet.MAC_LEN
        mac = bytes(view[source : source + ethernet.MAC_LEN])
        flow = (link, proto, mac, key)
        fitting = self._verdicts.get(flow)
        if fitting is None:
            head = capture_filter.read(view, begin, begin + HEAD_BYTES)
            fitting = self._fitting(head, link, from_guest=True, drops=False)
            self._remember(flow, fitting)
        return fitting

    def _remember(self, flow: Flow, fitting: list[LiveCapture]) -> None:
        if len(self._verdicts) >= MAX_VERDICTS:
            self._verdicts.clear()
        self._verdicts[flow] = fitting

    def refused(
        self,
        port: Port,
        slot: int,
        frames: list[tuple[int, int]],
        items: list[Item],
    ) -> None:
        """Some of the frames [(off, len)] that a guest sent were dropped: write those."""
        vnet_len, features = port.link.vnet_len, port.link.features
        view = self._slots[slot]
        runs = _runs(items, slot)
        last = -1
        now = time_ns()
        for off, length in frames:
            if off <= last:
                continue
            if off in runs:
                last = runs[off]
            elif reason := self._refusal(view, off, length, vnet_len, features, port.link.verify):
                self._write_drop(port.number, view[off : off + length], now, reason)
        self.flush()

    def dropped(self, record: Dropped) -> None:
        """Write frames that demux dropped. The caller frees their slot."""
        port = self._ports.get(record.link)
        if port is None or record.reason >= len(TABLE):
            return
        reason = TABLE[record.reason].name
        view = self._slots[record.slot]
        features = port.link.features
        now = time_ns()
        for off, length in record.places():
            vnet_len = VNET_LEN if record.vnet else 0
            self._ident = self._ident + 1 & 0xFFFFFFFF
            for part in on_wire(view, off, length, vnet_len, features, self._mtu, self._ident):
                self._write_drop(port.number, part, now, reason)
        self.flush()

    def gathered(self, port: Port, buffers: list[Buffer], proto: int, key: FlowKey) -> None:
        """Write the frames of one record, which are about to be sent to a guest. Call flush() before send.

        proto, key: of the flow of all of them; key is empty if there is none.
        """
        if not buffers:
            return
        form, vnet_len = port.link.framing, port.link.vnet_len
        start = form.prefix_len + vnet_len if form is not None else 0
        mac = bytes(buffers[0][start : start + ethernet.MAC_LEN])
        flow = (port.number, proto | _TO_GUEST, mac, key)
        fitting = self._verdicts.get(flow) if key and len(mac) == ethernet.MAC_LEN else None
        if fitting is None:
            first = _first_bytes(buffers, start + HEAD_BYTES, form is None)
            head = capture_filter.read(first, start, len(first))
            fitting = self._fitting(head, port.number, from_guest=False, drops=False)
            if key:
                self._remember(flow, fitting)
        if fitting:
            self._added = True
            now = time_ns()
            for frame in sent_on_wire(buffers, form, vnet_len):
                for capture in fitting:
                    capture.writer.add(port.number, frame, now, pcapng.OUTBOUND, "")

    def flush(self) -> None:
        """Queue what was added. Its memory may change afterwards."""
        if self._added:
            self._added = False
            for capture in list(self._captures):
                self._flush_one(capture)

    def _fitting(self, head: Head, link: int, from_guest: bool, drops: bool) -> list[LiveCapture]:
        fitting = []
        for capture in self._captures:
            if capture.drops == drops:
                if capture.wanted.fits(head, link, from_guest):
                    fitting.append(capture)
                if capture.wanted.has_learned():
                    self._verdicts.clear()
        return fitting

    def _write_drop(self, link: int, frame: Buffer | bytearray, now: int, reason: str) -> None:
        view = memoryview(frame)
        head = capture_filter.read(view, 0, len(view))
        for capture in self._fitting(head, link, from_guest=True, drops=True):
            capture.writer.add(link, frame, now, pcapng.INBOUND, f"dropped: {reason}")
            self._added = True

    def _flush_one(self, capture: LiveCapture) -> None:
        try:
            missing = capture.writer.flush()
        except OSError as error:
            self._end(capture, str(error.strerror))
            return
        if missing:
            self._worker.counts[_MISSING] += missing

    def _refusal(
        self, view: memoryview, off: int, length: int, vnet_len: int, features: int, verify: bool
    ) -> str:
        """Why GRO or the offload drops this frame: the name of a counter, "" if neither does."""
        if vnet_len:
            fields = virtio_net.LONG.unpack_from(view, off - VNET_LEN)
            if fields[0] or fields[1]:
                try:
                    verdict = vnet.judge(view, off, length, fields, features, self._ipv6)
                except WireError as error:
                    return error.reason
                if verdict >= vnet.CUT:
                    return ""  # its parts went on
                verify = verdict == vnet.VERIFY
        _, drops = gro.coalesce(view, [(off, length)], 0, 0, verify, vnet_len > 0, self._ipv6)
        return next(iter(drops), "")


def _runs(items: list[Item], slot: int) -> dict[int, int]:
    """Where the first frame of each record in the slot begins, and where the last does."""
    found: dict[int, int] = {}
    for item in items:
        if item.slot != slot:
            continue
        if isinstance(item, Frame):
            found[item.off] = item.off
        else:
            begin = item.off - item.header_len
            found[begin] = begin + _span(item)
    return found


def _span(run: Run) -> int:
    return (run.piece_count() - 1) * run.stride


def _first_bytes(buffers: list[Buffer], count: int, single: bool) -> bytes:
    """The first bytes of the first frame. single: each buffer is a frame."""
    first = bytes(buffers[0][:count])
    if not single:
        for buffer in buffers[1:]:
            if len(first) >= count:
                break
            first += bytes(buffer[:count])
    return first


class Captures:
    """The capture of the configuration (-pcap), and those of clients."""

    def __init__(
        self, worker: Worker, mtu: int, ports: dict[int, Port], steering: Steering, *, ipv6: bool = False
    ) -> None:
        self.file = Capture(worker, mtu)
        self.live = LiveCaptures(worker, mtu, ports, steering, ipv6=ipv6)
