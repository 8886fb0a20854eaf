"""The DNS cache: lifetimes, both bounds, and who goes first."""

import pytest

from pipeline.engines.dns.cache import ENTRY_BYTES, DnsCache
from pipeline.engines.dns.message import Body


def body(lifetime: int = 10, size: int = 100) -> Body:
    return Body(0, bytes(size), lifetime=lifetime)


def test_answer_is_given_with_its_age_until_its_lifetime_is_over() -> None:
    cache = DnsCache()
    cache.put("a", body(10), 100.0)
    assert cache.get("a", 100.9) == (body(10), 0, 101.0)
    assert cache.get("a", 109.9) == (body(10), 9, 110.0)
    assert cache.get("a", 110.0) is None
    assert (len(cache), cache.held_bytes) == (0, 0)
    assert cache.get("b", 100.0) is None


@pytest.mark.parametrize("lifetime", [0, -1])
def test_answer_without_lifetime_is_not_kept_and_replaces_an_older_one(lifetime: int) -> None:
    cache = DnsCache()
    cache.put("a", body(), 0)
    cache.put("a", body(lifetime), 0)
    assert cache.get("a", 0) is None
    assert cache.held_bytes == 0


def test_least_recently_used_answer_goes_first() -> None:
    cache = DnsCache(max_entries=2)
    cache.put("a", body(), 0)
    cache.put("b", body(), 0)
    cache.get("a", 1)
    cache.put("c", body(), 1)
    assert [cache.get(key, 2) is not None for key in "abc"] == [True, False, True]


def test_bytes_are_bounded_and_counted() -> None:
    cache = DnsCache(max_bytes=3 * (ENTRY_BYTES + 100))
    for n in range(50):
        cache.put(n, body(), 0)
        assert cache.held_bytes <= cache.max_bytes
    assert len(cache) == 3
    cache.put("big", body(size=10000), 0)
    assert cache.get("big", 0) is None
    cache.put(49, body(size=50), 0)
    assert cache.held_bytes == 3 * (ENTRY_BYTES + 100) - 50
    cache.clear()
    assert (len(cache), cache.held_bytes) == (0, 0)
