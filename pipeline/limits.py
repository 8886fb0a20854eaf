"""The limits that a user may set, with their bounds.

One row serves the configuration file (``limits: {max-tcp-flows: ...}``), the flag
``-limit max-tcp-flows=...`` and the documentation. Config has a field of each row's name.
"""

from typing import Final, NamedTuple


class Limit(NamedTuple):
    """One row. ``key`` is the name in files and flags; ``low`` and ``high`` are allowed."""

    name: str
    default: int
    low: int
    high: int
    help: str

    @property
    def key(self) -> str:
        """The name with dashes, as users write it."""
        return self.name.replace("_", "-")


TABLE: Final[tuple[Limit, ...]] = (
    Limit("max_tcp_flows", 16384, 1, 1 << 20, "TCP connections that one TCP worker keeps at a time"),
)

BY_KEY: Final[dict[str, Limit]] = {limit.key: limit for limit in TABLE}
