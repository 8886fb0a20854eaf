"""Chooses and runs the DHCP client of the guest's tap, and replaces or restarts it when it fails.

A client is a child process. "auto" prefers udhcpc, then dhclient, as gvforwarder does. The last choice is the
built-in client (:mod:`guest.dhcp_client`). The scripts of udhcpc and dhclient write /etc/resolv.conf. So if
this file may belong to another network (:mod:`guest.resolv_conf`), "auto" uses only the built-in client.

udhcpc ends after it has got an address, and so may dhclient. The built-in client stays and renews the lease.

If a client fails, the agent logs that and forwards frames as before. With "auto" the next client takes its
place. A client that the user chose is started again if the interface has no address. The built-in client is
always started again, because it renews the lease.
"""

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from guest import resolv_conf
from pipeline.system.tap import has_address

LOG: Final = logging.getLogger("gvtap-guest")

CHOICES: Final = ("auto", "udhcpc", "dhclient", "builtin", "none")
PATIENCE_SECONDS: Final = 15.0
"""Seconds that a client may take to get an address, if another client can replace it."""
FIRST_WAIT_SECONDS: Final = 1.0
MAX_WAIT_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 2 * resolv_conf.TOOL_SECONDS
"""Seconds that a client may take to end. It may run another program to restore resolv.conf."""


class DhcpError(Exception):
    """A client cannot be started, or ended with a failure."""


class Client:
    """A running client. ``fd`` becomes readable when the client ends. It is -1 on a kernel without pidfds."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the command. Raises DhcpError."""
        self.command = list(command)
        self.builtin = command[0] == sys.executable
        # The built-in client must be importable, whatever the working directory is.
        here = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path} if self.builtin else None
        # The built-in client ends when this pipe is closed, even if the agent is killed.
        stdin = subprocess.PIPE if self.builtin else subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(self.command, stdin=stdin, env=environment)
        except OSError as error:
            raise DhcpError(f"cannot start {command[0]}: {error}") from error
        try:
            self.fd = os.pidfd_open(self._process.pid)
        except OSError as error:
            LOG.warning("the end of %s will go unnoticed: %s", self.name, error)
            self.fd = -1

    @property
    def name(self) -> str:
        """The name of the client, for the log."""
        return "the built-in client" if self.builtin else self.command[0]

    def check(self) -> None:
        """Call this when ``fd`` is readable. Raises DhcpError unless the client ended with status 0."""
        status = self._process.wait()
        if status != 0:
            raise DhcpError(f"{self.name} ended with status {status}")

    def stop(self) -> None:
        """End the client if it still runs, and wait for its end."""
        if self.fd >= 0:
            os.close(self.fd)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


class Alarm:
    """A timer. ``fd`` becomes readable after ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._timer = threading.Timer(seconds, os.eventfd_write, (self.fd, 1))
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """End the thread and close ``fd``."""
        self._timer.cancel()
        self._timer.join()
        os.close(self.fd)


class Keeper:
    """Keeps a DHCP client running on an interface, from start() to stop().

    It adds descriptors to ``watched`` and removes them. The caller polls them, and calls the function of each
    descriptor that is readable.
    """

    def __init__(
        self,
        clients: Sequence[Sequence[str]],
        interface: str,
        watched: dict[int, Callable[[], None]],
        first_wait: float = FIRST_WAIT_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """clients: command lines, preferred first; may be empty. first_wait, patience: seconds."""
        self._clients = list(clients)
        self._interface = interface
        self._watched = watched
        self._wait = self._first_wait = first_wait
        self._patience = patience
        self._client: Client | None = None
        self._alarm: Alarm | None = None
        self._began = 0.0

    def start(self) -> None:
        """Start the first client."""
        if self._clients:
            self._start()

    def stop(self) -> None:
        """End the client and the timer, if they run."""
        self._end_alarm()
        self._end_client()

    def _start(self) -> None:
        self._end_alarm()
        self._began = time.monotonic()
        try:
            self._client = Client(self._clients[0])
        except DhcpError as error:
            self._failed(str(error))
            return
        if self._client.fd >= 0:
            self._watched[self._client.fd] = self._ended
        if len(self._clients) > 1:
            self._set_alarm(self._patience, self._look)

    def _ended(self) -> None:
        client = self._client
        assert client is not None
        self._end_alarm()
        self._end_client()
        try:
            client.check()
        except DhcpError as error:
            self._failed(str(error))
            return
        if len(self._clients) > 1 and not has_address(self._interface):
            self._failed(f"{client.name} ended, and {self._interface} has no address")

    def _look(self) -> None:
        """The client has had its time. If there is still no address, try the next client."""
        self._end_alarm()
        if self._client is not None and not has_address(self._interface):
            name = self._client.name
            self._end_client()
            self._failed(f"no address by {name} within {self._patience:.0f} s")

    def _failed(self, reason: str) -> None:
        if len(self._clients) > 1:
            del self._clients[0]
            LOG.error("%s; the next DHCP client takes its place", reason)
            self._start()
            return
        if self._clients[0][0] != sys.executable and has_address(self._interface):
            LOG.error("%s; %s keeps its address", reason, self._interface)
            return
        if time.monotonic() - self._began > MAX_WAIT_SECONDS:
            self._wait = self._first_wait
        LOG.error("%s; it is started again in %.0f s", reason, self._wait)
        self._set_alarm(self._wait, self._start)
        self._wait = min(2 * self._wait, MAX_WAIT_SECONDS)

    def _set_alarm(self, seconds: float, action: Callable[[], None]) -> None:
        self._alarm = Alarm(seconds)
        self._watched[self._alarm.fd] = action

    def _end_alarm(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            del self._watched[alarm.fd]
            alarm.stop()

    def _end_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            self._watched.pop(client.fd, None)
            client.stop()


def commands(choice: str, interface: str, resolv_conf_choice: str = resolv_conf.AUTO) -> list[list[str]]:
    """The command lines for choice (one of CHOICES), preferred first. "none" has no command.

    resolv_conf_choice: for the built-in client. The others have scripts that write the file.
    """
    found: list[list[str]] = []
    scripts = choice == "auto" and not resolv_conf.is_of_another_network(resolv_conf.DEFAULT_PATH)
    if choice == "udhcpc" or (scripts and shutil.which("udhcpc")):
        found.append(["udhcpc", "-f", "-q", "-i", interface, "-v"])
    if choice == "dhclient" or (scripts and shutil.which("dhclient")):
        found.append(["dhclient", "-4", "-d", "-v", interface])
    if choice in ("builtin", "auto"):
        words = [sys.executable, "-P", "-m", "guest.dhcp_client", "-i", interface, "-with-parent"]
        found.append([*words, "-resolv-conf", resolv_conf_choice])
    return found
