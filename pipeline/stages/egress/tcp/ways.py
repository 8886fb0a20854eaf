"""How a connection of a guest reaches its host: directly, or through a proxy that the egress policy names.

A proxy wants to know a name. At the ports where connections state one, egress waits for the guest's first
bytes before it asks the proxy for a tunnel, and reads nothing from the host meanwhile. So the choice of the
way may depend on the name, too. Elsewhere the tunnel is there before the guest's SYN is answered, so that a
server may speak first.

The sockets of proxies are exempt from the policy and from the NAT table. What a guest dials never is.
"""

import errno
import os
import socket
from collections import OrderedDict
from typing import Final, Generic, NamedTuple, TypeVar

from pipeline.engines.nat import Nat
from pipeline.engines.policy import Verdict
from pipeline.engines.proxy import kinds
from pipeline.engines.proxy.handshake import Destination, Failure
from pipeline.engines.proxy.via import Via
from pipeline.host import tcp as host_tcp
from pipeline.records.flows import Ends
from pipeline.system.outbound import Outbound
from pipeline.wire import ip

HANDSHAKE_S: Final = 30.0
"""Seconds for a proxy to open a tunnel. It has to connect to the destination meanwhile."""
SILENT_S: Final = 10.0
"""Seconds for a guest to state a name to a proxy, if its connection may go on without one."""
NO_CONNECTION: Final = "no connection to the proxy"
_READ: Final = 4096
_NEVER: Final = float("inf")


class Way(NamedTuple):
    """How the policy lets a connection pass. ``rule``: what has decided, or may decide.

    ``hold``: the name that the guest states decides whether the connection is allowed. ``awaited``: the way
    depends on that name, or the proxy wants to know it.
    """

    via: Via | None = None
    hold: bool = False
    awaited: bool = False
    rule: str = ""

    @property
    def reads_name(self) -> bool:
        """Whether the guest's first bytes are read."""
        return self.hold or self.awaited

    @staticmethod
    def of(verdict: Verdict | None) -> "Way":
        """The way of a connection that this verdict does not refuse. None: the policy was not asked."""
        return DIRECT if verdict is None else Way(verdict.via, verdict.hold, verdict.awaited, verdict.rule)


DIRECT: Final = Way()


def connect(
    targets: Nat, outbound: Outbound | None, ends: Ends, via: Via | None
) -> tuple[socket.socket | None, int]:
    """Begin the host connection of this way. Returns as pipeline.host.tcp.connect()."""
    if via is not None:
        return host_tcp.connect(ip.full_text(via.address), via.port, outbound)
    target = targets.tcp_target(ends.remote_addr, ends.remote_port)
    return host_tcp.connect(ip.full_text(target.addr), ends.remote_port, outbound)


def destination(ends: Ends, name: str) -> Destination:
    """What a proxy is asked for. An address of 64:ff9b::/96 is the IPv4 address in it."""
    return Destination(name, ip.embedded(ends.remote_addr), ends.remote_port, ends.guest_addr)


class Tunnel:
    """The handshake of one connection with its proxy, on the connection's socket."""

    def __init__(self, via: Via, where: Destination) -> None:
        self._handshake = kinds.begin(via, where)
        self.name = where.name
        """What the proxy was told; "" if it was told the address."""

    @property
    def failure(self) -> Failure | None:
        """Why there is no tunnel."""
        return self._handshake.failure

    @property
    def is_open(self) -> bool:
        """Whether the tunnel is there."""
        return self._handshake.done

    @property
    def rest(self) -> bytes:
        """The first bytes of the host."""
        return self._handshake.rest

    def step(self, sock: socket.socket) -> None:
        """Send and read what the socket takes and has. It is called after each event of the socket."""
        try:
            self._send(sock)
            while not self._handshake.ended:
                data = sock.recv(_READ)
                if data:
                    self._handshake.feed(data)
                else:
                    self._handshake.end()
                self._send(sock)
        except BlockingIOError:
            return
        except OSError as error:
            self._handshake.failure = broken("the connection to the proxy broke", error.errno or errno.EIO)

    def _send(self, sock: socket.socket) -> None:
        handshake = self._handshake
        if handshake.to_send and not handshake.ended:
            try:
                handshake.sent(sock.send(handshake.to_send))
            except BlockingIOError:
                return


def broken(what: str, error: int) -> Failure:
    """A failure that the system reports about the socket to the proxy."""
    return Failure(f"{what}: {os.strerror(error).lower()}", error)


F = TypeVar("F")


class Waits(Generic[F]):
    """Connections that wait, all for equally long. The oldest comes first."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: OrderedDict[F, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def wait(self, flow: F, now: float) -> None:
        """The flow waits from now on."""
        self._until[flow] = now + self._seconds
        self._until.move_to_end(flow)

    def remove(self, flow: F) -> None:
        """The flow waits no more."""
        self._until.pop(flow, None)

    def deadline(self) -> float:
        """When due() has a flow."""
        return next(iter(self._until.values())) if self._until else _NEVER

    def due(self, now: float) -> list[F]:
        """Flows that have waited for too long."""
        found: list[F] = []
        for flow, until in self._until.items():
            if until > now:
                break
            found.append(flow)
        return found
