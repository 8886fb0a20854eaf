"""What the capture writes for frames behind virtio-net headers, true and untrue, and for each link."""

import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.counters import INDEX
from pipeline.engines.offload.gso import Segmenter
from pipeline.links import pcap
from pipeline.stages.ingress.capture import Capture
from pipeline.system import outlet
from pipeline.wire import offload, tcp
from pipeline.wire.framing import LE16, QEMU
from pipeline.wire.virtio_net import GSO_TCPV4, GSO_UDP, LONG_LEN, NEEDS_CSUM, Header
from tests.support import ranges
from tests.support.frames import (
    FROM_GUEST,
    GUEST,
    REMOTE,
    slot_of,
    tcp_frame,
    timestamps,
    udp_frame,
)
from tests.support.offload import ipv4_header, left_out, slot_with_headers, super_datagram, super_segment

PAYLOAD = bytes(range(250)) * 20


class Written:
    """A capture into a file, and what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.infos: list[str] = []
        self.counts = [0] * len(INDEX)
        worker: Any = SimpleNamespace(
            log=SimpleNamespace(
                error=lambda event, **about: self.errors.append(about["error"]),
                warning=lambda event: self.warnings.append(event),
                info=lambda event: self.infos.append(event),
            ),
            counts=self.counts,
        )
        self.capture = Capture(worker, 1500)
        self.capture.start(pcap.open_file(str(path)))

    def frames(self) -> list[bytes]:
        assert self.capture.drain(5)
        data, found, at = self.path.read_bytes(), [], 24
        while at < len(data):
            (kept,) = struct.unpack_from("<I", data, at + 8)
            found.append(data[at + 16 : at + 16 + kept])
            at += 16 + kept
        return found


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path / "a.pcap")


def cut(payload: bytes) -> list[bytes]:
    return [
        tcp_frame(1 + begin, payload[begin : begin + 1448], ident=number)
        for number, begin in enumerate(range(0, len(payload), 1448))
    ]


def test_frames_without_headers_are_written_as_they_are(written: Written) -> None:
    view = memoryview(b"--one---two")
    written.capture.received(view, [(2, 3), (8, 3)], 0, 0)
    assert written.frames() == [b"one", b"two"]


def test_frames_whose_header_was_stripped_are_written_cut_and_with_checksums(written: Written) -> None:
    whole = tcp_frame(1, PAYLOAD, options=timestamps())
    short = tcp_frame(1, b"short")[34:]
    options = ipv4_header(len(short), 9, 6, GUEST, REMOTE, b"\1\1\1\0")
    frames = [whole, left_out(FROM_GUEST + options + short), left_out(udp_frame(PAYLOAD))]
    # GRO has been there, and completes what is plain.
    view, places = slot_of(frames[:1])
    written.capture.received(view, places, 0, 0)
    view, places = slot_of(frames[1:])
    written.capture.received(view, places, 0, 0)
    found = written.frames()
    assert b"".join(frame[66:] for frame in found[:4]) == PAYLOAD
    assert max(map(len, found)) == 1514
    for frame in found[:4]:
        tcp.verify(frame, 34, len(frame), GUEST, REMOTE)
    tcp.verify(found[4], 38, len(found[4]), GUEST, REMOTE)
    assert found[4][38:] == short
    assert [len(frame) for frame in found[5:]] == [1514, 1514, 1514, 14 + 20 + 5008 - 3 * 1480]
    assert found[5][40:42] == udp_frame(PAYLOAD)[40:42]


def test_a_super_segment_is_written_in_frames(written: Written) -> None:
    view, places = slot_with_headers([super_segment(1, PAYLOAD, 1448)])
    written.capture.received(view, places, LONG_LEN, offload.FEATURES)
    assert written.frames() == cut(PAYLOAD)


def test_a_datagram_for_fragments_is_written_in_fragments(written: Written) -> None:
    header, frame = super_datagram(PAYLOAD, 1480)
    view, places = slot_with_headers([(header._replace(gso_type=GSO_UDP), frame)])
    written.capture.received(view, places, LONG_LEN, offload.FEATURES | offload.UFO)
    found = written.frames()
    assert [len(part) for part in found] == [1514, 1514, 1514, 34 + 5008 - 3 * 1480]
    assert b"".join(part[34:] for part in found)[8:] == PAYLOAD


def test_a_checksum_that_was_left_out_is_completed_in_the_file(written: Written) -> None:
    view, places = slot_with_headers([super_segment(1, b"short", 1448)])
    header = Header(NEEDS_CSUM, csum_start=34, csum_offset=16)
    off, length = places[0]
    view[off - LONG_LEN : off] = struct.pack("<BBHHHHH", *header)
    before = bytes(view[off : off + length])
    written.capture.received(view, places, LONG_LEN, offload.FEATURES)
    assert written.frames() == [tcp_frame(1, b"short")]
    assert bytes(view[off : off + length]) == before, "the frame on its way is as it was"


@pytest.mark.parametrize(
    "header",
    [
        Header(NEEDS_CSUM, GSO_TCPV4, gso_size=1, csum_start=34, csum_offset=16),
        Header(NEEDS_CSUM, GSO_TCPV4, gso_size=1448, csum_start=60000, csum_offset=16),
        Header(0, GSO_TCPV4, gso_size=0),
        Header(255, 255, 65535, 65535, 65535, 65535, 65535),
    ],
)
def test_a_frame_with_an_untrue_header_is_written_as_it_is(written: Written, header: Header) -> None:
    frame = tcp_frame(1, b"hello")
    view, places = slot_with_headers([(header, frame)])
    written.capture.received(view, places, LONG_LEN, offload.FEATURES)
    assert written.frames() == [frame]


@pytest.mark.parametrize("form", [LE16, QEMU, None], ids=["le16", "qemu", "packets"])
def test_what_is_sent_is_written_in_frames_without_their_lengths(written: Written, form: Any) -> None:
    segmenter = Segmenter(form)
    buffers = ranges.cut(segmenter, PAYLOAD, 1, 1, 0x10, 500, b"", 1460, 1)
    written.capture.sent(buffers + segmenter.frame(b"another frame"), form, 0)
    frames = written.frames()
    assert [len(frame) for frame in frames] == [1514, 1514, 1514, 54 + len(PAYLOAD) % 1460, 13]
    assert b"".join(frame[54:] for frame in frames[:-1]) == PAYLOAD


def test_what_is_sent_whole_to_a_guest_that_offloads_is_written_cut(written: Written) -> None:
    whole = Segmenter(offload.FRAMING, LONG_LEN)
    words = (PAYLOAD, 1, 1, 0x10, 500, b"", 1460, 1)
    written.capture.sent(ranges.cut(whole, *words), offload.FRAMING, LONG_LEN)
    plain = Segmenter(None)
    assert written.frames() == [bytes(frame) for frame in ranges.cut(plain, *words)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_said_once_and_the_capture_goes_on(
    tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "ROOM_WAIT", 0.01)
    fd = os.open("/dev/full", os.O_WRONLY)
    written.capture.start(fd)
    for _ in range(5):
        written.capture.received(memoryview(b"frame"), [(0, 5)], 0, 0)
        assert not written.capture.drain(0.05)
    assert written.errors == ["No space left on device"]
    room = os.open(tmp_path / "room", os.O_WRONLY | os.O_CREAT)
    os.dup2(room, fd)
    os.close(room)
    assert written.capture.drain(5)
    written.capture.received(memoryview(b"frame"), [(0, 5)], 0, 0)
    assert written.capture.drain(5)
    assert written.capture.active
    assert (tmp_path / "room").read_bytes().count(b"frame") == 6
    assert (written.warnings, written.infos) == ([], ["capture written again"])
    assert written.errors == ["No space left on device"]


def test_a_file_that_is_gone_ends_the_capture_with_one_line(written: Written) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    written.capture.start(writer)
    written.capture.received(memoryview(b"frame"), [(0, 5)], 0, 0)
    assert written.capture.drain(5)
    written.capture.received(memoryview(b"frame"), [(0, 5)], 0, 0)
    assert not written.capture.active
    assert written.errors == ["Broken pipe"]


def test_frames_that_the_capture_lacks_are_counted_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pcap, "MAX_QUEUED", 100_000)
    path = tmp_path / "live"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    written = Written(path)
    burst = memoryview(bytes(30_000))
    for _ in range(20):
        written.capture.received(burst, [(0, 10_000), (10_000, 20_000)], 0, 0)
    lost = written.counts[INDEX["capture_frames_dropped"]]
    assert 0 < lost < 40
    assert lost % 2 == 0, "frames of a burst are lost together"
    assert len(written.warnings) == 1
    os.close(reader)
    written.capture.close()
