"""The table of limits and Config agree."""

from dataclasses import fields

from pipeline import limits
from pipeline.config import Config


def test_every_limit_is_a_field_of_config() -> None:
    assert {limit.name for limit in limits.TABLE} <= {field.name for field in fields(Config)}


def test_every_default_is_allowed() -> None:
    assert all(limit.low <= limit.default <= limit.high for limit in limits.TABLE)
