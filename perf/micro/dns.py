"""Microseconds that the resolver takes for a message, from demux's record to the record with the answer.

The stage is the real one, with rings and slots of its own; demux and the name server upstream are played, and
their time does not count. Messages come in bursts of BURST, as a busy guest's do. One JSON line; status 1 on
a wrong answer.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, perf_counter
from typing import Final, NamedTuple

import structlog

from perf.timing import spread
from pipeline.wire import dhcp
from tests.support.resolver_rig import BROADCAST, GATEWAY, GUEST, Rig, query

BURST: Final = 32
VARIANTS: Final = 1 << 16
"""Names that are new in each message are used again after this many."""
PATIENCE_S: Final = 5.0


class Case(NamedTuple):
    """Messages to a port of the gateway, in turns. ``code``: the response code of each answer.

    ``answers``: how many answers a message gets, 0 or 1.
    """

    messages: Sequence[bytes]
    code: int = 0
    port: int = 53
    answers: int = 1


def cases() -> dict[str, Case]:
    """What is measured. The names of "own_random" and "forwarded" are new in each message."""
    own, cached = "host.containers.internal", "www.example.com"
    client = bytes.fromhex("020000000001")
    discover = dhcp.Message(dhcp.BOOT_REQUEST, 1, client, {dhcp.MESSAGE_TYPE: bytes((dhcp.DISCOVER,))})
    template = query("xxxxx.example.com", use_edns=0)
    return {
        "truncated": Case([b"x" * 11], answers=0),
        "malformed": Case([query(own)[:12] + b"\x3fx"], 1),
        "own": Case([query(own)]),
        "own_edns": Case([query(own, use_edns=0)]),
        "own_random": Case([query(f"r{n}.containers.internal") for n in range(4096)], 3),
        "cached": Case([query(cached)]),
        "cached_edns": Case([query(cached, use_edns=0)]),
        "forwarded": Case([template.replace(b"xxxxx", b"%05d" % n) for n in range(VARIANTS)]),
        "discover": Case([dhcp.build(discover)], 2, 67),
    }


class Bench:
    """One resolver and its guest."""

    def __init__(self, directory: Path) -> None:
        self.rig = Rig(directory, [])
        self.sent = 0
        for edns in (-1, 0):
            self.rig.ask("www.example.com", use_edns=edns)

    def burst(self, case: Case) -> float:
        """Microseconds a message, of BURST messages. SystemExit if one has a wrong answer, or none."""
        rig = self.rig
        guest, remote = (0, BROADCAST) if case.port == 67 else (GUEST, GATEWAY)
        for _ in range(BURST):
            message = case.messages[self.sent % len(case.messages)]
            self.sent += 1
            rig.send(message, case.port, guest_addr=guest, remote=remote, guest_port=self.sent & 0xFFF)
        took = 0.0
        answers: list[bytes] = []
        end = monotonic() + PATIENCE_S
        while True:
            began = perf_counter()
            rig.worker.run(0)
            rig.stage.step(monotonic())
            took += perf_counter() - began
            rig.turn()
            answers += [payload for _, payload in rig.replies()]
            if len(answers) >= case.answers * BURST:
                break
            if monotonic() > end:
                raise SystemExit(f"{len(answers)} answers to {BURST} messages")
        codes = {payload[3] & 15 if case.port == 53 else payload[0] for payload in answers}
        if len(answers) != case.answers * BURST or codes - {case.code}:
            raise SystemExit(f"{len(answers)} answers with the codes {codes}")
        return took / BURST * 1e6


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
        all_cases = cases()
        for _ in range(args.rounds):
            for name, case in all_cases.items():
                total = sum(bench.burst(case) for _ in range(args.bursts))
                figures.setdefault(name, []).append(total / args.bursts)
        bench.rig.close()
    spreads = {name: spread(each) for name, each in figures.items()}
    print(json.dumps({"benchmark": "micro/dns", "unit": "us", **spreads}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
