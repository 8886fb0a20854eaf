"""The one error of the wire layer: these bytes are not what they claim to be.

Does not say what to do about it: that is the caller's choice, who at least counts it.
"""


class WireError(ValueError):
    """Malformed input. ``reason`` is the name of a drop counter of the program.

    A wire function that gets hostile bytes raises this and nothing else, so that one
    ``except WireError as error: counters.add(error.reason)`` guards a whole burst.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
