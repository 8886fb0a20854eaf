"""What demux counts for a guest holds for all its links together. Another guest has bounds of its own."""

from collections.abc import Iterator

import pytest

from pipeline.ipc import messages
from pipeline.records import kinds
from pipeline.records.frames import ALL_LINKS, Frame
from pipeline.records.guests import LinkNotice
from pipeline.topology import DEMUX
from pipeline.wire import arp, ethernet, ip, ipv4
from tests.support.frames import GATEWAY_MAC, REMOTE
from tests.support.one_process import OneProcess

GATEWAY = ip.parse_ipv4("192.168.127.1")
GUESTS = {5: 1, 6: 1, 7: 1, 8: 2}
"""The guest of each link."""
LINKS = [5, 6, 7]
OTHER = 8
BOUND = 4
"""Of everything, for one guest."""


def mac_of(station: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes((station,))


def addr_of(station: int) -> int:
    return ip.parse_ipv4(f"192.168.127.{station}")


class Rig(OneProcess):
    """Demux is real. The test is two guests; the first one has three links."""

    def __init__(self) -> None:
        super().__init__(
            (DEMUX,),
            max_macs_per_guest=BOUND,
            max_neighbors_per_guest=BOUND,
            max_fragmented_per_guest=BOUND,
            max_answers_per_second=BOUND,
        )
        self.ingress = self.neighbours["ingress"]
        for link in GUESTS:
            self.connect(link)

    def connect(self, link: int) -> None:
        self.ingress.push(DEMUX, LinkNotice.pack(kinds.LINK_UP, link, GUESTS[link]))

    def leave(self, *links: int) -> None:
        for link in links:
            self.ingress.push(DEMUX, LinkNotice.pack(kinds.LINK_DOWN, link, GUESTS[link]))
        self.settle()

    def send(self, link: int, frame: bytes) -> None:
        slot = self.ingress.fill(frame)
        self.ingress.push(DEMUX, Frame(link, slot, 256, len(frame), vnet=False).pack())
        self.settle()

    def ask(self, link: int, station: int) -> None:
        """A station asks by ARP for the gateway's MAC."""
        header = ethernet.header(ethernet.BROADCAST, mac_of(station), ethernet.TYPE_ARP)
        question = arp.build(arp.REQUEST, mac_of(station), addr_of(station), ethernet.ZERO, GATEWAY)
        self.send(link, header + question)

    def fragment(self, link: int, station: int, ident: int) -> None:
        """A station sends the first fragment of a datagram, and no other."""
        header = ipv4.build(
            ipv4.HEADER_LEN + 8, ident, 64, ipv4.PROTO_UDP, addr_of(station), REMOTE, flags=ipv4.FLAG_MF
        )
        self.send(link, ethernet.header(GATEWAY_MAC, mac_of(station), ethernet.TYPE_IPV4) + header + bytes(8))

    def macs(self, *links: int) -> int:
        """How many MACs the switch has learned on these links."""
        answer = messages.CamAnswer.decode(self.stages[DEMUX].on_control(messages.Cam().encode(), []))
        return sum(link in links for link in answer.cam.values())

    def sums(self, kind: str) -> dict[int, int]:
        """How many of a kind each guest has."""
        answer = self.stages[DEMUX].on_control(messages.Guests().encode(), [])
        guests = messages.GuestsAnswer.decode(answer).guests
        return {int(guest): has[kind] for guest, has in guests.items() if kind in has}

    def answers(self) -> list[int]:
        """The links that got an answer since the last call, without what was flooded."""
        records = self.ingress.take(kinds.FRAME_OUT)
        return [record.link for record in records if record.link != ALL_LINKS]

    def fragmented(self) -> int:
        return self.held_by(DEMUX)["fragmented_datagrams"]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig
        rig.leave(*GUESTS)
        rig.at_home()


def test_macs_and_addresses_of_all_links_of_a_guest_are_counted_together(rig: Rig) -> None:
    for station in range(2, 14):
        rig.ask(LINKS[station % 3], station)
        rig.now += 0.3
    assert rig.macs(*LINKS) == BOUND
    assert rig.counter(DEMUX, "switch_mac_dropped_table_full") == 12 - BOUND
    assert rig.counter(DEMUX, "neighbor_claim_refused_table_full") == 12 - BOUND
    for station in range(20, 24):
        rig.ask(OTHER, station)
    assert rig.macs(OTHER) == BOUND
    assert rig.sums("addresses") == {1: BOUND, 2: BOUND}
    rig.leave(LINKS[0])
    assert rig.sums("addresses") == {1: rig.macs(*LINKS), 2: BOUND}
    assert rig.macs(*LINKS) < BOUND


def test_the_gateway_answers_a_guest_at_one_rate_whatever_link_asks(rig: Rig) -> None:
    for turn in range(12):
        rig.ask(LINKS[turn % 3], 2 + turn % 3)
    assert rig.answers() == [5, 6, 7, 5]
    assert rig.counter(DEMUX, "demux_message_dropped_rate_limit") == 12 - BOUND
    rig.ask(OTHER, 20)
    assert rig.answers() == [OTHER]
    rig.leave(*LINKS)
    for link in LINKS:
        rig.connect(link)
    rig.ask(LINKS[0], 2)
    assert not rig.answers(), "a guest that comes back has no fresh rate"


def test_fragments_of_all_links_of_a_guest_are_counted_together(rig: Rig) -> None:
    for ident in range(12):
        rig.fragment(LINKS[ident % 3], 2 + ident % 3, ident)
    assert rig.fragmented() == BOUND
    assert rig.counter(DEMUX, "ipv4_datagram_dropped_reassembly_full") == 12 - BOUND
    rig.fragment(OTHER, 20, 1)
    assert rig.fragmented() == BOUND + 1
    rig.leave(*LINKS[:2])
    assert rig.fragmented() == BOUND + 1, "the guest is still there"
    rig.leave(LINKS[2])
    assert rig.fragmented() == 1


def test_several_stations_of_one_link_answer_for_their_own_addresses(rig: Rig) -> None:
    for station in (2, 3, 4):
        rig.ask(LINKS[0], station)
    assert rig.macs(LINKS[0]) == 3
    assert rig.answers() == [LINKS[0]] * 3
    # Another link of the same guest does not take one of them while its station lives.
    rig.ask(LINKS[1], 2)
    assert rig.macs(LINKS[0]) == 3
    assert rig.macs(LINKS[1]) == 0
