"""A headless Chromium in a network namespace, driven by playwright.

    with browser(network.host, directory) as chromium:
        page = chromium.new_page()

The system's Chromium is used (Debian: chromium), never one that playwright would download.
"""

import contextlib
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.support.netns import Namespace

NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--no-sandbox",  # It does not work for root. All pages are ours.
    "--disable-dev-shm-usage",  # Tests look for what is left there.
    "--disable-background-networking",
    "--disable-gpu",
)


def executable() -> str:
    """The path of the system's browser, "" if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), "")


def missing() -> str:
    """Why there is no browser here, "" if there is one."""
    return "" if executable() else "chromium is not installed"


@contextlib.contextmanager
def browser(namespace: Namespace, directory: Path) -> Iterator[Browser]:
    """The browser, for the time of the block. directory: for a script that enters the namespace."""
    script = directory / "browser.sh"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(namespace.command([executable()]))} "$@"\n')
    script.chmod(0o755)
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=str(script), args=list(SWITCHES))
        try:
            yield started
        finally:
            started.close()
