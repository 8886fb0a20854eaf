"""Loans: a guest that is alone uses the whole subnet, and another guest waits for minutes at most."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.dhcp.lease import LOAN_SECONDS
from pipeline.engines.dhcp.leases import NO_LOANS_SECONDS
from pipeline.engines.dhcp.server import Dhcp, Reply
from pipeline.wire import dhcp, ip
from tests.support.dhcp_clients import NETWORK, address, bootp, config, ignored, mac, message, parsed, send

SHARE = 189
"""Three quarters of the 251 addresses of config()."""
LOANS = 251 - SHARE - 8


def seconds(engine: Dhcp, n: int, now: float = 0.0, link: int = 1, kind: int = dhcp.REQUEST) -> int:
    """For how long client n is given an address; 0 if there is no reply."""
    reply = send(engine, message(kind, mac(n)), now=now, link=link)
    if not isinstance(reply, Reply):
        return 0
    found = parsed(reply)
    # Half and seven eighths are what clients take where the server says nothing.
    assert not {58, 59} & set(found.options)
    return int.from_bytes(found.options[dhcp.LEASE_TIME], "big")


def alone(now: float = 0.0) -> Dhcp:
    """A guest on link 1 has everything that it can get."""
    engine = Dhcp(config())
    given = [seconds(engine, n, now) for n in range(300)]
    assert given == [3600] * SHARE + [LOAN_SECONDS] * LOANS + [0] * (300 - SHARE - LOANS)
    return engine


def renewed(engine: Dhcp, now: float) -> list[int]:
    """The borrowing clients of link 1 whose loan is renewed."""
    return [n for n in range(SHARE, SHARE + LOANS) if seconds(engine, n, now)]


def test_a_guest_alone_keeps_its_loans_by_renewing_them() -> None:
    engine = alone()
    for minute in range(1, 100):
        assert len(renewed(engine, 60.0 * minute)) == LOANS
    assert len(engine.leases()) == 251 - 8 + 2


def test_the_offer_of_a_loan_says_how_long_it_is() -> None:
    engine = Dhcp(config())
    assert [seconds(engine, n) for n in range(SHARE)] == [3600] * SHARE
    assert seconds(engine, 500, kind=dhcp.DISCOVER) == LOAN_SECONDS
    assert seconds(engine, 500) == LOAN_SECONDS
    assert seconds(engine, 500, now=50.0, kind=dhcp.DISCOVER) == LOAN_SECONDS


def test_the_first_address_of_another_guest_is_there_at_once() -> None:
    engine = alone()
    assert [seconds(engine, 1000 + link, link=link) for link in range(2, 11)] == [3600] * 8 + [0]


def test_loans_are_not_renewed_until_the_reserve_is_whole_again() -> None:
    engine = alone()
    assert seconds(engine, 1000, now=10.0, link=2) == 3600
    refused = send(engine, message(dhcp.REQUEST, mac(SHARE)), now=60.0)
    assert ignored(refused) == "dhcp_message_dropped_loan_over"
    # One loan that is over makes the reserve whole. The other clients keep theirs.
    assert seconds(engine, SHARE + 1, now=10.0) == 0
    assert len(renewed(engine, 121.0)) == LOANS - 1


def test_another_guest_has_all_addresses_that_it_wants_after_two_minutes() -> None:
    engine = alone()
    assert [seconds(engine, 1000 + n, now=10.0, link=2) for n in range(40)] == [3600] + [0] * 39
    # The borrowing clients ask for renewal, and then as new clients, again and again.
    for now in range(11, 130):
        renewed(engine, float(now))
    assert [seconds(engine, 1000 + n, now=131.0, link=2) for n in range(40)] == [3600] * 40


@pytest.mark.parametrize("asks_every", [1.0, 20.0, 64.0, 299.0])
def test_a_patient_guest_is_served_beside_one_that_asks_every_second(asks_every: float) -> None:
    engine = alone()
    wanted = set(range(1000, 1030))
    asks_at = 10.0
    for now in range(600):
        renewed(engine, float(now))
        if now >= asks_at:
            asks_at += asks_every
            wanted -= {n for n in wanted if seconds(engine, n, float(now), link=2)}
    assert not wanted


def test_loans_are_given_again_when_nobody_has_asked_in_vain_for_a_while() -> None:
    engine = alone()
    assert [bool(seconds(engine, n, now=10.0, link=2)) for n in (1000, 1001)] == [True, False]
    assert renewed(engine, 200.0) == []
    assert len(renewed(engine, 10.0 + NO_LOANS_SECONDS)) == LOANS - 1


def test_a_guest_with_its_share_that_finds_no_address_does_not_end_loans() -> None:
    engine = alone()
    refused = send(engine, message(dhcp.REQUEST, mac(400)))
    assert ignored(refused) == "dhcp_message_dropped_too_many_of_guest"
    assert len(renewed(engine, 60.0)) == LOANS


def test_a_loan_becomes_a_lease_when_its_guest_is_within_its_share_again() -> None:
    engine = alone()
    for n in range(10):
        release = message(dhcp.RELEASE, mac(n), ciaddr=NETWORK + 3 + n)
        assert ignored(send(engine, release, now=30.0)) == "dhcp_release_accepted"
    given = [seconds(engine, n, now=60.0) for n in range(SHARE, SHARE + LOANS)]
    assert set(given) == {LOAN_SECONDS, 3600}
    assert 10 <= given.count(3600) < 20


def test_bootp_clients_get_no_loans() -> None:
    engine = Dhcp(config())
    found = [isinstance(send(engine, bootp(n)), Reply) for n in range(300)]
    assert found == [True] * SHARE + [False] * (300 - SHARE)
    assert seconds(engine, 500) == LOAN_SECONDS
    assert ignored(send(engine, bootp(500))) == "dhcp_message_dropped_loan_over"
    assert seconds(engine, 500, now=1.0) == LOAN_SECONDS


def test_static_leases_are_never_loans() -> None:
    engine = alone()
    reply = parsed(send(engine, message(dhcp.REQUEST), link=2))
    assert reply.options[dhcp.LEASE_TIME] == (3600).to_bytes(4, "big")


def test_addresses_of_a_guest_whose_link_is_gone_are_not_lent() -> None:
    engine = Dhcp(config())
    assert all(seconds(engine, n, link=2) for n in range(1000, 1040))
    engine.on_link_down(2)
    for n in range(300):
        seconds(engine, n, now=1.0)
    assert [address(engine, n, now=2.0, link=3) for n in range(1000, 1040)] == list(range(3, 43))


def test_loans_of_a_link_that_is_gone_are_there_for_others() -> None:
    engine = alone()
    engine.on_link_down(1)
    assert [seconds(engine, 1000 + n, now=1.0, link=2) for n in range(SHARE)] == [3600] * SHARE


def test_loans_outlive_a_restart_and_are_loans_again() -> None:
    engine = alone()
    rows = engine.export(20.0)
    assert sorted({left for _, _, left in rows}) == [LOAN_SECONDS - 20.0, 3580.0]
    after = Dhcp(config())
    assert after.restore(rows, 0.0) == SHARE + LOANS
    assert [seconds(after, n, 30.0) for n in range(SHARE)] == [3600] * SHARE
    assert len(renewed(after, 40.0)) == LOANS
    assert {seconds(after, n, 50.0) for n in range(SHARE, SHARE + LOANS)} == {LOAN_SECONDS}
    # A guest that comes now finds the reserve.
    assert seconds(after, 1000, 50.0, link=2) == 3600


def test_links_of_one_peer_are_one_guest() -> None:
    engine = Dhcp(config(), lambda link: link // 100 + 1)
    given = [seconds(engine, 100 * link + n, link=link) for link in range(5) for n in range(60)]
    assert given.count(3600) == SHARE
    assert given.count(LOAN_SECONDS) == LOANS
    assert seconds(engine, 5000, link=100) == 3600
    # One of the links goes, and its leases are there for others.
    engine.on_link_down(0)
    assert [seconds(engine, 6000 + n, now=1.0, link=200) for n in range(30)] == [3600] * 30


@given(
    st.lists(
        st.tuples(
            st.sampled_from([dhcp.DISCOVER, dhcp.REQUEST, dhcp.REQUEST, dhcp.RELEASE, dhcp.DECLINE]),
            st.integers(0, 30),
            st.integers(2, 14),
            st.sampled_from([0.0, 1.0, 61.0, 121.0, 3601.0]),
            st.integers(-2, 3),
        ),
        max_size=80,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_address_has_two_holders_whatever_clients_do(
    events: list[tuple[int, int, int, float, int]],
) -> None:
    engine = Dhcp(config(subnet=IPv4Network("192.168.127.0/28"), dhcp_static_leases={}))
    now = 0.0
    for kind, client, last, wait, link in events:
        now += wait
        if link <= 0:
            engine.on_link_down(1 - link)
            continue
        wish = {dhcp.REQUESTED_ADDRESS: ip.ipv4_bytes(NETWORK + last)}
        outcome = send(engine, message(kind, mac(client), wish, ciaddr=NETWORK + last), now=now, link=link)
        leases = engine.leases()
        assert len(set(leases.values())) == len(leases)
        if isinstance(outcome, Reply):
            assert leases[parsed(outcome).yiaddr] == mac(client)
