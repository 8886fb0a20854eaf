"""Addresses given by DHCP: nobody else gets one before its holder has spoken."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.counters import INDEX
from pipeline.engines.neighbors.addresses import GuestAddresses
from pipeline.engines.neighbors.table import Neighbors
from pipeline.engines.switch import Switch
from pipeline.ipc.arena import SLOT_BYTES
from pipeline.records.guests import Leased
from pipeline.records.services import ServiceDatagram
from pipeline.stages.demux.leases import LeaseHolders
from pipeline.wire import dhcp, ip
from pipeline.wire.errors import WireError

ADDR = ip.parse_ipv4("192.168.127.5")
GATEWAY = ip.parse_ipv4("192.168.127.1")
GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
HOLDER = bytes.fromhex("5a94efe40c05")
NO_KEY = bytes(12)
THIEF = bytes.fromhex("5a94efe40c66")


class Rig:
    """The engines of demux that know addresses; the resolver by hand."""

    def __init__(self, max_per_guest: int = 10, *, learns: bool = True) -> None:
        self.slot = memoryview(bytearray(SLOT_BYTES))
        self.counts = [0] * len(INDEX)
        self.neighbors = Neighbors(
            GuestAddresses(ip.parse_ipv4("192.168.127.0"), 24, [GATEWAY]),
            GATEWAY_MAC,
            max_per_guest=max_per_guest,
        )
        self.switch = Switch(GATEWAY_MAC)
        ports = SimpleNamespace(arena=SimpleNamespace(slots=[self.slot]))
        worker: Any = SimpleNamespace(ports=ports, counts=self.counts)
        self.holders = LeaseHolders(worker, self.neighbors, self.switch, learns=learns)

    def seen(self, mac: bytes, link: int) -> None:
        """The switch sees a frame."""
        self.switch.on_frame(b"\xff" * 6, mac, link, 0.0)

    def answer(self, kind: int, mac: bytes, link: int, addr: int = ADDR) -> None:
        """The server answers a client."""
        message = dhcp.Message(dhcp.BOOT_REPLY, 1, mac, {dhcp.MESSAGE_TYPE: bytes((kind,))}, yiaddr=addr)
        payload = dhcp.build(message)
        self.slot[1000 : 1000 + len(payload)] = payload
        self.holders.on_answer(ServiceDatagram(link, NO_KEY, 0, 1000, len(payload)), 0.0)

    def owner(self, addr: int = ADDR) -> tuple[bytes, int] | None:
        return self.neighbors.snapshot().get(addr)


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.seen(HOLDER, 1)
    rig.seen(THIEF, 2)
    return rig


def test_an_address_that_its_holder_has_not_used_yet_cannot_be_claimed_first(rig: Rig) -> None:
    rig.answer(dhcp.ACK, HOLDER, 1)
    with pytest.raises(WireError, match="address_taken"):
        rig.neighbors.learn(ADDR, THIEF, 2, 1.0)
    assert rig.owner() == (HOLDER, 1)
    rig.neighbors.learn(ADDR, HOLDER, 1, 2.0)
    assert rig.owner() == (HOLDER, 1)


def test_a_holder_that_never_comes_loses_the_address_to_who_uses_it(rig: Rig) -> None:
    rig.answer(dhcp.ACK, HOLDER, 1)
    with pytest.raises(WireError):
        rig.neighbors.learn(ADDR, THIEF, 2, 1.0)
    for half in (3, 4):
        rig.neighbors.on_timer(half / 2)
    assert rig.owner() == (THIEF, 2)


def test_a_client_that_changed_its_mac_has_its_lease_at_once(rig: Rig) -> None:
    rig.answer(dhcp.ACK, HOLDER, 1)
    changed = bytes.fromhex("5a94efe40c07")
    rig.seen(changed, 1)
    rig.answer(dhcp.ACK, changed, 1)
    assert rig.owner() == (changed, 1)


def test_an_address_whose_lease_is_over_is_the_next_clients_though_the_last_one_goes_on_using_it(
    rig: Rig,
) -> None:
    rig.answer(dhcp.ACK, HOLDER, 1)
    rig.neighbors.learn(ADDR, HOLDER, 1, 0.0)
    rig.answer(dhcp.ACK, THIEF, 2)
    assert rig.owner() == (THIEF, 2)
    with pytest.raises(WireError, match="address_taken"):
        rig.neighbors.learn(ADDR, HOLDER, 1, 0.0)
    rig.neighbors.learn(ADDR, THIEF, 2, 0.5)
    assert rig.owner() == (THIEF, 2)


def test_a_guest_that_uses_an_address_without_a_lease_is_asked_before_a_client_gets_it(rig: Rig) -> None:
    rig.neighbors.learn(ADDR, HOLDER, 1, 0.0)
    rig.answer(dhcp.ACK, THIEF, 2)
    assert rig.owner() == (HOLDER, 1), "it is asked first"
    for half in (1, 2):
        rig.neighbors.on_timer(half / 2)
    assert rig.owner() == (THIEF, 2)


@pytest.mark.parametrize("kind", [dhcp.OFFER, dhcp.NAK])
def test_only_a_lease_that_was_given_counts(rig: Rig, kind: int) -> None:
    rig.answer(kind, HOLDER, 1)
    assert rig.owner() is None


def test_an_address_that_a_bootp_client_was_given_cannot_be_claimed_first(rig: Rig) -> None:
    payload = dhcp.build(dhcp.Message(dhcp.BOOT_REPLY, 1, HOLDER, {}, yiaddr=ADDR))
    rig.slot[1000 : 1000 + len(payload)] = payload
    rig.holders.on_answer(ServiceDatagram(1, NO_KEY, 0, 1000, len(payload)), 0.0)
    assert rig.owner() == (HOLDER, 1)


def test_an_answer_to_inform_gives_no_address(rig: Rig) -> None:
    rig.answer(dhcp.ACK, HOLDER, 1, addr=0)
    assert rig.neighbors.snapshot() == {}


def test_a_request_in_the_name_of_another_guest_moves_nothing(rig: Rig) -> None:
    rig.answer(dhcp.ACK, HOLDER, 2)
    assert rig.owner() is None, "the holder is not behind that link"
    rig.neighbors.learn(ADDR, HOLDER, 1, 1.0)
    rig.answer(dhcp.ACK, THIEF, 2)
    assert rig.owner() == (HOLDER, 1), "somebody has the address"


def test_an_address_of_the_state_file_is_kept_for_its_holder(rig: Rig) -> None:
    rig.holders.on_restored(Leased(ADDR, HOLDER), 0.0)
    with pytest.raises(WireError, match="address_taken"):
        rig.neighbors.learn(ADDR, THIEF, 2, 1.0)
    rig.answer(dhcp.ACK, HOLDER, 2)
    assert rig.owner() is None, "the holder is not behind that link"
    with pytest.raises(WireError, match="address_taken"):
        rig.neighbors.learn(ADDR, THIEF, 2, 2.0)
    rig.answer(dhcp.ACK, HOLDER, 1)
    assert rig.owner() == (HOLDER, 1)


def test_an_address_of_the_state_file_that_the_server_gave_away_is_its_new_holders(rig: Rig) -> None:
    rig.holders.on_restored(Leased(ADDR, HOLDER), 0.0)
    rig.answer(dhcp.ACK, THIEF, 2)
    assert rig.owner() == (THIEF, 2)


def test_a_link_with_all_the_addresses_it_may_have_gets_no_more_by_dhcp() -> None:
    rig = Rig(max_per_guest=1)
    rig.seen(HOLDER, 1)
    rig.answer(dhcp.ACK, HOLDER, 1)
    rig.answer(dhcp.ACK, HOLDER, 1, addr=ADDR + 1)
    assert rig.owner(ADDR + 1) is None
    assert rig.counts[INDEX["neighbor_claim_refused_table_full"]] == 1


def test_where_guests_with_one_address_do_not_meet_a_lease_gives_nobody_the_address() -> None:
    rig = Rig(learns=False)
    rig.seen(HOLDER, 1)
    rig.seen(THIEF, 2)
    rig.answer(dhcp.ACK, HOLDER, 1)
    assert rig.owner() is None
    # Ingress has given the address to who sent from it first.
    rig.neighbors.learn(ADDR, THIEF, 2, 0.0)
    rig.answer(dhcp.ACK, HOLDER, 1)
    assert rig.owner() == (THIEF, 2)
