"""The names for which guests got addresses from the gateway, as texts. A proxy is told them.

A guest may state any name. A proxy looks a name up itself, perhaps on a host with secrets of its own. So a
stated name is believed only if the gateway's name server gave this guest this address for it.
"""

import re
from collections import OrderedDict
from collections.abc import Collection
from typing import Final

MAX_PAIRS: Final = 16384
"""The most pairs of guest and address. One more replaces the oldest."""
MAX_NAMES: Final = 8
"""Names of one address for one guest. One more replaces the oldest."""

_HOST: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*"
)
_NUMBER: Final = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)")
"""Some programs read such a name as an IPv4 address."""


def is_host(name: str) -> bool:
    """Whether a name in lower case is one of a host, and no program takes it for an address."""
    return _HOST.fullmatch(name) is not None and _NUMBER.fullmatch(name) is None


class ToldNames:
    """By guest's address and address, both as their numbers."""

    def __init__(self) -> None:
        self._names: OrderedDict[tuple[int, int], list[str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._names)

    def learn(self, guest: int, address: int, name: str) -> None:
        """The gateway told a guest this address for a name. A name that no host has is left out."""
        if not is_host(name):
            return
        known = self._names.pop((guest, address), [])
        if name in known:
            known.remove(name)
        known.append(name)
        self._names[guest, address] = known[-MAX_NAMES:]
        if len(self._names) > MAX_PAIRS:
            self._names.popitem(last=False)

    def choose(self, guests: Collection[int], address: int, stated: str) -> str:
        """The name for a proxy: the stated one, if it was told; else the last one that was; else "".

        guests: all addresses of the guest. stated: "" if the connection has stated none. If it has stated
        another name, the answer is "".
        """
        names = [name for guest in guests for name in self._names.get((guest, address), ())]
        if stated:
            return stated if stated in names else ""
        return names[-1] if names else ""

    def clear(self) -> None:
        """Forget all names."""
        self._names.clear()
