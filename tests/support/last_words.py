"""Waits until the daemon has what a guest sent last, so that a test can cut the guest's link.

If an ACK is lost with the link, the daemon keeps the acknowledged bytes for as long as TCP waits for the
guest to come back: 30 s (COMES_BACK_S in pipeline.stages.tcp.orphans). A test of free slots then fails.
"""

import re
import time
from pathlib import Path

from tests.support.netns import Namespace, wait_for

REST_SECONDS = 0.03
_SLEEPS = re.compile(r"^State:\t.|^voluntary_ctxt_switches:.*", re.MULTILINE)
_CLOSING = [word for name in ("fin-wait-1", "last-ack", "closing") for word in ("state", name)]


def arrive(guest: Namespace, carrier: int, seconds: float = 2.0) -> None:
    """Wait until the daemon has the guest's last segments: its FINs, and its ACKs of FINs.

    carrier: the process that carries the guest's frames.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and guest.run("ss", "-Htn", *_CLOSING).stdout:
        time.sleep(0.05)
    seen: list[list[str]] = []
    # The guest does not show whether the ACK of the last FIN was sent. It was, when the carrier is idle.
    try:
        wait_for(lambda: _is_idle(carrier, seen), f"process {carrier} is idle", every=0.0)
    except AssertionError as error:
        sockets = guest.run("ss", "-Htunaoi").stdout
        raise AssertionError(f"{error}: {seen[-4:]}\nthe guest's sockets:\n{sockets}") from None


def _is_idle(pid: int, seen: list[list[str]]) -> bool:
    """Whether the process sleeps for a while. Otherwise it works, or waits for a core."""
    status = Path(f"/proc/{pid}/status")
    before = _SLEEPS.findall(status.read_text())
    time.sleep(REST_SECONDS)
    after = _SLEEPS.findall(status.read_text())
    seen += [before, after]
    return before == after and before[:1] == ["State:\tS"]
