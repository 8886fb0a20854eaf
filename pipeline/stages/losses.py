"""What a stage learns when workers have died, and what it has to do then.

The rings to and from the dead workers are empty already: what was in them is lost. Successors will serve the
other ends. A stage ends what lived in the dead workers, and forgets what only they knew. Then it tells the
successors what they need to know from the start. What it pushes reaches them.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Losses(NamedTuple):
    """Workers that have died at once.

    workers: their names. links: the links of guests that are up, each with the number of its guest. A link
    that a stage knows and that is not here is down: perhaps nobody is left who would say so.
    """

    workers: tuple[str, ...]
    links: Mapping[int, int]

    def has(self, worker: str) -> bool:
        """Whether the worker with this name has died."""
        return worker in self.workers

    def shards(self, role: str) -> list[int]:
        """The numbers of the dead workers of a role that has shards."""
        return [int(name.removeprefix(role)) for name in self.workers if name.startswith(role)]
