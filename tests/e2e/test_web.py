"""The web page in headless Chromium, while a guest of the kernel downloads through the daemon."""

import contextlib
import re
from collections.abc import Iterator
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, ViewportSize, expect

from tests.support import browser
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, GUEST_MAC, Agent
from tests.support.daemon import Daemon
from tests.support.download import download
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import ECHO, Servers
from tests.support.web_page import VIEWS, address, open_page, show, show_filled

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(browser.missing()), reason=browser.missing()),
]

REFUSED = "Failed to load resource: the server responded with a status of"
"""What the browser says about an answer that is an error. Some tests want one."""
LOCKED = "Open the address that the daemon's log shows"
PHONE = ViewportSize(width=375, height=700)
WINDOW = ViewportSize(width=1280, height=800)
NAME = "www.example.test"
RATE = re.compile(r"[1-9][\d.]* [kMG]?B/s")
"""A rate above 0."""
SECONDS = 30_000.0
"""Milliseconds, as playwright counts."""


@pytest.fixture(scope="module")
def daemon(network: Network, outside: Servers) -> Iterator[Daemon]:
    with Daemon(network, "-web", "127.0.0.1:0", name="shown") as made:
        yield made


@pytest.fixture(scope="module")
def agent(network: Network, daemon: Daemon) -> Iterator[Agent]:
    with Agent(network.guest, daemon.socket) as made:
        made.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")
        yield made


@pytest.fixture(scope="module")
def port(network: Network, agent: Agent) -> Iterator[int]:
    """The port from which the guest downloads."""
    with download(agent.guest, network.internet) as found:
        yield found


@pytest.fixture(scope="module")
def chromium(network: Network, daemon: Daemon) -> Iterator[Browser]:
    with browser.browser(network.host, network.directory) as made:
        yield made


@pytest.fixture
def faults() -> list[str]:
    """What the browser complains about, such as a violation of the policy."""
    return []


@pytest.fixture
def page(chromium: Browser, daemon: Daemon, port: int, faults: list[str]) -> Iterator[Page]:
    """The page, opened with a token, in a browser without cookies."""

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(REFUSED):
            faults.append(message.text)

    with contextlib.closing(chromium.new_context()) as context:
        made = context.new_page()
        made.set_default_timeout(SECONDS)
        made.on("console", note)
        made.on("pageerror", lambda error: faults.append(str(error)))
        open_page(made, daemon)
        yield made
    assert faults == []


def cell(page: Page, row: str, column: str) -> Locator:
    """A cell of the row that has this text."""
    return page.get_by_role("row").filter(has_text=row).locator(f'[data-title="{column}"]').first


def test_the_drawing_has_live_numbers(page: Page) -> None:
    label = page.locator('.wide [data-rate="tcp>ingress"]')
    expect(label).to_have_text(re.compile(r"[1-9][\d.]*k?"), timeout=SECONDS)
    expect(page.locator('.wide [data-rate="ingress>guests"]')).to_have_text(RATE, timeout=SECONDS)
    assert page.locator('.wide [data-ring="tcp>ingress"]').get_attribute("class") != "ring level-0"
    page.get_by_text("The same as a table").click()
    again = cell(page, "tcp0 → ingress", "Records a second")
    expect(again).to_have_text(re.compile(r"[1-9].*/s"), timeout=SECONDS)
    assert len(page.get_by_role("table", name="Workers", exact=True).get_by_role("row").all()) == 1 + 6


def test_the_guest_and_its_flow_are_shown_with_their_rates(page: Page, port: int) -> None:
    show(page, "Guests")
    expect(cell(page, GUEST_MAC, "To guest")).to_have_text(RATE, timeout=SECONDS)
    expect(cell(page, GUEST_MAC, "Addresses")).to_have_text(GUEST_ADDR)
    show(page, "Flows")
    other = f"{INTERNET_ADDR}:{port}"
    expect(cell(page, other, "Rate")).to_have_text(RATE, timeout=SECONDS)
    expect(cell(page, other, "Name")).to_have_text(NAME)
    expect(cell(page, other, "State")).to_have_text("established")
    line = page.get_by_role("row").filter(has_text=other).locator("polyline")
    wait_for(lambda: len((line.get_attribute("points") or "").split()) > 2, "the sparkline grows")


def test_flows_are_filtered_and_ended(page: Page, agent: Agent) -> None:
    show(page, "Flows")
    page.get_by_label("Port", exact=True).fill("99999")
    expect(page.get_by_text("port '99999' is wrong (allowed: 1 to 65535)")).to_be_visible(timeout=SECONDS)
    page.get_by_label("Port", exact=True).fill(str(ECHO))
    expect(page.get_by_text("No flow fits.")).to_be_visible(timeout=SECONDS)
    with agent.guest.connect(INTERNET_ADDR, ECHO) as sock:
        page.get_by_role("button", name=f"End the flow with {INTERNET_ADDR}:{ECHO}").click()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        expect(page.get_by_text("No flow fits.")).to_be_visible(timeout=SECONDS)


def test_a_forward_is_added_used_and_removed(
    page: Page, agent: Agent, daemon: Daemon, network: Network
) -> None:
    servers = Servers(agent.guest, network.directory)
    with contextlib.closing(servers):
        show(page, "Forwards")
        expect(page.get_by_text("No port is forwarded.")).to_be_visible(timeout=SECONDS)
        page.get_by_label("On the host").fill("127.0.0.1:9300")
        page.get_by_label("To the guest").fill(f"{GUEST_ADDR}:{ECHO}")
        page.get_by_label("To the guest").press("Enter")
        remove = page.get_by_role("button", name="Remove the forward from tcp 127.0.0.1:9300")
        expect(remove).to_be_visible(timeout=SECONDS)
        with network.host.connect("127.0.0.1", 9300) as sock:
            sock.sendall(b"through the page")
            assert sock.recv(100) == b"through the page"
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_text("proxy already running")).to_be_visible(timeout=SECONDS)
        remove.click()
        expect(page.get_by_text("No port is forwarded.")).to_be_visible(timeout=SECONDS)
        with pytest.raises(ConnectionRefusedError):
            network.host.connect("127.0.0.1", 9300)


def test_drops_are_shown_by_cause(page: Page, agent: Agent) -> None:
    show(page, "Drops")
    agent.guest.run("ping", "-c", "1", "-W", "1", "-t", "1", INTERNET_ADDR, check=False)
    expect(cell(page, "ttl exceeded", "Number")).to_have_text("1", timeout=SECONDS)
    expect(cell(page, "ttl exceeded", "What")).to_have_text("ipv4 packet")


def test_the_text_of_a_guest_stays_a_text(page: Page) -> None:
    hostile = "<img src=x onerror=document.title='owned'>"
    guest = {"guest": 7, "peer": hostile, "mac_addresses": [hostile], "ip_addresses": [hostile], "links": 1}
    page.route("**/guests", lambda route: route.fulfill(json=[{**guest, hostile: 5}]))
    show(page, "Guests")
    expect(page.get_by_role("cell", name=hostile, exact=True)).to_have_count(3, timeout=SECONDS)
    expect(page.locator("main img")).to_have_count(0)
    assert page.title() == "Guests - gvtap-pipeline"


def test_a_phone_needs_no_horizontal_scrolling(page: Page) -> None:
    page.set_viewport_size(PHONE)
    for view in VIEWS:
        show(page, view)
        page.get_by_role("main").locator("> div").wait_for()
        page.wait_for_timeout(1500)
        widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths == [PHONE["width"]] * 2, view
        wider = page.evaluate(
            "[...document.querySelectorAll('main *')]"
            ".filter((node) => node.checkVisibility() && node.getBoundingClientRect().right > innerWidth)"
            ".map((node) => node.outerHTML.slice(0, 100))"
        )
        assert wider == [], view
    expect(page.locator(".drawing.wide")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WINDOW, PHONE], ids=["window", "phone"])
def test_axe_finds_nothing_that_keeps_people_out(
    page: Page, scheme: Literal["light", "dark"], size: ViewportSize
) -> None:
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=scheme)
    for view in VIEWS:
        show_filled(page, view)
        found = Axe().run(page)
        assert found.violations_count == 0, f"{view}: {found.generate_report()}"


def test_dark_and_light_are_what_the_system_says(page: Page) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    light, dark = (sum(map(int, re.findall(r"\d+", colour))) for colour in colours)
    assert light > 600
    assert dark < 150


def test_only_the_visible_view_asks_and_a_hidden_tab_asks_nothing(page: Page) -> None:
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url.partition("?")[0].rpartition("/")[2])

    show(page, "Flows")
    page.get_by_role("table", name="Open flows").wait_for()
    page.on("request", note)
    page.wait_for_timeout(5000)
    assert set(asked) == {"flows"}
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.wait_for_timeout(2000)
    asked.clear()
    page.wait_for_timeout(3000)
    assert asked == []
    with page.expect_request("**/flows?*"):
        page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")


def test_the_address_works_once_and_the_session_in_each_tab(
    page: Page, chromium: Browser, daemon: Daemon
) -> None:
    assert "token" not in page.url
    page.reload()
    page.get_by_role("button", name="Sign out").wait_for()
    tab = page.context.new_page()
    tab.goto(page.url)
    tab.get_by_role("button", name="Sign out").wait_for(timeout=SECONDS)
    used = daemon.events("web page")[-2]["url"]
    assert used != address(daemon)
    with contextlib.closing(chromium.new_context()) as context:
        stranger = context.new_page()
        stranger.goto(used)
        expect(stranger.get_by_text("Open the address that the daemon's log shows")).to_be_visible(
            timeout=SECONDS
        )
        expect(stranger.get_by_role("button", name="Sign out")).to_be_hidden()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("You have signed out.")).to_be_visible(timeout=SECONDS)
    expect(tab.get_by_text(LOCKED)).to_be_visible(timeout=SECONDS)


def test_a_page_of_another_origin_can_neither_frame_nor_read_it(page: Page, faults: list[str]) -> None:
    place = page.url
    other = page.context.new_page()
    # A page of another port of the same host: the browser sends it the cookies of this host.
    other.route(
        "http://127.0.0.1:1/", lambda route: route.fulfill(content_type="text/html", body="<p>other</p>")
    )
    other.goto("http://127.0.0.1:1/")
    told = other.evaluate("(url) => fetch(url + 'status').then(() => 'read', () => 'refused')", place)
    assert told == "refused"
    told = other.evaluate(
        "(url) => new Promise((resolve) => {"
        "  const frame = document.createElement('iframe');"
        "  frame.onload = () => {"
        "    try { resolve(frame.contentDocument === null ? 'foreign' : 'blocked'); }"
        "    catch { resolve('foreign'); }"
        "  };"
        "  frame.src = url; document.body.append(frame);"
        "})",
        place,
    )
    assert told == "foreign"
    assert not other.frames[1].get_by_role("navigation").is_visible()
    faults.clear()
