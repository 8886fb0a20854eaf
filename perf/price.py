"""Measures what a feature of the daemon costs: throughput and round trips with it and without, in turns.

    sandbox   each worker's rights, against ``-sandbox off``
    names     a policy whose rules have names, against none. The streams of a row go to an address, so the
              names do not fit them. The row with ``Host`` is held until the guest has stated its name.
    rules     a policy of 10 000 rules, against one of ten
    quotas    a quota of each kind for each guest, which nobody uses up, against none
    apart     ``-guests apart``, while no two guests have the same address, against the default
    hosts     a link to other hosts and a fleet whose servers do not answer, against neither

Both daemons run all the time. A turn measures each figure of both, one right after the other, ``--rounds``
times, and every second time in the other order. A ratio over 1 means that the daemon with the feature is
better, also in rows where lower figures are better.

    python -m perf.price names --seconds 1 --rounds 6 --repeat 4
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perf import options as shared
from perf import report
from perf.lines import STATED, Lines, add_options, alternately, kinds_of

WITHOUT, WITH = "without", "with"
NAME: Final = "host.containers.internal"
"""A name of the host in the gateway's own zone."""
HOST_ADDR: Final = "192.168.127.254"
FEW, MANY = 10, 10_000
"""Rules of the two policies that are compared."""

Aims = dict[str, float]
_FLOWS: Final[Aims] = {"tcp up": 0.99, "tcp down": 0.99}
_EXCHANGES: Final[Aims] = {"tcp round trip p50": 0.98, "udp round trip p50": 0.98}


@dataclass(frozen=True)
class Feature:
    """What a daemon has in addition. without and with_it: its flags, from the directory for its files."""

    without: Callable[[Path], list[str]]
    with_it: Callable[[Path], list[str]]
    aims: Aims
    stated: bool = False
    """Whether connections that state a name are measured too."""


def configured(directory: Path, rules: Sequence[dict[str, object]]) -> list[str]:
    """The flags of a daemon with these rules before the one that allows the host's address."""
    policy = {"default": "deny", "rules": [*rules, {"action": "allow", "groups": ["host"]}]}
    path = directory / "policy.json"
    # Without a file the zone is there; a file has to name it.
    host, _, zone = NAME.partition(".")
    zones = [{"name": f"{zone}.", "records": [{"name": host, "ip": HOST_ADDR}]}]
    path.write_text(json.dumps({"egress-policy": policy, "stack": {"dns": zones}}))
    return ["-config", str(path)]


def named(directory: Path) -> list[str]:
    """The flags of a daemon that allows the host by name, then by address."""
    return configured(directory, [{"action": "allow", "names": [NAME, "*.example.com"]}])


def listed(directory: Path, count: int) -> list[str]:
    """The flags of a daemon with so many rules about other addresses and ports."""
    rules: list[dict[str, object]] = [
        {"action": "deny", "networks": [f"10.{n >> 8 & 255}.{n & 255}.0/24"], "ports": [1 + n % 65535]}
        for n in range(count - 1)
    ]
    return configured(directory, rules)


def counted(directory: Path) -> list[str]:
    """The flags of a daemon that counts all that quotas can count."""
    most = {"bytes": "1000TB", "bytes-from-guest": "1000TB", "connections": 2**50, "dns-questions": 2**50}
    path = directory / "quotas.json"
    path.write_text(json.dumps({"egress-policy": {"quotas": [most]}}))
    return ["-config", str(path)]


def _nothing(_: Path) -> list[str]:
    return []


FEATURES: Final = {
    "sandbox": Feature(
        lambda _: ["-sandbox", "off"],
        lambda _: ["-sandbox", "on"],
        {"tcp up": 0.98, "tcp down": 0.98, **_EXCHANGES},
    ),
    "names": Feature(
        _nothing,
        named,
        {**_FLOWS, "connect-request-close": 0.9, "connect-request-close, Host": 0.9},
        stated=True,
    ),
    "hosts": Feature(
        _nothing,
        lambda _: [
            *("-link", "vxlan+udp://127.0.0.1?vni=7&remote=127.0.0.2"),
            "-fleet",
            "nats://127.0.0.1:1",
        ],
        {"tcp up": 0.98, "tcp down": 0.98, **_EXCHANGES},
    ),
    "rules": Feature(
        lambda directory: listed(directory, FEW),
        lambda directory: listed(directory, MANY),
        {"tcp up": 0.98, "tcp down": 0.98, "connect-request-close": 0.98, **_EXCHANGES},
    ),
    "apart": Feature(
        _nothing,
        lambda _: ["-guests", "apart"],
        {"tcp up": 0.98, "tcp down": 0.98, "connect-request-close": 0.98, **_EXCHANGES},
    ),
    "quotas": Feature(
        _nothing,
        counted,
        {"tcp up": 0.98, "tcp down": 0.98, "connect-request-close": 0.98, **_EXCHANGES},
    ),
}


def run(feature: Feature, order: Sequence[str], options: argparse.Namespace) -> dict[str, list[report.Row]]:
    """Start two daemons, WITHOUT the feature and WITH it, and measure them in this order."""
    with contextlib.ExitStack() as stack:
        ends = {}
        for how, flags_in in ((WITHOUT, feature.without), (WITH, feature.with_it)):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perf-")))
            flags = [*options.daemon_option, *flags_in(directory)]
            settings = argparse.Namespace(**{**vars(options), "daemon_option": flags})
            place = stack.enter_context(shared.place(settings))
            (peer,) = shared.LINKS[options.link]
            endpoint = stack.enter_context(shared.start(settings, peer, place, options.mtu))
            ends[how] = stack.enter_context(Lines(place, endpoint.host_addr, settings, name=NAME))
        kinds = [*options.measured, *([STATED] if feature.stated else [])]
        return alternately(ends, order, kinds, options.rounds)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a feature of this program costs.")
    parser.add_argument("feature", choices=FEATURES)
    parser.add_argument("--mtu", type=int, default=1500)
    shared.add(parser, seconds=1, repeat=9)
    add_options(parser)
    options = parser.parse_args(argv)
    options.measured = kinds_of(options, parser)
    if options.peers != "auto" or options.link == "both":
        parser.error("only this program is measured, on one --link: qemu or agent")
    options.parallel, options.udp = 1, False
    feature = FEATURES[options.feature]
    samples = report.Samples()
    samples.take_turns((WITHOUT, WITH), options.repeat, lambda order: run(feature, order, options))
    return samples.finish(
        f"price-of-{options.feature}",
        shared.settings(options),
        lambda figures: report.pairs(figures, WITHOUT, WITH, feature.aims.get),
    )


if __name__ == "__main__":
    sys.exit(main())
