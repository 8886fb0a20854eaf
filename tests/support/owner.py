"""Owns the links of listeners in tests. It records what listeners report, and reads the guests' frames."""

import socket
from collections.abc import Callable

from pipeline.ipc.arena import SLOT_BYTES, Pool
from pipeline.links.base import Link, LinkClosed
from pipeline.links.listener import Arrival, LinkResources, Listener
from tests.support.poller import Poller


class Owner:
    """Opens listeners on a poller of its own."""

    def __init__(self, slot_count: int = 8, mtu: int = 1500) -> None:
        self.poller = Poller()
        self.slots = [memoryview(bytearray(SLOT_BYTES)) for _ in range(slot_count)]
        self.pool = Pool(0, slot_count)
        self.resources = LinkResources(self.pool, self.slots, mtu)
        self.guests: list[Arrival] = []
        self.woken: list[Link] = []
        self.new_mtus: list[int] = []
        self.hung_up: list[str] = []
        self.refused: list[tuple[str, str]] = []
        self.failed: list[str] = []
        self.connecting: list[tuple[Listener, socket.socket]] = []
        self._listeners: list[Listener] = []

    def open(self, listener: Listener) -> Listener:
        """Open a listener. close() closes it too."""
        self._listeners.append(listener)
        listener.open(self.poller, self.resources, self)
        return listener

    def attach(self, guest: Arrival, listener: Listener) -> None:
        self.guests.append(guest)

    def hang_up(self, link: Link, text: str) -> None:
        self.hung_up.append(text)
        self.leave(link)

    def wake(self, link: Link) -> None:
        self.woken.append(link)

    def mtu_changed(self, link: Link) -> None:
        self.new_mtus.append(link.tunnel_mtu)

    def refuse(self, listener: Listener, text: str, reason: str) -> None:
        self.refused.append((text, reason))

    def connect(self, listener: Listener, sock: socket.socket) -> None:
        self.connecting.append((listener, sock))

    def fail(self, listener: Listener, text: str) -> None:
        self.failed.append(text)

    def leave(self, link: Link) -> None:
        """Do what an owner does when a guest has left."""
        self.guests = [guest for guest in self.guests if guest.link is not link]
        link.close()
        for listener in self._listeners:
            listener.on_left(link)

    def wait(self, done: Callable[[], object]) -> None:
        """Deliver events until done() is true."""
        self.poller.run_until(done)

    def guest(self) -> Arrival:
        """Wait for a guest, which must be the only one."""
        self.wait(lambda: self.guests)
        assert len(self.guests) == 1
        return self.guests[0]

    def frames(self, count: int, guest: Arrival | None = None) -> list[bytes]:
        """The next ``count`` frames of the guest."""
        link = (guest or self.guest()).link
        found: list[bytes] = []

        def read() -> bool:
            while (burst := link.read_burst()) is not None:
                found.extend(bytes(self.slots[burst[0]][off : off + length]) for off, length in burst[1])
            return len(found) >= count

        self.wait(read)
        return found

    def end_of(self, guest: Arrival) -> str:
        """Read until the link ends. Returns its reason."""
        words: list[str] = []

        def read() -> bool:
            try:
                guest.link.read_burst()
            except LinkClosed as error:
                words.append(str(error))
            return bool(words)

        self.wait(read)
        self.leave(guest.link)
        return words[0]

    def close(self) -> None:
        """Close everything, and assert that all slots are free."""
        for guest in list(self.guests):
            guest.link.close()
        for listener in self._listeners:
            listener.close()
        assert not self.poller.callbacks
        self.poller.close()
        assert self.pool.refs_out == 0
