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


def forwards(parsed: Parsed, words: Sequence[str]) -> int:
    """List the forwards of a fleet. Returns the exit code."""
    return _run("forwards", parsed, words, of_forwards=True)


def expose(parsed: Parsed, words: Sequence[str]) -> int:
    """Open forwards on all hosts of a fleet. Returns the exit code."""
    return _run("expose", parsed, words, of_forwards=True)


def unexpose(parsed: Parsed, words: Sequence[str]) -> int:
    """Close forwards on all hosts of a fleet. Returns the exit code."""
    return _run("unexpose", parsed, words, of_forwards=True)


def _run(name: str, parsed: Parsed, words: Sequence[str], *, of_forwards: bool = False) -> int:
    if importlib.util.find_spec(LIBRARY) is None:
        sys.stderr.write(
            f"fleet needs {LIBRARY}, which is not installed: pip install 'gvtap-pipeline[fleet]'\n"
        )
        return _FAILED
    from pipeline.fleet import command, forward_commands  # noqa: PLC0415  an extra

    return int(getattr(forward_commands if of_forwards else command, name)(parsed, words))
