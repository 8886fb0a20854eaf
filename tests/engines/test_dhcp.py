"""DHCP server: replies byte for byte, who gets which address, and what hostile clients cannot do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.counters import INDEX
from pipeline.engines import dhcp as server
from pipeline.engines.dhcp import Dhcp, DhcpConfig, Ignored, Reply
from pipeline.wire import dhcp
from pipeline.wire.ipv4 import addr_parse

GATEWAY = addr_parse("192.168.127.1")
GUEST = addr_parse("192.168.127.2")
HOST = addr_parse("192.168.127.254")
NETWORK = addr_parse("192.168.127.0")
GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
GUEST_MAC = bytes.fromhex("5a94efe40cee")
GOLDEN_OFFER_OPTIONS = "0104ffffff00 0304c0a87f01 0604c0a87f01 1a0205dc 330400000e10 350102 3604c0a87f01 ff"


def config(**changes: object) -> DhcpConfig:
    base = DhcpConfig(
        NETWORK, 24, GATEWAY, GATEWAY_MAC, 1500, static_leases={GUEST: GUEST_MAC}, reserved=frozenset({HOST})
    )
    return base._replace(**changes)  # type: ignore[arg-type]


def small(**changes: object) -> DhcpConfig:
    """A /29: .1 is the gateway, .6 the host, .7 broadcast; .2 to .5 are to be had."""
    return config(prefix_len=29, static_leases={}, reserved=frozenset({NETWORK + 6}), **changes)


def mac(n: int) -> bytes:
    return b"\x02\x00\x00" + n.to_bytes(3, "big")


def message(
    kind: int, chaddr: bytes = GUEST_MAC, options: dict[int, bytes] | None = None, **fields: int
) -> bytes:
    all_options = {dhcp.MESSAGE_TYPE: bytes((kind,)), **(options or {})}
    return dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, fields.pop("xid", 7), chaddr, all_options, **fields))


def send(
    engine: Dhcp, payload: bytes, guest_addr: int = 0, port: int = 68, now: float = 0.0, link: int = 1
) -> Reply | Ignored:
    return engine.on_message(payload, 0, len(payload), link, guest_addr, port, now)


def parsed(reply: Reply | Ignored) -> dhcp.Message:
    assert isinstance(reply, Reply), reply
    assert reply.counter in INDEX
    return dhcp.parse(reply.payload, 0, len(reply.payload))


def ignored(reply: Reply | Ignored) -> str:
    assert isinstance(reply, Ignored), reply
    assert reply.counter in INDEX
    return reply.counter


def address(engine: Dhcp, n: int, kind: int = dhcp.REQUEST, now: float = 0.0, link: int = 1) -> int:
    """Last number of the address that client n is given; 0 if there is no reply."""
    reply = send(engine, message(kind, mac(n)), now=now, link=link)
    return parsed(reply).yiaddr & 0xFF if isinstance(reply, Reply) else 0


# --- replies ------------------------------------------------------------------------------


def test_offer_has_the_golden_bytes() -> None:
    reply = send(Dhcp(config()), message(dhcp.DISCOVER, xid=0x12345678, flags=0x8000, secs=9, hops=3))
    assert isinstance(reply, Reply)
    expected = (
        "02010600 12345678 0000 8000 00000000 c0a87f02 00000000 00000000 5a94efe40cee"
        + "00" * 10
        + "00" * 192
    )
    payload = bytes.fromhex(expected) + bytes.fromhex("63825363") + bytes.fromhex(GOLDEN_OFFER_OPTIONS)
    assert reply.payload == payload.ljust(300, b"\0")


def test_ack_differs_from_the_offer_in_its_type_only() -> None:
    engine = Dhcp(config())
    offer, ack = send(engine, message(dhcp.DISCOVER)), send(engine, message(dhcp.REQUEST))
    assert isinstance(offer, Reply)
    assert isinstance(ack, Reply)
    assert offer.payload.replace(b"\x35\x01\x02", b"\x35\x01\x05") == ack.payload
    assert (offer.counter, ack.counter) == ("dhcp_offer_sent", "dhcp_ack_sent")


def test_all_options_stand_in_order_with_relay_information_last() -> None:
    engine = Dhcp(config(search_domains=("corp.example", "a.b.")))
    asked = {dhcp.CLIENT_ID: b"\x01abc", dhcp.RELAY_INFO: b"\x01\x02xy", dhcp.PARAMETER_LIST: b"\x01"}
    reply = parsed(send(engine, message(dhcp.DISCOVER, options=asked, giaddr=5)))
    assert list(reply.options) == [1, 3, 6, 26, 51, 53, 54, 61, 119, 82]
    assert reply.options[61] == b"\x01abc"
    assert reply.options[82] == b"\x01\x02xy"
    assert reply.options[119] == b"\x04corp\x07example\x00\x01a\x01b\x00"
    assert reply.giaddr == 5


@pytest.mark.parametrize(
    "mtu, option", [(1500, b"\x05\xdc"), (65520, b"\xff\xf0"), (65535, b"\xff\xff"), (65536, None), (0, None)]
)
def test_mtu_option_is_left_out_where_it_does_not_fit(mtu: int, option: bytes | None) -> None:
    assert parsed(send(Dhcp(config(mtu=mtu)), message(dhcp.DISCOVER))).options.get(26) == option


def test_overlong_search_list_keeps_the_first_domains() -> None:
    domains = tuple(f"{'x' * 60}{n:02}.example" for n in range(30))
    value = parsed(send(Dhcp(config(search_domains=domains)), message(dhcp.DISCOVER))).options[119]
    assert 0 < len(value) <= server.MAX_SEARCH_LIST
    assert value.startswith(b"\x3e" + domains[0].split(".")[0].encode())


def test_search_list_of_unusable_names_is_left_out() -> None:
    assert 119 not in parsed(send(Dhcp(config(search_domains=("", "a..b"))), message(dhcp.DISCOVER))).options


def test_overlong_echoed_options_are_left_out() -> None:
    options = {dhcp.CLIENT_ID: b"i" * 300, dhcp.RELAY_INFO: b"r" * 300}
    reply = parsed(send(Dhcp(config()), message(dhcp.DISCOVER, options=options)))
    assert not {61, 82} & set(reply.options)


@pytest.mark.parametrize(
    "source, destination", [(0, 0xFFFFFFFF), (GUEST, GUEST), (addr_parse("10.0.0.9"), addr_parse("10.0.0.9"))]
)
def test_reply_goes_to_the_source_or_to_all(source: int, destination: int) -> None:
    reply = send(Dhcp(config()), message(dhcp.REQUEST, ciaddr=source), source, 6800)
    assert isinstance(reply, Reply)
    assert (reply.guest_addr, reply.guest_port) == (destination, 6800)
    assert parsed(reply).ciaddr == 0


def test_requested_address_is_not_looked_at_and_never_refused() -> None:
    engine = Dhcp(config())
    wish = {dhcp.REQUESTED_ADDRESS: (NETWORK + 77).to_bytes(4, "big")}
    assert parsed(send(engine, message(dhcp.REQUEST, mac(1), wish))).yiaddr == NETWORK + 3


def test_inform_gets_the_parameters_without_a_lease() -> None:
    engine = Dhcp(config())
    reply = send(engine, message(dhcp.INFORM, mac(1), ciaddr=NETWORK + 9), NETWORK + 9)
    answer = parsed(reply)
    assert isinstance(reply, Reply)
    assert reply.guest_addr == NETWORK + 9
    assert (answer.kind, answer.yiaddr, answer.ciaddr) == (dhcp.ACK, 0, NETWORK + 9)
    assert list(answer.options) == [1, 3, 6, 26, 53, 54]
    assert mac(1) not in engine.leases().values()


# --- addresses ----------------------------------------------------------------------------


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


def decline(n: int, last: int) -> bytes:
    return message(dhcp.DECLINE, mac(n), {dhcp.REQUESTED_ADDRESS: (NETWORK + last).to_bytes(4, "big")})


def test_declined_address_is_given_to_nobody_for_a_while() -> None:
    engine = Dhcp(config())
    assert address(engine, 1) == 3
    assert ignored(send(engine, decline(1, 3))) == "dhcp_decline_accepted"
    assert [address(engine, n) for n in (1, 2)] == [4, 5]
    assert address(engine, 3, now=server.DECLINE_SECONDS) == 3


def test_decline_counts_only_from_the_holder() -> None:
    engine = Dhcp(config())
    assert address(engine, 1) == 3
    for payload in (decline(2, 3), decline(1, 4), message(dhcp.DECLINE, mac(1)), message(dhcp.DECLINE)):
        assert ignored(send(engine, payload)) == "dhcp_decline_dropped_not_holder"
    assert address(engine, 1) == 3


def test_declining_everything_does_not_use_up_the_subnet() -> None:
    engine = Dhcp(config(static_leases={}))
    for n in range(2000):
        last = address(engine, n)
        assert last
        assert ignored(send(engine, decline(n, last))) == "dhcp_decline_accepted"
    assert address(engine, 5000)


def test_table_is_bounded_in_a_large_subnet() -> None:
    engine = Dhcp(config(network=10 << 24, prefix_len=8, gateway_addr=(10 << 24) + 1, static_leases={}))
    for n in range(server.MAX_LEASES):
        assert send(engine, message(dhcp.REQUEST, mac(n)), link=n % 4).counter == "dhcp_ack_sent"
    assert (
        ignored(send(engine, message(dhcp.REQUEST, mac(70000)), link=5)) == "dhcp_message_dropped_no_address"
    )
    assert (
        parsed(send(engine, message(dhcp.REQUEST, mac(70000)), now=3600.0, link=5)).yiaddr == (10 << 24) + 2
    )
    assert len(engine.leases()) == server.MAX_LEASES + 1


def test_one_guest_that_makes_up_clients_leaves_addresses_to_the_others() -> None:
    engine = Dhcp(config())
    given = [n for n in range(300) if address(engine, n)]
    assert given == list(range(64))
    refused = send(engine, message(dhcp.DISCOVER, mac(400)))
    assert ignored(refused) == "dhcp_message_dropped_too_many_of_guest"
    assert all(address(engine, n, link=2) for n in range(500, 564))
    # Its own clients keep what they have, and the static lease is nobody's part.
    assert address(engine, 0) == 3
    assert parsed(send(engine, message(dhcp.REQUEST))).yiaddr == GUEST


def test_a_guest_of_a_small_subnet_may_have_eight_clients() -> None:
    engine = Dhcp(config(prefix_len=28, static_leases={}, reserved=frozenset()))
    assert [address(engine, n) for n in range(9)] == [*range(2, 10), 0]
    assert address(engine, 9, link=2) == 10


def test_a_guest_with_its_part_gets_what_its_own_clients_need_no_more() -> None:
    engine = Dhcp(config())
    assert address(engine, 100, link=2, now=0.0) == 3
    assert [address(engine, n, now=1.0) for n in range(64)] == list(range(4, 68))
    assert address(engine, 64, now=2.0) == 0
    release = message(dhcp.RELEASE, mac(9), ciaddr=NETWORK + 13)
    assert ignored(send(engine, release)) == "dhcp_release_accepted"
    assert address(engine, 64, now=2.0) == 13
    assert address(engine, 65, now=3600.0) == 0
    # Another guest's lease ran out before; it is not taken while addresses are free.
    assert address(engine, 65, now=3601.0) == 4
    assert address(engine, 100, link=2, now=3601.0) == 3


def test_a_declined_address_is_no_part_of_its_guests_leases_any_more() -> None:
    engine = Dhcp(config())
    assert all(address(engine, n) for n in range(64))
    assert ignored(send(engine, decline(5, 8))) == "dhcp_decline_accepted"
    assert address(engine, 64) == 67


def test_leases_of_a_guest_that_comes_back_by_another_link_count_there() -> None:
    engine = Dhcp(config())
    assert [address(engine, n) for n in range(64)] == list(range(3, 67))
    assert [address(engine, n, link=2) for n in range(64)] == list(range(3, 67))
    assert address(engine, 70, link=2) == 0
    assert address(engine, 71) == 67
    # A link that has its part takes over no more: two links together have two parts.
    assert address(engine, 71, link=2) == 67
    assert [address(engine, n) for n in range(100, 164)].count(0) == 1


def test_a_guest_that_reconnects_with_made_up_clients_leaves_addresses_to_the_next() -> None:
    engine = Dhcp(config())
    assert address(engine, 9000, link=9) == 3
    for link in range(1, 7):
        given = [address(engine, 1000 * link + n, now=float(link), link=link) for n in range(100)]
        assert all(given[:64])
        assert not any(given[64:])
        engine.on_link_down(link)
    assert all(address(engine, n, now=10.0, link=10) for n in range(64))
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
    assert all(address(engine, n) for n in range(64))
    engine.on_link_down(1)
    assert all(address(engine, n) for n in range(100, 164))
    assert address(engine, 164) == 0


def test_a_link_with_its_part_takes_nothing_over_from_one_that_is_gone() -> None:
    engine = Dhcp(config())
    assert all(address(engine, n) for n in range(64))
    engine.on_link_down(1)
    assert [address(engine, n, link=2) for n in range(100, 164)] == list(range(67, 131))
    back = send(engine, message(dhcp.REQUEST, mac(5)), link=2)
    assert ignored(back) == "dhcp_message_dropped_too_many_of_guest"
    # One that another client behind it needs no more makes room.
    assert (
        ignored(send(engine, message(dhcp.RELEASE, mac(103), ciaddr=NETWORK + 70))) == "dhcp_release_accepted"
    )
    assert address(engine, 5, link=2) == 8
    assert address(engine, 500, link=3) == 70


def test_restored_leases_are_no_leases_of_a_link_that_is_gone() -> None:
    engine = Dhcp(small())
    assert engine.restore([(NETWORK + n, mac(n), 100.0) for n in range(2, 6)], 0.0) == 4
    engine.on_link_down(1)
    assert address(engine, 9, link=2, now=99.0) == 0


def test_client_with_two_static_addresses_gets_the_lower_one() -> None:
    engine = Dhcp(config(static_leases={NETWORK + 20: mac(1), NETWORK + 9: mac(1)}))
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


# --- hostile ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload, counter",
    [
        (b"", "dhcp_message_dropped_truncated"),
        (message(dhcp.DISCOVER)[:239], "dhcp_message_dropped_truncated"),
        (bytes(300), "dhcp_message_dropped_bad_header"),
        (message(dhcp.DISCOVER)[:240] + b"\x35\xff\x01", "dhcp_message_dropped_bad_options"),
        (b"\x02" + message(dhcp.DISCOVER)[1:], "dhcp_message_ignored_not_request"),
        (message(dhcp.DISCOVER, b"\x02"), "dhcp_message_dropped_bad_chaddr"),
        (message(dhcp.DISCOVER, bytes(6)), "dhcp_message_dropped_bad_chaddr"),
        (message(dhcp.DISCOVER, b"\xff" * 6), "dhcp_message_dropped_bad_chaddr"),
        (message(dhcp.DISCOVER, htype=6), "dhcp_message_dropped_bad_chaddr"),
        (message(dhcp.DISCOVER, GATEWAY_MAC), "dhcp_message_dropped_gateway_mac"),
        (message(dhcp.ACK), "dhcp_message_ignored_unknown_type"),
        (message(99), "dhcp_message_ignored_unknown_type"),
        (message(1, options={dhcp.MESSAGE_TYPE: b""}), "dhcp_message_ignored_unknown_type"),
    ],
)
def test_malformed_and_senseless_messages_are_counted_and_leave_no_lease(
    payload: bytes, counter: str
) -> None:
    engine = Dhcp(config())
    before = engine.leases()
    assert ignored(send(engine, payload)) == counter
    assert engine.leases() == before


@given(st.binary(max_size=600), st.integers(0, 0xFFFFFFFF))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_answered_or_counted(payload: bytes, source: int) -> None:
    for data in (payload, message(dhcp.DISCOVER)[:240] + payload):
        outcome = send(Dhcp(config()), data, source)
        assert outcome.counter in INDEX
        if isinstance(outcome, Reply):
            parsed(outcome)


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
        wish = {dhcp.REQUESTED_ADDRESS: (NETWORK + last).to_bytes(4, "big")}
        outcome = send(
            engine, message(kind, mac(client), wish, ciaddr=NETWORK + last), now=now, link=abs(link) + 1
        )
        leases = engine.leases()
        assert len(set(leases.values())) == len(leases)
        assert all(NETWORK < addr < NETWORK + 6 for addr in leases)
        if isinstance(outcome, Reply):
            assert leases[parsed(outcome).yiaddr] == mac(client)
