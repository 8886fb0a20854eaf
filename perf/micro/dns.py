"""Microseconds that the resolver takes for a message, from demux's record to the record with the answer.

The stage is the real one, with rings and slots of its own; demux is played. Messages come in bursts of BURST,
as a busy guest's do. One JSON line; status 1 on a wrong answer.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

import dns.message
import structlog

from perf.timing import spread
from pipeline.wire import dhcp
from tests.support.resolver_rig import BROADCAST, Rig, query

BURST: Final = 32
DHCP_CLIENT: Final = bytes.fromhex("020000000001")

NO_ANSWER: Final = -1
"""The place of a code, for messages without an answer."""


class Case:
    """Messages to one port, one after the other, and the response code that each of them gets."""

    def __init__(self, messages: Sequence[bytes], code: int, port: int = 53) -> None:
        self.messages = messages
        self.code = code
        self.port = port


def cases() -> dict[str, Case]:
    """What the benchmark sends. "random" names are new in each message; all others are the same."""
    own = "host.containers.internal"
    discover = dhcp.Message(dhcp.BOOT_REQUEST, 1, DHCP_CLIENT, {dhcp.MESSAGE_TYPE: bytes((dhcp.DISCOVER,))})
    return {
        "truncated": Case([b"x" * 11], NO_ANSWER),
        "malformed": Case([query(own)[:12] + b"\x3fx"], 1),
        "own": Case([query(own)], 0),
        "own_edns": Case([query(own, use_edns=0)], 0),
        "own_random": Case([query(f"r{n}.containers.internal") for n in range(20000)], 3),
        "cached": Case([query("www.example.com")], 0),
        "cached_edns": Case([query("www.example.com", use_edns=0)], 0),
        "discover": Case([dhcp.build(discover)], NO_ANSWER, 67),
    }


class Bench:
    """One resolver, and what is sent to it."""

    def __init__(self, directory: Path) -> None:
        self.rig = Rig(directory, [])
        self.sent = 0
        for name in ("www.example.com",):
            for edns in (-1, 0):
                self.rig.ask(name, use_edns=edns)

    def burst(self, case: Case) -> float:
        """Microseconds a message, of BURST messages."""
        rig = self.rig
        for _ in range(BURST):
            message = case.messages[self.sent % len(case.messages)]
            self.sent += 1
            guest = 0 if case.port == 67 else 0xC0A87F02
            rig.send(
                message, case.port, guest_addr=guest, remote=BROADCAST if case.port == 67 else 0xC0A87F01
            )
        began = perf_counter()
        rig.stage.step(began)
        took = perf_counter() - began
        rig.breathe(began)
        self.check(case, [payload for _, payload in rig.replies()])
        return took / BURST * 1e6

    def check(self, case: Case, payloads: list[bytes]) -> None:
        """Leave if the answers are not those that are expected."""
        if case.port == 53:
            expected = 0 if case.code == NO_ANSWER else BURST
            if len(payloads) != expected or any(payload[3] & 15 != case.code for payload in payloads):
                raise SystemExit(f"wrong answers: {[dns.message.from_wire(each) for each in payloads[:1]]}")
        elif len(payloads) != BURST:
            raise SystemExit(f"{len(payloads)} DHCP answers instead of {BURST}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bursts", type=int, default=50, help="bursts a round")
    args = parser.parse_args(arguments)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory))
        for _ in range(args.rounds):
            for name, case in cases().items():
                total = sum(bench.burst(case) for _ in range(args.bursts))
                figures.setdefault(name, []).append(total / args.bursts)
        bench.rig.close()
    spreads = {name: spread(each) for name, each in figures.items()}
    print(json.dumps({"benchmark": "micro/dns", "unit": "us", **spreads}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
