"""The command ``capture``: streams a capture of a running daemon into a file, a ring of files, or a pipe.

It ends with SIGINT or SIGTERM, when the daemon ends, and when the reader of a pipe has left. All of these are
orderly ends, and the exit code is 0.
"""

import errno
import http.client
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Final, Self

from pipeline.client import api, files
from pipeline.go import flags
from pipeline.wire import pcapng

PIECE: Final = 256 * 1024
STDOUT: Final = 1
FAILED: Final = 1
MISUSED: Final = 2
PROGRAM: Final = "gvtap-pipeline capture"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class _StoppedError(Exception):
    """A signal asks for the end."""


def run(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """The command with the flags of options.CAPTURE. Returns the exit code."""
    if fault := _wrong_files(parsed):
        sys.stderr.write(f"{PROGRAM}: {fault}\n")
        return MISUSED
    try:
        found = api.find(parsed)
        stream(found, query(parsed), lambda: _sink(parsed))
    except OSError as error:
        where = f"cannot write {error.filename}: " if error.filename else ""
        sys.stderr.write(f"{PROGRAM}: {where}{api.cause(error)}\n")
        return FAILED
    except (api.ApiError, pcapng.BlockError) as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return FAILED
    return 0


def query(parsed: flags.Parsed, guests: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The fields of the request that the flags of options.FILTER stand for. guests: further ones."""
    fields = [(name, value) for name in ("guest", "host", "port", "protocol") for value in parsed.lists[name]]
    fields += [("guest", guest) for guest in guests]
    if parsed.true("drops"):
        fields.append(("drops", "1"))
    if snaplen := parsed.number("snaplen"):
        fields.append(("snaplen", str(snaplen)))
    return fields


def stream(found: api.Api, fields: Sequence[tuple[str, str]], open_sink: Callable[[], files.Sink]) -> None:
    """Copy a capture until it ends. Raises ApiError, OSError, BlockError.

    The sink is made when the daemon has agreed.
    """
    with _Signals() as signals, suppress(_StoppedError):
        answer = found.get("/capture", fields)
        answer.sock.settimeout(None)
        with answer.response as response:
            sink = open_sink()
            signals.ends(answer.sock)
            sink.watch(lambda: _end(answer.sock))
            try:
                while piece := _read(response):
                    sink.write(piece)
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
            finally:
                sink.close()


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(PIECE)
    except (ConnectionError, http.client.HTTPException):
        return b""  # the daemon has ended


def _end(sock: socket.socket) -> None:
    """Let the capture come to its end, after what has arrived."""
    with suppress(OSError):  # the daemon has closed it
        sock.shutdown(socket.SHUT_RD)


def _wrong_files(parsed: flags.Parsed) -> str:
    """What is wrong with the flags of files, "" if nothing is."""
    path, ring, kept = parsed.text("w"), parsed.text("ring-size"), parsed.number("ring-files")
    if kept < 0:
        return f"-ring-files {kept} is wrong (allowed: 1 and more, 0 to keep all)"
    if kept and not ring:
        return "-ring-files needs -ring-size"
    if ring and path == "-":
        return "-ring-size needs -w FILE"
    if ring:
        try:
            files.size(ring)
        except ValueError as error:
            return f"-ring-size {error}"
    elif path == "-" and stat.S_ISCHR(os.fstat(STDOUT).st_mode) and os.isatty(STDOUT):
        return "standard output is a terminal: use -w FILE, or a pipe"
    return ""


def _sink(parsed: flags.Parsed) -> files.Sink:
    path = parsed.text("w")
    if path == "-":
        return files.Stream(os.dup(STDOUT))
    if ring := parsed.text("ring-size"):
        return files.Ring(path, files.size(ring), parsed.number("ring-files"))
    return files.Stream(files.open_capture(path))


class _Signals:
    """SIGINT and SIGTERM end the capture after a whole block; the second one ends it at once."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # it came from signal.signal()

    def ends(self, sock: socket.socket) -> None:
        """From now on a signal lets this socket come to its end."""
        self._sock = sock

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            raise _StoppedError
        _end(sock)
