"""What the engine fuzzer calls with any bytes: events for one connection, in any state to begin with.

The bytes choose from the events of tests/engines/tcp/test_fuzz.py, and segments whose numbers
are nowhere near the window. After every event the connection must be in a legal state, and
in the end every handle must have come back.
"""

from collections.abc import Sequence
from typing import TypeVar

from pipeline.engines.tcp.actions import Gone
from pipeline.wire.tcp import ACK, FIN, PSH, RST, SYN, URG
from tests.engines.tcp.builders import BUILDERS, Rig
from tests.engines.tcp.test_fuzz import CONFIGS, GUESTS, apply, end, legal

MAX_EVENTS = 80
STARTS = sorted(BUILDERS)
FLAGS = (ACK, ACK | PSH, ACK | FIN, RST, RST | ACK, SYN, SYN | ACK, 0, FIN, ACK | URG, SYN | FIN)

Choice = TypeVar("Choice")


class Bytes:
    """Bytes that make decisions; zero when they have run out."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """The next one."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def number(self) -> int:
        """Four bytes."""
        return self.byte() << 24 | self.byte() << 16 | self.byte() << 8 | self.byte()

    def choose(self, choices: Sequence[Choice]) -> Choice:
        """One of them."""
        return choices[self.byte() % len(choices)]

    def left(self) -> bool:
        """Whether there are more."""
        return self._at < len(self._data)


def one_input(data: bytes) -> None:
    """Play the events that data describes."""
    source = Bytes(data)
    start, cfg, guest = source.choose(STARTS), source.choose(CONFIGS), source.choose(GUESTS)
    rig = BUILDERS[start](cfg) if start == "syn_sent" else BUILDERS[start](cfg, **guest)
    for _ in range(MAX_EVENTS):
        if not source.left() or rig.seen(Gone):
            break
        adv = rig.conn.rcv.rcv_adv
        _event(rig, source)
        legal(rig, adv)
    if rig.seen(Gone):
        assert not rig.arrived
        assert not rig.given
    else:
        end(rig)


def _event(rig: Rig, source: Bytes) -> None:
    kind = source.byte() % 16
    if kind < 7:
        apply(
            rig,
            (
                "segment",
                source.choose(FLAGS),
                source.choose((0, 0, 1, 100, 1448, 5000, 64000)),
                source.choose(("next", "next", "before", "ooo", "edge", "far")),
                source.byte() % 7 - 3,
                source.choose(("una", "nxt", "mid", "above", "far")),
                source.byte() % 7 - 3,
                source.number() & 0xFFFF,
                source.choose(("none", "mid", "dsack", "wild")),
                source.choose((0, 0, 1, -5, -(1 << 31))),
            ),
        )
    elif kind == 7:
        _wild(rig, source)
    elif kind < 10:
        apply(rig, ("data", 1 + (source.number() & 0xFFFF)))
    elif kind < 12:
        apply(rig, ("transmit", source.byte() % 4))
    elif kind == 12:
        apply(rig, ("taken", source.number() & 0xFFFF))
    elif kind == 13:
        apply(rig, ("timer",))
    elif kind == 14:
        apply(rig, ("wait", source.choose((0.001, 0.05, 1.0, 130.0))))
    else:
        apply(
            rig,
            source.choose(
                (
                    ("eof",),
                    ("closed",),
                    ("connected",),
                    ("capacity", 0),
                    ("capacity", 1 << 20),
                    ("too big", source.choose(("una", "mid", "nxt")), source.number() & 0xFFFF),
                    ("not there", source.choose((False, True))),
                )
            ),
        )


def _wild(rig: Rig, source: Bytes) -> None:
    """A segment of which nothing is as it should be."""
    blocks = tuple((source.number(), source.number()) for _ in range(source.byte() % 5))
    rig.guest(
        source.byte(),
        source.number() % 65536,
        seq=source.number(),
        ack=source.number(),
        wnd=source.number() & 0xFFFF,
        sack=blocks,
        has_ts=bool(source.byte() & 1),
        ts_val=source.number(),
        ts_ecr=source.number(),
        mss=source.number() & 0xFFFF,
        wscale=source.byte() % 16 - 1,
        sack_permitted=bool(source.byte() & 1),
        seg_count=1 + source.byte() % 44,
    )
