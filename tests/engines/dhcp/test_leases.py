"""DHCP leases: who gets which address, and what one guest leaves to the others."""

from collections.abc import Iterable
from ipaddress import IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.dhcp import pool
from pipeline.engines.dhcp.server import Dhcp, Reply
from pipeline.wire import dhcp, ip
from tests.support.dhcp_clients import (
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    GUEST_MAC,
    HOST,
    NETWORK,
    address,
    bootp,
    config,
    decline,
    ignored,
    mac,
    message,
    parsed,
    send,
    small,
)


def test_clients_get_the_lowest_free_address_and_keep_it() -> None:
    engine = Dhcp(config())
    assert [address(engine, n) for n in (1, 2, 1, 3, 2)] == [3, 4, 3, 5, 4]
    assert parsed(send(engine, message(dhcp.DISCOVER))).yiaddr == GUEST


def test_leases_name_the_gateway_the_static_and_the_dynamic_ones() -> None:
    engine = Dhcp(config())
    address(engine, 1)
    assert engine.leases() == {GATEWAY: GATEWAY_MAC, GUEST: GUEST_MAC, NETWORK + 3: mac(1)}


def test_small_subnet_never_gives_host_broadcast_network_or_gateway() -> None:
    engine = Dhcp(small())
    assert [address(engine, n) for n in range(6)] == [2, 3, 4, 5, 0, 0]
    assert ignored(send(engine, message(dhcp.REQUEST, mac(9)))) == "dhcp_message_dropped_no_address"


def test_a_range_bounds_the_dynamic_addresses_and_not_the_static_ones() -> None:
    engine = Dhcp(config(dhcp_range=(NETWORK + 20, NETWORK + 22)))
    assert [address(engine, n) for n in range(1, 5)] == [20, 21, 22, 0]
    assert parsed(send(engine, message(dhcp.DISCOVER))).yiaddr == GUEST


def test_exhausted_subnet_gives_unconfirmed_offers_to_others_after_a_while() -> None:
    engine = Dhcp(small())
    assert [address(engine, n, dhcp.DISCOVER, now=n) for n in range(4)] == [2, 3, 4, 5]
    assert address(engine, 1, dhcp.REQUEST, now=5) == 3
    assert address(engine, 8, now=59) == 0
    assert address(engine, 8, now=60) == 2
    assert address(engine, 9, now=61.9) == 0
    assert address(engine, 9, now=62) == 4


def test_expired_lease_stays_its_clients_until_no_other_address_is_left() -> None:
    engine = Dhcp(small())
    assert address(engine, 0) == 2
    assert address(engine, 1, now=4000) == 3
    assert address(engine, 0, now=8000) == 2
    assert [address(engine, n, now=8000) for n in (2, 3)] == [4, 5]
    assert address(engine, 4, now=8000) == 3
    assert address(engine, 5, now=8000) == 0


def test_discover_of_a_bound_client_does_not_shorten_its_lease() -> None:
    engine = Dhcp(small())
    assert [address(engine, n) for n in range(4)] == [2, 3, 4, 5]
    assert address(engine, 0, dhcp.DISCOVER, now=10) == 2
    assert address(engine, 7, now=100) == 0


def test_released_address_returns_to_its_client_unless_another_needs_it() -> None:
    engine = Dhcp(small())
    assert [address(engine, n) for n in range(3)] == [2, 3, 4]
    assert ignored(send(engine, message(dhcp.RELEASE, mac(1), ciaddr=NETWORK + 3))) == "dhcp_release_accepted"
    assert address(engine, 5, now=1) == 5
    assert address(engine, 1, now=1) == 3
    assert (
        ignored(send(engine, message(dhcp.RELEASE, mac(1), ciaddr=NETWORK + 3), now=2))
        == "dhcp_release_accepted"
    )
    assert address(engine, 6, now=3) == 3


def test_release_of_a_foreign_address_is_dropped() -> None:
    engine = Dhcp(small())
    address(engine, 0)
    for payload in (
        message(dhcp.RELEASE, mac(1), ciaddr=NETWORK + 2),
        message(dhcp.RELEASE, mac(0), ciaddr=1),
    ):
        assert ignored(send(engine, payload)) == "dhcp_release_dropped_not_holder"


def test_declined_address_is_given_to_nobody_for_a_while() -> None:
    engine = Dhcp(config())
    assert address(engine, 1) == 3
    assert ignored(send(engine, decline(1, 3))) == "dhcp_decline_accepted"
    assert [address(engine, n) for n in (1, 2)] == [4, 5]
    assert address(engine, 3, now=pool.DECLINE_SECONDS) == 3


def test_decline_counts_only_from_the_holder() -> None:
    engine = Dhcp(config())
    assert address(engine, 1) == 3
    for payload in (decline(2, 3), decline(1, 4), message(dhcp.DECLINE, mac(1)), message(dhcp.DECLINE)):
        assert ignored(send(engine, payload)) == "dhcp_decline_dropped_not_holder"
    assert address(engine, 1) == 3


def test_a_decline_with_another_client_identifier_is_not_the_holders() -> None:
    engine = Dhcp(config())
    ident = {dhcp.CLIENT_ID: b"\xffmine"}
    send(engine, message(dhcp.REQUEST, mac(1), ident))
    # Another guest that asks in the client's name does not change it.
    send(engine, message(dhcp.REQUEST, mac(1), {dhcp.CLIENT_ID: b"theirs"}), link=2)
    asked = {dhcp.REQUESTED_ADDRESS: ip.ipv4_bytes(NETWORK + 3)}
    for options in (asked, asked | {dhcp.CLIENT_ID: b"theirs"}):
        wrong = send(engine, message(dhcp.DECLINE, mac(1), options))
        assert ignored(wrong) == "dhcp_decline_dropped_not_holder"
    assert ignored(send(engine, message(dhcp.DECLINE, mac(1), asked | ident))) == "dhcp_decline_accepted"


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_lease_is_given_up_only_over_the_link_that_it_was_given_to(asked_before: bool) -> None:
    engine = Dhcp(small())
    assert address(engine, 1) == 2
    if asked_before:
        # To ask in another's name gives no right to give its lease up.
        assert address(engine, 1, link=2) == 2
    release = message(dhcp.RELEASE, mac(1), ciaddr=NETWORK + 2)
    assert ignored(send(engine, decline(1, 2), link=2)) == "dhcp_decline_dropped_not_holder"
    assert ignored(send(engine, release, link=2)) == "dhcp_release_dropped_not_holder"
    assert engine.export(0.0) == [(NETWORK + 2, mac(1), 3600.0)]
    assert ignored(send(engine, release)) == "dhcp_release_accepted"
    assert address(engine, 1) == 2
    assert ignored(send(engine, decline(1, 2))) == "dhcp_decline_accepted"


def test_an_offer_is_turned_down_only_over_the_link_that_it_was_made_to() -> None:
    engine = Dhcp(small())
    assert [address(engine, 1, dhcp.DISCOVER, link=link) for link in (1, 2)] == [2, 2]
    assert [address(engine, n, link=3) for n in (2, 3, 4)] == [3, 4, 5]
    other = message(dhcp.REQUEST, mac(1), {dhcp.SERVER_ID: bytes(3) + b"\1"})
    assert ignored(send(engine, other, link=2)) == "dhcp_message_ignored_other_server"
    assert address(engine, 5, link=3) == 0
    send(engine, other, link=1)
    assert address(engine, 5, link=3) == 2


def test_a_lease_whose_link_is_gone_is_given_up_only_by_a_client_that_is_back() -> None:
    engine = Dhcp(small())
    assert address(engine, 1) == 2
    engine.on_link_down(1)
    assert ignored(send(engine, decline(1, 2), link=2)) == "dhcp_decline_dropped_not_holder"
    assert address(engine, 1, link=2) == 2
    assert ignored(send(engine, decline(1, 2), link=2)) == "dhcp_decline_accepted"


def test_declining_everything_does_not_use_up_the_subnet() -> None:
    engine = Dhcp(config(dhcp_static_leases={}))
    for n in range(2000):
        last = address(engine, n)
        assert last
        assert ignored(send(engine, decline(n, last))) == "dhcp_decline_accepted"
    assert address(engine, 5000)


def test_table_is_bounded_in_a_large_subnet() -> None:
    gateway = ip.parse_ipv4("10.0.0.1")
    engine = Dhcp(config(subnet=IPv4Network("10.0.0.0/8"), gateway_ip=gateway, dhcp_static_leases={}))
    for n in range(pool.MAX_TAKEN):
        # The last eight are for guests without an address.
        link = n // 8 + 1 if n < pool.MAX_TAKEN - 8 else 10000 + n
        assert send(engine, message(dhcp.REQUEST, mac(n)), link=link).counter == "dhcp_ack_sent"
    late = message(dhcp.REQUEST, mac(70000))
    assert ignored(send(engine, late, link=5000)) == "dhcp_message_dropped_no_address"
    assert parsed(send(engine, late, now=3600.0, link=5000)).yiaddr == ip.parse_ipv4("10.0.0.2")
    assert len(engine.leases()) == pool.MAX_TAKEN + 1


def test_a_guest_alone_with_a_hundred_clients_has_an_address_for_each() -> None:
    engine = Dhcp(config())
    assert [address(engine, n) for n in range(100)] == list(range(3, 103))


def leased(engine: Dhcp, clients: Iterable[int], now: float = 0.0, link: int = 1) -> list[int]:
    """The clients that are given an address for an hour: not as a loan."""
    return [
        n
        for n in clients
        for reply in (send(engine, message(dhcp.REQUEST, mac(n)), now=now, link=link),)
        if isinstance(reply, Reply) and parsed(reply).options[dhcp.LEASE_TIME] == b"\0\0\x0e\x10"
    ]


def test_one_guest_that_makes_up_clients_leaves_addresses_to_the_others() -> None:
    engine = Dhcp(config())
    # Of 251: the gateway's, the host's and the static one are in nobody's share.
    assert leased(engine, range(300)) == list(range(189))
    refused = send(engine, message(dhcp.DISCOVER, mac(400)))
    assert ignored(refused) == "dhcp_message_dropped_too_many_of_guest"
    # The next ones get three quarters of the rest, as far as loans have not taken it.
    assert address(engine, 1000, link=2)
    assert len(leased(engine, range(1000, 1048), now=200.0, link=2)) == 47
    # A loan has gone to the last one. Soon only the reserve is left, for guests without an address.
    counts = [
        len(leased(engine, range(1000 * link, 1000 * link + 9), now=200.0, link=link))
        for link in range(3, 13)
    ]
    assert counts == [6, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    # Its own clients keep what they have, and so does the one of the static lease.
    assert address(engine, 0, now=200.0) == 3
    assert parsed(send(engine, message(dhcp.REQUEST), now=200.0)).yiaddr == GUEST


def test_clients_that_a_guest_has_no_more_are_no_reason_to_refuse_another_guests() -> None:
    engine = Dhcp(config())
    assert len(leased(engine, range(189))) == 189
    assert len(leased(engine, range(1000, 1300), now=3599.0, link=2)) == 47
    assert len(leased(engine, range(2000, 2300), now=3600.0, link=2)) > 100


def test_a_guest_of_a_small_subnet_may_have_eight_clients_and_more_while_others_find_some() -> None:
    engine = Dhcp(config(subnet=IPv4Network("192.168.127.0/28"), dhcp_static_leases={}))
    assert leased(engine, range(10)) == list(range(10))
    assert leased(engine, range(11, 13), link=2) == [11, 12]
    # An eighth of the subnet is left, for another guest.
    assert address(engine, 13, link=2) == 0
    assert address(engine, 14, link=3) == 14


def test_a_guest_with_its_part_gets_what_its_own_clients_need_no_more() -> None:
    engine = Dhcp(config())
    assert address(engine, 1000, link=2, now=0.0) == 3
    assert [address(engine, n, now=1.0) for n in range(188)] == list(range(4, 192))
    assert leased(engine, [188], now=2.0) == []
    release = message(dhcp.RELEASE, mac(9), ciaddr=NETWORK + 13)
    assert ignored(send(engine, release)) == "dhcp_release_accepted"
    assert leased(engine, [188, 189, 190], now=2.0) == [188, 189]
    assert [address(engine, n, now=2.0) for n in (188, 189)] == [192, 13]


def test_a_declined_address_is_no_part_of_its_guests_leases_any_more() -> None:
    engine = Dhcp(config())
    given = [address(engine, n) for n in range(189)]
    assert ignored(send(engine, decline(5, given[5]))) == "dhcp_decline_accepted"
    # Until it is free again, nobody has it.
    assert leased(engine, [400]) == []
    assert leased(engine, [401, 402], now=pool.DECLINE_SECONDS) == [401]
    assert engine.leases()[NETWORK + given[5]] == mac(401)


def test_leases_of_a_guest_that_comes_back_by_another_link_count_there() -> None:
    engine = Dhcp(config())
    given = [address(engine, n) for n in range(189)]
    assert leased(engine, [190]) == []
    # Another link in the name of these clients takes over what is its part, and not more.
    assert [address(engine, n, link=2) for n in range(189)] == given
    assert leased(engine, [191], link=2) == []
    assert leased(engine, [192]) == [192]


def test_a_guest_that_reconnects_with_made_up_clients_leaves_addresses_to_the_next() -> None:
    engine = Dhcp(config())
    assert address(engine, 9000, link=9) == 3
    for link in range(1, 7):
        clients = range(1000 * link, 1000 * link + 250)
        assert leased(engine, clients, now=float(link), link=link) == list(clients[:188])
        engine.on_link_down(link)
    assert leased(engine, range(188), now=10.0, link=10) == list(range(188))
    # Nobody takes what a client of a link that is there holds.
    assert address(engine, 9000, now=10.0, link=9) == 3


def test_of_leases_whose_links_are_gone_the_one_bound_longest_ago_is_taken_first() -> None:
    engine = Dhcp(small())
    assert [address(engine, n, now=float(n), link=n) for n in range(1, 5)] == [2, 3, 4, 5]
    assert address(engine, 9, now=5.0, link=9) == 0
    for link in (4, 3, 2):
        engine.on_link_down(link)
    assert [address(engine, n, now=6.0, link=9) for n in range(9, 13)] == [3, 4, 5, 0]
    assert address(engine, 1, now=7.0) == 2


def test_a_client_whose_guest_has_a_new_link_keeps_its_address() -> None:
    engine = Dhcp(small())
    assert [address(engine, n) for n in range(4)] == [2, 3, 4, 5]
    engine.on_link_down(1)
    assert address(engine, 2, link=2) == 4
    assert [address(engine, n, link=3) for n in range(10, 14)] == [2, 3, 5, 0]
    assert address(engine, 2, link=2) == 4


def test_who_asks_in_anothers_name_and_leaves_does_not_free_its_lease() -> None:
    engine = Dhcp(small())
    assert [address(engine, n) for n in range(4)] == [2, 3, 4, 5]
    for link in (2, 3, 2):
        assert [address(engine, n, link=link) for n in range(4)] == [2, 3, 4, 5]
    for link in (2, 3):
        engine.on_link_down(link)
        assert address(engine, 9, link=4) == 0
    engine.on_link_down(1)
    assert address(engine, 9, link=4) == 2


def test_a_client_that_asks_over_its_new_link_before_the_old_one_is_gone_stays() -> None:
    engine = Dhcp(small())
    assert [address(engine, n) for n in range(4)] == [2, 3, 4, 5]
    assert [address(engine, n, link=2) for n in range(4)] == [2, 3, 4, 5]
    engine.on_link_down(1)
    assert address(engine, 9, link=4) == 0
    engine.on_link_down(2)
    assert address(engine, 9, link=4) == 2


def test_a_link_that_has_the_number_of_one_that_is_gone_has_a_part_of_its_own() -> None:
    engine = Dhcp(config())
    assert all(address(engine, n) for n in range(189))
    engine.on_link_down(1)
    assert leased(engine, range(1000, 1190)) == list(range(1000, 1189))


def test_a_link_with_its_part_takes_nothing_over_from_one_that_is_gone() -> None:
    engine = Dhcp(config())
    assert all(address(engine, n) for n in range(100))
    engine.on_link_down(1)
    given = [address(engine, n, link=2) for n in range(1000, 1189)]
    assert all(given)
    assert leased(engine, [99], link=2) == []
    # One that another client behind it needs no more makes room.
    release = message(dhcp.RELEASE, mac(1003), ciaddr=NETWORK + given[3])
    assert ignored(send(engine, release, link=2)) == "dhcp_release_accepted"
    assert leased(engine, [99], link=2) == [99]
    assert address(engine, 99, link=2) == 102
    assert address(engine, 500, link=3)


def test_a_state_file_that_fills_the_subnet_leaves_a_new_guest_addresses() -> None:
    engine = Dhcp(config())
    rows = [(NETWORK + n, mac(n), 3600.0 - n) for n in range(3, 254)]
    assert engine.restore(rows, 0.0) == 251
    engine.on_link_down(1)
    # The oldest leases make room, but a guest gets no more of them than it may have in any case.
    assert [address(engine, 900 + n, link=2, now=99.0) for n in range(9)] == [*range(253, 245, -1), 0]
    assert address(engine, 950, link=3, now=99.0) == 245
    # Clients that come back keep what they had. Those that lost it get another one when one expires.
    assert [address(engine, n, link=4, now=100.0) for n in (3, 200)] == [3, 200]
    assert address(engine, 253, link=5, now=100.0) == 244


def test_restored_leases_are_not_taken_while_an_address_is_free() -> None:
    engine = Dhcp(small())
    assert engine.restore([(NETWORK + n, mac(n), 100.0) for n in range(2, 5)], 0.0) == 3
    assert [address(engine, 9, link=2), address(engine, 4, link=3)] == [5, 4]
    assert address(engine, 10, link=4) == 2
    assert engine.leases()[NETWORK + 4] == mac(4)


def test_client_with_two_static_addresses_gets_the_lower_one() -> None:
    engine = Dhcp(config(dhcp_static_leases={NETWORK + 20: mac(1), NETWORK + 9: mac(1)}))
    assert address(engine, 1) == 9


def test_restored_leases_are_kept_and_senseless_ones_left_out() -> None:
    engine = Dhcp(config())
    assert [address(engine, n) for n in range(3)] == [3, 4, 5]
    send(engine, message(dhcp.RELEASE, mac(2), ciaddr=NETWORK + 5))
    rows = engine.export(600)
    assert rows == [(NETWORK + 3, mac(0), 3000.0), (NETWORK + 4, mac(1), 3000.0)]
    rows += [(HOST, mac(7), 1.0), (NETWORK, mac(8), 1.0), (NETWORK + 3, mac(9), 3500.0), (1, mac(9), 1.0)]
    rows += [(NETWORK + 50, GUEST_MAC, 1.0), (NETWORK + 51, b"short", 1.0)]
    after = Dhcp(config())
    assert after.restore(rows, 0) == 2
    assert [address(after, n) for n in (5, 1, 0)] == [5, 4, 3]


# --- BOOTP ------------------------------------------------------------------------------


def test_bootp_lease_has_no_end_while_its_link_is_there() -> None:
    engine = Dhcp(small())
    assert parsed(send(engine, bootp(0))).yiaddr == NETWORK + 2
    assert [address(engine, n) for n in (1, 2, 3)] == [3, 4, 5]
    years = 1e8
    assert address(engine, 0, dhcp.DISCOVER, now=years) == 2
    assert [address(engine, n, now=years) for n in (4, 5, 6, 7)] == [3, 4, 5, 0]
    engine.on_link_down(1)
    assert parsed(send(engine, bootp(9), link=2, now=years)).yiaddr == NETWORK + 3
    assert [address(engine, n, link=2, now=years) for n in (10, 11, 12)] == [4, 5, 2]


def test_bootp_clients_that_a_guest_makes_up_leave_addresses_to_the_others() -> None:
    engine = Dhcp(config())
    given = [n for n in range(400) if isinstance(send(engine, bootp(n)), Reply)]
    assert len(given) == 189
    assert ignored(send(engine, bootp(500))) == "dhcp_message_dropped_too_many_of_guest"
    assert all(address(engine, n, link=2) for n in range(1000, 1040))


def test_bootp_lease_is_kept_over_a_restart_for_an_hour_until_it_is_heard_again() -> None:
    engine = Dhcp(small())
    for n in range(4):
        send(engine, bootp(n))
    rows = engine.export(5e6)
    assert rows == [(NETWORK + 2 + n, mac(n), 3600.0) for n in range(4)]
    after = Dhcp(small())
    assert after.restore(rows, 0.0) == 4
    assert parsed(send(after, bootp(3), now=10.0)).yiaddr == NETWORK + 5
    assert [address(after, n, now=4000.0) for n in (10, 11, 12, 13)] == [2, 3, 4, 0]


def test_a_bootp_client_that_speaks_dhcp_later_has_one_lease_that_ends() -> None:
    engine = Dhcp(small())
    send(engine, bootp(1))
    assert address(engine, 1, now=10.0) == 2
    assert engine.export(10.0) == [(NETWORK + 2, mac(1), 3600.0)]
    assert engine.lease_count == 1


# --- hostile ------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from([dhcp.DISCOVER, dhcp.REQUEST, dhcp.RELEASE, dhcp.DECLINE]),
            st.integers(0, 7),
            st.integers(0, 7),
            st.sampled_from([0.0, 1.0, 61.0, 601.0, 3601.0]),
            st.integers(-3, 3),
        ),
        max_size=60,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_address_ever_has_two_holders(events: list[tuple[int, int, int, float, int]]) -> None:
    engine = Dhcp(small())
    now = 0.0
    for kind, client, last, wait, link in events:
        now += wait
        if link <= 0:
            engine.on_link_down(1 - link)
        wish = {dhcp.REQUESTED_ADDRESS: ip.ipv4_bytes(NETWORK + last)}
        outcome = send(
            engine, message(kind, mac(client), wish, ciaddr=NETWORK + last), now=now, link=abs(link) + 1
        )
        leases = engine.leases()
        assert len(set(leases.values())) == len(leases)
        assert all(NETWORK < addr < NETWORK + 6 for addr in leases)
        if isinstance(outcome, Reply):
            assert leases[parsed(outcome).yiaddr] == mac(client)
