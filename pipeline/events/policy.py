"""The events about the egress policy itself. Flows that it refuses are in flows.py."""

from typing import Final

from pipeline.events.kind import INFO, Kind, published

KINDS: Final[tuple[Kind, ...]] = (
    published(
        *("policy-changed", INFO, "egress policy changed"),
        "A client of the API has changed the egress policy.",
        default="allow or deny",
        rules="number of rules",
        ended="open flows that it forbids, and that were ended",
    ),
)
