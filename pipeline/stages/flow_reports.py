"""How workers report that flows opened, closed, failed or were refused (docs/flows.md).

The supervisor completes such a report, and writes its line of the log. While nobody wants the kind, a report
costs the look-up in ``wants()``, and nothing is gathered while a flow lives.
"""

import errno
from typing import Final

from pipeline.ipc.flow_rows import CLOSED, FAILED, GATEWAY, OPENED, OUT, REFUSED, FlowReport, FlowRow
from pipeline.records.flows import Ends
from pipeline.stages.reporter import Reporter
from pipeline.wire import ip

POLICY: Final = "policy"
LIMIT: Final = "limit"
ERROR: Final = "error"
PROXY: Final = "proxy"
TOO_MANY_SOCKETS: Final = "egress_flow_refused_too_many_sockets"
"""The counter of the limit on sockets of egress."""


class FlowReports:
    """The flow reports of one worker."""

    def __init__(self, events: Reporter) -> None:
        self._events = events

    def wants_opened(self) -> bool:
        """Whether anyone wants to know of flows that open."""
        return self._events.wants(OPENED)

    def wants_ended(self) -> bool:
        """Whether anyone wants to know of flows that close, fail or are refused."""
        events = self._events
        return events.wants(CLOSED) or events.wants(FAILED) or events.wants(REFUSED)

    def opened(self, flow: FlowRow) -> None:
        """A flow is open."""
        self._report(OPENED, FlowReport(flow))

    def closed(
        self, flow: FlowRow, by: str, reason: str, error: int = 0, *, rule: str = "", name: str = ""
    ) -> None:
        """A flow that was open has ended. error: an errno, 0 for none.

        rule: what has allowed it. name: what it stated, if it was held for that.
        """
        self._report(CLOSED, FlowReport(flow, by, reason, error, rule, stated_name=name))

    def failed(self, flow: FlowRow, by: str, reason: str, error: int = 0, rule: str = "") -> None:
        """A flow ended before it was open."""
        self._report(FAILED, FlowReport(flow, by, reason, error, rule))

    def refused_open(self, flow: FlowRow, rule: str, name: str) -> None:
        """A flow that was held states a name that the rule refuses, or none."""
        self._report(REFUSED, FlowReport(flow, GATEWAY, POLICY, errno.EACCES, rule, stated_name=name))

    def refused(
        self,
        protocol: str,
        guest: int,
        ends: Ends,
        *,
        rule: str = "",
        limit: str = "",
        error: int = 0,
        name: str = "",
    ) -> None:
        """A guest may not open a flow. rule: what forbids it. limit: the counter of the limit.

        name: what the flow stated.
        """
        if self._events.wants(REFUSED):
            reason = LIMIT if limit else POLICY
            report = FlowReport(_asked(protocol, guest, ends), GATEWAY, reason, error, rule, limit, name)
            self._report(REFUSED, report)

    def not_opened(self, protocol: str, guest: int, ends: Ends, error: int) -> None:
        """The host has no socket for a flow without connection."""
        if error in (errno.EMFILE, errno.ENFILE):
            self.refused(protocol, guest, ends, limit=TOO_MANY_SOCKETS, error=error)
        elif self._events.wants(FAILED):
            self.failed(_asked(protocol, guest, ends), GATEWAY, ERROR, error)

    def _report(self, kind: str, report: FlowReport) -> None:
        self._events.report(kind, facts=[list(report.flow), *report[1:]])


def _asked(protocol: str, guest: int, ends: Ends) -> FlowRow:
    """A flow that was never there."""
    return FlowRow(
        number=0,
        protocol=protocol,
        direction=OUT,
        guest=guest,
        guest_address=ip.text(ends.guest_addr),
        guest_port=ends.guest_port,
        address=ip.text(ends.remote_addr),
        port=ends.remote_port,
        state="closed",
    )
