"""What a guest gets of another guest's frame, by the kinds of their links."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.counters import INDEX
from pipeline.engines.offload import gro
from pipeline.engines.offload.gso import Segmenter
from pipeline.ipc.arena import SLOT_BYTES, Pool
from pipeline.records.frames import FrameOut
from pipeline.records.tcp import TcpRange
from pipeline.stages.ingress.offload import VnetOffload
from pipeline.wire import ethernet, offload
from pipeline.wire.framing import LE16, split
from pipeline.wire.virtio_net import DATA_VALID, GSO_TCPV4, LONG_LEN, Header, build
from tests.support.frames import GUEST_MAC, slot_of, tcp_frame, udp_frame
from tests.support.offload import slot_with_headers, super_datagram, super_segment

PAYLOAD = bytes(range(250)) * 20


class Worker:
    """As much of one as the card needs."""

    def __init__(self) -> None:
        self.pool = Pool(0, 4)
        self.counts = [0] * len(INDEX)
        slots = [memoryview(bytearray(SLOT_BYTES)) for _ in range(4)]
        self.ports = SimpleNamespace(arena=SimpleNamespace(slots=slots))
        self.log = SimpleNamespace(info=lambda *_, **__: None)


def card_with(header: Header, frame: bytes) -> tuple[Any, VnetOffload, int, int]:
    """A card, and where in slot 0 the frame lies after its header: (worker, card, off, length)."""
    worker: Any = Worker()
    view, ((off, length),) = slot_with_headers([(header, frame)])
    worker.ports.arena.slots[0] = view
    return worker, VnetOffload(worker, 1500), off, length


def switched(header: Header, frame: bytes, to_offload: bool) -> list[bytes]:
    """The records that go out on the other guest's link, without their length."""
    _, card, off, length = card_with(header, frame)
    form = offload.FRAMING if to_offload else LE16
    segmenter = Segmenter(form, LONG_LEN if to_offload else 0)
    out = FrameOut(1, 0, off, length, vnet=True, borrowed=False, except_link=0)
    stream = b"".join(bytes(part) for part in card.buffers(out, card.frames(out), segmenter))
    places, end = split(stream, 0, len(stream), form)
    assert end == len(stream)
    return [stream[begin : begin + size] for begin, size in places]


def test_a_super_segment_reaches_a_guest_with_offload_as_it_is() -> None:
    header, frame = super_segment(1, PAYLOAD, 1448)
    assert switched(header._replace(num_buffers=77), frame, True) == [build(header, LONG_LEN) + frame]


def test_a_super_segment_reaches_any_other_guest_in_frames() -> None:
    header, frame = super_segment(1, PAYLOAD, 1448)
    expected = [
        tcp_frame(1 + begin, PAYLOAD[begin : begin + 1448], ident=number)
        for number, begin in enumerate(range(0, len(PAYLOAD), 1448))
    ]
    assert switched(header, frame, False) == expected


def test_a_super_segment_reaches_a_guest_without_tso_in_frames() -> None:
    header, frame = super_segment(1, PAYLOAD, 1448)
    _, card, off, length = card_with(header, frame)
    out = FrameOut(1, 0, off, length, vnet=True, borrowed=False, except_link=0)
    segmenter = Segmenter(offload.FRAMING, LONG_LEN, offload.CSUM)
    stream = b"".join(bytes(part) for part in card.buffers(out, card.frames(out), segmenter))
    places, _ = split(stream, 0, len(stream), offload.FRAMING)
    assert [stream[begin : begin + LONG_LEN] for begin, _ in places] == [bytes(LONG_LEN)] * len(places)
    frames = [stream[begin + LONG_LEN : begin + size] for begin, size in places]
    assert frames == switched(header, frame, False)


@pytest.mark.parametrize("to_offload", [True, False])
def test_datagrams_in_one_piece_reach_any_other_guest_one_by_one(to_offload: bool) -> None:
    header, frame = super_datagram(PAYLOAD, 1000)
    found = switched(header, frame, to_offload)
    head = LONG_LEN if to_offload else 0
    assert [record[:head] for record in found] == [bytes(head)] * 5
    assert b"".join(record[head + 42 :] for record in found) == PAYLOAD
    items, drops = gro.coalesce(*slot_of([record[head:] for record in found]))
    assert (sum(item.piece_count() for item in items), drops) == (5, {})


def test_an_open_checksum_is_closed_only_for_a_guest_without_offload() -> None:
    header, frame = super_segment(1, b"hello", 1448)
    assert switched(header, frame, True) == [build(header, LONG_LEN) + frame]
    assert switched(header, frame, False) == [tcp_frame(1, b"hello")]


@pytest.mark.parametrize("header", [Header(), Header(flags=DATA_VALID)], ids=["verified", "vouched for"])
def test_a_whole_frame_stays_whole_and_the_next_guest_may_verify_it(header: Header) -> None:
    frame = tcp_frame(1, b"hello")
    assert switched(header, frame, True) == [bytes(LONG_LEN) + frame]
    assert switched(header, frame, False) == [frame]


@pytest.mark.parametrize("to_offload", [True, False])
def test_a_whole_datagram_longer_than_the_mtu_reaches_any_guest_in_fragments(to_offload: bool) -> None:
    frame = udp_frame(PAYLOAD)
    found = switched(Header(), frame, to_offload)
    head = LONG_LEN if to_offload else 0
    assert [record[:head] for record in found] == [bytes(head)] * 4
    assert max(len(record) - head for record in found) <= 1514
    assert b"".join(record[head + 34 :] for record in found) == frame[34:]


def test_what_is_cut_on_arrival_has_references_of_its_own() -> None:
    to_group = ethernet.header(bytes.fromhex("01005e0000fb"), GUEST_MAC, ethernet.TYPE_IPV4)
    worker, card, off, length = card_with(*super_datagram(PAYLOAD, 1000, eth_header=to_group))
    pool = worker.pool
    slot = pool.alloc()
    assert slot == 0
    items, drops = card.receive(1, offload.FEATURES, slot, [(off, length)])
    assert (len(items), drops) == (5, {})
    assert pool.refs(slot) == 1
    (other,) = {item.slot for item in items}
    for item in items:
        pool.unref(item.slot)
    assert pool.refs(other) == 1
    card.release_idle()
    pool.unref(slot)
    assert pool.refs_out == 0


def test_a_range_takes_one_reference() -> None:
    header, frame = super_segment(1, PAYLOAD, 1448)
    assert header.gso_type == GSO_TCPV4
    worker, card, off, length = card_with(header, frame)
    pool = worker.pool
    slot = pool.alloc()
    items, _ = card.receive(1, offload.FEATURES, slot, [(off, length)])
    assert len(items) == 1
    assert pool.refs(slot) == 2


def test_a_priority_tag_is_removed_behind_the_header() -> None:
    header, frame = super_segment(1, PAYLOAD, 1448)
    later = header._replace(csum_start=header.csum_start + 4, hdr_len=header.hdr_len + 4)
    worker, card, off, length = card_with(later, frame[:12] + bytes.fromhex("8100a000") + frame[12:])
    pool = worker.pool
    slot = pool.alloc()
    places = [(off, length)]
    (item,), drops = card.receive(1, offload.FEATURES, slot, places)
    assert (type(item), drops) == (TcpRange, {})
    assert places == [(off + 4, length - 4)]
    view = worker.ports.arena.slots[slot]
    assert bytes(view[off + 4 : off + length]) == frame
    assert bytes(view[off + 4 - LONG_LEN : off + 4]) == build(header, LONG_LEN)
    pool.unref(slot)
    pool.unref(slot)


def test_a_frame_longer_than_the_mtu_without_header_is_cut_for_another_guest() -> None:
    worker, card, _, _ = card_with(*super_segment(1, b"x", 1448))
    view, ((off, length), (next_off, longest)) = slot_of(
        [tcp_frame(1, PAYLOAD), tcp_frame(1, PAYLOAD[:1460])]
    )
    worker.ports.arena.slots[0] = view
    out = FrameOut(1, 0, off, length, vnet=False, borrowed=False, except_link=0)
    assert [len(buffer) for buffer in card.buffers(out, card.frames(out), Segmenter(None))] == [
        54 + min(1460, len(PAYLOAD) - begin) for begin in range(0, len(PAYLOAD), 1460)
    ]
    out = FrameOut(1, 0, next_off, longest, vnet=False, borrowed=False, except_link=0)
    assert card.buffers(out, card.frames(out), Segmenter(None)) == [tcp_frame(1, PAYLOAD[:1460])]
