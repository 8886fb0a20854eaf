"""The DHCPv6 server: what RFC 8415 has it answer to each message, and what hostile clients cannot do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.dhcp import pool, server6
from pipeline.engines.dhcp.lease import LEASE_SECONDS, OFFER_SECONDS, Change
from pipeline.engines.dhcp.server6 import Dhcp6, Sender
from pipeline.wire import dhcpv6, ip
from pipeline.wire.dhcpv6 import Ia, IaAddress
from tests.support.dhcp6_clients import (
    ELSEWHERE,
    FIRST,
    GATEWAY,
    GATEWAY_MAC,
    IAID,
    LAST,
    NET,
    SERVER_DUID,
    Answer,
    Settings,
    ask,
    duid,
    leased,
    mac,
    message,
    na,
    refused,
    send,
)
from tests.support.fuzz import mutations

RAPID = ((dhcpv6.RAPID_COMMIT, b""),)
TA, PD = Ia(dhcpv6.IA_TA, 8), Ia(dhcpv6.IA_PD, 9)
FOR_ANY = (dhcpv6.SOLICIT, dhcpv6.CONFIRM, dhcpv6.REBIND, dhcpv6.INFORMATION_REQUEST)
FOR_ONE = (dhcpv6.REQUEST, dhcpv6.RENEW, dhcpv6.RELEASE, dhcpv6.DECLINE)
OTHER_SERVER = bytes.fromhex("00030001020000000099")


def wanting(*codes: int) -> tuple[tuple[int, bytes], ...]:
    """The option that requests these."""
    return ((dhcpv6.ORO, b"".join(code.to_bytes(2, "big") for code in codes)),)


@pytest.fixture
def engine() -> Dhcp6:
    return Dhcp6(Settings())


# --- section 16: messages that must be discarded --------------------------------------------------


@pytest.mark.parametrize("kind", [*FOR_ANY, *FOR_ONE])
def test_section_16_a_message_without_a_client_identifier(engine: Dhcp6, kind: int) -> None:
    outcome = send(engine, message(kind, 0, *(() if kind == dhcpv6.INFORMATION_REQUEST else (na(),))))
    if kind == dhcpv6.INFORMATION_REQUEST:
        # Section 18.3.6: then there is none in the answer.
        assert Answer(outcome).option(dhcpv6.CLIENT_ID) is None
    else:
        assert refused(outcome) == "dhcpv6_message_dropped_no_client_id"


@pytest.mark.parametrize("kind", FOR_ONE)
def test_section_16_a_message_for_one_server_that_does_not_name_it(engine: Dhcp6, kind: int) -> None:
    outcome = send(engine, message(kind, 1, na(), server=b""))
    assert refused(outcome) == "dhcpv6_message_dropped_no_server_id"


@pytest.mark.parametrize("kind", FOR_ONE)
def test_section_16_a_message_for_another_server(engine: Dhcp6, kind: int) -> None:
    addr = leased(engine)
    outcome = send(engine, message(kind, 1, na(addr), server=OTHER_SERVER))
    assert refused(outcome) == "dhcpv6_message_ignored_other_server"
    assert engine.leases()[addr] == mac(1)


@pytest.mark.parametrize("kind", [dhcpv6.SOLICIT, dhcpv6.CONFIRM, dhcpv6.REBIND])
def test_sections_16_2_16_5_and_16_7_a_message_for_all_servers_that_names_one(
    engine: Dhcp6, kind: int
) -> None:
    outcome = send(engine, message(kind, 1, na(), server=SERVER_DUID))
    assert refused(outcome) == "dhcpv6_message_dropped_with_server_id"


@pytest.mark.parametrize("kind", FOR_ANY)
def test_section_16_a_message_for_all_servers_that_is_not_multicast(engine: Dhcp6, kind: int) -> None:
    outcome = send(
        engine, message(kind, 1, *(() if kind == dhcpv6.INFORMATION_REQUEST else (na(),))), unicast=True
    )
    assert refused(outcome) == "dhcpv6_message_dropped_unicast"


@pytest.mark.parametrize("kind", [dhcpv6.ADVERTISE, dhcpv6.REPLY, dhcpv6.RECONFIGURE])
def test_sections_16_3_16_10_and_16_11_messages_of_servers(engine: Dhcp6, kind: int) -> None:
    assert refused(send(engine, message(kind, 1, na()))) == "dhcpv6_message_ignored_not_request"


@pytest.mark.parametrize("ia", [na(), TA, PD])
def test_section_16_12_an_information_request_with_an_association(engine: Dhcp6, ia: Ia) -> None:
    outcome = send(engine, message(dhcpv6.INFORMATION_REQUEST, 1, ia))
    assert refused(outcome) == "dhcpv6_message_dropped_with_ia"


def test_section_16_12_an_information_request_may_name_this_server_and_no_other(engine: Dhcp6) -> None:
    kind = dhcpv6.INFORMATION_REQUEST
    assert Answer(send(engine, message(kind, 1, server=SERVER_DUID))).kind == dhcpv6.REPLY
    outcome = send(engine, message(kind, 1, server=OTHER_SERVER))
    assert refused(outcome) == "dhcpv6_message_ignored_other_server"


@pytest.mark.parametrize("kind", [0, 14, 36, 255])
def test_section_16_messages_of_an_unknown_type(engine: Dhcp6, kind: int) -> None:
    assert refused(send(engine, message(kind, 1, na()))) == "dhcpv6_message_ignored_unknown_type"


@pytest.mark.parametrize("kind", [dhcpv6.RELAY_FORW, dhcpv6.RELAY_REPL])
def test_messages_of_relay_agents_are_dropped(engine: Dhcp6, kind: int) -> None:
    assert refused(send(engine, bytes((kind, 0)) + bytes(40))) == "dhcpv6_message_dropped_relay"


# --- sections 18.3.1 and 18.3.9: Solicit and Advertise --------------------------------------------


def test_section_18_3_9_an_advertise_has_both_duids_the_transaction_and_an_address(engine: Dhcp6) -> None:
    outcome = send(engine, message(dhcpv6.SOLICIT, 1, na(), xid=0x123456))
    found = Answer(outcome)
    assert (found.kind, found.message.xid) == (dhcpv6.ADVERTISE, 0x123456)
    assert found.option(dhcpv6.CLIENT_ID) == duid(1)
    assert found.option(dhcpv6.SERVER_ID) == SERVER_DUID
    assert found.option(dhcpv6.PREFERENCE) == b"\xff"
    assert found.option(dhcpv6.RAPID_COMMIT) is None
    assert found.ia.iaid == IAID
    assert FIRST < found.addr < LAST
    assert outcome.counters == ("dhcpv6_advertise_sent",)
    assert outcome.changes == ()


def test_section_21_4_lifetimes_are_those_of_the_lease_and_t1_and_t2_are_its_half_and_four_fifths(
    engine: Dhcp6,
) -> None:
    for kind in (dhcpv6.SOLICIT, dhcpv6.REQUEST, dhcpv6.RENEW, dhcpv6.REBIND):
        ia = ask(engine, kind).ia
        assert (ia.t1, ia.t2) == (1800, 2880)
        (address,) = ia.addresses
        assert (address.preferred, address.valid) == (3600, 3600)
        assert ia.status is None


def test_an_offer_lapses_and_a_lease_does_not() -> None:
    engine = Dhcp6(Settings())
    ask(engine, dhcpv6.SOLICIT, 1)
    assert engine.export(0.0) == []
    addr = leased(engine, 2)
    assert [row[0] for row in engine.export(OFFER_SECONDS)] == [addr]


def test_section_18_3_1_with_rapid_commit_the_address_is_given_at_once(engine: Dhcp6) -> None:
    outcome = send(engine, message(dhcpv6.SOLICIT, 1, na(), options=RAPID))
    found = Answer(outcome)
    assert (found.kind, found.option(dhcpv6.RAPID_COMMIT)) == (dhcpv6.REPLY, b"")
    assert outcome.counters == ("dhcpv6_reply_sent",)
    assert outcome.changes == (Change("lease-given", mac(1), found.addr, 3600),)
    assert [row[0] for row in engine.export(0.0)] == [found.addr]


def test_section_18_3_9_there_are_no_temporary_addresses_and_no_prefixes(engine: Dhcp6) -> None:
    for kind in (dhcpv6.SOLICIT, dhcpv6.REQUEST):
        found = {ia.code: ia for ia in ask(engine, kind, 1, na(), TA, PD).ias}
        assert found[dhcpv6.IA_NA].addresses
        assert (found[dhcpv6.IA_TA].iaid, found[dhcpv6.IA_TA].status) == (8, dhcpv6.NO_ADDRS_AVAIL)
        assert (found[dhcpv6.IA_PD].iaid, found[dhcpv6.IA_PD].status) == (9, dhcpv6.NO_PREFIX_AVAIL)


def test_addresses_that_a_client_wishes_are_ignored(engine: Dhcp6) -> None:
    wish = NET | 0x1_0005
    found = ask(engine, dhcpv6.SOLICIT, 1, na(wish))
    assert [each.addr for each in found.ia.addresses] == [found.addr]
    assert found.addr == ask(Dhcp6(Settings()), dhcpv6.SOLICIT).addr != wish


# --- section 18.3.2: Request ----------------------------------------------------------------------


def test_section_18_3_2_a_request_gets_the_address_that_was_offered(engine: Dhcp6) -> None:
    offered = ask(engine, dhcpv6.SOLICIT).addr
    outcome = send(engine, message(dhcpv6.REQUEST, 1, na(offered)))
    found = Answer(outcome)
    assert (found.kind, found.addr) == (dhcpv6.REPLY, offered)
    assert outcome.counters == ("dhcpv6_reply_sent",)
    assert outcome.changes == (Change("lease-given", mac(1), offered, 3600),)


def test_section_18_3_2_an_address_of_another_link_is_not_on_link(engine: Dhcp6) -> None:
    found = ask(engine, dhcpv6.REQUEST, 1, na(ELSEWHERE), na(iaid=8))
    assert [(ia.iaid, ia.status) for ia in found.ias] == [(IAID, dhcpv6.NOT_ON_LINK), (8, None)]
    assert found.ias[0].addresses == ()
    assert len(engine.export(0.0)) == 1


def test_each_association_of_a_client_has_an_address_of_its_own(engine: Dhcp6) -> None:
    found = ask(engine, dhcpv6.REQUEST, 1, na(), na(iaid=8), na(iaid=9))
    given = [each.addr for ia in found.ias for each in ia.addresses]
    assert len(set(given)) == 3
    assert ask(engine, dhcpv6.RENEW, 1, na(iaid=8)).addr == given[1]


def test_an_association_that_occurs_twice_is_answered_once(engine: Dhcp6) -> None:
    outcome = send(engine, message(dhcpv6.REQUEST, 1, na(), na()))
    assert len(Answer(outcome).ias) == len(outcome.changes) == 1


def test_clients_with_one_mac_address_are_told_apart_by_their_duids(engine: Dhcp6) -> None:
    given = [Answer(send(engine, message(dhcpv6.REQUEST, n, na()))).addr for n in (1, 2)]
    assert len(set(given)) == 2
    assert engine.leases() == {GATEWAY: GATEWAY_MAC, given[0]: mac(1), given[1]: mac(1)}


# --- section 18.4: unicast ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FOR_ONE)
def test_section_18_4_a_client_that_uses_unicast_is_told_to_use_multicast(engine: Dhcp6, kind: int) -> None:
    addr = leased(engine)
    outcome = send(engine, message(kind, 1, na(addr)), unicast=True)
    found = Answer(outcome)
    assert [code for code, _ in found.message.options] == [
        dhcpv6.CLIENT_ID,
        dhcpv6.SERVER_ID,
        dhcpv6.STATUS_CODE,
    ]
    assert found.status == dhcpv6.USE_MULTICAST
    assert outcome.changes == ()
    assert engine.leases()[addr] == mac(1)


# --- section 18.3.3: Confirm ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "status"),
    [
        ((NET | 0x1_0005,), dhcpv6.SUCCESS),
        ((NET | 0xAAAA_0001, NET | 5), dhcpv6.SUCCESS),
        ((ELSEWHERE,), dhcpv6.NOT_ON_LINK),
        ((NET | 5, ELSEWHERE), dhcpv6.NOT_ON_LINK),
        ((ip.parse("fe80::5"),), dhcpv6.NOT_ON_LINK),
    ],
)
def test_section_18_3_3_a_confirm_is_told_whether_its_addresses_are_of_the_link(
    engine: Dhcp6, addresses: tuple[int, ...], status: int
) -> None:
    found = ask(engine, dhcpv6.CONFIRM, 1, na(*addresses))
    assert (found.kind, found.status, found.ias) == (dhcpv6.REPLY, status, [])
    assert engine.export(0.0) == []


def test_section_18_3_3_a_confirm_without_addresses_gets_no_reply(engine: Dhcp6) -> None:
    for ias in ((), (na(),), (PD,)):
        outcome = send(engine, message(dhcpv6.CONFIRM, 1, *ias))
        assert refused(outcome) == "dhcpv6_message_dropped_nothing_to_confirm"


# --- sections 18.3.4 and 18.3.5: Renew and Rebind -------------------------------------------------

RENEWALS = pytest.mark.parametrize("kind", [dhcpv6.RENEW, dhcpv6.REBIND])


@RENEWALS
def test_sections_18_3_4_and_18_3_5_a_lease_gets_new_lifetimes(engine: Dhcp6, kind: int) -> None:
    addr = leased(engine)
    outcome = send(engine, message(kind, 1, na(addr)), 1800.0)
    assert Answer(outcome).ia.addresses == (IaAddress(addr, 3600, 3600),)
    assert outcome.changes == (Change("lease-renewed", mac(1), addr, 3600),)
    assert [row[2] for row in engine.export(1800.0)] == [LEASE_SECONDS]


@RENEWALS
def test_sections_18_3_4_and_18_3_5_addresses_that_are_not_the_clients_come_back_without_lifetimes(
    engine: Dhcp6, kind: int
) -> None:
    addr, other = leased(engine), leased(engine, 2)
    found = ask(engine, kind, 1, na(other, addr, ELSEWHERE)).ia
    assert found.addresses == (
        IaAddress(addr, 3600, 3600),
        IaAddress(other, 0, 0),
        IaAddress(ELSEWHERE, 0, 0),
    )


@RENEWALS
def test_sections_18_3_4_and_18_3_5_a_client_of_an_earlier_run_gets_a_binding_and_the_same_address(
    engine: Dhcp6, kind: int
) -> None:
    addr = leased(engine)
    again = Dhcp6(Settings())
    outcome = send(again, message(kind, 1, na(addr)))
    assert Answer(outcome).ia.addresses == (IaAddress(addr, 3600, 3600),)
    assert outcome.changes[0].kind == "lease-given"


@RENEWALS
def test_sections_18_3_4_and_18_3_5_other_associations_have_no_binding(engine: Dhcp6, kind: int) -> None:
    found = ask(engine, kind, 1, TA, PD)
    assert [(ia.code, ia.status) for ia in found.ias] == [
        (dhcpv6.IA_TA, dhcpv6.NO_BINDING),
        (dhcpv6.IA_PD, dhcpv6.NO_BINDING),
    ]


# --- section 18.3.6: Information-request ----------------------------------------------------------


def test_section_18_3_6_an_information_request_gets_what_it_requests_and_no_address() -> None:
    engine = Dhcp6(Settings(dns_search_domains=("corp.example",)))
    options = wanting(dhcpv6.DNS_SERVERS, dhcpv6.DOMAIN_LIST, dhcpv6.INFORMATION_REFRESH_TIME, 82)
    found = Answer(send(engine, message(dhcpv6.INFORMATION_REQUEST, 1, options=options)))
    assert found.kind == dhcpv6.REPLY
    assert [code for code, _ in found.message.options] == [1, 2, 23, 24, 32]
    assert found.option(dhcpv6.INFORMATION_REFRESH_TIME) == (1800).to_bytes(4, "big")
    assert engine.export(0.0) == []


# --- options that clients request -----------------------------------------------------------------


def test_rfc_3646_the_name_server_and_the_search_list_are_sent_to_clients_that_request_them() -> None:
    engine = Dhcp6(Settings(dns_search_domains=("corp.example", "a.b.", "b..c")))
    options = wanting(dhcpv6.DNS_SERVERS, dhcpv6.DOMAIN_LIST)
    for kind in (dhcpv6.SOLICIT, dhcpv6.REQUEST, dhcpv6.RENEW, dhcpv6.REBIND):
        found = Answer(send(engine, message(kind, 1, na(), options=options)))
        assert found.option(dhcpv6.DNS_SERVERS) == GATEWAY.to_bytes(16, "big")
        assert found.option(dhcpv6.DOMAIN_LIST) == b"\x04corp\x07example\x00\x01a\x01b\x00"
        plain = ask(engine, kind)
        assert plain.option(dhcpv6.DNS_SERVERS) is plain.option(dhcpv6.DOMAIN_LIST) is None


def test_a_name_server_with_an_address_of_its_own_is_named() -> None:
    engine = Dhcp6(Settings(), name_server=GATEWAY + 2)
    options = wanting(dhcpv6.DNS_SERVERS)
    found = Answer(send(engine, message(dhcpv6.INFORMATION_REQUEST, 1, options=options)))
    assert found.option(dhcpv6.DNS_SERVERS) == (GATEWAY + 2).to_bytes(16, "big")


def test_without_a_name_server_none_is_named() -> None:
    options = wanting(dhcpv6.DNS_SERVERS, dhcpv6.DOMAIN_LIST)
    for engine in (Dhcp6(Settings(), has_dns=False), Dhcp6(Settings(), has_dns=True)):
        found = Answer(send(engine, message(dhcpv6.INFORMATION_REQUEST, 1, options=options)))
        assert found.option(dhcpv6.DOMAIN_LIST) is None
    assert found.option(dhcpv6.DNS_SERVERS) is not None


def test_a_changed_search_list_reaches_clients_with_their_next_message(engine: Dhcp6) -> None:
    payload = message(dhcpv6.RENEW, 1, na(), options=wanting(dhcpv6.DOMAIN_LIST))
    assert Answer(send(engine, payload)).option(dhcpv6.DOMAIN_LIST) is None
    engine.set_search_domains(("new.example",))
    assert Answer(send(engine, payload)).option(dhcpv6.DOMAIN_LIST) == b"\x03new\x07example\x00"


def test_a_search_list_without_end_leaves_a_reply_of_one_packet() -> None:
    engine = Dhcp6(Settings(dns_search_domains=tuple(f"{number:050}.example" for number in range(100))))
    options = wanting(dhcpv6.DNS_SERVERS, dhcpv6.DOMAIN_LIST)
    outcome = send(engine, message(dhcpv6.REQUEST, 1, na(), options=options))
    value = Answer(outcome).option(dhcpv6.DOMAIN_LIST)
    assert value is not None
    assert server6.MAX_SEARCH_LIST - 60 < len(value) <= server6.MAX_SEARCH_LIST
    assert len(outcome.payload) + 48 <= 1280


# --- section 18.3.7: Release ----------------------------------------------------------------------


def test_section_18_3_7_a_release_ends_the_lease_and_gets_success(engine: Dhcp6) -> None:
    addr = leased(engine)
    outcome = send(engine, message(dhcpv6.RELEASE, 1, na(addr)))
    found = Answer(outcome)
    assert (found.kind, found.status, found.ias) == (dhcpv6.REPLY, dhcpv6.SUCCESS, [])
    assert outcome.counters == ("dhcpv6_reply_sent", "dhcpv6_release_accepted")
    assert outcome.changes == (Change("lease-released", mac(1), addr, 0),)
    assert engine.export(0.0) == []


def test_section_18_3_7_associations_without_a_binding_come_back_with_that_status(engine: Dhcp6) -> None:
    addr = leased(engine)
    found = ask(engine, dhcpv6.RELEASE, 1, na(addr), na(addr, iaid=8), PD)
    assert found.status == dhcpv6.SUCCESS
    assert [(ia.code, ia.iaid, ia.status, ia.addresses) for ia in found.ias] == [
        (dhcpv6.IA_NA, 8, dhcpv6.NO_BINDING, ()),
        (dhcpv6.IA_PD, 9, dhcpv6.NO_BINDING, ()),
    ]
    again = ask(engine, dhcpv6.RELEASE, 1, na(addr))
    assert again.ia.status == dhcpv6.NO_BINDING


def test_a_released_address_returns_to_its_client(engine: Dhcp6) -> None:
    addr = leased(engine)
    ask(engine, dhcpv6.RELEASE, 1, na(addr))
    assert leased(engine, now=10.0) == addr


# --- section 18.3.8: Decline ----------------------------------------------------------------------


def test_section_18_3_8_a_declined_address_is_given_to_nobody_for_a_while(engine: Dhcp6) -> None:
    addr = leased(engine)
    outcome = send(engine, message(dhcpv6.DECLINE, 1, na(addr)))
    found = Answer(outcome)
    assert (found.status, found.ias) == (dhcpv6.SUCCESS, [])
    assert outcome.counters == ("dhcpv6_reply_sent", "dhcpv6_decline_accepted")
    assert outcome.changes == (Change("lease-declined", mac(1), addr, 0),)
    other = leased(engine, now=1.0)
    assert other not in (0, addr)
    ask(engine, dhcpv6.DECLINE, 1, na(other), now=2.0)
    assert leased(engine, now=pool.DECLINE_SECONDS) == addr


def test_section_18_3_8_an_association_without_a_binding_has_that_status(engine: Dhcp6) -> None:
    outcome = send(engine, message(dhcpv6.DECLINE, 1, na(NET | 0x1_0005)))
    assert Answer(outcome).ia.status == dhcpv6.NO_BINDING
    assert outcome.counters == ("dhcpv6_reply_sent", "dhcpv6_decline_dropped_not_holder")


# --- hostile bytes --------------------------------------------------------------------------------

VALID = message(dhcpv6.REQUEST, 1, na(NET | 5), TA, PD, options=(*RAPID, *wanting(23, 24)))


@given(st.lists(st.tuples(st.integers(0, 255), mutations(VALID)), max_size=8))
@settings(max_examples=100, deadline=None)
def test_no_message_raises_or_is_left_without_a_counter(attempts: list[tuple[int, bytes]]) -> None:
    engine = Dhcp6(Settings())
    for kind, data in attempts:
        for payload in (data, bytes((kind,)) + data[1:], bytes((kind % 12,)) + data[1:]):
            outcome = send(engine, payload)
            assert outcome.counters
    assert all(addr >> 16 == FIRST >> 16 for addr, _, _ in engine.export(0.0))


def test_a_message_outside_of_its_buffer_is_truncated(engine: Dhcp6) -> None:
    outcome = engine.on_message(VALID, 0, len(VALID) + 1, Sender(1, mac(1)), 0.0)
    assert refused(outcome) == "dhcpv6_message_dropped_truncated"
