"""Records as played workers receive them."""

from typing import Any, Final

from pipeline.records import kinds
from pipeline.records.descriptor import DESCRIPTOR
from pipeline.records.frames import FrameOut
from tests.support.layouts import decode
from tests.support.record import Record

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
    )
)
"""Kinds of record whose reference goes with them. (That of FRAME_OUT does unless it is borrowed.)"""


class Received:
    """One record: its kind, and the fields of its class as attributes.

    Names that the class does not have are those of the table of 19 fields, for tests that still use it.
    """

    def __init__(self, raw: bytes) -> None:
        self.kind: int = raw[0]
        self.fields: Any = decode(raw)
        self._table = Record(*DESCRIPTOR.unpack(raw))

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__["fields"]
        return getattr(fields if hasattr(fields, name) else self.__dict__["_table"], name)

    def __repr__(self) -> str:
        return f"{type(self.fields).__name__}({self.kind}, {vars(self.fields)})"

    def carries(self) -> bool:
        """Whether the reference to the slot belongs to whoever has the record."""
        if isinstance(self.fields, FrameOut):
            return not self.fields.borrowed
        return self.kind in _CARRIES and self.fields.slot != kinds.NO_SLOT
