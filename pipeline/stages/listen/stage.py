"""The listen worker: it accepts the connections of host clients to forwarded ports.

The supervisor binds the host's ports, and passes the sockets. Listen accepts TCP and unix connections and
passes them to egress workers (SCM_RIGHTS). It passes bound UDP sockets to egress at once. When a forward is
closed, its listening socket is closed. Its connections go on.

Listen pauses in two cases: while egress has not read earlier messages, and for EXHAUSTED_PAUSE after a failed
accept. Clients then wait in the backlog of the listening socket, which costs this program nothing.
"""

import socket
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.host import listener, proxy_header
from pipeline.ipc import events as ev
from pipeline.ipc import forward_messages, message_table
from pipeline.ipc.channel import close_all
from pipeline.records.addresses import addr_bytes
from pipeline.stages.holdings import Holdings
from pipeline.stages.losses import Losses
from pipeline.stages.worker import Worker
from pipeline.topology import EGRESS
from pipeline.wire import ip, proxy_protocol

ACCEPTS_A_STEP: Final = 64
EXHAUSTED_PAUSE: Final = 0.2
"""Seconds without accepting after accept failed. Usually the process has no descriptor left."""
BUSY_PAUSE: Final = 0.01
"""Seconds between two checks whether egress has read earlier messages."""

_ACCEPTED: Final = INDEX["listen_connection_accepted"]
_ACCEPT_FAILED: Final = INDEX["listen_accept_failed"]
_PAUSED: Final = INDEX["listen_accept_paused"]
_LOST: Final = INDEX["listen_connection_lost"]
_FORWARDS: Final = INDEX["listen_forwards"]
_TOO_MANY: Final = INDEX["listen_forward_refused_too_many"]


class Target(NamedTuple):
    """A port of a guest."""

    addr: int
    port: int
    proxy: int = 0
    """Version of the PROXY header that is sent to the guest first; 0 for none."""


class Forward:
    """A bound local address. Its clients reach a port of a guest."""

    def __init__(self, key: str, port: int | None) -> None:
        """key: protocol and local address. port: the bound port of the host, None for a unix socket."""
        self.key = key
        self.port = port

    def watch(self) -> None:
        """Accept connections from now on."""

    def ignore(self) -> None:
        """Accept nothing until watch()."""

    def on_egress_lost(self, egress: str) -> None:
        """An egress worker has died, and has a successor."""

    def close(self) -> None:
        """Stop serving the address. Its connections go on."""


class StreamForward(Forward):
    """A listening socket whose connections this worker accepts."""

    def __init__(
        self,
        worker: Worker,
        key: str,
        sock: socket.socket,
        target: Target,
        accept: Callable[["StreamForward"], None],
    ) -> None:
        """accept: called when connections wait."""
        super().__init__(key, _port(sock))
        self.sock = sock
        self.target = target
        self._worker = worker
        self._accept = accept
        self._watched = False

    def watch(self) -> None:
        """Accept connections from now on."""
        if not self._watched:
            self._watched = True
            self._worker.register(self.sock.fileno(), ev.READ, lambda _events: self._accept(self))

    def ignore(self) -> None:
        """Accept nothing until watch(). Clients wait in the backlog."""
        if self._watched:
            self._watched = False
            self._worker.unregister(self.sock.fileno())

    def close(self) -> None:
        """Close the listening socket."""
        self.ignore()
        self.sock.close()


class DatagramForward(Forward):
    """A bound UDP socket that an egress worker serves."""

    def __init__(self, worker: Worker, key: str, sock: socket.socket, target: Target, egress: str) -> None:
        """Pass sock to the egress worker ``egress``, and keep it for a successor of that one.

        OSError as in Worker.send_peer.
        """
        super().__init__(key, _port(sock))
        self._worker = worker
        self._egress = egress
        self._message = forward_messages.UdpForward(key, addr_bytes(target.addr), target.port)
        self._sock = sock
        try:
            self._hand_over()
        except OSError:
            sock.close()
            raise

    def _hand_over(self) -> None:
        self._worker.send_peer(self._egress, self._message.encode(), [self._sock])

    def on_egress_lost(self, egress: str) -> None:
        """Pass the socket to the successor, if this was the worker that served it."""
        if egress != self._egress:
            return
        try:
            self._hand_over()
        except OSError as error:
            self._worker.log.error("a forward cannot be as it was", forward=self.key, error=str(error))

    def close(self) -> None:
        """Have egress stop serving the port."""
        self._sock.close()
        self._worker.send_peer(self._egress, forward_messages.UdpUnforward(self.key).encode(), [])


class ListenStage:
    """All forwards of the daemon, by protocol and local address."""

    def __init__(self, worker: Worker, config: Config) -> None:
        self.worker = worker
        self._counts = worker.counts
        self._egress_workers = config.workers.egress_workers
        self._max_forwards = config.limits.max_forwards
        self._forwards: dict[str, Forward] = {}
        self._next_egress = 0
        self._resume_at = float("inf")
        """The time at which a pause ends; inf if accepting is not paused."""
        self._logged = False
        """Whether the log already has a line about the failing accept."""

    def step(self, now: float) -> int:
        """End a pause if it is time. All other work comes from sockets and control requests."""
        if now < self._resume_at:
            return 0
        if self._busy():
            self._resume_at = now + BUSY_PAUSE
            return 0
        self._resume_at = float("inf")
        for forward in self._forwards.values():
            forward.watch()
        return 1

    def deadline(self) -> float:
        """The time at which a pause ends."""
        return self._resume_at

    def on_control(self, message: dict[str, object], fds: list[int]) -> dict[str, object]:
        """Serve the requests ``expose``, ``unexpose`` and ``tunnel`` of the supervisor."""
        try:
            match message_table.request_of(message):
                case forward_messages.Expose() as ask if fds:
                    port = self._expose(ask, socket.socket(fileno=fds.pop(0)))
                    return {"ok": True, **forward_messages.ExposeAnswer(port).encode()}
                case forward_messages.Unexpose() as ask:
                    self._unexpose(ask.protocol, ask.local)
                case forward_messages.Tunnel() as ask if fds:
                    target = Target(ip.parse(ask.ip), ask.port)
                    self._hand_over(socket.socket(fileno=fds.pop(0)), target, ask.head or b"")
                case _:
                    return {"error": f"listen knows no request {message.get('op')!r}"}
        except (listener.ListenError, ValueError) as error:
            return {"error": str(error)}
        except OSError as error:
            return {"error": f"{message['op']}: {error.strerror}"}
        finally:
            close_all(fds)
        return {"ok": True}

    def reload(self, config: Config) -> None:
        """See Stage.reload: the limit on forwards. The supervisor opens and closes forwards by request."""
        self._max_forwards = config.limits.max_forwards

    def _expose(self, ask: forward_messages.Expose, sock: socket.socket) -> int | None:
        """Open a forward on a bound socket. Returns its port of the host, None for a unix socket.

        Closes sock if the forward is refused.
        """
        key = f"{ask.protocol} {ask.name or ask.local}"
        try:
            if key in self._forwards:
                raise listener.ListenError("proxy already running")
            if len(self._forwards) >= self._max_forwards:
                self._counts[_TOO_MANY] += 1
                raise listener.ListenError(f"{self._max_forwards} ports are forwarded already")
            host, port = listener.split(ask.remote.removeprefix("tcp://"))
            opened = self._open(key, sock, Target(ip.parse(host), port, ask.proxy or 0))
        except BaseException:
            sock.close()
            raise
        self._forwards[key] = opened
        self._counts[_FORWARDS] = len(self._forwards)
        return opened.port

    def _open(self, key: str, sock: socket.socket, target: Target) -> Forward:
        if sock.type == socket.SOCK_DGRAM:
            return DatagramForward(self.worker, key, sock, target, self._pick_egress())
        forward = StreamForward(self.worker, key, sock, target, self._accept)
        if self._resume_at == float("inf"):
            forward.watch()
        return forward

    def _unexpose(self, protocol: str, local: str) -> None:
        forward = self._forwards.pop(f"{protocol} {local}", None)
        if forward is None:
            raise listener.ListenError("proxy not found")
        forward.close()
        self._counts[_FORWARDS] = len(self._forwards)

    # --- accepting ----------------------------------------------------------------------

    def _pause(self, seconds: float) -> None:
        """Pause all forwards, since they all need the same resource."""
        for forward in self._forwards.values():
            forward.ignore()
        self._resume_at = monotonic() + seconds
        self._counts[_PAUSED] += 1

    def _busy(self) -> bool:
        """Whether an egress worker has not read earlier messages. More connections would pile up here."""
        return any(self.worker.peer_backlog(f"egress{index}") for index in range(self._egress_workers))

    def _accept(self, forward: StreamForward) -> None:
        for _ in range(ACCEPTS_A_STEP):
            if self._busy():
                self._pause(BUSY_PAUSE)
                return
            try:
                sock, _ = forward.sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # The connection stays in the backlog, and the socket stays readable. Try again later.
                self._counts[_ACCEPT_FAILED] += 1
                self._pause(EXHAUSTED_PAUSE)
                if not self._logged:
                    self._logged = True
                    self.worker.log.warning("accept failed", local=forward.key, error=str(error))
                return
            self._logged = False
            self._counts[_ACCEPTED] += 1
            target = forward.target
            head = _proxy_header(target.proxy, sock) if target.proxy else b""
            try:
                self._hand_over(sock, target, head)
            except OSError:
                self._counts[_LOST] += 1

    def _hand_over(self, sock: socket.socket, target: Target, head: bytes) -> None:
        """Pass a connection to egress. head: bytes that the guest gets before those of the socket.

        Closes sock in any case. OSError as in Worker.send_peer.
        """
        message = forward_messages.Accepted(addr_bytes(target.addr), target.port, head)
        with sock:
            self.worker.send_peer(self._pick_egress(), message.encode(), [sock])

    def _pick_egress(self) -> str:
        self._next_egress = (self._next_egress + 1) % self._egress_workers
        return f"egress{self._next_egress}"

    # --- what the stage holds -------------------------------------------------------------

    def on_released(self, source: str, tags: list[int]) -> None:
        """This worker owns no slots."""

    def slots_held(self) -> Holdings:
        """See Stage.slots_held. Listen sees no slots."""
        return {}

    def on_workers_lost(self, losses: Losses, now: float) -> None:
        """See Stage.on_workers_lost: UDP ports of an egress worker that died are bound again."""
        for shard in losses.shards(EGRESS):
            for forward in self._forwards.values():
                forward.on_egress_lost(f"{EGRESS}{shard}")

    def held(self) -> dict[str, int]:
        """Nothing is held for guests: forwards belong to the configuration."""
        return {}

    def close(self) -> None:
        """Close all listeners."""
        for forward in self._forwards.values():
            forward.close()
        self._forwards.clear()


def _port(sock: socket.socket) -> int | None:
    return None if sock.family == socket.AF_UNIX else sock.getsockname()[1]


def _proxy_header(version: int, sock: socket.socket) -> bytes:
    ends = proxy_header.ends(sock)
    return proxy_protocol.build(version, *ends) if ends else proxy_protocol.build_unknown(version)
