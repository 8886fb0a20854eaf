"""Optional steps of a set-up: if one fails, the program logs it and goes on."""

import logging
from collections.abc import Callable
from typing import Final

LOG: Final = logging.getLogger("gvtap-guest")


def attempt(what: str, step: Callable[[], None]) -> bool:
    """Do step. An OSError becomes a warning: "cannot <what>". Returns whether the step succeeded."""
    try:
        step()
    except OSError as error:
        LOG.warning("cannot %s: %s; going on without", what, error)
        return False
    return True
