"""The web page of a daemon, opened in a browser."""

from playwright.sync_api import Page

from tests.support.daemon import Daemon
from tests.support.netns import wait_for

VIEWS = ("Overview", "Guests", "Flows", "Drops", "Forwards")


def address(daemon: Daemon) -> str:
    """The last address of the page that the daemon's log shows, with its token."""
    lines = wait_for(lambda: daemon.events("web page"), "the log shows the address of the web page")
    url: str = lines[-1]["url"]
    return url


def open_page(page: Page, daemon: Daemon) -> None:
    """Open the page with a token, and wait until it shows something."""
    page.goto(address(daemon))
    page.get_by_role("button", name="Sign out").wait_for()


def show(page: Page, view: str) -> None:
    """Go to another view."""
    page.get_by_role("navigation").get_by_role("link", name=view, exact=True).click()


def show_filled(page: Page, view: str) -> None:
    """Go to another view, and wait until it shows the daemon's answer."""
    with page.expect_event("requestfinished"):
        show(page, view)
    page.get_by_role("main").locator("> div").wait_for()
    page.wait_for_timeout(200)
