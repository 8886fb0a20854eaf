"""Blocks are what python-pcapng reads, whatever is in them."""

import io
import struct

import pcapng as reader
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pcapng.blocks import EnhancedPacket, InterfaceDescription, SectionHeader

from pipeline.wire import pcapng

MAC = bytes.fromhex("5a94efe40cee")


def blocks(data: bytes) -> list[object]:
    return list(reader.FileScanner(io.BytesIO(data)))


def head(snaplen: int = pcapng.SNAPLEN) -> bytes:
    return pcapng.section_header("a program") + pcapng.interface_description("link3", "qemu", MAC, snaplen)


def test_a_capture_begins_with_its_program_and_its_interfaces() -> None:
    section, interface = blocks(head(96))
    assert isinstance(section, SectionHeader)
    assert section.options["shb_userappl"] == "a program"
    assert isinstance(interface, InterfaceDescription)
    assert (interface.options["if_name"], interface.options["if_description"]) == ("link3", "qemu")
    assert interface.options["if_MACaddr"] == "5a:94:ef:e4:0c:ee"
    assert (interface.link_type, interface.snaplen) == (pcapng.LINKTYPE_ETHERNET, 96)
    assert interface.timestamp_resolution == 1e-9


@settings(deadline=None)
@given(
    frame=st.binary(max_size=200),
    snaplen=st.integers(1, 300),
    when=st.integers(0, 2**63),
    flags=st.sampled_from([pcapng.INBOUND, pcapng.OUTBOUND]),
    lost=st.integers(0, 2**40),
    comment=st.text(max_size=50).filter(lambda text: "\0" not in text),
)
def test_a_frame_is_read_as_it_was_written(
    frame: bytes, snaplen: int, when: int, flags: int, lost: int, comment: str
) -> None:
    pieces = pcapng.enhanced_packet(0, when, frame, snaplen, flags, lost, comment)
    data = b"".join(pieces)
    assert pcapng.block_head(data) == (pcapng.ENHANCED_PACKET, len(data))
    packet = blocks(head() + data)[-1]
    assert isinstance(packet, EnhancedPacket)
    assert packet.packet_data == frame[:snaplen]
    assert packet.packet_len == len(frame)
    assert packet.timestamp_high << 32 | packet.timestamp_low == when
    assert packet.options["epb_flags"].inout == {1: "inbound", 2: "outbound"}[flags]
    assert ("epb_dropcount" in packet.options) == bool(lost)
    assert not lost or packet.options["epb_dropcount"] == lost
    assert not comment or packet.options["opt_comment"] == comment


def test_a_frame_in_a_slot_is_not_copied() -> None:
    frame = memoryview(bytearray(1000))
    assert pcapng.enhanced_packet(0, 0, frame, 2000, pcapng.INBOUND, 0, "")[1] is frame


@pytest.mark.parametrize("length", [0, 8, 13])
def test_a_block_of_an_impossible_length_is_an_error(length: int) -> None:
    with pytest.raises(pcapng.BlockError, match=f"a block of {length} bytes is impossible"):
        pcapng.block_head(struct.pack("<II", 6, length))
