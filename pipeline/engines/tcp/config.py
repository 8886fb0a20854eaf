"""Settings of the TCP engine. All connections of a worker share one TcpConfig.

Where RFCs leave a choice, defaults follow Linux, because guests are tuned for it. Times are in seconds, sizes
in bytes.
"""

from dataclasses import dataclass
from typing import Final, Literal

IPV4_TCP_HEADER_BYTES: Final = 40
IPV6_TCP_HEADER_BYTES: Final = 60
MIN_IPV6_MTU: Final = 1280
"""Every link of IPv6 carries packets of this length (RFC 8200 section 5)."""
MIN_MSS: Final = 88
"""The least MSS (as in Linux). A peer that asks for a smaller one would cost too much CPU for each byte."""
DEFAULT_MSS: Final = 536
"""The MSS of a peer whose SYN has no MSS option (RFC 9293 MUST-15)."""
MAX_WINDOW: Final = 65535 << 14
"""Largest window that scaling can express (RFC 7323 section 2.3)."""


@dataclass(frozen=True, slots=True)
class TcpConfig:
    """The settings. They are checked here, once; the engine does not check them again."""

    mtu: int = 1500
    """The longest IP packet in both directions on the guest's link. Our MSS is header_bytes less."""
    header_bytes: int = IPV4_TCP_HEADER_BYTES
    """Bytes of the IP and TCP headers, without options: 40 over IPv4, 60 over IPv6."""
    initial_receive_window: int = 256 * 1024
    max_receive_window: int = 4 * 1024 * 1024
    """Autotuning never makes the receive window larger than this."""
    short_receive_window: float = 0.0015
    """Seconds. A receive window may grow if its bytes arrive within this time, or within twice the shortest
    round (autotune.py). A larger one would only fill queues and delay small flows of the same guest."""
    max_reassembly_bytes: int = 1024 * 1024
    """The most out-of-order bytes that one connection may hold."""
    max_reassembly_ranges: int = 128
    """The most out-of-order ranges, and so references to slots, that one connection may hold."""
    max_sent_ranges: int = 1024
    """The most ranges of the sender's scoreboard. A SACK that would cut one more is ignored."""
    max_range_bytes: int = 65536
    """The longest range that transmit() returns."""
    window_scaling: bool = True
    timestamps: bool = True
    sack: bool = True
    nagle: bool = False
    """Off: data are whole reads of a host socket, and the host's sender has applied Nagle itself."""
    congestion: Literal["cubic", "newreno"] = "cubic"
    initial_window_segments: int = 10
    min_rto: float = 0.2
    """Less than RFC 6298's 1 s (SHOULD), as in Linux: guest links have round trips of microseconds."""
    max_rto: float = 120.0
    initial_rto: float = 1.0
    delayed_ack: float = 0.04
    first_delayed_ack: float = 0.0
    """Seconds for which an ACK waits for the host's first answer. 0: such an ACK is sent when the host takes
    the bytes. A guest may have more to send, and Nagle lets it wait for the ACK (RFC 9293 section 3.7.4)."""
    syn_retries: int = 6
    synack_retries: int = 5
    retries: int = 15
    """Retransmission time-outs of one range, or unanswered window probes, before the guest counts as dead."""
    connect_timeout: float = 180.0
    """How long to wait for the host's connect(). Every kernel gives up earlier."""
    keepalive: bool = True
    """On, although RFC 1122 4.2.3.6 says off (MUST). No application here would notice that a guest has
    vanished, and each connection holds a host socket."""
    keepalive_idle: float = 7200.0
    keepalive_interval: float = 75.0
    keepalive_probes: int = 9
    time_wait: float = 60.0
    fin_wait_2: float = 60.0
    """Only if the host socket is closed in both directions. Half-closed connections have no limit."""
    challenge_acks: int = 10
    """The most challenge ACKs in one challenge_interval (RFC 5961 section 7)."""
    challenge_interval: float = 5.0
    invalid_ack_interval: float = 0.5
    """The least time between two ACKs that answer out-of-window segments without data."""

    def __post_init__(self) -> None:
        if not self.header_bytes + MIN_MSS <= self.mtu <= 65535:
            raise ValueError(f"mtu {self.mtu} is outside {self.header_bytes + MIN_MSS}..65535")
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
        """The MSS option that we send: the MTU without IP and TCP headers (RFC 6691)."""
        return self.mtu - self.header_bytes

    @property
    def window_shift(self) -> int:
        """The smallest window scale with which max_receive_window fits the field (RFC 7323 section 2.3)."""
        shift = 0
        while self.max_receive_window >> shift > 65535:
            shift += 1
        return shift
