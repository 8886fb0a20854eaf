"""The DHCP server in a fleet: it asks for each address, and gives no other one."""

from pipeline.engines.dhcp.fleet_leases import MAX_OF_A_GUEST
from pipeline.engines.dhcp.lease import LEASE_SECONDS, OFFER_SECONDS
from pipeline.engines.dhcp.server import Dhcp, Ignored, Reply, Wanted
from pipeline.wire import dhcp, ip
from tests.support.dhcp_clients import GUEST, NETWORK, bootp, config, mac, message


def server() -> Dhcp:
    return Dhcp(config(), fleet=True)


def send(engine: Dhcp, kind: int, n: int, now: float = 0.0, link: int = 1) -> Reply | Ignored | Wanted:
    wire = message(kind, mac(n))
    return engine.on_message(wire, 0, len(wire), link, 0, dhcp.CLIENT_PORT, now)


def served(
    engine: Dhcp, kind: int, n: int, last: int, seconds: float = 3600.0, now: float = 0.0, link: int = 1
) -> dhcp.Message:
    """The reply to a client for which the fleet has chosen NETWORK + last."""
    assert isinstance(send(engine, kind, n, now, link), Wanted)
    engine.granted(mac(n), NETWORK + last, seconds)
    reply = send(engine, kind, n, now, link)
    assert isinstance(reply, Reply)
    return dhcp.parse(reply.payload, 0, len(reply.payload))


def test_the_fleet_is_asked_for_each_message_and_for_how_long() -> None:
    engine = server()
    assert send(engine, dhcp.DISCOVER, 1) == Wanted(mac(1), OFFER_SECONDS)
    assert send(engine, dhcp.REQUEST, 1) == Wanted(mac(1), LEASE_SECONDS)
    assert served(engine, dhcp.DISCOVER, 1, 77).yiaddr == NETWORK + 77
    assert served(engine, dhcp.REQUEST, 1, 77).yiaddr == NETWORK + 77
    assert isinstance(send(engine, dhcp.REQUEST, 1), Wanted), "a renewal too"


def test_a_lease_is_no_longer_than_the_fleet_allows() -> None:
    reply = served(server(), dhcp.REQUEST, 1, 77, seconds=100.5)
    assert reply.options[dhcp.LEASE_TIME] == (100).to_bytes(4, "big")


def test_without_an_address_there_is_no_answer() -> None:
    engine = server()
    send(engine, dhcp.DISCOVER, 1)
    engine.granted(mac(1), 0, 0.0)
    refused = send(engine, dhcp.DISCOVER, 1)
    assert isinstance(refused, Ignored)
    assert refused.counter == "dhcp_message_dropped_no_address"


def test_an_answer_is_for_one_client_alone() -> None:
    engine = server()
    engine.granted(mac(1), NETWORK + 77, 3600.0)
    assert isinstance(send(engine, dhcp.REQUEST, 2), Wanted)
    assert isinstance(send(engine, dhcp.REQUEST, 1), Wanted)


def test_an_address_that_the_fleet_gives_to_another_client_leaves_the_first_one() -> None:
    engine = server()
    served(engine, dhcp.REQUEST, 1, 77)
    served(engine, dhcp.REQUEST, 2, 77)
    assert engine.leases()[NETWORK + 77] == mac(2)
    served(engine, dhcp.REQUEST, 2, 78)
    assert NETWORK + 77 not in engine.leases()
    assert engine.leases()[NETWORK + 78] == mac(2)


def test_static_clients_need_no_fleet() -> None:
    wire = message(dhcp.REQUEST)
    reply = server().on_message(wire, 0, len(wire), 1, 0, dhcp.CLIENT_PORT, 0.0)
    assert isinstance(reply, Reply)
    assert dhcp.parse(reply.payload, 0, len(reply.payload)).yiaddr == GUEST


def test_one_guest_cannot_use_up_the_pool_and_what_has_expired_does_not_count() -> None:
    engine = server()
    for n in range(MAX_OF_A_GUEST):
        served(engine, dhcp.REQUEST, n, 10 + n)
    refused = send(engine, dhcp.DISCOVER, 200)
    assert isinstance(refused, Ignored)
    assert refused.counter == "dhcp_message_dropped_too_many_of_guest"
    assert isinstance(send(engine, dhcp.REQUEST, 0), Wanted), "a client with a lease renews it"
    assert isinstance(send(engine, dhcp.DISCOVER, 200, link=2), Wanted), "another guest has its own share"
    assert isinstance(send(engine, dhcp.DISCOVER, 200, now=LEASE_SECONDS + 1.0), Wanted)


def test_bootp_has_no_lease_of_the_fleet() -> None:
    wire = bootp(5)
    refused = server().on_message(wire, 0, len(wire), 1, 0, dhcp.CLIENT_PORT, 0.0)
    assert isinstance(refused, Ignored)
    assert refused.counter == "dhcp_message_ignored_bootp_in_fleet"


def test_addresses_are_numbers_of_ip() -> None:
    assert ip.of_packed(ip.packed(GUEST)) == GUEST
    wide = ip.parse("fd00::1")
    assert ip.of_packed(ip.packed(wide)) == wide
