"""What a connection asks of its stage: actions, a call of transmit(), a call of on_timer().

A connection does no IO itself. Its parts (receiver, sender, recovery, probing) note here what they want, and
the stage looks at it after each event. All parts of one connection share one Agenda. The Agenda refers to no
part, so a connection that is over is freed at once: there is no cycle of references.
"""

from pipeline.engines.tcp.actions import Action, Discard
from pipeline.engines.tcp.timers import all_off


class Agenda:
    """Parts add to ``actions``, and store into ``timers`` (see timers.py), themselves: that is cheapest."""

    __slots__ = ("actions", "timers", "wants_transmit")

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.timers = all_off()
        self.wants_transmit = False
        """Whether transmit() has something to send, as far as is known without trying."""

    def transmit_soon(self) -> None:
        """Ask for a call of transmit()."""
        self.wants_transmit = True

    def transmit_begins(self) -> None:
        """The stage has called transmit(). What cannot leave in this call asks again."""
        self.wants_transmit = False

    def discard(self, bufs: list[object]) -> None:
        """Give received handles back."""
        self.actions.extend(Discard(buf) for buf in bufs)

    def take_actions(self) -> list[Action]:
        """The actions since the last call, in order."""
        actions = self.actions
        if actions:
            self.actions = []
        return actions

    def stop_timers(self) -> None:
        """The connection waits for nothing any more."""
        self.timers = all_off()
