"""The order in which two ends are measured."""

import argparse
from typing import cast

import pytest

from perf import lines, report


class End:
    """Notes what it is asked for."""

    def __init__(self, name: str, asked: list[tuple[str, str]]) -> None:
        self._name = name
        self._asked = asked

    def rows(self, kind: str) -> list[report.Row]:
        self._asked.append((self._name, kind))
        return [(kind, "µs", float(len(self._asked)), False)]


def test_every_second_round_has_the_other_order_and_each_pair_stays_together() -> None:
    asked: list[tuple[str, str]] = []
    ends = {name: cast(lines.Lines, End(name, asked)) for name in "ab"}
    found = lines.alternately(ends, "ab", ["tcp", "udp"], rounds=2)
    kinds = ["tcp"] * 4 + ["udp"] * 4
    assert asked == list(zip("abbaabba", kinds, strict=True))
    assert [row[2] for row in found["a"]] == [1, 4, 5, 8]
    assert [row[2] for row in found["b"]] == [2, 3, 6, 7]


def test_an_unknown_kind_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    lines.add_options(parser)
    assert lines.kinds_of(parser.parse_args(["--kinds", "tcp,crr"]), parser) == ["tcp", "crr"]
    with pytest.raises(SystemExit):
        lines.kinds_of(parser.parse_args(["--kinds", "tcp,sctp"]), parser)
    assert "--kinds: 'sctp' is none of tcp up, tcp down, tcp, udp, crr" in capsys.readouterr().err
