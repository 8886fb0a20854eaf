"""Leases of DHCPv6: whose they are, which addresses they have, static ones, and those of a state file."""

import pytest

from pipeline.engines.dhcp import pool, server6
from pipeline.engines.dhcp.lease import Change
from pipeline.engines.dhcp.leases import LEAST_OF_A_GUEST
from pipeline.engines.dhcp.server6 import Dhcp6
from pipeline.wire import dhcpv6
from tests.support.dhcp6_clients import (
    ELSEWHERE,
    FIRST,
    GATEWAY,
    GATEWAY_MAC,
    IAID,
    LAST,
    NET,
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


@pytest.fixture
def engine() -> Dhcp6:
    return Dhcp6(Settings())


# --- whose lease it is ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [dhcpv6.RELEASE, dhcpv6.DECLINE])
def test_another_guest_cannot_end_a_lease_even_with_the_clients_duid_and_mac(
    engine: Dhcp6, kind: int
) -> None:
    addr = leased(engine, link=1)
    for other in (message(kind, 1, na(addr)), message(kind, 2, na(addr))):
        found = Answer(send(engine, other, link=2))
        assert found.ia.status == dhcpv6.NO_BINDING
    # Not even after it has asked for the lease in the client's name.
    assert leased(engine, link=2) == addr
    assert Answer(send(engine, message(kind, 1, na(addr)), link=2)).ia.status == dhcpv6.NO_BINDING
    assert [row[0] for row in engine.export(0.0)] == [addr]
    assert Answer(send(engine, message(kind, 1, na(addr)), link=1)).ias == []
    assert engine.export(0.0) == []


def test_a_guest_that_names_another_ones_duid_gets_an_address_of_its_own(engine: Dhcp6) -> None:
    addr = leased(engine, link=1)
    for kind in (dhcpv6.SOLICIT, dhcpv6.REQUEST, dhcpv6.RENEW, dhcpv6.REBIND):
        found = Answer(send(engine, message(kind, 1, na(addr)), link=2, mac=mac(2))).ia
        assert [each.addr for each in found.addresses if each.valid] != [addr]
    assert engine.leases()[addr] == mac(1)
    assert engine.sums() == {1: 1, 2: 1}


@pytest.mark.parametrize("kind", [dhcpv6.RELEASE, dhcpv6.DECLINE])
def test_a_client_ends_only_the_address_that_it_has(engine: Dhcp6, kind: int) -> None:
    mine, other = leased(engine), leased(engine, 2)
    outcome = send(engine, message(kind, 1, na(other)))
    assert outcome.changes == ()
    assert {row[0] for row in engine.export(0.0)} == {mine, other}


def test_a_declined_lease_of_another_mac_address_is_not_the_senders(engine: Dhcp6) -> None:
    addr = leased(engine)
    outcome = send(engine, message(dhcpv6.DECLINE, 1, na(addr)), mac=mac(9))
    assert outcome.changes == ()
    assert engine.leases()[addr] == mac(1)


# --- addresses ------------------------------------------------------------------------------------


def test_a_client_has_the_same_address_in_every_run_whoever_comes_first() -> None:
    first, second = Dhcp6(Settings()), Dhcp6(Settings())
    given = {n: leased(first, n) for n in range(1, 50)}
    assert given == {n: leased(second, n) for n in reversed(range(1, 50))}
    assert len(set(given.values())) == len(given)


def test_two_clients_with_one_first_choice_have_two_addresses(
    engine: Dhcp6, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server6, "crc32", lambda client: 0x12340042)
    assert [leased(engine, n) for n in (1, 2, 3)] == [FIRST | 0x42, FIRST | 1, FIRST | 2]


@pytest.mark.parametrize("number", [0, 0xFFFF])
def test_the_ends_of_the_pool_are_given_to_nobody(
    engine: Dhcp6, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(server6, "crc32", lambda client: number)
    assert leased(engine) == FIRST | 1


def test_one_guest_does_not_use_up_the_addresses_and_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_TAKEN", 16)
    engine = Dhcp6(Settings())
    outcomes = [send(engine, message(dhcpv6.REQUEST, n, na()), link=1, mac=mac(n)) for n in range(1, 20)]
    given = [Answer(outcome).addr for outcome in outcomes]
    count = len([addr for addr in given if addr])
    assert LEAST_OF_A_GUEST <= count < 16
    last = outcomes[-1]
    assert Answer(last).ia.status == dhcpv6.NO_ADDRS_AVAIL
    assert last.counters == ("dhcpv6_reply_sent", "dhcpv6_lease_refused_too_many_of_guest")
    refusal = Change("lease-refused", mac(19), 0, 0, reason="dhcpv6_lease_refused_too_many_of_guest")
    assert last.changes == (refusal,)
    assert leased(engine, 100, link=2)


def test_a_message_with_too_many_associations_is_dropped(engine: Dhcp6) -> None:
    most = [na(iaid=number) for number in range(server6.MAX_IAS)]
    assert len(ask(engine, dhcpv6.SOLICIT, 1, *most).ias) == server6.MAX_IAS
    outcome = send(engine, message(dhcpv6.SOLICIT, 1, *most, na(iaid=99)))
    assert refused(outcome) == "dhcpv6_message_dropped_too_many_ias"


def test_a_link_that_is_gone_leaves_the_lease_to_its_client(engine: Dhcp6) -> None:
    addr = leased(engine, link=1)
    assert engine.sums() == {1: 1}
    engine.on_link_down(1)
    assert engine.sums() == {}
    assert leased(engine, link=2) == addr


# --- static leases --------------------------------------------------------------------------------

STATIC = Settings(ipv6_mac_leases={NET | 0x77: mac(7), FIRST | 5: mac(8)})


def test_a_static_lease_is_that_of_a_mac_address_whatever_the_duid() -> None:
    engine = Dhcp6(STATIC)
    for client in (1, 2):
        assert Answer(send(engine, message(dhcpv6.REQUEST, client, na()), mac=mac(7))).addr == NET | 0x77
    assert engine.leases() == {GATEWAY: GATEWAY_MAC, NET | 0x77: mac(7), FIRST | 5: mac(8)}
    assert engine.lease_count == 2
    assert engine.export(0.0) == []


def test_a_second_association_beside_a_static_lease_gets_no_address() -> None:
    found = ask(Dhcp6(STATIC), dhcpv6.REQUEST, 7, na(), na(iaid=8))
    assert [ia.status for ia in found.ias] == [None, dhcpv6.NO_ADDRS_AVAIL]


@pytest.mark.parametrize("kind", [dhcpv6.RELEASE, dhcpv6.DECLINE])
def test_a_static_lease_stays(kind: int) -> None:
    engine = Dhcp6(STATIC)
    leased(engine, 7)
    outcome = send(engine, message(kind, 7, na(NET | 0x77)), mac=mac(7))
    assert (Answer(outcome).status, Answer(outcome).ias, outcome.changes) == (dhcpv6.SUCCESS, [], ())
    assert leased(engine, 7) == NET | 0x77


def test_a_static_address_of_the_pool_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server6, "crc32", lambda client: 5)
    assert leased(Dhcp6(STATIC)) == FIRST | 1


# --- static leases of DUIDs -----------------------------------------------------------------------

OF_DUID = NET | 0x66
DUIDS = Settings(
    ipv6_mac_leases={NET | 0x77: mac(7), NET | 0x88: mac(8)},
    ipv6_duid_leases={OF_DUID: duid(1), NET | 0x67: duid(7)},
)


def granted(engine: Dhcp6, n: int, sender: int, link: int, kind: int = dhcpv6.REQUEST) -> int:
    """The address for the client with the DUID duid(n), whose frames have the MAC address mac(sender)."""
    return Answer(send(engine, message(kind, n, na()), link=link, mac=mac(sender))).addr


def is_dynamic(addr: int) -> bool:
    return FIRST < addr < LAST


def test_a_static_lease_may_be_that_of_a_duid_whatever_the_mac_address() -> None:
    for sender in (1, 2):
        engine = Dhcp6(DUIDS)
        for kind in (dhcpv6.SOLICIT, dhcpv6.REQUEST, dhcpv6.RENEW, dhcpv6.REBIND):
            assert granted(engine, 1, sender, 1, kind) == OF_DUID
        assert engine.leases()[OF_DUID] == mac(sender)
    assert is_dynamic(granted(engine, 2, 1, 1))


def test_a_lease_of_a_duid_is_shown_only_while_a_client_has_it() -> None:
    engine = Dhcp6(DUIDS)
    of_macs = {GATEWAY: GATEWAY_MAC, NET | 0x77: mac(7), NET | 0x88: mac(8)}
    assert (engine.leases(), engine.lease_count) == (of_macs, 4)
    assert granted(engine, 1, 1, 1, dhcpv6.SOLICIT) == OF_DUID
    assert engine.leases() == of_macs
    assert granted(engine, 1, 1, 1) == OF_DUID
    assert (engine.leases(), engine.lease_count) == (of_macs | {OF_DUID: mac(1)}, 4)
    engine.on_link_down(1)
    assert engine.leases() == of_macs


def test_another_live_guest_that_names_a_duid_with_a_static_lease_gets_a_dynamic_address() -> None:
    engine = Dhcp6(DUIDS)
    assert granted(engine, 1, 1, 1) == OF_DUID
    for kind in (dhcpv6.SOLICIT, dhcpv6.REQUEST, dhcpv6.RENEW, dhcpv6.REBIND):
        for sender in (1, 2):
            assert is_dynamic(granted(engine, 1, sender, 2, kind))
    assert engine.leases()[OF_DUID] == mac(1)
    assert granted(engine, 1, 1, 1, dhcpv6.RENEW) == OF_DUID


def test_a_solicit_does_not_take_the_lease_of_a_duid_from_another_link() -> None:
    engine = Dhcp6(DUIDS)
    assert granted(engine, 1, 2, 2, dhcpv6.SOLICIT) == OF_DUID
    assert granted(engine, 1, 1, 1) == OF_DUID
    assert is_dynamic(granted(engine, 1, 2, 2))


def test_after_its_link_is_down_another_link_may_take_the_lease_of_a_duid() -> None:
    engine = Dhcp6(DUIDS)
    assert granted(engine, 1, 1, 1) == OF_DUID
    dynamic = granted(engine, 1, 2, 2)
    engine.on_link_down(2)
    assert is_dynamic(granted(engine, 1, 2, 3)), "the owner is still there"
    engine.on_link_down(1)
    found = Answer(send(engine, message(dhcpv6.RENEW, 1, na(dynamic)), link=3, mac=mac(2)))
    assert [(each.addr, each.valid > 0) for each in found.ia.addresses] == [(OF_DUID, True), (dynamic, False)]
    assert engine.leases()[OF_DUID] == mac(2)


def test_within_its_link_the_lease_of_a_duid_moves_to_another_mac_address() -> None:
    engine = Dhcp6(DUIDS)
    assert [granted(engine, 1, sender, 1) for sender in (1, 2)] == [OF_DUID, OF_DUID]
    assert engine.leases()[OF_DUID] == mac(2)


@pytest.mark.parametrize("kind", [dhcpv6.RELEASE, dhcpv6.DECLINE])
def test_only_its_link_gives_the_lease_of_a_duid_up(kind: int) -> None:
    engine = Dhcp6(DUIDS)
    assert granted(engine, 1, 1, 1) == OF_DUID
    for sender in (1, 2):
        refusal = send(engine, message(kind, 1, na(OF_DUID)), link=2, mac=mac(sender))
        assert Answer(refusal).ia.status == dhcpv6.NO_BINDING
        assert refusal.changes == ()
    assert send(engine, message(kind, 1, na(NET | 0x67)), link=1).changes == (), "another address"
    assert is_dynamic(granted(engine, 1, 2, 2))
    outcome = send(engine, message(kind, 1, na(OF_DUID)), link=1)
    name = "release" if kind == dhcpv6.RELEASE else "decline"
    assert outcome.changes == (Change(f"lease-{name}d", mac(1), OF_DUID, 0),)
    assert outcome.counters == ("dhcpv6_reply_sent", f"dhcpv6_{name}_accepted")
    assert OF_DUID not in engine.leases()
    # It still belongs to the DUID, and to no one else.
    assert granted(engine, 1, 2, 2) == OF_DUID


@pytest.mark.parametrize("kind", [dhcpv6.RELEASE, dhcpv6.DECLINE])
def test_a_dynamic_address_can_be_given_up_while_the_static_one_of_the_duid_is_free(kind: int) -> None:
    engine = Dhcp6(DUIDS)
    assert granted(engine, 1, 1, 1) == OF_DUID
    dynamic = granted(engine, 1, 2, 2)
    engine.on_link_down(1)
    outcome = send(engine, message(kind, 1, na(dynamic)), link=2, mac=mac(2))
    assert [change.addr for change in outcome.changes] == [dynamic]
    assert engine.export(0.0) == []


def test_the_lease_of_a_duid_wins_over_that_of_a_mac_address() -> None:
    engine = Dhcp6(DUIDS)
    assert granted(engine, 7, 7, 1) == NET | 0x67
    assert granted(engine, 2, 7, 1) == NET | 0x77
    # Over another link the DUID means nothing, and the MAC address counts.
    assert granted(engine, 7, 8, 2) == NET | 0x88


def test_a_second_association_beside_the_lease_of_a_duid_gets_no_address() -> None:
    found = ask(Dhcp6(DUIDS), dhcpv6.REQUEST, 1, na(), na(iaid=8))
    assert [ia.status for ia in found.ias] == [None, dhcpv6.NO_ADDRS_AVAIL]


def test_a_duid_with_two_static_leases_gets_the_lower_one() -> None:
    engine = Dhcp6(Settings(ipv6_duid_leases={NET | 0x99: duid(1), NET | 0x98: duid(1)}))
    assert granted(engine, 1, 1, 1) == NET | 0x98


def test_the_address_of_a_duid_in_the_pool_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server6, "crc32", lambda client: 5)
    engine = Dhcp6(Settings(ipv6_duid_leases={FIRST | 5: duid(9)}))
    assert (leased(engine), leased(engine, 9)) == (FIRST | 1, FIRST | 5)


def test_the_first_reply_of_a_link_gives_the_lease_of_a_duid_and_later_ones_renew_it() -> None:
    engine = Dhcp6(DUIDS)
    changes = [send(engine, message(dhcpv6.REQUEST, 1, na())).changes for _ in range(2)]
    assert changes == [
        (Change("lease-given", mac(1), OF_DUID, 3600),),
        (Change("lease-renewed", mac(1), OF_DUID, 3600),),
    ]


def test_the_state_file_has_no_static_lease_but_the_dynamic_one_of_a_copy_of_its_client() -> None:
    before = Dhcp6(DUIDS)
    assert granted(before, 1, 1, 1) == OF_DUID
    dynamic = granted(before, 1, 2, 2)
    assert [row[0] for row in before.export(0.0)] == [dynamic]
    engine = Dhcp6(DUIDS)
    assert engine.restore(before.export(0.0), 0.0) == 1
    assert granted(engine, 1, 1, 1) == OF_DUID
    assert granted(engine, 1, 2, 2) == dynamic


# --- the state file --------------------------------------------------------------------------------


def test_what_was_exported_is_taken_over_and_kept_for_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Dhcp6(Settings())
    given = [leased(engine, n) for n in (1, 2)]
    rows = engine.export(600.0)
    names = [mac(n) + IAID.to_bytes(4, "big") + duid(n) for n in (1, 2)]
    assert rows == [(addr, name, 3000.0) for addr, name in zip(given, names, strict=True)]
    monkeypatch.setattr(server6, "crc32", lambda client: given[0])
    again = Dhcp6(Settings())
    assert again.restore(rows, 0.0) == 2
    assert again.leases() == engine.leases()
    assert leased(again, 9) == FIRST | 1
    assert [leased(again, n) for n in (2, 1)] == given[::-1]


def test_rows_that_are_not_valid_any_more_are_left_out() -> None:
    engine = Dhcp6(Settings())
    leased(engine)
    ((addr, client, seconds),) = engine.export(0.0)
    bad = [
        (ELSEWHERE, client, seconds),
        (GATEWAY, client, seconds),
        (addr, client[:12], seconds),
        (addr, client + bytes(113), seconds),
        (addr, mac(7) + client[6:], seconds),
    ]
    again = Dhcp6(STATIC)
    assert again.restore(bad, 0.0) == 0
    assert again.restore([(addr, client, seconds)] * 2, 0.0) == 1
