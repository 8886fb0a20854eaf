"""Descriptors as tests look at them."""

from typing import Final, NamedTuple

from pipeline.records import descriptor as d

_CARRIES: Final = frozenset(
    (
        d.FRAME, d.TCP_RANGE, d.UDP_RANGE, d.UDP_DATA, d.TO_HOST, d.TO_GUEST, d.UDP_OUT, d.ICMP_ECHO,
        d.ICMP_REPLY, d.UDP_TO_GUEST, d.SERVICE_DATAGRAM,
    )
)  # fmt: skip
"""Kinds of record whose reference goes with them. (FRAME_OUT's does unless it is borrowed.)"""


class Record(NamedTuple):
    """A descriptor, by the names of pipeline.shm.descriptor."""

    kind: int
    flags: int
    link: int
    stride: int
    gso_size: int
    slot: int
    off: int
    length: int
    skip: int
    flow: int
    seq: int
    ack: int
    wnd: int
    ts_val: int
    ts_ecr: int
    guest_addr: int
    remote_addr: int
    ports: int
    aux: int

    def carries(self) -> bool:
        """Whether the reference to the slot belongs to whoever has the record."""
        if self.slot == d.NO_SLOT:
            return False
        if self.kind == d.FRAME_OUT:
            return not self.flags & d.FRAME_BORROWED
        return self.kind in _CARRIES
