"""The hash that spreads flows, and ports for flows that start here."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.flows import PortAllocator, rss_hash
from pipeline.wire import ip
from tests.support.fuzz import addrs, u16

GUEST, REMOTE = ip.from_ipv4(0xC0A87F02), ip.from_ipv4(0x08080808)
FAMILIES = {
    "guest ports in a row": [(GUEST, 32768 + n, REMOTE, 443) for n in range(4096)],
    "every second guest port": [(GUEST, 32768 + 2 * n, REMOTE, 443) for n in range(4096)],
    "remote addresses in a row": [(GUEST, 40000, REMOTE + n, 443) for n in range(4096)],
    "remote ports in a row": [(GUEST, 40000, REMOTE, n) for n in range(4096)],
    "guests in a row": [(ip.from_ipv4(0xC0A80000) + n, 40000, REMOTE, 80) for n in range(4096)],
    "both ports together": [(GUEST, 40000 + n, REMOTE, 5000 + n) for n in range(4096)],
}


@pytest.mark.parametrize("shards", [2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_flows_spread_evenly_over_any_number_of_shards(family: str, shards: int) -> None:
    load = Counter(rss_hash(*flow) % shards for flow in FAMILIES[family])
    fair = 4096 / shards
    assert len(load) == shards
    assert all(0.8 * fair < count < 1.2 * fair for count in load.values())


@given(addrs, u16, addrs, u16)
def test_the_hash_is_32_bits_and_a_function_of_its_arguments(a: int, p: int, b: int, q: int) -> None:
    value = rss_hash(a, p, b, q)
    assert 0 <= value <= 0xFFFFFFFF
    assert value == rss_hash(a, p, b, q)


def test_the_hash_is_the_same_in_every_process() -> None:
    # A golden value: workers of one program compute it independently of each other.
    assert rss_hash(ip.from_ipv4(0xC0A87F02), 40000, ip.from_ipv4(0x08080808), 443) == 0x09C4FECC


def test_ports_of_one_key_differ_until_all_are_out() -> None:
    ports = PortAllocator(start=2, first=100, last=104)
    got = [ports.allocate("key") for _ in range(5)]
    assert got == [102, 103, 104, 100, 101]
    assert ports.allocate("key") is None
    assert ports.allocate("other") is not None
    assert ports.in_use() == 6


def test_a_port_given_back_is_used_again_as_late_as_possible() -> None:
    ports = PortAllocator(first=100, last=103)
    assert [ports.allocate("key"), ports.allocate("key")] == [100, 101]
    ports.release("key", 100)
    assert [ports.allocate("key") for _ in range(4)] == [102, 103, 100, None]


def test_giving_back_what_is_not_held_is_an_error() -> None:
    ports = PortAllocator()
    with pytest.raises(KeyError):
        ports.release("key", 50000)
    port = ports.allocate("key")
    assert port is not None
    ports.release("key", port)
    with pytest.raises(KeyError):
        ports.release("key", port)
    assert ports.in_use() == 0


@pytest.mark.parametrize("first, last", [(0, 10), (10, 9), (1, 65536)])
def test_impossible_ranges_are_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="not a port range"):
        PortAllocator(first=first, last=last)


@given(st.integers(0, 2**40), st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=60))
def test_no_port_is_out_twice_for_a_key(start: int, steps: list[tuple[str, bool]]) -> None:
    ports = PortAllocator(start, 10, 17)
    out: dict[str, list[int]] = {"a": [], "b": []}
    for key, take in steps:
        if take:
            port = ports.allocate(key)
            assert (port is None) == (len(out[key]) == 8)
            if port is not None:
                assert port not in out[key]
                assert 10 <= port <= 17
                out[key].append(port)
        elif out[key]:
            ports.release(key, out[key].pop(0))
    assert ports.in_use() == len(out["a"]) + len(out["b"])
