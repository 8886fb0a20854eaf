"""The screen of top, with keys that a test presses: textual's pilot."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import Input

from pipeline.client import api
from pipeline.client.top.dialogs import HELP, Help, Question
from pipeline.client.top.grid import Grid
from pipeline.client.top.polls import Poller
from pipeline.client.top.screen import Top
from pipeline.client.top.state import View
from tests.support import played_daemon
from tests.support.fake_api import FakeApi
from tests.support.played_daemon import PlayedSource

SECONDS = 20.0
Test = Callable[["Screen"], Awaitable[None]]


class Screen:
    """A screen with played polls, and its pilot."""

    def __init__(self, app: Top, pilot: Pilot[None], source: PlayedSource) -> None:
        self.app = app
        self.source = source
        self._pilot = pilot

    async def press(self, *keys: str) -> None:
        await self._pilot.press(*keys)
        await self._pilot.pause()

    async def step(self, count: int = 1) -> None:
        """Deliver polls."""
        for _ in range(count):
            self.source.step()
        await self._pilot.pause()

    async def resize(self, width: int, height: int) -> None:
        await self._pilot.resize_terminal(width, height)
        await self._pilot.pause()

    @property
    def grid(self) -> Grid:
        return self.app.screen_stack[0].query_one(Grid)

    def lines(self) -> list[str]:
        return lines(self.app)

    def text(self) -> str:
        return "\n".join(self.lines())


def lines(app: Top) -> list[str]:
    """What the screen shows."""
    strips = app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip).rstrip() for strip in strips]


def played(test: Test, width: int = 80, height: int = 24) -> None:
    """Run a test with two polls delivered, so that there are rates."""

    async def run() -> None:
        source = PlayedSource()
        app = Top(source, 2.0, source.clock)
        async with app.run_test(size=(width, height), notifications=True) as pilot:
            screen = Screen(app, pilot, source)
            await screen.step(2)
            await test(screen)

    asyncio.run(run())


def test_the_first_view_shows_the_flow_that_uses_the_bandwidth() -> None:
    async def test(screen: Screen) -> None:
        assert screen.lines()[:5] == [
            " gvtap-pipeline 0.1.0  up 1d2h  guests 3  flows 5 tcp 1 udp 0 icmp",
            " from guests 9.1 MB/s (667 MB)  to guests  38 MB/s (983 MB)",
            "  1 guests   2 flows   3 workers   4 drops",
            " PROTO  GUEST                    PEER                        UP/s   DOWN/s",
            " tcp    192.168.127.2:40122  ->  mirror.example.org:443       0 B    35 MB",
        ]
        assert "sorted by BOTH/s" in screen.text()

    played(test)


@pytest.mark.parametrize("key", "1234")
def test_every_view_fits_80_columns_and_24_lines(key: str) -> None:
    async def test(screen: Screen) -> None:
        await screen.press(key)
        await screen.step(2)
        found = screen.lines()
        assert len(found) == 24
        assert max(map(len, found)) <= 80
        assert screen.grid.virtual_size.width <= 80
        footer = found[-1]
        assert footer.startswith("< Sort > Sort r Reverse / Filter Esc All")
        assert footer.endswith("? Help q Quit")
        assert ("d End flow" in footer) == (key == "2")

    played(test)


def test_a_wide_terminal_shows_every_column() -> None:
    async def test(screen: Screen) -> None:
        titles = [column.title for column in screen.app.state.shown().columns]
        assert len(screen.grid.shown_columns) == len(titles)
        assert "BOTH/s▼" in screen.lines()[3]
        await screen.resize(80, 24)
        assert len(screen.grid.shown_columns) < len(titles)

    played(test, 200)


def test_a_tiny_terminal_is_no_crash() -> None:
    async def test(screen: Screen) -> None:
        for width, height in ((20, 5), (1, 1), (80, 24)):
            await screen.resize(width, height)
        assert "mirror.example.org:443" in screen.text()

    played(test)


def test_digits_and_tab_change_the_view_and_what_is_asked() -> None:
    async def test(screen: Screen) -> None:
        await screen.press("1")
        assert [ask.path for ask in screen.source.asks] == ["/status", "/guests", "/metrics"]
        await screen.step()
        assert "192.168.127.7" in screen.text()
        await screen.press("tab", "tab")
        assert screen.app.state.view is View.WORKERS
        await screen.step()
        assert "egress0    ok      58%" in screen.text()
        await screen.press("shift+tab", "shift+tab", "shift+tab")
        assert screen.app.state.view is View.DROPS

    played(test)


def test_keys_sort_and_the_title_has_a_mark() -> None:
    async def test(screen: Screen) -> None:
        await screen.press("less_than_sign")
        assert "DOWN/s▼" in screen.lines()[3]
        await screen.press("less_than_sign")
        assert "UP/s▼" in screen.lines()[3]
        assert screen.grid.key == "tcp0-21"
        await screen.press("r")
        assert "UP/s▲" in screen.lines()[3]
        assert "9.1 MB" in screen.lines()[9], "the last of six"
        await screen.press("greater_than_sign", "greater_than_sign")
        assert "sorted by BOTH/s" in screen.text()

    played(test)


def test_a_click_on_a_title_sorts() -> None:
    async def test(screen: Screen) -> None:
        await screen._pilot.click(Grid, offset=(62, 0))
        await screen._pilot.pause()
        assert "UP/s▼" in screen.lines()[3]

    played(test)


def test_a_filter_is_typed_kept_and_removed() -> None:
    async def test(screen: Screen) -> None:
        await screen.press("slash", *"example 443")
        assert screen.app.query_one("#filter", Input).value == "example 443"
        assert screen.grid.row_count == 2, "rows go while the user types"
        await screen.press("enter")
        assert "only rows with 'example 443'" in screen.text()
        await screen.step()
        assert screen.grid.row_count == 2
        await screen.press("escape")
        assert screen.grid.row_count == 6

    played(test)


def test_letters_of_a_filter_are_no_keys() -> None:
    async def test(screen: Screen) -> None:
        await screen.press("slash", *"d1qr?/")
        assert screen.app.state.filter == "d1qr?/"
        assert (screen.app.state.view, len(screen.app.screen_stack)) == (View.FLOWS, 1)
        await screen.press("escape")
        assert screen.app.state.filter == ""
        assert screen.app.focused is screen.grid

    played(test)


def test_enter_on_a_guest_shows_its_flows() -> None:
    async def test(screen: Screen) -> None:
        await screen.press("1")
        await screen.step()
        await screen.press("down", "down", "enter")
        assert screen.source.asks[1].fields[0] == ("guest", "3")
        await screen.step()
        assert screen.grid.row_count == 2
        assert "only guest 3" in screen.text()
        await screen.press("escape")
        await screen.step()
        assert screen.grid.row_count == 6

    played(test)


def test_the_cursor_follows_its_row_but_stays_at_the_top() -> None:
    async def test(screen: Screen) -> None:
        await screen.press("r")
        top = screen.grid.key
        await screen.press("r")
        assert (screen.grid.cursor_row, screen.grid.key == top) == (0, False)
        await screen.press("down")
        key = screen.grid.key
        await screen.press("r")
        assert (screen.grid.key, screen.grid.cursor_row) == (key, 4)

    played(test)


def test_many_flows_can_be_scrolled_and_stand_still_between_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    one = played_daemon.FLOWS[0]
    many = tuple(one._replace(id=f"tcp0-{n}", bytes_to_guest=n, down=0) for n in range(1000, 1500))
    monkeypatch.setattr(played_daemon, "FLOWS", many)

    async def test(screen: Screen) -> None:
        await screen.press(*["pagedown"] * 5)
        key, offset = screen.grid.key, screen.grid.scroll_offset.y
        assert offset > 50
        await screen.step()
        assert (screen.grid.key, screen.grid.scroll_offset.y) == (key, offset)
        await screen.press("end")
        assert screen.grid.key == "tcp0-1000"

    played(test)


def test_d_asks_and_y_ends_the_flow() -> None:
    async def test(screen: Screen) -> None:
        await screen.press("down", "d")
        assert isinstance(screen.app.screen, Question)
        question = "End tcp 192.168.127.3:51820 -> backup.example.net:22 (tcp0-21)?"
        assert question in screen.text()
        await screen.press("d", "1", "tab", "r", "enter")
        assert screen.source.ended == [], "only y says yes"
        assert screen.app.state.view is View.FLOWS
        await screen.press("d", "escape", "d", "n")
        assert screen.source.ended == []
        await screen.press("d", "y")
        assert screen.source.ended == ["tcp0-21"]
        assert "tcp0-21 is ended" in screen.text()

    played(test)


def test_the_question_is_about_the_flow_that_was_under_the_cursor() -> None:
    async def test(screen: Screen) -> None:
        await screen.press("d")
        screen.app.state.reverse()
        await screen.step()
        assert screen.grid.key != "tcp0-17", "the rows behind the question move"
        await screen.press("y")
        assert screen.source.ended == ["tcp0-17"]

    played(test)


def test_a_flow_that_is_gone_is_reported() -> None:
    async def test(screen: Screen) -> None:
        screen.source.refusal = "there is no flow [red]'tcp0-17'"
        await screen.press("d", "y")
        assert "there is no flow [red]'tcp0-17'" in screen.text()

    played(test)


@pytest.mark.parametrize("key", "134")
def test_d_does_nothing_in_other_views(key: str) -> None:
    async def test(screen: Screen) -> None:
        await screen.press(key)
        await screen.step()
        await screen.press("d")
        assert len(screen.app.screen_stack) == 1

    played(test)


def test_d_without_flows_does_nothing() -> None:
    async def test(screen: Screen) -> None:
        await screen.press("slash", *"nothing", "enter", "d")
        assert len(screen.app.screen_stack) == 1

    played(test)


def test_the_help_fits_and_names_every_key() -> None:
    async def test(screen: Screen) -> None:
        await screen.press("question_mark")
        assert isinstance(screen.app.screen, Help)
        text = screen.text()
        assert all(line.strip() in text for line in HELP.splitlines())
        shown = [
            binding.key_display or binding.key
            for binding in Top.BINDINGS
            if isinstance(binding, Binding) and binding.show
        ]
        assert all(key in HELP for key in shown)
        await screen.press("escape")
        assert len(screen.app.screen_stack) == 1

    played(test)


def test_hostile_names_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    one = played_daemon.FLOWS[0]._replace(peer="a\x1b[2J[red]b[/]", id="tcp0-[x")
    monkeypatch.setattr(played_daemon, "FLOWS", (one,))

    async def test(screen: Screen) -> None:
        assert "a\\x1b[2J[red]b[/]:443" in screen.text()
        await screen.press("d")
        assert "a\\x1b[2J[red]b[/]:443 (tcp0-[x)?" in screen.text()
        await screen.press("y")
        assert screen.source.ended == ["tcp0-[x"]

    played(test, 120)


def test_silence_is_shown_and_ends() -> None:
    async def test(screen: Screen) -> None:
        screen.source.fail("cannot ask the daemon at unix:///x: [Errno 111] Connection refused")
        await screen.press()
        assert screen.lines()[2].startswith(" no answer since ")
        assert "Connection refused" in screen.lines()[3], "the text may need two lines"
        assert "mirror.example.org:443" in screen.text(), "the last rows stay"
        await screen.step()
        assert "no answer" not in screen.text()

    played(test)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeApi]:
    made = serve(tmp_path)
    yield made
    made.close()


def serve(directory: Path) -> FakeApi:
    made = FakeApi(directory / "api.sock")
    made.says("/status", played_daemon.status(0))
    made.says("/flows", played_daemon.flows(0))
    return made


async def until(app: Top, pilot: Pilot[None], found: Callable[[str], bool]) -> None:
    """Wait until the text of the screen is as wanted."""
    async with asyncio.timeout(SECONDS):
        while not found("\n".join(lines(app))):
            await pilot.pause(0.05)


def test_a_daemon_that_vanishes_and_comes_back(tmp_path: Path) -> None:
    async def run() -> None:
        server = serve(tmp_path)
        app = Top(Poller(api.Api(server.url), 0.2), 0.2)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await until(app, pilot, lambda text: "mirror.example.org:443" in text)
            await asyncio.to_thread(server.close)
            (tmp_path / "api.sock").unlink()
            await until(app, pilot, lambda text: "no answer since" in text and "No such file" in text)
            server = serve(tmp_path)
            await until(app, pilot, lambda text: "no answer" not in text)
        await asyncio.to_thread(server.close)

    asyncio.run(run())


def test_y_sends_a_delete_to_the_daemon(server: FakeApi) -> None:
    server.answers["/flows/tcp0-17"] = ("200 OK", b"")

    async def run() -> None:
        app = Top(Poller(api.Api(server.url), 0.2), 0.2)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await until(app, pilot, lambda text: "mirror.example.org:443" in text)
            await pilot.press("d", "y")
            await until(app, pilot, lambda text: "tcp0-17 is ended" in text)

    asyncio.run(run())
    assert any(request.startswith("DELETE /flows/tcp0-17 ") for request in server.requests)


def test_a_daemon_without_flows_is_said_to_be_older(server: FakeApi) -> None:
    server.refuses("/flows", "404 page not found", "404 Not Found")

    async def run() -> None:
        app = Top(Poller(api.Api(server.url), 0.2), 0.2)
        async with app.run_test(size=(250, 24)) as pilot:
            await until(app, pilot, lambda text: "has no /flows: it is older than this program" in text)
            assert "no answer" not in "\n".join(lines(app))

    asyncio.run(run())
