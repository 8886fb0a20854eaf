"""Reports to systemd, or another manager of services: ready, reloading, stopping, alive (sd_notify(3)).

A manager passes the address of a datagram socket in NOTIFY_SOCKET. Without it nothing is sent. A message that
cannot be sent is lost: the program does not depend on its manager.
"""

import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

READY: Final = "READY=1"
RELOADING: Final = "RELOADING=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """The manager that started this process, if there is one."""

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        """Read the variables and remove them, so that child processes do not see them."""
        values = {name: environ.pop(name, "") for name in _VARIABLES}
        path = values["NOTIFY_SOCKET"]
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        microseconds = values["WATCHDOG_USEC"]
        meant = values["WATCHDOG_PID"] in ("", str(pid))
        self.environment = {name: values[name] for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC") if values[name]}
        """The variables for a process that takes this one's place. WATCHDOG_PID would name this one."""
        limit = int(microseconds) / 1e6 if meant and path and microseconds.isdecimal() else 0.0
        self.alive_every = limit / 2
        """Seconds between two messages ALIVE; 0 if the manager does not want any."""

    def reloading(self) -> None:
        """Report that a reload begins. READY ends it. systemd ignores a message without the time."""
        self.notify(f"{RELOADING}\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def main_process(self, pid: int) -> None:
        """Report that another process takes this one's place. The manager believes it from this one alone."""
        self.notify(f"MAINPID={pid}")

    def notify(self, state: str) -> None:
        """Send one of the messages above."""
        if not self._address:
            return
        # No manager reads any more, or its queue is full.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(state.encode(), self._address)
