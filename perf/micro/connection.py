"""Measures the CPU time of a short connection: the guest connects, asks, gets an answer, and both close.

As in perf.micro.round_trip, all data workers run in one process, the guest is a script, and only the turns of
the loop are timed. The host answers and closes first. Prints one JSON line. With --profile it prints the most
expensive functions instead. --ipv6 measures IPv6.
"""

import argparse
import cProfile
import json
import pstats
import socket
import sys
from collections.abc import Sequence

from perf import timing
from perf.micro.round_trip import WINDOW, Bench, add_daemon_option
from pipeline.wire import ipv4, tcp, tcp_options
from tests.support import tcp_segments

REQUEST = b"r" * 64
ANSWER = b"a" * 64
FIRST_PORT, LAST_PORT = 20000, 60000
_MASK = 0xFFFFFFFF


class Connections(Bench):
    """Short connections, one after the other."""

    def __init__(self, *, over_ipv6: bool = False, flags_of_daemon: Sequence[str] = ()) -> None:
        super().__init__(over_ipv6=over_ipv6, flags_of_daemon=flags_of_daemon)
        self._listener = socket.create_server((self.loopback, 0), family=self.family, backlog=64)
        self._port = self._listener.getsockname()[1]
        self._guest_port = FIRST_PORT

    def connections(self, count: int) -> None:
        """Open and close this many connections. Each has a port of its own."""
        self.spent = 0.0
        for _ in range(count):
            self._guest_port += 1
            if self._guest_port > LAST_PORT:
                self._guest_port = FIRST_PORT
            self._connection()

    def _connection(self) -> None:
        seq, ack, ts_ecr = 1000, 0, 0

        def segment(flags: int, options: bytes, data: bytes = b"") -> None:
            made = tcp_segments.segment(
                self.guest, self.host, self._guest_port, self._port, seq, ack, flags, WINDOW, options, data
            )
            self.send(ipv4.PROTO_TCP, made)

        segment(tcp.SYN, tcp_options.build_syn(1460, 7, True, True, 1, 0))
        header, ts_ecr, _ = self._await_segment()
        seq, ack = 1001, header.seq + 1 & _MASK
        segment(tcp.ACK, tcp_options.build(True, 2, ts_ecr))
        segment(tcp.ACK | tcp.PSH, tcp_options.build(True, 2, ts_ecr), REQUEST)
        seq += len(REQUEST)
        host, _ = self._listener.accept()
        self.wake_until(host)
        host.recv(100)
        host.send(ANSWER)
        host.close()
        while True:
            header, ts_ecr, length = self._await_segment()
            ack = header.seq + length + bool(header.flags & tcp.FIN) & _MASK
            if header.flags & tcp.FIN:
                break
        segment(tcp.ACK | tcp.FIN, tcp_options.build(True, 3, ts_ecr))
        seq += 1
        while (found := self._await_segment()[0]).ack != seq:
            if found.flags & tcp.RST:
                raise SystemExit(f"a reset: {found}")

    def _await_segment(self) -> tuple[tcp.Header, int, int]:
        """The header of the next segment to the guest, its timestamp, and the bytes of its payload."""
        self.wake_until(self.link)
        reply = self.receive()
        header = tcp.parse(reply, 0, len(reply))
        options = tcp_options.parse(reply, tcp.HEADER_LEN, header.header_len)
        return header, options.ts_val, len(reply) - header.header_len


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connections", type=int, default=500, help="connections a round")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--ipv6", action="store_true", help="over IPv6")
    add_daemon_option(parser)
    args = parser.parse_args()
    bench = Connections(over_ipv6=args.ipv6, flags_of_daemon=args.daemon_option)
    if args.profile:
        profile = cProfile.Profile()
        profile.runcall(bench.connections, args.connections)
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        return 0
    samples = []
    for _ in range(args.rounds):
        bench.connections(args.connections)
        samples.append(bench.spent / args.connections * 1e6)
    print(json.dumps({"benchmark": "micro/connection", "unit": "us", **timing.spread(samples)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
