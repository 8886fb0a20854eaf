"""Counts by key in a dict that has no entry for a count of 0."""

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def add(counts: dict[K, int], key: K, number: int) -> None:
    """Add number to the count of key. Raises KeyError when number is negative and key has no count."""
    count = (counts[key] if number < 0 else counts.get(key, 0)) + number
    if count:
        counts[key] = count
    else:
        del counts[key]
