"""The interface of stages. A stage does the work of one worker, which gives it rings, sockets and time."""

from typing import Protocol

from pipeline.config.model import Config
from pipeline.stages.control_sockets import Message
from pipeline.stages.holdings import Holdings
from pipeline.stages.losses import Losses


class Stage(Protocol):
    """What a worker needs from its stage."""

    def step(self, now: float) -> int:
        """Process the records and timers that are due. Returns how much was done.

        The worker may sleep after this call. If the stage has more to do, deadline() must say so. If it waits
        for room in a ring, it must call ``room()`` of that ring last. While an output ring is full, the stage
        may leave records in its input rings. These records do not end a sleep. The next event, record or
        deadline does.
        """
        ...

    def deadline(self) -> float:
        """The time (monotonic) at which step() must be called without an event; inf for never."""
        ...

    def on_control(self, message: Message, fds: list[int]) -> Message | None:
        """Serve one message. The stage owns the descriptors. The result is sent if the message has an id.

        If the result is None, the stage calls ``Worker.reply`` later. The worker logs an exception, and sends
        {"error": text} as the answer.
        """
        ...

    def reload(self, config: Config) -> None:
        """Use these settings from now on, as far as they can change (pipeline.config.live).

        Only the resolver may refuse: it raises ValueError, and then nothing has changed.
        """
        ...

    def close(self) -> None:
        """Give back what the stage holds. The worker ends in order."""
        ...

    def on_released(self, source: str, tags: list[int]) -> None:
        """The worker ``source`` freed slots of this worker with these tags, all above 0 (see Worker.free).

        This is not called for slots freed without a tag.
        """
        ...

    def slots_held(self) -> Holdings:
        """The references to slots that the stage itself holds, between two breaths (see holdings.py)."""
        ...

    def on_workers_lost(self, losses: Losses, now: float) -> None:
        """Other workers have died, and have successors (see losses.py). Called between two breaths."""
        ...

    def held(self) -> dict[str, int]:
        """The number of objects that the stage holds for guests, by kind. All are 0 if no guest is there."""
        ...
