"""The flow log: a line of JSON for each flow that has ended, failed or was refused, at any level of the log.

While there is an egress policy, it has a line for each question to the name server too, and for each
connection that its proxy has not led on.

The lines have the fields of the events (docs/events.md). Writing never blocks (pipeline.system.outlet). A
line that does not fit, or that cannot be written, is lost and counted. The next line that fits follows a line
``{"kind": "flow-log-lines-lost", "count": N}``. The log says once that lines are not written, and once that
they are again.
"""

import json
import os
from typing import Final

import structlog

from pipeline.control.hub import Happened
from pipeline.events.flows import EVERY_END
from pipeline.system import output_file
from pipeline.system.outlet import Outlet

QUESTION: Final = "question-answered"
"""The event of a guest's question."""
PROXY_FAILED: Final = "proxy-failed"
"""The event that says in words why a connection has not come through its proxy."""
FILE_MODE: Final = 0o600
"""Lines name guests, and the hosts that they reach."""
MAX_QUEUED: Final = 1 << 20
"""Bytes of lines that may wait."""
LAST_WAIT: Final = 0.5
"""Seconds that the program waits at its end for its last lines to be written."""


class FlowLog:
    """The open file. It receives events as a subscriber of the hub."""

    def __init__(self, path: str, log: structlog.typing.FilteringBoundLogger) -> None:
        """Raises OSError."""
        self._path = path
        self._log = log
        self._failing = False
        self._fd = output_file.open_file(path, FILE_MODE, append=True, read_fifo=True)
        self._outlet = Outlet(MAX_QUEUED, notice=_lost_line)

    def write(self, happened: Happened) -> None:
        """Queue the line of an event, unless a flow has only opened."""
        if happened.kind in EVERY_END:
            self.write_question(happened)

    def write_question(self, happened: Happened) -> None:
        """Queue the line of an event about a guest's question, or about a proxy."""
        line = json.dumps(happened.as_object(), default=str, separators=(",", ":"))
        self._outlet.put(self._fd, line.encode() + b"\n")
        # The thread has tried to write earlier lines.
        error = self._outlet.failing.get(self._fd)
        if (error is not None) != self._failing:
            self._failing = error is not None
            if error is not None:
                self._log.error("flow log not written", path=self._path, error=error.strerror)
            else:
                self._log.info("flow log written again", path=self._path)

    @property
    def lost(self) -> int:
        """Lines that were lost so far."""
        return self._outlet.lost

    def fileno(self) -> int:
        """The descriptor, which a forked process must close."""
        return self._fd

    def reopen(self) -> None:
        """Open the file again: another program has moved it away. Raises OSError; the old file stays then."""
        output_file.reopen(self._path, self._fd, FILE_MODE)

    def close(self) -> None:
        """Write what waits, and close the file. If the thread still writes, the file stays open."""
        if self._outlet.stop_thread(LAST_WAIT):
            os.close(self._fd)


def _lost_line(count: int) -> bytes:
    return json.dumps({"kind": "flow-log-lines-lost", "count": count}).encode() + b"\n"
