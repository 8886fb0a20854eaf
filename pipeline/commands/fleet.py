"""The sub-commands about a fleet, which need nats-py: this module says so if it is not installed."""

import importlib.util
import sys
from collections.abc import Sequence
from typing import Final

from pipeline.daemon.fleet import LIBRARY
from pipeline.go.flags import Parsed

_FAILED: Final = 1


def status(parsed: Parsed, words: Sequence[str]) -> int:
    """List the hosts of a fleet. Returns the exit code."""
    return _run("status", parsed, words)


def guests(parsed: Parsed, words: Sequence[str]) -> int:
    """List the guests of all hosts. Returns the exit code."""
    return _run("guests", parsed, words)


def policy_show(parsed: Parsed, words: Sequence[str]) -> int:
    """Print the egress policy of a fleet. Returns the exit code."""
    return _run("policy_show", parsed, words)


def policy_set(parsed: Parsed, words: Sequence[str]) -> int:
    """Replace the egress policy of a fleet. Returns the exit code."""
    return _run("policy_set", parsed, words)


def _run(name: str, parsed: Parsed, words: Sequence[str]) -> int:
    if importlib.util.find_spec(LIBRARY) is None:
        sys.stderr.write(
            f"fleet needs {LIBRARY}, which is not installed: pip install 'gvtap-pipeline[fleet]'\n"
        )
        return _FAILED
    from pipeline.fleet import command  # noqa: PLC0415  an extra

    return int(getattr(command, name)(parsed, words))
