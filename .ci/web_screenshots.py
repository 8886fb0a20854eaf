"""Makes the screenshots of the web page in docs/ (make screenshots). Needs root, namespaces and Chromium.

A daemon serves two guests in namespaces. One downloads, and both have some connections.
"""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support import browser  # noqa: E402
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, GUEST_MAC, Agent  # noqa: E402
from tests.support.daemon import Daemon  # noqa: E402
from tests.support.download import download  # noqa: E402
from tests.support.netns import INTERNET_ADDR, Network, missing  # noqa: E402
from tests.support.servers import DATA, DISCARD, ECHO, HTTP, UDP_ECHO, Servers  # noqa: E402
from tests.support.web_page import open_page, show  # noqa: E402

SECONDS: Final = 20.0
"""Until the sparklines have a shape."""
WIDE: Final = (1280, 800)
PHONE: Final = (375, 1080)
SHOTS: Final = (
    ("web-overview", "Overview", WIDE, "light"),
    ("web-flows", "Flows", (1280, 560), "dark"),
    ("web-phone", "Overview", PHONE, "dark"),
)
"""File, view, size of the window and colours."""
MACS: Final = (GUEST_MAC, "5a:94:ef:e4:0c:ef")
NAME: Final = "www.example.test"


@contextlib.contextmanager
def traffic(network: Network, agents: list[Agent]) -> Iterator[None]:
    """Connections of the guests, for the time of the block."""
    agents[0].run("resolve", GATEWAY_ADDR, NAME, "A", "udp")
    with contextlib.ExitStack() as stack:
        for agent, ports in zip(agents, ((ECHO, DISCARD, HTTP), (ECHO, DATA)), strict=True):
            for port in ports:
                stack.enter_context(agent.guest.connect(INTERNET_ADDR, port))
        sock = stack.enter_context(
            agents[1].guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        )
        sock.sendto(b"d" * 200, (INTERNET_ADDR, UDP_ECHO))
        stack.enter_context(download(agents[0].guest, network.internet))
        yield


def shoot(chromium: Browser, daemon: Daemon) -> None:
    """Make all pictures. Each has a browser of its own, and so a session."""
    pages = []
    for name, view, (width, height), colours in SHOTS:
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if colours == "dark" else "light"
        )
        page = context.new_page()
        open_page(page, daemon)
        show(page, view)
        pages.append((name, page))
    time.sleep(SECONDS)
    for name, page in pages:
        # A page in the background is not drawn.
        page.bring_to_front()
        time.sleep(3)
        path = ROOT / "docs" / f"{name}.png"
        page.screenshot(path=path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} kB")


def main() -> int:
    """Make the pictures, and remove everything else."""
    if why := missing() or browser.missing():
        print(f"screenshots: {why}", file=sys.stderr)
        return 1
    with Network(guest_count=2) as network, contextlib.ExitStack() as stack:
        servers = Servers(network.internet, network.directory)
        stack.callback(servers.close)
        daemon = stack.enter_context(
            Daemon(network, "-web", "127.0.0.1:8080", "-forward", f"2222:{GUEST_ADDR}:22")
        )
        agents = [
            stack.enter_context(Agent(guest, daemon.socket, mac=mac))
            for guest, mac in zip(network.guests, MACS, strict=True)
        ]
        daemon.expose("127.0.0.1:8443", f"{GUEST_ADDR}:443")
        chromium = stack.enter_context(browser.browser(network.host, network.directory))
        with traffic(network, agents):
            shoot(chromium, daemon)
    return 0


if __name__ == "__main__":
    sys.exit(main())
