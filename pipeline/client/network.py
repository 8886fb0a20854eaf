"""A network from Python: start one as a child, or find a running one, and ask it (docs/client.md).

    with Network.start(policy={"default": "deny"}) as network:
        network.expose("8080:80")

Methods wait for the daemon's answer. All of them raise ApiError; RefusedError has the status, and the key of
the request that is wrong. async_network.py has the same for asyncio.
"""

import http.client
import json
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Literal, Self, TypeVar

from pipeline.client import api, options, scripts
from pipeline.client.answers import Approval, Event, Explanation, Flow, Forward, Guest, Policy, QuotaUse
from pipeline.client.api import Answer, Api, ApiError
from pipeline.client.child import LOOK_SECONDS, START_SECONDS, Child, OfChild, attach
from pipeline.client.records import Record
from pipeline.client.scripts import Connections
from pipeline.config.forward_words import WordError
from pipeline.go import flags as go_flags

APPROVAL_ASKED: Final = "approval-asked"
Scope = Literal["once", "session", "always"]
SILENCE_SECONDS: Final = 45.0
"""The daemon sends a comment every 15 seconds. After this time without one, events() ends with an error."""


_T = TypeVar("_T")
NO_SETTINGS: Final[Mapping[str, object]] = {}


class _Closing(ABC):
    """Ends with close(), or with the block of a ``with``."""

    @abstractmethod
    def close(self) -> None:
        """End it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Network(OfChild, _Closing):
    """A network whose daemon runs. Use it as a context manager: a child ends with the block."""

    def __init__(self, url: str, token: str = "", child: Child | None = None) -> None:
        """url: of the API, ``unix:///path`` or ``tcp://host:port``. token: if the API asks for one."""
        self._api = Api(url, token)
        self._child = child

    # --- begin and end ----------------------------------------------------------------------

    @classmethod
    def start(
        cls,
        *,
        policy: Policy | None = None,
        config: Mapping[str, object] = NO_SETTINGS,
        flags: Sequence[str] = (),
        seconds: float = START_SECONDS,
    ) -> Self:
        """Start a network as a child, and wait until it is ready.

        policy: where guests may connect to. config: further keys of docs/config.md. flags: further flags of
        ``gvtap-pipeline start``, such as ``("-listen-qemu", "unix:///run/vm.sock")``.
        """
        child = start_child(policy, config, flags)
        network = cls(child.url, child=child)
        try:
            network.wait_until_ready(seconds)
        except BaseException:
            network.close()
            raise
        return network

    @classmethod
    def find(cls, url: str = "", *, config: str = "", token_file: str = "") -> Self:
        """A network that runs: of the URL, else of $GVTAP_API, else of a configuration file's path.

        Without any, it is looked for at the usual places (docs/commands.md).
        """
        found = find_api(url, config, token_file)
        network = cls(found.url, found.token)
        network.version()
        return network

    def close(self) -> None:
        """End the network if it is a child. Its guests lose their links."""
        if self._child is not None:
            self._child.close()

    # --- what it is ---------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The address of the API."""
        return self._api.url

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until the API answers. All other sockets are open then."""
        deadline = time.monotonic() + seconds
        while True:
            if self._child is not None:
                self._child.check()
            try:
                self._run(scripts.version())
            except api.RefusedError:
                raise
            except ApiError:
                if time.monotonic() > deadline:
                    raise
            else:
                return
            time.sleep(LOOK_SECONDS)

    def version(self) -> str:
        """The version of the daemon."""
        return self._run(scripts.version())

    def status(self) -> Mapping[str, object]:
        """What ``gvtap-pipeline status -json`` prints."""
        return self._run(scripts.status())

    # --- guests -------------------------------------------------------------------------------

    def guests(self) -> list[Guest]:
        """All guests."""
        return self._run(scripts.guests())

    def leases(self) -> dict[str, str]:
        """MAC address by IP address, of guests and the gateway."""
        return self._run(scripts.leases())

    def flows(
        self, *, guest: str = "", protocol: str = "", host: str = "", port: int = 0, limit: int = 1000
    ) -> list[Flow]:
        """Open flows, the one with most bytes first. guest: number, MAC or IP address."""
        return self._run(scripts.flows(guest, protocol, host, port, limit))

    def end_flow(self, flow: Flow | str) -> None:
        """End a flow, or the one with this id."""
        self._run(scripts.end_flow(flow))

    def attach(self, target: int | str, *flags: str, taps: str = "") -> "Attachment":
        """Give a network namespace a tap, and wait until it works there. It needs root.

        target: a process, or the path of the namespace. flags: of ``gvtap-pipeline attach``. taps: path of
        the socket of ``-link fd+unix://``, which a child has anyway.
        """
        path = taps or (self._child.taps if self._child is not None else "")
        if not path:
            raise ApiError("attach needs taps=PATH: the socket of -link fd+unix://PATH of the daemon")
        return Attachment(attach(str(target), path, flags))

    # --- forwards and names -----------------------------------------------------------------

    def forwards(self) -> list[Forward]:
        """All open forwards."""
        return self._run(scripts.forwards())

    def expose(self, word: str) -> list[Forward]:
        """Open forwards, all or none. word: as of ``gvtap-pipeline expose``, such as ``8080:80``."""
        return self._run(scripts.expose(word))

    def unexpose(self, word: str) -> None:
        """Close forwards. word: their side of the host, such as ``8080``."""
        self._run(scripts.unexpose(word))

    def add_zone(self, name: str, hosts: Mapping[str, str]) -> None:
        """Add names to a zone of the name server. hosts: IP address by name."""
        self._run(scripts.add_zone(name, hosts))

    # --- policy -------------------------------------------------------------------------------

    def policy(self) -> Policy:
        """The egress policy."""
        return self._run(scripts.policy())

    def set_policy(self, policy: Policy, *, connections: Connections = "cut") -> int:
        """Replace the egress policy as a whole. Returns how many connections were cut."""
        return self._run(scripts.set_policy("PUT", policy, connections))

    def patch_policy(self, change: Policy, *, connections: Connections = "cut") -> int:
        """The same for the keys that the change has."""
        return self._run(scripts.set_policy("PATCH", change, connections))

    def explain(
        self, guest: str, host: str, port: int = 0, *, protocol: str = "tcp", name: str = ""
    ) -> Explanation:
        """Which rule decides about a guest and a destination, and why.

        guest: its number, MAC or IP address. host: an address, or a name, which the host looks up. name: as
        if the gateway had told the guest that the address has it.
        """
        return self._run(scripts.explain(guest, host, port, protocol, name))

    def quotas(self) -> list[QuotaUse]:
        """What guests have used of their quotas, and what is left."""
        return self._run(scripts.quotas())

    def reset_quotas(self, guest: str = "", per: str = "") -> int:
        """Let what a guest has used begin at zero. Returns how many accounts did.

        guest: of quotas(), or a guest's number; "" for all. per: life, hour, day or month; "" for all.
        """
        return self._run(scripts.reset_quotas(guest, per))

    def waiting(self) -> list[Approval]:
        """The flows that wait for an approval now."""
        return self._run(scripts.approvals())

    def approvals(self) -> "Approvals":
        """The flows that wait for an approval, now and from now on, as an iterator."""
        events = self.events(APPROVAL_ASKED)
        try:
            return Approvals(events, self.waiting())
        except ApiError:
            events.__exit__(None, None, None)
            raise

    def decide(self, approval: Approval | str, allow: bool, scope: Scope = "once") -> None:
        """Allow or refuse a flow that waits. RefusedError with status 404 means that it waits no more.

        scope: session: this guest, until its link ends; always: all guests. Both add a rule to the policy.
        """
        self._run(scripts.decide(approval, allow=allow, scope=scope))

    # --- events -------------------------------------------------------------------------------

    def events(self, *kinds: str) -> "Events":
        """What happens from now on, as an iterator. kinds: names of docs/events.md, none for all of them."""
        call = scripts.events(kinds)
        return Events(self._api.get(call.target))

    def _run(self, script: scripts.Script[_T]) -> _T:
        """Make the requests of a script."""
        try:
            call = next(script)
            while True:
                try:
                    answer = self._api.ask(call.method, call.target, call.body)
                except ApiError as error:
                    call = script.throw(error)
                else:
                    call = script.send(answer)
        except StopIteration as stop:
            result: _T = stop.value
            return result
        except WordError as error:
            raise ApiError(str(error)) from None


class Events(_Closing, Iterator[Event]):
    """Events as they happen. The subscription ends with close(), or with the block of a ``with``."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._closed = False
        self._reading = threading.Lock()
        """Held while next() reads: what it reads from is not closed under it by another thread."""
        answer.sock.settimeout(SILENCE_SECONDS)

    def __next__(self) -> Event:
        """The next event. Raises StopIteration after close(), and ApiError if the daemon is gone."""
        with self._reading:
            return self._next()

    def _next(self) -> Event:
        while True:
            try:
                line = self._answer.response.readline()
                if line.startswith(b"data:") and line.endswith(b"\n"):
                    return Event.of(json.loads(line.removeprefix(b"data:")))
            except (OSError, ValueError, http.client.HTTPException) as error:
                if self._closed:
                    raise StopIteration from None
                raise ApiError(f"the daemon sends no more events: {error}") from error
            if not line.endswith(b"\n"):
                self._release()
                if self._closed:
                    raise StopIteration
                # Nobody must take this for an end that he wanted: others wait for his answers.
                raise ApiError("the daemon sends no more events: it has ended")

    def close(self) -> None:
        """End the subscription. A next() that waits, in another thread, ends too."""
        self._closed = True
        with suppress(OSError):
            self._answer.sock.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        self._answer.response.close()
        self._answer.sock.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        with self._reading:
            self._release()


class Approvals(_Closing, Iterator[Approval]):
    """Flows that wait for an approval. It ends as Events does."""

    def __init__(self, events: Events, waiting: Sequence[Approval]) -> None:
        self._events = events
        self._waiting = list(waiting)
        self._known = {approval.id for approval in waiting}

    def __next__(self) -> Approval:
        """The next one. Raises as Events does."""
        if self._waiting:
            return self._waiting.pop(0)
        while True:
            approval = Approval.of(Record(dict(next(self._events).fields)))
            if approval.id not in self._known:
                return approval

    def close(self) -> None:
        """End the subscription, from any thread."""
        self._events.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.__exit__(kind, error, trace)


class Attachment(_Closing):
    """A tap in a namespace. It goes with close(), or with the block of a ``with``."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def close(self) -> None:
        """Remove the tap."""
        self.process.terminate()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def start_child(policy: Policy | None, config: Mapping[str, object], flags: Sequence[str]) -> Child:
    """Start a daemon, and do not wait. Raises ApiError."""
    keys = dict(config) if policy is None else {**config, "egress-policy": policy}
    try:
        return Child(flags, keys)
    except OSError as error:
        raise ApiError(f"cannot start a network: {error}") from error


def find_api(url: str, config: str, token_file: str) -> Api:
    """The API of a daemon that runs. Raises ApiError."""
    given = {"-api": url, "-config": config, "-api-token-file": token_file}
    words = [word for name, value in given.items() if value for word in (name, value)]
    return api.find(go_flags.parse(options.API, words))
