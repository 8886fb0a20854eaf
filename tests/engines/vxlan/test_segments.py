"""Cutting super-segments for the tunnel: the frames are those that tso makes one by one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.offload import tso
from pipeline.engines.vxlan.segments import Cutter, completed
from pipeline.wire import tcp
from pipeline.wire.virtio_net import GSO_TCPV4
from tests.support.frames import timestamps
from tests.support.offload import super_datagram, super_segment, super_segment_v6

TUNNEL = bytes(range(8))
FLAGS = st.sampled_from(
    [tcp.ACK, tcp.ACK | tcp.PSH, tcp.ACK | tcp.FIN | tcp.PSH, tcp.ACK | tcp.CWR | tcp.ECE]
)
LENGTHS = st.integers(1, 20000) | st.sampled_from([1448 * 45, 65000])


def payload_of(length: int) -> bytes:
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def frames_of(made: memoryview, size: int) -> list[bytes]:
    found = []
    for begin in range(0, len(made), size):
        datagram = bytes(made[begin : begin + size])
        assert datagram[: len(TUNNEL)] == TUNNEL
        found.append(datagram[len(TUNNEL) :])
    return found


@given(
    length=LENGTHS,
    gso_size=st.integers(48, 9000),
    flags=FLAGS,
    options=st.sampled_from([b"", timestamps()]),
    seq=st.integers(0xFFFFFFFF - 9000, 0xFFFFFFFF) | st.integers(0, 9000),
    ident=st.integers(0, 0xFFFF),
)
@settings(deadline=None, max_examples=100)
def test_frames_are_those_of_tso(
    length: int, gso_size: int, flags: int, options: bytes, seq: int, ident: int
) -> None:
    header, frame = super_segment(
        seq, payload_of(length), gso_size, flags=flags, options=options, ident=ident
    )
    header = header._replace(gso_type=GSO_TCPV4, gso_size=gso_size)
    cutter = Cutter(TUNNEL)
    for _ in range(2):
        made, size = cutter.cut(memoryview(frame), header)
        assert frames_of(made, size) == [bytes(each) for each in tso.cut(memoryview(frame), header)]


@given(
    length=LENGTHS,
    gso_size=st.integers(48, 9000),
    extension=st.sampled_from([b"", bytes([6, 0, 1, 4, 0, 0, 0, 0])]),
)
@settings(deadline=None, max_examples=60)
def test_frames_over_ipv6_are_those_of_tso(length: int, gso_size: int, extension: bytes) -> None:
    header, frame = super_segment_v6(77, payload_of(length), gso_size, extension)
    made, size = Cutter(TUNNEL).cut(frame, header)
    assert frames_of(made, size) == [bytes(each) for each in tso.cut(memoryview(frame), header)]


@given(st.integers(0, 3000))
@settings(deadline=None, max_examples=30)
def test_a_partial_checksum_is_completed_in_a_copy(length: int) -> None:
    header, frame = super_datagram(payload_of(length), 0)
    whole = bytearray(frame)
    tso.complete(whole, header.csum_start, header.csum_offset)
    assert completed(frame, header) == whole
