"""Limits and switches of the TCP engine; all connections of a worker share one TcpConfig.

Where RFCs leave a choice, defaults follow Linux, so that a guest meets the behaviour it is tuned for. Times
are seconds, sizes bytes.
"""

from dataclasses import dataclass
from typing import Final, Literal

IP_TCP_HEADER_BYTES: Final = 40
MIN_MSS: Final = 88
"""Floor under what a peer may ask for (as Linux): a smaller one is an attack on our CPU."""
DEFAULT_MSS: Final = 536
"""RFC 9293 MUST-15: assumed where the peer's SYN names none."""
MAX_WINDOW: Final = 65535 << 14
"""Largest window that scaling can express (RFC 7323 section 2.3)."""


@dataclass(frozen=True, slots=True)
class TcpConfig:
    """What a connection may do. Values are checked once, here; the engine trusts them."""

    mtu: int = 1500
    """Largest IPv4 packet either way on the guest's link; our MSS is 40 less."""
    initial_receive_window: int = 256 * 1024
    max_receive_window: int = 4 * 1024 * 1024
    """Autotuning never makes the receive window larger than this."""
    short_receive_window: float = 0.0015
    """Seconds. A receive window may grow if it arrives within this time, or within twice the shortest round
    trip. More bytes would only wait in queues, ahead of small flows of the same guest."""
    max_reassembly_bytes: int = 1024 * 1024
    """Out-of-order bytes one connection may hold."""
    max_reassembly_ranges: int = 128
    """Out-of-order ranges (slots' references) one connection may hold."""
    max_sent_ranges: int = 1024
    """Ranges of the sender's scoreboard; SACKs that would cut further are ignored."""
    max_range_bytes: int = 65536
    """Largest range that transmit() gives out."""
    window_scaling: bool = True
    timestamps: bool = True
    sack: bool = True
    nagle: bool = False
    """Off: data are whole reads of a host socket, and the host's sender has applied its own Nagle already."""
    congestion: Literal["cubic", "newreno"] = "cubic"
    initial_window_segments: int = 10
    min_rto: float = 0.2
    """Below RFC 6298's 1 s (SHOULD), as Linux: guest links have round trips of microseconds."""
    max_rto: float = 120.0
    initial_rto: float = 1.0
    delayed_ack: float = 0.04
    syn_retries: int = 6
    synack_retries: int = 5
    retries: int = 15
    """Back-offs of one range, or unanswered window probes, before the guest counts as dead."""
    connect_timeout: float = 180.0
    """Bound on the wait for the host connection, longer than any kernel's own."""
    keepalive: bool = True
    """On, against RFC 1122 4.2.3.6 (MUST default off): no application here would notice that a guest has
    vanished, and each connection holds a host socket."""
    keepalive_idle: float = 7200.0
    keepalive_interval: float = 75.0
    keepalive_probes: int = 9
    time_wait: float = 60.0
    fin_wait_2: float = 60.0
    """For a connection whose host side is closed in both directions. Half-closed connections stay."""
    challenge_acks: int = 10
    """Challenge ACKs in any challenge_interval (RFC 5961 section 7)."""
    challenge_interval: float = 5.0
    invalid_ack_interval: float = 0.5
    """Between two ACKs that answer out-of-window segments without data."""

    def __post_init__(self) -> None:
        if not IP_TCP_HEADER_BYTES + MIN_MSS <= self.mtu <= 65535:
            raise ValueError(f"mtu {self.mtu} is outside {IP_TCP_HEADER_BYTES + MIN_MSS}..65535")
        if not 0 < self.initial_receive_window <= self.max_receive_window <= MAX_WINDOW:
            raise ValueError(
                f"receive windows {self.initial_receive_window}, {self.max_receive_window} "
                f"are not 0 < initial <= max <= {MAX_WINDOW}"
            )
        if self.max_range_bytes < self.mtu:
            raise ValueError(f"max_range_bytes {self.max_range_bytes} is less than the mtu {self.mtu}")
        if not 0 < self.min_rto <= self.initial_rto <= self.max_rto:
            raise ValueError("retransmission times are not 0 < min_rto <= initial_rto <= max_rto")
        if self.congestion not in ("cubic", "newreno"):
            raise ValueError(f"congestion {self.congestion!r} is neither cubic nor newreno")

    @property
    def rcv_mss(self) -> int:
        """The MSS option we send: what fits the link, IP and TCP headers without options (RFC 6691)."""
        return self.mtu - IP_TCP_HEADER_BYTES

    @property
    def window_shift(self) -> int:
        """Smallest shift count with which max_receive_window fits the field (RFC 7323 section 2.3)."""
        shift = 0
        while self.max_receive_window >> shift > 65535:
            shift += 1
        return shift
