"""The steps of a set-up, with names for the log. After an optional one that fails, the program goes on."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LOG: Final = logging.getLogger("gvtap-guest")


class StepError(Exception):
    """A step has failed: "cannot <what>: <why>"."""


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Turn an OSError of the block into a StepError that says what the program was about to do."""
    try:
        yield
    except OSError as error:
        raise StepError(f"cannot {what}: {words_of(error)}") from error


def words_of(error: OSError) -> str:
    """The system's words for an error, with the file that it is about."""
    if not error.errno:
        return str(error)
    file = f" ({error.filename})" if error.filename else ""
    return f"{os.strerror(error.errno).lower()}{file}"


def attempt(what: str, step: Callable[[], None]) -> bool:
    """Do step. An OSError becomes a warning: "cannot <what>". Returns whether the step succeeded."""
    try:
        step()
    except OSError as error:
        LOG.warning("cannot %s: %s; going on without", what, words_of(error))
        return False
    return True
