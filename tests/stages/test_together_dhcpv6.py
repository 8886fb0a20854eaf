"""DHCPv6 from a guest's frame through demux and the resolver to the frame that answers it."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pipeline.engines.dhcp import pool
from pipeline.ipc import messages
from pipeline.records import kinds
from pipeline.records.guests import LinkNotice
from pipeline.topology import DEMUX, RESOLVER
from pipeline.wire import dhcpv6, ethernet, ipv6, udp
from pipeline.wire.dhcpv6 import Ia, IaAddress
from tests.stages.demux.test_guard import Card
from tests.support import bursts
from tests.support.dhcp6_clients import FIRST, GATEWAY, LAST, NET, SERVER_DUID, message, na
from tests.support.frames import GATEWAY_MAC, udp_frame6
from tests.support.ipv6 import ping
from tests.support.one_process import OneProcess

PREFIX = "fd12:3456:789a:1::/64"
LINK_LOCAL = ipv6.link_local(GATEWAY_MAC)
MACS = {1: bytes.fromhex("5a94ef000001"), 2: bytes.fromhex("5a94ef000002")}
LOCAL = {link: ipv6.link_local(mac) for link, mac in MACS.items()}
TAKEN = "neighbor_claim_refused_address_taken"


class Rig(OneProcess):
    """Demux and the resolver are real, the guests of two links are the test's."""

    def __init__(self, **settings: Any) -> None:
        on = {
            "ipv6_enabled": "on",
            "ipv6_prefix": PREFIX,
            "ipv6_gateway": GATEWAY,
            "ipv6_host": NET | 0xFE,
        }
        super().__init__((DEMUX, RESOLVER), played={"ingress": Card}, **(on | settings))
        card = self.neighbours["ingress"]
        assert isinstance(card, Card)
        self.card = card
        for link in MACS:
            card.push(DEMUX, LinkNotice.pack(kinds.LINK_UP, link, link))
        self.settle()
        self.card.sent.clear()

    def send(self, link: int, *frames: bytes) -> list[tuple[int, bytes]]:
        """Frames from a link. Returns what the gateway sends, with the link that gets it."""
        bursts.push(self.card, link, frames)
        self.settle()
        sent, self.card.sent = self.card.sent, []
        return [(to, frame) for to, _, frame in sent if frame[6:12] == GATEWAY_MAC]

    def ask(self, link: int, payload: bytes, **fields: Any) -> list[tuple[int, bytes]]:
        return self.send(link, frame_of(link, payload, **fields))

    def answer(self, link: int, kind: int, n: int = 1, *ias: Ia, **fields: Any) -> dhcpv6.Message:
        """The answer to a client on this link, which must be a correct datagram to it alone."""
        ((to, frame),) = self.ask(link, message(kind, n, *ias, **fields))
        assert (to, frame[:6]) == (link, MACS[link])
        header = ipv6.parse(frame, 14, len(frame))
        assert (header.src, header.dst) == (LINK_LOCAL, LOCAL[link])
        datagram = udp.parse(frame, 54, len(frame))
        assert (datagram.src_port, datagram.dst_port) == (547, 546)
        udp.verify(frame, 54, datagram, header.src, header.dst)
        return dhcpv6.parse(frame, 62, len(frame))

    def leased(self, link: int, n: int = 1) -> int:
        (ia,) = self.answer(link, dhcpv6.REQUEST, n, na()).ias()
        (address,) = ia.addresses
        return address.addr

    def count(self, name: str) -> int:
        return self.total(name)

    def leases(self) -> dict[str, str]:
        found: dict[str, str] = self.stages[RESOLVER].on_control({"op": "leases"}, [])["leases"]
        return found

    def leave(self) -> None:
        """All guests go, and nothing of them may be left."""
        for link in MACS:
            self.card.push(DEMUX, LinkNotice.pack(kinds.LINK_DOWN, link, link))
        self.at_home()


def frame_of(
    link: int, payload: bytes, *, dst: int = dhcpv6.ALL_SERVERS, dport: int = 547, src: int | None = None
) -> bytes:
    """A client's datagram, to the group of servers by default."""
    to = ipv6.group_mac(dst) if dst >> 120 == 0xFF else GATEWAY_MAC
    header = ethernet.header(to, MACS[link], ethernet.TYPE_IPV6)
    own = LOCAL[link] if src is None else src
    return udp_frame6(payload, sport=546, dport=dport, src=own, dst=dst, eth_header=header)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as made:
        yield made
        made.leave()


def test_a_client_solicits_requests_renews_and_releases(rig: Rig) -> None:
    offer = rig.answer(1, dhcpv6.SOLICIT, 1, na())
    assert (offer.kind, offer.option(dhcpv6.SERVER_ID)) == (dhcpv6.ADVERTISE, SERVER_DUID)
    (ia,) = offer.ias()
    (offered,) = ia.addresses
    assert FIRST < offered.addr < LAST
    addr = rig.leased(1)
    assert addr == offered.addr
    (ia,) = rig.answer(1, dhcpv6.RENEW, 1, na(addr)).ias()
    assert ia.addresses == (IaAddress(addr, 3600, 3600),)
    assert rig.count("dhcpv6_leases") == 1
    assert rig.answer(1, dhcpv6.RELEASE, 1, na(addr)).option(dhcpv6.STATUS_CODE) == b"\0\0"
    assert (rig.count("dhcpv6_advertise_sent"), rig.count("dhcpv6_reply_sent")) == (1, 3)


def test_leases_of_both_families_are_shown_by_address(rig: Rig) -> None:
    addr = rig.leased(1)
    found = rig.leases()
    assert found["192.168.127.1"] == found["fd12:3456:789a:1::1"] == "5a:94:ef:e4:0c:dd"
    mac = ethernet.mac_text(MACS[1])
    assert [text for text, holder in found.items() if holder == mac] == [
        f"fd12:3456:789a:1::1:{addr & 0xFFFF:x}"
    ]
    assert rig.stages[RESOLVER].on_control({"op": "guests"}, [])["guests"]["1"]["leases"] == 1


def test_an_address_is_its_clients_from_the_reply_on(rig: Rig) -> None:
    addr = rig.leased(1)
    found = rig.stages[DEMUX].neighbors.get(addr)
    assert (found.mac, found.link) == (MACS[1], 1)
    rig.send(2, ping(addr, GATEWAY, MACS[2]))
    assert rig.count(TAKEN) == 1
    assert rig.stages[DEMUX].neighbors.get(addr).link == 1


def test_an_offer_gives_no_guest_the_address_yet(rig: Rig) -> None:
    (ia,) = rig.answer(1, dhcpv6.SOLICIT, 1, na()).ias()
    assert rig.stages[DEMUX].neighbors.get(ia.addresses[0].addr) is None


def test_another_guest_cannot_ask_from_a_clients_address_nor_end_its_lease(rig: Rig) -> None:
    addr = rig.leased(1)
    release = message(dhcpv6.RELEASE, 1, na(addr))
    # The owner of the address is asked whether it is there. The message goes nowhere.
    assert [to for to, _ in rig.ask(2, release, src=LOCAL[1])] == [1]
    assert rig.count(TAKEN) == 1
    assert rig.count("dhcpv6_reply_sent") == 1
    (ia,) = rig.answer(2, dhcpv6.RELEASE, 1, na(addr)).ias()
    assert ia.status == dhcpv6.NO_BINDING
    assert rig.count("dhcpv6_release_accepted") == 0


def test_a_guest_that_heard_a_clients_duid_does_not_get_its_address(rig: Rig) -> None:
    addr = rig.leased(1)
    for kind in (dhcpv6.REQUEST, dhcpv6.RENEW, dhcpv6.REBIND):
        (ia,) = rig.answer(2, kind, 1, na(addr)).ias()
        assert addr not in [each.addr for each in ia.addresses if each.valid]
    found = rig.stages[DEMUX].neighbors.get(addr)
    assert (found.mac, found.link) == (MACS[1], 1)


@pytest.mark.parametrize("dst", [GATEWAY, NET, LINK_LOCAL])
def test_unicast_to_any_address_of_the_gateway_is_answered_as_section_18_4_has_it(rig: Rig, dst: int) -> None:
    (answer,) = rig.ask(1, message(dhcpv6.RENEW, 1, na()), dst=dst)
    found = dhcpv6.parse(answer[1], 62, len(answer[1]))
    assert found.option(dhcpv6.STATUS_CODE) == b"\0\x05"
    assert rig.ask(1, message(dhcpv6.SOLICIT, 1, na()), dst=dst) == []
    assert rig.count("dhcpv6_message_dropped_unicast") == 1


def test_the_group_of_servers_has_no_other_service(rig: Rig) -> None:
    assert rig.ask(1, b"question", dport=53) == []
    assert rig.count("nat_flow_refused_multicast") == 1


def test_a_message_without_a_source_address_is_dropped(rig: Rig) -> None:
    assert rig.ask(1, message(dhcpv6.SOLICIT, 1, na()), src=0) == []
    assert rig.count("ipv6_packet_dropped_no_route") == 1


@pytest.mark.parametrize("length", [0, 1, 3, 5, 20])
def test_damaged_messages_are_counted_and_get_no_answer(rig: Rig, length: int) -> None:
    assert rig.ask(1, message(dhcpv6.SOLICIT, 1, na())[:length]) == []
    cause = "truncated" if length < 4 else "bad_options"
    assert rig.count(f"dhcpv6_message_dropped_{cause}") == 1


def test_an_answer_longer_than_the_mtu_comes_in_fragments() -> None:
    with Rig(mtu=1280) as rig:
        foreign = tuple(IaAddress(NET | 0x5000 + n, 0, 0) for n in range(8))
        ias = [Ia(dhcpv6.IA_NA, number, addresses=foreign) for number in range(5)]
        frames = [frame for _, frame in rig.ask(1, message(dhcpv6.REBIND, 1, *ias))]
        assert [len(frame) - 14 <= 1280 for frame in frames] == [True, True]
        assert [ipv6.parse(frame, 14, len(frame)).next_header for frame in frames] == [44, 44]
        rig.leave()


def test_messages_have_the_rate_of_dhcp_beside_other_guests() -> None:
    with Rig(max_dhcp_messages_per_second=10) as rig:
        rig.send(2, ping(LOCAL[2], GATEWAY, MACS[2]))
        answers = [rig.ask(1, message(dhcpv6.SOLICIT, 1, na())) for _ in range(20)]
        assert 0 < len([each for each in answers if each]) < 20
        assert rig.count("dhcp_message_dropped_rate_limit") > 0
        rig.leave()


def test_the_next_client_of_an_address_gets_it_though_the_last_one_goes_on_using_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "MAX_TAKEN", 1)
    with Rig() as rig:
        addr = rig.leased(1, 1)
        rig.answer(1, dhcpv6.RELEASE, 1, na(addr))
        assert rig.leased(2, 2) == addr
        assert rig.stages[DEMUX].neighbors.get(addr).link == 2
        rig.leave()


def test_while_ipv6_is_off_nobody_answers() -> None:
    with Rig(ipv6_enabled="off", ipv6_prefix="") as rig:
        assert rig.ask(1, message(dhcpv6.SOLICIT, 1, na())) == []
        assert rig.count("dhcpv6_leases") == 0
        assert not [text for text in rig.leases() if ":" in text]
        rig.leave()


def test_the_state_file_keeps_leases_and_holds_their_addresses(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "leases.json")
    with Rig(state_file=path) as rig:

        def write(message: messages.Message, _fds: Sequence[object] = ()) -> None:
            """Takes the place of the supervisor."""
            if message["event"] == messages.StateFileEvent.NAME:
                (tmp_path / "leases.json").write_bytes(messages.StateFileEvent.decode(message).content)

        monkeypatch.setattr(rig.workers[RESOLVER], "send_event", write)
        addr = rig.leased(1)
        before = rig.leases()
        rig.advance(2.0)
        rig.leave()
    with Rig(state_file=path) as rig:
        assert rig.leases() == before
        rig.send(2, ping(LOCAL[2], GATEWAY, MACS[2]))
        rig.send(2, ping(addr, GATEWAY, MACS[2]))
        assert rig.count(TAKEN) == 1
        assert rig.leased(1) == addr
        assert rig.stages[DEMUX].neighbors.get(addr).mac == MACS[1]
        rig.leave()


def test_a_guest_cannot_answer_as_the_server() -> None:
    with Rig() as rig:
        rig.send(2, ping(LOCAL[2], GATEWAY, MACS[2]))
        header = ethernet.header(MACS[2], MACS[1], ethernet.TYPE_IPV6)
        payload = message(dhcpv6.REPLY, 1, na())
        frame = udp_frame6(payload, sport=547, dport=546, src=LOCAL[1], dst=LOCAL[2], eth_header=header)
        rig.send(1, frame)
        assert rig.count("switch_frame_dropped_dhcp_server") == 1
        rig.leave()
