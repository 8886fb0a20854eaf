"""Steps that the network does not need: a failure is logged, and the program goes on."""

import logging
from collections.abc import Callable
from typing import Final

LOG: Final = logging.getLogger("gvtap-guest")


def attempt(what: str, step: Callable[[], None]) -> bool:
    """Do step. An OSError becomes a warning that names the step. Returns whether it was done."""
    try:
        step()
    except OSError as error:
        LOG.warning("cannot %s: %s; going on without", what, error)
        return False
    return True
