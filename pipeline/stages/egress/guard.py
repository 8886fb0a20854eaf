"""The egress policy in the egress worker: judges new flows, counts and logs what it refuses."""

import errno
from time import monotonic
from typing import Final

from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines.policy import Policy
from pipeline.stages.worker import Worker
from pipeline.wire import ipv4

REFUSED: Final = errno.EACCES
"""What a guest is told, as an errno: administratively prohibited."""
LOG_SPACING: Final = 1.0
"""Seconds between two log lines about refused flows: a guest must not fill the log."""

_REFUSED: Final = INDEX["egress_flow_refused_policy"]


class Guard:
    """Asked before each new flow, and only while it is ``active``."""

    def __init__(self, worker: Worker, config: Config) -> None:
        self.policy = Policy(config.egress_policy)
        self.active = self.policy.active
        self._counts = worker.counts
        self._log = worker.log
        self._log_at = 0.0
        self._unlogged = 0

    def learn(self, guest: int, address: int, pattern: int, ttl: int) -> None:
        """The gateway's name server gave this answer to a guest."""
        self.policy.learn(guest, address, pattern, ttl, monotonic())

    def admits(self, guest: int, address: int, port: int, protocol: str) -> bool:
        """Whether a guest may hear of an address that it has not spoken to: if it could speak to it."""
        return self.policy.allows(guest, address, port, protocol, monotonic())

    def refuses(self, guest: int, address: int, port: int, protocol: str) -> bool:
        """Whether a flow must not be; a refusal is counted here."""
        now = monotonic()
        if self.policy.allows(guest, address, port, protocol, now):
            return False
        self._counts[_REFUSED] += 1
        if now < self._log_at:
            self._unlogged += 1
            return True
        self._log.warning(
            "flow refused by the egress policy",
            guest=ipv4.addr_text(guest),
            to=f"{ipv4.addr_text(address)}:{port}" if port else ipv4.addr_text(address),
            protocol=protocol,
            unlogged=self._unlogged,
        )
        self._log_at, self._unlogged = now + LOG_SPACING, 0
        return True
