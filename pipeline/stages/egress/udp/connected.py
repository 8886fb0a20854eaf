"""UDP sockets that are connected to the remote of their one flow: only that remote may answer the guest.

RFC 4787 calls this address- and port-dependent mapping and filtering. It is the default.
"""

import errno
from collections.abc import Sequence

from pipeline.counter_block import add
from pipeline.engines import refusal
from pipeline.records.addresses import Addr
from pipeline.records.flows import Ends, FlowKey
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.udp.flows import (
    SEND_FAILED,
    SOCKET_FULL,
    TO_HOST,
    DatagramFlow,
    DatagramSocket,
    DatagramSockets,
    DatagramTable,
    open_socket,
    sent_before,
)
from pipeline.wire import ip


class ConnectedSocket(DatagramSocket):
    """The socket of one flow."""

    def open_flow(self, number: int, key: FlowKey, host_addr: Addr, now: float) -> DatagramFlow:
        """The one flow of this socket."""
        flow = DatagramFlow(self, number, key, now)
        self.add(flow)
        return flow

    def send(self, flow: DatagramFlow, pieces: Sequence[memoryview], size: int) -> None:
        """Send datagrams. An error, even one about earlier datagrams, means that the remote is not there."""
        counts = self.context.counts
        lost = SOCKET_FULL
        failed = 0
        try:
            sent = self._send(flow, pieces, size)
        except OSError as error:
            sent = sent_before(error)
            lost = SEND_FAILED
            failed = error.errno or 0
        add(counts, TO_HOST, sent)
        add(counts, lost, len(pieces) - sent)
        if refusal.answer_to_datagram(failed) >= 0:
            flow.fail(failed)

    def receive(self, view: memoryview) -> tuple[int, int]:
        """Read one datagram. Only the remote can have sent it."""
        return self.sock.recv_into(view), 0

    def flow_from(self, source: int, count: int) -> DatagramFlow | None:
        """The one flow of this socket."""
        for flow in self.flows.values():
            return flow
        return None

    def on_read_error(self, error: OSError) -> bool:
        """The remote refused a datagram, or is out of reach: the flow is over."""
        for flow in list(self.flows.values()):
            flow.fail(error.errno or errno.EIO)
        return False


class ConnectedSockets(DatagramSockets):
    """Opens a socket for each flow."""

    def __init__(self, context: EgressContext, table: DatagramTable) -> None:
        self._context = context
        self._table = table

    def socket_for(self, guest: int, ends: Ends, host_addr: Addr, now: float) -> DatagramSocket:
        """A new socket, connected to the remote."""
        address = (ip.full_text(host_addr), ends.remote_port)
        sock = open_socket(self._context, guest, address[0], lambda made: made.connect(address))
        return ConnectedSocket(self._context, self._table, sock, guest, now)
