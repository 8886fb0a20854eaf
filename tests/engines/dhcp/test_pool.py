"""The dynamic addresses of a subnet."""

from ipaddress import IPv4Network, IPv6Network

import pytest

from pipeline.engines.dhcp.pool import DECLINE_SECONDS, Pool
from pipeline.wire import ip

FIRST = ip.parse("fd00::1:0")


@pytest.fixture
def pool() -> Pool:
    return Pool(IPv6Network("fd00::1:0/125"), {FIRST | 3})


def test_a_wanted_address_is_given_if_it_is_free_and_else_the_lowest_one(pool: Pool) -> None:
    wanted = [5, 5, 3, 0, 7, 2]
    assert [pool.take(0.0, FIRST | each) & 7 for each in wanted] == [5, 1, 2, 4, 6, 0]
    assert pool.free_count(0.0) == 0


@pytest.mark.parametrize("wanted", [0, 1, ip.parse("fd00::2:1"), ip.parse_ipv4("0.0.0.1")])
def test_an_address_of_another_network_is_not_given(pool: Pool, wanted: int) -> None:
    assert pool.take(0.0, wanted) == FIRST | 1


def test_a_declined_address_can_be_wanted_again_after_its_time(pool: Pool) -> None:
    addr = pool.take(0.0, FIRST | 5)
    pool.decline(addr, 0.0)
    assert pool.take(1.0, addr) == FIRST | 1
    assert pool.take(DECLINE_SECONDS, addr) == addr


@pytest.mark.parametrize("network", [IPv4Network("10.0.0.0/29"), IPv6Network("fd00::1:0/125")])
def test_an_address_that_comes_back_again_and_again_takes_no_more_memory(
    network: IPv4Network | IPv6Network,
) -> None:
    pool = Pool(network, ())
    addr = ip.of(network[5])
    for _ in range(100):
        assert pool.take(0.0, addr) == addr
        pool.put_back(addr)
    assert len(pool._returned) == 1
    assert pool.take(0.0) == addr
    assert [pool.take(0.0) for _ in range(6)] == [*(ip.of(network[n]) for n in (1, 2, 3, 4, 6)), 0]
