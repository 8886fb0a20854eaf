"""What the control plane needs of a fleet, which few daemons have (pipeline.fleet.agent)."""

from typing import Protocol

from pipeline.ipc import messages


class FleetSide(Protocol):
    """The fleet, as the control plane sees it."""

    def on_event(self, event: messages.Event) -> None:
        """A worker reports something for the fleet."""

    async def introduce(self, worker: str) -> None:
        """Tell a successor of a worker what it has to know."""

    def pause(self) -> None:
        """A successor of this program takes over, and has the name of this host."""

    def go_on(self) -> None:
        """There is no successor after all."""
