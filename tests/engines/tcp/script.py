"""Packet scripts: what comes in, what must go out and when, line by line; the files lie in scripts/.

A line is a time in seconds since the script's start (`.` for the time of the line before, `+0.2` for that
much later), a mark and words; `#` begins a comment, `x3` before the mark repeats the line.

    config mtu 1500                      a field of TcpConfig, before everything else; on and off are words
    include handshake.inc                the lines of another file
    0.0   <  S 0 wnd 65535 mss 1460      a segment of the guest
    .     >  S. 0 ack 1 mss 1460         one of ours
    .     !  connect                     an action of the engine
    .     $  data 3000                   a call of the host side
    .     =  ESTABLISHED                 the state, or a field of the snapshot with its value
    .     %  tcp_segment_dropped_paws    why the last segment, or its data, were not used

Flags are letters: S F R P U and `.` for ACK. Then comes the sequence number, with `:end` for data,
counted from the sender's own SYN, as ack is from the other's. Options: wnd, mss, ws, sackok, ts VAL
ECR, nots, sack A:B (more than once), echo (ECR alone). On arrival, ts is filled in where both SYNs had it:
the guest's clock is 5000 ms at the start, and it echoes the last value it saw. Of our
segments only the fields that are named are compared (our clock is 0 ms at the start), beside flags,
numbers and length.

Actions: connect, established, deliver N (skip N), discard, release, shutdown, reset, gone. Calls: open,
connected, refused, unreachable, data N, eof, closed, abort, taken N, capacity N. An ICMP error of a
router or of the guest about our segment SEQ is a call as well: too-big SEQ MTU, not-there SEQ hard or soft.

Everything the engine does must be in the script, in its order, to the millisecond; at the end of
a script it must be silent.
"""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.engines.tcp import actions
from pipeline.engines.tcp.actions import Action, Outgoing
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection, opens, reset_for
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.state import STATE_NAMES
from pipeline.wire.tcp import ACK, FIN, PSH, RST, SYN, URG

DIRECTORY = Path(__file__).parent / "scripts"
MASK = 0xFFFFFFFF
START = 1000.0
GUEST_CLOCK = 5000
TOLERANCE = 0.0011
OUR_ISN = 0xFFFFF000
GUEST_ISN = 0xFFFFFE00
FLAGS = {"S": SYN, "F": FIN, "R": RST, "P": PSH, "U": URG, ".": ACK}
SWITCHES = {"on": True, "off": False}


class ScriptError(AssertionError):
    """The engine did something else, or the script cannot be read."""


@dataclass
class Line:
    """One line of a script."""

    where: str
    at: float
    mark: str
    words: list[str]


@dataclass
class Wanted:
    """The words of a segment."""

    flags: int = 0
    seq: int = 0
    end: int = 0
    fields: dict[str, Any] = field(default_factory=dict)


def read(path: Path, config: dict[str, object], begin: float = 0.0) -> list[Line]:
    """The lines of a file with its includes; config lines go into config."""
    lines: list[Line] = []
    at = begin
    for number, text in enumerate(path.read_text().splitlines(), 1):
        words = text.partition("#")[0].split()
        where = f"{path.name}:{number}"
        if not words:
            continue
        if words[0] == "config":
            config[words[1]] = _value(words[2])
            continue
        if words[0] == "include":
            lines += read(path.parent / words[1], config, at)
            at = lines[-1].at
            continue
        if words[0].startswith("+"):
            at += float(words[0])
        elif words[0] != ".":
            at = float(words[0])
        times = 1
        if words[1].startswith("x"):
            times = int(words.pop(1)[1:])
        if words[1] not in "<>!$=%" or (lines and at < lines[-1].at):
            raise ScriptError(f"{where}: cannot be read: {text}")
        lines += [Line(where, at, words[1], words[2:])] * times
    return lines


def _value(word: str) -> object:
    if word in SWITCHES:
        return SWITCHES[word]
    try:
        return float(word) if "." in word else int(word)
    except ValueError:
        return word


def segment_words(words: list[str]) -> Wanted:
    """FLAGS SEQ[:END] and the named fields."""
    wanted = Wanted()
    for letter in words[0]:
        wanted.flags |= FLAGS[letter]
    begin, _, end = words[1].partition(":")
    wanted.seq, wanted.end = int(begin), int(end or begin)
    rest = deque(words[2:])
    while rest:
        name = rest.popleft()
        if name in ("ack", "wnd", "mss", "ws", "echo"):
            wanted.fields[name] = int(rest.popleft())
        elif name == "ts":
            wanted.fields[name] = (int(rest.popleft()), int(rest.popleft()))
        elif name == "sack":
            left, _, right = rest.popleft().partition(":")
            wanted.fields.setdefault(name, []).append((int(left), int(right)))
        elif name in ("nots", "sackok", "nosack"):
            wanted.fields[name] = True
        else:
            raise ScriptError(f"no such field of a segment: {name}")
    return wanted


class Player:
    """Plays a script against one connection."""

    def __init__(self, path: Path) -> None:
        config: dict[str, Any] = {}
        self.lines = read(path, config)
        self.cfg = TcpConfig(**config)
        self.now = START
        self.conn: Connection | None = None
        self.out: deque[tuple[float, Outgoing]] = deque()
        self.actions: deque[tuple[float, Action]] = deque()
        self.reason: str | None = None
        self.last_seen_ts = 0
        self.guest_ts = False
        self.serial = 0
        self.held: set[str] = set()

    def play(self) -> None:
        """Every line, then silence."""
        for line in self.lines:
            try:
                self._run_until(START + line.at)
                self._line(line)
            except ScriptError as error:
                raise ScriptError(f"{line.where}: {line.mark} {' '.join(line.words)}\n{error}") from None
        self._pump()
        self._all_consumed("at the end")
        if self.conn is not None and STATE_NAMES[self.conn.state] == "CLOSED" and self.held:
            raise ScriptError(f"handles are left: {self.held}")

    def _line(self, line: Line) -> None:
        mark, words = line.mark, line.words
        if mark == ">":
            self._expect_segment(words)
        elif mark == "!":
            self._expect_action(words)
        elif mark == "%":
            if self.reason != words[0]:
                raise ScriptError(f"the reason is {self.reason}")
            self.reason = None
        elif mark == "=":
            self._expect_state(words)
        else:
            self._all_consumed("before this line")
            if self.reason is not None:
                raise ScriptError(f"the segment before was dropped: {self.reason}")
            if mark == "<":
                self._arrive(words)
            else:
                self._call(words)
            self._pump()

    # --- time --------------------------------------------------------------------------

    def _run_until(self, when: float) -> None:
        while self.conn is not None and self.conn.deadline() <= when:
            self.now = max(self.now, self.conn.deadline())
            self.conn.on_timer(self.now)
            self._pump()
        self.now = max(self.now, when)

    def _pump(self) -> None:
        conn = self.conn
        if conn is None:
            return
        self._collect()
        for _ in range(64):
            if not conn.wants_transmit:
                break
            sent = conn.transmit(self.now, 64)
            self.out += [(self.now, out) for out in sent]
            for out in sent:
                if out.has_ts:
                    self.last_seen_ts = out.ts_val
            self._collect()
        else:
            raise ScriptError("transmit never ends")

    def _collect(self) -> None:
        assert self.conn is not None
        for action in self.conn.take_actions():
            if isinstance(action, actions.Deliver | actions.Discard | actions.Release):
                if action.buf not in self.held:
                    raise ScriptError(f"{action} comes twice")
                self.held.remove(str(action.buf))
            self.actions.append((self.now, action))

    def _all_consumed(self, when: str) -> None:
        if self.out or self.actions:
            segments = [f"{at - START:.3f} > {self.words_of(out)}" for at, out in self.out]
            acts = [f"{at - START:.3f} ! {action}" for at, action in self.actions]
            raise ScriptError(f"not expected {when}:\n" + "\n".join(segments + acts))

    # --- in ----------------------------------------------------------------------------

    def _arrive(self, words: list[str]) -> None:
        wanted = segment_words(words)
        fields, length = wanted.fields, wanted.end - wanted.seq
        has_ts = "ts" in fields or (self.guest_ts and "nots" not in fields)
        ts_val, ts_ecr = fields.get("ts", (self._guest_clock(), None))
        if ts_ecr is None:
            ts_ecr = self.last_seen_ts
        elif ts_ecr:
            ts_ecr += int(START * 1000)
        if "echo" in fields:
            ts_ecr = int(START * 1000) + fields["echo"]
        segment = Segment(
            seq=(GUEST_ISN + wanted.seq) & MASK,
            ack=(OUR_ISN + fields["ack"]) & MASK if "ack" in fields else 0,
            flags=wanted.flags,
            wnd=fields.get("wnd", 65535),
            length=length,
            buf=self._handle("in") if length else None,
            ts_val=ts_val & MASK if has_ts else 0,
            ts_ecr=ts_ecr & MASK if has_ts else 0,
            has_ts=has_ts,
            sack=tuple(
                ((OUR_ISN + left) & MASK, (OUR_ISN + right) & MASK) for left, right in fields.get("sack", ())
            ),
            mss=fields.get("mss", 0),
            wscale=fields.get("ws", -1),
            sack_permitted="sackok" in fields,
        )
        if wanted.flags & SYN:
            self.guest_ts = has_ts
        reusable = self.conn is not None and self.conn.accepts_reuse(segment)
        if (self.conn is None or reusable) and opens(wanted.flags):
            self.conn = Connection.passive(self.cfg, segment, OUR_ISN, self.now)
            return
        if self.conn is None or (STATE_NAMES[self.conn.state] == "CLOSED" and not self.conn.resets):
            # What the stage does without a connection.
            self.conn = None
            answer = reset_for(segment)
            self.held.clear()
            if answer is not None:
                self.out.append((self.now, answer))
            return
        self.reason = self.conn.on_segment(segment, self.now)

    def _guest_clock(self) -> int:
        return GUEST_CLOCK + round((self.now - START) * 1000)

    def _handle(self, kind: str) -> str:
        self.serial += 1
        handle = f"{kind}{self.serial}"
        self.held.add(handle)
        return handle

    def _call(self, words: list[str]) -> None:
        name, now = words[0], self.now
        number = int(words[1]) if len(words) > 1 else 0
        if name == "open":
            self.conn = Connection.active(self.cfg, OUR_ISN, now)
            return
        conn = self.conn
        if conn is None:
            raise ScriptError("there is no connection")
        if name == "connected":
            conn.on_connected(now)
        elif name == "refused":
            conn.on_connect_failed(now)
        elif name == "unreachable":
            conn.on_connect_failed(now, reset=False)
        elif name == "data":
            conn.on_host_data(self._handle("out"), 0, number, now)
        elif name == "eof":
            conn.on_host_eof(now)
        elif name == "closed":
            conn.on_host_closed(now)
        elif name == "abort":
            conn.on_host_reset(now)
        elif name == "taken":
            conn.on_taken(number, now)
        elif name == "capacity":
            conn.set_receive_capacity(number, now)
        elif name == "too-big":
            self.reason = conn.on_fragmentation_needed((OUR_ISN + number) & MASK, int(words[2]), now)
        elif name == "not-there":
            self.reason = conn.on_unreachable((OUR_ISN + number) & MASK, words[2] == "hard", now)
        else:
            raise ScriptError(f"no such call: {name}")

    # --- out -----------------------------------------------------------------------------

    def _expect_segment(self, words: list[str]) -> None:
        wanted = segment_words(words)
        if not self.out:
            raise ScriptError("nothing was sent")
        at, out = self.out.popleft()
        seen = self.words_of(out)
        if abs(at - self.now) > TOLERANCE:
            raise ScriptError(f"it was sent at {at - START:.3f}: {seen}")
        fields: dict[str, Any] = {"ack": (out.ack - GUEST_ISN) & MASK} if out.flags & ACK else {}
        if out.flags & RST and not out.flags & ACK:
            fields = {}
        fields |= {"wnd": out.wnd, "mss": out.mss, "ws": out.syn_wscale}
        fields["sackok"], fields["nots"] = out.syn_sack, not out.has_ts
        fields["nosack"] = not out.sack and not out.syn_sack
        fields["ts"] = ((out.ts_val - int(START * 1000)) & MASK, out.ts_ecr) if out.has_ts else None
        fields["echo"] = out.ts_ecr if out.has_ts else None
        fields["sack"] = [((left - GUEST_ISN) & MASK, (right - GUEST_ISN) & MASK) for left, right in out.sack]
        same = (wanted.flags, wanted.seq & MASK, wanted.end - wanted.seq) == (
            out.flags,
            (out.seq - OUR_ISN) & MASK if not (out.flags & RST and out.seq == 0) else 0,
            out.length,
        )
        if not same or any(fields.get(name) != value for name, value in wanted.fields.items()):
            raise ScriptError(f"sent was: {seen}")
        if out.flags & ACK and "ack" not in wanted.fields:
            raise ScriptError(f"the script must name ack: {seen}")

    def words_of(self, out: Outgoing) -> str:
        """A segment of ours as a script writes it."""
        letters = "".join(letter for letter, bit in FLAGS.items() if out.flags & bit)
        seq = (out.seq - OUR_ISN) & MASK if not (out.flags & RST and out.seq == 0) else 0
        words = [letters, f"{seq}:{seq + out.length}" if out.length else str(seq)]
        if out.flags & ACK:
            words.append(f"ack {(out.ack - GUEST_ISN) & MASK}")
        words.append(f"wnd {out.wnd}")
        if out.flags & SYN:
            words.append(f"mss {out.mss}")
            words += [f"ws {out.syn_wscale}"] if out.syn_wscale >= 0 else []
            words += ["sackok"] if out.syn_sack else []
        if out.has_ts:
            words.append(f"ts {(out.ts_val - int(START * 1000)) & MASK} {out.ts_ecr}")
        for left, right in out.sack:
            words.append(f"sack {(left - GUEST_ISN) & MASK}:{(right - GUEST_ISN) & MASK}")
        return " ".join(words)

    def _expect_action(self, words: list[str]) -> None:
        if not self.actions:
            raise ScriptError("there is no action")
        at, action = self.actions.popleft()
        if abs(at - self.now) > TOLERANCE:
            raise ScriptError(f"at {at - START:.3f}: {action}")
        name = words[0]
        numbers = {word: int(words[at + 1]) for at, word in enumerate(words[:-1]) if word in ("skip", name)
                   and words[at + 1].isdigit()}  # fmt: skip
        good = False
        if isinstance(action, actions.Deliver):
            good = name == "deliver" and numbers.get("deliver", action.length) == action.length
            good = good and numbers.get("skip", 0) == action.skip
        else:
            kinds: dict[str, type] = {
                "connect": actions.Connect,
                "established": actions.Established,
                "discard": actions.Discard,
                "release": actions.Release,
                "shutdown": actions.HostShutdown,
                "reset": actions.HostReset,
                "gone": actions.Gone,
            }
            good = name in kinds and isinstance(action, kinds[name])
        if not good:
            raise ScriptError(f"the action is {action}")

    def _expect_state(self, words: list[str]) -> None:
        if self.conn is None:
            raise ScriptError("there is no connection")
        if len(words) == 1:
            name = STATE_NAMES[self.conn.state]
            if name != words[0]:
                raise ScriptError(f"the state is {name}")
            return
        seen = self.conn.snapshot()[words[0]]
        wanted = _value(words[1])
        same = abs(seen - wanted) < 1e-6 if isinstance(wanted, float) else seen == wanted  # type: ignore[operator]
        if not same:
            raise ScriptError(f"{words[0]} is {seen}")
