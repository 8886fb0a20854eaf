"""Which TCP options a connection uses: those that both SYNs have.

RFC 7323 sections 1.3 and 3.2 (window scale, timestamps), RFC 2018 section 2 (SACK).
"""

from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.segment import Segment


class Options:
    """The options in use. Before the peer's SYN arrives: those that our SYN offers."""

    __slots__ = ("sack_ok", "scaling", "ts_ok")

    def __init__(self, cfg: TcpConfig) -> None:
        self.sack_ok = cfg.sack
        self.scaling = cfg.window_scaling
        self.ts_ok = cfg.timestamps

    def agree(self, cfg: TcpConfig, syn: Segment) -> None:
        """Keep the options that the peer's SYN has, too."""
        self.sack_ok = cfg.sack and syn.sack_permitted
        self.scaling = cfg.window_scaling and syn.wscale >= 0
        self.ts_ok = cfg.timestamps and syn.has_ts
