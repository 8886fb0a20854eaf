"""Logging: one JSON object a line, or a readable form on a terminal.

Every line has ``time`` (UTC, ISO 8601), ``level``, ``event``, ``worker`` and ``pid``, then
what the event is about (``guest``, ``flow``, ``error``, ...). All processes write to one
descriptor, each line with one write, so lines of several workers never mix. Standard
library logging (asyncio, aiohttp) takes the same way from level warning on. Nothing here
rotates or reopens the file.
"""

import logging
import os
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, cast

import structlog

STDERR: Final = 2
FILE_MODE: Final = 0o666
LEVELS: Final = {"critical": 50, "error": 40, "warning": 30, "info": 20, "debug": 10}

_FIRST: Final = ("time", "level", "event", "worker", "pid")


class Line:
    """What structlog hands finished lines to: one write on a descriptor for each."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def msg(self, text: str) -> None:
        """Write the line. A log that cannot be written must not stop the program: the line is lost."""
        try:
            os.write(self._fd, text.encode("utf-8", "backslashreplace") + b"\n")
        except OSError:
            return

    debug = info = warning = error = critical = msg


class _Forward(logging.Handler):
    """Standard library records become events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = logger("supervisor").bind(logger=record.name)
        log.log(max(record.levelno, logging.DEBUG), record.getMessage(), exc_info=record.exc_info)


def try_file(path: str) -> None:
    """Make or empty the log file. Raises OSError when that is impossible."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE))


def setup(log_file: str = "", level: str = "info", *, debug: bool = False) -> None:
    """Send all further lines to log_file, or to standard error for "".

    Call before the workers are forked: they inherit the set-up. debug asks for the
    readable form where the output is a terminal. Raises OSError.
    """
    fd = STDERR
    if log_file:
        fd = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
    console = debug and not log_file and os.isatty(fd)
    render: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=True, timestamp_key="time")]
        if console
        else [_in_order, structlog.processors.JSONRenderer(default=str, ensure_ascii=False)]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _stamp,
            structlog.processors.format_exc_info,
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: Line(fd),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    # At level debug asyncio tells of every selector event; that says nothing about guests.
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def logger(worker: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines name the worker."""
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger(worker=worker))


def _stamp(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["time"] = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    event["pid"] = os.getpid()
    return event


def _in_order(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    ordered = {key: event.pop(key) for key in _FIRST if key in event}
    return {**ordered, **event}


def fatal(text: str, program: str = "gvtap-pipeline") -> None:
    """The last word of a start that failed: a plain line on a terminal, else a log line."""
    if os.isatty(STDERR):
        sys.stderr.write(f"{program}: {text}\n")
    else:
        logger("supervisor").critical(text)
