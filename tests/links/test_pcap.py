"""Capture files: their bytes, where they may lie, and what a failing disk does."""

import contextlib
import os
import stat
import struct
from pathlib import Path

import pytest

from pipeline.links import pcap
from pipeline.links.pcap import PcapWriter
from pipeline.system import outlet


def records(data: bytes) -> list[tuple[float, int, bytes]]:
    """(time, length on the wire, bytes kept) of each record behind the file's header."""
    found, at = [], 24
    while at < len(data):
        seconds, micro, kept, length = struct.unpack_from("<IIII", data, at)
        found.append((seconds + micro / 1e6, length, data[at + 16 : at + 16 + kept]))
        at += 16 + kept
    return found


def test_the_file_begins_as_the_format_says_and_is_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    os.close(pcap.open_file(str(path)))
    assert path.read_bytes().hex() == "d4c3b2a1020004000000000000000000" + "00000400" + "01000000"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_frames_are_there_with_each_flush_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    writer = PcapWriter(pcap.open_file(str(path)))
    writer.add(b"one", 1700000000.25)
    writer.add(memoryview(b"three"), 1700000000.999999)
    assert records(path.read_bytes()) == []
    assert writer.flush() == 0
    assert writer.drain(5)
    assert records(path.read_bytes()) == [
        (1700000000.25, 3, b"one"),
        (1700000000.999999, 5, b"three"),
    ]
    writer.add(bytearray(b"four"), 1700000001.9999999)
    writer.flush()
    writer.flush()
    assert writer.drain(5)
    assert records(path.read_bytes())[2:] == [(1700000002.0, 4, b"four")]
    writer.close()
    writer.close()


def test_a_frame_beyond_the_snapshot_length_is_cut_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    writer = PcapWriter(pcap.open_file(str(path)))
    writer.add(b"x" * (pcap.SNAPLEN + 1), 0.0)
    writer.flush()
    assert writer.drain(5)
    ((_, length, kept),) = records(path.read_bytes())
    assert (length, len(kept)) == (pcap.SNAPLEN + 1, pcap.SNAPLEN)
    writer.close()


def test_a_file_of_the_name_is_replaced_and_what_it_was_linked_to_stays(tmp_path: Path) -> None:
    path, other = tmp_path / "a.pcap", tmp_path / "other"
    other.write_text("precious")
    path.symlink_to(other)
    os.close(pcap.open_file(str(path)))
    assert other.read_text() == "precious"
    assert not path.is_symlink()


def test_a_fifo_is_written_into_for_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "live"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device"):
        pcap.open_file(str(path))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = PcapWriter(pcap.open_file(str(path)))
    writer.add(b"frame", 1.5)
    writer.flush()
    assert writer.drain(5)
    assert records(os.read(reader, 1000)) == [(1.5, 5, b"frame")]
    os.close(reader)
    writer.add(b"frame", 1.5)
    writer.flush()
    assert writer.drain(5)
    with pytest.raises(BrokenPipeError):
        writer.flush()
    writer.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_frames_wait_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "ROOM_WAIT", 0.01)
    fd = os.open("/dev/full", os.O_WRONLY)
    writer = PcapWriter(fd)
    for when in (0.0, 1.0):
        writer.add(b"frame", when)
        assert writer.flush() == 0
    assert not writer.drain(0.1)
    assert writer.waits_for_room == "No space left on device"
    room = os.open(tmp_path / "capture", os.O_WRONLY | os.O_CREAT)
    os.dup2(room, fd)
    os.close(room)
    assert writer.drain(5)
    assert writer.waits_for_room == ""
    data = (tmp_path / "capture").read_bytes()
    assert records(bytes(24) + data) == [(0.0, 5, b"frame"), (1.0, 5, b"frame")]
    writer.close()


def test_a_reader_that_stops_costs_frames_and_never_time(tmp_path: Path) -> None:
    path = tmp_path / "live"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = PcapWriter(pcap.open_file(str(path)))
    burst, lost, passed = bytes(60000), 0, 0
    # A writer that waits would never come back: nobody reads until all is said.
    while passed * len(burst) < 2 * pcap.MAX_QUEUED:
        writer.add(burst, 1.0)
        lost += writer.flush()
        passed += 1
    assert 0 < lost < passed
    os.set_blocking(reader, True)
    data = b""
    while len(data) < 24 + (passed - lost) * (16 + len(burst)):
        data += os.read(reader, 1 << 20)
    assert [length for _, length, _ in records(data)] == [len(burst)] * (passed - lost)
    # It goes on with whole records.
    writer.add(b"again", 2.0)
    assert writer.flush() == 0
    assert writer.drain(5)
    assert records(bytes(24) + os.read(reader, 1000)) == [(2.0, 5, b"again")]
    writer.close()
    os.close(reader)


def test_the_end_of_a_capture_that_nobody_reads_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "live"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = PcapWriter(pcap.open_file(str(path)))
    writer.add(bytes(200000), 1.0)
    writer.flush()
    writer.close()
    os.close(reader)


def test_a_fifo_that_is_full_already_is_an_error_and_no_wait(tmp_path: Path) -> None:
    path = tmp_path / "live"
    os.mkfifo(path)
    both = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(both, bytes(4096))
    with pytest.raises(BlockingIOError):
        pcap.open_file(str(path))
    os.close(both)


def test_a_device_is_written_into_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "null"
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        os.close(os.open(path, os.O_WRONLY))
    except PermissionError:
        pytest.skip("this needs root, and a file system with devices")
    os.close(pcap.open_file(str(path)))
    assert stat.S_ISCHR(path.stat().st_mode)
