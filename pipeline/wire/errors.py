"""The errors of the wire modules: the bytes of a frame are malformed.

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


class HeaderError(WireError):
    """Malformed IPv6 headers about which the sender is told (RFC 4443 section 3.4).

    code: of the parameter problem message. pointer: offset of the wrong field in the packet, in bytes.
    """

    def __init__(self, reason: str, code: int, pointer: int) -> None:
        super().__init__(reason)
        self.code = code
        self.pointer = pointer
