"""Logging: one JSON object a line, or a readable form on a terminal.

Every line has ``time`` (UTC, ISO 8601), ``level``, ``event``, ``kind``, ``worker`` and ``pid``, then the
details of the event (``guest``, ``flow``, ``error``, ...). ``event`` is a text for people. ``kind`` is a
stable name: pipeline.events has the table of all kinds and their fields. All processes write to one
descriptor, each line with one write, so lines of several workers never mix. Standard library logging
(asyncio, aiohttp) goes the same way from level warning on. reopen() opens the file again after a program has
moved it away.

On a terminal the lines have a readable form, with colours unless NO_COLOR is set. If standard error is the
journal of systemd, each line begins with its priority (sd-daemon(3)).

A guest can cause most events as often as it likes, so every kind of event has a rate (log/limits.py). A line
over its rate is left out, and ``suppressed`` of the next such line has the count. A minute later, and at the
end, a summary (``log lines left out``) has the counts that no line has reported. Lines of level critical have
no rate. At level debug the rates are much higher. Long values are cut at MAX_TEXT.

Logging never blocks. Each process has a bounded queue and a thread that writes (system/outlet.py). A line
that finds no room, or that cannot be written, is lost and counted. When the log accepts lines again, the
line ``log lines dropped`` reports the count. If a log file cannot be written, for instance on a full disk,
each process that has lines says so once on standard error. At the end of the program ``flush`` waits at most
LAST_WAIT.
"""

import atexit
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Final, cast

# Where rich is installed structlog loads it, for tracebacks that this log does not have. That costs 4 MB and
# 25 ms. structlog does without if it cannot be imported.
_rich = sys.modules.pop("rich", None)
sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _rich is None:
    del sys.modules["rich"]
else:
    sys.modules["rich"] = _rich

from pipeline.events.table import NAME_OF  # noqa: E402
from pipeline.log import forms  # noqa: E402
from pipeline.log.limits import DEBUG_KIND, DEBUG_SUBJECT, Limiter  # noqa: E402
from pipeline.system import output_file  # noqa: E402
from pipeline.system.outlet import Outlet, signals_blocked  # noqa: E402

STDERR: Final = 2
MAX_TEXT: Final = 400
"""Characters of one value. Some of them come from a guest or client."""
MAX_TRACEBACK: Final = 16_000
SUMMARY_AFTER: Final = 60.0
"""Seconds from the first line that was left out to the summary."""
OPERATOR: Final = "operator"
"""Key of a line about something that came through the API on the host: ``log.info(..., operator=True)``."""
MAX_QUEUED: Final = 256 * 1024
"""Bytes of lines that may wait to be written, in each process."""
LAST_WAIT: Final = 0.5
"""Seconds that the program waits at its end for its last lines to be written."""
FILE_MODE: Final = 0o600
"""Of a log file that is created here. Lines name guests, and the hosts that they reach."""
LEVELS: Final = {"critical": 50, "error": 40, "warning": 30, "info": 20, "debug": 10}

_KIND_WORDS: Final = 3
_SUBJECTS: Final = ("opened_by", "guest", "guest_address", "client", "peer", "link")
"""Keys that name the guest or client of a line, the best name first. A guest that comes again has another
number, but the same opener."""


def _dropped_line(count: int) -> bytes:
    priority = f"<{forms.PRIORITIES['warning']}>" if _for_journal else ""
    return priority.encode() + _own_line("warning", "log lines dropped", count=count)


def _own_line(level: str, event: str, **details: object) -> bytes:
    """A line about the log itself."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    names = {"kind": NAME_OF.get(event), "worker": _source, "pid": os.getpid()}
    return json.dumps({"time": now, "level": level, "event": event, **names, **details}).encode() + b"\n"


_outlet: Final = Outlet(MAX_QUEUED, notice=_dropped_line)
_source = "supervisor"
"""The worker whose lines this process writes."""
_file = ("", STDERR)
"""Path and descriptor of the log file, "" for standard error."""
_failing = False
"""Whether the log file could not be written, as far as standard error was told."""
_for_journal = False
"""Whether the descriptor of the log is systemd's journal."""
_limiter = Limiter()
_level = "info"
_lock = threading.Lock()
_summary: threading.Timer | None = None
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _forget_lines())
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
        if self._fd != STDERR:
            _report_failure(self._fd)

    debug = info = warning = error = critical = msg


def _report_failure(fd: int) -> None:
    """Say on standard error, once, that the log file takes no lines. When it does, it says what it lacks."""
    global _failing
    error = _outlet.failing.get(fd)
    if (error is not None) != _failing:
        _failing = error is not None
        if error is not None:
            _outlet.put(STDERR, _own_line("error", "log not written", path=_file[0], error=error.strerror))


class _Leveled(structlog.make_filtering_bound_logger(logging.INFO)):  # type: ignore[misc]
    """The class of all loggers. Its base decides which levels are written (_set_base)."""


class _Forward(logging.Handler):
    """Turns records of the standard library's logging into lines of this log."""

    def emit(self, record: logging.LogRecord) -> None:
        log = logger("supervisor").bind(logger=record.name)
        # The rate goes by the text without its arguments, since a guest may choose them. asyncio puts
        # numbers of tasks into the text itself, so only its first words count.
        text, rate = record.getMessage(), f"{record.name}: {_first_words(str(record.msg))}"
        log.log(max(record.levelno, logging.DEBUG), text, exc_info=record.exc_info, kind="library", rate=rate)


def try_file(path: str, *, empty: bool = True) -> None:
    """Create or empty the log file (see pipeline.system.output_file). Raises OSError.

    empty: if false, the file keeps its lines: they are those of a program that runs.
    """
    os.close(output_file.open_file(path, FILE_MODE, empty=empty, read_fifo=True))


def reopen() -> int:
    """Open the log file again: another program has moved the old one away. Returns its descriptor.

    If that fails, the old file stays. Standard error and descriptors of a parent are never opened again, and
    the result is -1. adopt() is for the other processes.
    """
    path, fd = _file
    if not path:
        return -1
    try:
        output_file.reopen(path, fd, FILE_MODE)
    except OSError as error:
        logger(_source).error("log file cannot be opened again", path=path, error=error.strerror)
    return fd


def adopt(new: int) -> None:
    """Write to this descriptor in place of the log file's, which keeps its number. Closes new."""
    path, fd = _file
    if path:
        os.dup2(new, fd, inheritable=False)
    os.close(new)


def setup(log_file: str = "", level: str = "info") -> None:
    """Send all further lines to log_file, or to standard error for "".

    Call this before the workers are forked, since they inherit the set-up. Lines for a terminal are readable,
    but those for a log_file never are. Raises OSError.
    """
    global _limiter
    if level == "debug":
        _limiter = _limiter_for(level)
    _set_base(level)
    fd = STDERR
    if log_file:
        fd = output_file.open_file(log_file, FILE_MODE, append=True, read_fifo=True)
    global _file, _for_journal
    _file = (log_file, fd)
    _for_journal = forms.in_journal(fd)
    render: structlog.typing.Processor = forms.json_line
    if _for_journal:
        render = forms.journal_line
    elif not log_file and os.isatty(fd):
        render = forms.readable_line(colors=forms.has_colors())
    structlog.configure(
        processors=[
            _limit,
            structlog.processors.add_log_level,
            _stamp,
            structlog.processors.format_exc_info,
            _cut,
            render,
        ],
        wrapper_class=_Leveled,
        logger_factory=lambda *_: Line(fd),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    # At level debug asyncio logs every selector event. These are not about guests.
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Change the level of this process, also for loggers that exist."""
    global _limiter
    if level == _level:
        return
    _summarize()  # the rates of another level begin with full buckets
    with _lock:
        _limiter = _limiter_for(level)
    _set_base(level)


def _limiter_for(level: str) -> Limiter:
    return Limiter(DEBUG_SUBJECT, DEBUG_KIND) if level == "debug" else Limiter()


def _set_base(level: str) -> None:
    # The class of all loggers gets another base. So a line below the level costs no more than a call.
    global _level
    _level = level
    _Leveled.__bases__ = (structlog.make_filtering_bound_logger(LEVELS[level]),)
    logging.getLogger().setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


def logger(worker: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines name the worker."""
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger(worker=worker))


def _stamp(_logger: object, _method: str, event: forms.Event) -> forms.Event:
    event["time"] = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    event["pid"] = os.getpid()
    return event


def _cut(_logger: object, _method: str, event: forms.Event) -> forms.Event:
    for key, value in event.items():
        longest = MAX_TRACEBACK if key == "exception" else MAX_TEXT
        if isinstance(value, str) and len(value) > longest:
            event[key] = f"{value[:longest]}... ({len(value)} characters)"
    return event


# --- how often ------------------------------------------------------------------------------------


def _limit(_logger: object, method: str, event: forms.Event) -> forms.Event:
    operator = event.pop(OPERATOR, False)
    text = str(event.get("event"))
    if name := event.get("kind") or NAME_OF.get(text):
        event["kind"] = name
    rate = event.pop("rate", None) or name or _first_words(text)
    if method == "critical":
        return event
    with _lock:
        before = _limiter.admit(rate, _subject(event), monotonic(), operator=operator)
    if before < 0:
        _summarize_later()
        raise structlog.DropEvent
    if before:
        event["suppressed"] = before
    return event


def _first_words(text: str) -> str:
    """What the lines of one kind have in common. Further words of a text may be details."""
    return " ".join(text.split(None, _KIND_WORDS)[:_KIND_WORDS])


def _subject(event: forms.Event) -> str:
    """The guest or client of a line, without its port. "" if the line names none."""
    for key in _SUBJECTS:
        name = str(event.get(key, ""))
        if key == "link" and name:
            return f"link {name}"
        if name not in ("", "@"):
            return name.rpartition(":")[0] or name
    return ""


def _summarize_later() -> None:
    global _summary
    if _summary is not None:
        return
    timer = threading.Timer(SUMMARY_AFTER, _summarize)
    timer.daemon = True
    try:
        with signals_blocked():
            timer.start()
    except RuntimeError:
        return  # The system gives no thread now. The next line that is left out tries again.
    _summary = timer


def _summarize() -> None:
    """Report the lines that were left out and that no other line has reported."""
    global _summary
    if _summary is not None:
        _summary.cancel()
        _summary = None
    with _lock:
        pending = _limiter.take_pending()
    for kind, (count, subjects) in pending.items():
        names = {"most": ", ".join(f"{name} ({number})" for name, number in subjects.items())}
        logger(_source).warning(
            "log lines left out", of=kind, suppressed=count, **(names if subjects else {})
        )


def _forget_lines() -> None:
    """Start with full buckets in a forked process. The parent reports the lines that it left out."""
    global _failing, _limiter, _lock, _summary
    _failing = False
    _limiter, _lock, _summary = _limiter.anew(), threading.Lock(), None


def raw(text: str) -> None:
    """Write plain text to standard error, in order with the lines of this process."""
    _outlet.put(STDERR, text.encode("utf-8", "backslashreplace"))


def fatal(text: str, program: str = "gvtap-pipeline") -> None:
    """Report why the start failed: as a plain line on a terminal, else as a log line."""
    if os.isatty(STDERR):
        raw(f"{program}: {text}\n")
    else:
        logger("supervisor").critical(text, kind="start-failed")
    flush()


# --- the queue of this process ------------------------------------------------------------------


def begin(source: str, on_lost: Callable[[int], None]) -> None:
    """Set up logging in a forked process.

    source: the name in its lines. on_lost: called with the number of lines when some are lost. Lines wait
    until go_on().
    """
    global _source
    _source = source
    _outlet.on_lost = on_lost
    _outlet.hold()


def go_on() -> None:
    """Write the lines that came since begin(): from now on this process may have threads."""
    _outlet.go_on()


def lost() -> int:
    """The number of lines that this process has lost so far."""
    return _outlet.lost


def flush(timeout: float = LAST_WAIT) -> bool:
    """Wait at most timeout seconds until all lines are written. Returns whether they are."""
    _summarize()
    return _outlet.flush(timeout)


def stop_thread(timeout: float = LAST_WAIT) -> bool:
    """Flush and end the threads, before a fork. Returns whether no thread writes now."""
    _summarize()
    return _outlet.stop_thread(timeout)


atexit.register(flush)
