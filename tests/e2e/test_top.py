"""The command top and a real daemon, with a guest that downloads."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from textual.pilot import Pilot

from pipeline.client import api
from pipeline.client.top.polls import Poller
from pipeline.client.top.screen import Top
from pipeline.client.top.state import View
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR
from tests.support.servers import DATA

pytestmark = pytest.mark.e2e

NAME = "www.example.test"
FAST = 100_000.0
"""Bytes a second that the guest gets in any case."""
SECONDS = 60.0
INTERVAL = 0.5


class Download:
    """A guest's connection over which bytes come without an end."""

    def __init__(self, agent: Agent) -> None:
        agent.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")
        self.error: OSError | None = None
        self._sock = agent.guest.connect(INTERNET_ADDR, DATA)
        self._sock.sendall(json.dumps({"down": 1 << 40, "up": 0, "seed": 1}).encode() + b"\n")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while self._sock.recv(1 << 20):
                pass
        except OSError as error:
            self.error = error

    def wait(self) -> None:
        """Wait until the connection has ended."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    def close(self) -> None:
        # The thread may still read.
        if self._thread.is_alive():
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(SECONDS)
        self._sock.close()


@pytest.fixture
def download(agent: Agent) -> Iterator[Download]:
    made = Download(agent)
    yield made
    made.close()


class Screen:
    """The screen of the daemon."""

    def __init__(self, app: Top, pilot: Pilot[None]) -> None:
        self.app = app
        self.press = pilot.press
        self._pause = pilot.pause

    async def until(self, found: Callable[[], object], what: str) -> None:
        """Wait until the screen is as wanted."""
        try:
            async with asyncio.timeout(SECONDS):
                while not found():
                    await self._pause(0.1)
        except TimeoutError:
            raise AssertionError(f"not seen: {what}\n{self.text()}") from None

    def text(self) -> str:
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip) for strip in strips)

    def value(self, cell: str, title: str) -> float | str:
        """What a column is sorted by, in the only row that has this cell; "" while there is none."""
        shown = self.app.state.shown()
        at = [column.title for column in shown.columns].index(title)
        found = [row for row in shown.rows if cell in row.cells]
        return found[0].order[at] if len(found) == 1 else ""

    def is_fast(self, cell: str) -> bool:
        rate = self.value(cell, "DOWN/s")
        return isinstance(rate, float) and rate > FAST


def test_a_download_is_shown_in_all_views_and_ended(daemon: Daemon, download: Download) -> None:
    async def watch(screen: Screen) -> None:
        peer = f"{NAME}:{DATA}"
        await screen.until(lambda: screen.is_fast(peer), "the flow with its rate")
        assert f"-> {peer}" in " ".join(screen.text().split())
        await screen.press("1")
        await screen.until(lambda: screen.is_fast(GUEST_ADDR), "the guest with its rate")
        await screen.press("3")
        await screen.until(lambda: screen.value("egress0", "SLOTS IN USE") != "", "the workers")
        busy = screen.value("ingress", "BUSY")
        assert isinstance(busy, float)
        assert 0 <= busy <= 1
        assert screen.app.state.notes(range(99)) == ""
        await screen.press("1")
        await screen.until(lambda: GUEST_ADDR in screen.text(), "the guest again")
        await screen.press("enter")
        await screen.until(lambda: screen.app.state.view is View.FLOWS and screen.is_fast(peer), "its flows")
        await screen.press("slash", *str(DATA), "enter", "d")
        await screen.until(lambda: f"-> {peer} (tcp0-" in screen.text(), "the question")
        await screen.press("y")
        await screen.until(lambda: "is ended" in screen.text(), "the answer")
        await screen.until(lambda: screen.value(peer, "DOWN/s") == "", "the flow is gone")

    async def run() -> None:
        poller = Poller(api.Api(f"unix://{daemon.socket}"), INTERVAL)
        app = Top(poller, INTERVAL)
        async with app.run_test(size=(120, 30), notifications=True) as pilot:
            await watch(Screen(app, pilot))

    asyncio.run(run())
    download.wait()
    assert isinstance(download.error, ConnectionResetError)
