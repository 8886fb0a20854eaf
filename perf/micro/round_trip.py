"""Measures the CPU time of a round trip: one byte from a guest to a host socket and back.

All data workers run in one process. The guest is a script at the other end of a socket pair. The host is an
echo server on loopback. Only the turns of the daemon's loop are timed, so the figure is the daemon's cost
without waiting. Prints one JSON line. With --profile it prints the most expensive functions instead.

--ipv6 measures IPv6. Its datagrams have checksums, so compare it with --checksums.
"""

import argparse
import cProfile
import json
import os
import pstats
import select
import socket
import sys
from collections.abc import Sequence
from time import perf_counter

from perf import timing
from pipeline.config import merge, options
from pipeline.config.choices import AUTO
from pipeline.daemon.placement import plan
from pipeline.daemon.processes import make_loop
from pipeline.go import flags
from pipeline.ipc.fabric import Fabric
from pipeline.topology import INGRESS, Layout
from pipeline.wire import checksum, ethernet, ip, ipv4, ipv6, offload, tcp, tcp_options, udp, virtio_net
from pipeline.wire.framing import LE16
from tests.support import tcp_segments

GUEST_MAC = bytes.fromhex("5a94efe40cee")
GUEST_PORT = 40000
WINDOW = 500


class Bench:
    """The data process of ``-placement auto``, with a scripted guest."""

    def __init__(
        self,
        *,
        over_ipv6: bool = False,
        checksums: bool = False,
        mtu: int = 1500,
        offloads: bool = False,
        flags_of_daemon: Sequence[str] = (),
    ) -> None:
        """checksums: of IPv4 datagrams. IPv6 always has them.

        offloads: the guest's link is that of an agent with offload (docs/offload.md).
        """
        words = ["-ipv6", "on" if over_ipv6 else "auto", "-mtu", str(mtu), *flags_of_daemon]
        self.config, _ = merge.build(flags.parse(options.START, words), [], resolv_conf=os.devnull)
        self.over_ipv6 = over_ipv6
        self.checksums = checksums or over_ipv6
        self.guest, self.host = ip.parse_ipv4("192.168.127.9"), ip.parse_ipv4("192.168.127.254")
        if over_ipv6:
            self.guest, self.host = self.config.network.ipv6_first | 9, self.config.network.ipv6_host
        self.family = socket.AF_INET6 if over_ipv6 else socket.AF_INET
        self.loopback = "::1" if over_ipv6 else "127.0.0.1"
        ethertype = ethernet.TYPE_IPV6 if over_ipv6 else ethernet.TYPE_IPV4
        layout = Layout(self.config.workers.slots)
        group = plan(AUTO, layout, 1)[0]
        self.fabric = Fabric.create(
            layout, [group.members, *([name] for name in layout.names if name not in group.members)]
        )
        self.loop, self.workers = make_loop(self.fabric, group, self.config, {})
        poller = self.workers[INGRESS].poller
        assert poller is not None
        self.poller = poller
        ours, self.link = socket.socketpair()
        self.framing = offload.FRAMING if offloads else LE16
        self.vnet_len = offload.VNET_LEN if offloads else 0
        attach: dict[str, object] = {"op": "attach", "head": b""}
        if offloads:
            attach["offload"] = str(offload.VERSION)
        self.workers[INGRESS].stage.on_control(attach, [ours.detach()])
        if offloads:
            self.link.sendall(offload.build(offload.ACCEPT, offload.FEATURES))
        self.header = ethernet.header(self.config.network.gateway_mac, GUEST_MAC, ethertype)
        self.spent = 0.0
        if offloads:
            self.settle()
            for _ in (offload.OFFER, offload.START):
                self.link.recv(LE16.prefix_len + offload.RECORD_LEN, socket.MSG_WAITALL)

    def settle(self) -> None:
        """Run turns of the loop until nothing is left to do."""
        while self.loop.turn(self.poller.poll(0, 64)):
            pass

    def settle_timed(self) -> None:
        """As settle(), and count the time."""
        began = perf_counter()
        self.settle()
        self.spent += perf_counter() - began

    def wake_until(self, there: socket.socket) -> None:
        """Sleep and turn until the socket ``there`` is readable. An input ends a sleep at once."""
        readable = select.poll()
        readable.register(there, select.POLLIN)
        while not readable.poll(0):
            began = perf_counter()
            self.loop.turn(self.loop.sleep(), everyone=False)
            self.spent += perf_counter() - began

    def send(self, proto: int, payload: bytes, segment_size: int = 0) -> None:
        """Send one packet of the guest. segment_size: it is a super-segment of TCP (only with offload)."""
        if self.over_ipv6:
            packet = ipv6.build(len(payload), proto, 64, self.guest, self.host) + payload
        else:
            head = ipv4.build(20 + len(payload), 1, 64, proto, self.guest, self.host, flags=ipv4.FLAG_DF)
            packet = head + payload
        frame = self.header + packet
        vnet = bytes(self.vnet_len)
        if segment_size:
            kind = virtio_net.GSO_TCPV6 if self.over_ipv6 else virtio_net.GSO_TCPV4
            start = len(frame) - len(payload)
            offsets = (start + tcp.HEADER_LEN, segment_size, start, tcp.CHECKSUM_OFFSET, 0)
            vnet = virtio_net.LONG.pack(virtio_net.NEEDS_CSUM, kind, *offsets)
        self.link.sendall(self.framing.prefix.pack(len(vnet) + len(frame)) + vnet + frame)

    def read_frame(self, flags: int = 0) -> memoryview:
        """The next frame for the guest, without its virtio-net header. flags: of the first read."""
        head = self.link.recv(self.framing.prefix_len, flags)
        (length,) = self.framing.prefix.unpack(head)
        return memoryview(self.link.recv(length, socket.MSG_WAITALL))[self.vnet_len :]

    def receive(self) -> memoryview:
        """The payload of the next TCP or UDP packet for the guest. Skips ARP and neighbour discovery."""
        while True:
            # What was readable may have been a frame to skip.
            self.wake_until(self.link)
            frame = self.read_frame()
            if frame[12:14] == b"\x08\x00":
                return frame[34:]
            if frame[12:14] == b"\x86\xdd" and frame[20] != ipv6.PROTO_ICMPV6:
                return frame[54:]

    def tcp_trips(self, count: int) -> None:
        """Open a connection and exchange one byte count times."""
        listener = socket.create_server((self.loopback, 0), family=self.family)
        port = listener.getsockname()[1]
        seq, ack, ts_ecr = 1000, 0, 0

        def segment(tcp_flags: int, options: bytes, data: bytes = b"") -> None:
            self.send(
                ipv4.PROTO_TCP,
                tcp_segments.segment(
                    self.guest, self.host, GUEST_PORT, port, seq, ack, tcp_flags, WINDOW, options, data
                ),
            )

        segment(tcp.SYN, tcp_options.build_syn(1460, 7, True, True, 1, 0))
        self.settle()
        host, _ = listener.accept()
        self.settle()
        reply = self.receive()
        header = tcp.parse(reply, 0, len(reply))
        seq, ack = 1001, header.seq + 1 & 0xFFFFFFFF
        ts_ecr = tcp_options.parse(reply, 20, header.header_len).ts_val
        segment(tcp.ACK, tcp_options.build(True, 2, ts_ecr))
        self.settle()
        self.spent = 0.0
        for number in range(count):
            segment(tcp.ACK | tcp.PSH, tcp_options.build(True, number + 3, ts_ecr), b"x")
            self.wake_until(host)
            seq += 1
            host.send(host.recv(1))
            while True:
                self.wake_until(self.link)
                reply = self.receive()
                header = tcp.parse(reply, 0, len(reply))
                if len(reply) > header.header_len:
                    break
            ts_ecr = tcp_options.parse(reply, 20, header.header_len).ts_val
            if header.ack != seq:
                raise SystemExit(f"not the reply: {header}")
            ack = ack + 1 & 0xFFFFFFFF
        segment(tcp.RST, b"")
        self.settle()
        host.close()
        listener.close()

    def udp_trips(self, count: int) -> None:
        """Exchange a datagram of one byte count times."""
        host = socket.socket(self.family, socket.SOCK_DGRAM)
        host.bind((self.loopback, 0))
        port = host.getsockname()[1]
        head = udp.build(GUEST_PORT, port, udp.HEADER_LEN + 1)
        if self.checksums:
            head = udp.build_checked(self.guest, self.host, GUEST_PORT, port, 1, checksum.word_sum(b"x"))
        self.spent = 0.0
        for _ in range(count):
            self.send(ipv4.PROTO_UDP, head + b"x")
            self.wake_until(host)
            data, peer = host.recvfrom(16)
            host.sendto(data, peer)
            self.wake_until(self.link)
            if len(self.receive()) != udp.HEADER_LEN + 1:
                raise SystemExit("not the reply")
        host.close()


def add_daemon_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the daemon's own flags."""
    parser.add_argument(
        "--daemon-option", action="append", default=[], help="a flag of the daemon, e.g. -config=FILE"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trips", type=int, default=1000, help="round trips a round")
    parser.add_argument("--profile", choices=["tcp", "udp"], help="print where the time goes")
    parser.add_argument("--ipv6", action="store_true", help="over IPv6")
    parser.add_argument("--checksums", action="store_true", help="IPv4 datagrams have checksums, as IPv6's")
    add_daemon_option(parser)
    args = parser.parse_args()
    bench = Bench(over_ipv6=args.ipv6, checksums=args.checksums, flags_of_daemon=args.daemon_option)
    kinds = {"tcp": bench.tcp_trips, "udp": bench.udp_trips}
    if args.profile:
        profile = cProfile.Profile()
        profile.runcall(kinds[args.profile], args.trips)
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        return 0
    samples: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(args.rounds):
        for kind, trips in kinds.items():
            trips(args.trips)
            samples[kind].append(bench.spent / args.trips * 1e6)
    figures = {kind: timing.spread(found) for kind, found in samples.items()}
    print(json.dumps({"benchmark": "micro/round_trip", "unit": "us", **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
