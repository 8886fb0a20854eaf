"""The numbers and words that workers and the supervisor share about quotas."""

import dataclasses

import pytest

from pipeline.config.model import Quota
from pipeline.engines import quota_limits
from pipeline.engines.quota_limits import BOTH_WAYS, FROM_GUEST, KEYS, NUMBERS, TO_GUEST

FIELDS = {field.metadata.get("alias", field.name): field.name for field in dataclasses.fields(Quota)}
"""By key in the configuration."""


@pytest.mark.parametrize(("kind", "key"), KEYS.items())
def test_each_key_limits_its_kind(kind: int, key: str) -> None:
    quota = dataclasses.replace(Quota(), **{FIELDS[key]: 7})
    assert quota_limits.limits(quota) == {kind: 7}


def test_each_number_of_a_quota_is_a_limit() -> None:
    numbers = [field.name for field in dataclasses.fields(Quota) if field.default == 0]
    quota = dataclasses.replace(Quota(), **dict.fromkeys(numbers, 7))
    assert quota_limits.limits(quota) == dict.fromkeys(KEYS, 7)


def test_use_of_each_kind() -> None:
    sums = [1, 20, 300, 4000]
    assert len(sums) == NUMBERS
    assert {kind: quota_limits.used(sums, kind) for kind in KEYS if kind < NUMBERS} == dict(enumerate(sums))
    assert quota_limits.used(sums, BOTH_WAYS) == sums[FROM_GUEST] + sums[TO_GUEST]
