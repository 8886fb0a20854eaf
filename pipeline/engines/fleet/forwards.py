"""The forwards of a fleet: ports that all hosts open, whatever their guests are.

A host opens what the store has, and closes what it has no more. It is not known which host has written a
forward: people do, from any machine. A value that cannot be read is none.
"""

from typing import Final

from pipeline.engines.fleet.values import Forward

MAX_FORWARDS: Final = 1024
"""Forwards of the store. Further ones are not read."""


class Forwards:
    """The forwards, as the store has them."""

    def __init__(self) -> None:
        self._wanted: dict[str, Forward] = {}
        """By key."""
        self._changed = False

    def wanted(self) -> list[Forward]:
        """What is to be open now."""
        return list(self._wanted.values())

    def on_online(self) -> None:
        """The store is reached, and has reported all forwards."""
        # Those that an earlier run has left open may be too many.
        self._changed = True

    def on_forward(self, key: str, forward: Forward | None) -> bool:
        """A forward as it is in the store now; None: there is none. False: there are too many."""
        if forward is None:
            self._changed = self._wanted.pop(key, None) is not None or self._changed
        elif key not in self._wanted and len(self._wanted) >= MAX_FORWARDS:
            return False
        elif self._wanted.get(key) != forward:
            self._wanted[key] = forward
            self._changed = True
        return True

    def take_changed(self) -> bool:
        """Whether wanted() is another one than at the last call."""
        changed, self._changed = self._changed, False
        return changed
