"""What a feature costs: the daemons that are compared differ in it, and take their configuration."""

import os
from pathlib import Path

import pytest

from perf import price
from pipeline.config import merge, options
from pipeline.config.model import Config
from pipeline.go import flags


def config_of(words: list[str]) -> Config:
    found, _ = merge.build(flags.parse(options.START, words), words, resolv_conf=os.devnull)
    return found


@pytest.mark.parametrize("count", [price.FEW, price.MANY])
def test_the_policies_have_as_many_rules_as_they_say(count: int, tmp_path: Path) -> None:
    assert len(config_of(price.listed(tmp_path, count)).access.policy.rules) == count


def test_the_host_has_a_name_that_the_policy_allows(tmp_path: Path) -> None:
    found = config_of(price.named(tmp_path))
    (zone,) = found.network.dns_zones
    assert [f"{record.name}.{zone.name}" for record in zone.records] == [f"{price.NAME}."]
    assert price.NAME in str(found.access.policy.rules[0])


def test_the_quotas_are_those_that_count_everything(tmp_path: Path) -> None:
    (quota,) = config_of(price.counted(tmp_path)).access.policy.quotas
    assert quota.guests == ()
    assert min(quota.total_bytes, quota.bytes_from_guest, quota.connections, quota.dns_questions) > 2**49


@pytest.mark.parametrize("name", price.FEATURES)
def test_both_daemons_of_a_feature_take_their_flags_and_differ(name: str, tmp_path: Path) -> None:
    feature = price.FEATURES[name]
    places = [tmp_path / "without", tmp_path / "with"]
    for place in places:
        place.mkdir()
    made = [feature.without(places[0]), feature.with_it(places[1])]
    found = [config_of(words) for words in made]
    without, with_it = ((config.access, config.fleet, config.workers) for config in found)
    assert without != with_it


def test_another_program_has_no_price(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        price.main(["names", "--peers", "passt"])
    assert "only this program is measured" in capsys.readouterr().err
