"""Measures the CPU time of bulk data: what a megabyte costs from the guest to the host, and back.

As in perf.micro.round_trip, all data workers run in one process, the guest is a script, and only the turns of
the loop are timed. So other programs disturb the figure less than a rate of iperf3. Bytes move in portions of
up to 60 KB, and the next portion waits until the last one has arrived and is acknowledged. Prints one JSON
line. With --profile it prints the most expensive functions instead. --ipv6 measures IPv6. With --offload the
guest's link is that of an agent: its kernel sends 45 segments as one packet, as Linux does.
"""

import argparse
import cProfile
import json
import pstats
import socket
import sys
from collections.abc import Sequence

from perf import timing
from perf.micro.round_trip import GUEST_PORT, WINDOW, Bench, add_daemon_option
from pipeline.wire import ipv4, tcp, tcp_options
from tests.support import tcp_segments

MB = 1_000_000
PORTION = 60_000
SEGMENTS = 45
"""Segments of a packet with offload: as many as Linux sends at an MTU of 1500, over both families."""
_MASK = 0xFFFFFFFF


class Bulk(Bench):
    """One connection of the guest to a host socket."""

    def __init__(
        self,
        *,
        mtu: int,
        over_ipv6: bool = False,
        offloads: bool = False,
        flags_of_daemon: Sequence[str] = (),
    ) -> None:
        super().__init__(over_ipv6=over_ipv6, mtu=mtu, offloads=offloads, flags_of_daemon=flags_of_daemon)
        self._mss = mtu - (60 if over_ipv6 else 40)
        self._per_segment = min(self._mss - 12, PORTION)
        """Bytes of data. Twelve bytes of each segment are the timestamp option."""
        self._per_packet = self._per_segment * SEGMENTS if offloads else self._per_segment
        self._portion = self._per_packet if offloads else PORTION
        with socket.create_server((self.loopback, 0), family=self.family) as listener:
            self._port = listener.getsockname()[1]
            self._seq, self._ack, self._ts_ecr = 1000, 0, 0
            self.send(
                ipv4.PROTO_TCP, self._segment(tcp.SYN, tcp_options.build_syn(self._mss, 7, True, True, 1, 0))
            )
            self.settle()
            self._there, _ = listener.accept()
        self.settle()
        self._receive_all()
        self._seq += 1
        self._acknowledge()

    def upload(self, count: int) -> int:
        """Move count bytes to the host, or a little less. Returns how many."""
        self.spent = 0.0
        portion = self._portion
        for _ in range(count // portion):
            left = portion
            while left:
                data = bytes(min(left, self._per_packet))
                left -= len(data)
                flags = tcp.ACK if left else tcp.ACK | tcp.PSH
                size = self._per_segment if len(data) > self._per_segment else 0
                self.send(ipv4.PROTO_TCP, self._segment(flags, self._timestamp(), data), size)
                self._seq = self._seq + len(data) & _MASK
            while left < portion:
                self.wake_until(self._there)
                left += len(self._there.recv(portion))
            self.settle_timed()
            self._receive_all()
        return count // portion * portion

    def download(self, count: int) -> int:
        """Move count bytes to the guest, or a little less. Returns how many."""
        self.spent = 0.0
        for _ in range(count // PORTION):
            self._there.sendall(bytes(PORTION))
            left = PORTION
            while left:
                self.wake_until(self.link)
                left -= self._receive_all()
                self._acknowledge()
            self.settle_timed()
        return count // PORTION * PORTION

    def _acknowledge(self) -> None:
        self.send(ipv4.PROTO_TCP, self._segment(tcp.ACK, self._timestamp()))

    def _timestamp(self) -> bytes:
        return tcp_options.build(True, 2, self._ts_ecr)

    def _segment(self, flags: int, options: bytes, data: bytes = b"") -> bytes:
        return tcp_segments.segment(
            self.guest, self.host, GUEST_PORT, self._port, self._seq, self._ack, flags, WINDOW, options, data
        )

    def _receive_all(self) -> int:
        """Read all segments that have arrived at the guest. Returns the bytes of their data."""
        total = 0
        while True:
            try:
                frame = self.read_frame(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return total
            reply = frame[54 if self.over_ipv6 else 34 :]
            if frame[20 if self.over_ipv6 else 23] != ipv4.PROTO_TCP:
                continue
            header = tcp.parse(reply, 0, len(reply))
            self._ts_ecr = tcp_options.parse(reply, tcp.HEADER_LEN, header.header_len).ts_val
            length = len(reply) - header.header_len
            self._ack = header.seq + length + bool(header.flags & tcp.SYN) & _MASK
            total += length


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=30, help="a round")
    parser.add_argument("--mtu", type=int, default=1500)
    parser.add_argument("--profile", choices=["up", "down"], help="print where the time goes")
    parser.add_argument("--ipv6", action="store_true", help="over IPv6")
    parser.add_argument("--offload", action="store_true", help="the guest sends super-segments")
    add_daemon_option(parser)
    args = parser.parse_args()
    bench = Bulk(mtu=args.mtu, over_ipv6=args.ipv6, offloads=args.offload, flags_of_daemon=args.daemon_option)
    kinds = {"up": bench.upload, "down": bench.download}
    if args.profile:
        profile = cProfile.Profile()
        profile.runcall(kinds[args.profile], args.megabytes * MB)
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        return 0
    samples: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(args.rounds):
        for kind, move in kinds.items():
            moved = move(args.megabytes * MB)
            samples[kind].append(bench.spent / moved * MB * 1e6)
    figures = {kind: timing.spread(found) for kind, found in samples.items()}
    print(json.dumps({"benchmark": "micro/bulk", "unit": "us a MB", "mtu": args.mtu, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
