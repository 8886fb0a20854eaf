"""The listen worker: bound host ports of port forwards.

TCP and unix connections are accepted here and handed to an egress worker with
SCM_RIGHTS; bound UDP sockets are handed over whole. Closing a forward closes its
listener; connections that it brought live on.

Nothing is accepted while egress has not taken what it got before, and for a moment after the
system had no descriptor left: clients wait in the backlogs of the listeners, which cost us nothing.
"""

import socket
from time import monotonic
from typing import Final

from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.host import listener, proxy_header
from pipeline.ipc import events as ev
from pipeline.ipc import messages
from pipeline.ipc.channel import close_all
from pipeline.links import addresses
from pipeline.stages.worker import Worker
from pipeline.system import inet, socket_file
from pipeline.wire import ipv4, proxy_protocol

ACCEPTS_A_STEP: Final = 64
EXHAUSTED_PAUSE: Final = 0.2
"""Seconds without accepting after an accept failed: out of descriptors, as a rule."""
BUSY_PAUSE: Final = 0.01
"""Seconds between two looks whether egress has taken what it got."""

_ACCEPTED: Final = INDEX["listen_connection_accepted"]
_ACCEPT_FAILED: Final = INDEX["listen_accept_failed"]
_PAUSED: Final = INDEX["listen_accept_paused"]
_LOST: Final = INDEX["listen_connection_lost"]
_FORWARDS: Final = INDEX["listen_forwards"]
_TOO_MANY: Final = INDEX["listen_forward_refused_too_many"]


class Forward:
    """One bound local address and the guest's address behind it."""

    __slots__ = ("addr", "egress", "file", "key", "path", "port", "protocol", "proxy", "sock", "watched")

    def __init__(
        self, key: str, protocol: str, sock: socket.socket, addr: int, port: int, path: str | None = None
    ) -> None:
        self.key = key
        self.protocol = protocol
        self.sock = sock
        self.addr = addr
        self.port = port
        self.path = path
        self.file = socket_file.identity(path) if path is not None else None
        self.egress = 0
        self.proxy = 0
        """Version of the PROXY header that the guest gets first; 0 for none."""
        self.watched = False
        """Whether connections are accepted now."""


class ListenStage:
    """All forwards of the daemon, by protocol and local address."""

    def __init__(self, worker: Worker, config: Config) -> None:
        self.worker = worker
        self.counts = worker.counts
        self.egress_workers = config.egress_workers
        self.max_forwards = config.max_forwards
        self.forwards: dict[str, Forward] = {}
        self._next_egress = 0
        self._resume_at = float("inf")
        """When accepting goes on, if it is paused."""
        self._told = False
        """Whether the log says already that accepting fails."""

    def step(self, now: float) -> int:
        """Go on accepting after a pause; all other work comes from sockets and control requests."""
        if now < self._resume_at:
            return 0
        if self._busy():
            self._resume_at = now + BUSY_PAUSE
            return 0
        self._resume_at = float("inf")
        for forward in self.forwards.values():
            self._watch(forward)
        return 1

    def deadline(self) -> float:
        """When a pause ends."""
        return self._resume_at

    def on_control(self, message: dict[str, object], fds: list[int]) -> dict[str, object]:
        """Requests ``expose``, ``unexpose`` and ``tunnel`` of the supervisor."""
        try:
            match messages.request_of(message):
                case messages.Expose() as ask:
                    self._expose(ask.protocol, ask.local, ask.remote, ask.proxy or 0, ask.found)
                case messages.Unexpose() as ask:
                    self._unexpose(ask.protocol, ask.local)
                case messages.Tunnel() as ask if fds:
                    addr = ipv4.addr_parse(ask.ip)
                    self._hand_over(socket.socket(fileno=fds.pop(0)), addr, ask.port, ask.head or b"")
                case _:
                    return {"error": f"listen knows no request {message.get('op')!r}"}
        except (listener.ListenError, ValueError) as error:
            return {"error": str(error)}
        except OSError as error:
            return {"error": f"{message['op']}: {error.strerror}"}
        finally:
            close_all(fds)
        return {"ok": True}

    def _expose(self, protocol: str, local: str, remote: str, proxy: int, found: list[str] | None) -> None:
        """found: the addresses of the host in local, where that is a name."""
        key = f"{protocol} {local}"
        if key in self.forwards:
            raise listener.ListenError("proxy already running")
        if len(self.forwards) >= self.max_forwards:
            self.counts[_TOO_MANY] += 1
            raise listener.ListenError(f"{self.max_forwards} ports are forwarded already")
        host, port = listener.split(remote.removeprefix("tcp://"))
        addr = ipv4.addr_parse(host)
        path = None
        if protocol == "unix":
            path = addresses.unix_path(local) if local.startswith("unix://") else local
            sock = listener.bind_unix(path)
        else:
            sock = listener.bind_inet(protocol, local, found)
        forward = Forward(key, protocol, sock, addr, port, path)
        forward.proxy = proxy
        if protocol in inet.UDP:
            forward.egress = self._pick_egress()
            message = messages.UdpForward(key, addr, port)
            with sock:
                self.worker.send_peer(f"egress{forward.egress}", message.encode(), [sock])
        elif self._resume_at == float("inf"):
            self._watch(forward)
        self.forwards[key] = forward
        self.counts[_FORWARDS] = len(self.forwards)
        self.worker.log.info("forward opened", protocol=protocol, local=local, remote=remote)

    def _unexpose(self, protocol: str, local: str) -> None:
        forward = self.forwards.pop(f"{protocol} {local}", None)
        if forward is None:
            raise listener.ListenError("proxy not found")
        self._close(forward)
        self.counts[_FORWARDS] = len(self.forwards)
        self.worker.log.info("forward closed", protocol=protocol, local=local)

    def _close(self, forward: Forward) -> None:
        if forward.protocol in inet.UDP:
            message = messages.UdpUnforward(forward.key)
            self.worker.send_peer(f"egress{forward.egress}", message.encode(), [])
            return
        self._ignore(forward)
        forward.sock.close()
        if forward.path is not None and not socket_file.remove(forward.path, forward.file):
            self.worker.log.warning("socket file was gone already", path=forward.path)

    # --- accepting ----------------------------------------------------------------------

    def _watch(self, forward: Forward) -> None:
        if forward.protocol not in inet.UDP and not forward.watched:
            self.worker.register(forward.sock.fileno(), ev.READ, lambda _events: self._accept(forward))
            forward.watched = True

    def _ignore(self, forward: Forward) -> None:
        if forward.watched:
            self.worker.unregister(forward.sock.fileno())
            forward.watched = False

    def _pause(self, seconds: float) -> None:
        """Accept nothing anywhere: what is short is short for all forwards."""
        for forward in self.forwards.values():
            self._ignore(forward)
        self._resume_at = monotonic() + seconds
        self.counts[_PAUSED] += 1

    def _busy(self) -> bool:
        """Whether an egress worker has not taken what it got: its connections would pile up here."""
        return any(self.worker.peer_backlog(f"egress{index}") for index in range(self.egress_workers))

    def _accept(self, forward: Forward) -> None:
        for _ in range(ACCEPTS_A_STEP):
            if self._busy():
                self._pause(BUSY_PAUSE)
                return
            try:
                sock, _ = forward.sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # The connection stays in the backlog and the listener readable: look again later.
                self.counts[_ACCEPT_FAILED] += 1
                self._pause(EXHAUSTED_PAUSE)
                if not self._told:
                    self._told = True
                    self.worker.log.warning("accept failed", local=forward.key, error=str(error))
                return
            self._told = False
            self.counts[_ACCEPTED] += 1
            first = _proxy_header(forward.proxy, sock) if forward.proxy else b""
            try:
                self._hand_over(sock, forward.addr, forward.port, first)
            except OSError:
                self.counts[_LOST] += 1

    def _hand_over(self, sock: socket.socket, addr: int, port: int, first: bytes) -> None:
        """Give a connection to egress; first is what the guest gets before anything that the socket says.

        sock is closed in any case. OSError when no descriptor is left to keep it until egress takes it.
        """
        message = messages.Accepted(addr, port, first)
        with sock:
            self.worker.send_peer(f"egress{self._pick_egress()}", message.encode(), [sock])

    def _pick_egress(self) -> int:
        self._next_egress = (self._next_egress + 1) % self.egress_workers
        return self._next_egress

    def close(self) -> None:
        """Close all listeners and remove socket files."""
        for forward in self.forwards.values():
            self._close(forward)
        self.forwards.clear()


def _proxy_header(version: int, sock: socket.socket) -> bytes:
    ends = proxy_header.ends(sock)
    return proxy_protocol.build(version, *ends) if ends else proxy_protocol.build_unknown(version)
