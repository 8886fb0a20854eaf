"""Measures IPv6 beside IPv4: throughput and round trips of one guest of one daemon, in turns.

Over IPv4 the guest reaches the host's 127.0.0.1, over IPv6 its ::1. A turn measures both families, one right
after the other, and every second turn in the other order. A ratio over 1 means that IPv6 is better, also in
rows where lower figures are better. The headers of IPv6 are 20 bytes longer, which is 1.4 % at MTU 1500.

The network card of the bench has TSO and LRO for IPv4 alone. So on QEMU's framing it runs without (--plain).

    python -m perf.families --seconds 2 --repeat 9
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from perf import iperf, report
from perf import options as shared
from perf.namespaces import Namespace
from perf.observing import measure
from pipeline.config import merge
from pipeline.config import options as flags_of
from pipeline.go import flags
from pipeline.wire import ip

IPV4, IPV6 = "IPv4", "IPv6"
AIM: Final = 0.95
"""The least ratio of a row that is wanted."""
GUEST: Final = 2
"""The last bits of the guest's IPv6 address."""


def addresses() -> tuple[str, str, str]:
    """The addresses of guest, gateway and host in the daemon's own IPv6 network."""
    network = merge.build(flags.parse(flags_of.START, ["-ipv6", "on"]))[0].network
    guest = network.ipv6_first | GUEST
    return ip.text(guest), ip.text(network.ipv6_gateway), ip.text(network.ipv6_host)


def add_ipv6(guest: Namespace, address: str, gateway: str) -> None:
    """Give the guest's eth0 an address and a route, as router advertisements would."""
    guest.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
    guest.run("ip", "-6", "address", "add", f"{address}/64", "dev", "eth0", "nodad")
    guest.run("ip", "-6", "route", "replace", "default", "via", gateway)


def run(families: Sequence[str], options: argparse.Namespace) -> dict[str, list[report.Row]]:
    """Start a daemon, and measure these families in this order."""
    settings = argparse.Namespace(
        **{**vars(options), "daemon_option": [*options.daemon_option, "-ipv6", "on"]}
    )
    guest6, gateway6, host6 = addresses()
    (peer,) = shared.LINKS[options.link]
    with shared.place(settings) as place, shared.start(settings, peer, place, options.mtu) as endpoint:
        add_ipv6(place.guest, guest6, gateway6)
        ends = {IPV4: (endpoint.host_addr, iperf.LOOPBACK), IPV6: (host6, "::1")}
        return {
            family: measure(place, host_addr, options, bind)
            for family, (host_addr, bind) in ((family, ends[family]) for family in families)
        }


def table(figures: Sequence[report.Figure]) -> str:
    """Medians, the median of the turns' ratios, and whether it is what is wanted."""
    return report.pairs(figures, IPV4, IPV6, lambda _: AIM)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="IPv6 beside IPv4.")
    parser.add_argument("--mtu", type=int, default=1500)
    shared.add(parser, seconds=2, repeat=5)
    options = parser.parse_args(argv)
    if options.peers != "auto" or options.link == "both":
        parser.error("only this program is measured, on one --link: qemu or agent")
    options.parallel, options.udp, options.plain = 1, False, True
    samples = report.Samples()
    samples.take_turns((IPV4, IPV6), options.repeat, lambda families: run(families, options))
    return samples.finish("families", shared.settings(options), table)


if __name__ == "__main__":
    sys.exit(main())
