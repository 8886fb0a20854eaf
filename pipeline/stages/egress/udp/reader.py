"""Reads datagrams from host sockets into slots, and passes them on to guests.

Where the system can, one system call reads many. The datagrams of one read lie in rows of one slot. Datagrams
of one flow that follow each other and have the same length are one run, and so one record.
"""

from typing import Final

from pipeline.counter_block import add
from pipeline.counters import INDEX
from pipeline.host import udp as host_udp
from pipeline.host.udp import MAX_DATAGRAM
from pipeline.ipc.arena import SLOT_BYTES
from pipeline.records.run import Run
from pipeline.records.udp import HEADER_ROOM, UdpData, UdpToGuest
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.udp.flows import DatagramFlow, DatagramSocket, DatagramTable

READS_A_SOCKET: Final = 128
"""About how many datagrams to take from one socket in a step."""
CALLS_A_SOCKET: Final = 16
"""The most system calls for these. Long datagrams are read one by one."""
CHUNKS: Final = ((192, 128), (1536, 45))
"""(bytes of a row, most rows) of a read: one for short datagrams, one for any that an Ethernet carries. A
slot has no room for more rows of the second kind. The rest of a longer datagram goes to a separate buffer."""
MIN_READ: Final = 8192
"""Bytes of room that a read of many datagrams needs. With less left in a slot, it begins a new one."""

_NEVER: Final = float("inf")
_FROM_HOST: Final = INDEX["egress_datagrams_from_host"]
_NO_SLOT: Final = INDEX["egress_datagram_dropped_no_slot"]
_PAUSED: Final = INDEX["egress_reads_paused_no_slot"]


class _Rows:
    """The datagrams of one read. Datagram i has lengths[i] bytes, at off + i * pitch of the slot."""

    def __init__(self, slot: int, off: int, pitch: int, chunk: int, lengths: list[int]) -> None:
        """chunk: the bytes of a datagram that fit into its row."""
        self.slot = slot
        self.off = off
        self.pitch = pitch
        self.chunk = chunk
        self.lengths = lengths

    def run(self, first: int, count: int) -> Run:
        """Datagrams first to first + count - 1 as one run. All have one length; the last may be shorter."""
        size = self.lengths[first]
        off = self.off + first * self.pitch
        if count == 1:
            return Run(self.slot, off, size, 0, size)
        length = (count - 1) * size + self.lengths[first + count - 1]
        return Run(self.slot, off, length, self.pitch, size)


class DatagramReader:
    """Reads from the sockets of UDP flows, and passes the datagrams on to guests."""

    def __init__(self, context: EgressContext, table: DatagramTable, *, sources: bool) -> None:
        """sources: the sockets are not connected, so each datagram has a source of its own."""
        self._counts = context.counts
        self._slots = context.slots
        self._pool = context.worker.pool
        self._filler = context.filler
        self._demux_out = context.demux_out
        self._ingress_out = context.ingress_out
        self._table = table
        self._rates = context.rates
        self._sources = sources
        self.more = False
        """Whether a socket had more datagrams than one step may read."""
        self._receivers: list[host_udp.Receiver] = []
        """One for each row of CHUNKS, the shortest first."""
        if host_udp.can_receive_many():
            self._receivers = [host_udp.Receiver(rows, chunk, sources=sources) for chunk, rows in CHUNKS]

    def read_ready(self, now: float) -> int:
        """Read from sockets with something to read, a bounded number of datagrams each. Returns how many."""
        self.more = False
        table = self._table
        rates = self._rates
        count = 0
        for sock in list(table.ready):
            if rates.on and not rates.may_pass(sock.guest, now):
                continue
            got, keep = self._read(sock, now)
            count += got
            if not keep:
                table.ready.pop(sock, None)
        return count

    def deadline(self) -> float:
        """When a socket may be read that waits for its guest's rate; inf if none waits."""
        rates = self._rates
        return rates.deadline([sock.guest for sock in self._table.ready]) if rates.on else _NEVER

    def _read(self, sock: DatagramSocket, now: float) -> tuple[int, bool]:
        """Read a socket, many datagrams at a time if they are short. Returns how many, and whether there may
        be more."""
        sock.before_read()
        count = calls = 0
        while count < READS_A_SOCKET and calls < CALLS_A_SOCKET:
            calls += 1
            try:
                receiver = self._receiver_for(sock.longest)
                if receiver is not None:
                    got, room = self._read_many(sock, receiver, now)
                else:
                    got, room = self._read_one(sock, now)
            except BlockingIOError:
                return count, False
            except OSError as error:
                if not sock.on_read_error(error):
                    return count, False
                continue
            if not got:
                # The next slot that is returned wakes the worker.
                self._counts[_PAUSED] += 1
                return count, True
            count += got
            if got < room:
                # The socket was empty. What came since is a new event.
                return count, False
        self.more = True
        return count, True

    def _receiver_for(self, length: int) -> host_udp.Receiver | None:
        """The receiver whose rows hold datagrams of that length. None if they are too long."""
        for receiver in self._receivers:
            if length <= receiver.chunk:
                return receiver
        return None

    def _read_one(self, sock: DatagramSocket, now: float) -> tuple[int, int]:
        """Read one datagram of any length: (1, 1), or (0, 1) when there is no slot. Raises OSError."""
        filler = self._filler
        if not filler.place(MAX_DATAGRAM):
            return 0, 1
        slot, off = filler.slot, filler.off
        length, source = sock.receive(self._slots[slot][off : off + MAX_DATAGRAM])
        add(self._counts, _FROM_HOST, 1)
        sock.expect(length, 1)
        flow = sock.flow_from(source, 1)
        if flow is not None:
            filler.commit(length)
            self._deliver(flow, Run(slot, off, length, 0, length), now)
        return 1, 1

    def _read_many(self, sock: DatagramSocket, receiver: host_udp.Receiver, now: float) -> tuple[int, int]:
        """Read datagrams until none or no room is left. Returns how many, and for how many there was room."""
        filler = self._filler
        if not filler.place(MIN_READ):
            return 0, 1
        slot, off = filler.slot, filler.off
        chunk = receiver.chunk
        pitch = chunk + HEADER_ROOM
        # One row more than one datagram: a row that stays empty says that the socket is.
        room = min(host_udp.FEW if sock.comes_alone else receiver.rows, (SLOT_BYTES - off) // pitch)
        lengths = receiver.receive(sock.sock.fileno(), self._slots[slot], off, pitch, room)
        count = len(lengths)
        add(self._counts, _FROM_HOST, count)
        # The read itself has this reference until every run has one of its own.
        filler.commit((count - 1) * pitch + min(lengths[-1], chunk))
        sock.expect(max(lengths), count)
        rows = _Rows(slot, off, pitch, chunk, lengths)
        if self._sources:
            self._deliver_by_source(sock, rows, receiver, now)
        else:
            flow = sock.flow_from(0, count)
            if flow is not None:
                self._deliver_rows(flow, rows, receiver, 0, count, now)
        self._pool.unref(slot)
        return count, room

    def _deliver_by_source(
        self, sock: DatagramSocket, rows: _Rows, receiver: host_udp.Receiver, now: float
    ) -> None:
        """Deliver datagrams in their order. Those of one source that follow each other go together."""
        sources = receiver.sources(len(rows.lengths))
        begin = 0
        while begin < len(sources):
            source = sources[begin]
            end = begin + 1
            while end < len(sources) and sources[end] == source:
                end += 1
            flow = sock.flow_from(source, end - begin)
            if flow is not None:
                self._deliver_rows(flow, rows, receiver, begin, end, now)
            begin = end

    def _deliver_rows(
        self,
        flow: DatagramFlow,
        rows: _Rows,
        receiver: host_udp.Receiver,
        begin: int,
        end: int,
        now: float,
    ) -> None:
        """Deliver datagrams begin to end - 1 of a read, all of one flow."""
        for index, count in host_udp.runs(rows.lengths[begin:end], rows.chunk):
            first = begin + index
            if rows.lengths[first] > rows.chunk:
                self._deliver_long(flow, rows, first, receiver.tail(first, rows.lengths[first]), now)
            else:
                self._pool.ref(rows.slot)
                self._deliver(flow, rows.run(first, count), now)

    def _deliver_long(
        self, flow: DatagramFlow, rows: _Rows, index: int, tail: memoryview, now: float
    ) -> None:
        """Deliver a datagram that was longer than its row. It is copied to where it fits in one piece."""
        filler = self._filler
        chunk, length = rows.chunk, rows.lengths[index]
        if not filler.place(length):
            self._counts[_NO_SLOT] += 1
            return
        slot, off = filler.slot, filler.off
        begin = rows.off + index * rows.pitch
        view = self._slots[slot]
        view[off : off + chunk] = self._slots[rows.slot][begin : begin + chunk]
        view[off + chunk : off + length] = tail
        filler.commit(length)
        self._deliver(flow, Run(slot, off, length, 0, length), now)

    def _deliver(self, flow: DatagramFlow, run: Run, now: float) -> None:
        """Pass datagrams of a flow on, with their reference."""
        if flow.past_demux:
            self._ingress_out.push(UdpToGuest.pack(flow.key, run))
        else:
            self._demux_out.push(UdpData.pack(flow.number, flow.key, run, link=0))
        if self._rates.on:
            self._rates.charge(flow.socket.guest, run.length, now)
        flow.on_answer(run, now)
