"""Opens host sockets for guests' connections, if the NAT table, the policy and the bound on sockets allow."""

import errno
import socket
from collections.abc import Callable
from typing import NamedTuple

from pipeline.counters import INDEX
from pipeline.engines import nat
from pipeline.engines.policy import Verdict
from pipeline.engines.quotas import Meter
from pipeline.host import tcp as host_tcp
from pipeline.ipc import messages
from pipeline.records.flows import Ends
from pipeline.records.streams import Connect
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.policy_filter import REFUSED
from pipeline.stages.egress.sockets import NO_DESCRIPTOR
from pipeline.stages.egress.tcp import ways
from pipeline.stages.worker import Worker
from pipeline.wire import ip


class Opened(NamedTuple):
    """A socket whose connection is under way, or None and an errno.

    ``verdict``: what the egress policy says, if it was asked. ``refused``: a rule forbids the connection.
    ``meter``: counts the bytes of the connection, if a quota fits its guest. ``connected``: the connection is
    established.
    """

    sock: socket.socket | None
    error: int = 0
    verdict: Verdict | None = None
    refused: bool = False
    meter: Meter | None = None
    connected: bool = False


class Opener:
    """Opens host sockets for the connections that guests ask for."""

    def __init__(self, context: EgressContext, read_names: Callable[[], object]) -> None:
        """read_names: reads demux's ring, which may hold NAMED records for the policy."""
        self._worker = context.worker
        self._targets = context.targets
        self._policy = context.policy
        self._bound = context.bound
        self._reports = context.reports
        self._outbound = context.outbound
        self._read_names = read_names

    def open(self, request: Connect, *, approved: bool = False) -> Opened:
        """Begin a host connection, if nothing forbids it. A refusal by a rule is reported.

        If somebody has to be asked, there is no socket and no error. approved: the answer was yes.
        """
        ends = Ends.of(request.key)
        target = self._targets.tcp_target(ends.remote_addr, ends.remote_port)
        if target.refused:
            self._worker.counts[INDEX[target.refused]] += 1
            self._reports.refused("tcp", request.guest, ends, rule=target.refused, error=target.errno)
            return Opened(None, target.errno, refused=True)
        verdict: Verdict | None = None
        if self._policy.active and not target.service and not approved:
            # The resolver's NAMED was published before the guest could send this SYN. It is in demux's ring.
            self._read_names()
            verdict = self._policy.judge(ends.guest_addr, ends.remote_addr, ends.remote_port, "tcp")
            if not (verdict.allow or verdict.hold or self._policy.asks(verdict)):
                return self._refused(request, ends, verdict.rule)
        meter = None if target.service else self._policy.quotas.meter(request.guest, ends.guest_addr)
        if meter is not None and (rule := self._policy.over_quota(meter, ends, "tcp")):
            return self._refused(request, ends, rule)
        if verdict is not None and self._policy.asks(verdict):
            return Opened(None, verdict=verdict)
        insists = request.insists
        if self._bound.refuses(request.guest, insists=insists):
            return Opened(None, errno.EMFILE)
        sock, error = self._try(target, ends, request, verdict)
        if error in NO_DESCRIPTOR and self._bound.make_room(request.guest, insists=insists):
            sock, error = self._try(target, ends, request, verdict)
        if meter is not None and sock is not None:
            meter.opened()
        # Elsewhere the handshake takes longer, and the question would be in vain.
        here = target.service or (ip.is_loopback(target.addr) and (verdict is None or verdict.via is None))
        connected = bool(here) and sock is not None and host_tcp.is_connected(sock)
        return Opened(sock, error, verdict, meter=meter, connected=connected)

    def _refused(self, request: Connect, ends: Ends, rule: str) -> Opened:
        self._reports.refused("tcp", request.guest, ends, rule=rule, error=REFUSED)
        return Opened(None, REFUSED, refused=True)

    def _try(
        self, target: nat.Target, ends: Ends, request: Connect, verdict: Verdict | None
    ) -> tuple[socket.socket | None, int]:
        if target.service:
            guest = ip.host_port(ends.guest_addr, ends.guest_port)
            return open_service(self._worker, target.service, guest, request)
        if verdict is not None and verdict.via is not None:
            return ways.connect(self._targets, self._outbound, ends, verdict.via)
        return host_tcp.connect(ip.full_text(target.addr), ends.remote_port, self._outbound)


def open_service(worker: Worker, name: str, guest: str, request: Connect) -> tuple[socket.socket | None, int]:
    """Connect a guest (``address:port``) to a service; the supervisor gets the other end.

    Returns as pipeline.host.tcp.connect(): the socket (tune() it) and 0, or None and an errno.
    """
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        return None, error.errno or errno.EMFILE
    with theirs:
        try:
            worker.send_event(
                messages.ServiceEvent(name, guest, request.link, request.guest).encode(), [theirs]
            )
        except OSError as error:
            # The message cannot go now, and no descriptor is free to keep its socket until it can.
            ours.close()
            return None, error.errno or errno.EMFILE
    return ours, 0
