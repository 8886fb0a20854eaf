"""Steps that the network works without: a failure is logged, and the program goes on."""

import logging
from collections.abc import Callable
from typing import Final

LOG: Final = logging.getLogger("gvtap-guest")


def attempt(what: str, step: Callable[[], None]) -> bool:
    """Do step; an OSError is a warning that names what could not be done. Whether it was done."""
    try:
        step()
    except OSError as error:
        LOG.warning("cannot %s: %s; going on without", what, error)
        return False
    return True
