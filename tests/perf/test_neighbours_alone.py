"""One guest alone, before and after: both checkouts run in the same way, and a 99th percentile has no aim."""

from pathlib import Path

import pytest

from perf import compiled
from perf.neighbours import alone


def test_a_compiled_checkout_is_not_compared_with_a_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiled, "reason", lambda: "")
    with pytest.raises(SystemExit):
        alone.main([str(tmp_path)])
    assert "the other is not" in capsys.readouterr().err


def test_every_row_but_the_99th_percentiles_has_an_aim() -> None:
    assert alone.aim_of("pipeline: tcp up") == alone.aim_of("pipeline auto: tcp round trip p50") == alone.AIM
    assert alone.aim_of("pipeline: tcp round trip p99") is None
