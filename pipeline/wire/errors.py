"""The one error of the wire layer: these bytes are malformed.

The caller decides what to do about it. At least it counts the error.
"""


class WireError(ValueError):
    """Malformed input. ``reason``: the name of a drop counter.

    Hostile bytes cause no other exception of a wire function. So one
    ``except WireError as error: counters.add(error.reason)`` guards a whole burst.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
