"""Asks the daemon in threads of its own, so that a slow daemon does not stop the screen.

A poll has one request of each kind, and asks only for what the screen shows. The threads end with the
process, even in the middle of a request.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote

from pipeline.client import api
from pipeline.client.top.samples import SampleError, Samples

STATUS: Final = "/status"
GUESTS: Final = "/guests"
FLOWS: Final = "/flows"
METRICS: Final = "/metrics"
MOST_FLOWS: Final = 500
"""Flows that a poll asks for: those with most bytes."""


class Ask(NamedTuple):
    """A request: path and fields of the query."""

    path: str
    fields: tuple[tuple[str, str], ...] = ()


class Poll(NamedTuple):
    """What came of a poll.

    at: time.monotonic() when it ended. clock: time.time() then. answers: JSON, or Samples for METRICS.
    faults: what the daemon said instead. error: why it cannot be asked, "" if it answered.
    """

    at: float
    clock: float
    answers: Mapping[Ask, object]
    faults: Mapping[Ask, str]
    error: str = ""


def take(daemon: api.Api, asks: Sequence[Ask]) -> Poll:
    """Ask, and wait for all answers. Requests after one without an answer are left out."""
    answers: dict[Ask, object] = {}
    faults: dict[Ask, str] = {}
    error = ""
    for ask in asks:
        try:
            if ask.path == METRICS:
                answers[ask] = Samples(daemon.text(ask.path))
            else:
                answers[ask] = daemon.read(ask.path, ask.fields)
        except (api.RefusedError, SampleError) as refused:
            faults[ask] = str(refused)
        except api.ApiError as unreachable:
            error = str(unreachable)
            break
    return Poll(time.monotonic(), time.time(), answers, faults, error)


class Source(Protocol):
    """Where the screen gets its polls from."""

    def start(self, asks: Sequence[Ask], deliver: Callable[[Poll], object]) -> None:
        """Begin to poll. deliver: is called with each poll, in another thread."""

    def ask(self, asks: Sequence[Ask]) -> None:
        """Poll now, and from now on, with these requests."""

    def stop(self) -> None:
        """No further poll."""

    def end(self, flow: str, done: Callable[[str], object]) -> None:
        """End a flow. done: is called in another thread, with why it was not ended, "" if it was."""


class Poller:
    """Polls a daemon once an interval, and at once when the requests change."""

    def __init__(self, daemon: api.Api, interval: float) -> None:
        """interval: seconds from the end of one poll to the next."""
        self._daemon = daemon
        self._interval = interval
        self._asks: tuple[Ask, ...] = ()
        self._wake = threading.Event()
        self._stopped = False

    def start(self, asks: Sequence[Ask], deliver: Callable[[Poll], object]) -> None:
        """As Source has it."""
        self._asks = tuple(asks)
        threading.Thread(target=self._run, args=(deliver,), name="polls", daemon=True).start()

    def ask(self, asks: Sequence[Ask]) -> None:
        """As Source has it."""
        self._asks = tuple(asks)
        self._wake.set()

    def stop(self) -> None:
        """As Source has it."""
        self._stopped = True
        self._wake.set()

    def end(self, flow: str, done: Callable[[str], object]) -> None:
        """As Source has it."""

        def run() -> None:
            try:
                self._daemon.delete(f"{FLOWS}/{quote(flow, safe='')}")
            except api.ApiError as error:
                done(str(error))
            else:
                done("")

        threading.Thread(target=run, name="end", daemon=True).start()

    def _run(self, deliver: Callable[[Poll], object]) -> None:
        while not self._stopped:
            deliver(take(self._daemon, self._asks))
            self._wake.wait(self._interval)
            self._wake.clear()
