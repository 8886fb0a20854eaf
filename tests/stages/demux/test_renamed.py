"""Guests with inner addresses, as demux knows them with ``guests: apart``."""

from collections.abc import Iterator

import pytest

from pipeline.records import kinds
from pipeline.records.frames import Frame
from pipeline.records.guests import LinkNotice, Renamed
from pipeline.stages.demux.stage import DemuxStage
from pipeline.topology import DEMUX
from pipeline.wire import ethernet, ip, ipv4
from tests.support.attempts import GATEWAY, arp_frame, ping
from tests.support.frames import GATEWAY_MAC, GUEST_MAC
from tests.support.one_process import OneProcess

OWN = GATEWAY + 14
INNER = ip.parse_ipv4("240.0.2.2")
INNER_MAC = bytes.fromhex("f26170000201")
RENAMED = (
    Renamed(True, 2, int.from_bytes(INNER_MAC, "big"), int.from_bytes(GUEST_MAC, "big")),
    Renamed(False, 2, INNER, OWN),
)


class Rig(OneProcess):
    """Demux with two links. The second one has inner names."""

    def __init__(self) -> None:
        super().__init__((DEMUX,), guests="apart")
        stage = self.stages[DEMUX]
        assert isinstance(stage, DemuxStage)
        self.stage = stage
        self.card = self.neighbours["ingress"]
        for link in (1, 2):
            self.card.push(DEMUX, LinkNotice.pack(kinds.LINK_UP, link, link))
        for renamed in RENAMED:
            self.card.push(DEMUX, renamed.pack())
        self.settle()
        self.card.take()

    def come(self, link: int, frame: bytes) -> None:
        """A frame of a guest, as ingress passes it on."""
        slot = self.card.fill(frame)
        self.card.push(DEMUX, Frame(link, slot, 256, len(frame), False).pack())
        self.settle()

    def frames(self) -> list[tuple[int, bytes]]:
        """The frames for guests, with their links."""
        return [(record.link, self.card.data(record)) for record in self.card.take(kinds.FRAME_OUT)]

    def told(self, name: str) -> list[tuple[bool, int, int, int]]:
        """What a worker hears of inner names."""
        return [
            (record.is_mac, record.link, record.inner, record.own)
            for record in self.neighbours[name].take(kinds.RENAMED)
        ]

    def leave(self) -> None:
        """Both links are down."""
        for link in (1, 2):
            self.card.push(DEMUX, LinkNotice.pack(kinds.LINK_DOWN, link, link))
        self.settle()


WANTED = [(each.is_mac, each.link, each.inner, each.own) for each in RENAMED]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as made:
        yield made
        made.leave()
        made.at_home()


def test_egress_and_the_resolver_hear_what_inner_names_stand_for(rig: Rig) -> None:
    assert [rig.told(name) for name in ("egress0", "resolver")] == [WANTED, WANTED]
    assert rig.stage.held()["inner_addresses"] == 2
    # A successor of ingress says it again.
    rig.card.push(DEMUX, RENAMED[1].pack())
    rig.settle()
    assert rig.stage.held()["inner_addresses"] == 2
    rig.told("egress0")
    rig.kill("egress0", links={1: 1, 2: 2})
    rig.settle()
    assert rig.told("egress0") == WANTED


def test_a_guest_with_an_inner_address_is_answered_and_asked_for_by_it(rig: Rig) -> None:
    # The slot of an answer is used again after it.
    rig.come(1, ping(OWN, GATEWAY, GUEST_MAC, GATEWAY_MAC))
    found = rig.frames()
    rig.come(2, ping(INNER, GATEWAY, INNER_MAC, GATEWAY_MAC))
    found += rig.frames()
    assert [(link, frame[:6], ipv4.parse(frame, 14, len(frame)).dst) for link, frame in found] == [
        (1, GUEST_MAC, OWN),
        (2, INNER_MAC, INNER),
    ]


def test_no_frame_of_a_guest_goes_to_another_one(rig: Rig) -> None:
    rig.come(1, ping(OWN, GATEWAY, GUEST_MAC, GATEWAY_MAC))
    rig.come(2, ping(INNER, GATEWAY, INNER_MAC, GATEWAY_MAC))
    rig.frames()
    rig.come(2, ping(INNER, OWN, INNER_MAC, GUEST_MAC))
    rig.come(1, ping(OWN, INNER, GUEST_MAC, INNER_MAC))
    rig.come(2, arp_frame(1, (INNER_MAC, INNER), INNER_MAC, ethernet.BROADCAST, OWN))
    assert rig.frames() == []


def test_a_silent_guest_keeps_its_address(rig: Rig) -> None:
    rig.come(1, ping(OWN, GATEWAY, GUEST_MAC, GATEWAY_MAC))
    rig.frames()
    other = bytes.fromhex("5a94ef000009")
    for _ in range(5):
        # Ingress does not pass that on, unless demux has just changed its mind.
        rig.come(2, ping(OWN, GATEWAY, other, GATEWAY_MAC))
        rig.advance(2.0)
    assert rig.stage.neighbors.snapshot()[OWN] == (GUEST_MAC, 1)
    assert rig.frames() == [], "and nobody was asked"
