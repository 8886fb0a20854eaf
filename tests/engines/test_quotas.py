"""Quotas in one worker: whose account counts, what is refused, and what others have counted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.model import Quota
from pipeline.engines.quotas import Meter, Quotas
from pipeline.engines.stations import Stations
from pipeline.wire import ip

ONE = ip.parse("192.168.127.2")
ONE6 = ip.parse("fd00::2")
OTHER = ip.parse("192.168.127.3")
MAC = b"\x5a\x94\xef\xe4\x0c\xee"
RULE = "egress-policy.quotas[0]"


def made(*quotas: Quota) -> Quotas:
    stations = Stations({})
    stations.learn(ONE, MAC, 7)
    stations.learn(ONE6, MAC, 7)
    stations.learn(OTHER, b"\2\0\0\0\0\3", 8)
    found = Quotas(stations.addresses_of, stations.station_of)
    found.replace(quotas)
    return found


def opened(quotas: Quotas, guest: int = 1, addr: int = ONE) -> Meter:
    meter = quotas.meter(guest, addr)
    assert meter is not None
    meter.opened()
    return meter


def refusal(quotas: Quotas, guest: int = 1, addr: int = ONE) -> str:
    meter = quotas.meter(guest, addr)
    return "" if meter is None else meter.refusal()


def test_a_flow_that_was_refused_is_not_counted() -> None:
    quotas = made(Quota(connections=1))
    first, second = quotas.meter(1, ONE), quotas.meter(1, ONE)
    assert first is not None
    assert second is not None
    assert first.refusal() == second.refusal() == ""
    first.opened()
    assert second.refusal() == RULE, "it is asked when the flow opens, not when the meter is made"
    assert quotas.rows() == [("life", "guest 1", [0, 0, 1, 0], [0])]


def test_without_quotas_nothing_is_counted() -> None:
    quotas = made()
    assert not quotas.on
    assert quotas.meter(1, ONE) is None
    assert quotas.rows() == []


@pytest.mark.parametrize(
    ("options", "carried"),
    [
        ({"total_bytes": 100}, (60, 40)),
        ({"bytes_from_guest": 100}, (100, 0)),
        ({"bytes_to_guest": 100}, (0, 100)),
    ],
)
def test_bytes_are_used_up_to_the_last_one(options: dict[str, Any], carried: tuple[int, int]) -> None:
    quotas = made(Quota(**options))
    meter = opened(quotas)
    meter.carried(*[max(0, each - 1) for each in carried])
    assert refusal(quotas) == ""
    assert not quotas.take_cuts()
    meter.carried(1, 1)
    assert refusal(quotas) == RULE
    assert quotas.take_cuts()
    assert meter.cut_by == RULE
    assert not quotas.take_cuts(), "once"
    assert refusal(quotas, 2, OTHER) == "", "each guest has an account of its own"


def test_one_direction_leaves_the_other_alone() -> None:
    quotas = made(Quota(bytes_from_guest=100))
    meter = opened(quotas)
    meter.carried(99, 1_000_000)
    assert refusal(quotas) == ""
    meter.carried(1, 0)
    assert refusal(quotas) == RULE


def test_open_flows_may_go_on_although_the_bytes_are_used_up() -> None:
    quotas = made(Quota(total_bytes=10, open_flows="keep"))
    meter = opened(quotas)
    meter.carried(10, 0)
    assert refusal(quotas) == RULE
    assert not quotas.take_cuts()
    assert meter.cut_by == ""


def test_connections_are_refused_and_none_is_cut() -> None:
    quotas = made(Quota(connections=2))
    meter = opened(quotas)
    assert refusal(quotas) == ""
    opened(quotas)
    assert refusal(quotas) == RULE
    assert meter.cut_by == ""
    assert quotas.ask(1, ONE) == "", "a question is no connection"


def test_questions_that_are_refused_do_not_count() -> None:
    quotas = made(Quota(dns_questions=2))
    assert [quotas.ask(1, ONE) for _ in range(4)] == ["", "", RULE, RULE]
    assert quotas.rows() == [("life", "guest 1", [0, 0, 0, 2], [0])]
    assert refusal(quotas) == ""


@pytest.mark.parametrize(
    ("words", "subject"),
    [
        ((), "guest 1"),
        (("192.168.127.0/24",), "guest 1"),
        (("fd00::/64",), "guest 1"),
        (("192.168.127.2/32",), "192.168.127.2"),
        (("fd00::2/128",), "fd00::2"),
        (("5a:94:ef:e4:0c:ee",), "5a:94:ef:e4:0c:ee"),
        (("link:7",), "link:7"),
        (("192.168.127.0/24", "link:7", "5a:94:ef:e4:0c:ee"), "link:7"),
        (("192.168.127.3/32",), ""),
        (("link:8", "10.0.0.0/8"), ""),
    ],
)
def test_whose_account_counts(words: tuple[str, ...], subject: str) -> None:
    quotas = made(Quota(guests=words, connections=1))
    for addr in (ONE, ONE6):
        if (meter := quotas.meter(1, addr)) is not None:
            meter.opened()
    expected = [("life", subject, [0, 0, 2, 0], [0])] if subject else []
    assert quotas.rows() == expected


def test_two_quotas_of_one_period_share_what_was_counted() -> None:
    quotas = made(Quota(connections=3), Quota(total_bytes=10, per="life"), Quota(connections=5, per="day"))
    opened(quotas).carried(4, 5)
    assert quotas.rows() == [
        ("life", "guest 1", [4, 5, 1, 0], [0, 1]),
        ("day", "guest 1", [4, 5, 1, 0], [2]),
    ]
    opened(quotas).carried(1, 0)
    assert refusal(quotas) == "egress-policy.quotas[1]"


def test_what_others_have_counted_counts_and_a_new_period_gives_it_back() -> None:
    quotas = made(Quota(total_bytes=100))
    meter = opened(quotas)
    meter.carried(60, 0)
    quotas.learn("life", "guest 1", [0, 40, 1, 0])
    assert quotas.take_cuts()
    assert meter.cut_by == refusal(quotas) == RULE
    quotas.learn("life", "guest 1", [-60, 0, -1, 0])
    assert refusal(quotas) == meter.cut_by == ""
    meter.carried(99, 0)
    assert refusal(quotas) == ""
    meter.carried(0, 1)
    assert quotas.take_cuts()


def test_what_is_known_of_a_guest_counts_before_its_first_flow() -> None:
    quotas = made(Quota(connections=2))
    quotas.learn("life", "guest 1", [0, 0, 2, 0])
    assert refusal(quotas) == RULE


def test_other_quotas_bound_what_was_counted_before() -> None:
    quotas = made(Quota(connections=10))
    meter = opened(quotas)
    meter.carried(50, 50)
    quotas.replace([Quota(connections=10), Quota(total_bytes=100)])
    assert quotas.take_cuts()
    assert meter.cut_by == "egress-policy.quotas[1]"
    quotas.replace([Quota(total_bytes=1000)])
    assert refusal(quotas) == meter.cut_by == ""
    quotas.replace([])
    assert not quotas.on
    assert meter.cut_by == ""


def test_a_guest_that_is_gone_is_forgotten() -> None:
    quotas = made(Quota(connections=1))
    opened(quotas)
    quotas.forget([("life", "guest 1"), ("day", "guest 9")])
    assert len(quotas) == 0


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=40),
    st.integers(1, 5000),
)
def test_bytes_are_used_up_exactly_when_their_sum_is(pieces: list[tuple[int, int]], most: int) -> None:
    quotas = made(Quota(total_bytes=most))
    meter = opened(quotas)
    total = 0
    for up, down in pieces:
        meter.carried(up, down)
        total += up + down
        assert (refusal(quotas) == RULE) == (total >= most)
        assert (meter.cut_by == RULE) == (total >= most)
