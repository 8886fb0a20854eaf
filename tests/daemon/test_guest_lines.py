"""A guest that leaves: information for gvtap-pipeline, and the original's error for gvtap-gvproxy."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

from pipeline.wire import framing
from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import wait_for

WORDS = "cannot receive packets from @, disconnecting: cannot read size from socket: EOF"


def session(directory: Path, *, original: bool) -> list[dict[str, Any]]:
    """The log of a daemon whose guest leaves, from this event on until the end."""
    daemon = LoneDaemon(directory, "-ipv6", "off")
    if original:
        command = [sys.executable, "-m", "pipeline.gvproxy", "-ssh-port", "-1"]
        daemon.command = [*command, "-listen", f"unix://{daemon.socket}"]
    with daemon:
        with socket.socket(socket.AF_UNIX) as guest:
            guest.connect(str(daemon.socket))
            guest.sendall(framing.connect_request())
            wait_for(lambda: "guest connected" in daemon.errors(), "the guest", 10)
        wait_for(lambda: "guest disconnected" in daemon.errors(), "its end", 10)
        if original:
            wait_for(lambda: WORDS in daemon.errors(), "the original's line", 10)
    lines = [json.loads(line) for line in daemon.errors().splitlines()]
    begin = next(at for at, line in enumerate(lines) if line.get("kind") == "guest-gone")
    return lines[begin:]


def test_for_gvtap_pipeline_it_is_no_error(tmp_path: Path) -> None:
    lines = session(tmp_path, original=False)
    assert (lines[0]["level"], lines[0]["error"]) == ("info", "cannot read size from socket: EOF")
    assert [line["event"] for line in lines if line["level"] == "error"] == []


def test_for_gvtap_gvproxy_it_is_an_error_in_the_originals_words(tmp_path: Path) -> None:
    lines = session(tmp_path, original=True)
    (line,) = [line for line in lines if line.get("kind") == "original-guest-gone"]
    assert (line["level"], line["event"]) == ("error", WORDS)
    assert (line["protocol"], line["peer"], line["worker"]) == ("connect", "@", "supervisor")
