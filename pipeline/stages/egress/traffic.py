"""Counts what a flow without connection carries: it has no sequence numbers that would tell."""

from pipeline.engines.quotas import Meter
from pipeline.ipc.flow_rows import FlowRow
from pipeline.records.flows import Ends
from pipeline.wire import ip


class Traffic:
    """Datagrams or pings of one flow. Counted once for each record, which may stand for many of them."""

    def __init__(self, now: float) -> None:
        self.began_at = now
        self.last_at = now
        """When something went either way."""
        self.packets_from_guest = 0
        self.packets_to_guest = 0
        self.bytes_from_guest = 0
        self.bytes_to_guest = 0
        self.meter: Meter | None = None
        """Counts the bytes for the quotas of the guest, if there are any."""

    def from_guest(self, packets: int, length: int, now: float) -> None:
        """The guest sent packets with this many bytes of payload in all."""
        self.packets_from_guest += packets
        self.bytes_from_guest += length
        self.last_at = now
        if self.meter is not None:
            self.meter.carried(length, 0)

    def to_guest(self, packets: int, length: int, now: float) -> None:
        """Packets with this many bytes of payload in all are on their way to the guest."""
        self.packets_to_guest += packets
        self.bytes_to_guest += length
        self.last_at = now
        if self.meter is not None:
            self.meter.carried(0, length)

    def row(self, now: float) -> FlowRow:
        """The flow as the supervisor gets it."""
        raise NotImplementedError

    def counted(
        self, number: int, protocol: str, direction: str, guest: int, ends: Ends, now: float
    ) -> FlowRow:
        """A row with the counters."""
        return FlowRow(
            number=number,
            protocol=protocol,
            direction=direction,
            guest=guest,
            guest_address=ip.text(ends.guest_addr),
            guest_port=ends.guest_port,
            address=ip.text(ends.remote_addr),
            port=ends.remote_port,
            state="open",
            age=now - self.began_at,
            idle=max(now - self.last_at, 0.0),
            bytes_from_guest=self.bytes_from_guest,
            bytes_to_guest=self.bytes_to_guest,
            packets_from_guest=self.packets_from_guest,
            packets_to_guest=self.packets_to_guest,
        )
