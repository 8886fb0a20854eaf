"""Guests on vhost-user: a monitor connects, shares the guest's memory, and describes the rings in it.

The connection carries messages only. Frames pass through the guest's memory, so a guest has a link while the
rings of its first pair of queues run, and no longer:

::

    connected --messages--> rings run (Owner.attach) --stop, reset, other rings--> (Owner.hang_up) connected
                                 |
                                 +-- a ring is broken, or the link ends otherwise --> the connection ends too

A guest that reboots stops and starts its rings, which looks like a cable that was pulled. Monitors connect
again by themselves after the end of a connection (QEMU: reconnect=1).

pipeline.engines.virtio.session judges messages, and pipeline.links.guest_memory opens memory. Everything that
a monitor sends may be hostile. At worst its connection ends, and a counter tells why. Each connection has a
bounded number of descriptors. A call or a kick must be an eventfd.
"""

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from pipeline.engines.virtio import session as sessions
from pipeline.engines.virtio.from_guest import FrameReader, header_len
from pipeline.engines.virtio.memory import GuestMemory, RegionBytes, RingError
from pipeline.engines.virtio.session import MAX_MEM_SLOTS, MAX_PAIRS, Answer, Session, SessionError
from pipeline.engines.virtio.split_ring import SplitRing
from pipeline.engines.virtio.to_guest import FrameWriter
from pipeline.ipc import events as ev
from pipeline.ipc.fence import ORDERED, full_fence
from pipeline.links.accepting import AcceptingListener, peer_text
from pipeline.links.addresses import words_of
from pipeline.links.base import Link
from pipeline.links.guest_memory import MemoryRefused, open_region
from pipeline.links.listener import READABLE, Arrival
from pipeline.links.vhost_user_link import Queue, RingDescriptors, VhostUserLink
from pipeline.links.vhost_user_messages import MessageSocket
from pipeline.system import peer
from pipeline.wire import vhost_user as vu
from pipeline.wire import virtio
from pipeline.wire.errors import WireError

PROTOCOL: Final = "vhost-user"
MAX_FRONTENDS: Final = 64
"""Monitors that may be connected at a time. A further one is refused."""
MESSAGES_A_STEP: Final = 32
"""Messages of one monitor that are served before others have their turn."""

_KICKS: Final = ev.READ | ev.EDGE
_EVENTFD: Final = "anon_inode:[eventfd]"


class VhostUserListener(AcceptingListener):
    """A listening unix socket for monitors."""

    def __init__(self, sock: socket.socket, once: bool = False) -> None:
        super().__init__(PROTOCOL, sock, once)
        self._frontends: dict[_Frontend, None] = {}
        self._of_link: dict[Link, _Frontend] = {}

    def on_left(self, link: Link) -> None:
        """See Listener.on_left."""
        if frontend := self._of_link.pop(link, None):
            frontend.on_left()

    def close(self) -> None:
        """See Listener.close. A link cannot live without its monitor's connection, so links end too."""
        for frontend in list(self._frontends):
            frontend.end("the daemon stops")
        super().close()

    def _accepted(self, sock: socket.socket) -> None:
        if len(self._frontends) >= MAX_FRONTENDS:
            sock.close()
            self._owner.refuse(self, "too many monitors are connected", sessions.REFUSED)
            return
        self._frontends[_Frontend(self, sock)] = None

    # --- for frontends -------------------------------------------------------------------

    def poll(self, fd: int, mask: int, callback: Callable[[int], object]) -> None:
        """Call callback(events) when fd is ready."""
        assert self._poller is not None
        self._poller.register(fd, mask, callback)

    def stop_polling(self, fd: int) -> None:
        """Stop watching fd."""
        assert self._poller is not None
        self._poller.unregister(fd)

    def new_link(self, features: int) -> VhostUserLink:
        """A link without queues."""
        return VhostUserLink(features, self._resources.pool, self._resources.slots)

    @property
    def mtu(self) -> int:
        """The MTU of the network."""
        return self._resources.mtu

    def attach(self, frontend: "_Frontend", arrival: Arrival) -> None:
        """The rings of a frontend run."""
        self._of_link[arrival.link] = frontend
        self._owner.attach(arrival, self)

    def hang_up(self, link: Link, text: str) -> None:
        """The rings of a link do not run any more."""
        self._of_link.pop(link, None)
        self._owner.hang_up(link, text)

    def wake(self, link: Link) -> None:
        """A ring of a further pair was kicked."""
        self._owner.wake(link)

    def refuse(self, text: str, reason: str) -> None:
        """A frontend broke a rule."""
        self._owner.refuse(self, text, reason)

    def forget(self, frontend: "_Frontend") -> None:
        """A frontend is gone."""
        self._frontends.pop(frontend, None)


class _Frontend:
    """One monitor's connection, with its memory, its descriptors and perhaps its link."""

    def __init__(self, owner: VhostUserListener, sock: socket.socket) -> None:
        self._owner = owner
        self._socket = MessageSocket(sock)
        self._peer = peer_text(sock)
        self._identity = peer.identity(sock)
        self._session = Session(owner.mtu)
        self._memory = GuestMemory()
        self._descriptors = [RingDescriptors() for _ in range(2 * MAX_PAIRS)]
        self._rings: dict[int, SplitRing] = {}
        """The rings that the link uses, by index."""
        self._polled: list[int] = []
        """Descriptors of further pairs that are polled."""
        self._link: VhostUserLink | None = None
        self._ended = False
        owner.poll(sock.fileno(), READABLE, self._on_readable)

    # --- messages -----------------------------------------------------------------------

    def _on_readable(self, _events: int) -> None:
        try:
            for _ in range(MESSAGES_A_STEP):
                message = self._socket.receive()
                if message is None:
                    self.end("the monitor has left")
                    return
                self._serve(*message)
                if self._ended:
                    return
        except BlockingIOError:
            return
        except OSError as error:
            self.end(words_of(error))
        except (SessionError, RingError) as error:
            self._break(str(error), error.reason)
        except MemoryRefused as error:
            self._break(str(error), sessions.REFUSED)
        except WireError:
            self._break("not a vhost-user message", sessions.REFUSED)

    def _serve(self, header: vu.Header, payload: bytes, fds: list[int]) -> None:
        try:
            answer = self._session.on_message(header, payload, len(fds))
            self._act(answer, fds)
            self._update_link()
            if self._ended:
                return
            if answer.action == sessions.STOP_RING:
                self._socket.reply(header, self._session.vring_base(answer.ring), [])
            elif answer.reply is not None:
                has_file = answer.action == sessions.MAKE_INFLIGHT
                self._socket.reply(header, answer.reply, fds if has_file else [])
        finally:
            for fd in fds:
                os.close(fd)

    def _act(self, answer: Answer, fds: list[int]) -> None:
        """Do what a message asks for. A descriptor that is kept is removed from fds."""
        match answer.action:
            case sessions.SET_MEMORY:
                self._set_memory(answer.regions, fds)
            case sessions.ADD_MEMORY:
                if len(self._memory) >= MAX_MEM_SLOTS:
                    raise SessionError(f"memory has more than {MAX_MEM_SLOTS} regions")
                if text := self._memory.refusal(answer.regions[0]):
                    raise SessionError(text)
                self._memory.add(answer.regions[0], open_region(fds[0], answer.regions[0]))
            case sessions.REMOVE_MEMORY:
                if not self._memory.remove(answer.regions[0]):
                    raise SessionError("a region to remove does not exist")
                self._bind()
            case sessions.SET_KICK:
                _check_eventfd(fds[0])
                self._hang_up_if_used(answer.ring)
                descriptors = self._descriptors[answer.ring]
                _close(descriptors.kick)
                descriptors.kick = fds.pop()
            case sessions.SET_CALL:
                if fds:
                    _check_eventfd(fds[0])
                descriptors = self._descriptors[answer.ring]
                _close(descriptors.call)
                descriptors.call = fds.pop() if fds else -1
            case sessions.STOP_RING:
                self._hang_up_if_used(answer.ring)
            case sessions.MOVED:
                self._hang_up_if_used(answer.ring)
            case sessions.MAKE_INFLIGHT:
                for fd in fds:
                    os.close(fd)
                fds[:] = [_memory_file(answer.content)]

    # --- memory -------------------------------------------------------------------------

    def _set_memory(self, regions: Sequence[vu.Region], fds: list[int]) -> None:
        """Replace all regions. Rings go on in the new ones."""
        stores: list[RegionBytes] = []
        try:
            for region, fd in zip(regions, fds, strict=True):
                stores.append(open_region(fd, region))
        except MemoryRefused:
            for store in stores:
                store.close()
            raise
        self._memory.clear()
        text = ""
        for region, store in zip(regions, stores, strict=True):
            text = text or self._memory.refusal(region)
            self._memory.add(region, store)
        if text:
            raise SessionError(text)
        self._bind()

    def _bind(self) -> None:
        for ring in self._rings.values():
            ring.bind()

    # --- the link -----------------------------------------------------------------------

    def _update_link(self) -> None:
        """Attach a link, end it, or give it the queues that run now."""
        session = self._session
        if self._ended:
            return
        if not session.runs(0) or not len(self._memory):
            self._hang_up("the guest has stopped its card")
            return
        rings = [0] + [2 * pair + 1 for pair in range(MAX_PAIRS) if session.runs(pair)]
        link = self._link
        if link is not None and rings == list(self._rings):
            return
        for index in list(self._rings):
            if index not in rings:
                self._session.rings[index].position = self._rings.pop(index).index
        self._rings = {index: self._rings.get(index) or self._ring(index) for index in rings}
        new = link or self._owner.new_link(session.features)
        self._give_queues(new)
        self._poll_further(rings)
        if link is None:
            self._link = new
            self._owner.attach(self, Arrival(new, PROTOCOL, self._peer, self._identity))

    def _ring(self, index: int) -> SplitRing:
        place = self._session.rings[index].place
        assert place is not None
        return SplitRing(self._memory, place, self._session.features, full_fence, ORDERED)

    def _give_queues(self, link: VhostUserLink) -> None:
        features = self._session.features
        length = header_len(features)
        queues = [
            Queue(FrameReader(ring, self._memory, length, link.count_drop), self._descriptors[index])
            for index, ring in self._rings.items()
            if index
        ]
        mergeable = bool(features & virtio.F_MRG_RXBUF)
        writer = FrameWriter(self._rings[0], self._memory, length, mergeable, link.count_drop)
        writer.ring.refuse_kicks()
        link.set_queues(queues, writer, self._descriptors[0])

    def _poll_further(self, rings: Sequence[int]) -> None:
        """Poll the queues of further pairs. The owner polls those of the first one."""
        for fd in self._polled:
            self._owner.stop_polling(fd)
        self._polled = [self._descriptors[index].kick for index in rings if index > 1]
        for fd in self._polled:
            self._owner.poll(fd, _KICKS, self._on_kick)

    def _on_kick(self, _events: int) -> None:
        if self._link is not None:
            self._owner.wake(self._link)

    def _hang_up_if_used(self, index: int) -> None:
        if index in self._rings:
            self._hang_up("the guest has stopped its card")

    def _hang_up(self, text: str) -> None:
        """End the link, if there is one."""
        link, self._link = self._link, None
        if link is not None:
            self._owner.hang_up(link, text)
            self._forget_rings()

    def _forget_rings(self) -> None:
        self._poll_further(())
        for index, ring in self._rings.items():
            self._session.rings[index].position = ring.index
        self._rings.clear()

    def on_left(self) -> None:
        """The link has ended, and this frontend did not end it."""
        self._link = None
        self.end("")

    # --- the end ------------------------------------------------------------------------

    def _break(self, text: str, reason: str) -> None:
        """The frontend broke a rule."""
        self._owner.refuse(f"vhost-user: {text}", reason)
        self.end(text)

    def end(self, text: str) -> None:
        """Close everything. May be called twice."""
        if self._ended:
            return
        self._ended = True
        self._hang_up(text)
        self._forget_rings()
        self._owner.stop_polling(self._socket.fileno())
        self._socket.close()
        self._memory.clear()
        for descriptors in self._descriptors:
            _close(descriptors.kick)
            _close(descriptors.call)
            descriptors.kick = descriptors.call = -1
        self._owner.forget(self)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _check_eventfd(fd: int) -> None:
    """Raise SessionError for any other file: its reads, writes or polls could block or fail."""
    found = ""
    with suppress(OSError):
        found = os.readlink(f"/proc/self/fd/{fd}")
    if found != _EVENTFD:
        raise SessionError("a descriptor for kicks or calls is not an eventfd")


def _memory_file(content: bytes) -> int:
    """A file in memory with this content. Raises OSError."""
    fd = os.memfd_create("inflight", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
    except OSError:
        os.close(fd)
        raise
    return fd
