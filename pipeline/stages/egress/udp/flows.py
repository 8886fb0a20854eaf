"""UDP flows of guests and their host sockets: what both kinds of socket have in common.

A *flow* is what a guest sends to one remote, and what comes back. Demux numbers flows and ends idle ones
(pipeline.engines.udp). ``udp-nat`` chooses the kind of *socket*:

- connected to the remote, and used by one flow (pipeline.stages.egress.udp.connected);
- not connected, and shared by all flows of one port of the guest (pipeline.stages.egress.udp.cone).

Reading is in pipeline.stages.egress.udp.reader.
"""

import errno
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import nat
from pipeline.engines.quotas import Meter
from pipeline.engines.udp import IDLE, RENEWAL_STEP
from pipeline.host import udp as host_udp
from pipeline.host import udp_local
from pipeline.ipc import events as ev
from pipeline.ipc.flow_rows import GATEWAY, HOST, OUT, FlowRow
from pipeline.records.addresses import Addr
from pipeline.records.flows import Ends, FlowKey
from pipeline.records.kinds import REPORT_EVERY_S
from pipeline.records.run import Run
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.policy_filter import REFUSED
from pipeline.stages.egress.sockets import USED_AGAIN_S, GuestSocket
from pipeline.stages.egress.traffic import Traffic
from pipeline.stages.flow_reports import ERROR, LIMIT, POLICY
from pipeline.system import inet
from pipeline.wire.stated import Stated

SOCKET_BUFFER_BYTES: Final = 1 << 20
TYPICAL_BYTES: Final = 1472
"""The longest datagram that the first read of a socket expects."""
NO_NUMBER: Final = 0
"""The number of a flow that demux does not know."""

_EVENTS: Final = ev.READ | ev.EDGE
TO_HOST: Final = INDEX["egress_datagrams_to_host"]
SEND_FAILED: Final = INDEX["egress_datagram_dropped_send_failed"]
SOCKET_FULL: Final = INDEX["egress_datagram_dropped_socket_full"]
NO_SOCKET: Final = INDEX["egress_datagram_dropped_no_socket"]


class DatagramFlow(Traffic):
    """What a guest exchanges with one remote."""

    def __init__(
        self,
        sock: "DatagramSocket",
        number: int,
        key: FlowKey,
        now: float,
        source: int = 0,
        address: udp_local.Address | None = None,
    ) -> None:
        """source: the source of answers, as the host sees it: address << 16 | port. address: the same for
        sendto()."""
        super().__init__(now)
        self.socket = sock
        self.number = number
        self.key = key
        self.source = source
        self.address = address
        # Demux counts the answers to DNS questions. Other answers do not pass demux.
        self.rule = ""
        """What has allowed the flow, if the egress policy was asked."""
        self.stated: Stated | None = None
        """What its first datagrams stated, if they were held for that."""
        self.past_demux = number == NO_NUMBER or Ends.of(key).remote_port != nat.DNS_PORT
        self._notify_at = 0.0

    def on_answer(self, run: Run, now: float) -> None:
        """Datagrams of the remote are on their way to the guest."""
        self.to_guest(run.piece_count(), run.length, now)
        if self.number == NO_NUMBER:
            # A stranger's datagrams do not renew a flow.
            return
        self.socket.use(now)
        if self.past_demux and now >= self._notify_at:
            self._notify_at = now + REPORT_EVERY_S
            self.socket.context.notices.notify_udp_answered(self.number)

    def fail(self, error: int) -> None:
        """The host cannot serve the flow. Demux tells the guest, whose next datagram opens another flow."""
        self.socket.context.notices.notify_datagram_failed(self.key, error)
        self.end(HOST, ERROR, error)

    def count_in(self, meter: Meter | None) -> None:
        """Count the bytes for the quotas of the guest from now on; None if there are none."""
        self.meter = meter

    def forbid(self, rule: str = "") -> None:
        """A new egress policy forbids the flow, or this rule ends it. Demux tells the guest."""
        self.rule = rule or self.rule
        self.socket.context.notices.notify_datagram_failed(self.key, REFUSED)
        self.end(GATEWAY, POLICY)

    def end(self, by: str, reason: str, error: int = 0) -> None:
        """Close the flow and tell demux. by, reason: see docs/flows.md."""
        self._report_end(by, reason, error)
        self.socket.remove(self)
        self.socket.context.notices.notify_udp_closed(self.number)

    def close(self) -> None:
        """Demux has ended the flow."""
        self._report_end(GATEWAY, "", 0)
        self.socket.remove(self)

    def row(self, now: float) -> FlowRow:
        """See Traffic."""
        return self.counted(self.number, "udp", OUT, self.socket.guest, Ends.of(self.key), now)

    def _report_end(self, by: str, reason: str, error: int) -> None:
        """reason: "" if demux ended the flow, which does not say why."""
        context = self.socket.context
        if context.reports.wants_ended():
            row = self.row(monotonic())
            if not reason:
                reason = why_ended(row, here=context.bound.is_here(self.socket.guest))
            name = self.stated.name if self.stated is not None else ""
            row = row._replace(state="closed")
            context.reports.closed(row, by, reason, error, rule=self.rule, name=name)


def why_ended(row: FlowRow, *, here: bool) -> str:
    """Why demux has ended a flow. here: whether its guest is."""
    if row.idle >= IDLE - 2 * RENEWAL_STEP:
        return "idle"
    if row.port == nat.DNS_PORT:
        return "fin"  # All questions are answered.
    return LIMIT if here else "orphan"


class DatagramTable:
    """All UDP flows of guests of one egress worker. Flows and sockets add and remove themselves."""

    def __init__(self) -> None:
        self.flows_by_id: dict[int, DatagramFlow] = {}
        self.ready: dict[DatagramSocket, None] = {}
        """Sockets with something to read."""
        self.sender = host_udp.Sender(host_udp.can_segment())


class DatagramSocket(GuestSocket):
    """A host socket of one or several UDP flows. Open as long as it has a flow."""

    def __init__(
        self, context: EgressContext, table: DatagramTable, sock: socket.socket, guest: int, now: float
    ) -> None:
        super().__init__(guest)
        self.context = context
        self.sock = sock
        self.flows: dict[int, DatagramFlow] = {}
        """By number."""
        self.link = 0
        """The link of the last datagram of the guest."""
        self.longest = TYPICAL_BYTES
        """Bytes of the longest datagram of the last read. The next read is prepared for that length."""
        self.comes_alone = True
        """Whether the last read found one datagram. The next read is prepared for few."""
        self._table = table
        self._used_at = now
        context.bound.opened(self)
        context.worker.register(sock.fileno(), _EVENTS, self.on_event)

    # --- what each kind of socket does in its own way -----------------------------------------

    def open_flow(self, number: int, key: FlowKey, host_addr: Addr, now: float) -> DatagramFlow:
        """A new flow of this socket. host_addr: the remote's address as the host sees it."""
        raise NotImplementedError

    def send(self, flow: DatagramFlow, pieces: Sequence[memoryview], size: int) -> None:
        """Send datagrams of a flow, and count them. All have size bytes; the last may be shorter."""
        raise NotImplementedError

    def before_read(self) -> None:
        """Called before each series of reads."""

    def receive(self, view: memoryview) -> tuple[int, int]:
        """Read one datagram into view. Returns its length, and its source if the socket is not connected.

        Raises OSError.
        """
        raise NotImplementedError

    def flow_from(self, source: int, count: int) -> DatagramFlow | None:
        """The flow of count datagrams from this source. None, and counted, if the guest may not get them."""
        raise NotImplementedError

    def on_read_error(self, error: OSError) -> bool:
        """A read raised this error. Returns whether reading goes on."""
        raise NotImplementedError

    def on_event(self, events: int) -> None:
        """The poller has events of the socket."""
        self.readable()

    # --- what both kinds do alike -----------------------------------------------------------

    def readable(self) -> None:
        """The socket has something to read."""
        self._table.ready[self] = None

    def expect(self, longest: int, count: int) -> None:
        """Prepare the next read for so many datagrams of up to that length."""
        self.longest = longest
        self.comes_alone = count == 1

    def use(self, now: float) -> bool:
        """A datagram of a flow went either way. Returns whether it was the first one for a while."""
        if now - self._used_at < USED_AGAIN_S:
            return False
        self._used_at = now
        self.context.bound.used(self)
        return True

    def add(self, flow: DatagramFlow) -> None:
        """A flow of this socket begins."""
        self.flows[flow.number] = self._table.flows_by_id[flow.number] = flow

    def remove(self, flow: DatagramFlow) -> None:
        """A flow is over. The last one closes the socket."""
        del self.flows[flow.number]
        del self._table.flows_by_id[flow.number]
        if not self.flows:
            self.close()

    def evict(self) -> None:
        """Another flow needs the socket."""
        for flow in list(self.flows.values()):
            flow.end(GATEWAY, LIMIT)

    def close(self) -> None:
        """Close the socket, which has no flow any more."""
        self._table.ready.pop(self, None)
        self.context.bound.closed(self)
        self.context.worker.unregister(self.sock.fileno())
        self.sock.close()

    def _send(self, flow: DatagramFlow, pieces: Sequence[memoryview], size: int) -> int:
        return send_pieces(self._table.sender, self.sock, pieces, size, flow.address)


class DatagramSockets:
    """Decides which flows share a socket."""

    def socket_for(self, guest: int, ends: Ends, host_addr: Addr, now: float) -> DatagramSocket:
        """The socket for a new flow of this guest. Raises OSError if it cannot be opened."""
        raise NotImplementedError


def open_socket(
    context: EgressContext, guest: int, destination: str, prepare: Callable[[socket.socket], object]
) -> socket.socket:
    """A datagram socket for this guest, bound or connected by prepare(). Raises OSError.

    destination: an address that it will send to.
    """
    family = inet.family_of(destination)
    sock = context.bound.datagram_socket(guest, lambda: socket.socket(family, socket.SOCK_DGRAM))
    if sock is None:
        raise OSError(errno.EMFILE, "too many sockets of guests")
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            # IPv4 hosts cannot answer through it as ::ffff:0:0/96.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        if context.outbound is not None:
            context.outbound.bind(sock, destination)
        prepare(sock)
    except OSError:
        sock.close()
        raise
    return sock


def send_pieces(
    sender: host_udp.Sender,
    sock: socket.socket,
    pieces: Sequence[memoryview],
    size: int,
    address: udp_local.Address | None,
    control: udp_local.Control = (),
) -> int:
    """Send each piece as a datagram. Returns how many the socket took before it was full.

    All pieces have size bytes, the last may be shorter. Raises OSError; sent_before() says how many went.
    """
    if len(pieces) > 1 or control:
        return sender.send(sock, pieces, size, address, control)
    try:
        if address is None:
            sock.send(pieces[0])
        else:
            sock.sendto(pieces[0], address)
    except BlockingIOError:
        return 0
    return 1


def sent_before(error: OSError) -> int:
    """How many datagrams went before this error of send_pieces()."""
    return error.sent if isinstance(error, host_udp.SendError) else 0
