"""Reports how connections opened and ended (pipeline.stages.flow_reports)."""

import errno
from collections.abc import Mapping
from typing import Final

from pipeline.engines.tcp import ending
from pipeline.ipc.flow_rows import GATEWAY, GUEST, HOST
from pipeline.records.flows import Ends, FlowKey
from pipeline.records.streams import Decided
from pipeline.stages.flow_reports import ERROR, LIMIT, POLICY, PROXY, TOO_MANY_SOCKETS, FlowReports
from pipeline.stages.tcp.flow import Flow
from pipeline.stages.tcp.rows import of_flow
from pipeline.stages.worker import Worker

_ENDS: Final[Mapping[int, tuple[str, str]]] = {
    ending.GUEST_FIN: (GUEST, "fin"),
    ending.HOST_FIN: (HOST, "fin"),
    ending.GUEST_RESET: (GUEST, "reset"),
    ending.HOST_RESET: (HOST, "reset"),
    ending.TIMED_OUT: (GATEWAY, "timeout"),
    ending.CONNECT_FAILED: (HOST, ERROR),
    ending.UNREACHABLE: (GUEST, ERROR),
    ending.GUEST_GONE: (GATEWAY, "orphan"),
    ending.LIMIT: (GATEWAY, LIMIT),
    ending.DELETED: (GATEWAY, "deleted"),
    ending.FORBIDDEN: (GATEWAY, POLICY),
    ending.PROXY_FAILED: (HOST, PROXY),
}
"""Who ended a connection, and why, by Tcb.end."""
_ERRORS: Final[Mapping[int, int]] = {
    ending.GUEST_RESET: errno.ECONNREFUSED,
    ending.TIMED_OUT: errno.ETIMEDOUT,
    ending.UNREACHABLE: errno.EHOSTUNREACH,
}
"""The errno that a program would get for a connection that failed thus."""


class _Decision:
    """What the egress policy has said of a connection."""

    def __init__(self) -> None:
        self.allowed = True
        self.rule = ""
        self.name = ""


_NO_DECISION: Final = _Decision()


class TcpReports:
    """The reports of one tcp worker."""

    def __init__(self, worker: Worker) -> None:
        self._reports = FlowReports(worker.events)
        self._decisions: dict[Flow, _Decision] = {}
        """Of connections that are open, while anyone wants reports."""

    def decided(self, flow: Flow, decided: Decided) -> None:
        """Egress reports a decision of the policy, or a part of it."""
        decision = self._decisions.setdefault(flow, _Decision())
        decision.allowed = decided.allowed
        if decided.is_name:
            decision.name += decided.text
        else:
            # No rule's path needs a second record. A later decision takes the place of the first one.
            decision.rule, decision.name = decided.text, ""

    def opened(self, flow: Flow, now: float) -> None:
        """The handshake is complete on both sides."""
        if self._reports.wants_opened():
            self._reports.opened(of_flow(flow, now))

    def ended(self, flow: Flow, now: float) -> None:
        """The connection is over. One in TIME-WAIT counts as over."""
        decision = self._decisions.pop(flow, _NO_DECISION) if self._decisions else _NO_DECISION
        if not self._reports.wants_ended() or flow.refused:
            return
        if flow.errno in (errno.EMFILE, errno.ENFILE):
            guest, ends = flow.guest.number, Ends.of(flow.key)
            self._reports.refused("tcp", guest, ends, limit=TOO_MANY_SOCKETS, error=flow.errno)
            return
        row = of_flow(flow, now)
        end = flow.conn.end
        by, reason = _ENDS.get(end, (GATEWAY, ERROR))
        if not decision.allowed:
            self._reports.refused_open(row, decision.rule, decision.name)
        elif flow.established:
            self._reports.closed(row, by, reason, rule=decision.rule, name=decision.name)
        else:
            error = flow.errno or _ERRORS.get(end, 0)
            self._reports.failed(row, by, reason, error, decision.rule)

    def refused(self, key: FlowKey, guest: int, limit: str) -> None:
        """A SYN is not accepted. limit: the counter."""
        if self._reports.wants_ended():
            self._reports.refused("tcp", guest, Ends.of(key), limit=limit)
