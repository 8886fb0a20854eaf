"""Which flows read from their host sockets next, and which wait for slots."""

from typing import Generic, TypeVar

from pipeline.stages.egress.sockets import GuestSocket

F = TypeVar("F", bound=GuestSocket)


class ReadTurns(Generic[F]):
    """Flows with something to read, in the order of their turns, and those that found no room for it.

    ======= ==================================================== ===============================
    a flow  is there since                                       leaves when
    ======= ==================================================== ===============================
    ready   its host socket has something, or it was woken       its turn comes
    waiting it had its turn and found no slot                    slots came home: one of each
                                                                 guest becomes ready at a time
    ======= ==================================================== ===============================

    Of the flows of a guest that wait, one is tried at a time. When it has found room, or is over, it passes
    the turn on to the next.
    """

    def __init__(self) -> None:
        self.ready: dict[F, None] = {}
        self.more = False
        """Whether there is something to read although nothing new happens."""
        self._waiting: dict[int, dict[F, None]] = {}
        """By guest, the flow that waits for longest first. No dict here is empty."""

    @property
    def waiting_count(self) -> int:
        """Flows that wait for slots."""
        return sum(map(len, self._waiting.values()))

    def add(self, flow: F) -> None:
        """The flow has something to read."""
        self.ready[flow] = None

    def returned(self, flow: F) -> None:
        """Slots of a flow with something to read came home: it need not wait."""
        self._stop_waiting(flow)
        self.ready[flow] = None

    def wait(self, flow: F) -> None:
        """The flow found no room."""
        self._waiting.setdefault(flow.guest, {})[flow] = None

    def waits(self, flow: F) -> bool:
        """Whether the flow waits for slots."""
        waiting = self._waiting.get(flow.guest)
        return waiting is not None and flow in waiting

    def wake(self) -> None:
        """Slots came home: one flow of each guest that waits is ready."""
        for guest in list(self._waiting):
            self.ready[self._take_waiting(guest)] = None

    def pass_on(self, flow: F) -> None:
        """The flow found room, or needs none any more: the next of its guest is ready."""
        if flow.guest in self._waiting:
            self.ready[self._take_waiting(flow.guest)] = None
            # The turn that is on may not come to it, and nothing else need happen.
            self.more = True

    def remove(self, flow: F) -> None:
        """The flow is over."""
        self._stop_waiting(flow)
        if flow in self.ready:
            # It may be one that was woken and has not had its turn.
            del self.ready[flow]
            self.pass_on(flow)

    def _take_waiting(self, guest: int) -> F:
        flow = next(iter(self._waiting[guest]))
        self._stop_waiting(flow)
        return flow

    def _stop_waiting(self, flow: F) -> None:
        waiting = self._waiting.get(flow.guest)
        if waiting is not None and flow in waiting:
            del waiting[flow]
            if not waiting:
                del self._waiting[flow.guest]
