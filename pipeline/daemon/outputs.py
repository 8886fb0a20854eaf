"""The files that the supervisor opens for output: the capture, which ingress gets, and the flow log."""

import os

import structlog

from pipeline.config.model import Logging
from pipeline.control.flows.flow_log import FlowLog
from pipeline.links import pcap


class OutputError(Exception):
    """A file cannot be written. The text says which one, and why."""


class Outputs:
    """The files of one run of the daemon."""

    def __init__(self, config: Logging, log: structlog.typing.FilteringBoundLogger) -> None:
        self._config = config
        self._log = log
        self.capture = -1
        """The descriptor, -1 if there is none or close_capture() was called."""
        self.flow_log: FlowLog | None = None

    def open(self, capture: int = -1) -> None:
        """Open those that the configuration names. Raises OutputError.

        capture: a predecessor has opened the capture already, and written to it.
        """
        if path := self._config.capture_file:
            try:
                self.capture = capture if capture >= 0 else pcap.open_file(path)
            except OSError as error:
                raise OutputError(f"cannot write capture {path}: {error.strerror}") from error
        if path := self._config.flow_log:
            try:
                self.flow_log = FlowLog(path, self._log)
            except OSError as error:
                raise OutputError(f"cannot write flow log {path}: {error.strerror}") from error

    @property
    def fds(self) -> list[int]:
        """All descriptors. No worker inherits them."""
        flow_log = [self.flow_log.fileno()] if self.flow_log is not None else []
        return flow_log + ([self.capture] if self.capture >= 0 else [])

    def reopen_flow_log(self) -> None:
        """Open the flow log again, if there is one: somebody has renamed the file."""
        if self.flow_log is not None:
            try:
                self.flow_log.reopen()
            except OSError as error:
                path = self._config.flow_log
                self._log.error("flow log cannot be opened again", path=path, error=error.strerror)

    def close_capture(self) -> None:
        """Close the capture. May be called twice."""
        if self.capture >= 0:
            os.close(self.capture)
            self.capture = -1

    def close(self) -> None:
        """Close all."""
        self.close_capture()
        if self.flow_log is not None:
            self.flow_log.close()
