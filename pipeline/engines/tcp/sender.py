"""The sending half of a connection: the bytes queued for the guest, and which are sent and acknowledged.

RFC 9293 section 3.3.1 (send sequence variables) and 3.10.7.4 (the send window). Sequence variables are
positions (see seq.py):

    iss   snd_una         snd_nxt              queue_end   send_end
     |       |               |                     |          |
     SYN     in flight       not sent yet          the FIN, if the host has ended

The queue holds chunks, from snd_una to queue_end. Its part before snd_nxt is the retransmission queue. So
bytes are neither copied nor queued a second time.
"""

from collections import deque

from pipeline.engines.tcp.actions import Release
from pipeline.engines.tcp.agenda import Agenda
from pipeline.engines.tcp.config import DEFAULT_MSS, TcpConfig
from pipeline.engines.tcp.sack import Scoreboard, SentRange
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.seq import MASK, unwrap
from pipeline.wire.tcp import SYN
from pipeline.wire.tcp_options import MAX_WINDOW_SCALE


class Chunk:
    """Positions [start, end) of the stream, which are the bytes of buf from offset off on."""

    __slots__ = ("buf", "end", "off", "start")

    def __init__(self, start: int, end: int, buf: object, off: int) -> None:
        self.start = start
        self.end = end
        self.buf = buf
        self.off = off


class Sender:
    """The send sequence space, the send window and the queue."""

    __slots__ = (
        "_agenda",
        "board",
        "chunks",
        "fin_queued",
        "iss",
        "last_sent_at",
        "max_snd_wnd",
        "queue_end",
        "resent",
        "send_end",
        "send_index",
        "snd_mss",
        "snd_nxt",
        "snd_una",
        "snd_wind_shift",
        "snd_wl1",
        "snd_wl2",
        "snd_wnd",
    )

    def __init__(self, cfg: TcpConfig, agenda: Agenda, iss: int, now: float) -> None:
        self._agenda = agenda
        self.iss = iss & MASK
        self.snd_una = self.iss
        self.snd_nxt = self.iss
        self.snd_wnd = 0
        self.snd_wl1 = 0
        self.snd_wl2 = 0
        self.max_snd_wnd = 0
        self.snd_wind_shift = 0
        self.snd_mss = DEFAULT_MSS
        """Eff.snd.MSS: the payload of a full segment, without the options that every segment has."""
        self.chunks: deque[Chunk] = deque()
        self.send_index = 0
        """Index of the chunk that holds snd_nxt."""
        self.queue_end = self.iss + 1
        self.send_end = self.iss + 1
        """queue_end, plus one if our FIN is queued. When snd_nxt is here, everything has been sent."""
        self.fin_queued = False
        self.board = Scoreboard(self.iss + 1, cfg.max_sent_ranges)
        self.last_sent_at = now
        self.resent = 0
        """Segments that were sent again."""

    # --- the queue ---------------------------------------------------------------------

    def enqueue(self, buf: object, off: int, length: int) -> None:
        """Queue bytes [off, off + length) of buf."""
        end = self.queue_end + length
        self.chunks.append(Chunk(self.queue_end, end, buf, off))
        self.queue_end = self.send_end = end

    def enqueue_fin(self) -> None:
        """Queue the FIN after the queued bytes. No more bytes can be queued."""
        self.fin_queued = True
        self.send_end = self.queue_end + 1

    def clear(self) -> None:
        """Release all handles: the connection is over."""
        actions = self._agenda.actions
        for chunk in self.chunks:
            actions.append(Release(chunk.buf))
        self.chunks.clear()
        self.send_index = 0
        self.board.clear()

    # --- the handshake -----------------------------------------------------------------

    def syn_arrived(self, syn: Segment, scaling: bool) -> None:
        """Read the peer's SYN or SYN-ACK: its window (never scaled, RFC 7323 section 2.2) and its scale."""
        self.snd_wind_shift = min(syn.wscale, MAX_WINDOW_SCALE) if scaling else 0
        self.snd_wnd = self.max_snd_wnd = syn.wnd

    def set_mss(self, snd_mss: int) -> None:
        """Segments carry at most snd_mss bytes from now on."""
        self.snd_mss = snd_mss

    def syn_sent(self) -> bool:
        """Our SYN is sent. Returns whether for the first time."""
        first = self.snd_nxt == self.iss
        if first:
            self.snd_nxt = self.iss + 1
        return first

    def established(self, start: int, ack: int, seg: Segment) -> None:
        """seg, which begins at position start, acknowledges our SYN: take its window."""
        self.snd_una = self.iss + 1
        self.snd_wl1 = start
        self.snd_wl2 = ack
        self.snd_wnd = seg.wnd if seg.flags & SYN else seg.wnd << self.snd_wind_shift
        self.max_snd_wnd = max(self.max_snd_wnd, self.snd_wnd)

    # --- ACKs that arrive ----------------------------------------------------------------

    def update_window(self, wnd: int, start: int, ack: int) -> None:
        """Take the window of an acceptable segment at position start, unless the current one is newer."""
        wl1 = self.snd_wl1
        if ack > self.snd_una or wl1 < start or (wl1 == start and self.snd_wl2 <= ack):
            self.snd_wl1 = start
            self.snd_wl2 = ack
            if wnd != self.snd_wnd:
                self.snd_wnd = wnd
                if wnd > self.max_snd_wnd:
                    self.max_snd_wnd = wnd
                if self.snd_nxt < self.send_end:
                    self._agenda.transmit_soon()

    def acknowledged(self, ack: int) -> list[SentRange]:
        """The peer has everything before ack: release handles. Returns as Scoreboard.acknowledge()."""
        self.snd_una = ack
        chunks = self.chunks
        while chunks:
            chunk = chunks[0]
            if chunk.end > ack:
                break
            self._agenda.actions.append(Release(chunk.buf))
            chunks.popleft()
            self.send_index -= 1
        return self.board.acknowledge(ack)

    def in_flight(self, number: int) -> bool:
        """Whether the byte with this sequence number is sent and not acknowledged."""
        return self.snd_una <= unwrap(number, self.snd_una) < self.snd_nxt

    def chunk_at(self, position: int, index: int) -> int:
        """The index of the chunk that has position, or the number of chunks. index: where to begin."""
        chunks = self.chunks
        while index < len(chunks) and chunks[index].end <= position:
            index += 1
        return index

    # --- segments that are sent ------------------------------------------------------------

    def sent(self, snd_nxt: int, send_index: int, now: float) -> None:
        """Everything before snd_nxt has been sent. chunks[send_index] is next."""
        self.board.sent(self.snd_nxt, snd_nxt, now)
        self.snd_nxt = snd_nxt
        self.send_index = send_index
        self.last_sent_at = now

    def resend(self, segments: int) -> None:
        """These are sent again."""
        self.resent += segments

    def retransmitted(self, now: float) -> None:
        """Lost ranges were sent again, as far as the windows allow."""
        self.last_sent_at = now
