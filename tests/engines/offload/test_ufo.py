"""Datagrams that a guest leaves to its card to cut into fragments (UFO), as guests of libkrun do."""

import pytest

from pipeline.engines.offload import stripped
from pipeline.records.frames import Frame
from pipeline.records.udp import UdpRange
from pipeline.wire import offload, udp
from pipeline.wire.virtio_net import GSO_UDP, NEEDS_CSUM, Header
from tests.engines.offload.test_vnet import PAYLOAD, PLAIN, Nic, check_datagram
from tests.support.frames import GUEST6, REMOTE6, udp_frame6
from tests.support.offload import left_out, super_datagram, super_segment_v6

TAKEN = offload.FEATURES | offload.UFO


def edited_at(made: tuple[Header, bytes], bytes_at: dict[int, int]) -> tuple[Header, bytes]:
    """The frame with these bytes."""
    frame = bytearray(made[1])
    for at, value in bytes_at.items():
        frame[at] = value
    return made[0], bytes(frame)


def long_datagram(size: int = 5000) -> tuple[Header, bytes]:
    """A datagram that the guest leaves to its card to cut into fragments."""
    header, frame = super_datagram(PAYLOAD[:size], 1480)
    return header._replace(gso_type=GSO_UDP), frame


def test_a_datagram_for_fragments_is_one_whole_datagram_with_a_checksum() -> None:
    made = long_datagram()
    nic = Nic([made], features=TAKEN)
    (run,) = nic.items
    assert isinstance(run, UdpRange)
    assert (run.length, run.piece_count(), run.vnet) == (5000, 1, True)
    assert nic.header(0) == PLAIN
    assert check_datagram(memoryview(nic.frame(run))) == PAYLOAD[:5000]
    assert nic.drops == {}


@pytest.mark.parametrize(
    "made",
    [
        edited_at(long_datagram(), {38: 0, 39: 9}),
        edited_at(long_datagram(), {23: 6}),
        edited_at(long_datagram(), {20: 0x20}),
        (long_datagram()[0]._replace(gso_size=0), long_datagram()[1]),
        (long_datagram()[0]._replace(csum_offset=16), long_datagram()[1]),
        (long_datagram()[0]._replace(csum_start=42), long_datagram()[1]),
        (long_datagram()[0], long_datagram()[1][:-1]),
        (
            super_segment_v6(1, PAYLOAD, 1000)[0]._replace(gso_type=GSO_UDP),
            super_segment_v6(1, PAYLOAD, 1)[1],
        ),
    ],
)
def test_a_datagram_for_fragments_that_its_header_denies_is_dropped(made: tuple[Header, bytes]) -> None:
    nic = Nic([made], features=TAKEN)
    assert (nic.items, nic.drops) == ([], {"link_frame_dropped_bad_vnet_header": 1})


def test_without_ufo_it_is_dropped_and_counted() -> None:
    nic = Nic([long_datagram()], features=offload.FEATURES)
    assert (nic.items, nic.drops) == ([], {"link_frame_dropped_bad_vnet_header": 1})


def test_the_longest_datagram_is_served() -> None:
    header, frame = super_datagram(bytes(65507), 1480)
    (run,) = Nic([(header._replace(gso_type=GSO_UDP), frame)], features=TAKEN).items
    assert isinstance(run, UdpRange)
    assert run.length == 65507


def long_datagram6() -> tuple[Header, bytes]:
    """The same over IPv6."""
    return Header(NEEDS_CSUM, GSO_UDP, 62, 1448, 54, 6, 0), left_out(udp_frame6(PAYLOAD))


def test_over_ipv6_it_is_served_too() -> None:
    header, frame = long_datagram6()
    nic = Nic([(header, frame)], features=TAKEN)
    (item,) = nic.items
    assert isinstance(item, Frame)
    assert nic.header(0) == PLAIN
    whole = nic.frame(item)
    udp.verify(whole, 54, udp.parse(whole, 54, len(whole)), GUEST6, REMOTE6)
    assert len(stripped.cut(memoryview(whole), 1500, 1)) == 8


@pytest.mark.parametrize("at", [20, 58], ids=["next header", "length"])
def test_over_ipv6_a_header_that_denies_it_is_dropped(at: int) -> None:
    nic = Nic([edited_at(long_datagram6(), {at: 6})], features=TAKEN)
    assert (nic.items, nic.drops) == ([], {"link_frame_dropped_bad_vnet_header": 1})
