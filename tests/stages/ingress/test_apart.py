"""Two guests with the same addresses, as ingress passes their frames on and sends frames to them."""

import os
import socket
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest

from pipeline.config import merge, options
from pipeline.counters import INDEX
from pipeline.go import flags
from pipeline.ipc import healing_messages
from pipeline.ipc.fabric import Fabric
from pipeline.records import kinds
from pipeline.records.flows import Ends, flow_key
from pipeline.records.frames import ALL_LINKS, FrameOut
from pipeline.records.guests import Neighbor, NeighborGone
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.run import Run
from pipeline.records.tcp import TcpOut
from pipeline.records.udp import UdpOut
from pipeline.stages.ingress.stage import IngressStage
from pipeline.stages.worker import Worker
from pipeline.topology import Layout
from pipeline.wire import arp, dhcp, ethernet, icmp, ip, ipv4, tcp, udp
from pipeline.wire.framing import LE16, split
from tests.support.frames import GATEWAY_MAC, GUEST_MAC, tcp_frame, udp_frame
from tests.support.layouts import decode

GATEWAY = ip.parse_ipv4("192.168.127.1")
REMOTE = ip.parse_ipv4("93.184.216.34")
OWN = ip.parse_ipv4("192.168.127.15")
INNER = ip.parse_ipv4("240.0.2.2")
INNER_MAC = bytes.fromhex("f26170000201")
FROM_GUEST = ethernet.header(GATEWAY_MAC, GUEST_MAC, ethernet.TYPE_IPV4)
OFF = 256


class Rig:
    """Ingress with two guests. The test plays the other workers."""

    def __init__(self, kind: str = "apart") -> None:
        words = ["-guests", kind, "-ipv6", "on"]
        config, _ = merge.build(flags.parse(options.START, words), words, resolv_conf=os.devnull)
        self.fabric = Fabric.create(Layout(64, 1, 1))
        self.worker = Worker(self.fabric.ports("ingress"), None)
        self.told: list[dict[str, object]] = []
        self.worker.send_event = lambda message, fds=(): self.told.append(message)  # type: ignore[method-assign]
        self.stage = IngressStage(self.worker, config)
        self.worker.adopt(self.stage)
        self.guests = [self.attach(), self.attach()]

    def attach(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        assert self.stage.on_control({"op": "attach", "head": b""}, [ours.detach()]) == {}
        theirs.setblocking(False)
        return theirs

    def come(self, number: int, *frames: bytes) -> list[Any]:
        """A guest sends frames. Returns the records for demux that have to do with them."""
        self.taken()
        data = b"".join(len(frame).to_bytes(2, "little") + frame for frame in frames)
        self.guests[number].send(data)
        assert self.worker.poller is not None
        self.worker.poller.dispatch(self.worker.poller.poll(0, 64))
        self.worker.breathe(monotonic())
        return self.taken()

    def taken(self) -> list[Any]:
        """The records that ingress has pushed to demux and to tcp."""
        found = []
        for worker in ("demux", "tcp0"):
            ring = self.fabric.ports(worker).rings_in["ingress"]
            while burst := ring.peek():
                found += [
                    decode(bytes(burst[at : at + RECORD_BYTES])) for at in range(0, len(burst), RECORD_BYTES)
                ]
                ring.release(len(burst) // RECORD_BYTES)
        return [record for record in found if type(record).__name__ not in ("LinkNotice", "Shared")]

    def bytes_of(self, record: Any, header: int = 0) -> bytes:
        """The bytes of a record."""
        slot = self.worker.ports.arena.slots[record.slot]
        return bytes(slot[record.off - header : record.off + record.length])

    def push(self, worker: str, make: Callable[[int], bytes], payload: bytes = b"") -> None:
        """A worker pushes the record that make(slot) returns. Payload of tcp lies in a slot of egress."""
        slot = 0
        home = self.fabric.ports("egress0" if worker == "tcp0" else worker)
        if payload:
            assert home.pool is not None
            slot = home.pool.alloc()
            home.arena.slots[slot][OFF : OFF + len(payload)] = payload
        ring = self.fabric.ports(worker).rings_out["ingress"]
        ring.push(make(slot))
        ring.publish()
        self.worker.breathe(monotonic())

    def got(self, number: int) -> list[bytes]:
        """What a guest got."""
        try:
            stream = self.guests[number].recv(1 << 18)
        except BlockingIOError:
            return []
        found, end = split(stream, 0, len(stream), LE16)
        assert end == len(stream)
        return [stream[off : off + length] for off, length in found]

    def end(self) -> None:
        self.worker.end()
        for guest in self.guests:
            guest.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    # The first guest has the MAC and the address under their own names.
    assert made.come(0, tcp_frame(1, b"data", src=OWN, eth_header=FROM_GUEST))[0].link == 1
    yield made
    made.end()


def names_of(records: list[Any]) -> list[str]:
    return [type(record).__name__ for record in records]


def test_runs_of_the_second_guest_have_its_inner_address_and_mac(rig: Rig) -> None:
    segments = [
        tcp_frame(1 + 100 * number, b"d" * 100, src=OWN, eth_header=FROM_GUEST) for number in range(9)
    ]
    found = rig.come(1, *segments, udp_frame(b"data", src=OWN, eth_header=FROM_GUEST))
    assert names_of(found) == ["Renamed", "Renamed", "TcpRange", "UdpRange"]
    mac, addr, run, datagram = found
    assert (mac.is_mac, mac.link, mac.inner, mac.own) == (
        True,
        2,
        int.from_bytes(INNER_MAC, "big"),
        int.from_bytes(GUEST_MAC, "big"),
    )
    assert (addr.is_mac, addr.link, addr.inner, addr.own) == (False, 2, INNER, OWN)
    for record in (run, datagram):
        assert record.link == 2
        assert Ends.of(record.key).guest_addr == INNER
        assert rig.bytes_of(record, record.header_len)[:12] == GATEWAY_MAC + INNER_MAC
    assert (run.segments, run.length) == (9, 900)
    # It stays so, and nothing is told again.
    found = rig.come(1, segments[0])
    assert names_of(found) == ["TcpRange"]
    assert Ends.of(found[0].key).guest_addr == INNER
    assert rig.worker.counts[INDEX["link_addresses_inner"]] == 2


def test_the_first_guest_is_as_without_the_setting(rig: Rig) -> None:
    rig.come(1, tcp_frame(1, b"data", src=OWN, eth_header=FROM_GUEST))
    frame = tcp_frame(1, b"data", src=OWN, eth_header=FROM_GUEST)
    run = rig.come(0, frame)[0]
    assert Ends.of(run.key).guest_addr == OWN
    assert rig.bytes_of(run, run.header_len) == frame
    other = Rig("isolated")
    other.come(0, frame)
    second = other.come(1, frame)[0]
    assert Ends.of(second.key).guest_addr == OWN
    assert other.bytes_of(second, second.header_len) == frame
    other.end()


def test_single_frames_of_the_second_guest_are_rewritten(rig: Rig) -> None:
    message = icmp.build_echo(icmp.ECHO_REQUEST, 7, 1, b"data")
    ping = FROM_GUEST + ipv4.build(20 + len(message), 7, 64, 1, OWN, GATEWAY) + message
    asked = FROM_GUEST[:12] + b"\x08\x06" + arp.build(arp.REQUEST, GUEST_MAC, OWN, ethernet.ZERO, GATEWAY)
    *_, first, second = rig.come(1, ping, asked)
    frame = rig.bytes_of(first)
    assert ipv4.parse(frame, 14, len(frame)).src == INNER
    assert frame[:12] == GATEWAY_MAC + INNER_MAC
    found = arp.parse(rig.bytes_of(second), 14, second.length)
    assert (found.sha, found.spa) == (INNER_MAC, INNER)


def test_a_dhcp_client_with_the_same_mac_is_another_client(rig: Rig) -> None:
    message = dhcp.build(dhcp.Message(1, 7, GUEST_MAC, {dhcp.MESSAGE_TYPE: b"\x01"}))
    header = ethernet.header(ethernet.BROADCAST, GUEST_MAC, ethernet.TYPE_IPV4)
    frame = udp_frame(message, sport=68, dport=67, src=0, dst=ip.BROADCAST, eth_header=header)
    for number, wanted in ((0, GUEST_MAC), (1, INNER_MAC)):
        run = rig.come(number, frame)[-1]
        assert dhcp.parse(rig.bytes_of(run), 0, run.length).chaddr == wanted


def test_an_inner_source_is_refused_and_counted(rig: Rig) -> None:
    frames = [
        tcp_frame(1, b"data", src=INNER, eth_header=FROM_GUEST),
        tcp_frame(1, b"data", src=OWN, eth_header=FROM_GUEST[:6] + INNER_MAC + FROM_GUEST[12:]),
    ]
    assert "TcpRange" not in names_of(rig.come(0, *frames))
    assert rig.worker.counts[INDEX["link_frame_dropped_inner_source"]] == 2


def test_what_goes_to_the_second_guest_has_its_own_address(rig: Rig) -> None:
    rig.come(1, tcp_frame(1, b"data", src=OWN, eth_header=FROM_GUEST))
    rig.push("demux", lambda _: Neighbor.pack(kinds.NEIGHBOR, OWN, GUEST_MAC, 1))
    rig.push("demux", lambda _: Neighbor.pack(kinds.NEIGHBOR, INNER, INNER_MAC, 2))
    for number, addr in enumerate((OWN, INNER)):
        key = flow_key(addr, 40000, REMOTE, 80)
        out = lambda slot, key=key: TcpOut.pack(  # noqa: E731
            key=key, slot=slot, off=OFF, length=4, seq=1, ack=2, flags=tcp.ACK, window=9, mss=1460,
        )  # fmt: skip
        rig.push("tcp0", out, b"data")
        (frame,) = rig.got(number)
        header = ipv4.parse(frame, 14, len(frame))
        assert frame[:12] == GUEST_MAC + GATEWAY_MAC
        assert (header.src, header.dst) == (REMOTE, OWN)
        tcp.parse(frame, 34, len(frame))
        assert rig.got(1 - number) == []


def test_datagrams_and_frames_of_demux_have_its_own_address_too(rig: Rig) -> None:
    rig.come(1, tcp_frame(1, b"data", src=OWN, eth_header=FROM_GUEST))
    key = flow_key(INNER, 40000, REMOTE, 7000)
    rig.push("demux", lambda slot: UdpOut.pack(key, Run(slot, OFF, 4, 0, 4), 2, INNER_MAC), b"data")
    (frame,) = rig.got(1)
    header = ipv4.parse(frame, 14, len(frame))
    assert (frame[:6], header.dst) == (GUEST_MAC, OWN)
    udp.verify(memoryview(frame), 34, udp.parse(memoryview(frame), 34, len(frame)), REMOTE, OWN)
    reply = (
        INNER_MAC + GATEWAY_MAC + b"\x08\x06" + arp.build(arp.REPLY, GATEWAY_MAC, GATEWAY, INNER_MAC, INNER)
    )
    rig.push("demux", lambda slot: FrameOut.pack(2, slot, OFF, len(reply)), reply)
    (frame,) = rig.got(1)
    assert frame == GUEST_MAC + GATEWAY_MAC + b"\x08\x06" + arp.build(
        arp.REPLY, GATEWAY_MAC, GATEWAY, GUEST_MAC, OWN
    )


def test_a_question_about_an_inner_address_goes_to_its_guest_alone(rig: Rig) -> None:
    rig.come(1, tcp_frame(1, b"data", src=OWN, eth_header=FROM_GUEST))

    def question(target: int) -> bytes:
        asked = arp.build(arp.REQUEST, GATEWAY_MAC, GATEWAY, ethernet.ZERO, target)
        return ethernet.BROADCAST + GATEWAY_MAC + b"\x08\x06" + asked

    frame = question(INNER)
    rig.push("demux", lambda slot: FrameOut.pack(ALL_LINKS, slot, OFF, len(frame)), frame)
    assert (rig.got(0), rig.got(1)) == ([], [question(OWN)])
    frame = question(ip.parse_ipv4("240.0.99.1"))
    rig.push("demux", lambda slot: FrameOut.pack(ALL_LINKS, slot, OFF, len(frame)), frame)
    assert (rig.got(0), rig.got(1)) == ([], [])
    frame = question(OWN + 1)
    rig.push("demux", lambda slot: FrameOut.pack(ALL_LINKS, slot, OFF, len(frame)), frame)
    assert (rig.got(0), rig.got(1)) == ([frame], [frame])


def test_demux_decides_who_has_an_address(rig: Rig) -> None:
    leased = OWN + 1
    other = ethernet.header(GATEWAY_MAC, GUEST_MAC[:5] + b"\x01", ethernet.TYPE_IPV4)
    rig.push("demux", lambda _: Neighbor.pack(kinds.NEIGHBOR, leased, GUEST_MAC[:5] + b"\x01", 2))
    first = rig.come(0, tcp_frame(1, b"data", src=leased, eth_header=FROM_GUEST))[-1]
    assert ip.text(Ends.of(first.key).guest_addr) == "240.0.1.1"
    second = rig.come(1, tcp_frame(1, b"data", src=leased, eth_header=other))[-1]
    assert Ends.of(second.key).guest_addr == leased
    rig.push("demux", lambda _: NeighborGone.pack(leased))


def test_the_supervisor_hears_what_a_successor_needs(rig: Rig) -> None:
    rig.come(1, tcp_frame(1, b"data", src=OWN, eth_header=FROM_GUEST))
    told = [message for message in rig.told if message.get("event") == healing_messages.InnerEvent.NAME]
    assert told == [{"event": "inner", "number": 2, "places": [GUEST_MAC, ip.packed(OWN)]}]
    answer = rig.stage.on_control({"op": "guests"}, [])
    assert list(answer["own"].values()) == [  # type: ignore[attr-defined]
        {"f2:61:70:00:02:01": "5a:94:ef:e4:0c:ee", "240.0.2.2": "192.168.127.15"}
    ]
    apart = rig.stage.apart
    assert apart is not None
    # A successor of demux hears it from ingress.
    rig.taken()
    apart.introduce()
    rig.worker.breathe(monotonic())
    assert names_of(rig.taken()) == ["Renamed", "Renamed"]
    # And a successor of ingress goes on with the same names, although the first guest is silent.
    later = Rig()
    later.stage.apart.link_up(2, 2, [GUEST_MAC, ip.packed(OWN)])  # type: ignore[union-attr]
    run = later.come(1, tcp_frame(1, b"data", src=OWN, eth_header=FROM_GUEST))[-1]
    assert Ends.of(run.key).guest_addr == INNER
    later.end()


def test_nothing_is_left_when_the_guests_have_gone(rig: Rig) -> None:
    rig.come(1, tcp_frame(1, b"data", src=OWN, eth_header=FROM_GUEST))
    for guest in rig.guests:
        guest.close()
    assert rig.worker.poller is not None
    rig.worker.poller.dispatch(rig.worker.poller.poll(0, 64))
    rig.worker.breathe(monotonic())
    assert rig.worker.counts[INDEX["link_addresses_inner"]] == 0
    third = rig.attach()
    rig.guests.append(third)
    run = rig.come(2, tcp_frame(1, b"data", src=OWN, eth_header=FROM_GUEST))[-1]
    assert Ends.of(run.key).guest_addr == OWN
