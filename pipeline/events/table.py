"""All kinds of events."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from pipeline.events import clients, fleet, flows, network, policy, supervisor, workers
from pipeline.events.kind import Kind

TABLE: Final[tuple[Kind, ...]] = (
    *(*network.KINDS, *policy.KINDS, *flows.KINDS, *fleet.KINDS),
    *(*workers.KINDS, *supervisor.KINDS, *clients.KINDS),
)
KINDS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in TABLE}
PUBLISHED: Final = frozenset(kind.name for kind in TABLE if kind.published)
_TEXTS: Final = Counter(kind.text for kind in TABLE)
NAME_OF: Final[Mapping[str, str]] = {
    kind.text: kind.name for kind in TABLE if kind.text and _TEXTS[kind.text] == 1
}
"""The kind of a line of the log, by its text, if no other kind has this text."""
