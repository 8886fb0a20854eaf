"""Long-header packets of QUIC, numbers and frames, and bytes that are none."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import quic_initial
from pipeline.wire.quic_initial import Crypto
from tests.support import hellos


def test_an_initial_packet_names_its_connection_and_its_end() -> None:
    data = hellos.initial(hellos.crypto(0, b"x"), token=b"token")
    packet = quic_initial.packet_at(data + b"next", 0)
    assert packet is not None
    assert (packet.version, packet.initial, packet.dcid, packet.end) == (1, True, hellos.DCID, len(data))


def test_frames_that_an_initial_packet_may_have_are_skipped() -> None:
    ack = b"\2\0\0\1\0\0\0" + b"\3\0\0\0\0\1\2\3"
    payload = b"\0\0\1" + ack + hellos.crypto(5, b"abc") + b"\1" + hellos.crypto(0, b"de") + b"\0"
    assert quic_initial.crypto_frames(payload) == [Crypto(5, b"abc"), Crypto(0, b"de")]
    assert quic_initial.crypto_frames(b"\x08") is None
    assert quic_initial.crypto_frames(hellos.crypto(0, b"abc")[:-1]) is None


def test_numbers_have_four_lengths() -> None:
    for size, value in ((1, 37), (2, 15293), (4, 494878333), (8, 151288809941952652)):
        data = (value | size.bit_length() - 1 << 8 * size - 2).to_bytes(size, "big")
        assert quic_initial.varint(b"x" + data, 1) == (value, 1 + size)


@given(st.binary(max_size=100), st.sampled_from([b"", b"\xc0\0\0\0\1", b"\xd0\x6b\x33\x43\xcf"]))
def test_no_bytes_are_too_odd(data: bytes, head: bytes) -> None:
    packet = quic_initial.packet_at(head + data, 0)
    assert packet is None or packet.pn_at < packet.end <= len(head + data)
    quic_initial.crypto_frames(data)
