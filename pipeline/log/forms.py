"""The form of a line of the log: JSON, JSON with a priority for the journal, or a readable line."""

import os
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

PRIORITIES: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""Priorities of syslog (RFC 5424 section 6.2.1) by level."""
_FIRST: Final = ("time", "level", "event", "kind", "worker", "pid")

Event = MutableMapping[str, Any]


def in_journal(fd: int) -> bool:
    """Whether the descriptor is a stream to systemd's journal (JOURNAL_STREAM, systemd.exec(5))."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def has_colors() -> bool:
    """Whether the user wants colours (no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def json_line(logger: object, method: str, event: Event) -> str:
    """One JSON object, its first keys in order."""
    ordered = {key: event.pop(key) for key in _FIRST if key in event}
    return str(_JSON(logger, method, {**ordered, **event}))


def journal_line(logger: object, method: str, event: Event) -> str:
    """The same, after its priority (sd-daemon(3))."""
    priority = PRIORITIES[event["level"]]
    return f"<{priority}>{json_line(logger, method, event)}"


def readable_line(*, colors: bool) -> structlog.typing.Processor:
    """The function that makes a line for people. Parts of it may come from a guest."""
    render = structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="time")

    def line(logger: object, method: str, event: Event) -> str:
        event.pop("kind", None)
        for key, value in event.items():
            if isinstance(value, str):
                # A guest must not move the cursor or change the terminal's title.
                event[key] = _printable(value, multiline=key == "exception")
        return render(logger, method, event)

    return line


def _printable(text: str, *, multiline: bool) -> str:
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or (multiline and each == "\n") else repr(each)[1:-1] for each in text
    )


_JSON: Final = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
