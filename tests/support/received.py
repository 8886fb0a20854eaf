"""Records that played workers receive."""

from typing import Any, Final

from pipeline.records import kinds
from pipeline.records.frames import FrameOut
from tests.support.layouts import decode

_CARRIES: Final = frozenset(
    (
        kinds.FRAME,
        kinds.TCP_RANGE,
        kinds.UDP_RANGE,
        kinds.UDP_DATA,
        kinds.TO_HOST,
        kinds.TO_GUEST,
        kinds.UDP_OUT,
        kinds.ICMP_ECHO,
        kinds.ICMP_REPLY,
        kinds.UDP_TO_GUEST,
        kinds.SERVICE_DATAGRAM,
        kinds.DROPPED,
    )
)
"""Kinds of record that pass on a reference to their slot. (FRAME_OUT does so unless it is borrowed.)"""


class Received:
    """A record: its kind, and the fields of its class as attributes."""

    def __init__(self, raw: bytes) -> None:
        self.kind: int = raw[0]
        self.fields: Any = decode(raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["fields"], name)

    def __repr__(self) -> str:
        return f"{type(self.fields).__name__}({self.kind}, {vars(self.fields)})"

    def carries(self) -> bool:
        """Whether the record passes on a reference to its slot."""
        if isinstance(self.fields, FrameOut):
            return not self.fields.borrowed
        return self.kind in _CARRIES and self.fields.slot != kinds.NO_SLOT
