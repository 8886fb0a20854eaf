"""What a quota limits, and how the subject of an account is written.

Workers count (pipeline.engines.quotas), and the supervisor adds up (pipeline.control.quotas). Both use these
numbers and words. The sums of an account are a list. Each kind of use below NUMBERS is an index of it.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

FROM_GUEST: Final = 0
TO_GUEST: Final = 1
CONNECTIONS: Final = 2
QUESTIONS: Final = 3
NUMBERS: Final = 4
"""The length of an account's sums."""
BOTH_WAYS: Final = 4
"""Bytes from and to the guest together. No sum has them alone: see used()."""

KEYS: Final[Mapping[int, str]] = {
    BOTH_WAYS: "bytes",
    FROM_GUEST: "bytes-from-guest",
    TO_GUEST: "bytes-to-guest",
    CONNECTIONS: "connections",
    QUESTIONS: "dns-questions",
}
"""By kind: the key of a quota's limit in the configuration."""

GUEST_MARK: Final = "guest "
"""Before the number of a guest (pipeline.stages.ingress.guests) that no word of a quota names."""


class QuotaConfig(Protocol):
    """One quota of the configuration. A limit of 0 allows any number."""

    @property
    def guests(self) -> Sequence[str]: ...
    @property
    def per(self) -> str: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def bytes_from_guest(self) -> int: ...
    @property
    def bytes_to_guest(self) -> int: ...
    @property
    def connections(self) -> int: ...
    @property
    def dns_questions(self) -> int: ...
    @property
    def open_flows(self) -> str: ...


def limits(quota: QuotaConfig) -> dict[int, int]:
    """By kind, in the order of KEYS: the most that the quota allows. It has no kind without a limit."""
    found = {
        BOTH_WAYS: quota.total_bytes,
        FROM_GUEST: quota.bytes_from_guest,
        TO_GUEST: quota.bytes_to_guest,
        CONNECTIONS: quota.connections,
        QUESTIONS: quota.dns_questions,
    }
    return {kind: most for kind, most in found.items() if most}


def used(sums: Sequence[int], kind: int) -> int:
    """How much of this kind the sums of an account have."""
    return sums[FROM_GUEST] + sums[TO_GUEST] if kind == BOTH_WAYS else sums[kind]


def rule(index: int) -> str:
    """How messages and answers name the quota with this place in the list."""
    return f"egress-policy.quotas[{index}]"
