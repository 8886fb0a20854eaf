"""Writes guests' questions, and proxies that fail, into the flow log while there is an egress policy."""

from collections.abc import Callable

from pipeline.config.model import EgressPolicy
from pipeline.control.flows.flow_log import PROXY_FAILED, QUESTION, FlowLog
from pipeline.control.hub import Hub


class QuestionLog:
    """The lines of the flow log that are not about flows."""

    def __init__(self, hub: Hub, flow_log: FlowLog | None) -> None:
        """flow_log: None if nobody wants one."""
        self._hub = hub
        self._flow_log = flow_log
        self._end: Callable[[], None] | None = None

    def follow(self, policy: EgressPolicy) -> None:
        """The policy is this one from now on."""
        log = self._flow_log
        if log is not None and policy != EgressPolicy():
            if self._end is None:
                self._end = self._hub.subscribe((QUESTION, PROXY_FAILED), log.write_question)
        elif self._end is not None:
            self._end()
            self._end = None
