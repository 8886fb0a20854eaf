"""Measures IPv6 beside IPv4: throughput and round trips of one guest, in turns, for this program and peers.

Over IPv4 the guest reaches the host's 127.0.0.1, over IPv6 its ::1. A turn measures each figure of a peer
over both families, one right after the other, ``--rounds`` times, and every second time in the other order.
A ratio over 1 means that IPv6 is better, also in rows where lower figures are better. The headers of IPv6 are
20 bytes longer, which is 1.4 % of a packet at MTU 1500.

The network card of the bench has TSO and LRO for IPv4 alone. So on QEMU's framing, and for passt, it runs
without (--plain). gvproxy has no IPv6.

The peer ``kernels`` has no program: see perf.kernels. It has no aim, as peers have none.

--segment has the guest send full segments of the same size over both families. So the rows show what the
families cost, and not what a size costs (docs/decisions.md, "Uploads over IPv6").

Samples differ by 10 % and more. So the table says between which two ratios the median is with 95 %.

    python -m perf.families --peers pipeline,kernels --link both --seconds 1 --rounds 6 --repeat 4
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Final

from perf import kernels, report
from perf import options as shared
from perf.lines import Lines, add_options, alternately, kinds_of
from perf.namespaces import Namespace
from perf.peers import OURS, Endpoint

IPV4, IPV6 = "IPv4", "IPv6"
AIM: Final = 0.95
"""The least ratio of a row that is wanted of this program."""
WITHOUT: Final = "gvproxy"
"""The peer that has no IPv6."""
_OVERHEAD: Final = {IPV4: 52, IPV6: 72}
"""Bytes of the headers of a segment with timestamps, without Ethernet."""


def run(
    families: Sequence[str], peers: Sequence[str], options: argparse.Namespace
) -> dict[str, list[report.Row]]:
    """Start each peer, and measure these families in this order. The rows have the peers' names."""
    found: dict[str, list[report.Row]] = {family: [] for family in families}
    for peer in peers:
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(shared.place(options))
            endpoint = stack.enter_context(shared.start(options, peer, place, options.mtu, ipv6=True))
            if options.segment and peer != kernels.ALONE:
                set_segment(place.guest, endpoint, options.segment)
            addresses = {
                IPV4: (endpoint.host_addr, endpoint.bind),
                IPV6: (endpoint.host_addr6, endpoint.bind6),
            }
            where = kernels.where(peer, place)
            ends = {
                family: stack.enter_context(Lines(where, host_addr, options, bind=bind))
                for family, (host_addr, bind) in addresses.items()
            }
            try:
                rows = alternately(ends, families, options.measured, options.rounds)
            except report.MeasurementError as error:
                raise report.MeasurementError(f"{peer} over {error}") from None
            for family in families:
                found[family] += [(f"{peer}: {what}", *figures) for what, *figures in rows[family]]
    return found


def set_segment(guest: Namespace, endpoint: Endpoint, size: int) -> None:
    """Let full segments between guest and host have ``size`` bytes of data, over both families.

    The guest's kernel keeps to the MTU of a route, and its SYN tells the other end. Raises MeasurementError.
    """
    for family, address in ((IPV4, endpoint.host_addr), (IPV6, endpoint.host_addr6)):
        mtu = str(size + _OVERHEAD[family])
        # ip wants no zone, since it gets the device.
        words = ("route", "replace", address.partition("%")[0], "dev", "eth0", "mtu", mtu)
        try:
            guest.run("ip", *(["-6"] if family == IPV6 else []), *words)
        except RuntimeError as error:
            raise report.MeasurementError(f"{endpoint.peer} over {family}: {error}") from None


def aim_of(what: str) -> float | None:
    """The least ratio of a row that is wanted."""
    return AIM if what.partition(":")[0] in OURS else None


def table(figures: Sequence[report.Figure]) -> str:
    """Medians, the median of the turns' ratios, and whether it is what is wanted."""
    return report.pairs(figures, IPV4, IPV6, aim_of)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="IPv6 beside IPv4, of this program and its peers.")
    parser.add_argument("--mtu", type=int, default=1500)
    parser.add_argument(
        "--segment", type=int, default=0, metavar="BYTES", help="data of a full segment, over both families"
    )
    shared.add(parser, seconds=2, repeat=5)
    add_options(parser)
    options = parser.parse_args(argv)
    options.measured = kinds_of(options, parser)
    options.parallel, options.udp, options.plain = 1, False, True
    peers = [peer for peer in shared.peers(options) if peer != WITHOUT]
    if not peers:
        parser.error(f"--peers: {WITHOUT} has no IPv6")
    samples = report.Samples()
    samples.take_turns((IPV4, IPV6), options.repeat, lambda families: run(families, peers, options))
    return samples.finish("families", shared.settings(options), table)


if __name__ == "__main__":
    sys.exit(main())
