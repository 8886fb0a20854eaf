"""What demux lets pass from one guest to another, with each setting of ``guests``."""

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.events.kind import WARNING
from pipeline.events.table import KINDS
from pipeline.ipc.ring import Producer
from pipeline.records import kinds
from pipeline.records.flows import flow_key
from pipeline.records.frames import ALL_LINKS
from pipeline.records.guests import LinkNotice
from pipeline.records.udp import UdpRange
from pipeline.stages.worker import Worker
from pipeline.topology import DEMUX
from pipeline.wire import arp, ethernet, ip
from tests.support import bursts
from tests.support.attempts import (
    GATEWAY,
    HOST,
    MARK,
    Attempt,
    Station,
    arp_frame,
    attempts,
    evasions,
    honest,
    ping,
)
from tests.support.frames import GATEWAY_MAC, tcp_frame, udp_frame
from tests.support.one_process import Neighbour, OneProcess
from tests.support.received import Received

THIEF, VICTIM, THIRD = (
    Station(bytes((0x5A, 0x94, 0xEF, 0, 0, number)), GATEWAY + number) for number in (1, 2, 3)
)
LINKS = {1: THIEF, 2: VICTIM, 3: THIRD}
ATTEMPTS = attempts(THIEF, VICTIM, THIRD) + evasions(THIEF, VICTIM)
_QUESTION = GATEWAY_MAC + ethernet.TYPE_ARP.to_bytes(2, "big")
SILENT = ("switch_frame_dropped_reserved_group", "arp_message_dropped_unsupported")
"""Causes without a line in the log: guests with a bridge, or with an odd neighbour, send such frames."""


class Card(Neighbour):
    """Plays ingress: keeps the frames for each link."""

    def __init__(self, worker: Worker, process: OneProcess) -> None:
        super().__init__(worker, process)
        self.sent: list[tuple[int, int, bytes]] = []
        """(link, link that does not get it, frame) of each frame to guests."""
        self.steered: list[Received] = []

    def on_record(self, record: Received) -> None:
        """Copy the frame before its slot goes home."""
        if record.kind == kinds.FRAME_OUT:
            self.sent.append((record.link, record.except_link, self.data(record)))
        super().on_record(record)


class Rig(OneProcess):
    """Demux is real, the guests of three links are the test's."""

    def __init__(self, **changed: Any) -> None:
        super().__init__((DEMUX,), played={"ingress": Card}, **changed)
        card = self.neighbours["ingress"]
        assert isinstance(card, Card)
        self.card = card
        self.ring: Producer = card.worker.ports.rings_out[DEMUX]
        for link, station in LINKS.items():
            card.push(DEMUX, LinkNotice.pack(kinds.LINK_UP, link, link))
            self.send(link, arp_frame(arp.REQUEST, station, station.mac, ethernet.BROADCAST, GATEWAY))
        self.card.sent.clear()

    def send(self, link: int, *frames: bytes) -> None:
        """One burst of frames from a link, through GRO."""
        assert not bursts.push(self.card, link, frames)
        self.settle()

    def for_link(self, link: int) -> list[bytes]:
        """The frames for a link since the last call, without questions of the gateway."""
        sent, self.card.sent = self.card.sent, []
        return [
            frame
            for target, but, frame in sent
            if (target == link or (target == ALL_LINKS and but != link)) and frame[6:14] != _QUESTION
        ]

    def leave(self) -> None:
        """All guests go, and nothing of them may be left."""
        for link in LINKS:
            self.card.push(DEMUX, LinkNotice.pack(kinds.LINK_DOWN, link, link))
        self.at_home()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as made:
        yield made
        made.leave()


@pytest.fixture(params=["isolated", "apart"])
def isolated(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with Rig(guests=request.param) as made:
        yield made
        made.leave()


@pytest.fixture
def unguarded() -> Iterator[Rig]:
    with Rig(guests="open") as made:
        yield made
        made.leave()


def named(found: list[Attempt]) -> Any:
    return pytest.mark.parametrize("attempt", found, ids=[attempt.name for attempt in found])


@named(ATTEMPTS)
def test_no_guest_gets_a_frame_that_takes_anothers_place(rig: Rig, attempt: Attempt) -> None:
    rig.send(1, attempt.frame)
    assert rig.for_link(2) == []
    assert rig.for_link(3) == []
    assert rig.counter(DEMUX, attempt.cause) == 1


@named(ATTEMPTS)
def test_a_flooded_frame_is_judged_like_one_for_one_guest(rig: Rig, attempt: Attempt) -> None:
    if attempt.name == "spanning-tree":
        pytest.skip("it has a group address already")
    rig.send(1, ethernet.BROADCAST + attempt.frame[6:])
    tcp = attempt.name.startswith("segment")
    assert rig.for_link(2) == []
    assert rig.counter(DEMUX, "demux_frame_dropped_tcp_to_group" if tcp else attempt.cause) == 1


@named(ATTEMPTS)
def test_isolated_guests_get_none_of_them_either(isolated: Rig, attempt: Attempt) -> None:
    isolated.send(1, attempt.frame)
    isolated.send(1, ethernet.BROADCAST + attempt.frame[6:])
    assert isolated.for_link(2) == []


@named([attempt for attempt in ATTEMPTS if attempt.name != "mac-of-a-third-guest"])
def test_open_guests_get_them_all_as_with_the_original(unguarded: Rig, attempt: Attempt) -> None:
    unguarded.send(1, attempt.frame)
    (frame,) = unguarded.for_link(2)
    priority_tags = len(attempt.frame) - len(frame)
    assert frame == attempt.frame[:12] + attempt.frame[12 + priority_tags :]
    # Broadcasts come to the gateway as well, which believes no claim of its addresses.
    claims = ethernet.is_group(frame[:6]) and attempt.cause == "neighbor_claim_refused_gateway_address"
    assert unguarded.counter(DEMUX, attempt.cause) == claims


@pytest.mark.parametrize("name", honest(THIEF, VICTIM))
def test_honest_frames_pass(rig: Rig, name: str) -> None:
    frame = honest(THIEF, VICTIM)[name]
    rig.send(1, frame)
    assert rig.for_link(2) == [frame]
    rig.send(1, ethernet.BROADCAST + frame[6:])
    assert rig.for_link(3) == ([] if name == "segment" else [ethernet.BROADCAST + frame[6:]])


@pytest.mark.parametrize("name", honest(THIEF, VICTIM))
def test_isolated_guests_exchange_nothing_and_reach_the_gateway(isolated: Rig, name: str) -> None:
    frame = honest(THIEF, VICTIM)[name]
    isolated.send(1, frame)
    isolated.send(1, ethernet.BROADCAST + frame[6:])
    isolated.send(1, bytes.fromhex("01005e0000fb") + frame[6:])
    assert isolated.for_link(2) == []
    assert isolated.counter(DEMUX, "switch_frame_dropped_isolated") >= 1
    isolated.send(1, arp_frame(arp.REQUEST, THIEF, THIEF.mac, ethernet.BROADCAST, GATEWAY))
    assert [frame[:6] for link, _, frame in isolated.card.sent if link == 1] == [THIEF.mac]


def test_an_isolated_guest_still_asks_for_its_address_by_broadcast(isolated: Rig) -> None:
    isolated.send(1, honest(THIEF, VICTIM)["dhcp-discover"])
    assert len(isolated.neighbours["resolver"].take(kinds.SERVICE_DATAGRAM)) == 1


@pytest.mark.parametrize("make", [tcp_frame, udp_frame], ids=["tcp", "udp"])
def test_a_run_of_frames_passes_or_is_dropped_as_a_whole(rig: Rig, make: Any) -> None:
    header = ethernet.header(VICTIM.mac, THIEF.mac, ethernet.TYPE_IPV4)

    def frames(src: int) -> list[bytes]:
        about = {"src": src, "dst": VICTIM.addr, "eth_header": header}
        if make is udp_frame:
            return [udp_frame(MARK + bytes(9), ident=number, **about) for number in range(20)]
        return [tcp_frame(number * 20, MARK + bytes(9), ident=number, **about) for number in range(20)]

    rig.send(1, *frames(THIRD.addr))
    assert rig.for_link(2) == []
    assert rig.counter(DEMUX, "neighbor_claim_refused_address_taken") == 20
    rig.send(1, *frames(THIEF.addr))
    assert rig.for_link(2) == frames(THIEF.addr)


def test_a_run_never_hides_a_forged_frame_among_honest_ones(rig: Rig) -> None:
    header = ethernet.header(VICTIM.mac, THIEF.mac, ethernet.TYPE_IPV4)
    about = {"dst": VICTIM.addr, "eth_header": header}
    burst = [
        tcp_frame(number * 11, MARK, src=THIRD.addr if number == 5 else THIEF.addr, **about)
        for number in range(10)
    ]
    datagrams = [udp_frame(MARK, src=HOST if number == 5 else THIEF.addr, **about) for number in range(10)]
    rig.send(1, *burst, *datagrams)
    got = rig.for_link(2)
    assert len(got) == 18
    assert not {frame[26:30] for frame in got} - {ip.ipv4_bytes(THIEF.addr)}


def test_a_super_segment_of_datagrams_to_dhcp_clients_is_dropped(rig: Rig) -> None:
    frame = udp_frame(
        MARK, sport=67, dport=68, src=THIEF.addr, dst=VICTIM.addr,
        eth_header=ethernet.header(VICTIM.mac, THIEF.mac, ethernet.TYPE_IPV4),
    )  # fmt: skip
    slot = rig.card.fill(frame)
    run = UdpRange(
        slot=slot, off=256 + 42, length=len(MARK), stride=0, piece_size=len(MARK), link=1,
        key=flow_key(THIEF.addr, 67, VICTIM.addr, 68), vnet=True,
    )  # fmt: skip
    rig.card.push(DEMUX, run.pack())
    rig.settle()
    assert rig.for_link(2) == []
    assert rig.counter(DEMUX, "switch_frame_dropped_dhcp_server") == 1


def test_an_address_that_was_only_used_between_guests_is_protected_too(rig: Rig) -> None:
    quiet = Station(VICTIM.mac, GATEWAY + 40)
    rig.send(2, ping(quiet.addr, THIRD.addr, quiet.mac, THIRD.mac))
    assert len(rig.for_link(3)) == 1
    rig.send(1, ping(quiet.addr, THIRD.addr, THIEF.mac, THIRD.mac))
    assert rig.for_link(3) == []
    assert rig.counter(DEMUX, "neighbor_claim_refused_address_taken") == 1


def test_several_macs_and_addresses_behind_one_link_move_at_once(rig: Rig) -> None:
    virtual = bytes.fromhex("00005e000107")
    for number, mac in enumerate((virtual, THIEF.mac, b"\x02\0\0\0\0\x09", virtual)):
        addr = GATEWAY + 60 + number % 2
        rig.send(1, arp_frame(arp.REPLY, (mac, addr), mac, ethernet.BROADCAST, addr))
        rig.send(1, ping(addr, VICTIM.addr, mac, VICTIM.mac))
        assert len(rig.for_link(2)) == 2
    # An announcement of another MAC of the same link.
    rig.send(1, arp_frame(arp.REPLY, (virtual, GATEWAY + 60), THIEF.mac, ethernet.BROADCAST, GATEWAY + 60))
    assert len(rig.for_link(2)) == 1


def test_a_link_with_all_the_addresses_it_may_have_still_reaches_other_guests() -> None:
    with Rig(max_neighbors_per_guest=2) as rig:
        for number in range(60, 70):
            rig.send(1, ping(GATEWAY + number, VICTIM.addr, THIEF.mac, VICTIM.mac))
        assert len(rig.for_link(2)) == 10
        rig.send(1, ping(THIRD.addr, VICTIM.addr, THIEF.mac, VICTIM.mac))
        assert rig.for_link(2) == []
        rig.leave()


def test_others_hear_of_an_address_that_moved_to_another_link(rig: Rig) -> None:
    """The claimant's own announcements were dropped, and it may not repeat them."""
    claim = arp_frame(arp.REPLY, (THIEF.mac, THIRD.addr), THIEF.mac, ethernet.BROADCAST, THIRD.addr)
    rig.send(1, claim)
    assert rig.for_link(2) == []
    rig.advance(1.1)
    (heard,) = rig.for_link(2)
    assert heard[:12] == ethernet.BROADCAST + THIEF.mac
    message = arp.parse(heard, ethernet.HEADER_LEN, len(heard))
    assert (message.sha, message.spa, message.tpa) == (THIEF.mac, THIRD.addr, THIRD.addr)
    rig.send(1, ping(THIRD.addr, VICTIM.addr, THIEF.mac, VICTIM.mac))
    assert len(rig.for_link(2)) == 1


def test_nobody_hears_of_it_where_guests_are_isolated(isolated: Rig) -> None:
    isolated.send(1, arp_frame(arp.REPLY, (THIEF.mac, THIRD.addr), THIEF.mac, ethernet.BROADCAST, 0))
    isolated.advance(1.1)
    assert isolated.for_link(2) == []
    keeps = isolated.config.access.guests == "apart"
    owner = (THIRD.mac, 3) if keeps else (THIEF.mac, 1)
    assert isolated.stages[DEMUX].neighbors.snapshot()[THIRD.addr] == owner


def test_with_open_guests_the_newest_frame_wins(unguarded: Rig) -> None:
    demux = unguarded.stages[DEMUX]
    for link, station in ((1, THIEF), (3, THIRD)) * 3:
        unguarded.send(link, arp_frame(arp.REPLY, (station.mac, THIRD.addr), station.mac, GATEWAY_MAC, 0))
        assert demux.neighbors.snapshot()[THIRD.addr] == (station.mac, link)
        unguarded.send(link, ping(station.addr, VICTIM.addr, THIRD.mac, VICTIM.mac))
        assert demux.switch.link_of(THIRD.mac) == link
    unguarded.settle()
    reported = unguarded.card.take(kinds.NEIGHBOR)[-1]
    assert (reported.guest_addr, reported.mac, reported.link) == (THIRD.addr, THIRD.mac, 3)


def test_open_guests_that_pull_at_one_address_fill_no_memory(unguarded: Rig) -> None:
    demux = unguarded.stages[DEMUX]
    ring = unguarded.workers[DEMUX].ports.rings_out["ingress"]
    unguarded.card.deaf = True
    while ring.room() > 0:
        demux.bindings.learned(THIRD.addr, THIRD.mac, 3)
        unguarded.breathe(DEMUX)
    backlog = ring.room()
    for _ in range(200):
        for link, station in ((1, THIEF), (3, THIRD)):
            unguarded.send(link, arp_frame(arp.REPLY, (station.mac, THIRD.addr), station.mac, GATEWAY_MAC, 0))
    assert ring.room() == backlog
    unguarded.card.deaf = False
    unguarded.advance(0.1)
    assert not demux.bindings.unreported


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=[attempt.name for attempt in ATTEMPTS])
def test_an_attempt_is_one_line_of_the_log_a_minute(
    rig: Rig, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    lines: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr("pipeline.stages.demux.events.monotonic", lambda: clock[0])
    log = rig.workers[DEMUX].log
    monkeypatch.setattr(log, "warning", lambda event, **about: lines.append((event, about)))

    def report(kind: str, **about: Any) -> None:
        if KINDS[kind].level == WARNING:
            lines.append((KINDS[kind].text, about))

    monkeypatch.setattr(rig.workers[DEMUX].events, "report", report)
    for _ in range(20):
        rig.send(1, attempt.frame)
    if attempt.cause in SILENT:
        assert lines == []
        return
    (line,) = lines
    assert line[1]["link"] == 1
    if line[0] == "guest frame refused":
        assert line[1]["cause"] == attempt.cause
        assert line[1]["mac"] == ethernet.mac_text(THIEF.mac)
    # It lives.
    rig.send(3, arp_frame(arp.REQUEST, THIRD, THIRD.mac, ethernet.BROADCAST, GATEWAY))
    clock[0] += 61.0
    rig.now += 61.0
    rig.send(1, attempt.frame)
    assert len(lines) == 2


def test_addresses_of_the_subnet_itself_are_no_guests(rig: Rig) -> None:
    for addr in (ip.parse_ipv4("192.168.127.0"), ip.parse_ipv4("192.168.127.255"), ip.BROADCAST):
        rig.send(1, ping(addr, VICTIM.addr, THIEF.mac, VICTIM.mac))
    assert rig.for_link(2) == []
    assert rig.counter(DEMUX, "switch_frame_dropped_outside_source") == 3


def test_the_hosts_address_is_protected_also_where_the_gateway_does_not_answer_for_it() -> None:
    with Rig(gateway_virtual_ips=(GATEWAY + 200,)) as rig:
        for addr in (HOST, GATEWAY + 200):
            rig.send(1, ping(addr, VICTIM.addr, THIEF.mac, VICTIM.mac))
        assert rig.for_link(2) == []
        assert rig.counter(DEMUX, "neighbor_claim_refused_gateway_address") == 2
        rig.leave()


def test_a_guest_alone_may_send_what_it_likes_to_nobody() -> None:
    with Rig() as rig:
        for link in (2, 3):
            rig.card.push(DEMUX, LinkNotice.pack(kinds.LINK_DOWN, link, link))
        rig.settle()
        before = rig.total("switch_frames_forwarded")
        offer = evasions(THIEF, VICTIM)[5]
        rig.send(1, ethernet.BROADCAST + offer.frame[6:])
        assert rig.counter(DEMUX, offer.cause) == 0
        assert rig.total("switch_frames_forwarded") == before
        rig.leave()
