"""The taps that the daemon opens for guests (``-link tap+NAME``). Ingress gets their descriptors."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from pipeline.links import protocols, tap_url

LINK: Final = f"link {protocols.TAP}+"


class TapsError(Exception):
    """A tap cannot be opened. The text names the link."""


class Taps:
    """The open taps, by their place in the configuration."""

    def __init__(self, opened: Mapping[str, int]) -> None:
        """opened: taps that the program has opened itself. They are this object's from now on."""
        self._fds = dict(opened)

    def add(self, opened: Mapping[str, int]) -> None:
        """Taps that another process has opened. They are this object's from now on."""
        self._fds |= opened

    def __contains__(self, place: str) -> bool:
        return place in self._fds

    @property
    def fds(self) -> list[int]:
        """The descriptors that were not taken."""
        return list(self._fds.values())

    def adopt(self, url: str, fd: int) -> None:
        """A parent has passed this tap. It is this object's from now on. Raises TapsError if it is none."""
        from pipeline.system import tap  # noqa: PLC0415

        self._fds[url] = fd
        try:
            flags = tap.name_and_flags(fd)[1]
        except OSError:
            flags = 0
        if not flags & tap.IFF_TAP:
            raise TapsError(f"{LINK}{url}: the descriptor is not that of a tap")

    def open(self, places: Iterable[str], mtu: int) -> None:
        """Open all of them. Call this before any thread exists, since it forks. Raises TapsError."""
        for text in (place for place in places if place not in self._fds):
            from pipeline.links.tap_opener import open_tap  # noqa: PLC0415
            from pipeline.system.namespaces import NamespaceError  # noqa: PLC0415

            try:
                self._fds[text] = open_tap(tap_url.parse(text), mtu)
            except NamespaceError as error:
                raise TapsError(f"{LINK}{text}: {error}") from error

    @contextmanager
    def lent(self, place: str) -> Iterator[int]:
        """The descriptor of a tap, which ingress copies in the block. It is closed afterwards."""
        fd = self._fds.pop(place)
        try:
            yield fd
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the taps that were not taken."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
