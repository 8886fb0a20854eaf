"""Measures one call of GRO in µs, for typical bursts. Prints one JSON line; status 1 on a wrong result.

The frames have 1514 bytes, timestamps and a 4-byte prefix. GRO verifies checksums unless the case says
otherwise.
"""

import os
import sys
from collections.abc import Callable

from perf.timing import report
from pipeline.engines.offload.gro import coalesce
from pipeline.wire import tcp
from tests.support.frames import slot_of, tcp_frame, tcp_frame6, timestamps, udp_frame6

MSS = 1448
MSS6 = 1428
DATA = os.urandom(65468)


def burst(frames: list[bytes], records: int, verify: bool = True, ipv6: bool = False) -> Callable[[], object]:
    """A call of GRO on a slot with these frames. It must make ``records`` records."""
    view, places = slot_of(frames)
    items, drops = coalesce(view, places, verify=verify, ipv6=ipv6)
    if len(items) != records or drops:
        raise SystemExit(f"{len(items)} records instead of {records}, dropped: {drops}")
    return lambda: coalesce(view, places, verify=verify, ipv6=ipv6)


def segment(number: int, size: int = MSS, push_every: int = 44, flows: int = 1) -> bytes:
    """Frame ``number`` of a burst, in which ``flows`` senders take turns. PSH ends each train."""
    turn = number // flows
    return tcp_frame(
        turn * size,
        DATA[:size],
        options=timestamps(),
        ident=turn,
        sport=40000 + number % flows,
        flags=tcp.ACK | tcp.PSH if turn % push_every == push_every - 1 else tcp.ACK,
    )


def main() -> int:
    """Measure and print."""
    one_flow = [segment(i) for i in range(44)]
    acks = [tcp_frame(1, ack=i * MSS, options=timestamps()) for i in range(20)]
    one_flow6 = [
        tcp_frame6(i * MSS6, DATA[:MSS6], options=timestamps(), flags=one_flow[i][47]) for i in range(44)
    ]
    return report(
        "micro/gro",
        __doc__,
        {
            "lone_ack": burst(acks[:1], 1),
            "one_byte": burst([tcp_frame(1, b"x", options=timestamps())], 1),
            "one_1514": burst(one_flow[:1], 1),
            "44x1514_one_flow": burst(one_flow, 1),
            "44x1514_one_flow_not_verified": burst(one_flow, 1, False),
            "44x1514_trains_of_4": burst([segment(i, push_every=4) for i in range(44)], 11),
            "44x1514_two_flows_in_turns": burst([segment(i, flows=2) for i in range(44)], 44),
            "one_65534": burst([segment(0, 65468)], 1),
            "one_65534_not_verified": burst([segment(0, 65468)], 1, False),
            "20_acks_one_flow": burst(acks, 1),
            "20_acks_20_flows": burst([tcp_frame(1, ack=5, sport=i) for i in range(20)], 20),
            "ipv6_lone_ack": burst([tcp_frame6(1, options=timestamps())], 1, ipv6=True),
            "ipv6_one_1514": burst(one_flow6[:1], 1, ipv6=True),
            "ipv6_44x1514_one_flow": burst(one_flow6, 1, ipv6=True),
            "ipv6_30_udp_162": burst([udp_frame6(DATA[:100])] * 30, 1, ipv6=True),
            "30_udp_142": burst([one_flow[0][:23] + b"\x11" + one_flow[0][24:142]] * 30, 30),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
