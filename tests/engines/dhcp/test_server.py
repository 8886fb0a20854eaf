"""DHCP server: replies byte for byte, what each client takes, and what hostile clients cannot do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.counters import INDEX
from pipeline.engines.dhcp import server
from pipeline.engines.dhcp.server import Dhcp, Ignored, Reply
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
    ignored,
    mac,
    message,
    parsed,
    send,
    small,
)

GOLDEN_OFFER_OPTIONS = "0104ffffff00 0304c0a87f01 0604c0a87f01 1a0205dc 330400000e10 350102 3604c0a87f01 ff"


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
    engine = Dhcp(config(dns_search_domains=("corp.example", "a.b.")))
    asked = {dhcp.CLIENT_ID: b"\x01abc", dhcp.RELAY_INFO: b"\x01\x02xy", dhcp.PARAMETER_LIST: b"\x01\x77"}
    reply = parsed(send(engine, message(dhcp.DISCOVER, options=asked, giaddr=HOST)))
    assert list(reply.options) == [1, 3, 6, 26, 51, 53, 54, 61, 119, 82]
    assert reply.options[61] == b"\x01abc"
    assert reply.options[82] == b"\x01\x02xy"
    assert reply.options[119] == b"\x04corp\x07example\x00\x01a\x01b\x00"
    assert reply.giaddr == HOST


@pytest.mark.parametrize(
    "mtu, option", [(1500, b"\x05\xdc"), (65520, b"\xff\xf0"), (65535, b"\xff\xff"), (65536, None), (0, None)]
)
def test_mtu_option_is_left_out_where_it_does_not_fit(mtu: int, option: bytes | None) -> None:
    assert parsed(send(Dhcp(config(mtu=mtu)), message(dhcp.DISCOVER))).options.get(26) == option


SEARCHES = {dhcp.PARAMETER_LIST: bytes((1, 3, dhcp.DOMAIN_SEARCH))}
SIX_DOMAINS = tuple(f"{letter * 52}.example" for letter in "abcdef")


def datagram_len(reply: Reply | Ignored) -> int:
    """Bytes of the reply with its IP and UDP headers, as option 57 counts them."""
    assert isinstance(reply, Reply), reply
    return len(reply.payload) + 28


def names(message: dhcp.Message) -> list[str]:
    """The first labels of the search list's domains."""
    value, found = message.options.get(dhcp.DOMAIN_SEARCH, b""), []
    while value:
        end = value.index(0)
        found.append(value[1 : 1 + value[0]].decode())
        value = value[end + 1 :]
    return found


def test_overlong_search_list_keeps_the_first_domains() -> None:
    domains = tuple(f"{'x' * 60}{n:02}.example" for n in range(30))
    options = {**SEARCHES, dhcp.MAX_MESSAGE_SIZE: (1500).to_bytes(2, "big")}
    value = parsed(
        send(Dhcp(config(dns_search_domains=domains)), message(dhcp.DISCOVER, options=options))
    ).options[119]
    assert 0 < len(value) <= server.MAX_SEARCH_LIST
    assert value.startswith(b"\x3e" + domains[0].split(".")[0].encode())


def test_six_long_search_domains_leave_a_reply_that_every_client_takes() -> None:
    engine = Dhcp(config(dns_search_domains=SIX_DOMAINS))
    for kind in (dhcp.DISCOVER, dhcp.REQUEST, dhcp.INFORM):
        reply = send(engine, message(kind, options=SEARCHES))
        assert datagram_len(reply) <= 576
        assert names(parsed(reply)) == [name.split(".")[0] for name in SIX_DOMAINS[:4]]
        assert {dhcp.ROUTER, dhcp.DNS_SERVER, dhcp.SERVER_ID} <= set(parsed(reply).options)


@pytest.mark.parametrize(
    "size, count", [(0, 4), (300, 4), (576, 4), (610, 4), (680, 5), (1500, 6), (65535, 6)]
)
def test_reply_is_never_longer_than_the_client_takes(size: int, count: int) -> None:
    options = {**SEARCHES, dhcp.MAX_MESSAGE_SIZE: size.to_bytes(2, "big")}
    reply = send(Dhcp(config(dns_search_domains=SIX_DOMAINS)), message(dhcp.DISCOVER, options=options))
    assert datagram_len(reply) <= max(576, size)
    assert len(names(parsed(reply))) == count


def test_reply_is_never_longer_than_the_links_mtu() -> None:
    options = {**SEARCHES, dhcp.MAX_MESSAGE_SIZE: b"\xff\xff"}
    engine = Dhcp(config(dns_search_domains=SIX_DOMAINS, mtu=600))
    assert datagram_len(send(engine, message(dhcp.DISCOVER, options=options))) <= 600


@pytest.mark.parametrize("wishes", [None, b"", b"\x01\x03\x06\x0f"])
def test_search_list_is_sent_only_to_clients_that_ask_for_it(wishes: bytes | None) -> None:
    options = {} if wishes is None else {dhcp.PARAMETER_LIST: wishes}
    reply = parsed(
        send(Dhcp(config(dns_search_domains=("corp.example",))), message(dhcp.DISCOVER, options=options))
    )
    assert dhcp.DOMAIN_SEARCH not in reply.options


@given(
    st.lists(st.integers(1, 63), max_size=12),
    st.binary(max_size=300),
    st.binary(max_size=300),
    st.integers(0, 2000),
)
@settings(max_examples=100, deadline=None)
def test_no_options_of_a_client_make_the_reply_longer_than_it_takes(
    labels: list[int], client_id: bytes, relay_info: bytes, size: int
) -> None:
    engine = Dhcp(config(dns_search_domains=tuple(f"{'y' * length}.example" for length in labels)))
    options = {**SEARCHES, dhcp.CLIENT_ID: client_id, dhcp.RELAY_INFO: relay_info}
    options[dhcp.MAX_MESSAGE_SIZE] = size.to_bytes(2, "big")
    reply = send(engine, message(dhcp.REQUEST, options=options))
    assert datagram_len(reply) <= max(576, min(size, 1500))
    answer = parsed(reply)
    assert answer.yiaddr == GUEST
    assert answer.options[dhcp.LEASE_TIME] == (3600).to_bytes(4, "big")
    if 0 < len(client_id) <= 255:
        assert answer.options[dhcp.CLIENT_ID] == client_id


def test_search_list_of_unusable_names_is_left_out() -> None:
    engine = Dhcp(config(dns_search_domains=("", "a..b")))
    assert 119 not in parsed(send(engine, message(dhcp.DISCOVER, options=SEARCHES))).options


def test_one_unusable_name_does_not_cost_the_others() -> None:
    engine = Dhcp(config(dns_search_domains=("a..b", "ok.example")))
    assert names(parsed(send(engine, message(dhcp.DISCOVER, options=SEARCHES)))) == ["ok"]


def test_overlong_echoed_options_are_left_out() -> None:
    options = {dhcp.CLIENT_ID: b"i" * 300, dhcp.RELAY_INFO: b"r" * 300}
    reply = parsed(send(Dhcp(config()), message(dhcp.DISCOVER, options=options)))
    assert not {61, 82} & set(reply.options)


@pytest.mark.parametrize(
    "source, destination",
    [(ip.NOTHING, ip.BROADCAST), (GUEST, GUEST), (ip.parse_ipv4("10.0.0.9"), ip.parse_ipv4("10.0.0.9"))],
)
def test_reply_goes_to_the_source_or_to_all(source: int, destination: int) -> None:
    reply = send(Dhcp(config()), message(dhcp.REQUEST, ciaddr=source), source, 6800)
    assert isinstance(reply, Reply)
    assert (reply.guest_addr, reply.guest_port) == (destination, 6800)
    assert parsed(reply).ciaddr == 0


def test_requested_address_is_not_looked_at_and_never_refused() -> None:
    engine = Dhcp(config())
    wish = {dhcp.REQUESTED_ADDRESS: ip.ipv4_bytes(NETWORK + 77)}
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


# --- other servers, BOOTP ----------------------------------------------------------------


def chosen(n: int, addr: int, kind: int = dhcp.REQUEST, **fields: int) -> bytes:
    return message(kind, mac(n), {dhcp.SERVER_ID: ip.ipv4_bytes(addr)}, **fields)


def test_request_that_names_another_server_is_not_answered_and_frees_the_offer() -> None:
    engine = Dhcp(small())
    assert [address(engine, n, dhcp.DISCOVER) for n in range(4)] == [2, 3, 4, 5]
    assert ignored(send(engine, chosen(1, NETWORK + 6))) == "dhcp_message_ignored_other_server"
    assert address(engine, 9) == 3
    assert address(engine, 1) == 0


def test_request_that_names_this_server_is_answered() -> None:
    engine = Dhcp(config())
    assert parsed(send(engine, chosen(1, GATEWAY))).kind == dhcp.ACK


def test_request_that_names_another_server_takes_no_lease_that_is_confirmed() -> None:
    engine = Dhcp(small())
    assert [address(engine, n) for n in range(4)] == [2, 3, 4, 5]
    assert ignored(send(engine, chosen(1, HOST))) == "dhcp_message_ignored_other_server"
    assert address(engine, 9, now=10) == 0
    assert address(engine, 1, now=10) == 3


def test_request_in_anothers_name_does_not_free_its_offer() -> None:
    engine = Dhcp(small())
    assert [address(engine, n, dhcp.DISCOVER) for n in range(4)] == [2, 3, 4, 5]
    assert ignored(send(engine, chosen(1, HOST), link=2)) == "dhcp_message_ignored_other_server"
    assert address(engine, 9, link=2) == 0


@pytest.mark.parametrize("kind", [dhcp.RELEASE, dhcp.DECLINE])
def test_release_and_decline_for_another_server_leave_the_lease(kind: int) -> None:
    engine = Dhcp(small())
    assert address(engine, 1) == 2
    options = {
        dhcp.SERVER_ID: ip.ipv4_bytes(HOST),
        dhcp.REQUESTED_ADDRESS: ip.ipv4_bytes(NETWORK + 2),
    }
    payload = message(kind, mac(1), options, ciaddr=NETWORK + 2)
    assert ignored(send(engine, payload)) == "dhcp_message_ignored_other_server"
    assert engine.leases()[NETWORK + 2] == mac(1)
    assert len(engine.export(0.0)) == 1


@pytest.mark.parametrize("cookie", [True, False])
def test_plain_bootp_request_gets_a_bootp_reply(cookie: bool) -> None:
    engine = Dhcp(config(dns_search_domains=SIX_DOMAINS))
    reply = send(engine, bootp(1, cookie=cookie, secs=3))
    answer = parsed(reply)
    assert isinstance(reply, Reply)
    assert reply.counter == "dhcp_bootp_reply_sent"
    assert len(reply.payload) == 300
    assert (answer.op, answer.xid, answer.yiaddr, answer.siaddr) == (2, 7, NETWORK + 3, GATEWAY)
    # What only DHCP knows is not in it: 50 to 61 (RFC 1534 section 2).
    assert list(answer.options) == [1, 3, 6, 26]
    assert engine.leases()[NETWORK + 3] == mac(1)


def test_bootp_client_with_a_static_lease_gets_it() -> None:
    wire = dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, 7, GUEST_MAC, {}))
    assert parsed(send(Dhcp(config()), wire)).yiaddr == GUEST


def test_bootp_request_for_a_server_with_a_name_is_not_answered() -> None:
    engine = Dhcp(config())
    assert ignored(send(engine, bootp(1, sname=b"boot.example"))) == "dhcp_message_ignored_other_server"
    assert mac(1) not in engine.leases().values()


@pytest.mark.parametrize("length, echoed", [(20, True), (40, False)])
def test_bootp_reply_has_relay_information_if_it_stays_300_bytes_long(length: int, echoed: bool) -> None:
    options = {dhcp.RELAY_INFO: bytes(length)}
    wire = dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, 7, mac(1), options))
    reply = send(Dhcp(config()), wire)
    assert isinstance(reply, Reply)
    assert len(reply.payload) == 300
    assert (dhcp.RELAY_INFO in parsed(reply).options) == echoed


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
