"""Loads asyncio and multiprocess without what they load on top of it if they find it.

asyncio looks for ssl. With it come OpenSSL and 4 MB of memory, but no endpoint of the daemon has TLS.
multiprocess looks for dill, to send functions to processes. The workers are forked, so nothing is sent.

Both libraries work without these parts. Whoever imports ssl or dill later gets it as usual. This module must
come before all others that load asyncio.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Final

_UNWANTED: Final = {"asyncio": "ssl", "multiprocess": "dill"}
"""Each library, and the module that it must not find."""


class _Absent:
    """A finder of modules that reports one module as missing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Raise ModuleNotFoundError for this module. Leave others to the next finder."""
        if name == self._name:
            raise ModuleNotFoundError(f"{name} is left out", name=name)


@contextmanager
def absent(name: str) -> Iterator[None]:
    """Within the block nobody finds this module, unless it is loaded already."""
    finder = _Absent(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


for _library, _part in _UNWANTED.items():
    with absent(_part):
        import_module(_library)
