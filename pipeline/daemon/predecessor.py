"""The successor's side of a restart: what it gets from the supervisor that started it (restart.py).

::

    find()              the environment says that there is one
    receive_places()    at the start: sockets, taps and files, before the workers are forked
    ready()             the configuration is good, and the workers answer. The predecessor then pauses
    receive_state()     forwards, zones, policy, leases and links, as they are in that moment
    running()           everything that may fail has been done
    await_end()         the predecessor has let go
    refuse()            at any time before that: the predecessor goes on
"""

import os
import re
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Final

from pipeline.daemon.given import Given
from pipeline.daemon.handover_line import Letter, Line, LineError
from pipeline.ipc.channel import close_all
from pipeline.ipc.handover_messages import (
    Connections,
    File,
    GuestLink,
    Known,
    Leases,
    Minder,
    OpenForward,
    Place,
    PlacesEnd,
    Policy,
    Ready,
    Refused,
    Running,
    StateEnd,
    Taken,
    Used,
    Yours,
    Zone,
)

VARIABLE: Final = "GVTAP_TAKE_OVER"
"""The environment variable with the number of the line's descriptor."""
PLACES_TIMEOUT: Final = 20.0
STATE_TIMEOUT: Final = 20.0
END_TIMEOUT: Final = 20.0
"""Seconds for which the successor waits. The predecessor gives up earlier."""
RELEASE_TIMEOUT: Final = 2.0
FLUSH_TIMEOUT: Final = 2.0


@dataclass(slots=True)
class State:
    """What a supervisor knows that its configuration does not say. The descriptors are the owner's."""

    forwards: list[tuple[OpenForward, int]] = field(default_factory=list)
    links: list[tuple[GuestLink, list[int]]] = field(default_factory=list)
    zones: list[Zone] = field(default_factory=list)
    policy: Policy | None = None
    leases: Leases | None = None
    used: list[list[object]] = field(default_factory=list)
    connections: list[list[object]] = field(default_factory=list)
    knowledge: list[Known] = field(default_factory=list)


class Predecessor:
    """The supervisor that started this one, and what it has given so far."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.given = Given()
        self.state = State()
        self.minder: socket.socket | None = None
        self._files: dict[tuple[str, str], int] = {}
        self.has_ended = False
        """Whether all is this program's."""

    @classmethod
    def find(cls, environ: MutableMapping[str, str]) -> "Predecessor | None":
        """The predecessor that the environment names. Child processes do not see the variable."""
        number = environ.pop(VARIABLE, "")
        if not re.fullmatch(r"[0-9]{1,6}", number):
            return None
        try:
            sock = socket.socket(fileno=int(number))
            if sock.family != socket.AF_UNIX:
                sock.detach()
                return None
        except OSError:
            return None
        sock.set_inheritable(False)
        return cls(Line(sock, "the predecessor"))

    def receive_places(self) -> None:
        """Receive what the workers' processes must know, or must not have. Raises LineError."""
        count = 0
        while True:
            message, fds = self.line.wait_for(PLACES_TIMEOUT)
            match message:
                case Place():
                    self.given.add((message.protocol, message.url), fds)
                case File():
                    close_all(fds[1:])
                    self._files[message.kind, message.path] = fds[0]
                case Minder():
                    close_all(fds[1:])
                    self.minder = socket.socket(fileno=fds[0])
                case PlacesEnd():
                    self._check(count, message.count)
                    return
                case _:
                    close_all(fds)
                    raise LineError(f"the predecessor has sent {message.NAME} too early")
            count += 1

    def receive_state(self) -> State:
        """Receive the rest. The predecessor pauses now. Raises LineError."""
        state = self.state
        count = 0
        while True:
            message, fds = self.line.wait_for(STATE_TIMEOUT)
            match message:
                case OpenForward():
                    close_all(fds[1:])
                    state.forwards.append((message, fds[0]))
                case GuestLink():
                    state.links.append((message, fds))
                case Zone():
                    state.zones.append(message)
                case Policy():
                    state.policy = message
                case Leases():
                    state.leases = message
                case Used():
                    state.used = message.rows
                case Connections():
                    state.connections += message.ends
                case Known():
                    state.knowledge.append(message)
                case StateEnd():
                    self._check(count, message.count)
                    return state
                case _:
                    close_all(fds)
                    raise LineError(f"the predecessor has sent {message.NAME} too early")
            count += 1

    def _check(self, found: int, expected: int) -> None:
        if found != expected:
            raise LineError(f"{found} of {expected} messages of the predecessor have come")

    def take_file(self, kind: str, path: str) -> int:
        """The descriptor of a file that the predecessor wrote, -1 if it did not. It is the caller's."""
        return self._files.pop((kind, path), -1)

    def ready(self, version: str) -> None:
        """Everything is fine so far. version: of this program. Raises OSError."""
        self.line.send(Ready(version))

    def running(self) -> None:
        """Nothing can fail any more. Raises OSError."""
        self.line.send(Running())

    def await_end(self) -> bool:
        """Wait until the predecessor has let go. False if it goes on instead."""
        try:
            letter: Letter = self.line.wait_for(END_TIMEOUT)
        except LineError:
            return False
        close_all(letter.fds)
        self.has_ended = isinstance(letter.message, Yours)
        return self.has_ended

    def take_minder(self) -> socket.socket | None:
        """The socket to the minder, if there is one. It is the caller's from now on."""
        minder, self.minder = self.minder, None
        return minder

    def taken(self) -> None:
        """The pid file is written. Raises OSError."""
        self.line.send(Taken())

    def await_release(self) -> None:
        """Wait until the predecessor has said everything to others that it alone may say."""
        try:
            close_all(self.line.wait_for(RELEASE_TIMEOUT).fds)
        except LineError:
            # It has closed its end.
            return

    def refuse(self, reason: str) -> None:
        """This successor ends, for this reason. Does nothing after the predecessor has let go."""
        if self.has_ended:
            return
        try:
            self.line.send(Refused(reason))
            self.line.flush_all(FLUSH_TIMEOUT)
        except OSError:
            # It has ended itself, or kills this process. Then nobody asks for the reason.
            return

    @property
    def fds(self) -> list[int]:
        """The descriptors that are open now. No worker may keep them."""
        minder = [self.minder.fileno()] if self.minder is not None else []
        return [self.line.fileno(), *minder, *self._files.values(), *self.given.fds]

    def close(self) -> None:
        """Close what was not taken."""
        self.line.close()
        self.given.close(keep_files=not self.has_ended)
        close_all(list(self._files.values()))
        self._files.clear()
        for _, fd in self.state.forwards:
            os.close(fd)
        for _, fds in self.state.links:
            close_all(fds)
        self.state = State()
        if self.minder is not None:
            self.minder.close()
            self.minder = None
