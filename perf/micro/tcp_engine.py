"""Measures the three most frequent calls of the TCP engine in µs. Prints one JSON line.

segment   on_segment with a full in-order range, on_taken and take_actions
ack       on_segment with an ACK that frees one handle, and take_actions
transmit  transmit of one full range

Each figure is for one call, with ranges of 64 KiB, as min/median/max of several rounds. The connection is
established, with timestamps, SACK and window scale. Run from the root of the repository:
``python -m perf.micro.tcp_engine``.
"""

import gc
import json
from time import perf_counter

from perf import timing
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.segment import Segment
from pipeline.wire.tcp import ACK, PSH, SYN

RANGE_BYTES = 64000
ROUNDS = 9
CALLS = 2000
MASK = 0xFFFFFFFF


def established(now: float) -> Connection:
    """A connection opened by a guest with all options. Its window is wide open."""
    syn = Segment(7, 0, SYN, 65535, 0, None, 100, 0, True, (), 1460, 10, True)
    c = Connection.passive(TcpConfig(), syn, 1000, now)
    c.on_connected(now)
    c.transmit(now, 8)
    c.on_segment(Segment(8, 1001, ACK, 65535, 0, None, 101, 1, True), now)
    c.take_actions()
    return c


def segments(now: float) -> tuple[float, Connection]:
    """Seconds a call for CALLS in-order ranges. The host takes each at once."""
    c = established(now)
    seq = 8
    spent = 0.0
    for i in range(CALLS):
        now += 0.0001
        seg = Segment(
            seq, 1001, ACK | PSH, 65535, RANGE_BYTES, i, 102 + i // 10, 1, True, (), 0, -1, False, 44
        )
        began = perf_counter()
        c.on_segment(seg, now)
        c.take_actions()
        spent += perf_counter() - began
        began = perf_counter()
        c.on_taken(RANGE_BYTES, now)
        spent += perf_counter() - began
        c.transmit(now, 8)
        seq = (seq + RANGE_BYTES) & MASK
    return spent / CALLS, c


def acks_and_transmits(now: float) -> tuple[float, float, Connection]:
    """Seconds a call for an ACK that frees a range, and for the transmission of a range."""
    c = established(now)
    c.cc.cwnd = 1 << 22
    for i in range(CALLS + 16):
        c.on_host_data(i, 256, RANGE_BYTES, now)
    c.transmit(now, 16)
    ack = 1001
    acking = sending = 0.0
    for _ in range(CALLS):
        now += 0.0001
        ack = (ack + RANGE_BYTES) & MASK
        seg = Segment(8, ack, ACK, 65535, 0, None, 102, int(now * 1000) & MASK, True)
        began = perf_counter()
        c.on_segment(seg, now)
        c.take_actions()
        acking += perf_counter() - began
        began = perf_counter()
        out = c.transmit(now, 1)
        sending += perf_counter() - began
        if len(out) != 1 or out[0].length == 0:
            raise SystemExit(f"transmit gave {out}")
    return acking / CALLS, sending / CALLS, c


def main() -> None:
    """Print the line. The exit status is not 0 if the engine did not do what is measured."""
    results: dict[str, list[float]] = {"segment": [], "ack": [], "transmit": []}
    gc.disable()
    for _ in range(ROUNDS):
        segment, receiver = segments(1000.0)
        if receiver.snapshot()["rcv_nxt"] != (8 + CALLS * RANGE_BYTES) & MASK:
            raise SystemExit(f"not all was received: {receiver.snapshot()}")
        ack, transmit, _ = acks_and_transmits(1000.0)
        results["segment"].append(segment)
        results["ack"].append(ack)
        results["transmit"].append(transmit)
    line: dict[str, object] = {"bench": "tcp_engine", "unit": "us", "range_bytes": RANGE_BYTES}
    for name, values in results.items():
        line[name] = timing.spread([value * 1e6 for value in values])
    print(json.dumps(line))


if __name__ == "__main__":
    main()
