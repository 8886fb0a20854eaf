"""The ingress stage in its worker, with guests on socket pairs. The test turns the loop."""

import gc
import os
import socket
import time
from time import monotonic

from pipeline.config import merge, options
from pipeline.go import flags
from pipeline.ipc.fabric import Fabric
from pipeline.links.listener import Arrival
from pipeline.links.stream import StreamLink
from pipeline.records.frames import Frame, Misbehaved
from pipeline.records.guests import Work
from pipeline.records.kinds import FRAME as FRAME_KIND
from pipeline.records.kinds import RECORD_BYTES
from pipeline.stages.ingress.ports import Port
from pipeline.stages.ingress.shares import SHARING_S
from pipeline.stages.ingress.stage import IngressStage
from pipeline.stages.worker import Worker
from pipeline.topology import Layout
from pipeline.wire import framing

FRAME = b"\x0e\x00" + bytes(14)
"""The shortest frame, as it lies in the stream of a link."""
LARGE = (1200).to_bytes(2, "little") + bytes(1200)
"""A frame that is no small work."""


class IngressRig:
    """Ingress between links and rings. End it with ``end()``."""

    def __init__(self, *, ipv6: bool = False) -> None:
        words = ["-ipv6", "on"] if ipv6 else []
        config, _ = merge.build(flags.parse(options.START, words), words, resolv_conf=os.devnull)
        self.fabric = Fabric.create(Layout(64, 1, 1))
        self.worker = Worker(self.fabric.ports("ingress"), None)
        self.stage = IngressStage(self.worker, config)
        self.worker.adopt(self.stage)
        self.demux = self.fabric.ports("demux").rings_out["ingress"]
        self.rate = config.limits.max_bad_frames_per_second
        # As in a worker's process: a collection of all that the tests hold would be charged to a guest.
        gc.freeze()

    def end(self) -> None:
        """Close everything."""
        self.worker.end()
        gc.unfreeze()

    def guest(self) -> socket.socket:
        """A guest of /connect whose peer is unknown. Returns its end."""
        ours, theirs = socket.socketpair()
        assert self.stage.on_control({"op": "attach", "head": b""}, [ours.detach()]) == {}
        return theirs

    def link_of(self, identity: str) -> tuple[Port, socket.socket]:
        """A link that this peer has opened, and its other end."""
        ours, theirs = socket.socketpair()
        link = StreamLink(ours, framing.LE16, self.worker.pool, self.worker.ports.arena.slots)
        port = self.stage.ports.attach(Arrival(link, "connect", identity, identity))
        assert port is not None
        return port, theirs

    def begin_sharing(self, *ends: socket.socket) -> None:
        """All these guests are active."""
        for end in ends:
            end.sendall(LARGE)
        self.turn()
        self.turn()
        assert self.stage.ports.shares.several
        self.taken()

    def stop_sharing(self) -> None:
        """The guests are new, so they count as active. Wait until they do not any more."""
        self.turn()
        self.turn()
        time.sleep(SHARING_S)
        self.taken()

    def misbehaved(self, link: int) -> None:
        """Demux reports ten seconds' worth of bad frames."""
        self.demux.push(Misbehaved.pack(link, self.rate * 10))
        self.demux.publish()

    def worked(self, link: int, seconds: float) -> None:
        """Demux reports work for a link."""
        self.demux.push(Work.pack(link, int(seconds * 1e9)))
        self.demux.publish()

    def taken(self) -> int:
        """Take what ingress has sent to demux. Returns the number of records."""
        return len(self.kinds())

    def kinds(self) -> list[int]:
        """The kinds of the records that ingress has sent to demux, which are taken."""
        found: list[int] = []
        ring = self.fabric.ports("demux").rings_in["ingress"]
        while burst := ring.peek():
            found += burst[::RECORD_BYTES]
            ring.release(len(burst) // RECORD_BYTES)
        return found

    def finish(self) -> None:
        """Take the frames that ingress has sent to demux, and give their slots back."""
        ring = self.fabric.ports("demux").rings_in["ingress"]
        while burst := ring.peek():
            for at in range(0, len(burst), RECORD_BYTES):
                if burst[at] == FRAME_KIND:
                    self.worker.pool.unref(Frame.unpack(burst, at).slot)
            ring.release(len(burst) // RECORD_BYTES)

    def turn(self) -> list[tuple[int, int]]:
        """Deliver events and breathe. Returns the events."""
        assert self.worker.poller is not None
        events = self.worker.poller.poll(0, 64)
        self.worker.poller.dispatch(events)
        self.worker.breathe(monotonic())
        return events
