"""The only error of the wire modules: the bytes of a frame are malformed.

The caller counts the error, and decides what else to do about it.
"""


class WireError(ValueError):
    """Malformed input. ``reason``: the name of a drop counter.

    Whatever the bytes are, a wire function raises nothing else. So one
    ``except WireError as error: counters.add(error.reason)`` is enough for a whole burst.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
