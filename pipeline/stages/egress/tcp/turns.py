"""Which flows read from their host sockets next, and which wait for slots."""

from typing import Generic, TypeVar

from pipeline.stages.egress.sockets import GuestSocket

F = TypeVar("F", bound=GuestSocket)


class ReadTurns(Generic[F]):
    """Flows with something to read: those that are ready, and those that wait for slots.

    ======= ============================================= ============================================
    state   begins when                                   ends when
    ======= ============================================= ============================================
    ready   the host socket has bytes, or a slot was      the flow's turn comes
            returned
    waiting the flow had its turn and found no slot       slots were returned: one flow of each guest
                                                          becomes ready
    ======= ============================================= ============================================

    When that flow has found room, or is over, the next waiting flow of its guest becomes ready.
    """

    def __init__(self) -> None:
        self.ready: dict[F, None] = {}
        self.more = False
        """Whether the next step has something to read even without an event."""
        self._waiting: dict[int, dict[F, None]] = {}
        """By guest. The flow that waits for longest comes first. No inner dict is empty."""

    @property
    def waiting_count(self) -> int:
        """Flows that wait for slots."""
        return sum(map(len, self._waiting.values()))

    def add(self, flow: F) -> None:
        """The flow has something to read."""
        self.ready[flow] = None

    def returned(self, flow: F) -> None:
        """Slots of a flow with something to read were returned: it need not wait."""
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
        """Slots were returned: one waiting flow of each guest becomes ready."""
        for guest in list(self._waiting):
            self.ready[self._take_waiting(guest)] = None

    def pass_on(self, flow: F) -> None:
        """The flow found room, or needs none any more: the next waiting flow of its guest becomes ready."""
        if flow.guest in self._waiting:
            self.ready[self._take_waiting(flow.guest)] = None
            # The current step may not reach it, and perhaps no event starts another step.
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
