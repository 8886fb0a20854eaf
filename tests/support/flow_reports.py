"""A reporter that keeps what a worker reports about flows."""

from typing import Any

from pipeline.ipc.flow_rows import CLOSED, FAILED, OPENED, REFUSED, FlowReport, report_of

ALL = (OPENED, CLOSED, FAILED, REFUSED)


class Wanted:
    """Stands for pipeline.stages.reporter.Reporter. It wants these kinds."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds
        self.got: list[tuple[str, FlowReport]] = []

    def wants(self, kind: str) -> bool:
        return kind in self.kinds

    def report(self, kind: str, facts: list[Any]) -> None:
        if kind in self.kinds:
            self.got.append((kind, report_of(facts)))
