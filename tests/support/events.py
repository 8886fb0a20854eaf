"""A stage's reporter that keeps what is reported, and checks it against the table of events."""

from typing import Any

from pipeline.events.table import KINDS


class Events:
    """Stands for pipeline.stages.reporter.Reporter. It wants everything."""

    def __init__(self) -> None:
        self.reported: list[tuple[str, dict[str, Any]]] = []

    def wants(self, kind: str) -> bool:
        assert kind in KINDS, kind
        return True

    def report(self, kind: str, **fields: Any) -> None:
        unknown = set(fields) - set(KINDS[kind].fields)
        assert not unknown, f"{kind} has no fields {unknown}"
        self.reported.append((kind, fields))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The fields of all events of this kind."""
        return [fields for name, fields in self.reported if name == kind]
