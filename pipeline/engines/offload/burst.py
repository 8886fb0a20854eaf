"""The state of one call of GRO (gro.py): the frames of a slot, and the records made of them so far."""

from typing import TypeAlias

from pipeline.records.frames import Frame
from pipeline.records.tcp import TcpRange
from pipeline.records.udp import UdpRange

Item: TypeAlias = Frame | TcpRange | UdpRange
"""A record that GRO makes. It holds one reference to its slot."""


class Burst:
    """Frames at [(off, len), ...] of the slot ``view``, and the records and drops so far.

    verify: verify TCP and UDP checksums. vnet: a virtio-net header lies before each frame.
    items: records in order of arrival. drops: number of dropped frames, by the name of their counter.
    """

    __slots__ = ("drops", "frames", "items", "link", "slot", "verify", "view", "vnet")

    def __init__(
        self,
        view: memoryview,
        frames: list[tuple[int, int]],
        link: int,
        slot: int,
        verify: bool,
        vnet: bool,
    ) -> None:
        self.view = view
        self.frames = frames
        self.link = link
        self.slot = slot
        self.verify = verify
        self.vnet = vnet
        self.items: list[Item] = []
        self.drops: dict[str, int] = {}

    def drop(self, reason: str) -> None:
        """Count one frame as dropped."""
        self.drops[reason] = self.drops.get(reason, 0) + 1
