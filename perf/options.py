"""The command-line options that all measurements have."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from pathlib import Path

from perf import kernels
from perf.namespaces import Namespace, World, world
from perf.peers import AGENT, ROOT, TAP, TAP_AUTO, VHOST, Endpoint, installed, running

LINKS = {
    "qemu": ("pipeline",),
    "agent": (AGENT,),
    "both": ("pipeline", AGENT),
    "tap": (TAP, TAP_AUTO),
    "vhost-user": (VHOST,),
}
KERNELS = {
    "qemu": (kernels.KERNELS,),
    "both": (kernels.KERNELS, kernels.OFFLOAD),
}
"""What `kernels` stands for beside each link: else kernels.OFFLOAD."""


def add(parser: argparse.ArgumentParser, *, seconds: float, repeat: int) -> None:
    """Add the options, with the defaults of this measurement."""
    parser.add_argument(
        "--peers", default="auto", help="auto (all that are installed) or a comma-separated list"
    )
    parser.add_argument(
        "--link",
        choices=LINKS,
        default="qemu",
        help="what joins the guest: QEMU's framing, this program's agent with offload, both in turn, "
        "a tap in either placement, or vhost-user",
    )
    parser.add_argument("--seconds", type=float, default=seconds, help="length of each measurement")
    parser.add_argument("--repeat", type=int, default=repeat, help="turns; the median counts")
    parser.add_argument("--plain", action="store_true", help="a network card without TSO and LRO")
    parser.add_argument("--congestion", default="", help="TCP congestion control of both kernels, e.g. reno")
    parser.add_argument(
        "--daemon-option", action="append", default=[], help="passed on to this program's daemon"
    )
    parser.add_argument("--no-write", action="store_true", help="do not append to perf/results")


def peers(options: argparse.Namespace) -> list[str]:
    """The peers to measure, in the order of each turn."""
    names = installed() if options.peers == "auto" else str(options.peers).split(",")
    links = {
        "pipeline": LINKS[options.link],
        kernels.KERNELS: KERNELS.get(options.link, (kernels.OFFLOAD,)),
    }
    return [link for name in names for link in links.get(name, (name,))]


def settings(options: argparse.Namespace) -> dict[str, object] | None:
    """The settings for the results file; None if nothing is to be written."""
    if options.no_write:
        return None
    return {key: value for key, value in vars(options).items() if key not in ("peers", "no_write")}


def place(options: argparse.Namespace) -> AbstractContextManager[World]:
    """New namespaces for one measurement."""
    return world(options.congestion)


def start(
    options: argparse.Namespace,
    peer: str,
    where: World,
    mtu: int,
    others: tuple[Namespace, ...] = (),
    *,
    ipv6: bool = False,
    checkout: Path = ROOT,
) -> AbstractContextManager[Endpoint]:
    """A running peer, with further guests ``others``. ipv6: the guest has both families.

    checkout: see perf.peers.Setup.
    """
    if peer in kernels.NAMES:
        return kernels.running(peer, where, mtu, ipv6=ipv6)
    extra = tuple(options.daemon_option)
    plain = bool(options.plain)
    return running(peer, where, mtu, plain=plain, ipv6=ipv6, extra=extra, others=others, checkout=checkout)
