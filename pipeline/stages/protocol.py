"""What a worker and its stage are to each other: the members that every stage has."""

from typing import Protocol

from pipeline.stages.control_sockets import Message


class Stage(Protocol):
    """What a worker needs of its stage."""

    def step(self, now: float) -> int:
        """Do what there is to do. Returns how much was done.

        The worker may sleep after it. A stage that has more to do says so in deadline(). A stage that waits
        for room in a ring calls ``room()`` of that ring last. It may leave records in its input rings while
        their way out is blocked. Those do not end a sleep; the next event, record or deadline does.
        """
        ...

    def deadline(self) -> float:
        """Time (monotonic) at which step() must be called without any event; inf for never."""
        ...

    def on_control(self, message: Message, fds: list[int]) -> Message | None:
        """Serve one message. The descriptors become the stage's. The result is sent if the message has an id.

        None instead of a result: the stage calls ``Worker.reply`` later. The worker logs an exception, and
        sends it back as {"error": text}.
        """
        ...

    def close(self) -> None:
        """The worker ends in order: give back what the stage holds."""
        ...

    def on_released(self, source: str, tags: list[int]) -> None:
        """The worker ``source`` freed slots of this worker with these tags (see Worker.free), all above zero.

        A stage whose slots are freed without tags is never called.
        """
        ...

    def held(self) -> dict[str, int]:
        """How many of each thing the stage holds for guests, by name. All are 0 when no guest is there."""
        ...
