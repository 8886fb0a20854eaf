"""Measures how long one turn of the data process is while a guest floods it: so long do all others wait.

All data workers run in one process, as with ``-placement auto``. The flood's socket is always full. Another
guest sends a datagram every half millisecond, so it is active. Prints one JSON line: the turns in which the
flood was read, in microseconds of processor time (p50, p99, max), the frames of one, the share of a core that
they took, and the longest time between two of them.

SYNs go to an address behind the host's default route, so run it in a network namespace:

    unshare -n sh -c 'ip link set lo up; ip link add out0 type dummy; ip link set out0 up;
        ip route add default dev out0; python -m perf.micro.stalls "SYN flood"'
"""

import argparse
import contextlib
import json
import socket
import sys
from time import monotonic, thread_time

from perf.micro.round_trip import Bench
from perf.neighbours.attacks import BURST, BY_NAME
from perf.neighbours.frames import Ports, from_link
from pipeline.counters import INDEX
from pipeline.topology import INGRESS
from pipeline.wire import ipv4, udp
from pipeline.wire.framing import LE16

SINK_PORT = 9
EVERY_S = 0.0005
"""Seconds between two datagrams of the guest that is not a flood."""
ANSWERS = 1 << 18
"""Bytes of answers that a guest takes at once."""


class Stalls(Bench):
    """The data process with a flood beside the scripted guest."""

    def __init__(self, attack: str, floods: int) -> None:
        super().__init__()
        self.ingress = self.workers[INGRESS]
        self.floods = [self._guest() for _ in range(floods)]
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sink.bind(("127.0.0.1", 0))
        made = BY_NAME[attack].make(Ports(sink.getsockname()[1], SINK_PORT))
        self._data = [self._burst([from_link(frame, number) for frame in made]) for number in range(floods)]
        self._left = [b""] * floods
        self._sink = sink
        # A guest that has to wait drops what it cannot send.
        self.link.setblocking(False)

    @staticmethod
    def _burst(made: list[bytes]) -> bytes:
        data = b"".join(LE16.prefix.pack(len(frame)) + frame for frame in made)
        return data * (1 + BURST // len(data))

    def _guest(self) -> socket.socket:
        """Attach a guest of its own. Returns its end."""
        ours, theirs = socket.socketpair()
        self.ingress.stage.on_control({"op": "attach", "head": b""}, [ours.detach()])
        theirs.setblocking(False)
        return theirs

    def fill(self) -> None:
        """Write to the floods' sockets what they take, and drop what came back."""
        for number, link in enumerate(self.floods):
            try:
                while True:
                    left = self._left[number] or self._data[number]
                    self._left[number] = left[link.send(left) :]
            except BlockingIOError:
                pass
            for each in (link, self.link):
                try:
                    while each.recv(ANSWERS, socket.MSG_DONTWAIT):
                        pass
                except BlockingIOError:
                    pass

    def run(self, seconds: float, warm_up: float) -> dict[str, float]:
        """Turn the loop for so long."""
        payload = udp.build(40000, SINK_PORT, udp.HEADER_LEN) + bytes(10)
        frames = INDEX["link_frames_from_guest"]
        turns: list[float] = []
        began = monotonic()
        from_at = began + warm_up
        longest = total = 0.0
        read = 0
        last = from_at
        sent_at = 0.0
        while (now := monotonic()) < from_at + seconds:
            self.fill()
            if now > sent_at + EVERY_S:
                with contextlib.suppress(BlockingIOError):
                    self.send(ipv4.PROTO_UDP, payload)
                sent_at = now
            known = self.ingress.counts[frames]
            cpu = thread_time()
            self.loop.turn(self.poller.poll(0, 64))
            cpu = thread_time() - cpu
            if self.ingress.counts[frames] > known + 1 and now > from_at:
                turns.append(cpu * 1e6)
                read += self.ingress.counts[frames] - known - 1
                total += cpu
                longest = max(longest, now - last)
                last = now
        turns.sort()
        return {
            "turns": len(turns),
            "p50": round(turns[len(turns) // 2]),
            "p99": round(turns[len(turns) * 99 // 100]),
            "max": round(turns[-1]),
            "frames": round(read / len(turns), 1),
            "share": round(total / seconds, 3),
            "longest_wait_s": round(longest, 2),
        }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attack", choices=BY_NAME)
    parser.add_argument("--floods", type=int, default=1, help="guests that flood")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warm-up", type=float, default=0.5)
    args = parser.parse_args()
    found = Stalls(args.attack, args.floods).run(args.seconds, args.warm_up)
    print(json.dumps({"benchmark": "micro/stalls", "attack": args.attack, "unit": "us", **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
