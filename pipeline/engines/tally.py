"""Counts by key, of which nothing is kept for a key that has none."""

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def add(counts: dict[K, int], key: K, number: int) -> None:
    """Change what key has by number. A negative one raises KeyError for a key that has none."""
    count = (counts[key] if number < 0 else counts.get(key, 0)) + number
    if count:
        counts[key] = count
    else:
        del counts[key]
