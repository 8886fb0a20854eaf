"""What a connection asks of its stage: actions, a call of transmit(), a call of on_timer().

A connection does no I/O itself. Its parts (receiver, sender, recovery, probing) note their requests here, and
the stage reads them after each event. All parts of one connection share one Agenda. The Agenda does not refer
to a part, so there are no reference cycles, and Python frees a connection that is over at once.
"""

from pipeline.engines.tcp.actions import Action, Discard
from pipeline.engines.tcp.timers import all_off


class Agenda:
    """Parts append to ``actions`` and store into ``timers`` (see timers.py) directly, which is cheapest."""

    __slots__ = ("actions", "timers", "wants_transmit")

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.timers = all_off()
        self.wants_transmit = False
        """Whether transmit() may have something to send."""

    def transmit_soon(self) -> None:
        """Ask for a call of transmit()."""
        self.wants_transmit = True

    def transmit_begins(self) -> None:
        """The stage has called transmit(). A part that could not send in this call asks again."""
        self.wants_transmit = False

    def discard(self, bufs: list[object]) -> None:
        """Free received handles."""
        self.actions.extend(Discard(buf) for buf in bufs)

    def take_actions(self) -> list[Action]:
        """The actions since the last call, in order."""
        actions = self.actions
        if actions:
            self.actions = []
        return actions

    def stop_timers(self) -> None:
        """Set all timers to NEVER."""
        self.timers = all_off()
