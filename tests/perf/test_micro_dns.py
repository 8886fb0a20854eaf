"""The benchmark of the resolver: it measures every case, and it notices wrong answers."""

import json
from pathlib import Path

import pytest

from perf.micro import dns as bench
from tests.support.resolver_rig import query


def test_every_case_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--rounds", "1", "--bursts", "1"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line.pop("benchmark"), line.pop("unit")) == ("micro/dns", "us")
    assert set(line) == set(bench.cases())
    assert all(figures["median"] > 0 for figures in line.values())


@pytest.mark.parametrize(
    "case",
    [
        bench.Case([query("host.containers.internal")], 3),
        bench.Case([query("host.containers.internal")], answers=0),
    ],
)
def test_a_wrong_answer_ends_the_benchmark(tmp_path: Path, case: bench.Case) -> None:
    made = bench.Bench(tmp_path)
    with pytest.raises(SystemExit, match="answers with the codes"):
        made.burst(case)
    made.rig.close()
