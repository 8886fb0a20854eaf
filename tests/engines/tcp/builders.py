"""A guest that a test plays by hand against one connection, with a manual clock; a builder for each state.

The rig counts every handle: a handle that comes back twice, or never, fails the test.
Numbers start just below their wrap, so every test crosses it.
"""

from collections.abc import Callable

from pipeline.engines.tcp import state
from pipeline.engines.tcp.actions import (
    Action,
    Connect,
    Deliver,
    Discard,
    Established,
    Gone,
    HostReset,
    HostShutdown,
    Outgoing,
    Release,
)
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.segment import Segment
from pipeline.wire.tcp import ACK, FIN, RST, SYN

MASK = 0xFFFFFFFF
GUEST_ISN = 0xFFFFFF00
OUR_ISN = 0xFFFFFFF0
MSS = 1460
EFF_MSS = 1448
"""MSS less the timestamps option."""
WINDOW_SHIFT = 7

NO_OPTIONS: dict[str, object] = {"has_ts": False, "sack_permitted": False, "wscale": -1}

SYNS_IN_TIME_WAIT: list[tuple[dict[str, object], int, int, bool]] = [
    ({}, 1, 1, True),
    ({}, -5000, 1, True),
    ({}, 1, -1, False),
    ({}, 1, 0, True),
    ({}, -5000, 0, False),
    (NO_OPTIONS, 1, 0, True),
    (NO_OPTIONS, 0, 0, False),
    (NO_OPTIONS, -1, 0, False),
]
"""Options of the connection, how far the SYN's sequence number and timestamp are ahead, and whether the SYN
may open a new connection (RFC 6191)."""


class Rig:
    """One connection and the guest's view of it."""

    def __init__(self, cfg: TcpConfig | None = None, guest_isn: int = GUEST_ISN, iss: int = OUR_ISN) -> None:
        self.cfg = cfg or TcpConfig()
        self.now = 1000.0
        self.iss = iss
        self.guest_isn = guest_isn
        self.seq = guest_isn
        """The guest's SND.NXT."""
        self.ack = 0
        """The guest's RCV.NXT."""
        self.wnd = 65535
        self.conn: Connection
        self.use_ts = True
        self.ts_echo = 0
        self.serial = 0
        self.arrived: set[object] = set()
        self.given: set[object] = set()
        self.delivered = 0
        self.log: list[Action] = []
        self.wire: list[Outgoing] = []

    # --- the guest ----------------------------------------------------------------

    def segment(
        self,
        flags: int = ACK,
        length: int = 0,
        seq: int | None = None,
        ack: int | None = None,
        wnd: int | None = None,
        **fields: object,
    ) -> Segment:
        """A segment from the guest with its next numbers; data get a new handle."""
        buf = None
        if length:
            self.serial += 1
            buf = f"in{self.serial}"
            self.arrived.add(buf)
        fields.setdefault("has_ts", self.use_ts)
        if fields["has_ts"]:
            fields.setdefault("ts_val", self.guest_clock())
            fields.setdefault("ts_ecr", self.ts_echo)
        return Segment(
            seq=(self.seq if seq is None else seq) & MASK,
            ack=(self.ack if ack is None else ack) & MASK,
            flags=flags,
            wnd=self.wnd if wnd is None else wnd,
            length=length,
            buf=buf,
            **fields,  # type: ignore[arg-type]
        )

    def guest(
        self,
        flags: int = ACK,
        length: int = 0,
        seq: int | None = None,
        ack: int | None = None,
        wnd: int | None = None,
        **fields: object,
    ) -> str | None:
        """Let a segment arrive. Advances the guest's number when it is the guest's next."""
        seg = self.segment(flags, length, seq, ack, wnd, **fields)
        if seq is None or seq & MASK == self.seq:
            self.seq = (self.seq + length + (1 if flags & (SYN | FIN) else 0)) & MASK
        reason = self.conn.on_segment(seg, self.now)
        self.settle()
        return reason

    def guest_clock(self) -> int:
        return int(self.now * 1000) & MASK

    # --- the host -------------------------------------------------------------------

    def host_data(self, length: int, off: int = 256) -> str:
        self.serial += 1
        buf = f"out{self.serial}"
        self.given.add(buf)
        self.conn.on_host_data(buf, off, length, self.now)
        self.settle()
        return buf

    # --- running ----------------------------------------------------------------------

    def settle(self) -> list[Action]:
        """Take the actions and account for their handles."""
        taken = self.conn.take_actions()
        for action in taken:
            if isinstance(action, Deliver):
                assert action.buf in self.arrived, f"{action} twice"
                self.arrived.discard(action.buf)
                assert action.skip >= 0
                assert action.length > 0
                self.delivered += action.length
            elif isinstance(action, Discard):
                assert action.buf in self.arrived, f"{action} twice"
                self.arrived.discard(action.buf)
            elif isinstance(action, Release):
                assert action.buf in self.given, f"{action} twice"
                self.given.discard(action.buf)
        self.log += taken
        return taken

    def send(self, max_ranges: int = 64) -> list[Outgoing]:
        """Send all that may leave now. The guest notes the last timestamp; it does not acknowledge."""
        sent: list[Outgoing] = []
        rounds = 0
        while self.conn.wants_transmit and rounds < 64:
            out = self.conn.transmit(self.now, max_ranges)
            sent += out
            rounds += 1
        self.settle()
        assert not self.conn.wants_transmit, "transmit never finishes"
        for out in sent:
            if out.has_ts:
                self.ts_echo = out.ts_val
            if out.buf is not None:
                assert out.buf in self.given, "sent after its release"
                assert out.length > 0
                assert out.mss > 0
        self.wire += sent
        return sent

    def one(self) -> Outgoing:
        """Exactly one segment leaves. Returns it."""
        sent = self.send()
        assert len(sent) == 1, sent
        return sent[0]

    def silent(self) -> bool:
        """No segment leaves."""
        return self.send() == []

    def acknowledge_all(self, **fields: object) -> None:
        """The guest acknowledges everything sent so far."""
        self.ack = self.conn.snd_nxt & MASK
        self.guest(**fields)  # type: ignore[arg-type]

    def advance(self, seconds: float) -> None:
        """Let time pass, with every timer on time. Nothing is sent."""
        end = self.now + seconds
        while self.conn.deadline() <= end:
            self.now = max(self.now, self.conn.deadline())
            self.conn.on_timer(self.now)
            self.settle()
        self.now = end

    def run(self, seconds: float) -> list[tuple[float, Outgoing]]:
        """Let time pass and send at once. Returns (time since the start, segment) of each."""
        start, end = self.now, self.now + seconds
        sent = [(0.0, out) for out in self.send()]
        while self.conn.deadline() <= end:
            self.now = max(self.now, self.conn.deadline())
            self.conn.on_timer(self.now)
            self.settle()
            sent += [(round(self.now - start, 6), out) for out in self.send()]
        self.now = end
        return sent

    # --- checks -------------------------------------------------------------------------

    def seen(self, kind: type[Action]) -> list[Action]:
        return [action for action in self.log if isinstance(action, kind)]

    def released(self) -> list[object]:
        """The handles given back so far that the host gave us."""
        return [action.buf for action in self.log if isinstance(action, Release)]

    def rel(self, number: int) -> int:
        """One of our sequence numbers, counted from our SYN."""
        return (number - self.iss) & MASK

    def gone(self) -> bool:
        """Deleted, exactly once, with all handles back."""
        if not self.seen(Gone):
            return False
        assert len(self.seen(Gone)) == 1
        assert not self.arrived, self.arrived
        assert not self.given, self.given
        return True

    @property
    def state(self) -> str:
        return state.STATE_NAMES[self.conn.state]


def syn_fields(**fields: object) -> dict[str, object]:
    """What a modern guest's SYN carries."""
    return {"mss": MSS, "wscale": WINDOW_SHIFT, "sack_permitted": True, **fields}


def connecting(cfg: TcpConfig | None = None, length: int = 0, **fields: object) -> Rig:
    """The guest's SYN has arrived, the host is not yet connected."""
    rig = Rig(cfg)
    options = syn_fields(**fields)
    rig.use_ts = bool(options.pop("has_ts", True))
    seg = rig.segment(SYN, length, ack=0, has_ts=rig.use_ts, ts_ecr=0, **options)
    rig.seq = (rig.seq + 1) & MASK
    rig.conn = Connection.passive(rig.cfg, seg, rig.iss, rig.now)
    rig.settle()
    assert len(rig.seen(Connect)) == 1
    return rig


def syn_received(cfg: TcpConfig | None = None, **fields: object) -> Rig:
    """Our SYN-ACK has left."""
    rig = connecting(cfg, **fields)
    rig.conn.on_connected(rig.now)
    syn_ack = rig.one()
    assert syn_ack.flags == SYN | ACK
    rig.ack = (syn_ack.seq + 1) & MASK
    return rig


def syn_sent(cfg: TcpConfig | None = None) -> Rig:
    """We opened; our SYN has left."""
    rig = Rig(cfg)
    rig.conn = Connection.active(rig.cfg, rig.iss, rig.now)
    syn = rig.one()
    assert syn.flags == SYN
    rig.ack = (syn.seq + 1) & MASK
    return rig


def established(cfg: TcpConfig | None = None, **fields: object) -> Rig:
    """Opened by the guest."""
    rig = syn_received(cfg, **fields)
    rig.guest(ACK)
    assert rig.state == "ESTABLISHED"
    assert rig.seen(Established) == [Established(False)]
    assert rig.silent()
    return rig


def opened(cfg: TcpConfig | None = None, **fields: object) -> Rig:
    """Opened by us."""
    rig = syn_sent(cfg)
    options = syn_fields(**fields)
    rig.use_ts = bool(options.pop("has_ts", True))
    rig.guest(SYN | ACK, has_ts=rig.use_ts, **options)
    assert rig.state == "ESTABLISHED"
    assert rig.one().flags == ACK
    return rig


def fin_wait_1(cfg: TcpConfig | None = None, **fields: object) -> Rig:
    rig = established(cfg, **fields)
    rig.conn.on_host_eof(rig.now)
    assert rig.one().flags & FIN
    assert rig.state == "FIN-WAIT-1"
    return rig


def fin_wait_2(cfg: TcpConfig | None = None, **fields: object) -> Rig:
    rig = fin_wait_1(cfg, **fields)
    rig.acknowledge_all()
    assert rig.state == "FIN-WAIT-2"
    return rig


def close_wait(cfg: TcpConfig | None = None, **fields: object) -> Rig:
    rig = established(cfg, **fields)
    rig.guest(FIN | ACK)
    assert rig.one().flags == ACK
    assert rig.state == "CLOSE-WAIT"
    assert rig.seen(HostShutdown)
    return rig


def closing(cfg: TcpConfig | None = None, **fields: object) -> Rig:
    rig = fin_wait_1(cfg, **fields)
    rig.guest(FIN | ACK)
    assert rig.one().flags == ACK
    assert rig.state == "CLOSING"
    return rig


def last_ack(cfg: TcpConfig | None = None, **fields: object) -> Rig:
    rig = close_wait(cfg, **fields)
    rig.conn.on_host_eof(rig.now)
    assert rig.one().flags & FIN
    assert rig.state == "LAST-ACK"
    return rig


def time_wait(cfg: TcpConfig | None = None, **fields: object) -> Rig:
    rig = fin_wait_2(cfg, **fields)
    rig.guest(FIN | ACK)
    assert rig.one().flags == ACK
    assert rig.state == "TIME-WAIT"
    return rig


def closed(cfg: TcpConfig | None = None, **fields: object) -> Rig:
    rig = established(cfg, **fields)
    rig.guest(RST, ack=0)
    assert rig.state == "CLOSED"
    assert rig.seen(HostReset)
    return rig


BUILDERS: dict[str, Callable[..., Rig]] = {
    "connecting": connecting,
    "syn_received": syn_received,
    "syn_sent": syn_sent,
    "established": established,
    "opened": opened,
    "fin_wait_1": fin_wait_1,
    "fin_wait_2": fin_wait_2,
    "close_wait": close_wait,
    "closing": closing,
    "last_ack": last_ack,
    "time_wait": time_wait,
    "closed": closed,
}
SYNCHRONIZED = (
    "established",
    "fin_wait_1",
    "fin_wait_2",
    "close_wait",
    "closing",
    "last_ack",
    "time_wait",
)
