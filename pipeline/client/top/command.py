"""The command ``top``: checks its flags and the terminal, asks the daemon once, and begins the screen.

textual is an extra of the package, since scripts and servers have no use for it. It is loaded here, when the
command runs.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Final

from pipeline.client import api
from pipeline.client.show import MISUSED, OK, PROGRAM, ask
from pipeline.go import flags

LIBRARY: Final = "textual"
SHORTEST: Final = 0.2
LONGEST: Final = 3600.0
"""Of -interval, in seconds."""


def run(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Show the screen until the user quits. Returns the exit code."""
    interval = interval_of(parsed.text("interval"))
    if interval is None:
        allowed = f"{SHORTEST:g} to {LONGEST:g} seconds"
        given = flags.quote(parsed.text("interval"))
        sys.stderr.write(f"{PROGRAM} top: -interval {given} is wrong (allowed: {allowed})\n")
        return MISUSED

    def show(daemon: api.Api, _width: int) -> int:
        check_library()
        if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
            raise api.ApiError("top needs a terminal as standard input, output and error")
        # A daemon that cannot be asked at all is reported as by the other commands.
        daemon.table("/status")
        if not os.environ.get("NO_COLOR"):
            # textual takes an empty one for a wish, https://no-color.org does not.
            os.environ.pop("NO_COLOR", None)
        from pipeline.client.top.polls import Poller  # noqa: PLC0415  it reads Prometheus' format
        from pipeline.client.top.screen import Top  # noqa: PLC0415  the library is an extra

        app = Top(Poller(daemon, interval), interval)
        app.run()
        return app.return_code or OK

    return ask("top", parsed, show)


def check_library() -> None:
    """Raise ApiError if the library of the screen is not installed."""
    if importlib.util.find_spec(LIBRARY) is None:
        raise api.ApiError(f"top needs {LIBRARY}, which is not installed: pip install 'gvtap-pipeline[top]'")


def interval_of(text: str) -> float | None:
    """Seconds in a text, None if it is not a number or out of range."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if SHORTEST <= seconds <= LONGEST else None
