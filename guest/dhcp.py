"""Which DHCP client runs on the guest's tap, and how it is started and ended.

gvforwarder's order: udhcpc where it is installed, else dhclient; and where neither is,
the small one of :mod:`guest.dhcp_client`. A client is a child process: udhcpc and a
dhclient that backs out end with a status, the others stay and renew the lease. Sets no
address itself.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

CHOICES: Final = ("auto", "udhcpc", "dhclient", "builtin", "none")
_STOP_SECONDS: Final = 2.0


class DhcpError(Exception):
    """The client cannot be started, or ended without a lease."""


class Client:
    """A running client. ``fd`` becomes readable when it has ended."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the command; DhcpError where it cannot be."""
        self.command = list(command)
        # The built-in client must be found from wherever the agent was.
        here = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path} if command[0] == sys.executable else None
        try:
            self._process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, env=environment)
        except OSError as error:
            raise DhcpError(f"cannot start {command[0]}: {error}") from error
        self.fd = os.pidfd_open(self._process.pid)

    def check(self) -> None:
        """To be called when ``fd`` is readable: DhcpError unless the client ended well."""
        status = self._process.wait()
        if status != 0:
            raise DhcpError(f"{self.command[0]} ended with status {status}")

    def stop(self) -> None:
        """End the client if it still runs, and wait for it."""
        os.close(self.fd)
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def command(choice: str, interface: str, resolv_conf: str = "") -> list[str] | None:
    """The command line for choice (one of CHOICES) on interface; None for "none".

    resolv_conf is for the built-in client alone: the others have scripts of their own.
    """
    if choice == "none":
        return None
    if choice == "udhcpc" or (choice == "auto" and shutil.which("udhcpc")):
        return ["udhcpc", "-f", "-q", "-i", interface, "-v"]
    if choice == "dhclient" or (choice == "auto" and shutil.which("dhclient")):
        return ["dhclient", "-4", "-d", "-v", interface]
    words = [sys.executable, "-m", "guest.dhcp_client", "-i", interface]
    return words + (["-resolv-conf", resolv_conf] if resolv_conf else [])
