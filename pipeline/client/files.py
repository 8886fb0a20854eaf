"""Where a capture goes: standard output, one file, or a ring of files.

A ring numbers its files: ``trace.pcapng`` becomes ``trace.00001.pcapng`` and so on. Each begins with the
section header and all interfaces so far, so each can be read alone. A block is never cut in two. Files have
the mode 0600, and replace what is there.
"""

import os
import re
import select
import stat
import threading
from collections import deque
from collections.abc import Callable
from pathlib import PurePath
from typing import Final, Protocol

from pipeline.system import output_file
from pipeline.wire import pcapng

MODE: Final = 0o600
MAX_BLOCK: Final = 16 * 1024 * 1024
"""Bytes of the longest block. A longer one means that the stream is not a capture."""
MIN_SIZE: Final = 4096
"""Bytes of the smallest files of a ring."""

_SIZE: Final = re.compile(r"([0-9]{1,12})([kMG]?)", re.ASCII)
_UNITS: Final = {"": 1, "k": 1000, "M": 1000_000, "G": 1000_000_000}
_HEADS: Final = frozenset({pcapng.SECTION_HEADER, pcapng.INTERFACE_DESCRIPTION})


class Sink(Protocol):
    """Takes the bytes of a capture, in pieces of any length."""

    def write(self, data: bytes) -> None:
        """Write bytes. Raises OSError, pcapng.BlockError."""
        ...

    def watch(self, left: Callable[[], None]) -> None:
        """Have ``left`` called, from another thread, when the reader of a pipe leaves. Files have none."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


def size(text: str) -> int:
    """Bytes of ``500k``, ``64M``, ``2G`` or a number. Raises ValueError."""
    found = _SIZE.fullmatch(text)
    value = int(found[1]) * _UNITS[found[2]] if found else 0
    if value < MIN_SIZE:
        raise ValueError(f"{text!r} is wrong (allowed: a size of at least {MIN_SIZE} bytes, such as 64M)")
    return value


def open_capture(path: str) -> int:
    """A descriptor of a new file. An existing file or symbolic link is replaced. Raises OSError."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        mode = 0
    if output_file.descriptor(path) is None and (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        os.unlink(path)
    return output_file.open_file(path, MODE)


class Stream:
    """One file, or standard output."""

    def __init__(self, fd: int) -> None:
        """The descriptor is the stream's from now on."""
        self._fd = fd

    def write(self, data: bytes) -> None:
        """See Sink."""
        write_all(self._fd, data)

    def watch(self, left: Callable[[], None]) -> None:
        """See Sink."""
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            threading.Thread(target=_await_hang_up, args=(self._fd, left), daemon=True).start()

    def close(self) -> None:
        """See Sink."""
        os.close(self._fd)


def _await_hang_up(fd: int, left: Callable[[], None]) -> None:
    """Call ``left`` when nobody reads the other end of a pipe or socket."""
    poll = select.poll()
    poll.register(fd, 0)  # errors and hang-ups are always reported
    poll.poll()
    left()


class Ring:
    """Files of bounded size."""

    def __init__(self, path: str, max_bytes: int, max_files: int) -> None:
        """max_files: 0 keeps all."""
        self._path = PurePath(path)
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._number = 0
        self._names: deque[str] = deque()
        self._fd = -1
        self._written = 0
        self._rest = b""
        self._heads: list[bytes] = []
        self._next_file()

    def write(self, data: bytes) -> None:
        """See Sink. Writes the blocks that are whole."""
        data = self._rest + data
        at = 0
        blocks: list[bytes] = []
        while len(data) - at >= pcapng.HEAD_LEN:
            kind, length = pcapng.block_head(data[at : at + pcapng.HEAD_LEN])
            if length > MAX_BLOCK:
                raise pcapng.BlockError(f"a block of {length} bytes is too long")
            if len(data) - at < length:
                break
            block = data[at : at + length]
            at += length
            if self._written + length > self._max_bytes and self._written and kind not in _HEADS:
                write_all(self._fd, b"".join(blocks))
                blocks = []
                self._next_file()
            if kind in _HEADS:
                self._heads.append(block)
            self._written += length
            blocks.append(block)
        self._rest = data[at:]
        write_all(self._fd, b"".join(blocks))

    def watch(self, left: Callable[[], None]) -> None:
        """See Sink."""

    def close(self) -> None:
        """See Sink. A block that is not whole is left out."""
        os.close(self._fd)

    def _next_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._number += 1
        name = str(self._path.with_name(f"{self._path.stem}.{self._number:05}{self._path.suffix}"))
        self._fd = open_capture(name)
        self._names.append(name)
        write_all(self._fd, b"".join(self._heads))
        # Heads alone do not count: a file holds at least one frame.
        self._written = 0
        if self._max_files and len(self._names) > self._max_files:
            os.unlink(self._names.popleft())


def write_all(fd: int, data: bytes) -> None:
    """Write all bytes, waiting if need be. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.write(fd, view)
        view = view[written:]
