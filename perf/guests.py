"""Measures the throughput of several guests of one daemon at the same time, in both placements.

Each guest has one iperf3 stream, and all run at once. For each number of guests the rows are: the total
throughput, and the slowest guest's part of an equal share. The peers serve one guest in a process, so they
have no columns here.

    python -m perf.guests --counts 1,2,4 --seconds 3 --repeat 3
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

from perf import iperf, report
from perf import options as shared
from perf.namespaces import World, further_guests
from perf.peers import MANY_GUESTS


def streams(places: list[World], host_addr: str, direction: str, options: argparse.Namespace) -> list[float]:
    """Run one stream in each place at the same time. Returns what each receiver got, in Gbit/s."""

    def stream(number: int) -> float:
        return iperf.measure(places[number], host_addr, direction, options, iperf.PORT + number)[0]

    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(stream, range(len(places))))


def measure(options: argparse.Namespace, peer: str, count: int, samples: report.Samples) -> None:
    """Measure both rows of one peer and number of guests, once in each direction."""
    with (
        shared.place(options) as place,
        further_guests(count - 1, options.congestion) as others,
        shared.start(options, peer, place, options.mtu, others) as endpoint,
    ):
        places = [place, *(place._replace(guest=other) for other in others)]
        for direction in ("up", "down"):
            got = streams(places, endpoint.host_addr, direction, options)
            what = f"{direction}, guests {count}"
            samples.add(f"tcp {what}", peer, "Gbit/s", sum(got))
            if count > 1:
                samples.add(f"smallest share {what}", peer, "of 1", min(got) * count / sum(got))
            print(f"{what}: {peer} {' '.join(f'{each:.2f}' for each in got)} Gbit/s", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Several guests of one daemon at once.")
    parser.add_argument("--counts", default="1,2,4", help="numbers of guests, comma-separated")
    parser.add_argument("--mtu", type=int, default=1500)
    shared.add(parser, seconds=3, repeat=1)
    options = parser.parse_args(argv)
    options.parallel, options.udp = 1, False
    samples = report.Samples()
    peers = MANY_GUESTS if options.peers == "auto" else options.peers.split(",")
    for _ in range(options.repeat):
        for count in [int(text) for text in options.counts.split(",")]:
            for peer in peers:
                if peer in MANY_GUESTS:
                    with samples.attempt():
                        measure(options, peer, count, samples)
    return samples.finish("guests", shared.settings(options))


if __name__ == "__main__":
    sys.exit(main())
