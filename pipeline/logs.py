"""Logging: one JSON object a line, or a readable form on a terminal.

Every line has ``time`` (UTC, ISO 8601), ``level``, ``event``, ``worker`` and ``pid``, then the details of the
event (``guest``, ``flow``, ``error``, ...). All processes write to one descriptor, each line with one write,
so lines of several workers never mix. Standard library logging (asyncio, aiohttp) goes the same way from
level warning on. The file is not rotated or reopened.

Logging never blocks. Each process has a bounded queue and a thread that writes (system/outlet.py). A line
that finds no room, or that cannot be written, is lost and counted. When the log accepts lines again, the
line ``log lines dropped`` reports the count. At the end of the program ``flush`` waits at most LAST_WAIT.
"""

import atexit
import json
import logging
import os
import stat
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, cast

import structlog

from pipeline.system.outlet import Outlet

STDERR: Final = 2
MAX_QUEUED: Final = 256 * 1024
"""Bytes of lines that may wait to be written, in each process."""
LAST_WAIT: Final = 0.5
"""Seconds that the program waits at its end for its last lines to be written."""
FILE_MODE: Final = 0o666
LEVELS: Final = {"critical": 50, "error": 40, "warning": 30, "info": 20, "debug": 10}

_FIRST: Final = ("time", "level", "event", "worker", "pid")


def _dropped_line(count: int) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    line = {
        "time": now,
        "level": "warning",
        "event": "log lines dropped",
        "worker": _source,
        "pid": os.getpid(),
    }
    return json.dumps({**line, "count": count}).encode() + b"\n"


_outlet: Final = Outlet(MAX_QUEUED, notice=_dropped_line)
_source = "supervisor"
"""The worker whose lines this process writes."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_outlet.before_fork,
        after_in_parent=_outlet.after_fork_in_parent,
        after_in_child=_outlet.after_fork_in_child,
    )


class Line:
    """Receives finished lines from structlog, and queues each for a descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def msg(self, text: str) -> None:
        """Queue the line. If the queue is full the line is lost, since a log must not stop the program."""
        _outlet.put(self._fd, text.encode("utf-8", "backslashreplace") + b"\n")

    debug = info = warning = error = critical = msg


class _Forward(logging.Handler):
    """Turns records of the standard library's logging into lines of this log."""

    def emit(self, record: logging.LogRecord) -> None:
        log = logger("supervisor").bind(logger=record.name)
        log.log(max(record.levelno, logging.DEBUG), record.getMessage(), exc_info=record.exc_info)


def try_file(path: str) -> None:
    """Create or empty the log file. Raises OSError."""
    os.close(_open(path, os.O_TRUNC))


def _open(path: str, flag: int) -> int:
    """Open the log file. A FIFO is opened for reading too, so that it may lack a reader, or change it."""
    try:
        is_fifo = stat.S_ISFIFO(os.stat(path).st_mode)
    except FileNotFoundError:
        is_fifo = False
    way = os.O_RDWR if is_fifo else os.O_WRONLY
    return os.open(path, way | os.O_CREAT | os.O_CLOEXEC | flag, FILE_MODE)


def setup(log_file: str = "", level: str = "info", *, debug: bool = False) -> None:
    """Send all further lines to log_file, or to standard error for "".

    Call this before the workers are forked, since they inherit the set-up. debug: use the readable form if
    the output is a terminal. Raises OSError.
    """
    fd = STDERR
    if log_file:
        fd = _open(log_file, os.O_APPEND)
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
    # At level debug asyncio logs every selector event. These are not about guests.
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


def raw(text: str) -> None:
    """Write plain text to standard error, in order with the lines of this process."""
    _outlet.put(STDERR, text.encode("utf-8", "backslashreplace"))


def fatal(text: str, program: str = "gvtap-pipeline") -> None:
    """Report why the start failed: as a plain line on a terminal, else as a log line."""
    if os.isatty(STDERR):
        raw(f"{program}: {text}\n")
    else:
        logger("supervisor").critical(text)
    flush()


# --- the queue of this process ------------------------------------------------------------------


def begin(source: str, on_lost: Callable[[int], None]) -> None:
    """Set up logging in a forked process.

    source: the name in its lines. on_lost: called with the number of lines when some are lost.
    """
    global _source
    _source = source
    _outlet.on_lost = on_lost


def lost() -> int:
    """The number of lines that this process has lost so far."""
    return _outlet.lost


def flush(timeout: float = LAST_WAIT) -> bool:
    """Wait at most timeout seconds until all lines are written. Returns whether they are."""
    return _outlet.flush(timeout)


def stop_thread(timeout: float = LAST_WAIT) -> bool:
    """Flush and end the thread, before a fork. Returns whether no thread runs now."""
    return _outlet.stop_thread(timeout)


atexit.register(flush)
