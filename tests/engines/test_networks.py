"""Sets of networks, compared with the standard library's networks."""

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.networks import Networks
from pipeline.wire import ip

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(kind: Callable[[tuple[int, int], bool], Network], bits: int) -> st.SearchStrategy[str]:
    """Networks near the ends of the address space, so that many overlap or touch, and anywhere."""
    top = (1 << bits) - 1
    numbers = st.one_of(st.integers(1, 40), st.integers(top - 40, top), st.integers(1, top))
    return st.builds(lambda number, length: str(kind((number, length), False)), numbers, st.integers(0, bits))


NETWORKS = st.lists(st.one_of(_networks(ipaddress.IPv4Network, 32), _networks(ipaddress.IPv6Network, 128)))


def _of_family(text: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The ends of a network and their neighbours."""
    found = ipaddress.ip_network(text)
    kind = type(found[0])
    numbers = {int(found[0]) + step for step in (-1, 0, 1)} | {int(found[-1]) + step for step in (-1, 0, 1)}
    top = 1 << found.max_prefixlen
    return [kind(number) for number in numbers if 0 < number < top]


@given(NETWORKS, NETWORKS)
def test_an_address_is_in_the_set_exactly_if_a_network_has_it(texts: list[str], others: list[str]) -> None:
    made = Networks(texts)
    networks = [ipaddress.ip_network(text) for text in texts]
    for addr in (addr for text in (*texts, *others) for addr in _of_family(text)):
        if addr.version == 6 and ip.is_ipv4(int(addr)):
            continue
        assert (ip.of(addr) in made) == any(addr in network for network in networks)


def test_families_do_not_mix() -> None:
    address, other = ip.parse_ipv4("10.0.0.1"), ip.of(ipaddress.IPv6Address("2001:db8::1"))
    assert (address in Networks(["::/0"]), other in Networks(["::/0"])) == (False, True)
    assert (address in Networks(["0.0.0.0/0"]), other in Networks(["0.0.0.0/0"])) == (True, False)
    assert ip.NOTHING not in Networks(["0.0.0.0/0", "10.0.0.0/8"])


def test_a_mapped_network_is_the_ipv4_network() -> None:
    networks = Networks(["::ffff:10.0.0.0/104", "::ffff:192.0.2.1"])
    wanted = {"10.0.0.0": True, "10.255.255.255": True, "11.0.0.0": False, "192.0.2.1": True, "::1": False}
    assert {text: ip.parse(text) in networks for text in wanted} == wanted


def test_the_empty_set_has_nothing_and_a_wrong_text_is_an_error() -> None:
    assert ip.parse_ipv4("10.0.0.1") not in Networks([])
    with pytest.raises(ValueError, match="10"):
        Networks(["10.0.0.0/33"])
