"""Captures that clients start: filters, drops, interfaces, and readers that leave or do not read."""

import os
import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from pipeline.config import merge, options
from pipeline.counters import INDEX
from pipeline.go import flags
from pipeline.ipc import messages
from pipeline.ipc.fabric import Fabric
from pipeline.records import kinds
from pipeline.records.frames import Dropped, FrameOut, WatchDrops
from pipeline.records.kinds import RECORD_BYTES
from pipeline.stages.ingress import live, live_writer
from pipeline.stages.ingress.stage import IngressStage
from pipeline.stages.worker import Worker
from pipeline.topology import Layout
from pipeline.wire import ip, offload
from pipeline.wire.virtio_net import LONG_LEN
from tests.support.frames import TO_GUEST, tcp_frame, udp_frame
from tests.support.live_capture import FROM_GUEST as INBOUND
from tests.support.live_capture import TO_GUEST as OUTBOUND
from tests.support.live_capture import Found, read
from tests.support.offload import slot_with_headers, super_segment

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Client:
    """A client of a capture, which reads into memory."""

    def __init__(self, rig: "Rig", **asked: Any) -> None:
        values: dict[str, Any] = {"head": HEAD, "guests": [], "hosts": [], "ports": [], "protocols": []}
        ask = messages.LiveCapture(**{**values, "drops": False, "snaplen": 262144, **asked})
        theirs, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        self.answer = messages.LiveCaptureAnswer.decode(rig.stage.on_control(ask.encode(), [theirs.detach()]))
        self.data = b""
        rig.clients.append(self)

    def drain(self) -> bytes:
        """Everything that has come so far."""
        while True:
            try:
                piece = self.sock.recv(1 << 20)
            except BlockingIOError:
                return self.data
            if not piece:
                return self.data
            self.data += piece


class Rig:
    """The stage in its worker, with guests on socketpairs and clients that capture."""

    def __init__(self) -> None:
        config, _ = merge.build(flags.parse(options.START, []), [], resolv_conf=os.devnull)
        self.fabric = Fabric.create(Layout(64, 1, 1))
        self.worker = Worker(self.fabric.ports("ingress"), None)
        self.stage = IngressStage(self.worker, config)
        self.worker.adopt(self.stage)
        self.demux = self.fabric.ports("demux")
        self.guests: list[socket.socket] = []
        self.clients: list[Client] = []

    def guest(self) -> socket.socket:
        """A guest of /connect."""
        ours, theirs = socket.socketpair()
        assert self.stage.on_control({"op": "attach", "head": b"", "name": "unix"}, [ours.detach()]) == {}
        theirs.setblocking(False)
        self.guests.append(theirs)
        self.turn()
        return theirs

    def turn(self) -> None:
        """One turn of the worker. What comes for demux goes home at once."""
        assert self.worker.poller is not None
        self.worker.poller.dispatch(self.worker.poller.poll(0, 64))
        self.worker.breathe(monotonic())

    def records(self) -> list[bytes]:
        """The records for demux, whose slots are freed."""
        found = []
        ring = self.demux.rings_in["ingress"]
        while burst := ring.peek():
            for at in range(0, len(burst), RECORD_BYTES):
                found.append(bytes(burst[at : at + RECORD_BYTES]))
            ring.release(len(burst) // RECORD_BYTES)
        return found

    def found(self, client: Client) -> Found:
        """What a client has after all is written."""
        for capture in self.stage.captures.live.running():
            while not capture.writer.is_written():
                client.drain()
        data = client.drain()
        assert data.startswith(HEAD)
        return read(data[len(HEAD) :])

    def send(self, guest: socket.socket, *frames: bytes) -> None:
        """Frames of a guest, in one burst."""
        guest.sendall(b"".join(len(frame).to_bytes(2, "little") + frame for frame in frames))
        self.turn()

    def to_guest(self, link: int, *sent: bytes) -> None:
        """Frames of demux for a link."""
        pool = self.fabric.ports("demux")
        for frame in sent:
            slot = self.worker.pool.alloc()
            self.worker.ports.arena.slots[slot][256 : 256 + len(frame)] = frame
            pool.rings_out["ingress"].push(FrameOut.pack(link, slot, 256, len(frame)))
        pool.rings_out["ingress"].publish()
        self.turn()

    def count(self, name: str) -> int:
        """A counter of ingress."""
        return int(self.worker.counts[INDEX[name]])


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.worker.end()
    for sock in (*made.guests, *(client.sock for client in made.clients)):
        sock.close()


def watched(rig: Rig) -> list[bool]:
    """What demux was told about captures of drops."""
    notices = [record for record in rig.records() if record[0] == kinds.WATCH_DROPS]
    return [WatchDrops.unpack(memoryview(record), 0).on for record in notices]


def data_of(found: Found) -> list[bytes]:
    return [packet.data for packet in found.packets]


def test_frames_that_fit_are_written_with_their_direction_and_interface(rig: Rig) -> None:
    guests = [rig.guest(), rig.guest()]
    client = Client(rig, ports=["7000"])
    wanted, other = udp_frame(b"wanted"), udp_frame(b"other", dport=7001)
    rig.send(guests[1], other, wanted, tcp_frame(1, b"tcp"))
    answer = udp_frame(b"answer", sport=7000, dport=40000, eth_header=TO_GUEST)
    rig.to_guest(2, answer, other)
    found = rig.found(client)
    assert found.interfaces == ["link1", "link2"]
    assert [(packet.interface, packet.direction, packet.data) for packet in found.packets] == [
        ("link2", INBOUND, wanted),
        ("link2", OUTBOUND, answer),
    ]


def test_a_run_is_judged_once_and_written_frame_by_frame(rig: Rig) -> None:
    guest = rig.guest()
    client, all_of_it = Client(rig, ports=["80"], snaplen=60), Client(rig)
    segments = [tcp_frame(1 + 500 * number, bytes([number]) * 500) for number in range(6)]
    rig.send(guest, *segments, udp_frame(b"datagram"))
    assert data_of(rig.found(all_of_it)) == [*segments, udp_frame(b"datagram")]
    found = rig.found(client)
    assert data_of(found) == [segment[:60] for segment in segments]
    assert {packet.length for packet in found.packets} == {554}


def test_a_guest_that_comes_later_gets_an_interface_and_a_number_used_again_another_one(rig: Rig) -> None:
    client = Client(rig)
    rig.guest()
    assert rig.found(client).interfaces == ["link1"]
    port = rig.stage.ports.by_number[1]
    rig.stage.captures.live.link_down(1)
    rig.stage.captures.live.link_up(port)
    rig.send(rig.guests[0], udp_frame(b"x"))
    found = rig.found(client)
    assert found.interfaces == ["link1", "link1"]
    assert data_of(found) == [udp_frame(b"x")]


def test_a_capture_of_drops_names_what_ingress_refused(rig: Rig) -> None:
    guest = rig.guest()
    client, passing = Client(rig, drops=True), Client(rig)
    rig.turn()
    assert watched(rig) == [True]
    good = tcp_frame(1, b"good")
    bad = bytearray(tcp_frame(1, b"bad", dport=81))
    bad[-1] ^= 1
    rig.send(guest, good, bytes(bad), b"runt", udp_frame(b"good"))
    found = rig.found(client)
    assert [(packet.data, packet.comment) for packet in found.packets] == [
        (bytes(bad), "dropped: tcp_segment_dropped_bad_checksum"),
        (b"runt", "dropped: link_frame_dropped_runt"),
    ]
    assert data_of(rig.found(passing)) == [good, bytes(bad), b"runt", udp_frame(b"good")]
    client.sock.close()
    rig.turn()
    rig.turn()
    assert watched(rig) == [False]


def test_frames_that_demux_dropped_are_written_and_their_slot_goes_home(rig: Rig) -> None:
    rig.guest()
    client = Client(rig, drops=True, hosts=["93.184.216.34"])
    free = rig.worker.pool.free_count
    slot = rig.worker.pool.alloc()
    frame = udp_frame(b"dropped")
    rig.worker.ports.arena.slots[slot][256 : 256 + len(frame)] = frame
    reason = INDEX["switch_frame_dropped_gateway_source"]
    record = Dropped(False, 1, 0, reason, slot, 256, len(frame), len(frame), 1)
    rig.demux.rings_out["ingress"].push(record.pack())
    rig.demux.rings_out["ingress"].publish()
    rig.turn()
    (packet,) = rig.found(client).packets
    assert (packet.data, packet.comment) == (frame, "dropped: switch_frame_dropped_gateway_source")
    assert rig.worker.pool.free_count == free


def test_a_reader_that_does_not_read_loses_frames_and_hears_how_many(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_writer, "MAX_QUEUED", 50_000)
    guest = rig.guest()
    client, quick = Client(rig), Client(rig)
    frames = [udp_frame(bytes(1400), ident=number) for number in range(20)]
    for _ in range(40):
        rig.send(guest, *frames)
        rig.records()
        quick.drain()
    lost = rig.count("capture_frames_dropped")
    assert lost > 0
    assert len(rig.stage.captures.live.running()) == 2
    rig.found(client)
    rig.send(guest, udp_frame(b"last"))
    found = rig.found(client)
    assert found.packets[-1].data == udp_frame(b"last")
    assert sum(packet.missing for packet in found.packets) + len(found.packets) == 801
    assert len(rig.found(quick).interfaces) == 1


def test_no_more_than_four_captures_run(rig: Rig) -> None:
    clients = [Client(rig) for _ in range(live.MAX_CAPTURES)]
    fifth = Client(rig)
    assert fifth.answer.busy
    assert fifth.answer.refused == "4 captures are running (allowed: 4)"
    assert fifth.sock.recv(1) == b"", "its socket is closed"
    clients[0].sock.close()
    rig.turn()
    assert Client(rig).answer.refused is None


def test_a_wrong_filter_is_refused(rig: Rig) -> None:
    client = Client(rig, ports=["0"])
    assert (client.answer.busy, client.answer.refused) == (
        False,
        "port '0' is wrong (allowed: 1 to 65535, or a range low-high)",
    )
    assert len(rig.stage.captures.live.running()) == 0


def test_a_client_that_leaves_ends_its_capture_and_what_it_says_is_ignored(rig: Rig) -> None:
    guest = rig.guest()
    client = Client(rig)
    client.sock.send(b"more")
    rig.turn()
    assert len(rig.stage.captures.live.running()) == 1
    client.sock.close()
    rig.turn()
    assert len(rig.stage.captures.live.running()) == 0
    assert not rig.stage.captures.live.passing
    rig.send(guest, udp_frame(b"x"))


def test_a_super_segment_is_judged_once_and_written_cut(rig: Rig) -> None:
    rig.guest()
    client = Client(rig, ports=["80"])
    payload = bytes(range(250)) * 20
    view, places = slot_with_headers([super_segment(1, payload, 1448)])
    slot = rig.worker.pool.alloc()
    rig.worker.ports.arena.slots[slot][: len(view)] = view
    port = rig.stage.ports.by_number[1]
    port.link.vnet_len, port.link.features = LONG_LEN, offload.FEATURES
    rig.stage.captures.live.received(port, slot, places, [], False)
    port.link.vnet_len = 0
    found = rig.found(client)
    assert b"".join(packet.data[54:] for packet in found.packets) == payload
    assert max(packet.length for packet in found.packets) == 54 + 1448
    rig.worker.free(slot)


def test_a_verdict_about_a_flow_is_remembered_until_something_changes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = rig.guest()
    client = Client(rig, ports=["81"])
    looked: list[int] = []
    real = live.capture_filter.read
    monkeypatch.setattr(live.capture_filter, "read", lambda *words: looked.append(1) or real(*words))
    for number in range(5):
        rig.send(guest, *(tcp_frame(1 + 500 * (2 * number + each), bytes(500)) for each in range(2)))
        rig.records()
    assert len(looked) == 1
    other = Client(rig, ports=["80"])
    rig.send(guest, tcp_frame(5001, b"more"))
    assert data_of(rig.found(other)) == [tcp_frame(5001, b"more")]
    assert data_of(rig.found(client)) == []


def test_flows_without_end_do_not_fill_the_memory(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_VERDICTS", 8)
    guest = rig.guest()
    client = Client(rig, ports=["80"])
    for number in range(50):
        rig.send(guest, tcp_frame(1, b"x", sport=1000 + number))
        rig.records()
    assert len(rig.found(client).packets) == 50
    assert len(rig.stage.captures.live._verdicts) <= 8


def test_a_guest_by_address_gets_its_broadcasts_once_it_has_sent(rig: Rig) -> None:
    guest = rig.guest()
    client = Client(rig, guests=["192.168.127.2"])
    offer = udp_frame(
        b"x", src=ip.from_ipv4(0x0A000001), dst=ip.BROADCAST, eth_header=b"\xff" * 6 + TO_GUEST[6:]
    )
    rig.to_guest(1, offer)
    rig.send(guest, udp_frame(b"here"))
    rig.to_guest(1, offer)
    assert data_of(rig.found(client)) == [udp_frame(b"here"), offer]


def test_the_end_of_the_daemon_does_not_wait_long_for_readers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(live_writer.LiveWriter, "drain", lambda _self, timeout: waits.append(timeout))
    for _ in range(4):
        Client(rig)
    rig.stage.captures.live.close()
    assert len(waits) == 4
    assert max(waits) <= live.LAST_WAIT
    assert rig.stage.captures.live.running() == []
